"""Public datasets that captax can fetch: where they come from, on which terms, and their unpacking.

An archive is compared with its public hash before anything of it is unpacked.
"""

import dataclasses
import hashlib
import http.client
import os
import re
import shutil
import stat
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, BinaryIO

from filelock import Timeout

from captax.data.example import DataError
from captax.errors import quoted
from captax.files import OutputError, hold, make_folder, own_file, unwritable, write_text
from captax.progress import Progress

MIRROR = "CAPTAX_DATA_MIRROR"
SOURCE = ".captax-source"  # the file in a dataset that captax fetched
_BLOCK = 2**20
_MEGABYTE = 1_000_000
_PATIENCE = 60  # seconds in which a server must send something
_TRIES, _PAUSE = 5, 1.0  # connections in a row that bring nothing, and seconds before the second
_MOST_FILES, _MOST_BYTES = 500_000, 20 * 2**30  # what a dataset may unpack to
_SIZE = re.compile(r"[0-9]{1,18}")
_JUNK = ("__MACOSX", ".DS_Store")


@dataclasses.dataclass(frozen=True)
class Archive:
    """A zip or tar file of a dataset.

    Attributes:
        url: where the field gets it.
        hash: its public hash, as `md5:...` or `sha256:...`.
        size: its length in bytes, where that is public too.
        into: the folder of the dataset that its files are put into.
        top: the folder in the archive that stands for `into`.
    """

    url: str
    hash: str
    size: int | None = None
    into: str = ""
    top: str = ""

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]


@dataclasses.dataclass(frozen=True)
class Public:
    """A dataset that can be fetched.

    Attributes:
        folder: its folder, as recipes name it.
        about: what it is, and how large, in one line.
        terms: on what terms it may be used, in whole sentences.
        archives: its files.
        recipe: a recipe that trains on it.
    """

    folder: str
    about: str
    terms: str
    archives: tuple[Archive, ...]
    recipe: str


_FLICKR8K = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k"
# The MD5 of Flickr8k's files are those that torchvision for R and Flashlight compare with; size and
# SHA-256 of Food-101 are those of TensorFlow Datasets.
DATASETS: Mapping[str, Public] = MappingProxyType({
    "flickr8k": Public(
        folder="flickr8k",
        about="Flickr8k: 8,000 photographs with five captions each, about 1.1 GB.",
        terms=(
            "Flickr8k (Hodosh, Young and Hockenmaier, 2013) is for non-commercial research and "
            "education only. The photographs belong to their owners on Flickr: do not publish them "
            "again, and follow Flickr's terms of use. The files come from a copy by Jason Brownlee."
        ),
        archives=(
            Archive(f"{_FLICKR8K}/Flickr8k_text.zip", "md5:bf6c1abcb8e4a833b7f922104de18627",
                    into="text"),
            Archive(f"{_FLICKR8K}/Flickr8k_Dataset.zip", "md5:f18a1e2920de5bd84dae7cf08ec78978",
                    into="images", top="Flicker8k_Dataset"),
        ),
        recipe="flickr8k-vit",
    ),
    "food101": Public(
        folder="food-101",
        about="Food-101: 101,000 photographs of 101 dishes, 5.0 GB.",
        terms=(
            "The photographs of Food-101 (Bossard, Guillaumin and Van Gool, 2014) come from "
            "Foodspotting and do not belong to ETH Zurich, which publishes the dataset. Any use "
            "beyond scientific fair use must be agreed with the owners of the pictures. "
            "See https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/."
        ),
        archives=(
            Archive(
                "https://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
                "sha256:d97d15e438b7f4498f96086a4f7e2fa42a32f2712e87d3295441b2b6314053a4",
                size=4_996_278_331,
                top="food-101",
            ),
        ),
        recipe="food101-vit",
    ),
})  # fmt: skip


def is_there(dataset: Public, folder: Path) -> bool:
    """Whether captax put the dataset into `folder` already, whole.

    Raises:
        DataError: something else is in its place.
    """
    place = folder / dataset.folder
    if (place / SOURCE).is_file():
        return True
    if place.is_symlink() or place.exists():
        raise DataError(
            f"{place}: is there already, and captax did not fetch it; give another folder, or use "
            "it as it is"
        )
    return False


