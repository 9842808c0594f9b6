"""ViT + GPT-2, as the captioners that people name are made."""

from typing import Any

from captax.models.observing import Observed, observe
from golden.case import Case, Inputs, Outputs, pixels, random_pixels, random_tokens
from golden.families import gpt2, vit


def _vit_gpt2(full: bool) -> Any:
    return _assemble(full, {})


def _projected(full: bool) -> Any:
    """Halves of different widths have a projection between them."""
    return _assemble(
        full, {"hidden_size": 1024, "num_attention_heads": 16} if full else {"hidden_size": 18}
    )


def _assemble(full: bool, other: dict[str, Any]) -> Any:
    from transformers import (
        GPT2Config,
        VisionEncoderDecoderConfig,
        VisionEncoderDecoderModel,
        ViTConfig,
    )

    encoder = ViTConfig(**({} if full else vit.SMALL) | other)
    decoder = GPT2Config(**gpt2.NO_DROPOUT, **({} if full else gpt2.SMALL))
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    return VisionEncoderDecoderModel(config)


def _inputs(full: bool) -> Inputs:
    side = 224 if full else 32
    return {
        "pixel_values": random_pixels(2, 3, side, side),
        "decoder_input_ids": random_tokens(50257 if full else 40, 2, 7),
    }


def run(model: Any, inputs: Inputs) -> Outputs:
    return named(*observe(model, pixels(inputs), inputs["decoder_input_ids"]))


def named(logits: Any, seen: Observed) -> Outputs:
    """What an encoder-decoder gave, by the names of transformers' outputs."""
    return {
        "logits": logits,
        "encoder_hidden_states": seen["encoder.hidden_states"],
        "encoder_attentions": seen["encoder.attentions"],
        "decoder_hidden_states": seen["decoder.hidden_states"],
        "decoder_attentions": seen["decoder.attentions"],
        "cross_attentions": seen["decoder.cross_attentions"],
    }


CASES = [
    Case("vit-gpt2", _vit_gpt2, _inputs, run),
    Case("vit-gpt2-projected", _projected, _inputs, run),
]
