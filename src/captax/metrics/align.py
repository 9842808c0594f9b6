"""Hypotheses beside their references: the captions of several files, image by image."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from captax.errors import plural, quoted
from captax.metrics.caption_files import CaptionFile, CaptionFileError


@dataclasses.dataclass(frozen=True)
class Aligned:
    """Captions of the same images: the input of `captax.metrics.score`.

    Attributes:
        hypotheses: image id, as in the references -> hypothesis; the first if there are several.
        references: image id -> references.
        all_hypotheses: image id -> all hypotheses.
        pictures: image id -> the picture's names in the two files, hypotheses' first.
    """

    hypotheses: dict[str, str]
    references: dict[str, list[str]]
    all_hypotheses: dict[str, list[str]]
    pictures: dict[str, tuple[str, str]]


def merge(files: Sequence[CaptionFile]) -> CaptionFile:
    """Join the captions of several files.

    Raises:
        CaptionFileError: some files have ids and others plain lines, or files of plain lines
            differ in their number of lines.
    """
    first, *others = files
    rows = {image: list(captions) for image, captions in first.rows.items()}
    for other in others:
        _check_lines(first, other)
        for image, captions in other.rows.items():
            rows.setdefault(image, []).extend(captions)
    failed = {path: why for file in files for path, why in file.failed.items()}
    return CaptionFile(", ".join(file.path for file in files), rows, first.by_line, failed)


def align(
    hypotheses: CaptionFile,
    references: CaptionFile,
    *,
    partial: bool = False,
    several: bool = False,
) -> Aligned:
    """Match hypotheses with references, in the order of the references.

    Images are matched by their ids. If the two files have no id in common, images are matched by
    the names of their pictures, without folder and suffix.

    Args:
        hypotheses: one caption for each image.
        references: one or more captions for each image.
        partial: skip images that have references but no hypothesis; without it they are an error.
        several: allow several hypotheses for an image; without it they are an error.

    Raises:
        CaptionFileError: an image has two hypotheses without `several`, no hypothesis without
            `partial`, no references, or an empty reference. The message names the image and the
            file.
    """
    _check_lines(hypotheses, references)
    for image, rows in hypotheses.rows.items():
        if len(rows) > 1 and not several:
            raise CaptionFileError(
                f"{rows[1].where}: a second caption for image {quoted(image)} (the first: "
                f"{rows[0].where}); keep one; if this file holds the references, give it second"
            )
    ids = _ids(hypotheses, references)
    said = {}
    for image, rows in hypotheses.rows.items():
        if ids[image] not in references.rows:
            raise CaptionFileError(
                f"{rows[0].where}: image {quoted(image)} has no references in {references.path}; "
                "add "
                f"references or remove the image"
            )
        said[ids[image]] = rows
    missing = [image for image in references.rows if image not in said]
    if missing and not partial:
        others = f"; {len(missing) - 1:,} more have none" if len(missing) > 1 else ""
        why = _why_failed(hypotheses, references.picture(missing[0]))
        raise CaptionFileError(
            f"{references.rows[missing[0]][0].where}: image {quoted(missing[0])} has no caption in "
            f"{hypotheses.path}{why}{others}; caption every image, or skip such images with "
            "--partial"
        )
    found = {image: rows for image, rows in references.rows.items() if image in said}
    for image, rows in found.items():
        for row in rows:
            if not row.caption:
                raise CaptionFileError(
                    f"{row.where}: image {quoted(image)} has an empty reference; fill it in or "
                    "remove it"
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


def without_other_splits(
    hypotheses: CaptionFile, references: CaptionFile, everything: Callable[[], CaptionFile]
) -> CaptionFile:
    """The hypotheses but for those of images that are in other splits.

    Args:
        hypotheses: captions of images of any split.
        references: the captions of a split.
        everything: reads the captions of all splits, which may be many; called when it is needed.
    """
    if references.rows.keys() >= set(_ids(hypotheses, references).values()):
        return hypotheses
    whole = everything()
    ids, others = _ids(hypotheses, whole), whole.rows.keys() - references.rows.keys()
    rows = {image: rows for image, rows in hypotheses.rows.items() if ids[image] not in others}
    return dataclasses.replace(hypotheses, rows=rows)


def _ids(hypotheses: CaptionFile, references: CaptionFile) -> dict[str, str]:
    """For each image of the hypotheses its id in the file of references, or an unknown one."""
    if not references.rows.keys().isdisjoint(hypotheses.rows):
        return {image: image for image in hypotheses.rows}
    known, names = _by_name(references), _by_name(hypotheses)
    return {image: known.get(name, "") for name, image in names.items()}


def _why_failed(hypotheses: CaptionFile, picture: str) -> str:
    why = {_name(path): error for path, error in hypotheses.failed.items()}
    return f" ({quoted(found)})" if (found := why.get(_name(picture))) else ""


def _name(picture: str) -> str:
    return PurePosixPath(picture.replace("\\", "/")).stem


def _by_name(file: CaptionFile) -> dict[str, str]:
    """Image ids by the names of their pictures, without folder and suffix."""
    ids: dict[str, str] = {}
    for image, rows in file.rows.items():
        name = _name(file.picture(image))
        if name in ids:
            raise CaptionFileError(
                f"{rows[0].where}: images {quoted(ids[name])} and {quoted(image)} are both named "
                f"{quoted(name)}, and "
                f"the two files have no id in common; use the same ids in both files"
            )
        ids[name] = image
    return ids


def _check_lines(first: CaptionFile, second: CaptionFile) -> None:
    if first.by_line != second.by_line:
        lines, ids = (first, second) if first.by_line else (second, first)
        raise CaptionFileError(
            f"{lines.path}: plain text is matched line by line with other plain text, but "
            f"{ids.path} has ids; use plain text for both files, or ids in both"
        )
    if first.by_line and len(first.rows) != len(second.rows):
        raise CaptionFileError(
            f"{second.path}: {plural(len(second.rows), 'line')}, but {first.path} has "
            f"{len(first.rows)}; each line must describe the same image in both files"
        )
