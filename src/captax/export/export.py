"""Write a captioner as programs for another runtime, with everything that they need."""

import dataclasses
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import jax
import numpy as np

from captax.checkpoints.directory import CARD, write_directory
from captax.checkpoints.state import exported
from captax.checkpoints.weights import write_safetensors
from captax.export import stablehlo
from captax.export.programs import WEIGHTS, ExportError, Program, make_programs
from captax.files import Kind
from captax.generation import GenerationConfig
from captax.generation.config import DEFAULT_NEW_TOKENS
from captax.pipelines.captioner import Captioner
from captax.pipelines.vision_language import VisionLanguageCaptioner

FORMATS = ("onnx", "stablehlo")
MANIFEST, SCRIPT = "export.json", "caption.py"
MODEL_CARD = "MODEL_CARD.md"
# Places for the tokens of a prompt, besides those that the captioner's own options need.
PROMPT_ROOM = 16
OWN = Kind("description of an export", re.compile(rb'\{\s*"format": "(onnx|stablehlo)"'))
REPLACED = re.compile(
    r"(encoder|prefill|step)\.(onnx|jax|mlirbc)|weights\.safetensors|"
    r"export\.json|tokenizer(_config)?\.json|caption\.py|README\.md|MODEL_CARD\.md"
)
# Options that the script supports, and the values that turn them off.
DONE = {
    "num_beams": 1,
    "max_new_tokens": None,
    "max_length": None,
    "length_penalty": 1.0,
    "early_stopping": False,
    "min_length": 0,
    "min_new_tokens": 0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "suppress_tokens": (),
    "begin_suppress_tokens": (),
    "forced_bos_token_id": None,
    "forced_eos_token_id": (),
    "renormalize_logits": False,
}
NOT_DONE = (
    *("do_sample", "num_beam_groups", "bad_words_ids", "force_words_ids"),
    *("stop_strings", "json_schema", "max_words", "preamble"),
)


def export(
    captioner: Captioner,
    out: str | Path,
    *,
    format: str,
    dtype: str = "float32",
    batch_size: int | None = None,
    max_length: int | None = None,
    card: str = "",
) -> None:
    """Write a folder that captions pictures without captax.

    It holds the encoder, the prefill and the step of the decoder as programs in `format` ("onnx" or
    "stablehlo"), their weights in one file as `dtype` (arithmetic is always float32), the
    tokenizer, `export.json`, which describes everything, and `caption.py`, which uses it. Programs
    accept batches of any size or only of `batch_size`, and captions of at most `max_length` tokens
    with their prompt. The default length is what the captioner's options ask for and a prompt of 16
    tokens. `card`, a model card, is written too.

    Raises `ExportError` for what cannot be exported, `OutputError` if nothing can be written there,
    and `CheckpointError` if the folder holds something else. Warns about decoding options that the
    script does not support.
    """
    if isinstance(captioner, VisionLanguageCaptioner):
        raise ExportError(
            "vision-language models cannot be exported yet; give another captioner: a vision "
            "encoder with GPT-2 or BERT, GIT, BLIP, or one that captax trained"
        )
    if format not in FORMATS:
        raise ExportError(f"there is no format {format!r}; give one of {', '.join(FORMATS)}")
    if batch_size is not None and batch_size < 1:
        raise ExportError(f"batch_size is {batch_size}; give 1 or more")
    write_programs = _writer(format)
    _warn_of_options(captioner.generation)
    capacity = _capacity(captioner, max_length)
    programs = make_programs(captioner, capacity, batch_size)
    tensors = exported(captioner.model, dtype=dtype)

    def write(folder: Path) -> None:
        write_safetensors(folder / WEIGHTS, tensors)
        files = write_programs(folder, programs)
        contents = _describe(captioner, programs, files, capacity, batch_size)
        contents = {"format": format, "dtype": dtype, **contents}
        (folder / MANIFEST).write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")
        captioner.tokenizer.save(folder)
        bundle = resources.files("captax") / "export" / "bundle"
        (folder / SCRIPT).write_bytes((bundle / SCRIPT).read_bytes())
        (folder / CARD).write_bytes((bundle / f"{format}.md").read_bytes())
        if card:
            (folder / MODEL_CARD).write_text(card, encoding="utf-8")

    write_directory(Path(out), write, kind="an export", mark=MANIFEST, own=OWN, replaced=REPLACED)


