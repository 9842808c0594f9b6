"""Qwen 2 and 3 as language models: biases in three projections, or norms of queries and keys."""

from typing import Any

from golden.case import Case
from golden.families.llama import SMALL, _inputs, _run


def _qwen2(full: bool) -> Any:
    """At the real size, Qwen/Qwen2.5-0.5B with fewer layers and words."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    real = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 4}
    real |= {"num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 32_064}
    real |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0}}
    return Qwen2ForCausalLM(Qwen2Config(**(real if full else SMALL), tie_word_embeddings=True))


def _qwen3(full: bool) -> Any:
    """At the real size, Qwen/Qwen3-0.6B with fewer layers and words."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    real = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 4}
    real |= {"num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 32_064}
    real |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0}}
    small = {**SMALL, "head_dim": 8}
    return Qwen3ForCausalLM(Qwen3Config(**(real if full else small)))


CASES = [
    Case("qwen2", _qwen2, _inputs, _run),
    Case("qwen3", _qwen3, _inputs, _run),
]
