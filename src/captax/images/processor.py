"""Prepares pictures for a vision encoder: resizes, crops, normalises and batches them."""

import dataclasses
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from captax.errors import quoted
from captax.files import CONFIG_LIMIT, parse_json, read_text, write_text
from captax.images.decode import MAX_PIXELS, ImageError, ImageSource, decode
from captax.images.geometry import Fit, Size, shortest_edge, stretched
from captax.images.prepared import Prepared

Kind = TypeVar("Kind", bound="Processor")
Resample = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
_RESAMPLE: tuple[Resample, ...] = get_args(Resample)  # in the order of Pillow's 0..5
_STEPS = {"do_convert_rgb", "do_resize", "do_center_crop", "do_rescale", "do_normalize"}
_CHANGES_PIXELS = {
    "crop_pct",
    "rescale_offset",
    "include_top",
    "size_divisor",
    "pad_size",
    "use_square_size",
}

PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
_HALF = [0.5, 0.5, 0.5]
_OPENAI = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
# The defaults of transformers' classes for keys that a config leaves out.
_CLASSES: dict[str, dict[str, Any]] = {
    "ViT": {"size": 224, "resample": 2, "do_center_crop": False},
    "DeiT": {"size": 256, "resample": 3, "do_center_crop": True, "crop_size": 224},
    "Blip": {"size": 384, "resample": 3, "do_center_crop": False, **_OPENAI},
    "CLIP": {
        "size": {"shortest_edge": 224},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": 224,
        **_OPENAI,
    },
    "Siglip": {"size": {"height": 224, "width": 224}, "resample": 3, "do_center_crop": False},
    "ConvNext": {
        "size": {"shortest_edge": 384},
        "resample": 3,
        "do_center_crop": False,
        "crop_pct": 224 / 256,
    },
}
_NAMED = re.compile(r"(\w+?)(?:ImageProcessor|FeatureExtractor)(?:Fast|Pil)?")
_LONG = 2**16  # sides that are twice as long are reduced before they are resized
_WHOLE = 384  # ConvNeXT's class crops if the size is below this, and stretches otherwise


