"""Whether a picture is what it was when it was captioned."""

import hashlib

from captax.collection.archives import ZipPicture
from captax.collection.choices import Compare
from captax.collection.item import Item
from captax.data.shards import TarPicture
from captax.files import open_regular
from captax.images import ImageError


def stamp(item: Item, compare: Compare = Compare.time) -> str:
    """The state of a picture, which differs when the picture was replaced or repaired.

    By `time`, it is the size of its file and when that was written; for a picture in a zip file,
    the archive's checksum of it. By `content`, it is a digest. "" is a state that is not known,
    such as that of a picture behind a URL.
    """
    image = item.image
    if isinstance(image, ImageError):
        return f"error: {image}"
    if isinstance(image, bytes):
        return f"content {hashlib.sha256(image).hexdigest()}"
    try:
        if isinstance(image, ZipPicture):
            return image.stamp()
        file = image.shard if isinstance(image, TarPicture) else item.path
        if file is None:
            return ""
        status = file.stat()
        if compare is Compare.time:
            where = f" at {image.offset}" if isinstance(image, TarPicture) else ""
            return f"time {status.st_size} {status.st_mtime_ns}{where}"
        if isinstance(image, TarPicture):
            return f"content {hashlib.sha256(image.read()).hexdigest()}"
        with open_regular(file) as opened:
            return f"content {hashlib.file_digest(opened, 'sha256').hexdigest()}"
    except (OSError, ValueError, ImageError):
        return "missing"


def changed(item: Item, before: str) -> bool:
    """Whether the picture's state is another than `before`, whichever way that was told."""
    if not before:
        return False
    compare = Compare.content if before.startswith("content ") else Compare.time
    now = stamp(item, compare)
    return bool(now) and now != before
