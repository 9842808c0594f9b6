"""Pictures in zip and tar files, read without unpacking them."""

import dataclasses
import functools
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from captax.collection.item import MASKS, CollectionError, Item, place_of
from captax.collection.own_files import OwnFiles
from captax.collection.remote import RemoteSpan, one_line, opened
from captax.data.example import DataError
from captax.data.shards import TarPicture, refuse_unreadable, tar_files
from captax.files import PICTURE_LIMIT, open_regular
from captax.images import (
    ImageError,
    begins_like_picture,
    names_picture,
    suffix_told,
)
from captax.images.kinds import HEADER

# Pictures that would unpack to more bytes are refused.
MAX_UNPACKED = PICTURE_LIMIT
# A picture shrinks less than this when it is packed; what shrinks more is a bomb.
_MOST_PACKED, _SMALL = 200, 64 * 2**20


@dataclasses.dataclass(frozen=True, slots=True)
class ZipPicture:
    """A picture in a zip file."""

    archive: str
    member: str

    def read(self) -> bytes:
        """The picture's file.

        Raises:
            ImageError: the archive does not exist any more, is damaged or has a password.
        """
        size = 0
        try:
            archive = _zip(self.archive)
            member = archive.getinfo(self.member)
            size = member.file_size
            bomb = size > _SMALL and size > _MOST_PACKED * member.compress_size
            if size <= MAX_UNPACKED and not bomb:
                return archive.read(self.member)
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror or error}") from None
        except NotImplementedError:
            raise ImageError(
                "is compressed in a way that captax cannot read; pack it again"
            ) from None
        except RuntimeError:  # zipfile raises this if it needs a password
            raise ImageError("is locked by a password; unpack the archive first") from None
        except Exception as error:  # decompressors raise nearly anything for damaged data
            raise ImageError(
                f"is damaged within its zip file: {error}; pack the archive again"
            ) from None
        raise ImageError(
            f"unpacks to more bytes than a picture has ({size:,}); remove it from the archive"
        )

    def stamp(self) -> str:
        """What tells the picture's content: its size and checksum. "" if that cannot be read."""
        try:
            member = _zip(self.archive).getinfo(self.member)
        except Exception:  # reading it will tell
            return ""
        return f"zip {member.file_size} {member.CRC}"


@functools.lru_cache(maxsize=4)
def _zip(archive: str) -> zipfile.ZipFile:
    """An open zip file, which threads may read at the same time."""
    # zipfile closes the files that it opens itself, once the cache has dropped them.
    if "://" in archive:
        return zipfile.ZipFile(opened(archive))
    open_regular(archive).close()  # refuses pipes and devices
    return zipfile.ZipFile(archive)


Found = tuple[str, "ZipPicture | TarPicture | RemoteSpan | ImageError", Callable[[], bytes]]


def archive_items(archive: str, left_out: Counter[str], *, videos: bool = False) -> Iterator[Item]:
    """The pictures in a zip or tar file, given by path or URL, in the order of the archive.

    With `videos`, what has a video's name is one of them.

    Members that are no pictures are counted in `left_out`, by suffix. If a tar file is damaged, the
    pictures before the damage come first, then an item that reports the damage.

    Raises:
        CollectionError: the file cannot be read, or is not a complete zip file.
    """
    root = place_of(PurePosixPath(archive.rpartition("://")[2]).with_suffix(""))
    find = _in_zip if archive.lower().endswith(".zip") else _in_tar
    others: list[str] = []
    pictures: list[str] = []
    for stored, image, header in find(archive):
        # Some programs for Windows write "\\" between folders, against the format.
        member = stored if "/" in stored else stored.replace("\\", "/")
        within = PurePosixPath(member)
        hidden = within.parts[:1] == ("__MACOSX",)
        hidden |= any(part.startswith(".") and part != ".." for part in within.parts)
        if isinstance(image, ImageError) and stored == archive:
            yield Item(archive, image, root)
        elif hidden:
            continue
        elif member.endswith(MASKS):
            left_out["masks"] += 1
        elif names_picture(member, videos=videos) or begins_like_picture(header()):
            pictures.append(member)
            yield Item(f"{archive}/{member}", image, root / place_of(within))
        else:
            others.append(member)
    pictures.sort()  # captions may come before theirs
    own = OwnFiles()
    left_out.update(suffix_told(each) for each in others if not own.is_caption(each, pictures))


def _in_zip(archive: str) -> Iterator[Found]:
    """Each member's name, the picture that it is, and a function that reads its beginning."""
    try:
        opened = _zip(archive)
        names = opened.NameToInfo
    except OSError as error:
        raise CollectionError(f"{archive}: cannot be read: {error.strerror or error}") from None
    except Exception as error:
        raise CollectionError(
            f"{archive}: is not a complete zip file ({error}); fetch it again"
        ) from None

    def header(name: str) -> bytes:
        if "://" in archive:  # each would be a request
            return b""
        try:
            with opened.open(name) as member:
                return member.read(HEADER)
        except Exception:  # decompressors raise nearly anything for damaged data
            return b""

    for name, info in names.items():
        if not info.is_dir() and not name.endswith("\\"):
            yield name, ZipPicture(archive, name), functools.partial(header, name)


def _in_tar(archive: str) -> Iterator[Found]:
    """As `_in_zip`; damage has the archive's own name."""
    try:
        with opened(archive) as file:

            def header(start: int, size: int) -> bytes:
                if "://" in archive:
                    return b""
                file.seek(start)
                return file.read(min(size, HEADER))

            for member in tar_files(file, archive):
                start, size = member.offset_data, member.size
                begins = functools.partial(header, start, size)
                try:
                    refuse_unreadable(member, "it", MAX_UNPACKED)
                except DataError as error:
                    yield member.name, ImageError(str(error).removeprefix("it: ")), begins
                    continue
                if "://" in archive:
                    yield member.name, RemoteSpan(archive, start, size), begins
                else:
                    yield member.name, TarPicture(Path(archive), start, size), begins
    except (DataError, OSError) as error:
        reason = ImageError(one_line(error).removeprefix(f"{archive}: "))
        yield archive, reason, bytes
