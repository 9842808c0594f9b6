"""Writes GGUF files with llama.cpp's own package: made-up models, their weights and tokenizers."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from captax.checkpoints.state import export

Kind = gguf.GGMLQuantizationType
LLAMA = {
    "model_type": "llama",
    "vocab_size": 12,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 40,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GEMMA = {
    **LLAMA,
    "model_type": "gemma",
    "head_dim": 16,
    "tie_word_embeddings": True,
}
GEMMA2 = {
    **GEMMA,
    "model_type": "gemma2",
    "num_hidden_layers": 3,
    "sliding_window": 4,
    "query_pre_attn_scalar": 16,
    "attn_logit_softcapping": 0.5,
    "final_logit_softcapping": 2.0,
}
GEMMA3 = {
    **GEMMA,
    "model_type": "gemma3_text",
    "num_hidden_layers": 7,
    "sliding_window": 4,
    "query_pre_attn_scalar": 16,
}
# By llama.cpp's names of their architectures.
MODELS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "gemma": GEMMA,
    "gemma2": GEMMA2,
    "gemma3": GEMMA3,
}
PIECES = ["<pad>", "<s>", "</s>", "<unk>", "a", "b", "c", "ab", "abc", "\u2581", "\u2581a", "x"]
# A tokenizer of bytes: what its metadata say.
GPT2 = {
    "model": "gpt2",
    "pre": "smollm",
    "tokens": ["<s>", "a", "b", "\u0120", "1", "2", "ab", "\u0120ab", "12"],
    "merges": ["a b", "\u0120 ab", "1 2"],
    "token_type": [3, 1, 1, 1, 1, 1, 1, 1, 1],
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def write(
    path: Path,
    architecture: str,
    numbers: dict[str, Any],
    tensors: dict[str, np.ndarray],
    kind: Kind = Kind.F32,
    tokens: dict[str, Any] | None = None,
) -> Path:
    """A file with this metadata, whose matrices are of this kind."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in numbers.items():
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        add(f"{architecture}.{key}", value)
    if tokens is None:
        scores = [-float(i) for i in range(12)]
        ids = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 3}
        tokens = {"model": "llama", "tokens": PIECES, "scores": scores, **ids}
    for key, value in tokens.items():
        add = {str: writer.add_string, bool: writer.add_bool, list: writer.add_array}.get(
            type(value), writer.add_uint32
        )
        add(f"tokenizer.ggml.{key}", value)
    for name, tensor in tensors.items():
        if tensor.ndim > 1 and kind != Kind.F32:
            packed = gguf.quants.quantize(tensor, kind)
            writer.add_tensor(name, packed, raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def theirs(model: Any) -> dict[str, np.ndarray]:
    """The tensors of a model as llama.cpp's scripts name and turn them."""
    config = model.config
    [architecture] = (k for k, v in MODELS.items() if v["model_type"] == config.model_type)
    names = gguf.get_tensor_name_map(
        gguf.MODEL_ARCH[architecture.upper()], config.num_hidden_layers
    )
    found = {}
    for name, tensor in export(model, config.layout(), dtype="float32").items():
        if config.model_type == "llama" and ("q_proj" in name or "k_proj" in name):
            keys = config.num_key_value_heads
            heads = config.num_attention_heads if "q_proj" in name else keys
            halves = tensor.reshape(heads, 2, -1, *tensor.shape[1:])
            tensor = halves.swapaxes(1, 2).reshape(tensor.shape)
        if "gemma" in architecture and "norm" in name:
            tensor = tensor + 1
        found[names.get_name(name, try_suffixes=(".weight", ".bias"))] = tensor
    return found


def numbers(config: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a model with this config."""
    head = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    said = {
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "block_count": config["num_hidden_layers"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": head,
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "context_length": config["max_position_embeddings"],
        "rope.freq_base": config["rope_theta"],
    }
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if key in config:
            said[key] = config[key]
    if "sliding_window" in config:
        said["attention.sliding_window"] = config["sliding_window"]
    return said
