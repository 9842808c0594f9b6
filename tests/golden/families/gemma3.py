"""Gemma 3 as a language model: windows, two kinds of angles, norms around every block."""

from typing import Any

from golden.case import Case, Inputs, random_tokens
from golden.families.llama import _run

SMALL = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "vocab_size": 40,
    "max_position_embeddings": 32,
    "sliding_window": 5,
    "query_pre_attn_scalar": 12,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
# Gemma 3 270M.
FULL = {
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": 18,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "vocab_size": 262_144,
    "max_position_embeddings": 32_768,
    "sliding_window": 512,
}


def _gemma3(full: bool) -> Any:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    return Gemma3ForCausalLM(Gemma3TextConfig(**(FULL if full else SMALL)))


def _inputs(full: bool) -> Inputs:
    return {"input_ids": random_tokens(40, 2, 20)}


CASES = [Case("gemma3", _gemma3, _inputs, _run)]
