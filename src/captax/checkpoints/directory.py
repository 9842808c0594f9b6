"""A checkpoint directory's `config.json` and `model.safetensors`, and how to write one whole."""

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import safetensors.numpy
from flax import nnx

from captax.checkpoints.state import CheckpointError, check_fit, export, fill
from captax.checkpoints.weights import LazyTensor, open_weights
from captax.files import parse_json
from captax.models.config import ModelConfig
from captax.models.registry import ConfigError, model_config, read_config

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"

# Of their tensors, those of heads; of a CLIP, all that is not its vision tower.
HEADS = (
    r"(^|\.)(classifier|cls_classifier|distillation_classifier|lm_head|cls)\."
    r"|^(text_model|text_projection|visual_projection)\.|^logit_scale$"
)
# Of an older checkpoint in the same place, what would contradict the new one.
REPLACED = re.compile(
    r".*\.safetensors|.*\.index\.json|(vocab|added_tokens|special_tokens_map|tokenizer|"
    r"tokenizer_config|generation_config|preprocessor_config|processor_config)\.json|"
    r"vocab\.txt|merges\.txt|source_tokenizer"
)
POOLER = r"(^|\.)(pooler|seq_relationship)\."


def save_model(directory: Path, model: nnx.Module, *, dtype: str = "float32") -> None:
    """Write config and weights, floating-point weights cast to `dtype`.

    Of a family that transformers has, they are a checkpoint that it loads.
    """
    config = model_config(model)
    contents = {**config.write(), "dtype": dtype}
    (directory / CONFIG).write_text(json.dumps(contents, indent=2) + "\n")
    tensors = export(model, config.layout(), dtype=dtype)
    # What transformers looks for, and calls PyTorch's.
    safetensors.numpy.save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    # The library makes files that only their owner may read.
    (directory / WEIGHTS).chmod((directory / CONFIG).stat().st_mode)


def load_model(directory: Path, *, dtype: str = "float32") -> nnx.Module:
    """The model, its weights cast to `dtype`.

    Raises `CheckpointError` that lists every tensor that does not fit.
    """
    config, model, tensors = _open(directory, lambda config: config)
    return fill(model, tensors, where=str(directory), layout=config.layout(), dtype=dtype)


def load_half(
    directory: Path, role: Literal["encoder", "decoder"], *, rngs: nnx.Rngs, dtype: str = "float32"
) -> Any:
    """A checkpoint's model as half of another.

    As an encoder it loses its head; as a decoder it gains cross-attention, if it has none, with
    initial values. Raises `CheckpointError` when another tensor does not fit.
    """
    unread, new = (HEADS, POOLER) if role == "encoder" else (POOLER, "cross")

    def turn(config: ModelConfig) -> ModelConfig:
        return config.as_encoder() if role == "encoder" else config.as_decoder()

    return _load_turned(directory, turn, f"as {role}", unread, new, rngs, dtype)


def load_for_labels(
    directory: Path, labels: Sequence[str], *, rngs: nnx.Rngs, dtype: str = "float32"
) -> Any:
    """A checkpoint's model with a new head for `labels`, in the place of any that it has."""

    def turn(config: ModelConfig) -> ModelConfig:
        return config.as_classifier(tuple(labels))

    unread = f"{HEADS}|{POOLER}"
    return _load_turned(
        directory, turn, "as classifier", unread, r"(^|\.)classifier\.", rngs, dtype
    )


def _load_turned(
    directory: Path,
    turn: Callable[[ModelConfig], ModelConfig],
    role: str,
    unread: str,
    new: str,
    rngs: nnx.Rngs,
    dtype: str,
) -> Any:
    """The model that `turn` makes of a checkpoint's config, filled with what still fits.

    Tensors whose names match the regular expression `unread` are left out, and those that match
    `new` may be missing: they begin as a new model's do.
    """
    config, valueless, tensors = _open(directory, turn)
    kept = {name: tensor for name, tensor in tensors.items() if not re.search(unread, name)}
    layout = config.layout()
    where = f"{directory} {role}"
    # Before values are drawn for sizes that are the file's word alone.
    check_fit(valueless, kept, where=where, layout=layout, optional=new)
    model = config.build(rngs=rngs)
    return fill(model, kept, where=where, layout=layout, dtype=dtype, optional=new)


def _open(
    directory: Path, turn: Callable[[ModelConfig], ModelConfig]
) -> tuple[ModelConfig, nnx.Module, dict[str, LazyTensor]]:
    """What `turn` makes of a checkpoint's config, its model without values, and the tensors.

    Errors name the file.
    """
    contents = read_json(directory / CONFIG)
    tensors = open_weights(directory)
    try:
        config = turn(read_config(contents, tensors.keys()))
        return config, config.build(), tensors
    except ConfigError as error:
        raise ConfigError(f"{directory / CONFIG}: {error}") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a checkpoint directory."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; is {path.parent} a checkpoint?") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return content


def write_directory(
    directory: Path,
    write: Callable[[Path], None],
    *,
    kind: str = "a checkpoint",
    mark: str = CONFIG,
    replaced: re.Pattern[str] = REPLACED,
) -> None:
    """Have `write` fill a new directory beside `directory`, then put it in its place.

    A reader sees the old content or the new, never half of either, and a failure leaves nothing.
    Of the old, what no checkpoint of ours has (notes, PyTorch's weights, a repository) stays. A
    directory of another `kind` has a file of the name `mark`, and files whose names match
    `replaced` go. Raises `CheckpointError` when what is there is not of the kind.
    """
    directory = directory.resolve()
    if directory.is_file() or (
        directory.is_dir() and any(directory.iterdir()) and not (directory / mark).is_file()
    ):
        raise CheckpointError(f"{directory}: is there and not {kind}; give another directory")
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = directory.with_name(directory.name + ".partial")
    old = directory.with_name(directory.name + ".old")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        write(partial)
        if directory.exists():
            for path in directory.iterdir():
                if not (partial / path.name).exists() and not replaced.fullmatch(path.name):
                    _link(path, partial / path.name)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        directory.rename(old)
    partial.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    """The same file, or all files of a folder, under another name too."""
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, copy_function=os.link, symlinks=True)
    else:
        os.link(source, target, follow_symlinks=False)
