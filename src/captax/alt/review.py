"""Proposals for people and programs to look at: cards, records and lines."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from captax.alt.proposals import Proposal
from captax.alt.rules import RULES
from captax.errors import plural
from captax.files import JSON_TEXT, Kind
from captax.images import SheetRow

# From so many places on, a card shows where its picture is only when it is unfolded.
_FOLDED = 6
# Lines of what `record` returns.
REPORT = Kind(
    "report", re.compile(rb'{"document": %b, "line": \d+, "src": ' % JSON_TEXT), (".jsonl", ".json")
)


def record(each: Proposal) -> dict[str, Any]:
    """A proposal as JSON writes it."""
    near = vars(each.context).items()
    return {
        "document": str(each.document.path),
        "line": each.line,
        "src": each.src,
        "picture": None if each.picture is None else str(each.picture),
        "alt": each.alt or None,
        "score": each.score,
        **({} if each.confidence is None else {"confidence": each.confidence}),
        "rule": each.rule,
        "detail": each.detail or None,
        "context": {name: text for name, text in near if text or (name == "link" and text == "")},
    }


def cards(proposals: Sequence[Proposal]) -> Iterator[SheetRow]:
    """A card for each picture that was captioned, with every place that shows it."""
    shown: dict[Path, list[Proposal]] = {}
    for each in proposals:
        if each.picture is not None and each.score is not None:
            shown.setdefault(each.picture, []).append(each)
    for picture, uses in shown.items():
        yield SheetRow(
            picture,
            os.path.relpath(picture),
            uses[0].alt,
            uses[0].score,
            tuple((_place(each), None) for each in uses),
            others="Where",
            unfolded=len(uses) < _FOLDED,
            note="Not sure" if uses[0].unsure else None,
        )


def _place(each: Proposal) -> str:
    near = each.context
    parts = [f"{each.document.path}:{each.line}"]
    parts += [f"under “{near.heading}”"] if near.heading else []
    parts += [f"with the caption “{near.caption}”"] if near.caption else []
    parts += [f"titled “{near.title}”"] if near.title else []
    if near.link is not None:
        parts.append(f"in the link “{near.link}”" if near.link else "alone in a link")
    if each.rule is not None:
        parts.append(f"not proposed: {RULES[each.rule]}")
    return ", ".join(parts)


def unreadable(proposals: Sequence[Proposal]) -> list[str]:
    """A line for each picture that cannot be read, with the reason."""
    details = {each.picture: each.detail for each in proposals if each.rule == "unreadable"}
    return [f"{path}: {detail.removeprefix(f'{path}: ')}" for path, detail in details.items()]


def reasons(proposals: Sequence[Proposal]) -> Iterator[str]:
    """A line for each image that is left alone: where it is, and why."""
    for each in proposals:
        if each.rule is not None:
            detail = f" ({each.detail})" if each.detail else ""
            place = f"{each.document.path}:{each.line}: {each.src or '<img>'}"
            yield f"{place}: {RULES[each.rule]}{detail}"


def summary(proposals: Sequence[Proposal], documents: int) -> Iterator[str]:
    """How many images so many documents show, then a line for each rule that left some alone."""
    counts = Counter(each.rule for each in proposals if each.rule is not None)
    left = counts.total()
    yield (
        f"{plural(documents, 'document shows', 'documents show')} "
        f"{plural(len(proposals), 'image')}; "
        f"{plural(len(proposals) - left, 'alt text is', 'alt texts are')} proposed, "
        f"{plural(left, 'image is', 'images are')} left alone"
    )
    for rule, why in RULES.items():
        if counts[rule]:
            yield f"{counts[rule]:>7,}  {rule:<12}{why}"
