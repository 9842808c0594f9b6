"""WebDataset: pictures and captions in tar files, read where they lie.

A shard is scanned once, header by header. Captions are kept; for a picture, only its shard and the
place of its bytes are kept, so that it can be read at any time, in any order and thread.
"""

import copy
import dataclasses
import functools
import itertools
import os
import posixpath
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from captax.data.example import DataError, Example, StoredExample, refuse, refuse_long, refuses
from captax.data.faults import Kind
from captax.data.splits import choose_split, refuse_absent, split_in
from captax.data.tables import caption_columns, captions_in
from captax.errors import quoted
from captax.files import CONFIG_LIMIT, PICTURE_LIMIT, open_regular, parse_json
from captax.images.decode import ImageError
from captax.images.kinds import is_image_path

_BLOCK = 512  # a tar file's unit


@dataclasses.dataclass(frozen=True, slots=True)
class TarPicture:
    """A picture in an uncompressed tar file, `size` bytes from `offset` on."""

    shard: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """The bytes of the picture's file.

        Raises:
            ImageError: the shard is gone, or shorter than it was.
        """
        try:
            with open_regular(self.shard) as file:
                there = os.fstat(file.fileno()).st_size - self.offset
                file.seek(self.offset)
                content = file.read(self.size) if self.size <= there else b""
        except OSError as error:
            raise ImageError(f"{self.shard}: cannot be read: {error.strerror or error}") from None
        if len(content) < self.size:
            raise ImageError(f"{self.shard}: ends within a picture; fetch the shard again")
        return content


@dataclasses.dataclass
class _Sample:
    picture: TarPicture | None = None
    captions: tuple[str, ...] = ()
    described: tuple[str, ...] = ()


def find_shards(path: str | Path) -> list[Path]:
    """The shards that `path` means: a tar, a folder of them (or of such folders), or braces.

    `train-{000..003}.tar` and `{train,val}.tar` mean what they mean to a shell, or to WebDataset.
    The list is empty if `path` is something else.

    Raises:
        DataError: a shard that the braces name does not exist, or a shard that is compressed.
    """
    path = Path(path)
    if path.is_dir():
        return sorted(path.glob("*.tar")) or sorted(path.glob("*/*.tar"))
    if path.name.endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")):
        raise DataError(f"{path}: is compressed, so its pictures cannot be read one by one; unpack "
                        f"it to a plain .tar")  # fmt: skip
    if path.suffix != ".tar":
        return []
    if path.is_file() or "{" not in str(path):
        return [path]
    shards = [Path(name) for name in expand_braces(str(path))]
    refuse(
        (str(shard) for shard in shards if not shard.is_file()), path, "does not exist; fetch it"
    )
    return shards


def expand_braces(pattern: str) -> list[str]:
    """The names a pattern stands for: `{000..003}` counts, keeping zeros; `{a,b}` lists."""
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = [[part] if i % 2 == 0 else _choices(part) for i, part in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def _choices(content: str) -> list[str]:
    counted = re.fullmatch(r"(\d+)\.\.(\d+)", content)
    if not counted:
        return content.split(",") if "," in content else [f"{{{content}}}"]
    first, last = counted.groups()
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]


def read_shards(shards: list[Path], root: Path, *, split: str | None = None) -> list[Example]:
    """Samples of WebDataset shards: `key.jpg` (or another picture) with `key.txt` or `key.json`.

    A `.txt` has one caption a line. A `.json` has captions under `caption`, `text` or a similar
    key, and is used only if there is no `.txt`. Other files of a sample are ignored. Ids are
    `shard/key`. A shard whose name or folder within `root` names a split is that split; others are
    split by hashing.

    Args:
        shards: tar files, uncompressed.
        root: the folder they are in, whose name is the source's.
        split: `train`, `dev` or `test`; all for `None`.

    Raises:
        DataError: a shard is not a tar file or is damaged, a sample has no caption, no picture or
            two pictures, or no shard has the split.
    """
    names = {shard: shard.relative_to(root).with_suffix("").as_posix() for shard in shards}
    named = {shard: split_in(name) for shard, name in names.items()}
    there = {part for part in named.values() if part}
    there |= {"train", "dev"} if None in named.values() else set()
    refuse_absent(split, there, root)
    source = root.resolve().name
    found: list[Example] = []
    unnamed: list[Example] = []
    for shard in shards:
        if split is None or named[shard] in (None, split):
            part = unnamed if named[shard] is None else found
            part += _examples(shard, names[shard], source)
    return found + (choose_split(unnamed, split, where=root) if unnamed else [])


