"""Pictures in zip and tar files, read where they lie."""

import dataclasses
import functools
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from captax.collection.item import MASKS, CollectionError, Item, place_of
from captax.collection.remote import RemoteSpan, opened
from captax.data.example import DataError
from captax.data.shards import TarPicture, tar_files
from captax.images import ImageError, is_image_path

# A picture that its zip file says is larger is not unpacked.
MAX_UNPACKED = 2**30


@dataclasses.dataclass(frozen=True, slots=True)
class ZipPicture:
    """A picture in a zip file."""

    archive: str
    member: str

    def read(self) -> bytes:
        """The picture's file.

        Raises:
            ImageError: the archive is gone, damaged or locked by a password.
        """
        size = 0
        try:
            archive = _zip(self.archive)
            size = archive.getinfo(self.member).file_size
            if size <= MAX_UNPACKED:
                return archive.read(self.member)
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror or error}") from None
        except NotImplementedError:
            raise ImageError(
                "is compressed in a way that captax cannot read; pack it again"
            ) from None
        except RuntimeError:  # what zipfile raises for want of a password
            raise ImageError("is locked by a password; unpack the archive first") from None
        except Exception as error:  # what decompressors make of damage is nearly anything
            raise ImageError(f"is damaged within its zip file: {error}") from None
        raise ImageError(f"unpacks to more bytes than a picture has ({size:,})")


@functools.lru_cache(maxsize=4)
def _zip(archive: str) -> zipfile.ZipFile:
    """An open zip file, which threads may read at the same time."""
    # A file that zipfile opens itself, by its path, is closed when it is dropped here.
    return zipfile.ZipFile(opened(archive) if "://" in archive else archive)


def archive_items(archive: str) -> Iterator[Item]:
    """The pictures in a zip or tar file, given by path or URL, in the order in which they lie.

    Where a tar is damaged, an item tells of it, after those before the damage.

    Raises:
        CollectionError: it is no such file.
    """
    root = place_of(PurePosixPath(archive.rpartition("://")[2]).with_suffix(""))
    find = _in_zip if archive.lower().endswith(".zip") else _in_tar
    for member, image in find(archive):
        within = PurePosixPath(member)
        left_out = member.endswith(MASKS) or within.parts[:1] == ("__MACOSX",)
        left_out |= any(part.startswith(".") and part != ".." for part in within.parts)
        if isinstance(image, ImageError):
            yield Item(archive, image, root)
        elif is_image_path(member) and not left_out:
            yield Item(f"{archive}/{member}", image, root / place_of(within))


def _in_zip(archive: str) -> Iterator[tuple[str, ZipPicture]]:
    try:
        names = _zip(archive).NameToInfo
    except OSError as error:
        raise CollectionError(f"{archive}: cannot be read: {error.strerror or error}") from None
    except Exception as error:
        raise CollectionError(
            f"{archive}: is not a complete zip file ({error}); fetch it again"
        ) from None
    for name in names:
        yield name, ZipPicture(archive, name)


def _in_tar(archive: str) -> Iterator[tuple[str, TarPicture | RemoteSpan | ImageError]]:
    try:
        with opened(archive) as file:
            for member in tar_files(file, archive):
                start, size = member.offset_data, member.size
                if "://" in archive:
                    yield member.name, RemoteSpan(archive, start, size)
                else:
                    yield member.name, TarPicture(Path(archive), start, size)
    except (DataError, OSError) as error:
        yield archive, ImageError(str(error).removeprefix(f"{archive}: "))
