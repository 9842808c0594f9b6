"""GPT-2 as a language model."""

from typing import Any

from captax.models.observing import observe
from golden.case import Case, Inputs, Outputs, random_tokens

NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
SMALL = {
    "n_embd": 24,
    "n_layer": 2,
    "n_head": 3,
    "vocab_size": 40,
    "n_positions": 20,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _gpt2(full: bool) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(**NO_DROPOUT, **({} if full else SMALL)))


def _inputs(full: bool) -> Inputs:
    return {"input_ids": random_tokens(50257 if full else 40, 2, 9)}


def _run(model: Any, inputs: Inputs) -> Outputs:
    logits, seen = observe(model, None, inputs["input_ids"])
    return {"logits": logits, **seen}


CASES = [Case("gpt2", _gpt2, _inputs, _run)]
