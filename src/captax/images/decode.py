"""Decodes any common file, bytes, Pillow picture or array to an upright RGB picture.

Pillow's own `Image.open` limits pixels by a process-wide setting and issues warnings, and both
belong to the caller. So the plugin is chosen here, by the file's signature, and the limit is a
parameter.
"""

import contextlib
import io
import os
import struct
import threading
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from captax.errors import CaptaxError
from captax.files import PICTURE_LIMIT, open_regular
from captax.images.prepared import Prepared

ImageSource = str | os.PathLike[str] | bytes | Image.Image | np.ndarray | Prepared

MAX_PIXELS = 200_000_000

_ORIENTATION_TAG = 0x0112
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_READABLE = "JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF or PPM"


class ImageError(CaptaxError):
    """A picture cannot be found, read or accepted; the message names it."""


class TooManyPixels(ImageError):
    """A picture has more pixels than are allowed."""


class _Jpeg(JpegImageFile):
    """JPEG without Pillow's EXIF parser, which warns about the damaged EXIF many cameras write."""

    def getexif(self) -> Image.Exif:
        return Image.Exif()


class _Tiff(TiffImageFile):
    """TIFF that leaves orientation to `decode`, for the same reason as `_Jpeg`."""

    def getexif(self) -> Image.Exif:
        return Image.Exif()


def decode(
    source: ImageSource,
    *,
    max_pixels: int = MAX_PIXELS,
    at_least: tuple[int, int] | None = None,
) -> Image.Image:
    """The picture as upright 8-bit RGB: EXIF orientation applied, transparency put on white.

    `source` is a path, the bytes of a file, a Pillow picture, or an array: uint8 [height width],
    [height width 1|3|4], or the same in floats within 0..1. 16-bit pictures are scaled to 8 bits;
    an animation gives its first frame. A Pillow picture is not modified. A `Prepared` picture gives
    its pixels.

    `at_least` is the (height, width) that the picture will be resized to: a JPEG is then decoded
    at 1/2, 1/4 or 1/8 of its size as long as twice `at_least` remains. That is much faster and
    hardly visible after the resize.

    Raises `ImageError` if `source` is missing, damaged, not a picture, or larger than `max_pixels`
    (which is checked before any pixel is decoded).
    """
    if isinstance(source, Image.Image):
        name = getattr(source, "filename", "") or f"{source.mode} picture"
        _check_size(source.size, name, max_pixels)
        try:
            rgb = _rgb(source, name)
        except ImageError:
            raise
        except Exception as error:
            raise ImageError(f"{name}: cannot be decoded: {_one_line(error)}") from None
        return _upright(rgb, _exif_orientation(source))
    if isinstance(source, Prepared):
        return source.image
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, bytes | bytearray):
        return _from_file(
            io.BytesIO(source), f"picture of {len(source)} bytes", max_pixels, at_least
        )
    if not isinstance(source, str | os.PathLike):
        raise ImageError(
            f"{type(source).__name__} is not a picture; give a path, bytes, a Pillow picture or a "
            "NumPy array [height width 3]"
        )
    try:
        with open_regular(source, limit=PICTURE_LIMIT) as file:
            return _from_file(file, os.fspath(source), max_pixels, at_least)
    except FileNotFoundError:
        if str(source).startswith(("http://", "https://")):
            raise ImageError(f"{source}: captax reads files, not URLs; download it first") from None
        raise ImageError(f"{source}: no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{source}: is a directory, not a picture; give a file") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{source}: cannot be read: {reason}") from None


def _from_file(
    file: io.BytesIO | io.BufferedReader,
    name: str,
    max_pixels: int,
    at_least: tuple[int, int] | None,
) -> Image.Image:
    header = file.read(512)
    file.seek(0)
    opener = _opener(header, name)
    # Formats that can warn are decoded with Pillow's warnings off. That state belongs to the
    # process, so only one thread does it at a time. The common formats run in parallel.
    noisy = opener in (_Tiff, GifImageFile) or b"acTL" in header
    with _quiet() if noisy else contextlib.nullcontext():
        try:
            image = opener(file)
            orientation = _tiff_orientation(image) if isinstance(image, _Tiff) else None
            _check_size(image.size, name, max_pixels)
            if at_least is not None and isinstance(image, _Jpeg):
                height, width = at_least
                if _exif_orientation(image) >= 5:  # lies on its side
                    height, width = width, height
                image.draft(None, (2 * width, 2 * height))
            rgb = _rgb(image, name)
        except ImageError:
            raise
        except Image.DecompressionBombError:
            raise TooManyPixels(
                f"{name}: has more pixels than Pillow reads from a {opener.format} picture; "
                "save it smaller"
            ) from None
        except Exception as error:  # decoders fed damaged bytes raise nearly anything
            raise ImageError(
                f"{name}: damaged or truncated {opener.format} picture: {_one_line(error)}"
            ) from None
    return _upright(rgb, orientation or _exif_orientation(image))


def _opener(header: bytes, name: str) -> type[ImageFile.ImageFile]:
    if header.startswith(b"\xff\xd8\xff"):
        return _Jpeg
    if header.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile
    if header.startswith(b"RIFF") and header[8:12] == b"WEBP":
        return WebPImageFile
    if header.startswith((b"GIF87a", b"GIF89a")):
        return GifImageFile
    if header.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return _Tiff
    if header.startswith(b"BM"):
        return BmpImageFile
    if header[4:12] in (b"ftypavif", b"ftypavis"):
        return AvifImageFile
    if header[:1] == b"P" and header[1:2] in b"123456" and header[2:3].isspace():
        return PpmImageFile
    if not header:
        raise ImageError(f"{name}: is empty (0 bytes)")
    if header[4:8] == b"ftyp":
        raise ImageError(
            f"{name}: captax does not read HEIC pictures and videos; convert it to JPEG first"
        )
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
        values = np.asarray(image)
        eight_bit = Image.fromarray(_to_8_bit(values, name))
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


def _to_8_bit(values: np.ndarray, name: str) -> np.ndarray:
    """Integers have 16 bits; floats have the smallest usual range that holds them."""
    low, high = float(values.min()), float(values.max())
    ranges = (1, 255, 65535) if values.dtype.kind == "f" else (65535,)
    white = next((white for white in ranges if low >= 0 and high <= white), None)
    if white is None:  # NaN comes here too
        raise ImageError(
            f"{name}: values {low:g}..{high:g} are in no known range; "
            f"scale them to 0..{ranges[-1]} or save the picture with 8 bits"
        )
    return np.rint(values * (255 / white)).astype(np.uint8)


def _exif_orientation(image: Image.Image) -> int:
    """The orientation in the EXIF block of `image`; 1 (upright) if the block has no orientation."""
    exif = image.info.get("exif", b"")
    if not isinstance(exif, bytes):
        return 1
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    with contextlib.suppress(struct.error):
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", tiff, entry)
            if tag == _ORIENTATION_TAG:
                (value,) = struct.unpack_from(order + ("I" if kind == 4 else "H"), tiff, entry + 8)
                return value
    return 1


def _tiff_orientation(image: TiffImageFile) -> int:
    return image.tag_v2.get(_ORIENTATION_TAG, 1)  # loading removes the tag


_quiet_lock = threading.Lock()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with _quiet_lock, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _one_line(error: Exception) -> str:
    kind = "" if isinstance(error, OSError | SyntaxError | ValueError) else type(error).__name__
    return " ".join(f"{kind} {error}".split()) or type(error).__name__
