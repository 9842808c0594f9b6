"""COCO's caption annotations, and Karpathy's files, whose splits papers report on."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from captax.data.example import (
    DataError,
    Example,
    ListedCaption,
    gather,
    keeps_empty,
    make_examples,
    read_text,
    refuse,
    refuse_long,
    refuse_repeats,
    refuses,
)
from captax.data.faults import Kind
from captax.data.splits import choose_split, refuse_absent, split_in, split_name
from captax.errors import quoted
from captax.files import is_file, parse_json

KARPATHY = ("dataset_coco.json", "dataset_flickr8k.json", "dataset_flickr30k.json")
ANNOTATIONS = ("annotations/captions*.json", "captions*.json", "annotations/*.json")


@dataclasses.dataclass(frozen=True)
class Part:
    """The pictures of an annotation file in one split; it is None if the file lists no splits."""

    split: str | None
    names: Mapping[str, str]
    captions: Mapping[str, list[str]]


def find_karpathy(root: Path) -> Path | None:
    """Karpathy's file, or None if it does not exist."""
    places = (root / directory / name for directory in (".", "annotations") for name in KARPATHY)
    return next((path for path in places if path.is_file()), None)


def find_annotations(root: Path) -> list[Path]:
    """The caption files of a COCO directory; the list is empty if `root` is not one."""
    return next((found for pattern in ANNOTATIONS if (found := sorted(root.glob(pattern)))), [])


def read_annotations(
    paths: list[Path], *, split: str | None = None, images: Path | None = None
) -> list[Example]:
    """COCO caption files, or Karpathy's; ids are the image ids.

    A file named for a split (`captions_val2017.json`) is that split, and Karpathy's says the split
    of each picture; other files are split by hashing.

    Args:
        paths: the annotation files.
        split: `train`, `dev` or `test`; all for `None`.
        images: the directory of the pictures; looked for beside the file when not given.

    Raises:
        DataError: a file has neither format, an image has no captions, captions have no image, a
            picture does not exist, or no file has the split.
    """
    found: list[Example] = []
    there: set[str] = set()
    for path in paths:
        named = split_in(path.stem)
        if split is not None and named not in (None, split):
            there.add(str(named))
            continue  # COCO's training file takes seconds to read
        for part in _parts(path, named):
            there |= {part.split} if part.split else {"train", "dev"}
            if split is None or part.split == split:
                found += _examples(path, part, images)
            elif part.split is None:
                found += choose_split(_examples(path, part, images), split, where=path)
    files = ", ".join(map(str, paths))
    refuse_absent(split, there, files)
    _refuse_repeats(files, (example.id for example in found))
    return found


def _parts(path: Path, named: str | None) -> list[Part]:
    try:
        content = parse_json(read_text(path))
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); fetch it again") from error
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise DataError(f"{path}: no list 'images'; give COCO's or Karpathy's caption file")
    karpathy = "annotations" not in content and any(
        isinstance(image, dict) and "sentences" in image for image in content["images"]
    )
    return _karpathy(path, content) if karpathy else [_coco(path, content, named)]


def _coco(path: Path, content: dict[str, Any], named: str | None) -> Part:
    if not isinstance(content.get("annotations"), list):
        raise DataError(
            f"{path}: no list 'annotations'; give a COCO caption file, which holds captions there"
        )
    try:
        ids = [_id(image["id"]) for image in content["images"]]
        names = {
            id: _string(image["file_name"])
            for id, image in zip(ids, content["images"], strict=True)
        }
        rows = [
            ListedCaption(
                _id(note["image_id"]), _string(note["caption"]), f"{path}, annotations[{index}]"
            )
            for index, note in enumerate(content["annotations"])
        ]
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path}: an entry lacks {error}; images have id and file_name, annotations have "
            f"image_id and caption"
        ) from error
    captions = gather(rows)
    _refuse_repeats(path, ids)
    refuse(
        [f"image {id}" for id in captions if id not in names],
        path,
        "has captions but is not in 'images'; add it or remove them",
        Kind.unpictured,
    )
    _refuse_uncaptioned(path, names, captions)
    return Part(named, names, captions)


def _karpathy(path: Path, content: dict[str, Any]) -> list[Part]:
    names: dict[str, dict[str, str]] = {}
    captions: dict[str, list[str]] = {}
    ids: list[str] = []
    try:
        for image in content["images"]:
            name = _string(image["filename"])
            id = _id(image["cocoid"]) if "cocoid" in image else Path(name).stem
            ids.append(id)
            texts = [_string(sentence["raw"]).strip() for sentence in image["sentences"]]
            for text in texts:
                refuse_long(text, f"{path}, image {id}")
            captions[id] = [text for text in texts if text or keeps_empty()]
            split = names.setdefault(split_name(_string(image["split"])), {})
            split[id] = (Path(_string(image.get("filepath", ""))) / name).as_posix()
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path}: an image lacks {error}; each has filename, split and sentences"
        ) from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    _refuse_repeats(path, ids)
    _refuse_uncaptioned(path, captions, {id: texts for id, texts in captions.items() if texts})
    return [Part(split, part, captions) for split, part in names.items()]


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a string where it has {quoted(value)}")
    return value


def _id(value: object) -> str:
    """The id of an image, which files write as a number or a string."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError(f"a number or a string as id where it has {quoted(value)}")
    return str(value)


def _refuse_repeats(where: object, ids: Iterable[str]) -> None:
    refuse_repeats((f"image {id}" for id in ids), where, "comes twice; remove one")


def _refuse_uncaptioned(
    path: Path, ids: Mapping[str, object], captions: Mapping[str, object]
) -> None:
    if refuses():
        refuse(
            [f"image {id}" for id in ids if id not in captions],
            path,
            "has no captions; add them or remove it from 'images'",
        )


def _examples(path: Path, part: Part, images: Path | None) -> list[Example]:
    root = path.parent.parent if path.parent.name == "annotations" else path.parent
    directory = images or _image_directory(root, path, next(iter(part.names.values()), ""))
    return make_examples(
        {id: part.captions.get(id, []) for id in part.names},
        {id: directory / name for id, name in part.names.items()},
        listed_in=path,
        source=root.resolve().name,
    )


def _image_directory(root: Path, path: Path, first: str) -> Path:
    release = path.stem.rpartition("_")[2]  # val2017
    candidates = ("images", release, f"images/{release}", "Images", ".", f"../{release}")
    for candidate in candidates:
        if is_file(root / candidate / first):
            return root / candidate
    # The first picture may be the one that is missing.
    for candidate in candidates[:4]:
        if (root / candidate).is_dir():
            return root / candidate
    raise DataError(
        f"{path}: no directory of its pictures was found; give it, or put {first} in one of "
        f"{', '.join(candidates)} of {root}"
    )
