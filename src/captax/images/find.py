"""Which pictures a list of files, folders and patterns stands for."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from captax.images.decode import ImageError

# HEIC cannot be read, but it is named here: `decode` then says so, where a folder search that
# passed it over would leave pictures out without a word.
_READABLE = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp", ".tif"}
_READABLE |= {".tiff", ".avif", ".ppm", ".pgm", ".pbm"}
IMAGE_SUFFIXES = frozenset(_READABLE | {".heic", ".heif"})


class UnusableImage(ImageError):
    """A `path` that a search finds and cannot use, and the `reason`."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


def is_image_path(path: str | os.PathLike[str]) -> bool:
    """Whether the name of `path` ends like a picture's; the file is not looked at."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def find_images(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The pictures that `paths` mean, in the order given, each once.

    A file is taken as it is, whatever its suffix. A folder is searched with its subfolders, links
    to folders included: files with an image suffix, sorted, hidden ones left out. Anything else is
    a pattern (`*`, `?`, `[..]`, `**`), and means what the shell would have made of it. A picture
    that does not exist is taken where others are given: `decode` then says so of it alone.
    Raises `ImageError` for any other path that means no picture.
    """
    if isinstance(paths, str | os.PathLike):
        raise ImageError(f"{os.fspath(paths)}: give a list of paths, not one path")
    found: dict[str, Path] = {}
    for path in paths:
        if not os.fspath(path):
            raise ImageError("an empty path was given: give a file, a folder or a pattern")
        try:
            named = Path(path)
            one = is_image_path(named) and not glob.has_magic(str(named))
            absent = one and len(paths) > 1 and not named.exists()
            images = [named] if absent else _matches(named)
        except OSError as error:
            raise ImageError(f"{path}: cannot be looked at: {error.strerror or error}") from None
        for image in images:
            # Links are kept apart: two names are two pictures to whoever reads the result.
            found.setdefault(os.path.abspath(image), image)  # noqa: PTH100
    return list(found.values())


def walk_images(folder: str | os.PathLike[str]) -> Iterator[Path | UnusableImage]:
    """The pictures in a folder and its subfolders, as `find_images` finds them, one at a time.

    In the place of what has a picture's name and is no file (a pipe would never end), and of a
    subfolder that cannot be looked into, comes an `UnusableImage` that says so.
    """
    top = Path(folder)
    seen: set[tuple[int, int]] = set()
    waiting: list[Iterator[tuple[Path, bool]]] = [iter([(top, True)])]
    while waiting:
        path, is_folder = next(waiting[-1], (None, False))
        if path is None:
            waiting.pop()
        elif is_folder:
            try:
                status = path.stat()
                if (status.st_dev, status.st_ino) not in seen:  # a link back up, or a second way in
                    seen.add((status.st_dev, status.st_ino))
                    waiting.append(_entries(path))
            except OSError as error:
                reason = f"this folder cannot be looked into: {error.strerror or error}"
                yield UnusableImage(path, reason)
        elif os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113
            yield UnusableImage(path, "is not a regular file, so it cannot be a picture")
        else:
            yield path


def _entries(folder: Path) -> Iterator[tuple[Path, bool]]:
    """What a search looks at in a folder, sorted: pictures and, with True, folders."""
    with os.scandir(folder) as entries:
        named = [
            (each.name, is_folder)
            for each in entries
            if each.name[0] != "." and ((is_folder := _is_folder(each)) or is_image_path(each.name))
        ]
    # The paths of a large folder would take several times the memory of its names.
    return ((folder / name, is_folder) for name, is_folder in sorted(named))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _matches(path: Path) -> list[Path]:
    if path.is_dir():
        images = _search(path)
        if not images:
            raise ImageError(f"{path}: no pictures in this folder (looked for .jpg, .png, …)")
        return images
    if path.exists():
        return [path]
    if not glob.has_magic(str(path)):
        raise ImageError(f"{path}: no such file or folder")
    images = []
    for match in sorted(map(Path, glob.glob(str(path), recursive=True))):  # noqa: PTH207
        images += _search(match) if match.is_dir() else [match]
    if not images:
        raise ImageError(f"{path}: this pattern matches no picture")
    return images


def _search(folder: Path) -> list[Path]:
    images = []
    for image in walk_images(folder):
        if isinstance(image, UnusableImage):
            raise image
        images.append(image)
    return images
