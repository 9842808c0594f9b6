"""Find the pictures to caption in files, folders, archives, lists and URLs."""

import glob
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from captax.collection.archives import archive_items
from captax.collection.item import (
    ARCHIVES,
    LISTS,
    MASKS,
    REPEATED,
    CollectionError,
    Item,
    files_left_out,
    place_of,
)
from captax.collection.lists import list_items
from captax.collection.own_files import OwnFiles
from captax.collection.remote import RemotePicture, data_picture, file_system, one_line
from captax.data.inline import data_url_name, is_data_url
from captax.data.shards import find_shards
from captax.files import absent, is_file
from captax.images import (
    ImageError,
    UnusableImage,
    names_picture,
    suffix_told,
    walk_images,
)

OWN = OwnFiles()


def find_items(
    sources: Sequence[str],
    left_out: Counter[str] | None = None,
    own: OwnFiles = OWN,
    *,
    videos: bool = False,
) -> Iterator[Item]:
    """The pictures of `sources`, one at a time, in the same order every time.

    A folder is searched with its subfolders (sorted; hidden files and trainers' masks are left
    out). A picture is what has a picture's name or begins like one, and with `videos` what has a
    video's name too; all other files of folders and archives are counted in `left_out`, by suffix,
    as the search comes upon them, except captax's `own`. `.zip` and `.tar`
    files, `.tar` names with braces, and lists (`.parquet`, `.jsonl`, `.csv`, `.tsv`, `.txt`: a
    picture's path, URL or bytes in each row) are opened. fsspec opens sources with `://`, which may
    be folders and patterns too; a `data:` URL is a picture. Any other source is a picture or a
    pattern (`*`, `?`, `[..]`, `**`). If part of a source cannot be read, or one of several sources
    is broken or does not exist, an item says so. A picture that is named again is left out; rows of
    lists with other columns are counted then.

    Raises:
        CollectionError: a source that exists, or the only one, has no picture at all; raised before
            the first item.
    """
    counted: Counter[str] = Counter() if left_out is None else left_out
    search = _Search(counted, own, videos)
    found = [_pictures(source, search, alone=len(sources) == 1) for source in sources]
    listed = sources[0].lower().endswith(LISTS) if sources else False
    if len(sources) == 1 and not listed and not glob.has_magic(sources[0]):
        return found[0]
    # Several sources and rows may have a picture, and "**" matches a folder and its contents.
    return _each_once(itertools.chain.from_iterable(found), counted)


class _Search(NamedTuple):
    """What is counted as left out, which files are captax's own, and whether videos are found."""

    left_out: Counter[str]
    own: OwnFiles
    videos: bool

    def wants(self, name: str) -> bool:
        """Whether a file of this name is a picture, or a video where these are found."""
        return names_picture(name, videos=self.videos)


def _each_once(items: Iterable[Item], left_out: Counter[str]) -> Iterator[Item]:
    seen = set()
    for item in items:
        key = os.path.abspath(item.path) if item.path is not None else item.name  # noqa: PTH100
        if key not in seen:
            seen.add(key)
            yield item
        elif item.columns:  # which no record will have
            left_out[REPEATED] += 1


def _pictures(source: str, search: _Search, *, alone: bool) -> Iterator[Item]:
    """The pictures of one source; there is at least one."""
    if not source:
        raise CollectionError("an empty path was given; give a file, a folder or a pattern")
    try:
        if is_data_url(source):
            place = PurePosixPath("data")
            items = iter([Item(data_url_name(source), data_picture(source), place)])
        elif "://" in source:
            items = _remote(source, search)
        else:
            items = _local(Path(source), search, alone=alone)
        first = next(items, None)
    except OSError as error:
        raise CollectionError(f"{source}: cannot be read: {error.strerror or error}") from None
    except CollectionError as error:
        if alone:
            raise
        # It is one record, and the other sources are captioned.
        reason = ImageError(str(error).removeprefix(f"{source}: "))
        return iter([Item(source, reason, place_of(PurePosixPath(source)))])
    if first is None:
        raise CollectionError(f"{source}: {_nothing(Path(source), search)}")
    return itertools.chain([first], items)


