"""Llama as a language model: grouped heads, tied or with biases and Llama 3's angles."""

from typing import Any

from captax.models.observing import observe
from golden.case import Case, Inputs, Outputs, random_tokens

SMALL = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 40,
    "max_position_embeddings": 32,
}
# SmolLM2-135M.
FULL = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0},
}
LLAMA3 = {
    "head_dim": 8,
    "attention_bias": True,
    "mlp_bias": True,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}


def _tied(full: bool) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**(FULL if full else SMALL), tie_word_embeddings=True))


def _stretched(full: bool) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**SMALL, **LLAMA3))


def _inputs(full: bool) -> Inputs:
    return {"input_ids": random_tokens(40, 2, 20)}


def _run(model: Any, inputs: Inputs) -> Outputs:
    logits, seen = observe(model, None, inputs["input_ids"])
    return {"logits": logits, **seen}


CASES = [
    Case("llama", _tied, _inputs, _run),
    Case("llama3", _stretched, _inputs, _run),
]
