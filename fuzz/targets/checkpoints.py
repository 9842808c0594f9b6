"""The configs of checkpoint directories: of the model, of its decoding, of its pictures."""

import functools
import shutil
from collections.abc import Iterator
from pathlib import Path

from flax import nnx

from captax.checkpoints.directory import load_for_labels, load_half, load_model
from captax.images import ImageProcessor
from captax.pipelines.generator import read_generation

GOLDEN = Path(__file__).parents[2] / "tests" / "golden" / "checkpoints"
BUILT_IN = Path(__file__).parents[2] / "src" / "captax" / "assets" / "captax-lite"
FAMILIES = (
    *("bert", "bert-decoder", "bert2bert", "blip", "clip", "clip-text", "clip-vision"),
    *("deit-classifier", "git", "gpt2", "resnet-classifier", "vit-classifier", "vit-gpt2"),
    *("siglip", "siglip-classifier"),
)
CONFIG, GENERATION, PICTURES = "config.json", "generation_config.json", "preprocessor_config.json"
KINDS = (*(f"{family}/{CONFIG}" for family in FAMILIES), f"git/{GENERATION}", f"git/{PICTURES}")
SECONDS = 40.0  # XLA compiles the drawing of initial values, for every new shape
WORDS = (
    *(b"model_type", b"hidden_size", b"num_hidden_layers", b"num_attention_heads", b"vocab_size"),
    *(b"intermediate_size", b"image_size", b"patch_size", b"num_channels", b"hidden_act", b"gelu"),
    *(b"encoder", b"decoder", b"text_config", b"vision_config", b"id2label", b"num_labels", b"0"),
    *(b"max_position_embeddings", b"tie_word_embeddings", b"is_decoder", b"add_cross_attention"),
    *(b"n_embd", b"n_layer", b"n_head", b"n_positions", b"layer_norm_eps", b"projection_dim"),
    *(b"depths", b"hidden_sizes", b"layer_type", b"downsample_in_first_stage", b"bottleneck"),
    *(b"num_beams", b"max_length", b"max_new_tokens", b"eos_token_id", b"bos_token_id", b"dtype"),
    *(b"decoder_start_token_id", b"forced_bos_token_id", b"suppress_tokens", b"bad_words_ids"),
    *(b"do_sample", b"temperature", b"top_k", b"top_p", b"early_stopping", b"never", b"size"),
    *(b"crop_size", b"crop_pct", b"shortest_edge", b"height", b"width", b"resample", b"do_resize"),
    *(b"image_mean", b"image_std", b"rescale_factor", b"do_center_crop", b"image_processor_type"),
    *(b"CLIPImageProcessor", b"ConvNextImageProcessor", b"ViTFeatureExtractor", b"vit", b"bert"),
    *(b"gpt2", b"git", b"blip", b"clip", b"resnet", b"deit", b"vision-encoder-decoder", b"-1"),
    *(b"siglip", b"vision_use_head", b"projection_size", b"SiglipImageProcessor"),
    *(b"efficientnet-lite", b"transformer", b"captax-encoder-decoder", b"relu", b"100000"),
)


def prepare(inputs: Path) -> None:
    """Whole checkpoints; an input takes the place of one of their configs."""
    for family in FAMILIES:
        shutil.copytree(GOLDEN / family, inputs / family)


def seeds() -> Iterator[tuple[str, bytes]]:
    """The configs of small checkpoints of transformers'."""
    for family in FAMILIES:
        yield f"{family}/{CONFIG}", (GOLDEN / family / CONFIG).read_bytes()
        generation = GOLDEN / family / GENERATION
        if generation.is_file():
            yield f"git/{GENERATION}", generation.read_bytes()
    yield f"git/{PICTURES}", (BUILT_IN / PICTURES).read_bytes()
    yield f"git/{GENERATION}", (BUILT_IN / GENERATION).read_bytes()
    yield f"git/{CONFIG}", (BUILT_IN / CONFIG).read_bytes()
    for kind in (f"git/{CONFIG}", f"git/{GENERATION}", f"git/{PICTURES}"):
        yield kind, b"[" * 20_000


def read(path: Path) -> None:
    """One of the readings that there are of the file, the same for the same content."""
    folder = path.parent
    if path.name == PICTURES:
        ImageProcessor.load(folder)
    elif path.name == GENERATION:
        read_generation(folder, _git())
    else:
        _READINGS[sum(path.read_bytes()) % len(_READINGS)](folder)


def restore(path: Path) -> None:
    """Put back what the input was in the place of."""
    original = GOLDEN / path.parent.name / path.name
    if original.is_file():
        shutil.copy(original, path)
    else:
        path.unlink()


def _whole(folder: Path) -> None:
    read_generation(folder, load_model(folder))


_READINGS = (
    _whole,
    lambda folder: load_half(folder, "encoder", rngs=nnx.Rngs(0)),
    lambda folder: load_half(folder, "decoder", rngs=nnx.Rngs(0)),
    lambda folder: load_for_labels(folder, ["a", "b"], rngs=nnx.Rngs(0)),
)
_git = functools.cache(lambda: load_model(GOLDEN / "git"))
