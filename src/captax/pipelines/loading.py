"""Load checkpoints by name; the kind of the model decides what `load` returns."""

import contextlib
import dataclasses
from os import PathLike
from pathlib import Path
from typing import Any, overload

from flax import nnx

from captax.checkpoints import hub
from captax.checkpoints.directory import load_model as read_model
from captax.checkpoints.gguf import is_gguf, open_gguf
from captax.checkpoints.gguf_models import load_gguf
from captax.checkpoints.names import DEFAULT
from captax.compilation import refuse_fork
from captax.errors import CheckpointError, OptionError, quoted
from captax.generation import GenerationConfig
from captax.images import ImageProcessor, NativeProcessor, TileProcessor, load_processor
from captax.models.decoders import TextDecoder
from captax.models.encoder_decoder import EncoderDecoder
from captax.models.encoders import VisionEncoder
from captax.models.florence2 import Florence2
from captax.models.qwen_vl import QwenVL, QwenVLConfig
from captax.models.timm import TimmForm
from captax.models.two_towers import TwoTowers
from captax.models.vision_language import VisionLanguageModel
from captax.pipelines.captioner import Captioner
from captax.pipelines.classifier import Classifier
from captax.pipelines.florence2 import Florence2Captioner
from captax.pipelines.generator import read_calibration, read_generation
from captax.pipelines.matcher import Matcher
from captax.pipelines.native import NativeCaptioner
from captax.pipelines.replicas import in_host_memory
from captax.pipelines.tagger import Tagger
from captax.pipelines.text_generator import SOURCE_TOKENIZER, TextGenerator
from captax.pipelines.vision_language import VisionLanguageCaptioner, check_places
from captax.text import Tokenizer
from captax.text.gguf import read_gguf_tokenizer
from captax.text.prompt_format import picture_format


@overload
def load(
    name: None = None,
    *,
    revision: str | None = None,
    token: str | None = None,
    offline: bool = False,
    dtype: str | None = None,
    image_size: int | None = None,
    image_splitting: bool | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    frames: int | None = None,
    devices: int | str | None = None,
    tensor_parallel: int = 1,
) -> Captioner: ...


