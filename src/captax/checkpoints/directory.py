"""A checkpoint directory's `config.json` and `model.safetensors`, and how to write one whole."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from flax import nnx

from captax.checkpoints.compressed_tensors import FORM, as_stored, form_of, widened_or_kept
from captax.checkpoints.exchange import replace_folder
from captax.checkpoints.state import (
    CheckpointError,
    check_fit,
    exported,
    fill,
    own_dtype,
    types_for,
    types_to_save,
)
from captax.checkpoints.weights import LazyTensor, open_weights, write_safetensors
from captax.files import CONFIG_LIMIT, Kind, parse_json, read_text, unwritable
from captax.models.config import ModelConfig
from captax.models.registry import ConfigError, model_config, read_config

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"

# The tensors of heads and, beside a text tower, everything that is not the vision tower.
HEADS = (
    r"(^|\.)(classifier|cls_classifier|distillation_classifier|lm_head|cls)\."
    r"|^(text_model|text_projection|visual_projection)\.|^logit_(scale|bias)$"
)
# Files of an older checkpoint in the same directory that would contradict the new one.
REPLACED = re.compile(
    r".*\.safetensors|.*\.index\.json|(vocab|added_tokens|special_tokens_map|tokenizer|"
    r"tokenizer_config|generation_config|preprocessor_config|processor_config|confidence)\.json|"
    r"vocab\.txt|merges\.txt|confidence\.png|source_tokenizer|selected_tags\.csv"
)
POOLER = r"(^|\.)(pooler|seq_relationship)\."


def save_model(directory: Path, model: nnx.Module, *, dtype: str | None = None) -> None:
    """Write config and weights, with floating-point weights cast to `dtype`.

    With "int8" and "int4" matrices of products are written with so many bits, in the form of
    `captax.checkpoints.compressed_tensors`, and all else in the type that it has. Without a `dtype`
    weights are float32, but narrow matrices stay as they are, with all else in its type. If
    transformers has the model's family, it can load the checkpoint.
    """
    config = model_config(model)
    how = types_to_save(model, dtype)
    tensors, form = as_stored(exported(model, config.layout(), **how))
    if how["quantised"] and form is None:
        raise CheckpointError(
            f"{dtype}: a file can hold no matrix of this {config.model_type} so; save it as "
            f"float16 or bfloat16, and load it with dtype={dtype!r}"
        )
    contents = {**config.write(), "dtype": how["dtype"], **({FORM: form} if form else {})}
    (directory / CONFIG).write_text(json.dumps(contents, indent=2) + "\n")
    write_safetensors(directory / WEIGHTS, tensors)


def load_model(
    directory: Path, *, dtype: str | None = "float32", saved: bool = False
) -> nnx.Module:
    """Load the model, with its weights cast to `dtype`; "auto" is the type that they have.

    None is "auto" for a checkpoint with narrow weights, and "float32" for others. With "int8" and
    "int4" matrices have at most so many bits, and all else keeps its type; with `saved`, only those
    that `save_model` writes so. Raises `CheckpointError`, which lists every tensor that does not
    fit.
    """
    config, model, tensors = _open(directory, lambda config: config)
    narrow = form_of(read_json(directory / CONFIG)) is not None
    how = types_for(dtype, lambda: _own_dtype(directory, tensors), narrow=narrow)
    where = str(directory)
    return fill(model, tensors, where=where, layout=config.layout(), saved=saved, **how)


def outline(directory: Path) -> nnx.Module:
    """The model of a checkpoint without values, for a look before it is loaded.

    Raises `CheckpointError`, which lists every tensor that does not fit.
    """
    config, model, tensors = _open(directory, lambda config: config)
    check_fit(model, tensors, where=str(directory), layout=config.layout())
    return model


def _own_dtype(directory: Path, tensors: dict[str, LazyTensor]) -> str:
    contents = read_json(directory / CONFIG)
    # transformers wrote `torch_dtype` before version 5.
    named = contents.get("dtype", contents.get("torch_dtype"))
    held: Counter[str] = Counter()
    for tensor in tensors.values():
        dtype = tensor.codes.dtype if tensor.codes else tensor.dtype
        held[dtype.name] += math.prod(tensor.shape)
    return own_dtype(named, held)


def load_half(
    directory: Path, role: Literal["encoder", "decoder"], *, rngs: nnx.Rngs, dtype: str = "float32"
) -> Any:
    """Load a checkpoint's model as the encoder or the decoder of another model.

    As an encoder it loses its head. As a decoder it gains cross-attention with initial values,
    unless it has cross-attention. Raises `CheckpointError` when any other tensor does not fit.
    """
    unread, new = (HEADS, POOLER) if role == "encoder" else (POOLER, "cross")

    def turn(config: ModelConfig) -> ModelConfig:
        return config.as_encoder() if role == "encoder" else config.as_decoder()

    return _load_turned(directory, turn, f"as {role}", unread, new, rngs, dtype)


def load_for_labels(
    directory: Path, labels: Sequence[str], *, rngs: nnx.Rngs, dtype: str = "float32"
) -> Any:
    """Load a checkpoint's model with a new head for `labels`, which replaces any other head."""

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
    """Build the model of the config that `turn` returns, and fill it from the checkpoint.

    Tensors whose names match the regular expression `unread` are ignored. Tensors that match `new`
    may be missing; they then keep the initial values of a new model.
    """
    config, valueless, tensors = _open(directory, turn)
    kept = {name: tensor for name, tensor in tensors.items() if not re.search(unread, name)}
    layout = config.layout()
    where = f"{directory} {role}"
    # Check the sizes against the weights before memory is taken for them: a config may be wrong.
    check_fit(valueless, kept, where=where, layout=layout, optional=new)
    model = config.build(rngs=rngs)
    return fill(model, kept, where=where, layout=layout, dtype=dtype, optional=new)


