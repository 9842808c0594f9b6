"""Gemma and Gemma 2 as language models: one head of keys, windows, limits of scores and logits."""

from typing import Any

from golden.case import Case
from golden.families.llama import _inputs, _run

SMALL = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "vocab_size": 40,
    "max_position_embeddings": 32,
}
# Gemma 2B, with fewer layers and words.
FULL = {
    "hidden_size": 2048,
    "intermediate_size": 16_384,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "vocab_size": 32_000,
}
SMALL_2 = {
    **SMALL,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "sliding_window": 5,
    "query_pre_attn_scalar": 12,
    # So low that they matter.
    "attn_logit_softcapping": 0.5,
    "final_logit_softcapping": 2.0,
}
# Gemma 2 2B, with fewer layers and words.
FULL_2 = {"num_hidden_layers": 3, "vocab_size": 32_000, "sliding_window": 8}


def _gemma(full: bool) -> Any:
    from transformers import GemmaConfig, GemmaForCausalLM

    return GemmaForCausalLM(GemmaConfig(**(FULL if full else SMALL)))


def _gemma2(full: bool) -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    return Gemma2ForCausalLM(Gemma2Config(**(FULL_2 if full else SMALL_2)))


CASES = [
    Case("gemma", _gemma, _inputs, _run),
    Case("gemma2", _gemma2, _inputs, _run),
]
