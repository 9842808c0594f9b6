"""Decodes any common file, bytes, Pillow picture or array to an upright RGB picture.

Pillow's own `Image.open` limits pixels by a process-wide setting and issues warnings, and both
belong to the caller. So the plugin is chosen here, by the file's signature, and the limit is a
parameter. What decoding will take is read from the file's structure first (`structure.py`): too
much is refused, and what may take long is decoded in another process (`apart.py`).
"""

import contextlib
import hashlib
import io
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from captax.errors import CaptaxError
from captax.files import absent, open_regular
from captax.images.apart import Failed, decode_apart
from captax.images.budget import MIB, SMALL_BYTES, most_memory, never, room
from captax.images.kinds import HEADER, kind_of, video_kind
from captax.images.orientation import TAG, orientation_in
from captax.images.prepared import Prepared
from captax.images.structure import Damaged, Structure, read_structure

ImageSource = str | os.PathLike[str] | bytes | Image.Image | np.ndarray | Prepared

MAX_PIXELS = 200_000_000
# How long a picture may be decoded whose structure does not say how long it will take.
DECODE_SECONDS = 20.0
# Pictures that take longer than this, as estimated, are decoded in another process.
_APART_SECONDS = 3.0
# What takes less is quick.
_QUICK_SECONDS = 0.5

_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_READABLE = "JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF, HEIC, JPEG 2000 or PPM"


class ImageError(CaptaxError):
    """A picture cannot be found, read or accepted; the message names it."""


class IsVideo(ImageError):
    """A file is no picture but a video, or a sound, which begins as one does."""

    def __init__(self, name: str):
        super().__init__(f"{name}: is a video or a sound, not a picture; give one of its pictures")
        self.name = name


class TooManyPixels(ImageError):
    """A picture has more pixels than are allowed."""


class TooMuchMemory(TooManyPixels):
    """Decoding a picture would take more memory than its number of pixels explains."""


class NotQuick(ImageError):
    """A picture would take long or much memory to decode, and only quick ones were asked for."""


class _Jpeg(JpegImageFile):
    """JPEG without Pillow's EXIF parser, which warns about the damaged EXIF many cameras write."""

    def getexif(self) -> Image.Exif:
        return Image.Exif()


class _Tiff(TiffImageFile):
    """TIFF that leaves orientation to `decode`, for the same reason as `_Jpeg`."""

    def getexif(self) -> Image.Exif:
        return Image.Exif()


_OPENERS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": _Jpeg,
    "PNG": PngImageFile,
    "WEBP": WebPImageFile,
    "GIF": GifImageFile,
    "TIFF": _Tiff,
    "BMP": BmpImageFile,
    "AVIF": AvifImageFile,
    "PPM": PpmImageFile,
    "JPEG2000": Jpeg2KImageFile,
}


def decode(
    source: ImageSource,
    *,
    max_pixels: int = MAX_PIXELS,
    at_least: tuple[int, int] | None = None,
    seconds: float = DECODE_SECONDS,
    quick: bool = False,
    gone: Callable[[], bool] = never,
) -> Image.Image:
    """The picture as upright 8-bit RGB: EXIF orientation applied, transparency put on white.

    `source` is a path, the bytes of a file, a Pillow picture, or an array: uint8 [height width],
    [height width 1|3|4], or the same in floats within 0..1. 16-bit pictures are scaled to 8 bits;
    an animation gives its first frame. A Pillow picture is not modified. A `Prepared` picture gives
    its pixels.

    `at_least` is the (height, width) that the picture will be resized to: a JPEG is then decoded
    at 1/2, 1/4 or 1/8 of its size as long as twice `at_least` remains. That is much faster and
    hardly visible after the resize.

    A file may take `seconds` to decode, if its structure does not show that it takes less; it is
    decoded in another process then, and that process is ended after this time, or as soon as
    `gone()` is true. With `quick`, `NotQuick` is raised for what may take long or much memory.

    Raises `ImageError` if `source` is missing, damaged, not a picture, larger than `max_pixels`, or
    would take more memory than pictures of `max_pixels` take (which is checked before any pixel is
    decoded) or than there is.
    """
    limits = _Limits(max_pixels, at_least, seconds, quick, gone)
    try:
        return _decode(source, limits)
    except MemoryError:  # one picture must not end the work on all others
        pass
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
    else:
        name = getattr(source, "filename", "") or "picture"
    raise TooMuchMemory(
        f"{name}: there is not enough memory to decode it; save it smaller, or use a machine with "
        "more memory"
    )