def _open(
    directory: Path, turn: Callable[[ModelConfig], ModelConfig]
) -> tuple[ModelConfig, nnx.Module, dict[str, LazyTensor]]:
    """The config that `turn` returns, its model without values, and the checkpoint's tensors.

    Errors name the file.
    """
    contents = read_json(directory / CONFIG)
    tensors = widened_or_kept(contents, open_weights(directory), directory / CONFIG)
    try:
        config = turn(read_config(contents, tensors.keys()))
        return config, config.build(), tensors
    except ConfigError as error:
        raise ConfigError(f"{directory / CONFIG}: {error}") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a file of a checkpoint directory that holds a JSON object."""
    try:
        content = parse_json(read_text(path, limit=CONFIG_LIMIT))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; give the directory of a checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error}); download it again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object; download it again")
    return content


def write_directory(
    directory: Path,
    write: Callable[[Path], None],
    *,
    kind: str = "a checkpoint",
    mark: str = CONFIG,
    own: Kind | None = None,
    replaced: re.Pattern[str] = REPLACED,
) -> None:
    """Have `write` fill a new directory, then put it in the place of `directory`.

    A reader sees the old content or the new content, never half of either, and a failure leaves
    nothing behind; `captax.checkpoints.exchange` says what holds if the process is killed. Old
    files that captax does not write (notes, PyTorch's weights, a repository) are kept, except those
    whose names match `replaced`. Raises `CheckpointError` when `directory` has content and is not
    of the `kind`: every directory of the kind has a file named `mark`, which captax made as its
    `own` if that is given. Raises `OutputError` if the disk or a permission does not allow it.
    """
    directory = directory.resolve()

    def check(found: Path) -> None:
        try:
            # One listing: between two looks, another process may exchange the folder.
            names = {path.name for path in found.iterdir()}
            foreign = bool(names) and mark not in names
            if mark in names and own is not None:
                foreign = not own.made(found / mark)
        except FileNotFoundError:
            foreign = False
        except NotADirectoryError:
            # Also a device or a pipe, which would be exchanged as well; or its parent is no folder.
            foreign = found.exists()
        if foreign:
            raise CheckpointError(
                f"{directory}: already exists and is not {kind}; give another directory"
            )

    try:
        replace_folder(
            directory, write, check=check, kept=lambda name: replaced.fullmatch(name) is None
        )
    except OSError as error:
        raise unwritable(directory, error) from None
