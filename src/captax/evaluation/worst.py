"""The worst captions of a scored set as a web page, with their pictures and references."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from captax.errors import CaptaxError, plural, quoted
from captax.files import is_file
from captax.images import SheetRow, find_images, write_sheet
from captax.metrics import LOWER_IS_BETTER, Scores


def write_worst(
    path: str | os.PathLike[str],
    scores: Scores,
    hypotheses: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    pictures: Mapping[str, Path],
    *,
    by: str,
    count: int,
) -> None:
    """Write the `count` worst images by the metric `by` as an HTML page, the worst first.

    An image that is not in `pictures` gets a card without a picture.

    Raises:
        CaptaxError: the metric was not computed for single images.
        OutputError: the file cannot be written.
    """
    known = next(iter(scores.per_image.values()))
    if by not in known:
        there = ", ".join(known) or "none"
        raise CaptaxError(
            f"no metric {quoted(by)} was computed for single images (computed: {there}); choose "
            "another"
        )
    sign = -1 if by in LOWER_IS_BETTER else 1
    order = sorted(scores.per_image, key=lambda image: sign * scores.per_image[image][by])
    rows = (
        SheetRow(
            pictures.get(image),
            image,
            hypotheses[image] or "(an empty caption)",
            100 * scores.per_image[image][by],
            tuple((text, None) for text in references[image]),
            score_name=by,
            others="References",
            unfolded=True,
            error=None if image in pictures else "no picture of this name was found",
        )
        for image in order[:count]
    )
    worst = min(count, len(order))
    several = f"{worst:,} " if worst > 1 else ""
    title = f"The {several}worst of {plural(len(order), 'caption')} by {by}"
    write_sheet(path, rows, title=title)


def find_pictures(
    names: Mapping[str, Sequence[str]], folder: Path | None = None
) -> dict[str, Path]:
    """Find the pictures of images.

    A name is first tried as a path, in `folder` and by itself. If there is no such file, the folder
    is searched for a picture of that name with any suffix. For a number, it is also searched for a
    picture whose name ends with the number as COCO's do (`COCO_val2014_000000000042.jpg`).

    Args:
        names: image id -> names that its file may have.
        folder: the folder of the pictures.

    Returns:
        Image id -> path; images without a picture are left out.

    Raises:
        ImageError: there is no such folder, or it has no picture.
    """
    by_name: dict[str, Path] = {}
    for path in find_images([folder]) if folder is not None else []:
        number = path.stem.rpartition("_")[2]
        if number.isdecimal():
            by_name.setdefault(str(int(number)), path)
        by_name.setdefault(path.stem, path)
        by_name.setdefault(path.name, path)
    found = {}
    for image, candidates in names.items():
        for name in map(Path, candidates):
            places = [name] if folder is None else [folder / name, name]
            here = [place for place in places if is_file(place)]
            here += [by_name[each] for each in (name.name, name.stem) if each in by_name]
            if here:
                found[image] = here[0]
                break
    return found
