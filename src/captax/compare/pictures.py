"""The pictures that captioners are compared on, and which of them a file's captions are of."""

import dataclasses
import itertools
import os
from collections import Counter
from collections.abc import Callable, Container, Sequence
from pathlib import Path, PurePosixPath

from captax import data
from captax.collection.item import Item, place_of
from captax.collection.items import find_items
from captax.data.example import DataError
from captax.data.sources import UnknownLayout
from captax.errors import CaptaxError, plural, quoted
from captax.metrics.caption_files import CaptionFile, Row


@dataclasses.dataclass(frozen=True)
class ComparedPicture:
    """A picture, its id in its dataset or else its name, and its reference captions."""

    id: str
    item: Item
    references: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its path within the folder, or its id."""
        return self.item.name


def open_pictures(
    folder: str,
    *,
    split: str | None = None,
    limit: int | None = None,
    references: bool = True,
    left_out: Counter[str] | None = None,
) -> list[ComparedPicture]:
    """The pictures of a dataset of any layout, or those of a folder, an archive or a list.

    Args:
        folder: where they are.
        split: train, dev or test, of a dataset.
        limit: the number of pictures, the first, if not all.
        references: whether to look for a dataset, which has captions; else there are only pictures.
        left_out: where files of a folder that are no pictures are counted, by suffix.

    Raises:
        CaptaxError: there are no pictures, or a dataset is broken.
    """
    root = Path(folder)
    if references:
        try:
            examples = data.open(folder, split=split)[:limit]
        except UnknownLayout:
            pass  # pictures without captions
        except DataError as error:
            raise CaptaxError(
                f"{error}; or compare without references: add --no-references"
            ) from None
        else:
            return [
                ComparedPicture(
                    each.id,
                    Item(_within(each.unread, root, each.id), each.unread, _place(each.id)),
                    each.captions,
                )
                for each in examples
            ]
    if split is not None:
        raise CaptaxError(f"{folder}: has no splits, for it has no captions; leave out --split")
    found = itertools.islice(find_items([folder], left_out), limit)
    named = [dataclasses.replace(each, name=_within(each.path, root, each.name)) for each in found]
    return [ComparedPicture(each.name, each) for each in named]


def _place(id: str) -> PurePosixPath:
    return place_of(PurePosixPath(id))


def _within(image: object, root: Path, otherwise: str) -> str:
    if isinstance(image, Path) and image.is_relative_to(root) and image != root:
        return str(image.relative_to(root))
    return otherwise


def match_captions(
    file: CaptionFile, pictures: Sequence[ComparedPicture], folder: str
) -> tuple[dict[str, str], dict[str, str], int]:
    """The captions of a file by the names of the pictures, the reasons why others have none, and
    how many of its captions are of other pictures.

    Pictures are matched by whichever of these finds the most: their ids, their names, their paths,
    the names of their files, and these without suffixes. Plain lines are matched in order.

    Raises:
        CaptaxError: none is of a picture, some are of two, or the number of lines is another.
    """
    if file.by_line:
        if len(file.rows) != len(pictures):
            raise CaptaxError(
                f"{file.path}: has {plural(len(file.rows), 'line')} of plain text for "
                f"{plural(len(pictures), 'picture')} in {folder}; give a line for each picture in "
                "order, or a file that names them"
            )
        lines = zip(pictures, file.rows.values(), strict=True)
        return {picture.name: rows[0].caption for picture, rows in lines}, {}, 0
    keys: tuple[Callable[[str], str], ...] = (
        lambda name: name,
        os.path.abspath,
        lambda name: PurePosixPath(name.replace("\\", "/")).name,
        lambda name: PurePosixPath(name.replace("\\", "/")).stem,
    )
    best: dict[str, ComparedPicture] = {}
    key, known = keys[0], best
    for each in keys:
        there: dict[str, ComparedPicture | None] = {}
        for picture in pictures:
            path = [str(picture.item.path)] if picture.item.path is not None else []
            for name in {each(name) for name in (picture.id, picture.name, *path)}:
                # What two pictures are called says nothing.
                there[name] = picture if there.get(name, picture) is picture else None
        sure = {name: picture for name, picture in there.items() if picture is not None}
        found = {i: sure[n] for i, rows in file.rows.items() if (n := _called(each, rows, sure))}
        if len(found) > len(best):
            best, key, known = found, each, sure
    if not best:
        row = next(iter(file.rows.values()))[0]
        raise CaptaxError(
            f"{file.path}: none of its captions is of a picture in {folder}; it names, for "
            f"example, {quoted(row.picture or row.image)}, and there is {quoted(pictures[0].name)}"
        )
    captions: dict[str, str] = {}
    for image, picture in best.items():
        if picture.name in captions:
            raise CaptaxError(
                f"{file.rows[image][0].where}: a second caption of {picture.name}; keep one"
            )
        captions[picture.name] = file.rows[image][0].caption
    failed = {known[key(path)].name: why for path, why in file.failed.items() if key(path) in known}
    return captions, failed, len(file.rows) - len(best)


def _called(key: Callable[[str], str], rows: Sequence[Row], known: Container[str]) -> str:
    """By what name the picture of these rows is known, if it is."""
    names = (key(each) for each in (rows[0].image, rows[0].picture) if each)
    return next((name for name in names if name in known), "")
