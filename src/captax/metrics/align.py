"""Hypotheses beside their references: the captions of several files, image by image."""

import dataclasses
from collections.abc import Sequence
from pathlib import PurePosixPath

from captax.metrics.caption_files import CaptionFile, CaptionFileError


@dataclasses.dataclass(frozen=True)
class Aligned:
    """Captions of the same images, by the references' ids: what `captax.metrics.score` takes.

    Attributes:
        hypotheses: each image's hypothesis, the first where it has several.
        references: each image's references.
        all_hypotheses: each image's hypotheses.
        pictures: the names by which the hypotheses' file and the references' call the picture.
    """

    hypotheses: dict[str, str]
    references: dict[str, list[str]]
    all_hypotheses: dict[str, list[str]]
    pictures: dict[str, tuple[str, str]]


def merge(files: Sequence[CaptionFile]) -> CaptionFile:
    """The captions of several files together.

    Raises:
        CaptionFileError: some have ids and others lines, or another number of lines.
    """
    first, *others = files
    rows = {image: list(captions) for image, captions in first.rows.items()}
    for other in others:
        _check_lines(first, other)
        for image, captions in other.rows.items():
            rows.setdefault(image, []).extend(captions)
    return CaptionFile(", ".join(file.path for file in files), rows, first.by_line)


def align(
    hypotheses: CaptionFile,
    references: CaptionFile,
    *,
    partial: bool = False,
    several: bool = False,
) -> Aligned:
    """A hypothesis beside its references, image by image, in the order of the references.

    Images are the same that have the same id. Where not one id of the hypotheses is among the
    references', they are matched by their pictures' names, without folder and suffix.

    Args:
        hypotheses: one caption an image.
        references: one or more an image.
        partial: leave out images that have references but no hypothesis, else an error.
        several: take several hypotheses an image, else an error.

    Raises:
        CaptionFileError: an image has two hypotheses without `several`, no hypothesis without
            `partial`, no references or an empty one. The message names it and its file.
    """
    _check_lines(hypotheses, references)
    for image, rows in hypotheses.rows.items():
        if len(rows) > 1 and not several:
            raise CaptionFileError(
                f"{rows[1].where}: a second hypothesis for image {image!r} (the first: "
                f"{rows[0].where}); keep one, or, if these are the references, give them second"
            )
    # The id that the references' file has for each image of the hypotheses.
    known = {image: image for image in references.rows}
    ids = {image: image for image in hypotheses.rows}
    if known.keys().isdisjoint(ids):
        known, names = _by_name(references), _by_name(hypotheses)
        ids = {image: known.get(name, "") for name, image in names.items()}
    said = {}
    for image, rows in hypotheses.rows.items():
        if ids[image] not in references.rows:
            raise CaptionFileError(
                f"{rows[0].where}: image {image!r} has no references in {references.path}; add "
                f"them or leave it out"
            )
        said[ids[image]] = rows
    missing = [image for image in references.rows if image not in said]
    if missing and not partial:
        others = f" (nor have {len(missing) - 1:,} others)" if len(missing) > 1 else ""
        raise CaptionFileError(
            f"{references.rows[missing[0]][0].where}: image {missing[0]!r} has no hypothesis in "
            f"{hypotheses.path}{others}; caption it, or leave such images out with --partial"
        )
    found = {image: rows for image, rows in references.rows.items() if image in said}
    for image, rows in found.items():
        for row in rows:
            if not row.caption:
                raise CaptionFileError(
                    f"{row.where}: image {image!r} has an empty reference; write it or drop it"
                )
    return Aligned(
        hypotheses={image: said[image][0].caption for image in found},
        references={image: [row.caption for row in rows] for image, rows in found.items()},
        all_hypotheses={image: [row.caption for row in said[image]] for image in found},
        pictures={
            image: (said[image][0].picture or said[image][0].image, references.picture(image))
            for image in found
        },
    )


def _by_name(file: CaptionFile) -> dict[str, str]:
    """Image ids by their pictures' names without folder and suffix."""
    ids: dict[str, str] = {}
    for image, rows in file.rows.items():
        name = PurePosixPath(file.picture(image).replace("\\", "/")).stem
        if name in ids:
            raise CaptionFileError(
                f"{rows[0].where}: images {ids[name]!r} and {image!r} are both named {name!r}, and "
                f"no id is in both files; give both files the same ids"
            )
        ids[name] = image
    return ids


def _check_lines(first: CaptionFile, second: CaptionFile) -> None:
    if first.by_line != second.by_line:
        lines, ids = (first, second) if first.by_line else (second, first)
        raise CaptionFileError(
            f"{lines.path}: plain text, which goes with other plain text line for line, but "
            f"{ids.path} has ids; give two of a kind"
        )
    if first.by_line and len(first.rows) != len(second.rows):
        raise CaptionFileError(
            f"{second.path}: {len(second.rows)} lines where {first.path} has {len(first.rows)}; "
            f"line by line they must be of the same images"
        )
