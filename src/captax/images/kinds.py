"""Which kind of picture or video a file is, by its name and first bytes; it is not decoded."""

import os
import re

# What the functions below need of a file.
HEADER = 512

_READABLE = (
    "jpg jpeg jpe jfif mpo png apng webp gif bmp dib tif tiff avif avifs ppm pgm pbm pnm "
    "heic heif hif jp2 j2k j2c jpc jpx jpf"
)
_OTHER = (
    "jxl svg svgz psd psb tga ico cur icns eps pcx dds exr qoi bpg jxr wdp hdp xcf pfm pam "
    "dng cr2 cr3 crw nef nrw arw srf sr2 orf rw2 raf pef srw x3f 3fr erf kdc dcr mrw rwl iiq"
)
# Suffixes of pictures that captax reads, some of them with an extra.
IMAGE_SUFFIXES = frozenset(f".{each}" for each in _READABLE.split())
# Other pictures. A search finds them too, so that none is left out without a word.
_OTHER_SUFFIXES = frozenset(f".{each}" for each in _OTHER.split())

VIDEO_SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"))

_SIGNATURES = [
    ("JPEG", re.compile(rb"\xff\xd8\xff")),
    ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("WEBP", re.compile(rb"RIFF....WEBP", re.DOTALL)),
    ("GIF", re.compile(rb"GIF8[79]a")),
    ("TIFF", re.compile(rb"II[*+]\0|MM\0[*+]")),
    ("JPEG2000", re.compile(rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n")),
    ("JPEG XL", re.compile(rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n")),
    ("Photoshop", re.compile(rb"8BPS\0")),
    ("icon", re.compile(rb"\0\0[\1\2]\0[^\0]\0...\0", re.DOTALL)),
    ("SVG", re.compile(rb"(?s)(\xef\xbb\xbf)?\s*(<svg\b|<(\?xml|!--|!DOCTYPE svg).*?<svg\b)")),
    ("BMP", re.compile(rb"BM")),
    ("PPM", re.compile(rb"P[1-6]\s")),
]  # fmt: skip
# These signatures are so short that texts begin with them too.
_SURELY = {
    "BMP": re.compile(rb"BM.{4}\0{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL),
    "PPM": re.compile(rb"P[1-6](?:\s+(?:#[^\n]*\n\s*)*\d{1,10}){2}\s"),
    "JPEG XL": re.compile(rb"\xff\x0a[^\n]|\0"),
}
# The brands of ISO media files that hold still pictures.
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1"), "HEIF"),
    b"crx ": "Canon raw",
}
# The kinds of videos, by the names of their readers in FFmpeg.
_VIDEOS = [
    ("mov", re.compile(rb"....(?:ftyp|moov|wide|mdat|free|skip)", re.DOTALL)),
    ("matroska", re.compile(rb"\x1a\x45\xdf\xa3")),
    ("avi", re.compile(rb"RIFF....AVI ", re.DOTALL)),
]


def kind_of(header: bytes) -> str | None:
    """The kind of picture that a file begins like, by Pillow's name if it has one."""
    if header[4:8] == b"ftyp":
        return _kind_of_media(header)
    return next((kind for kind, signature in _SIGNATURES if signature.match(header)), None)


def _kind_of_media(header: bytes) -> str | None:
    """The kind by the brands: the major one or, if that tells nothing, the compatible ones."""
    end = min(int.from_bytes(header[:4], "big"), len(header))
    brands = [header[8:12], *(header[at : at + 4] for at in range(16, end - 3, 4))]
    kinds = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
    if brands[0] == b"mif1" and "AVIF" in kinds:  # the brand of both
        return "AVIF"
    return kinds[0] if kinds else None


def _suffix(path: str | os.PathLike[str]) -> str:
    return os.path.splitext(path)[1].lower()  # noqa: PTH122 (a search asks this very often)


def is_image_path(path: str | os.PathLike[str]) -> bool:
    """Whether the name of `path` ends like that of a picture that captax reads."""
    return _suffix(path) in IMAGE_SUFFIXES


def names_picture(path: str | os.PathLike[str], *, videos: bool = False) -> bool:
    """Whether the name of `path` ends like a picture's, whether or not captax reads it.

    With `videos`, like that of a video that captax reads too.
    """
    suffix = _suffix(path)
    known = suffix in IMAGE_SUFFIXES or suffix in _OTHER_SUFFIXES
    return known or (videos and suffix in VIDEO_SUFFIXES)


def begins_like_picture(header: bytes) -> bool:
    """Whether a file begins as only pictures do, whatever its name is."""
    kind = kind_of(header)
    return kind is not None and (kind not in _SURELY or bool(_SURELY[kind].match(header)))


def names_video(path: str | os.PathLike[str]) -> bool:
    """Whether the name of `path` ends like that of a video that captax reads."""
    return _suffix(path) in VIDEO_SUFFIXES


def video_kind(header: bytes) -> str | None:
    """The kind of video that a file begins like, as FFmpeg names it; sounds begin so too."""
    if kind_of(header) is not None:
        return None
    return next((kind for kind, signature in _VIDEOS if signature.match(header)), None)


def suffix_told(name: str) -> str:
    """The suffix of a file that is no picture, as it is counted in a summary."""
    suffix = _suffix(name)
    if not suffix:
        return "without suffix"
    return suffix if re.fullmatch(r"\.[\w-]{1,16}", suffix) else "others"