def _decode(source: ImageSource, limits: "_Limits") -> Image.Image:
    max_pixels = limits.max_pixels
    if isinstance(source, Image.Image):
        name = getattr(source, "filename", "") or f"{source.mode} picture"
        _check_size(source.size, name, max_pixels)
        try:
            rgb = _rgb(source, name)
        except (ImageError, MemoryError):
            raise
        except Exception as error:
            raise ImageError(f"{name}: cannot be decoded: {_one_line(error)}") from None
        return _upright(rgb, orientation_in(source.info))
    if isinstance(source, Prepared):
        return source.image
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    return _from_data(*_file(source, max_pixels), limits)


def inspect(source: str | os.PathLike[str] | bytes, *, max_pixels: int = MAX_PIXELS) -> None:
    """Read a file and its structure, and decode nothing: much faster than `decode`.

    Raises `ImageError` if the file is missing, not a picture, or larger than is allowed, or if its
    structure is broken, as it usually is where a file was cut off.
    """
    opener, data, name = _file(source, max_pixels)
    _structure(opener, data, name, max_pixels, None)


def _file(source: Any, max_pixels: int) -> tuple[type[ImageFile.ImageFile], bytes, str]:
    """Which decoder the file of a picture needs, its bytes, and its name for messages."""
    if isinstance(source, bytes | bytearray):
        name, content = f"picture of {len(source)} bytes", bytes(source)
        return _opener(content[:HEADER], name), content, name
    if not isinstance(source, str | os.PathLike):
        raise ImageError(
            f"{type(source).__name__} is not a picture; give a path, bytes, a Pillow picture or a "
            "NumPy array [height width 3]"
        )
    name = os.fspath(source)
    try:
        opener, data = _read(source, most_memory(max_pixels))
    except FileNotFoundError:
        if str(source).startswith(("http://", "https://")):
            raise ImageError(f"{source}: captax reads files, not URLs; download it first") from None
        raise ImageError(f"{source}: {absent(name)}") from None
    except IsADirectoryError:
        raise ImageError(f"{source}: is a directory, not a picture; give a file") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{source}: cannot be read: {reason}") from None
    return opener, data, name


class _Limits(NamedTuple):
    max_pixels: int
    at_least: tuple[int, int] | None
    seconds: float
    quick: bool
    gone: Callable[[], bool]


def _read(source: str | os.PathLike[str], most: int) -> tuple[type[ImageFile.ImageFile], bytes]:
    """Which decoder a file needs, and its bytes. What is no picture is not read to its end."""
    with open_regular(source) as file:
        size = os.fstat(file.fileno()).st_size
        opener = _opener(file.read(HEADER), os.fspath(source))
        if size > most:
            raise TooMuchMemory(f"{source}: has more than {most:,} bytes; save it smaller")
        file.seek(0)
        data = file.read(size)
    return opener, data


def _from_data(
    opener: type[ImageFile.ImageFile], data: bytes, name: str, limits: _Limits
) -> Image.Image:
    found = _structure(opener, data, name, limits.max_pixels, limits.at_least)
    memory, seconds, gone = found.memory, found.seconds, limits.gone
    if limits.quick and (seconds > _QUICK_SECONDS or memory > SMALL_BYTES):
        raise NotQuick(f"{name}: takes long to decode")
    with room(memory, gone):
        if seconds <= _APART_SECONDS:
            del data
            return _decoded(opener, found, name, limits.max_pixels, limits.at_least)
        asked = {"max_pixels": limits.max_pixels, "at_least": limits.at_least}
        most = most_memory(limits.max_pixels) + 256 * MIB  # for threads and libraries
        try:
            return decode_apart(data, asked, memory=most, seconds=limits.seconds, gone=gone)
        except Failed as error:
            failed = error.kind, str(error)
    kind, reason = failed
    if kind == "MemoryError":
        raise _too_much(name, opener, most_memory(limits.max_pixels))
    if kind == TooManyPixels.__name__ or kind == TooMuchMemory.__name__:
        raise TooManyPixels(f"{name}: {reason}")
    if kind == "ended":
        raise ImageError(f"{name}: {reason}; save it again as a usual {opener.format} picture")
    raise ImageError(f"{name}: {reason}")