def _nothing(path: Path, search: _Search) -> str:
    """Why a source has no picture, and what to do."""
    if path.is_dir():
        names = (f"*{suffix}" for suffix in (*ARCHIVES, *LISTS))
        other = next((name for name in names if next(path.glob(name), None)), None)
        hint = (
            f"; to caption what its archives and lists hold, give '{path / other}'" if other else ""
        )
        others = f"; {files_left_out(search.left_out)}" if search.left_out else ""
        looked = ".jpg, .mp4, …" if search.videos else ".jpg, .png, …"
        return f"there are no pictures in this folder (looked for {looked}){others}{hint}"
    if path.exists():
        return "holds no pictures; give a picture, a folder, an archive or a list"
    if glob.has_magic(str(path)):
        return "this pattern matches no picture; correct it"
    return absent(path, "file or folder")


def _local(path: Path, search: _Search, *, alone: bool) -> Iterator[Item]:
    if path.is_dir():
        yield from _folder(path, path if alone else None, search)
    elif path.exists():
        yield from _file(path, search)
    elif not glob.has_magic(str(path)):
        shards = find_shards(path) if "{" in str(path) else []
        for shard in shards:
            yield from _file(shard, search)
        if not shards and not alone:  # the others are captioned
            missing = ImageError(absent(path, "file or folder"))
            # Decoding says that a picture is missing.
            image = path if names_picture(path, videos=True) else missing
            yield Item(str(path), image, place_of(path))
    else:
        for match in sorted(map(Path, glob.iglob(str(path), recursive=True))):  # noqa: PTH207
            if match.is_dir():
                yield from _folder(match, None, search)
            else:
                yield from _file(match, search)


def _folder(folder: Path, root: Path | None, search: _Search) -> Iterator[Item]:
    """Pictures in a folder; their places are relative to `root`, if it is given."""
    left_out, own = search.left_out, search.own.in_folder
    for found in walk_images(folder, left_out, videos=search.videos, own=own):
        if isinstance(found, UnusableImage):
            yield Item(str(found.path), ImageError(found.reason), place_of(found.path))
        elif found.name.endswith(MASKS):
            left_out["masks"] += 1
        else:
            within = found.relative_to(root) if root is not None else found
            yield Item(str(found), found, place_of(within))


def _file(path: Path, search: _Search) -> Iterator[Item]:
    """A picture, or the pictures in an archive or a list."""
    suffix = path.suffix.lower()
    if suffix in ARCHIVES:
        return archive_items(str(path), search.left_out, videos=search.videos)
    if suffix in LISTS:
        return list_items(path)
    if not is_file(path):  # a pipe or a device, which never ends
        reason = ImageError("is not a regular file, so it cannot be a picture")
        return iter([Item(str(path), reason, place_of(path))])
    find_shards(path)  # refuses compressed shards
    return iter([Item(str(path), path, place_of(path))])


def _remote(url: str, search: _Search) -> Iterator[Item]:
    """The pictures of a URL: a file or an archive; without HTTP, also a folder or a pattern.

    Raises:
        CollectionError: the file system of the URL is not known or does not answer.
    """
    files, path = file_system(url)
    by_http = url.startswith(("http://", "https://"))  # where "?" begins a query
    try:
        if not by_http and glob.has_magic(path):
            root, found = "", sorted(files.glob(path))
        elif not by_http and files.isdir(path):
            root, found = path, sorted(files.find(path))
        else:
            root, found = "", [path]
    except Exception as error:  # each file system has errors of its own
        raise CollectionError(f"{url}: cannot be read: {one_line(error)}") from None
    for each in found:
        name = each if by_http else files.unstrip_protocol(each)
        if each.lower().endswith(ARCHIVES) and not root:
            yield from archive_items(name, search.left_out, videos=search.videos)
        elif found == [path] or (search.wants(each) and not each.endswith(MASKS)):
            within = each.removeprefix(root).split("://")[-1].split("?")[0]
            yield Item(name, RemotePicture(name), place_of(PurePosixPath(within)))
        elif not OWN.is_caption(each, found):
            search.left_out["masks" if each.endswith(MASKS) else suffix_told(each)] += 1