@overload
def load(
    name: str | PathLike[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    offline: bool = False,
    dtype: str | None = None,
    image_size: int | None = None,
    image_splitting: bool | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    frames: int | None = None,
    devices: int | str | None = None,
    tensor_parallel: int = 1,
) -> Any: ...


def load(
    name: str | PathLike[str] | None = None,
    *,
    revision: str | None = None,
    token: str | None = None,
    offline: bool = False,
    dtype: str | None = None,
    image_size: int | None = None,
    image_splitting: bool | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    frames: int | None = None,
    devices: int | str | None = None,
    tensor_parallel: int = 1,
) -> Any:
    """Load a checkpoint, ready for use.

    Args:
        name: a checkpoint directory or a name on the hub; `None` and `"default"` are the built-in
            captioner.
        revision: a branch, tag or commit on the hub.
        token: gives access to private models on the hub.
        offline: use only hub models that were downloaded before.
        dtype: the type that weights are cast to; "auto" keeps the type that they have in the
            checkpoint. "int8" and "int4" keep the matrices of products in at most so many bits, and
            all else as "auto" does. The default is "auto" for a checkpoint whose weights are
            quantised, and "float32" for any other.
        image_size: for models that see a picture as tiles: the pixels that its longer side is
            resized to, if not those of the checkpoint. Fewer pixels are fewer tiles.
        image_splitting: for the same models: whether there are tiles at all, or only a view of the
            whole picture.
        min_pixels: for models that see a picture at its own size: the fewest pixels that it is
            enlarged to, if not those of the checkpoint.
        max_pixels: for the same models: the most pixels that it is reduced to. Fewer pixels are
            fewer tokens.
        frames: for models that read videos: how many frames of one they are shown; with 0, none is
            read.
        devices: how many of this process's devices compute, or "all"; by default as many as
            `tensor_parallel`. Batches are computed at once on different devices.
        tensor_parallel: how many devices hold one copy of the weights and compute a batch
            together, for models that do not fit one.

    Returns:
        A `Captioner`, a `TextGenerator`, a `Classifier`, a `Tagger`, or a `Matcher` for a CLIP
        or SigLIP.

    Raises:
        CheckpointError: there is no checkpoint, or its model cannot be used alone.
        OptionError: an option is given that is for models which see pictures in another way, or
            there are too few devices.
    """
    refuse_fork()
    loaded: Any
    with in_host_memory() if tensor_parallel > 1 else contextlib.nullcontext():
        if name is not None and is_gguf(Path(name)):
            loaded = from_gguf(Path(name), dtype)
        else:
            directory = locate(name, revision=revision, token=token, offline=offline)
            loaded = _from_directory(directory, dtype, name)
    if devices is not None or tensor_parallel != 1:
        loaded.replicate(devices, tensor_parallel)
    if image_size is not None or image_splitting is not None:
        loaded.processor = _retiled(loaded, image_size, image_splitting)
    if min_pixels is not None or max_pixels is not None:
        loaded.processor = _limited(loaded, min_pixels, max_pixels)
    if frames is not None:
        most = getattr(loaded, "most_frames", 0)
        if not most:
            raise OptionError(
                "`frames` is for models that read videos, such as Qwen3-VL or git-base-vatex, and "
                "this is none of them; leave it out"
            )
        if not 0 <= frames <= most:
            raise OptionError(
                f"`frames` is {frames}, and this model reads 1 to {most}; 0 leaves videos out"
            )
        loaded.frames = frames
    return loaded


def _limited(loaded: Any, least: int | None, most: int | None) -> NativeProcessor:
    processor = getattr(loaded, "processor", None)
    if not isinstance(processor, NativeProcessor):
        raise OptionError(
            f"`{'max_pixels' if least is None else 'min_pixels'}` is for models that see a picture "
            "at its own size, such as Qwen3-VL, and this is none of them; leave it out"
        )
    return processor.limited(most, least)


def _retiled(loaded: Any, image_size: int | None, image_splitting: bool | None) -> TileProcessor:
    processor = getattr(loaded, "processor", None)
    if not isinstance(processor, TileProcessor):
        option = "image_size" if image_splitting is None else f"image_splitting={image_splitting}"
        raise OptionError(
            f"`{option}` is for models that see a picture as tiles, such as SmolVLM, and this is "
            f"none of them; leave it out"
        )
    return dataclasses.replace(
        processor,
        longest_edge=processor.longest_edge if image_size is None else image_size,
        split=processor.split if image_splitting is None else image_splitting,
    )


def _from_directory(directory: Path, dtype: str | None, name: str | PathLike[str] | None) -> Any:
    model = read_model(directory, dtype=dtype)
    if isinstance(model, VisionLanguageModel):
        tokenizer = Tokenizer.load(directory)
        kind, picture = model.config.model_type, model.config.image_token_id
        prompt_format = picture_format(kind, lambda: tokenizer.token(picture))
        if prompt_format is None:
            token = quoted(tokenizer.token(picture))
            raise CheckpointError(
                f"{name}: captax does not know the prompt format of this {kind} checkpoint, whose "
                f"pictures are the token {token}; load the bare model with captax.load_model"
            )
        generation = read_generation(directory, model)
        if isinstance(model, QwenVL):
            native = NativeProcessor.load(directory)
            _check_squares(directory, native, model.config)
            return NativeCaptioner(model, native, tokenizer, prompt_format, generation)
        check_places(directory, model.config.places)
        if isinstance(model, Florence2):
            processor = ImageProcessor.load(directory)
            return Florence2Captioner(model, processor, tokenizer, prompt_format, generation)
        return VisionLanguageCaptioner(
            model, load_processor(directory), tokenizer, prompt_format, generation
        )
    if isinstance(model, EncoderDecoder) and isinstance(model.encoder, VisionEncoder):
        processor, tokenizer = ImageProcessor.load(directory), Tokenizer.load(directory)
        generation, calibration = read_generation(directory, model), read_calibration(directory)
        return Captioner(model, processor, tokenizer, generation, calibration)
    if isinstance(model, EncoderDecoder | TextDecoder):
        source = directory / SOURCE_TOKENIZER
        return TextGenerator(
            model,
            Tokenizer.load(directory),
            read_generation(directory, model),
            source_tokenizer=Tokenizer.load(source) if source.is_dir() else None,
        )
    if isinstance(model, TwoTowers):
        return Matcher(model, ImageProcessor.load(directory), Tokenizer.load(directory))
    if isinstance(getattr(model, "config", None), TimmForm):
        return Tagger.load(directory, model)
    if getattr(getattr(model, "config", None), "labels", ()):
        return Classifier(model, ImageProcessor.load(directory))
    raise CheckpointError(
        f"{name}: holds a bare {type(model).__name__}, which cannot write or label; make it half "
        "of another model (captax.from_pretrained_halves), or load it as it is (captax.load_model)"
    )


def _check_squares(directory: Path, processor: NativeProcessor, config: QwenVLConfig) -> None:
    """Raise `CheckpointError` if pictures are not prepared as the model takes them."""
    vision = config.vision_config
    made = processor.patch, processor.merge
    if made != (taken := (vision.patch_size, vision.spatial_merge_size)):
        raise CheckpointError(
            f"{directory}: the processor makes patches of {made[0]} pixels in squares of {made[1]},"
            f" and the model takes {taken[0]} and {taken[1]}; the files are of different "
            "checkpoints, so download them again"
        )


def from_gguf(path: Path, dtype: str | None, *, saved: bool = False) -> TextGenerator:
    """The language model of a GGUF file; the arguments are those of `load_gguf`."""
    gguf = open_gguf(path)
    model = load_gguf(gguf, dtype=dtype, saved=saved)
    tokenizer = read_gguf_tokenizer(gguf.metadata, path)
    return TextGenerator(model, tokenizer, GenerationConfig.read({}, model.config.roles()))


def locate(
    name: str | PathLike[str] | None = None,
    *,
    revision: str | None = None,
    token: str | None = None,
    offline: bool = False,
) -> Path:
    """The directory of a checkpoint, downloaded if needed; the arguments are those of `load`."""
    return hub.fetch(
        DEFAULT if name is None else name, revision=revision, token=token, offline=offline
    )


def load_model(
    name: str | PathLike[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    offline: bool = False,
    dtype: str | None = None,
) -> nnx.Module:
    """Load the bare model of a checkpoint of any family; the arguments are those of `load`."""
    directory = hub.fetch(name, revision=revision, token=token, offline=offline)
    return read_model(directory, dtype=dtype)
