"""Files that captax wrote, or that it reads as captions, among those that are no pictures."""

import bisect
import dataclasses
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

from captax.data.folder import SIDECAR_SUFFIXES
from captax.files import CSV_HEADER, JSON_TEXT, Kind
from captax.images import names_picture

# Files beside a picture that hold its caption; JSON is what WebDataset has.
_SIDECARS = (*SIDECAR_SUFFIXES, ".xmp", ".json")
# Captions of all pictures of a folder, as `captax.data` finds them.
_TABLES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_LISTED = re.compile(r"\.(errors|review)\.jsonl$")
_LIST_OF_SIDECARS = re.compile(r"captax-[a-z]+\.(errors|review)\.jsonl")
# Files of all captions, as `captax.collection.outputs` writes them.
LINES = Kind(
    "list of captions",
    re.compile(rb'{"path": %b, "(?:error": "|caption": %b, "score": )' % (JSON_TEXT, JSON_TEXT)),
)
_KINDS = {
    ".csv": Kind("table of captions", re.compile(",".join(CSV_HEADER).encode() + rb"[,\n]")),
    ".jsonl": LINES,
}
# The end of the name of the folder in which a job keeps its journal.
JOB = ".captax"


@dataclasses.dataclass(frozen=True)
class OwnFiles:
    """Tells the files that a summary of what was left out need not name.

    They are sidecars of a picture, tables of captions, and what a job wrote: this one, whose files
    are the absolute `paths` and whose sidecars may end in another `suffix`, one whose journal is
    still there, or one that wrote a CSV or lines of JSON, which are known by how they begin.
    """

    paths: frozenset[str] = frozenset()
    suffix: str = ""

    def in_folder(self, folder: Path, name: str, names: Sequence[str]) -> bool:
        """Whether `name` is such a file of a folder, which holds the sorted `names`."""
        if self.is_caption(name, names) or _LIST_OF_SIDECARS.fullmatch(name):
            return True
        written = _LISTED.sub("", name)
        places = (os.path.abspath(folder / each) for each in (name, written))  # noqa: PTH100
        if any(each in self.paths for each in places) or (folder / f".{written}{JOB}").is_dir():
            return True
        kind = _KINDS.get((folder / name).suffix.lower())
        return kind is not None and kind.made(folder / name)

    def is_caption(self, name: str, names: Sequence[str]) -> bool:
        """Whether a file holds captions of pictures that are among the sorted `names`."""
        stem, suffix = os.path.splitext(name)  # noqa: PTH122 (a search asks this very often)
        if suffix.lower() not in (*_SIDECARS, self.suffix.lower()) or not suffix:
            return os.path.basename(name) in _TABLES  # noqa: PTH119
        at = bisect.bisect_left(names, stem)  # photo.jpg.xmp
        if names[at : at + 1] == [stem] and _captioned(stem):
            return True
        begins = f"{stem}."
        others = itertools.islice(names, bisect.bisect_left(names, begins), None)
        same = itertools.takewhile(lambda each: each.startswith(begins), others)
        return any(_captioned(each) and "." not in each[len(begins) :] for each in same)


def _captioned(name: str) -> bool:
    """Whether a file's name is that of what gets captions."""
    return names_picture(name, videos=True)
