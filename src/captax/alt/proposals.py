"""From a site to proposals: which images it shows, and which of them get an alt text."""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import NamedTuple

from captax.alt.found import Context, ImageUse
from captax.alt.rules import Left, look_at, picture_of
from captax.alt.site import (
    Document,
    DocumentError,
    Edit,
    absolute,
    find_documents,
    read_document,
)
from captax.alt.templates import MASK
from captax.alt.wording import LIMIT, alt_text
from captax.text import graphic_in


@dataclasses.dataclass(frozen=True)
class Proposal:
    """An image of a document, with its proposed alt text or the reason why it has none.

    Attributes:
        document: the document that shows it.
        use: the image in the document.
        picture: the file it shows; `None` if it was left alone before that was known.
        alt: its alt text, which `rule` may keep out of the document.
        score: the caption's score.
        confidence: the confidence in the caption, if the checkpoint has a calibration.
        unsure: whether it is below the checkpoint's threshold.
        rule: the rule, one of `RULES`, that leaves it alone; `None` if it gets its alt text.
        detail: details of the reason.
    """

    document: Document
    use: ImageUse
    picture: Path | None = None
    alt: str = ""
    score: float | None = None
    rule: str | None = None
    detail: str = ""
    confidence: float | None = None
    unsure: bool = False

    @property
    def line(self) -> int:
        """The line of the document, from 1."""
        return self.document.line_of(self.use)

    @property
    def src(self) -> str:
        """The image's address as the document says it, "{…}" for a template expression."""
        return re.sub(f"{MASK}+", "{…}", self.use.src)

    @property
    def context(self) -> Context:
        """What a reader finds near the image."""
        return self.use.context

    @property
    def edit(self) -> Edit | None:
        """The edit that gives the image its alt text; `None` if it is left alone."""
        return None if self.rule is not None else self.document.edit(self.use, self.alt)


class Said(NamedTuple):
    """A caption with its score and, if the checkpoint has a calibration, its confidence.

    It is `unsure` if the confidence is below the checkpoint's threshold.
    """

    text: str
    score: float
    confidence: float | None = None
    unsure: bool = False


# The captioner's answer for a picture: a caption, or a pair of its text and score, or an error.
Answer = Said | tuple[str, float] | Exception


@dataclasses.dataclass(frozen=True)
class Survey:
    """The images of a site, as `Proposal`s without texts, and why documents could not be read."""

    found: list[Proposal]
    documents: int
    errors: list[DocumentError]

    @property
    def pictures(self) -> list[Path]:
        """The pictures that need a caption, each once, in the order they are shown."""
        wanted = (each.picture for each in self.found if each.rule is None)
        return list(dict.fromkeys(path for path in wanted if path is not None))


def survey(
    sites: Sequence[str | os.PathLike[str]],
    *,
    root: str | os.PathLike[str] | None = None,
    waived: Set[str] = frozenset(),
    follow_links: bool = False,
) -> Survey:
    """Find the images of `sites`, files or folders, and which of them the rules leave alone.

    `root` is the folder in which addresses such as "/img/x.png" begin; no picture outside of it is
    used. The default is the site's folder, or for a file the current folder if that holds it. Rules
    in `waived` are not checked. Documents that links lead to from outside of their site can be
    written only with `follow_links`. Raises `DocumentError` for a site that does not
    exist or holds no document.
    """
    found: list[Proposal] = []
    errors: list[DocumentError] = []
    seen: set[Path] = set()
    looks: dict[Path, Left | None] = {}
    for site in map(Path, sites):
        paths = list(find_documents(site))
        if not paths:
            raise DocumentError(
                f"{site}: this folder holds no HTML, Markdown, notebook or .rst file; give another"
            )
        for path in paths:
            if (place := absolute(path)) in seen:
                continue
            seen.add(place)
            try:
                document = read_document(
                    path, inside=site if site.is_dir() and not follow_links else None
                )
                base = _root(site, None if root is None else Path(root), place)
                found += [
                    _look(document, use, place, base, waived, looks) for use in document.images
                ]
            except DocumentError as error:
                errors.append(error)
    return Survey(found, len(seen), errors)


def _root(site: Path, root: Path | None, document: Path) -> Path:
    here = Path.cwd()
    default = site if site.is_dir() else here if document.is_relative_to(here) else site.parent
    base = absolute(root or default)
    if not document.is_relative_to(base):
        raise DocumentError(
            f"{document}: is not in the folder that --root names, {base}; give one that holds it"
        )
    return base


def _look(
    document: Document,
    use: ImageUse,
    path: Path,
    root: Path,
    waived: Set[str],
    looks: dict[Path, Left | None],
) -> Proposal:
    picture = None
    try:
        picture = picture_of(use, path, root, waived)
        if picture not in looks:
            looks[picture] = None
            try:
                look_at(picture, waived)
            except Left as left:
                looks[picture] = left
        if (known := looks[picture]) is not None:
            raise known
    except Left as left:
        return Proposal(document, use, picture, rule=left.rule, detail=str(left))
    return Proposal(document, use, picture)


def propose(
    found: Sequence[Proposal],
    captions: Mapping[Path, Answer],
    *,
    min_score: float | None = None,
    sure_only: bool = False,
    waived: Set[str] = frozenset(),
    limit: int = LIMIT,
) -> list[Proposal]:
    """`found` with alt texts from `captions`: a caption or an error, by picture.

    Alt texts have at most `limit` characters. One is kept out of the document if its caption scored
    below `min_score`, or is unsure and `sure_only` is set, if it says that the picture is a graphic
    and that rule is not `waived`, or if it would repeat what a reader finds near the image.
    """
    return [_word(each, captions, min_score, sure_only, waived, limit) for each in found]


def _word(
    each: Proposal,
    captions: Mapping[Path, Answer],
    min_score: float | None,
    sure_only: bool,
    waived: Set[str],
    limit: int,
) -> Proposal:
    if each.rule is not None or each.picture is None:
        return each
    caption = captions[each.picture]
    if isinstance(caption, Exception):
        return dataclasses.replace(each, rule="unreadable", detail=str(caption))
    said = Said(*caption)
    score, confidence = said.score, said.confidence
    alt = alt_text(said.text, limit)
    rule, detail = None, ""
    if not alt:
        rule, detail = "wordless", said.text
    elif "graphic" not in waived and (kind := graphic_in(said.text)) is not None:
        rule, detail = "graphic", f"{kind}, says its caption"
    elif min_score is not None and score < min_score:
        rule, detail = "low-score", f"{score:.2f}"
    elif sure_only and said.unsure:
        rule, detail = "low-score", f"confidence {confidence:.2f}"
    elif each.context.repeats(alt):
        rule = "repeats"
    return dataclasses.replace(
        each,
        alt=alt,
        score=score,
        rule=rule,
        detail=detail,
        confidence=confidence,
        unsure=said.unsure,
    )
