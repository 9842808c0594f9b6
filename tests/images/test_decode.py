import io
import struct
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from captax.images import ImageError, decode
from captax.images.decode import TooMuchMemory


def saved(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def pixels(source, **options) -> np.ndarray:
    image = decode(source, **options)
    assert image.mode == "RGB"
    return np.asarray(image)


def smooth(width: int = 48, height: int = 32) -> np.ndarray:
    """A picture without edges, so that lossy formats keep it nearly as it is."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, 255 - x * 255 // width], 2).astype("u1")


def corners(width: int = 48, height: int = 32) -> Image.Image:
    """Red, white, white, blue by corner: every one of the 8 orientations looks different."""
    image = Image.new("RGB", (width, height), "white")
    image.paste("red", (0, 0, width // 2, height // 2))
    image.paste("blue", (width // 2, height // 2, width, height))
    return image


def png(mode: int, samples: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """A 16-bit PNG of colour type `mode`; Pillow cannot write most of them."""
    height, width = samples.shape[:2]
    lines = samples.astype(">u2").reshape(height, -1)
    data = zlib.compress(b"".join(b"\0" + line.tobytes() for line in lines))
    header = struct.pack(">IIBBBBB", width, height, 16, mode, 0, 0, 0)
    body = b"\x89PNG\r\n\x1a\n"
    for kind, content in ((b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        body += struct.pack(">I", len(content)) + kind + content + checksum
    return body


def tiff(samples: np.ndarray) -> bytes:
    """An uncompressed 16-bit RGB TIFF, which Pillow cannot write."""
    height, width, _ = samples.shape
    data = samples.astype("<u2").tobytes()
    tags = [
        (256, 3, 1, width),
        (257, 3, 1, height),
        (258, 3, 3, 8 + 2 + 12 * 9 + 4),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, 8 + 2 + 12 * 9 + 4 + 6),
        (277, 3, 1, 3),
        (278, 3, 1, height),
        (279, 4, 1, len(data)),
    ]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0" * 4
    return head + struct.pack("<HHH", 16, 16, 16) + data


LOSSLESS = [
    ("PNG", {}),
    ("PNG", {"save_all": True, "append_images": [Image.new("RGB", (48, 32))]}),
    ("BMP", {}),
    ("PPM", {}),
    ("WEBP", {"lossless": True}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
]
LOSSY = [
    ("JPEG", {"quality": 95}),
    ("JPEG", {"quality": 95, "progressive": True}),
    ("WEBP", {"quality": 95}),
    ("AVIF", {"quality": 95}),
    ("TIFF", {"compression": "jpeg", "quality": 95}),
]


@pytest.mark.parametrize(("format", "options"), LOSSLESS)
def test_lossless_formats_give_the_exact_pixels(format, options):
    image = Image.fromarray(smooth())
    np.testing.assert_array_equal(pixels(saved(image, format, **options)), smooth())


@pytest.mark.parametrize(("format", "options"), LOSSY)
def test_lossy_formats_give_nearly_the_pixels(format, options):
    image = Image.fromarray(smooth())
    got = pixels(saved(image, format, **options)).astype(int)
    assert np.abs(got - smooth()).max() <= 12
    assert np.abs(got - smooth()).mean() < 2


def test_a_path_a_string_and_bytes_are_the_same(tmp_path):
    path = tmp_path / "wrong suffix, odd name [1] é.png"
    path.write_bytes(saved(Image.fromarray(smooth()), "JPEG"))
    want = pixels(path.read_bytes())
    np.testing.assert_array_equal(pixels(path), want)
    np.testing.assert_array_equal(pixels(str(path)), want)


def test_first_frame_of_an_animated_gif():
    colours = [Image.new("RGB", (8, 8), name) for name in ("red", "lime", "blue")]
    data = saved(colours[0], "GIF", save_all=True, append_images=colours[1:])
    assert (pixels(data) == (255, 0, 0)).all()


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP"])
def test_one_bit_and_grey(format):
    bits = np.arange(35).reshape(5, 7) % 3 == 0
    want = np.where(bits, 255, 0)[:, :, None].repeat(3, 2)
    np.testing.assert_array_equal(pixels(saved(Image.fromarray(bits), format)), want)
    grey = Image.fromarray(smooth()[:, :, 0])
    want = smooth()[:, :, :1].repeat(3, 2)
    np.testing.assert_array_equal(pixels(saved(grey, format)), want)


def test_palette():
    image = Image.fromarray(smooth()).quantize(16)
    want = np.asarray(image.convert("RGB"))
    for format in ("PNG", "GIF", "BMP"):
        np.testing.assert_array_equal(pixels(saved(image, format)), want)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_put_on_white(format):
    rgba = np.zeros((4, 256, 4), np.uint8)
    rgba[..., :3] = (200, 100, 0)
    rgba[..., 3] = np.arange(256)
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    alpha = rgba[..., 3:] / 255
    want = rgba[..., :3] * alpha + 255 * (1 - alpha)
    got = pixels(saved(Image.fromarray(rgba), format, **options))
    assert np.abs(got - want).max() <= 1


def test_transparent_grey_and_palette_and_key_colour():
    alpha = Image.fromarray(np.array([[0, 128, 255]], np.uint8))
    got = pixels(saved(Image.merge("LA", [Image.new("L", (3, 1), 90), alpha]), "PNG"))
    np.testing.assert_allclose(got[0, :, 0], [255, 172, 90], atol=1)

    palette = Image.new("P", (3, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.putdata([0, 1, 2])
    # One transparent index, and an alpha value for each.
    got = pixels(saved(palette, "PNG", transparency=1))
    assert got[0].tolist() == [[255, 0, 0], [255, 255, 255], [0, 0, 255]]
    got = pixels(saved(palette, "PNG", transparency=bytes([255, 0, 51])))
    assert got[0].tolist() == [[255, 0, 0], [255, 255, 255], [204, 204, 255]]
    assert pixels(saved(palette, "GIF", transparency=1))[0, 1].tolist() == [255, 255, 255]

    keyed = Image.new("RGB", (2, 1), (1, 2, 3))
    keyed.putpixel((1, 0), (9, 9, 9))
    got = pixels(saved(keyed, "PNG", transparency=(1, 2, 3)))
    assert got[0].tolist() == [[255, 255, 255], [9, 9, 9]]


def test_16_bit_is_scaled_and_not_clipped():
    grey = np.linspace(0, 65535, 64).astype(np.uint16).reshape(4, 16)
    want = np.rint(grey / 257)
    for data in (
        saved(Image.fromarray(grey), "PNG"),
        saved(Image.fromarray(grey), "TIFF"),
        saved(Image.fromarray(grey), "PPM"),
        png(0, grey),
    ):
        got = pixels(data)
        assert np.abs(got[..., 0] - want).max() <= 1
        assert (got == got[..., :1]).all()
    rgb = np.stack([grey, grey[::-1], grey[:, ::-1]], 2)
    for data in (png(2, rgb), tiff(rgb)):
        assert np.abs(pixels(data) - rgb / 257).max() <= 1
    half = np.stack([grey, np.full_like(grey, 32768)], 2)
    assert np.abs(pixels(png(4, half))[..., 0] - (grey / 257 + 255) / 2).max() <= 1.5
    keyed = pixels(png(0, grey, (b"tRNS", struct.pack(">H", int(grey[0, 3])))))
    assert keyed[0, 3].tolist() == [255] * 3
    assert keyed[0, 4, 0] == want[0, 4]


@pytest.mark.parametrize("kind", [np.int32, np.uint32])
@pytest.mark.parametrize("white", [255, 65535, 2**24 - 1, 2**31 - 1, 2**32 - 1])
def test_integers_of_more_than_16_bits_are_shown_over_their_range(kind, white):
    if white > np.iinfo(kind).max:
        pytest.skip("no such numbers")
    values = np.linspace(0, white, 64).round().astype(kind).reshape(4, 16)
    data = saved(Image.fromarray(values.view(np.int32)), "TIFF")
    if kind is np.uint32:
        at = data.index(struct.pack("<HHI", 339, 3, 1)) + 8
        data = data[:at] + b"\1\0" + data[at + 2 :]
    want = values / white * 255
    np.testing.assert_allclose(pixels(data)[..., 0], want, atol=0.51)
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_allclose(pixels(image)[..., 0], want, atol=0.51)
    if kind is np.int32:
        np.testing.assert_allclose(pixels(Image.fromarray(values))[..., 0], want, atol=0.51)
        with pytest.raises(ImageError, match="in no known range"):
            decode(Image.fromarray(values - 1))


def test_dark_integers_of_16_bits_stay_dark():
    grey = np.arange(200, dtype=np.uint16).reshape(10, 20)
    for data in (
        saved(Image.fromarray(grey), "TIFF"),
        saved(Image.fromarray(grey), "PNG"),
        b"P5 20 10 65535\n" + grey.astype(">u2").tobytes(),
        saved(Image.fromarray(grey), "PPM"),
    ):
        assert pixels(data).max() <= 1
        with Image.open(io.BytesIO(data)) as image:
            assert pixels(image).max() <= 1


def test_float_tiff_of_a_known_range():
    unit = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
    for white in (1, 255, 65535):
        got = pixels(saved(Image.fromarray(unit * white), "TIFF"))
        np.testing.assert_allclose(got[..., 0], unit * 255, atol=0.51)
    for strange in (unit - 0.5, unit * 1e6, unit * np.nan):
        with pytest.raises(ImageError, match="are in no known range"):
            decode(saved(Image.fromarray(strange), "TIFF"))


def jpeg_cmyk(cmyk: np.ndarray, transform: int) -> bytes:
    """Four inks as Adobe writes them, inverted; `transform` 2 says that they are YCCK."""
    inks = Image.merge("CMYK", [Image.fromarray(cmyk[..., i]) for i in range(4)])
    data = saved(inks, "JPEG", quality=100, subsampling=0)
    at = data.index(b"Adobe") + 11
    assert data[at] == 0
    return data[:at] + bytes([transform]) + data[at + 1 :]


def test_cmyk_and_ycck_jpeg():
    rgb = smooth()
    cmyk = np.dstack([255 - rgb, np.zeros(rgb.shape[:2], np.uint8)])
    assert np.abs(pixels(jpeg_cmyk(cmyk, 0)).astype(int) - rgb).max() <= 6
    # libjpeg's YCCK is the YCbCr of 255 - CMY; CMY are inverted in an Adobe file, so: of the inks.
    ycc = np.asarray(Image.fromarray(cmyk[..., :3]).convert("YCbCr"))
    ycck = np.dstack([255 - ycc, cmyk[..., 3]])
    assert np.abs(pixels(jpeg_cmyk(ycck, 2)).astype(int) - rgb).max() <= 8


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(format, orientation):
    exif = Image.Exif()
    exif[0x010E] = "something before the orientation"
    exif[0x0112] = orientation
    data = saved(corners(), format, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        want = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(pixels(data), want)
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(pixels(image), want)
    if format == "JPEG":  # big enough to be decoded smaller, and not square
        data = saved(corners(960, 640), format, exif=exif)
        got = decode(data, at_least=(60, 40) if orientation >= 5 else (40, 60))
        assert got.size == ((80, 120) if orientation >= 5 else (120, 80))
        assert np.abs(np.asarray(got)[2, 2] - np.asarray(want)[1, 1].astype(int)).max() < 40


def of_chunks(size: tuple[int, int], *chunks: bytes, after: bytes = b"") -> bytes:
    """A grey-red RGB PNG with `chunks` between its header and its pixels, and `after` behind."""
    lines = zlib.compress((b"\0" + b"\xc8\x80\x80" * size[0]) * size[1])
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    ended = chunk(b"IDAT", lines) + after + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + ended


def chunk(kind: bytes, content: bytes, wrong: int = 0) -> bytes:
    checksum = zlib.crc32(kind + content) ^ wrong
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


_LARGE = zlib.compress(b"x" * (2 << 20))
_ENDLESS = struct.pack(">I", 2**31 - 1) + b"tEXtabc"
METADATA = {
    "a large profile": [chunk(b"iCCP", b"p\0\0" + _LARGE)],
    "a large text": [chunk(b"zTXt", b"k\0\0" + _LARGE)],
    "a large text in any language": [chunk(b"iTXt", b"k\0\1\0\0\0" + _LARGE)],
    "many texts": [chunk(b"zTXt", b"k%d\0\0" % n + _LARGE) for n in range(40)],
    "a large raw profile": [chunk(b"zTXt", b"Raw profile type exif\0\0" + _LARGE)],
    "a raw profile that is no zlib": [chunk(b"zTXt", b"Raw profile type exif\0\0abc")],
    "large EXIF": [chunk(b"eXIf", bytes(1 << 20))],
    "a text with a wrong sum": [chunk(b"tEXt", b"a\0b", 1)],
    "EXIF with a wrong sum": [chunk(b"eXIf", b"II*\0", 1)],
    "transparency with a wrong sum": [chunk(b"tRNS", bytes(6), 1)],
    "half of a transparency": [chunk(b"tRNS", b"\0")],
    "a suggested palette with a wrong sum": [chunk(b"PLTE", b"abc", 1)],
    "empty chunks": [chunk(b"gAMA", b""), chunk(b"pHYs", b""), chunk(b"iCCP", b"")],
    "a text that ends beyond the file": [_ENDLESS],
}


@pytest.mark.parametrize("name", METADATA)
@pytest.mark.parametrize("behind", [False, True])
def test_metadata_of_a_png_do_not_keep_its_pixels_back(name, behind):
    about = b"".join(METADATA[name])
    data = of_chunks((5, 4), after=about) if behind else of_chunks((5, 4), about)
    np.testing.assert_array_equal(pixels(data), np.full((4, 5, 3), (200, 128, 128), np.uint8))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_a_jpeg_without_its_end_marker_has_all_its_pixels(options):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8))
    data = saved(noise, "JPEG", **options)
    want = pixels(data)
    for ending in (data[:-1], data[:-2], data[:-2] + bytes(50), data[:-2] + b"\xff"):
        np.testing.assert_array_equal(pixels(ending), want)
        assert decode(ending, at_least=(4, 4)).size == (20, 15)
    for cut in (3, 4, 5, 9, 100, 1000, len(data) // 2):
        with pytest.raises(ImageError, match="truncated"):
            decode(data[:-cut])
    if options:  # nothing is damaged there, and yet something is missing
        boundary = data.rindex(b"\xff\xda" if "progressive" in options else b"\xff\xd2")
        with pytest.raises(ImageError, match="truncated"):
            decode(data[:boundary])


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
    b'syntax-ns#"><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
    b'tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


def with_xmp(format: str, **options) -> bytes:
    if format == "PNG":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP.decode(), zip=bool(options.pop("packed", False)))
        return saved(corners(), format, pnginfo=info, **options)
    if format == "TIFF":
        return saved(corners(), format, tiffinfo={700: XMP}, **options)
    return saved(corners(), format, xmp=XMP, **options)


def profiled(kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
    info = PngInfo()
    digits = "\n".join(content.hex()[at : at + 72] for at in range(0, 2 * len(content), 72))
    text = f"\nexif\n{len(content):8}\n{digits}\n"
    if kind == "international":
        info.add_itxt("Raw profile type exif", text, zip=True)
    else:
        info.add_text("Raw profile type exif", text, zip=kind == "packed")
    return saved(corners(), "PNG", pnginfo=info)


TURNED = {
    **{f"XMP in {format}": with_xmp(format) for format in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")},
    "packed XMP in PNG": with_xmp("PNG", packed=True),
    **{f"a {kind} raw profile": profiled(kind) for kind in ("plain", "packed", "international")},
}


@pytest.mark.parametrize("name", TURNED)
def test_orientation_counts_wherever_pillow_finds_it(name):
    data = TURNED[name]
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        want = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert want.shape == (48, 32, 3)
    np.testing.assert_array_equal(pixels(data), want)
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(pixels(image), want)


def test_the_orientation_in_exif_counts_before_that_in_xmp():
    exif = Image.Exif()
    exif[0x0112] = 1
    for format in ("JPEG", "PNG", "WEBP"):
        assert pixels(with_xmp(format, exif=exif)).shape == (32, 48, 3)


def test_damaged_exif_is_no_reason_to_refuse_or_warn():
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description that lies outside of its entry"
    data = saved(corners(), "JPEG", exif=exif)
    start = data.index(b"Exif\0\0")
    for at in range(start + 6, start + 50):
        for value in (0, 255):
            decode(data[:at] + bytes([value]) + data[at + 1 :])


def test_at_least_decodes_big_jpegs_smaller_and_nothing_below_twice_the_size():
    big = Image.fromarray(smooth(1600, 1200))
    data = saved(big, "JPEG", quality=95)
    assert decode(data).size == (1600, 1200)
    assert decode(data, at_least=(75, 75)).size == (200, 150)
    assert decode(data, at_least=(76, 76)).size == (400, 300)
    assert decode(data, at_least=(260, 260)).size == (800, 600)
    assert decode(data, at_least=(500, 900)).size == (1600, 1200)
    exact = decode(data).resize((260, 260), Image.Resampling.BICUBIC)
    fast = decode(data, at_least=(260, 260)).resize((260, 260), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(exact).astype(int) - np.asarray(fast)).max() <= 3
    assert decode(saved(big, "PNG"), at_least=(75, 75)).size == (1600, 1200)


def test_more_pixels_than_pillow_warns_of(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow: a warning above, an error at 2x
    image = Image.fromarray(smooth())
    for format in ("JPEG", "PNG", "BMP", "GIF", "AVIF"):
        assert decode(saved(image, format)).size == (48, 32)
    assert decode(saved(Image.fromarray(smooth(44, 32)), "TIFF")).size == (44, 32)
    try:  # Pillow 12 and later bound WebP by themselves, whatever max_pixels says
        assert decode(saved(Image.fromarray(smooth(64, 48)), "WEBP")).size == (64, 48)
    except ImageError as error:
        assert "more pixels than Pillow reads from a WEBP" in str(error)


def test_a_bomb_is_refused_before_it_is_decoded():
    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")
    with pytest.raises(ImageError, match=r"60000x60000 is more than 200,000,000 pixels"):
        decode(bomb)
    small = Image.fromarray(smooth())
    for source in (saved(small, "JPEG"), saved(small, "GIF"), small, np.asarray(small)):
        assert decode(source, max_pixels=48 * 32).size == (48, 32)
        with pytest.raises(ImageError, match=r"48x32 is more than 1,535 pixels"):
            decode(source, max_pixels=48 * 32 - 1)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "PPM"])
def test_truncated_files(format, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    data = saved(Image.fromarray(noise), format)
    path = tmp_path / "cut.jpg"
    for kept in (20, len(data) // 3, len(data) * 2 // 3):
        path.write_bytes(data[:kept])
        with pytest.raises(ImageError, match=r"cut\.jpg: ") as error:
            decode(path)
        assert "\n" not in str(error.value)


def codestream(image: Image.Image, name: str, **options) -> bytes:
    file = io.BytesIO()
    file.name = name  # by which Pillow chooses a file or a bare codestream
    image.save(file, "JPEG2000", **options)
    return file.getvalue()


@pytest.mark.parametrize("name", ["a.jp2", "a.j2k"])
def test_jpeg_2000(name):
    image = Image.fromarray(smooth())
    for options in ({}, {"tile_size": (16, 16)}, {"num_resolutions": 1}):
        np.testing.assert_array_equal(pixels(codestream(image, name, **options)), smooth())
    grey = np.asarray(image.convert("L"))
    np.testing.assert_array_equal(
        pixels(codestream(image.convert("L"), name)), grey[:, :, None].repeat(3, 2)
    )
    clear = image.convert("RGBA")
    clear.putalpha(0)
    assert (pixels(codestream(clear, name)) == 255).all()


@pytest.mark.parametrize("name", ["a.jp2", "a.j2k"])
def test_what_a_jpeg_2000_claims_is_refused_before_it_is_decoded(name):
    data = codestream(Image.fromarray(smooth()), name)
    start = data.index(b"\xff\x4f\xff\x51") + 8  # the far corner, the near one, the tiles'
    cases = {
        (0, 100_000, 100_000): "100000x100000 is more than",
        (0, 0, 0): "no size",
        (32, 5 << 16, 0): "more than 4 channels",
    }
    for (at, one, two), message in cases.items():
        broken = bytearray(data)
        broken[start + at : start + at + 8] = struct.pack(">II", one, two)
        with pytest.raises(ImageError, match=message):
            decode(bytes(broken))
    tiles = bytearray(data)
    tiles[start : start + 8] = struct.pack(">II", 14_000, 14_000)
    tiles[start + 16 : start + 24] = struct.pack(">II", 1, 1)
    with pytest.raises(TooMuchMemory):
        decode(bytes(tiles))
    for cut in (len(data) // 2, 60, 30, 12):
        with pytest.raises(ImageError):
            decode(data[:cut])


def test_heic():
    heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    heif.from_pillow(Image.fromarray(smooth(480, 320))).save(file, quality=95)
    data = file.getvalue()
    assert np.abs(pixels(data).astype(int) - smooth(480, 320)).max() < 16
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    heif.from_pillow(corners()).save(file, exif=exif.tobytes())
    assert decode(file.getvalue()).size == (32, 48)
    huge = bytearray(data)
    at = data.index(b"ispe") + 8
    huge[at : at + 8] = struct.pack(">II", 100_000, 100_000)
    with pytest.raises(ImageError, match="100000x100000 is more than"):
        decode(bytes(huge))
    with pytest.raises(ImageError, match="HEIF"):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize("brand", [b"miaf", b"mif1", b"MA1B", b"heic"])
def test_avif_is_told_by_any_of_its_brands(brand):
    data = saved(corners(), "AVIF", quality=100)
    assert b"avif" in data[16:32]
    if brand == b"heic":  # of two kinds, the major brand tells
        with pytest.raises(ImageError, match="HEI"):
            decode(data[:8] + brand + data[12:])
    else:
        np.testing.assert_array_equal(pixels(data[:8] + brand + data[12:]), pixels(data))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"])
def test_damaged_files_raise_only_image_errors(format):
    """Warnings are errors here, so that none leaks either."""
    exif = Image.Exif()
    exif[0x0112] = 3
    data = saved(corners(), format, exif=exif)
    random = np.random.default_rng(1)
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(random.integers(1, 8)):
            damaged[random.integers(min(len(data), 400))] = random.integers(256)
        try:
            assert decode(bytes(damaged), max_pixels=10**7).mode == "RGB"
        except ImageError as error:
            assert "\n" not in str(error)


def test_malformed_animation_chunks_do_not_warn():
    data = saved(corners(), "PNG", save_all=True, append_images=[Image.new("RGB", (48, 32))])
    at = data.index(b"acTL")
    content = b"acTL" + struct.pack(">II", 0, 0)
    data = data[:at] + content + struct.pack(">I", zlib.crc32(content)) + data[at + 16 :]
    np.testing.assert_array_equal(pixels(data), np.asarray(corners()))


def test_what_is_no_picture(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    cases = {
        "empty.jpg": (b"", r"empty\.jpg: is empty"),
        "text.jpg": (b"this is not a picture", r"text\.jpg: not a picture.*'this is not '"),
        "page.png": (b"<!doctype html>\n<p>404", r"page\.png: not a picture"),
        "phone.heic": (
            b"\0\0\0\x18ftypheic\0\0\0\0",
            r"phone\.heic: .* HEIC .* pip install 'captax\[heic\]', or convert it to JPEG",
        ),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=message) as error:
            decode(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(ImageError, match=r"gone\.jpg: no such file"):
        decode(tmp_path / "gone.jpg")
    with pytest.raises(ImageError, match="is a directory"):
        decode(tmp_path)
    with pytest.raises(ImageError, match=r"not URLs; download it first"):
        decode("https://example.org/cat.jpg")
    with pytest.raises(ImageError, match="null"):
        decode("a\0b.jpg")
    with pytest.raises(ImageError, match="picture of 3 bytes"):
        decode(b"abc")


def test_pillow_pictures_are_taken_and_left_alone(tmp_path):
    image = Image.fromarray(smooth())
    got = decode(image)
    got.paste("red", (0, 0, 9, 9))
    np.testing.assert_array_equal(np.asarray(image), smooth())
    data = saved(image, "PNG")
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    with (
        Image.open(tmp_path / "cut.png") as lazy,
        pytest.raises(ImageError, match=r"cut\.png: cannot be decoded"),
    ):
        decode(lazy)
    with pytest.raises(ImageError, match="no pixels"):
        decode(Image.new("RGB", (0, 5)))


def test_arrays():
    rgb = smooth()
    np.testing.assert_array_equal(pixels(rgb), rgb)
    np.testing.assert_array_equal(pixels(rgb[::2, ::-1]), rgb[::2, ::-1])
    for grey in (rgb[..., 0], rgb[..., :1]):
        np.testing.assert_array_equal(pixels(grey), rgb[..., :1].repeat(3, 2))
    rgba = np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])
    np.testing.assert_array_equal(pixels(rgba), rgb)
    rgba[..., 3] = 0
    assert (pixels(rgba) == 255).all()
    for kind in (np.float32, np.float64):
        np.testing.assert_array_equal(pixels((rgb / 255).astype(kind)), rgb)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 8, 8), np.uint8), "channels last"),
        (np.zeros((2, 8, 8, 3), np.uint8), "channels last"),
        (np.zeros(5, np.uint8), "channels last"),
        (np.zeros((8, 8, 3), np.int64), "must be uint8"),
        (np.zeros((8, 8), bool), "must be uint8"),
        (np.full((8, 8, 3), 255.0), r"within 0\.\.1"),
        (np.full((8, 8, 3), np.nan), r"within 0\.\.1"),
        (np.full((8, 8, 3), -0.1), r"within 0\.\.1"),
        (np.zeros((0, 8, 3), np.uint8), "no pixels"),
    ],
)
def test_arrays_that_are_no_picture(array, message):
    with pytest.raises(ImageError, match=message):
        decode(array)


def test_threads_decode_alike_and_leave_the_process_settings_alone():
    image = corners()
    sources = [
        saved(image, format, **options) for format, options in LOSSLESS + LOSSY for _ in range(20)
    ]
    want = [pixels(source) for source in sources]
    settings = (list(warnings.filters), Image.MAX_IMAGE_PIXELS)
    with ThreadPoolExecutor(8) as pool:
        for got, one in zip(pool.map(pixels, sources), want, strict=True):
            np.testing.assert_array_equal(got, one)
    assert (list(warnings.filters), Image.MAX_IMAGE_PIXELS) == settings


def test_the_examples_are_readable_and_small():
    examples = sorted((Path(__file__).parents[2] / "examples").glob("*.jpg"))
    assert len(examples) >= 6
    assert all(max(decode(path).size) <= 640 for path in examples)
    readme = (examples[0].parent / "README.md").read_text(encoding="utf-8")
    assert all(f"`{path.name}`" in readme for path in examples)
