"""Facts about pictures inside the prompts of a captioner: `Taken {exif.date}[ in {iptc.city}].`

A fact is data out of a stranger's file. It is put into a prompt once, as plain text of bounded
length, in which no character is left that markers of prompt formats are made of.
"""

import dataclasses
import hashlib
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from captax.collection.item import LISTS, Item
from captax.collection.lists import COLUMNS
from captax.collection.metadata import NAMES, metadata_of
from captax.collection.record import cell
from captax.data.tables import TABLE_SUFFIXES, find_column, read_records
from captax.errors import OptionError, nearest, quoted

MOST = 500  # characters of a fact
CSV = "csv."
TAGS = "tags"  # hints, which are filled in with the facts
_FACT = re.compile(r"\{(tags|[a-z]+\.[^{}|\[\]\n]+)(?:\|([^{}\[\]]*))?\}")
_CLAUSE = re.compile(r"(\[[^\[\]]*\])")
_BRACKETS = str.maketrans("<>[]{}", "()()()")
# Joiners, which some scripts need within words.
_JOINERS = "\u200c\u200d"


def names_in(prompt: str) -> list[str]:
    """The names of the facts in a prompt, each once."""
    return list(dict.fromkeys(name for name, _ in _FACT.findall(prompt) if name != TAGS))


def filled(prompt: str, values: Mapping[str, str]) -> tuple[str, dict[str, str | None]]:
    """A prompt with the values of its facts, and those that are in it, or None where there is none.

    A fact without a value is what stands behind `|`, or else nothing. A clause in square brackets
    is left out if one of its facts has neither. Values are not looked at for further facts.
    """
    told: dict[str, str | None] = {}
    parts: list[str] = []
    lacking = False

    def value(found: re.Match[str]) -> str:
        name, other = found[1], found[2]
        if name == TAGS:
            return values.get(TAGS, found[0])
        told[name] = values.get(name) or None
        return told[name] or other or ""

    for part in _CLAUSE.split(prompt):
        facts = [(name, other) for name, other in _FACT.findall(part) if name != TAGS]
        lost = [name for name, other in facts if not (values.get(name) or other)]
        lacking |= bool(lost)
        if not (facts and part.startswith("[")):
            parts.append(_FACT.sub(value, part))
        elif lost:
            told.update(dict.fromkeys(lost))
        else:
            parts.append(_FACT.sub(value, part[1:-1]))
    text = "".join(parts)
    if lacking:
        text = re.sub(r" +(?=[.,;:!?]|\Z)", "", re.sub(r" {2,}", " ", text))
    return text, told


def plain(value: str) -> str:
    """A fact as it may stand in a prompt: one line, without control characters and brackets."""
    kept = "".join(
        each if each in _JOINERS or unicodedata.category(each)[0] != "C" else " " for each in value
    )
    return " ".join(kept.translate(_BRACKETS).split())[:MOST].rstrip()


@dataclasses.dataclass(frozen=True)
class Facts:
    """Where the facts in prompts come from: the pictures' metadata, and rows of a table.

    Attributes:
        file: the table, if there is one; without it, the rows are those of the list that names the
            pictures.
        rows: its rows, by the pictures that they name.
        digest: what its rows say, as a number that is another one if they change.
    """

    file: Path | None = None
    rows: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict, repr=False)
    digest: str = ""

    def values(self, item: Item, source: Path | bytes, names: list[str]) -> dict[str, str]:
        """The facts of those names that a picture has; `source` is its file or its bytes."""
        told: dict[str, str] = {}
        if any(not name.startswith(CSV) for name in names):
            told |= metadata_of(source, item.path)
        row = item.columns if self.file is None else self._row(item)
        told |= {f"{CSV}{column}": cell(value) for column, value in row.items()}
        return {name: text for name in names if (text := plain(told.get(name, "")))}

    def _row(self, item: Item) -> Mapping[str, Any]:
        path = item.path
        names = [item.name, str(item.place), *([] if path is None else [_absolute(path)])]
        names += [_end(names[-1]), PurePosixPath(item.place).name]
        return next((self.rows[name] for name in names if name in self.rows), {})


def facts_for(prompt: str, file: Path | None, sources: tuple[str, ...]) -> Facts | None:
    """Where the facts of a prompt come from; None if it has none.

    `file` is a table with a row for each picture. It names a picture by a path, of which the last
    folder and the file's name are enough if only one row has both, or by the file's name alone.
    Raises `OptionError` for names that are not known, and `CaptaxError` for a table that cannot be
    read.
    """
    names = names_in(prompt)
    columns = [name for name in names if name.startswith(CSV)]
    for name in names:
        if name not in NAMES and name not in columns:
            known = [*NAMES, f"{CSV}COLUMN"]
            hint = nearest(name, known)
            raise OptionError(
                f"the prompt has {{{name}}}, and there is no such fact{hint}"
                + ("" if "known" in hint else f"; there are: {', '.join(known)}")
            )
    if file is None:
        if columns and not any(each.lower().endswith(LISTS) for each in sources):
            raise OptionError(f"the prompt has {{{columns[0]}}}; add --facts FILE.csv")
        return Facts() if names else None
    if not columns:
        raise OptionError("--facts only applies to prompts with {csv.COLUMN}; add one to --prompt")
    if file.suffix.lower() not in TABLE_SUFFIXES:
        raise OptionError(f"{file}: is no table; use one of {', '.join(TABLE_SUFFIXES)}")
    rows, known = _rows_of(file)
    if not rows:
        raise OptionError(f"{file}: has no rows; write one for each picture")
    wanted = [name.removeprefix(CSV) for name in columns]
    for name in wanted:
        if name not in known:
            raise OptionError(f"{file}: has no column {quoted(name)}{nearest(name, known)}")
    said = [[picture, *(cell(row.get(name)) for name in wanted)] for picture, row in rows.items()]
    digest = hashlib.blake2b(json.dumps(said).encode(), digest_size=8).hexdigest()
    return Facts(file, _by_names(file, rows), digest)


def _rows_of(file: Path) -> tuple[dict[str, Mapping[str, Any]], list[str]]:
    """The rows of a table by the pictures that it names, and the columns."""
    rows: dict[str, Mapping[str, Any]] = {}
    known: dict[str, None] = {}
    for where, record in read_records(file):
        known |= dict.fromkeys(record)
        picture = cell(record[find_column(where, list(record), COLUMNS)]).strip()
        if not picture:
            raise OptionError(f"{where}: names no picture; fill in the path, or delete the row")
        if picture in rows:
            raise OptionError(f"{where}: {quoted(picture)} has a row already; remove one")
        rows[picture] = record
    return rows, list(known)


def _by_names(file: Path, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Rows by all the names that their pictures may have."""
    local = {name: row for name, row in rows.items() if "://" not in name}
    beside = {_absolute(file.parent / name): row for name, row in local.items()}
    # A table may have been written where the folders lie elsewhere.
    ends = Counter(map(_end, local))
    alone = {_end(name): row for name, row in local.items() if ends[_end(name)] == 1}
    return {**alone, **beside, **rows}


def _end(path: str) -> str:
    """The last folder of a path and the name of the file; only the name if there is no folder."""
    return "/".join(PurePosixPath(path.replace("\\", "/")).parts[-2:])


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 (`resolve` follows links)
