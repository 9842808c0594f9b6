"""BLIP's captioner."""

from typing import Any

import numpy as np

from captax.models.observing import observe
from golden.case import Case, Inputs, Outputs, pixels, random_pixels, random_tokens

# Not transformers' default of 1e-10, under which no picture is told from another.
VISION = {"initializer_range": 0.02}
TEXT = {"num_attention_heads": 12}
SMALL_VISION = {
    "hidden_size": 18,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 32,
    "patch_size": 8,
}
SMALL_TEXT = {
    "hidden_size": 24,
    "intermediate_size": 44,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 40,
    "max_position_embeddings": 12,
    "bos_token_id": 39,
    "sep_token_id": 3,
}
BATCH, TIME = 2, 7


def _blip(full: bool) -> Any:
    from transformers import BlipConfig, BlipForConditionalGeneration

    config = BlipConfig(
        vision_config=VISION | ({} if full else SMALL_VISION),
        text_config=TEXT if full else SMALL_TEXT,
    )
    return BlipForConditionalGeneration(config)


def _large(full: bool) -> Any:
    """Salesforce/blip-image-captioning-large's picture tower."""
    from transformers import BlipConfig, BlipForConditionalGeneration

    tower = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
    vision = VISION | tower | {"intermediate_size": 4096}
    return BlipForConditionalGeneration(BlipConfig(vision_config=vision, text_config=TEXT))


def _inputs(full: bool) -> Inputs:
    return _texts(full, 384 if full else 32, 384 if full else 32)


def _other_size(full: bool) -> Inputs:
    return _texts(full, *((320, 480) if full else (44, 24)))


def _texts(full: bool, height: int, width: int) -> Inputs:
    """One text is padded behind and one before, where causality alone does not hide it."""
    tokens = random_tokens(30524 if full else 40, BATCH, TIME)
    mask = np.ones((BATCH, TIME), np.int64)
    mask[0, :2] = mask[1, -3:] = 0
    return {
        "pixel_values": random_pixels(BATCH, 3, height, width),
        "input_ids": np.where(mask, tokens, 0),
        "attention_mask": mask,
    }


def _ask(model: Any, tensors: dict[str, Any]) -> Any:
    """The captioner's outputs, and those that it keeps to itself: its decoder's."""
    wanted = {"output_hidden_states": True, "output_attentions": True}
    given = model(**tensors, **wanted, interpolate_pos_encoding=True)
    said = model.text_decoder(
        input_ids=tensors["input_ids"],
        attention_mask=tensors["attention_mask"],
        encoder_hidden_states=given.last_hidden_state,
        **wanted,
    )
    outputs = {
        "logits": given.logits,
        "last_hidden_state": given.last_hidden_state,
        "hidden_states": given.hidden_states,
        "attentions": given.attentions,
        "decoder_hidden_states": said.hidden_states,
        "decoder_attentions": said.attentions,
        "cross_attentions": said.cross_attentions,
    }
    return _without_padding(outputs, tensors["attention_mask"])


def _run(model: Any, inputs: Inputs) -> Outputs:
    def call() -> Any:
        features = model.encode(pixels(inputs))
        return features.tokens, model.read(
            features, inputs["input_ids"], segments=inputs["attention_mask"]
        )

    (tokens, logits), seen = observe(call)
    outputs = {
        "logits": logits,
        "last_hidden_state": tokens,
        "hidden_states": seen["encoder.hidden_states"],
        "attentions": seen["encoder.attentions"],
        "decoder_hidden_states": seen["decoder.hidden_states"],
        "decoder_attentions": seen["decoder.attentions"],
        "cross_attentions": seen["decoder.cross_attentions"],
    }
    return _without_padding(outputs, inputs["attention_mask"])


def _without_padding(outputs: Outputs, mask: Any) -> Outputs:
    """What is said of padding means nothing, and the two sides say different things."""
    tokens, rows = mask[:, :, None], mask[:, None, :, None]
    return outputs | {
        "logits": outputs["logits"] * tokens,
        "decoder_hidden_states": [each * tokens for each in outputs["decoder_hidden_states"]],
        "decoder_attentions": [each * rows for each in outputs["decoder_attentions"]],
        "cross_attentions": [each * rows for each in outputs["cross_attentions"]],
    }


CASES = [
    Case("blip", _blip, _inputs, _run, _ask),
    Case("blip-large", _large, _inputs, _run, _ask, large=True),
    Case("blip-other-size", _blip, _other_size, _run, _ask),
]