def in_this_process(
    data: bytes, *, max_pixels: int, at_least: tuple[int, int] | None
) -> Image.Image:
    """`decode` for the bytes of a file, however long it takes; errors do not name the file."""
    at_least = None if at_least is None else (at_least[0], at_least[1])  # JSON has no tuples
    name = "picture"
    try:
        opener = _opener(data[:HEADER], name)
        found = _structure(opener, data, name, max_pixels, at_least)
        return _decoded(opener, found, name, max_pixels, at_least)
    except ImageError as error:
        reason, kind = str(error).removeprefix(f"{name}: "), type(error)
    raise kind(reason)


def _structure(
    opener: type[ImageFile.ImageFile],
    data: bytes,
    name: str,
    max_pixels: int,
    at_least: tuple[int, int] | None,
) -> Structure:
    try:
        found = read_structure(str(opener.format), data, at_least)
    except Damaged as error:
        raise _damaged(name, opener, str(error)) from None
    if any(found.size):
        _check_size(found.size, name, max_pixels)
    if found.memory > most_memory(max_pixels):
        raise _too_much(name, opener, most_memory(max_pixels))
    return found


def _too_much(name: str, opener: type[ImageFile.ImageFile], most: int) -> TooMuchMemory:
    return TooMuchMemory(
        f"{name}: decoding this {opener.format} picture takes more than {most // MIB:,} MiB, the "
        "most for the pixels that are allowed; save it again with another program"
    )


def _damaged(name: str, opener: type[ImageFile.ImageFile], reason: str) -> ImageError:
    return ImageError(f"{name}: damaged or truncated {opener.format} picture: {reason}")


def _decoded(
    opener: type[ImageFile.ImageFile],
    found: Structure,
    name: str,
    max_pixels: int,
    at_least: tuple[int, int] | None,
) -> Image.Image:
    # Formats that can warn are decoded with Pillow's warnings off. That state belongs to the
    # process, so only one thread does it at a time. The common formats run in parallel.
    with _quiet() if opener in (_Tiff, GifImageFile) else contextlib.nullcontext():
        try:
            return _pixels(opener, found, name, max_pixels, at_least)
        except (ImageError, MemoryError):
            raise
        except Image.DecompressionBombError:
            error: ImageError = TooManyPixels(
                f"{name}: has more pixels than Pillow reads from a {opener.format} picture; "
                "save it smaller"
            )
        except Exception as broken:  # decoders fed damaged bytes raise nearly anything
            error = _damaged(name, opener, _one_line(broken))
    raise error  # not from the decoder's own, whose traceback would keep the pixels


def _pixels(
    opener: type[ImageFile.ImageFile],
    found: Structure,
    name: str,
    max_pixels: int,
    at_least: tuple[int, int] | None,
) -> Image.Image:
    image = opener(io.BytesIO(found.data))
    orientation = found.orientation
    if isinstance(image, _Tiff):
        orientation = _tiff_orientation(image) or orientation
    _check_size(image.size, name, max_pixels)
    if not found.ended and not _all_there(opener, found.data):
        raise _damaged(name, opener, "the file is truncated")
    if at_least is not None and isinstance(image, _Jpeg):
        height, width = at_least
        if orientation >= 5:  # lies on its side
            height, width = width, height
        image.draft(None, (2 * width, 2 * height))
    rgb = _rgb(image, name)
    _check_size(rgb.size, name, max_pixels)  # decoders of some formats may change it
    return _upright(rgb, orientation or orientation_in(image.info))


def _all_there(opener: type[ImageFile.ImageFile], data: bytes) -> bool:
    """Whether a JPEG whose end was missing has all pixels: then what follows them changes none.

    Pillow does not tell when the decoder makes up what is missing.
    """
    results = set()
    for byte in (b"", b"\x55", b"\xaa"):
        restarts = b"".join(b"\xff%c" % marker + 32 * byte for marker in range(0xD0, 0xD8))
        more = 64 * byte + 2 * restarts if byte else b""
        image = opener(io.BytesIO(data[:-2] + more + data[-2:]))
        results.add(hashlib.sha256(image.tobytes()).digest())
    return len(results) == 1


