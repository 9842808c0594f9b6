"""BART, which rewrites texts."""

from typing import Any

from golden.case import Case, Inputs, random_tokens
from golden.families.bert import rewrite, texts

NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
SMALL = {
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 36,
    "vocab_size": 40,
    "max_position_embeddings": 14,
}
# facebook/bart-base
BASE = {
    "d_model": 768,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "encoder_attention_heads": 12,
    "decoder_attention_heads": 12,
    "encoder_ffn_dim": 3072,
    "decoder_ffn_dim": 3072,
}


def _bart(**options: Any) -> Any:
    def make(full: bool) -> Any:
        from transformers import BartConfig, BartForConditionalGeneration

        config = BartConfig(**NO_DROPOUT, **(BASE if full else SMALL), **options)
        return BartForConditionalGeneration(config)

    return make


def _inputs(full: bool) -> Inputs:
    vocab = 50265 if full else 40
    return texts(full) | {"decoder_input_ids": random_tokens(vocab, 2, 7, seed=2)}


CASES = [
    Case("bart", _bart(), _inputs, rewrite),
    Case("bart-scaled", _bart(scale_embedding=True, activation_function="relu"), _inputs, rewrite),
]
