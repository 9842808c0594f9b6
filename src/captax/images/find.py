"""Which pictures a list of files, folders and patterns stands for."""

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from captax.files import absent, open_regular
from captax.images.decode import ImageError
from captax.images.kinds import (
    HEADER,
    begins_like_picture,
    is_image_path,
    names_picture,
    names_video,
    suffix_told,
)


class UnusableImage(ImageError):
    """A `path` that a search finds and cannot use, and the `reason`."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


def find_images(paths: Sequence[str | os.PathLike[str]], *, readable: bool = False) -> list[Path]:
    """The pictures that `paths` mean, in the order given, each once.

    A file is taken as it is, whatever its suffix. A folder is searched with its subfolders, links
    to folders included: files that have a picture's name or begin like one, sorted, hidden ones
    left out; with `readable`, only those with the name of a picture that captax reads. Anything
    else is a pattern (`*`, `?`, `[..]`, `**`), and means what the shell would have made of it. A
    picture that does not exist is taken where others are given: `decode` then says so of it alone.
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
            one = names_picture(named) and not glob.has_magic(str(named))
            missing = one and len(paths) > 1 and not named.exists()
            images = [named] if missing else _matches(named, readable)
        except OSError as error:
            raise ImageError(f"{path}: cannot be looked at: {error.strerror or error}") from None
        for image in images:
            # Links are kept apart: two names are two pictures to whoever reads the result.
            found.setdefault(os.path.abspath(image), image)  # noqa: PTH100
    return list(found.values())


def walk_images(
    folder: str | os.PathLike[str],
    left_out: Counter[str] | None = None,
    *,
    readable: bool = False,
    videos: bool = False,
    own: Callable[[Path, str, Sequence[str]], bool] = lambda folder, name, names: False,
) -> Iterator[Path | UnusableImage]:
    """The pictures in a folder and its subfolders, as `find_images` finds them, one at a time.

    With `videos`, what has a video's name is one of them.

    Files that are no pictures are counted in `left_out`, by suffix, except those that `own` knows:
    it is given a file's folder and name, and the sorted names of that folder.

    In the place of what has a picture's name and is no file (a pipe would never end), and of a
    subfolder that cannot be looked into, comes an `UnusableImage` that says so.
    """
    seen: set[tuple[int, int]] = set()
    waiting: list[Iterator[tuple[Path, str, bool, Sequence[str]]]]
    waiting = [iter([(Path(folder), "", True, ())])]
    while waiting:
        parent, name, is_folder, names = next(waiting[-1], (None, "", False, ()))
        if parent is None:
            waiting.pop()
        elif not (
            is_folder or (videos and names_video(name)) or _is_picture(parent, name, readable)
        ):
            if left_out is not None and not own(parent, name, names):
                left_out[suffix_told(name)] += 1
        elif is_folder:
            path = parent / name
            try:
                status = path.stat()
                if (status.st_dev, status.st_ino) not in seen:  # a link back up, or a second way in
                    seen.add((status.st_dev, status.st_ino))
                    waiting.append(_entries(path))
            except OSError as error:
                reason = f"this folder cannot be looked into: {error.strerror or error}"
                yield UnusableImage(path, reason)
        else:
            path = parent / name
            if os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113
                yield UnusableImage(path, "is not a regular file, so it cannot be a picture")
            else:
                yield path


def _entries(folder: Path) -> Iterator[tuple[Path, str, bool, Sequence[str]]]:
    """What a search looks at in a folder, sorted by name: files and, with True, folders.

    With each come all the names.
    """
    with os.scandir(folder) as entries:
        named = [(each.name, _is_folder(each)) for each in entries if each.name[0] != "."]
    named.sort()
    names = [name for name, _ in named]
    # The paths of a large folder would take several times the memory of its names.
    return ((folder, name, is_folder, names) for name, is_folder in named)


def _is_picture(folder: Path, name: str, readable: bool) -> bool:
    """Whether a file has a picture's name or its first bytes; or only a `readable` one's name."""
    if readable:
        return is_image_path(name)
    if names_picture(name):
        return True
    try:
        with open_regular(os.path.join(folder, name)) as file:  # noqa: PTH118
            return begins_like_picture(file.read(HEADER))
    except (OSError, ValueError):
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _matches(path: Path, readable: bool) -> list[Path]:
    if path.is_dir():
        images = _search(path, readable)
        if not images:
            raise ImageError(f"{path}: no pictures in this folder (looked for .jpg, .png, …)")
        return images
    if path.exists():
        return [path]
    if not glob.has_magic(str(path)):
        raise ImageError(f"{path}: {absent(path, 'file or folder')}")
    images = []
    for match in sorted(map(Path, glob.glob(str(path), recursive=True))):  # noqa: PTH207
        images += _search(match, readable) if match.is_dir() else [match]
    if not images:
        raise ImageError(f"{path}: this pattern matches no picture")
    return images


def _search(folder: Path, readable: bool) -> list[Path]:
    images = []
    for image in walk_images(folder, readable=readable):
        if isinstance(image, UnusableImage):
            raise image
        images.append(image)
    return images