def get(dataset: Public, folder: Path, *, mirror: str | None = None) -> Path:
    """Fetch a dataset into `folder`, and give its own folder there.

    What was downloaded is kept until all is unpacked, and the next call goes on from it.

    Args:
        dataset: one of `DATASETS`.
        folder: where its folder is made.
        mirror: the URL of a folder with the same archives; by default `$CAPTAX_DATA_MIRROR`.

    Raises:
        DataError: something else is in its place, an archive cannot be downloaded, is another one
            than it should be or holds what no dataset does.
        OutputError: the disk is full, or a folder cannot be written.
    """
    place = folder / dataset.folder
    if is_there(dataset, folder):
        return place
    mirror = mirror or os.environ.get(MIRROR) or None
    if mirror and not mirror.lower().startswith(("http://", "https://")):
        raise DataError(f"{mirror}: is no mirror; give a URL that begins with http:// or https://")
    arrived = folder / f".{dataset.folder}.captax-download"
    make_folder(arrived, inside=folder)
    try:
        lock = hold(arrived / "lock", inside=folder)
    except Timeout:
        raise DataError(f"{place}: another process fetches it; wait for it") from None
    try:
        if is_there(dataset, folder):  # another process has made it meanwhile
            shutil.rmtree(arrived, ignore_errors=True)
            return place
        files = [_download(archive, arrived, mirror) for archive in dataset.archives]
        unpacked = arrived / "unpacked"
        shutil.rmtree(unpacked, ignore_errors=True)  # what a killed process left
        room = [_MOST_FILES, _MOST_BYTES]
        for archive, file in zip(dataset.archives, files, strict=True):
            _unpack(archive, file, unpacked / archive.into, room)
        told = "".join(f"{archive.url} {archive.hash}\n" for archive in dataset.archives)
        write_text(unpacked / SOURCE, told, own=True)
        unpacked.rename(place)
        # Still locked: what the next process begins to fetch is not removed.
        shutil.rmtree(arrived, ignore_errors=True)
    except OSError as error:
        raise unwritable(place, error) from None
    finally:
        lock.release()
    return place


def _download(archive: Archive, folder: Path, mirror: str | None) -> Path:
    """The archive's file in `folder`, which is the right one."""
    done = folder / archive.name
    if done.is_file():
        return done
    url = f"{mirror.rstrip('/')}/{archive.name}" if mirror else archive.url
    partial = folder / f"{archive.name}.partial"
    fruitless = 0
    while True:
        before = partial.stat().st_size if partial.is_file() else 0
        try:
            _receive(archive, url, partial)
            break
        except _Interrupted as error:
            after = partial.stat().st_size if partial.is_file() else 0
            fruitless = 0 if after > before else fruitless + 1
            if fruitless >= _TRIES:
                raise DataError(
                    f"{url}: the download failed ({error}); run the same command again, or give "
                    "the address of a copy by --mirror"
                ) from None
            time.sleep(_PAUSE * 2**fruitless / 2)
    digest = _digest(archive, partial)
    if digest != archive.hash.partition(":")[2]:
        partial.unlink()
        raise DataError(
            f"{url}: what arrived is another file than the dataset's (its "
            f"{archive.hash.partition(':')[0].upper()} is {digest}), and was removed; run the "
            "command again, or with another --mirror"
        )
    partial.rename(done)
    return done


class _Interrupted(Exception):
    """The connection failed or ended early; the next one may go on."""


def _receive(archive: Archive, url: str, partial: Path) -> None:
    """Append to a partial file what it lacks."""
    try:
        with own_file(partial, "ab") as file:
            have = os.fstat(file.fileno()).st_size
            if archive.size is not None and have == archive.size:
                return
            asked = urllib.request.Request(url, headers={"User-Agent": "captax"})
            if have:
                asked.add_header("Range", f"bytes={have}-")
            with _answered(asked) as answer:
                if answer.status == 416:  # there is no more, or the file is another one
                    if answer.headers.get("Content-Range") == f"bytes */{have}":
                        return
                    file.truncate(0)
                    raise _Interrupted("the server has another file than before")
                if answer.status != 206:
                    file.truncate(0)
                    have = 0
                length = answer.headers.get("Content-Length")
                total = have + int(length) if _SIZE.fullmatch(length or "") else archive.size
                if archive.size is not None and total != archive.size:
                    raise DataError(
                        f"{url}: has {total or 0:,} bytes and should have {archive.size:,}; give "
                        "another --mirror"
                    )
                _refuse_full(partial, 2 * (total or 0) - have)  # it is unpacked beside
                _copy(answer, file, archive.name, have, total)
    except OSError as error:
        raise unwritable(partial, error) from None