def _examples(shard: Path, name: str, source: str) -> Iterator[Example]:
    samples: dict[str, _Sample] = {}
    for key, extension, where, content in _members(shard):
        sample = samples.setdefault(key, _Sample())
        if isinstance(content, TarPicture):
            if sample.picture is not None:
                raise DataError(f"{where}: {key} has two pictures; keep one, or rename the other")
            sample.picture = content
        elif extension == "txt":
            lines = (line.strip() for line in _text(where, content).split("\n"))
            sample.captions = tuple(line for line in lines if line)
        else:
            sample.described = _described(where, content)
    refuse(
        (key for key, sample in samples.items() if sample.picture is None),
        shard,
        "has a caption and no picture; add key.jpg to the shard or remove the caption",
        Kind.unpictured,
    )
    if refuses():
        refuse(
            (key for key, sample in samples.items() if not (sample.captions or sample.described)),
            shard,
            "has no caption; add key.txt, or key.json with a caption, to the shard",
        )
    for key, sample in samples.items():
        if sample.picture is not None:
            captions = sample.captions or sample.described
            for caption in captions:
                refuse_long(caption, f"{shard}, {key}")
            yield StoredExample(f"{name}/{key}", sample.picture, captions, source)


def _members(shard: Path) -> Iterator[tuple[str, str, str, TarPicture | bytes]]:
    """The pictures, texts and JSONs of a shard: key, extension, place and content of each."""
    try:
        with open_regular(shard) as file:
            length = os.fstat(file.fileno()).st_size
            for member in tar_files(file, shard):
                folder, slash, name = member.name.removeprefix("./").rpartition("/")
                key, _, extension = name.partition(".")
                extension = extension.lower()
                key, where = f"{folder}{slash}{key}", f"{shard}, {member.name}"
                if extension in ("txt", "json"):
                    refuse_unreadable(member, where, CONFIG_LIMIT)
                    if member.size > length - member.offset_data:
                        raise DataError(
                            f"{shard}: {member.name} is to have {member.size:,} bytes, more than "
                            "the shard; fetch it again"
                        )
                    file.seek(member.offset_data)
                    yield key, extension, where, file.read(member.size)
                elif is_image_path(f"a.{extension}"):
                    refuse_unreadable(member, where, PICTURE_LIMIT)
                    picture = TarPicture(shard, member.offset_data, member.size)
                    yield key, extension, where, picture
    except OSError as error:
        raise DataError(f"{shard}: cannot be read ({error.strerror or error})") from error


def tar_files(file: Any, name: object) -> Iterator[tarfile.TarInfo]:
    """The files in an uncompressed tar, without hidden ones (such as macOS's `._a.jpg`).

    A link is the file that it leads to, under its own name, and a link to a folder is the files in
    that folder, but not if it leads back up; links come after all files. A link that leads to
    nothing in the archive is refused by `refuse_unreadable`. `file` is seekable; the caller may
    read anywhere in it between two of its members.

    Raises:
        DataError: the file is not a tar file, or is damaged; the message calls it `name`.
    """
    links: list[tarfile.TarInfo] = []
    for member in _tar_members(file, name):
        hidden = PurePosixPath(member.name).name.startswith(".")
        if member.isreg() and not hidden:
            yield member
        elif member.islnk() or (member.issym() and not hidden):
            links.append(member)
            if len(links) > _MOST_LINKS:
                raise DataError(f"{name}: has more than {_MOST_LINKS:,} links; unpack it")
    if links:  # most archives have none, and their names need not be kept
        file.seek(0)
        yield from _followed(links, _tar_members(file, name), name)


def _followed(
    links: list[tarfile.TarInfo], members: Iterator[tarfile.TarInfo], name: object
) -> Iterator[tarfile.TarInfo]:
    """The files that links lead to, under the names of the links."""
    step = _steps({_plain(link.name): _target(link) for link in links if link.issym()})
    ways = [_way(_target(link), step) if link.issym() else [_target(link)] for link in links]
    targets = {path for way in ways for path in way}
    # By what each link may lead to as a folder; one that leads back up would have no end.
    folders = [
        way[-1] if link.issym() and not _holds(way[-1], _plain(link.name)) else None
        for link, way in zip(links, ways, strict=True)
    ]
    inside: dict[str | None, list[tuple[str, tarfile.TarInfo]]] = {
        folder: [] for folder in folders if folder is not None
    }

    def note(path: str, file: tarfile.TarInfo) -> None:
        """Remember a file of the folders that links lead to."""
        parts = path.split("/", _DEEPEST)
        for end in range(1, len(parts)):
            if (found := inside.get("/".join(parts[:end]))) is not None:
                found.append((path, file))

    files: dict[str, tarfile.TarInfo] = {}
    hard: dict[int, tarfile.TarInfo] = {}
    for member in members:  # a hard link leads to the file before it, if two have the same name
        path = _plain(member.name)
        if member.islnk() and (file := files.get(_target(member))) is not None:
            hard[member.offset] = file
            if path in targets:
                files[path] = file
        elif member.isreg():
            note(path, member)
            if path in targets:
                files[path] = member
    for link, way in zip(links, ways, strict=True):
        path = next((each for each in way if each in files), "")
        file = hard.get(link.offset) if link.islnk() else files.get(path)
        if file is not None:
            note(_plain(link.name), file)
            link.type, link.size, link.sparse = file.type, file.size, file.sparse
            link.offset_data = file.offset_data
    left = _MOST_LINKS
    for link, folder in zip(links, folders, strict=True):
        found = inside.get(folder, [])
        left -= len(found)
        if left < 0:
            raise DataError(f"{name}: has more than {_MOST_LINKS:,} links; unpack it")
        for path, file in found:
            named = copy.copy(file)
            named.name = link.name.rstrip("/") + path.removeprefix(str(folder))
            if not PurePosixPath(named.name).name.startswith("."):
                yield named
        if not found and not PurePosixPath(link.name).name.startswith("."):
            yield link