def read_card(directory: Path) -> str:
    """The model card of a checkpoint directory; "" if it has none."""
    card = directory / CARD
    return card.read_text(encoding="utf-8") if card.is_file() else ""


def _writer(format: str) -> Callable[[Path, Sequence[Program]], dict[str, list[str]]]:
    """The function that writes programs in a format and gives the names of their files."""
    if format == "stablehlo":
        try:
            # An extra.
            import flatbuffers  # noqa: F401 (JAX writes programs with it)
        except ModuleNotFoundError:
            raise ExportError(
                "StableHLO needs flatbuffers, which is not installed: pip install 'captax[export]'"
            ) from None
        return stablehlo.write_programs
    try:
        # An extra.
        from captax.export.onnx_files import write_programs
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("captax"):
            raise
        raise ExportError(
            f"ONNX needs {missing.name}, which is not installed: pip install 'captax[export]'"
        ) from None
    return write_programs


def _capacity(captioner: Captioner, max_length: int | None) -> int:
    """The number of places in the cache; the last token of a caption needs none."""
    config, most = captioner.generation, captioner.model.decoder.max_positions
    if max_length is not None:
        if not 2 <= max_length <= most + 1:
            raise ExportError(
                f"max_length is {max_length}; give 2 to {most + 1}, which the decoder can read"
            )
        return max_length - 1
    bare = int(config.limits(np.array([1]), most)[0]) - 1
    if config.max_new_tokens is None and config.max_length is None:
        most -= 1  # such captions stop one token earlier
    return min(bare + PROMPT_ROOM, most)


def _warn_of_options(config: GenerationConfig) -> None:
    default = GenerationConfig()
    asked = [name for name in NOT_DONE if getattr(config, name) != getattr(default, name)]
    if asked:
        warnings.warn(
            f"the captioner asks for {', '.join(asked)} in decoding, which {SCRIPT} does not do; "
            "its captions may differ",
            stacklevel=3,
        )


def _describe(
    captioner: Captioner,
    programs: Sequence[Program],
    files: Mapping[str, Sequence[str]],
    capacity: int,
    batch_size: int | None,
) -> dict[str, Any]:
    """The contents of `export.json`."""
    config, tokenizer = captioner.generation, captioner.tokenizer
    options: dict[str, Any] = {name: getattr(config, name) for name in DONE}
    if config.max_new_tokens is None and config.max_length is None:
        options["max_new_tokens"] = DEFAULT_NEW_TOKENS
    forced = config.forced_bos_token_id
    options["forced_bos_token_id"] = [] if forced is None else [forced]
    return {
        "captax": metadata.version("captax"),
        "batch_size": batch_size,
        "capacity": capacity,
        "weights": WEIGHTS,
        "programs": {
            program.name: {
                "files": list(files[program.name]),
                "weights": sorted(program.weights),
                "inputs": _shapes(program.inputs),
                "outputs": _shapes(program.outputs),
            }
            for program in programs
        },
        "pictures": dataclasses.asdict(captioner.processor),
        "tokens": {
            "start": config.decoder_start_token_id,
            "eos": list(config.eos_ids),
            "pad": config.pad_token_id,
        },
        "text": {
            "start": tokenizer.start_id,
            "eos": tokenizer.eos_id,
            "replace": tokenizer.replacements,
        },
        "generation": options,
    }


def _shapes(arrays: Mapping[str, jax.ShapeDtypeStruct]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "shape": [size if isinstance(size, int) else str(size) for size in shape.shape],
            "dtype": shape.dtype.name,
        }
        for name, shape in arrays.items()
    ]