def _opener(header: bytes, name: str) -> type[ImageFile.ImageFile]:
    kind = kind_of(header)
    if kind in _OPENERS:
        return _OPENERS[kind]
    if kind == "HEIF":
        try:
            from pillow_heif import HeifImageFile  # an extra
        except ImportError:
            raise ImageError(
                f"{name}: captax reads HEIC pictures with pillow-heif; "
                "pip install 'captax[heic]', or convert it to JPEG"
            ) from None
        return HeifImageFile
    if not header:
        raise ImageError(f"{name}: is empty (0 bytes)")
    if kind is not None:
        raise ImageError(
            f"{name}: captax does not read {kind} pictures; convert it to JPEG or PNG first"
        )
    if video_kind(header) is not None:
        raise IsVideo(name)
    start = header[:12].decode("latin-1")
    raise ImageError(
        f"{name}: not a picture that can be read ({_READABLE}); it starts with {start!a}"
    )


def _from_array(array: np.ndarray, max_pixels: int) -> Image.Image:
    name = f"array of {array.dtype} {list(array.shape)}"
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise ImageError(f"{name}: give [height width], or [height width 1|3|4], channels last")
    _check_size((array.shape[1], array.shape[0]), name, max_pixels)
    if np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):  # NaN fails too
            raise ImageError(f"{name}: floats must be within 0..1; give uint8 for 0..255")
        array = np.rint(array.astype(np.float32) * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise ImageError(f"{name}: must be uint8 within 0..255 or floats within 0..1")
    if array.shape[2] == 1:
        array = array[:, :, 0]
    return _rgb(Image.fromarray(np.ascontiguousarray(array)), name)


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TURN[orientation]) if orientation in _TURN else image


def _check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{name}: has no pixels ({width}x{height})")
    if width * height > max_pixels:
        raise TooManyPixels(
            f"{name}: {width}x{height} is more than {max_pixels:,} pixels; "
            "raise max_pixels if you trust it"
        )


def _rgb(image: Image.Image, name: str) -> Image.Image:
    """8-bit RGB without metadata, because a model sees only the pixels."""
    image.load()  # some metadata follows the pixels
    transparent = image.info.get("transparency")
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values, ranges = _values(image)
        eight_bit = Image.fromarray(_to_8_bit(values, ranges, name))
        if isinstance(transparent, int):
            return _on_white(eight_bit, Image.fromarray(values != transparent))
        return eight_bit.convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return _on_white(rgba, rgba.getchannel("A"))
    rgb = image.convert("RGB")  # this copies a picture that is RGB already
    rgb.info = {}
    return rgb


def _on_white(image: Image.Image, mask: Image.Image) -> Image.Image:
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image.convert("RGB"), mask=mask)
    return white


def _values(image: Image.Image) -> tuple[np.ndarray, tuple[int, ...]]:
    """The values of a picture with more than 8 bits, and what white may be, in rising order."""
    values = np.asarray(image)
    if image.mode == "F":
        return values, (1, 255, 65535)
    bits = 32 if image.mode == "I" else 16
    if isinstance(image, TiffImageFile):
        bits = image.tag_v2.get(258, (bits,))[0]
        if bits == 32 and image.tag_v2.get(339, (1,))[0] == 1:  # Pillow takes it for signed
            values = values.view(np.uint32)
    elif image.format == "PPM":  # Pillow makes 16 bits of any
        bits = 16
    return values, (255, 65535, 2**24 - 1, 2**31 - 1, 2**32 - 1) if bits > 16 else (65535,)


def _to_8_bit(values: np.ndarray, ranges: tuple[int, ...], name: str) -> np.ndarray:
    """The values within the smallest of the `ranges` that holds them."""
    low, high = float(values.min()), float(values.max())
    white = next((white for white in ranges if low >= 0 and high <= white), None)
    if white is None:  # NaN comes here too
        raise ImageError(
            f"{name}: values {low:g}..{high:g} are in no known range; "
            f"scale them to 0..{ranges[-1]} or save the picture with 8 bits"
        )
    scaled = np.empty(values.shape, np.uint8)
    rows = max(1, MIB // values.shape[1])  # a few at a time, because floats take much memory
    for top in range(0, len(values), rows):
        scaled[top : top + rows] = np.rint(values[top : top + rows] * (255 / white))
    return scaled


def _tiff_orientation(image: TiffImageFile) -> int:
    return image.tag_v2.get(TAG, 0)  # loading removes the tag


_quiet_lock = threading.Lock()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with _quiet_lock, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _one_line(error: Exception) -> str:
    kind = "" if isinstance(error, OSError | SyntaxError | ValueError) else type(error).__name__
    return " ".join(f"{kind} {error}".split()) or type(error).__name__