def _steps(leads: dict[str, str]) -> Callable[[str], str | None]:
    """A function from a path to the one that it stands for, if a part of it is a link."""

    @functools.cache
    def step(path: str) -> str | None:
        if path in leads:
            return leads[path]
        parts = path.split("/", _DEEPEST)
        for end in range(1, len(parts)):
            if (folder := leads.get("/".join(parts[:end]))) is not None:
                return _plain(posixpath.join(folder, *parts[end:]))
        return None

    return step


def _way(path: str, step: Callable[[str], str | None]) -> list[str]:
    """A path, and the paths that links in it lead to, one after the other."""
    way = [path]
    while len(way) <= _MOST_STEPS and (path := step(path) or "") not in ("", way[-1]):
        way.append(path)
    return way


def _holds(folder: str, path: str) -> bool:
    """Whether a path is in a folder, or is that folder."""
    return folder in (".", path) or path.startswith(f"{folder}/")


_DEEPEST = 32  # folders above a file, in which links are followed
_MOST_LINKS = 100_000  # in one archive; each is kept
_MOST_STEPS = 40  # from one link to the next, as on Linux


def _plain(path: str) -> str:
    """A path within an archive, without `.` and `..`."""
    return posixpath.normpath(path)


def _target(link: tarfile.TarInfo) -> str:
    """Where a link leads to, within the archive."""
    if link.islnk():
        return _plain(link.linkname)
    return _plain(posixpath.join(posixpath.dirname(_plain(link.name)), link.linkname))


def _tar_members(file: Any, name: object) -> Iterator[tarfile.TarInfo]:
    """All members of an uncompressed tar, as `tar_files` reads them."""
    before, headers = 0, cast(BinaryIO, _Headers(file))
    try:
        with tarfile.open(fileobj=headers, mode="r:") as archive:
            while (member := archive.next()) is not None:
                cast(Any, archive).members = []  # which would keep every header in memory
                if member.size < 0 or member.offset < before:
                    raise DataError(f"{name}: damaged at byte {member.offset}; fetch it again")
                before = member.offset
                yield member
            # tarfile mistakes a damaged header for the end of the file.
            file.seek(archive.offset)
            if file.read(_BLOCK).strip(b"\0"):
                raise DataError(f"{name}: damaged at byte {archive.offset}; fetch it again")
    except (
        tarfile.TarError,
        MemoryError,
        ValueError,
        OverflowError,
        RecursionError,
    ) as error:  # sizes of headers
        raise DataError(f"{name}: not a complete tar file ({error}); fetch it again") from error


class _Headers:
    """A tar file for the eyes of `tarfile`, which reads as much as a header claims to have."""

    def __init__(self, file: Any):
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= CONFIG_LIMIT // 64:
            raise tarfile.ReadError(f"a header claims {size:,} bytes")
        return self._file.read(size)


def refuse_unreadable(member: tarfile.TarInfo, where: str, limit: int) -> None:
    """Refuse a member whose bytes are not there in one piece, or that has more than `limit`.

    Raises:
        DataError: it is such a member.
    """
    if not member.isreg():
        raise DataError(
            f"{where}: is a link to what is no file of the archive ({quoted(member.linkname)}); "
            "pack that file too"
        )
    if member.issparse():
        raise DataError(f"{where}: is stored with holes; pack the archive again without --sparse")
    if member.size > limit:
        raise DataError(
            f"{where}: has more bytes than such a file has ({member.size:,}); remove it"
        )


def _text(where: str, content: bytes | TarPicture) -> str:
    assert isinstance(content, bytes)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: byte {error.start} is not UTF-8 text; save the file as UTF-8"
        ) from error


def _described(where: str, content: bytes | TarPicture) -> tuple[str, ...]:
    """The captions in a sample's JSON; empty if the JSON has no captions."""
    try:
        record = parse_json(_text(where, content))
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error}); write the shard again") from error
    if not isinstance(record, dict):
        return ()
    try:
        columns = caption_columns(where, list(record))
    except DataError:
        return ()
    values = [record[column] for column in columns if record[column] is not None]
    texts = (text.strip() for value in values for text in captions_in(where, value))
    return tuple(text for text in texts if text)