class Processor:
    """What all processors share: how pictures are decoded, normalised, read and written.

    `size` is the (height, width) that the encoder takes, and `decode_size` the most that resizing
    to it can use. `resample` names Pillow's filter, with its antialiasing, as checkpoints were
    trained with it.
    """

    resample: Resample
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    rescale: float

    @property
    def decode_size(self) -> tuple[int, int]:
        """The (height, width) to give `decode` as `at_least`: the most that this resize uses."""
        raise NotImplementedError

    @property
    def frame_size(self) -> tuple[int, int]:
        """As `decode_size`, of a frame of a video."""
        return self.decode_size

    @property
    def most_tiles(self) -> Size:
        """The rows and columns of the picture that has the most tiles; (0, 0) if none has any."""
        return 0, 0

    @property
    def most_views(self) -> int:
        """The most views that a picture is prepared as: its tiles, and the whole."""
        rows, columns = self.most_tiles
        return rows * columns + 1

    def to_config(self) -> dict[str, Any]:
        """The contents of a Hugging Face preprocessor_config.json that does the same."""
        raise NotImplementedError

    @classmethod
    def from_config(cls: type[Kind], config: Mapping[str, Any]) -> Kind:
        """The processor that a Hugging Face preprocessor_config.json describes."""
        raise NotImplementedError

    def check_pixels(self) -> None:
        """Raise `ImageError` if the filter, the mean or the deviation cannot be."""
        if self.resample not in _RESAMPLE:
            raise ImageError(
                f"resample {quoted(self.resample)}: must be one of {', '.join(_RESAMPLE)}"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ImageError(f"mean {self.mean}, std {self.std}: give three each, std above 0")

    def decode(
        self, image: ImageSource, *, max_pixels: int = MAX_PIXELS, **limits: Any
    ) -> Image.Image:
        """`image` upright, in RGB, and at least as large as the resize needs.

        `limits` are the other arguments of `captax.images.decode`, which says what is raised too.
        """
        return decode(image, max_pixels=max_pixels, at_least=self.decode_size, **limits)

    def resized(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        """`image` stretched to `size` (height, width)."""
        height, width = size
        resample = Image.Resampling[self.resample.upper()]
        return _shortened(image, (width, height)).resize((width, height), resample)

    @property
    def factors(self) -> tuple[Float32[np.ndarray, " 3"], Float32[np.ndarray, " 3"]]:
        """The scale and the offset of each channel: normalised are `pixels * scale + offset`."""
        mean, std = np.array(self.mean, np.float64), np.array(self.std, np.float64)
        return (self.rescale / std).astype(np.float32), (-mean / std).astype(np.float32)

    def normalize(
        self, pixels: UInt8[np.ndarray, "batch height width 3"]
    ) -> Float32[np.ndarray, "batch height width 3"]:
        """`(pixels * rescale - mean) / std` of 8-bit pixels."""
        scale, offset = self.factors
        normalized = np.empty(pixels.shape, np.float32)
        # Factors for a whole line of pixels at once are three times as fast as NumPy's loop over 3.
        width = pixels.shape[2]
        lines = normalized.reshape(-1, 3 * width)
        np.multiply(pixels.reshape(lines.shape), np.tile(scale, width), out=lines)
        lines += np.tile(offset, width)
        return normalized

    def pixel_config(self) -> dict[str, Any]:
        """The part of `to_config` that says how pixels are computed."""
        return {
            "do_convert_rgb": True,
            "do_resize": True,
            "resample": _RESAMPLE.index(self.resample),
            "do_rescale": True,
            "rescale_factor": self.rescale,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }

    def save(self, directory: str | Path) -> None:
        """Write what `load` and transformers read into a checkpoint directory."""
        contents = json.dumps(self.to_config(), indent=2)
        write_text(Path(directory) / PREPROCESSOR, contents + "\n", own=True)

    @classmethod
    def load(cls: type[Kind], directory: str | Path) -> Kind:
        """Read the processor of a checkpoint directory, from the file that `described` finds.

        Raises:
            ImageError: no file has it, or it asks for what this processor does not do.
        """
        path, config = described(directory)
        try:
            return cls.from_config(config)
        except ImageError as error:
            raise ImageError(f"{path}: {error}") from None


@dataclasses.dataclass(frozen=True)
class ImageProcessor(Processor):
    """Pictures to `Float32 [batch height width 3]`: `(resized * rescale - mean) / std`.

    `size` is the (height, width) that the encoder takes. `resize="stretch"` resizes to
    `resize_to` (height, width), by default `size`, and does not keep the aspect ratio;
    `"shortest_edge"` resizes so that the shorter side is `resize_to` pixels, by default the larger
    of `size`. If the result is larger than `size`, its centre is cut out; if it is smaller, it is
    padded with black.
    """

    size: tuple[int, int]
    resize: Literal["stretch", "shortest_edge"] = "stretch"
    resize_to: tuple[int, int] | int | None = None
    resample: Resample = "bicubic"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    rescale: float = 1 / 255

    def __post_init__(self) -> None:
        height, width = self.size
        to = self.resize_to
        if to is None:
            to = self.size if self.resize == "stretch" else max(self.size)
            object.__setattr__(self, "resize_to", to)
        if self.resize == "stretch":
            fits = isinstance(to, tuple) and len(to) == 2 and min(to) >= 1
        elif self.resize == "shortest_edge":
            fits = isinstance(to, int) and to >= 1
        else:
            raise ImageError(f'resize {quoted(self.resize)}: must be "stretch" or "shortest_edge"')
        if not fits or min(height, width) < 1 or height * width > MAX_PIXELS:
            raise ImageError(
                f"size {self.size}, {self.resize} to {to}: give (height, width) in pixels, "
                "or resize_to as one number for shortest_edge"
            )
        self.check_pixels()

    @property
    def decode_size(self) -> tuple[int, int]:
        to = self.resize_to
        assert to is not None
        return to if isinstance(to, tuple) else (to, to)

    def __call__(
        self, images: Sequence[ImageSource] | np.ndarray
    ) -> Float32[np.ndarray, "batch height width 3"]:
        """Decode, resize and normalise `images` (anything `decode` takes) into one batch.

        Raises `ImageError` for the first picture that cannot be read.
        """
        if isinstance(images, str | bytes | PathLike | Image.Image | Prepared) or (
            isinstance(images, np.ndarray) and images.ndim < 4
        ):
            raise ImageError("expected a sequence of pictures, got one picture; pass [picture]")
        pixels = np.empty((len(images), *self.size, 3), np.uint8)
        for index, image in enumerate(images):
            try:
                ready = image if isinstance(image, Prepared) else self.decode(image)
                pixels[index] = self.prepare(ready).pixels
            except ImageError as error:
                # The error of a file names its path; other pictures are named by their index.
                place = "" if isinstance(image, str | PathLike) else f"image {index}: "
                raise ImageError(f"{place}{error}") from None
        return self.normalize(pixels)

    def prepare(self, image: Image.Image | Prepared, *, whole: bool = False) -> Prepared:
        """RGB `image` resized and cut or padded to `size`; a prepared picture is not changed.

        With `whole`, `image` is a `view` already: all of it is stretched to `size`, and nothing is
        cut. Raises `ImageError` if a very narrow picture would become huge because its aspect ratio
        is kept, or if a picture was prepared for another size.
        """
        if isinstance(image, Prepared):
            return checked(image, self.size)
        picture = image.height, image.width
        fit = stretched(picture, self.size, self.size) if whole else self.fit(image)
        if math.prod(fit.resized) > MAX_PIXELS:
            raise ImageError(
                f"{image.width}x{image.height} picture: too narrow to be resized to a shortest "
                f"edge of {self.resize_to}; crop it first"
            )
        return Prepared(np.asarray(self.resized(image, fit.resized).crop(fit.box)), fit.seen)

    def prepare_frame(self, image: Image.Image) -> Prepared:
        """A frame of a video prepared, as a picture is."""
        return self.prepare(image)

    def view(self, image: Image.Image | Prepared) -> Image.Image:
        """The part of RGB `image` that `prepare` keeps, neither resized nor stretched.

        It is black where `prepare` pads.
        """
        return image.image if isinstance(image, Prepared) else image.crop(self.fit(image).view)

    def fit(self, image: Image.Image) -> Fit:
        """Where `image` is resized and cut."""
        picture = image.height, image.width
        if self.resize == "shortest_edge":
            return shortest_edge(picture, min(self.decode_size), self.size)
        return stretched(picture, self.decode_size, self.size)

    def to_config(self) -> dict[str, Any]:
        height, width = self.size
        if self.resize == "shortest_edge":
            kind, size = "CLIPImageProcessor", {"shortest_edge": self.resize_to}
        else:
            to_height, to_width = self.decode_size
            kind = "ViTImageProcessor" if self.decode_size == self.size else "DeiTImageProcessor"
            size = {"height": to_height, "width": to_width}
        config: dict[str, Any] = {
            "image_processor_type": kind,
            "size": size,
            "do_center_crop": kind != "ViTImageProcessor",
            "crop_size": {"height": height, "width": width},
            **self.pixel_config(),
        }
        if kind == "ViTImageProcessor":
            del config["crop_size"]
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "ImageProcessor":
        """The processor that a Hugging Face preprocessor_config.json describes, old or new style.

        A key that it leaves out has the default of its class, if that is ViT's, DeiT's, CLIP's,
        BLIP's, SigLIP's or ConvNeXT's (which ResNets use too). Raises `ImageError`, which names the
        key that asks for something this processor does not do, or the key that is missing.
        """
        config = {key: value for key, value in config.items() if value is not None}
        kind = named_class(config)
        if (defaults := _CLASSES.get(kind)) is not None:
            config = {"image_mean": _HALF, "image_std": _HALF, **defaults, **config}
            edge = isinstance(defaults["size"], Mapping)
            if edge and isinstance(config["size"], int):  # the class decides what a number means
                config["size"] = {"shortest_edge": config["size"]}
        if kind == "ConvNext":
            config = _without_crop_pct(config)
        refuse_unknown(config, _STEPS)
        size, crop = _need(config, "size"), None
        if config.get("do_center_crop", "crop_size" in config):
            crop = _height_width(config, "crop_size")
        resize: Literal["stretch", "shortest_edge"] = "stretch"
        if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
            resize, resize_to = "shortest_edge", size["shortest_edge"]
            if not isinstance(resize_to, int):
                raise ImageError(
                    f"preprocessor config: size={quoted(size)} must have a whole number"
                )
            if crop is None:
                raise ImageError(
                    "preprocessor config: size.shortest_edge without do_center_crop is not "
                    "supported: pictures would come out in different sizes"
                )
        else:
            resize_to = _height_width(config, "size")
        return cls(
            size=crop or resize_to, resize=resize, resize_to=resize_to, **pixel_fields(config)
        )


def checked(picture: Prepared, size: tuple[int, int]) -> Prepared:
    """`picture`; raises `ImageError` if it was prepared for another (height, width)."""
    if picture.pixels.shape != (*size, 3):
        raise ImageError(
            f"the picture was prepared as {list(picture.pixels.shape)} and the model takes "
            f"{[*size, 3]}; prepare it with the model's own processor"
        )
    return picture


def described(directory: str | Path) -> tuple[Path, Mapping[str, Any]]:
    """The config of a checkpoint directory's processor, and the file that it is in.

    It is in `processor_config.json` under `image_processor`, where transformers 5 puts it and looks
    first, or in `preprocessor_config.json`. Raises `ImageError` if neither file has it.
    """
    directory = Path(directory)
    path = directory / PROCESSOR
    nested = _object(path).get("image_processor") if path.is_file() else None
    if nested is None:
        path = directory / PREPROCESSOR
        if not path.is_file():
            raise ImageError(
                f"{path}: no such file, and no {PROCESSOR} with an image_processor beside it; "
                "add the checkpoint's file, which says how its pictures are prepared"
            )
        nested = _object(path)
    if not isinstance(nested, Mapping):
        raise ImageError(f"{path}: image_processor={quoted(nested)} must be an object")
    return path, nested


def named_class(config: Mapping[str, Any]) -> str:
    """The class that a preprocessor_config.json names, such as `CLIP`; empty if it names none."""
    name = config.get("image_processor_type", config.get("feature_extractor_type", ""))
    named = _NAMED.fullmatch(name) if isinstance(name, str) else None
    return named[1] if named else ""


def pixel_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that all processors have, as a preprocessor_config.json gives them.

    Raises `ImageError` for a value that cannot be, or a key that is missing.
    """
    resample = _need(config, "resample")
    # Pillow's own constants for its filters are integers too; True and 2.0 are refused.
    whole = isinstance(resample, int) and not isinstance(resample, bool)
    if not whole or resample not in range(len(_RESAMPLE)):
        raise ImageError(
            f"preprocessor config: resample={quoted(resample)} is not a filter of Pillow; "
            "give 0 to 5"
        )
    rescale = config.get("rescale_factor", 1 / 255)
    if not _is_number(rescale):
        raise ImageError(f"preprocessor config: rescale_factor={quoted(rescale)} must be a number")
    rescales, normalizes = config.get("do_rescale", True), config.get("do_normalize", True)
    return {
        "resample": _RESAMPLE[resample],
        "mean": _three(config, "image_mean") if normalizes else (0.0, 0.0, 0.0),
        "std": _three(config, "image_std") if normalizes else (1.0, 1.0, 1.0),
        "rescale": float(rescale) if rescales else 1.0,
    }


def refuse_unknown(config: Mapping[str, Any], steps: Collection[str]) -> None:
    """Raise `ImageError` if a preprocessor_config.json asks for a step that is not in `steps`."""
    for key, value in config.items():
        unknown = key.startswith("do_") and key not in steps
        if value and (unknown or key in _CHANGES_PIXELS):
            raise ImageError(f"preprocessor config: {key}={quoted(value)} is not supported")
    if not config.get("do_resize", True):
        raise ImageError("preprocessor config: do_resize=False is not supported")


def _shortened(image: Image.Image, to: tuple[int, int]) -> Image.Image:
    """`image` with the average of several pixels for each where a side is very long.

    Pillow's resize takes memory for each row, times the width of the result, and 48 bytes for each
    pixel of a side. Sides of this length occur in no photograph, and in no JPEG.
    """
    factors = [
        max(1, side // max(_LONG, 2 * wanted)) for side, wanted in zip(image.size, to, strict=True)
    ]
    return image.reduce((factors[0], factors[1])) if max(factors) > 1 else image


def _without_crop_pct(config: dict[str, Any]) -> dict[str, Any]:
    """ConvNeXT's resize, expressed in the keys of the other classes."""
    match config["size"], config["crop_pct"]:
        case {"shortest_edge": int() as edge, **rest}, int() | float() as part if not rest:
            pass
        case size, part:
            raise ImageError(
                f"preprocessor config: size={quoted(size)} with crop_pct={quoted(part)} is not "
                "supported; "
                "this class takes {shortest_edge} and a number"
            )
    config = {key: value for key, value in config.items() if key != "crop_pct"}
    if not 0.01 <= part <= 1:
        raise ImageError(f"preprocessor config: crop_pct={quoted(part)} must be 0.01 to 1")
    if edge >= _WHOLE:
        return config | {"size": edge}
    if config["do_center_crop"] and _height_width(config, "crop_size") != (edge, edge):
        raise ImageError(
            f"preprocessor config: crop_size={quoted(config['crop_size'])} after crop_pct is not "
            "supported"
        )
    cropped = {"do_center_crop": True, "crop_size": edge}
    return config | cropped | {"size": {"shortest_edge": int(edge / part)}}


def _object(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(read_text(path, limit=CONFIG_LIMIT))
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: not JSON ({error}); fetch it again") from None
    if not isinstance(content, dict):
        raise ImageError(
            f"{path}: expected a JSON object, got {type(content).__name__}; fetch it again"
        )
    return content


def _need(config: Mapping[str, Any], key: str) -> Any:
    if key not in config:
        raise ImageError(f"preprocessor config: {key} is missing")
    return config[key]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e9  # NaN is not


def _three(config: Mapping[str, Any], key: str) -> tuple[float, float, float]:
    match _need(config, key):
        case [red, green, blue] if all(map(_is_number, (red, green, blue))):
            return float(red), float(green), float(blue)
    raise ImageError(f"preprocessor config: {key}={quoted(config[key])} must be three numbers")


def _height_width(config: Mapping[str, Any], key: str) -> tuple[int, int]:
    match _need(config, key):
        case int() as side:
            return side, side
        case [int() as height, int() as width] if (
            key == "size"
        ):  # as old feature extractors wrote it
            return height, width
        case {"height": int() as height, "width": int() as width, **rest} if not rest:
            return height, width
    edge = " or {shortest_edge}" if key == "size" else ""
    raise ImageError(
        f"preprocessor config: {key}={quoted(config[key])} is not supported; "
        f"it must be {{height, width}}{edge}"
    )
