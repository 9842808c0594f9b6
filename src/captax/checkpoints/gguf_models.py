"""The models in GGUF files: llama.cpp's names and values turned into those of transformers."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from captax.checkpoints.gguf import Gguf
from captax.checkpoints.lazy import LazyTensor
from captax.checkpoints.state import CheckpointError, fill, own_dtype, types_for
from captax.errors import quoted
from captax.models.config import ConfigError, ModelConfig
from captax.models.language import LanguageModel, rotary
from captax.models.registry import read_config

# Names within a layer, without `weight` and `bias`.
_IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTSIDE = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_DIVISORS = "rope_freqs.weight"
# The values with which llama.cpp computes the divisors of Llama 3's angles.
_LLAMA3 = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@dataclasses.dataclass(frozen=True)
class _Architecture:
    """One of llama.cpp's architectures: our family, and what differs between the two sides."""

    model_type: str
    before_mlp: str
    fields: Callable[["_Values"], dict[str, Any]]
    # What turns a tensor into that of transformers, by a part of its name there.
    changes: Mapping[str, Callable[[np.ndarray, Any], np.ndarray]]


class _Values:
    """The metadata of an architecture, by the rest of each key."""

    def __init__(self, gguf: Gguf):
        self.gguf, self.prefix = gguf, gguf.one("general.architecture")

    def get(self, key: str, default: Any = None) -> Any:
        return self.gguf.one(f"{self.prefix}.{key}", default)

    def __getitem__(self, key: str) -> Any:
        found = self.get(key)
        if found is None:
            raise CheckpointError(
                f"{self.gguf.path}: has no {self.prefix}.{key} in its metadata; convert it again"
            )
        return found

    def number(self, key: str, default: float) -> float:
        """A finite number above 0."""
        found = self.get(key, default)
        if type(found) is bool or not isinstance(found, int | float) or not 0 < found < math.inf:
            raise CheckpointError(
                f"{self.gguf.path}: {self.prefix}.{key} is {quoted(found)}; convert it again"
            )
        return float(found)

    @property
    def scaling(self) -> dict[str, Any] | None:
        """transformers' `rope_scaling`."""
        kind = self.get("rope.scaling.type", "none")
        if kind == "linear":
            return {"rope_type": "linear", "factor": self["rope.scaling.factor"]}
        if kind != "none":
            raise CheckpointError(
                f"{self.gguf.path}: rope.scaling.type is {quoted(kind)}, which is not supported; "
                "give a model with linear scaling or none"
            )
        return None


def _llama(values: _Values) -> dict[str, Any]:
    divisors = values.gguf.tensors.get(_DIVISORS)
    scaling = values.scaling if divisors is None else _llama3(values, divisors.read())
    return {"rope_theta": values.get("rope.freq_base", 10_000.0), "rope_scaling": scaling}


def _llama3(values: _Values, divisors: np.ndarray) -> dict[str, Any]:
    """The scaling that these divisors of the angles came from."""
    theta = values.number("rope.freq_base", 10_000.0)
    usual = divisors.ndim == 1 and divisors.size > 0 and np.isfinite(divisors).all()
    factor = float(divisors.max()) if usual else 0.0
    found = {**_LLAMA3, "factor": factor}
    if usual := factor >= 1:
        head = 2 * len(divisors)
        plain, stretched = (rotary(head, theta, each).frequencies() for each in (None, found))
        with np.errstate(all="ignore"):  # of numbers so large or small that they fit nothing
            usual = np.allclose(divisors, plain / stretched, rtol=1e-3)
    if not usual:
        raise CheckpointError(
            f"{values.gguf.path}: {_DIVISORS} are not those of Llama 3; give another model"
        )
    return found


def _gemma(values: _Values) -> dict[str, Any]:
    return {
        "rope_theta": values.get("rope.freq_base", 10_000.0),
        "rope_scaling": values.scaling,
    }