def _answered(asked: urllib.request.Request) -> Any:
    url = asked.full_url
    try:
        return urllib.request.urlopen(asked, timeout=_PATIENCE)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            return error  # it has all that is asked of an answer
        if error.code >= 500 or error.code in (408, 429):
            raise _Interrupted(f"the server answered {error.code}") from None
        raise DataError(
            f"{url}: the server answered {error.code}; give --mirror the URL of a folder that has "
            "this file"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise _Interrupted(f"{type(error).__name__}: {reason}") from None


def _copy(answer: Any, file: Any, name: str, have: int, total: int | None) -> None:
    most = _MOST_BYTES if total is None else total
    bar = Progress(
        (total or 0) // _MEGABYTE, unit="megabyte", label=name, initial=have // _MEGABYTE
    )
    try:
        while have < most:
            try:
                block = answer.read(min(_BLOCK, most - have))
            except (OSError, http.client.HTTPException) as error:
                raise _Interrupted(f"{type(error).__name__}: {error}") from None
            if not block:
                break
            file.write(block)
            have += len(block)
            bar.update(have // _MEGABYTE - bar.done)
    finally:
        bar.close()
    if total is not None and have < total:
        raise _Interrupted(f"the connection ended after {have:,} of {total:,} bytes")


def _refuse_full(path: Path, size: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise OutputError(
            f"{path.parent}: the dataset needs {size / 1e9:.1f} GB more here, and "
            f"{free / 1e9:.1f} GB are free; free space, or give another folder"
        )


def _digest(archive: Archive, path: Path) -> str:
    kind = archive.hash.partition(":")[0]
    digest = hashlib.new(kind, usedforsecurity=False)
    size = path.stat().st_size
    bar = Progress(size // _MEGABYTE, unit="megabyte", label=f"checking {archive.name}")
    with own_file(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            bar.update(len(block) // _MEGABYTE)
    bar.close()
    return digest.hexdigest()


def _unpack(archive: Archive, path: Path, into: Path, room: list[int]) -> None:
    """Unpack the archive's regular files; `room` has how many files and bytes there may be yet."""
    bar = Progress(
        path.stat().st_size // _MEGABYTE, unit="megabyte", label=f"unpacking {archive.name}"
    )
    try:
        with own_file(path, "rb") as packed:
            for name, content in _tar(packed) if tarfile.is_tarfile(path) else _zip(packed):
                if (place := _place(archive, name)) is None:
                    continue
                room[0] -= 1
                target = into / place
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as file:
                    while block := content.read(_BLOCK):
                        room[1] -= len(block)
                        if min(room) < 0:
                            raise DataError(f"{path}: unpacks to more than any dataset; remove it")
                        file.write(block)
                bar.update(max(0, packed.tell() // _MEGABYTE - bar.done))
    except FileExistsError as error:
        raise DataError(f"{path}: holds {error.filename} twice; remove it") from None
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
    ) as error:
        raise DataError(f"{path}: is damaged ({error}); remove it") from None
    finally:
        bar.close()


def _place(archive: Archive, name: str) -> PurePosixPath | None:
    """Where a member is put, relative to its archive's folder; None for what is left out."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name:
        raise DataError(f"{archive.name}: holds {quoted(name)}, which leads elsewhere; remove it")
    parts = path.parts
    # What macOS adds to an archive.
    if not parts or parts[0] in _JUNK or parts[-1] in _JUNK or parts[-1].startswith("._"):
        return None
    if archive.top and parts[0] == archive.top and len(parts) > 1:
        parts = parts[1:]
    return PurePosixPath(*parts)


def _tar(packed: BinaryIO) -> Iterator[tuple[str, Any]]:
    with tarfile.open(fileobj=packed, mode="r|*") as archive:
        for member in archive:
            if member.isdir():
                continue
            content = archive.extractfile(member) if member.isreg() else None
            if content is None:
                raise _no_file(packed, member.name)
            yield member.name, content


def _zip(packed: BinaryIO) -> Iterator[tuple[str, Any]]:
    with zipfile.ZipFile(packed) as archive:
        for member in archive.infolist():
            if member.is_dir():
                continue
            mode = member.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG) or member.flag_bits & 1:
                raise _no_file(packed, member.filename)
            with archive.open(member) as content:
                yield member.filename, content


def _no_file(packed: BinaryIO, name: str) -> DataError:
    return DataError(
        f"{packed.name}: holds {quoted(name)}, which is a link, a device or locked; remove it"
    )