def _gemma2(values: _Values) -> dict[str, Any]:
    return {
        **_gemma(values),
        "attn_logit_softcapping": values.get("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": values.get("final_logit_softcapping", 30.0),
        "sliding_window": values.get("attention.sliding_window", 4096),
        "query_pre_attn_scalar": _scalar(values, largest=46),
    }


def _gemma3(values: _Values) -> dict[str, Any]:
    return {
        "rope_theta": values.get("rope.freq_base", 1_000_000.0),
        "rope_scaling": values.scaling,
        "rope_local_base_freq": values.get("rope.freq_base_swa", 10_000.0),
        "sliding_window": values["attention.sliding_window"],
        "query_pre_attn_scalar": _scalar(values, largest=62),
    }


def _scalar(values: _Values, *, largest: int) -> Any:
    """What queries are divided by the root of, which no key of the metadata says.

    It is the width of a head, but in the `largest` model, of so many layers, the width per head.
    """
    if values["block_count"] != largest:
        return values["attention.key_length"]
    return int(values.number("embedding_length", 0.0) // values.number("attention.head_count", 0.0))


def _unpermute(tensor: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries or keys in transformers' order, halves and not pairs of each head."""
    pairs = tensor.reshape(heads, -1, 2, *tensor.shape[1:])
    return pairs.swapaxes(1, 2).reshape(tensor.shape)


# llama.cpp keeps the whole scale, and transformers what is above 1.
_NORMS = {"norm": lambda x, config: x - 1}
_ARCHITECTURES = {
    "llama": _Architecture(
        "llama",
        "post_attention_layernorm",
        _llama,
        {
            "q_proj": lambda x, config: _unpermute(x, config.num_attention_heads),
            "k_proj": lambda x, config: _unpermute(
                x, config.num_key_value_heads or config.num_attention_heads
            ),
        },
    ),
    "gemma": _Architecture("gemma", "post_attention_layernorm", _gemma, _NORMS),
    "gemma2": _Architecture("gemma2", "pre_feedforward_layernorm", _gemma2, _NORMS),
    "gemma3": _Architecture("gemma3_text", "pre_feedforward_layernorm", _gemma3, _NORMS),
}


def load_gguf(gguf: Gguf, *, dtype: str | None = None, saved: bool = False) -> LanguageModel:
    """The model of a file, with its weights cast to `dtype`; "auto" is the type that they have.

    None is "float32". With `saved`, "int8" and "int4" are for what `save_model` writes so.
    Raises `CheckpointError` for an architecture that captax does not have, and when the tensors do
    not fit what the metadata says.
    """
    name = gguf.metadata.get("general.architecture")
    if not isinstance(name, str) or name not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise CheckpointError(
            f"{gguf.path}: the architecture {quoted(name)} is not supported; use one of {known}"
        )
    architecture = _ARCHITECTURES[name]
    try:
        config: Any = _config(gguf, architecture)
        model: Any = config.build()
    except ConfigError as error:
        raise CheckpointError(f"{gguf.path}: {error}") from None
    tensors = {}
    for theirs, tensor in gguf.tensors.items():
        if theirs != _DIVISORS:
            spelt = _spelt(theirs, architecture)
            tensors[spelt] = _changed(tensor, spelt, architecture, config)
    how = types_for(dtype, lambda: own_dtype(None, gguf.held))
    return fill(model, tensors, where=str(gguf.path), layout=config.layout(), saved=saved, **how)


def _config(gguf: Gguf, architecture: _Architecture) -> ModelConfig:
    values = _Values(gguf)
    embedding = gguf.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError(f"{gguf.path}: has no embedding of tokens; convert it again")
    head = values.get("attention.key_length", values.get("rope.dimension_count"))
    described = {
        "model_type": architecture.model_type,
        "vocab_size": embedding.shape[0],
        "hidden_size": values["embedding_length"],
        "intermediate_size": values["feed_forward_length"],
        "num_hidden_layers": values["block_count"],
        "num_attention_heads": values["attention.head_count"],
        "num_key_value_heads": values.get("attention.head_count_kv"),
        "head_dim": head,
        "max_position_embeddings": values["context_length"],
        "rms_norm_eps": values["attention.layer_norm_rms_epsilon"],
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        "attention_bias": "blk.0.attn_q.bias" in gguf.tensors,
        "bos_token_id": gguf.one("tokenizer.ggml.bos_token_id"),
        "eos_token_id": gguf.one("tokenizer.ggml.eos_token_id"),
        "pad_token_id": gguf.one("tokenizer.ggml.padding_token_id"),
        **architecture.fields(values),
    }
    return read_config(described)


def _spelt(theirs: str, architecture: _Architecture) -> str:
    """transformers' name of a tensor; names that are not known stay, and are told of."""
    stem, _, kind = theirs.rpartition(".")
    if stem in _OUTSIDE:
        return f"{_OUTSIDE[stem]}.{kind}"
    found = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
    known = _IN_LAYER | {"ffn_norm": architecture.before_mlp}
    if found is None or found[2] not in known:
        return theirs
    return f"model.layers.{found[1]}.{known[found[2]]}.{kind}"


def _changed(tensor: LazyTensor, name: str, architecture: _Architecture, config: Any) -> LazyTensor:
    for part, change in architecture.changes.items():
        if part in name:
            read = functools.partial(_read_changed, tensor, change, config)
            return dataclasses.replace(tensor, read=read, part=None)
    return tensor


def _read_changed(tensor: LazyTensor, change: Callable[..., np.ndarray], config: Any) -> np.ndarray:
    return change(tensor.read(), config)
