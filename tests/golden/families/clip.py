"""CLIP, its towers alone, and its vision tower as the encoder of a captioner."""

from typing import Any

import numpy as np

from captax.models.encoders import TextBatch
from captax.models.observing import observe
from golden.case import Case, Inputs, Outputs, pixels, random_pixels, random_tokens
from golden.families import gpt2, vision_encoder_decoder

STATES = {"output_hidden_states": True, "output_attentions": True}
LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
SMALL_VISION = {
    **LAYERS,
    "hidden_size": 24,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 12,
}
SMALL_TEXT = {
    **LAYERS,
    "hidden_size": 18,
    "vocab_size": 40,
    "max_position_embeddings": 12,
    "projection_dim": 12,
    "bos_token_id": 3,
    "eos_token_id": 37,
}
# As in the checkpoints: not what ends a text, which is then taken to be the highest token.
FULL_TEXT = {"bos_token_id": 0, "eos_token_id": 2}


def _text_config(full: bool) -> dict[str, Any]:
    return FULL_TEXT if full else SMALL_TEXT


def _clip(full: bool) -> Any:
    from transformers import CLIPConfig, CLIPModel

    small = {} if full else {"vision_config": SMALL_VISION, "projection_dim": 12}
    return CLIPModel(CLIPConfig(text_config=_text_config(full), **small))


def _vision(full: bool) -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    return CLIPVisionModel(CLIPVisionConfig(**({} if full else SMALL_VISION)))


def _text(full: bool) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(**_text_config(full)))


def _clip_gpt2(full: bool) -> Any:
    from transformers import (
        CLIPVisionConfig,
        GPT2Config,
        VisionEncoderDecoderConfig,
        VisionEncoderDecoderModel,
    )

    encoder = CLIPVisionConfig(**({} if full else SMALL_VISION))
    decoder = GPT2Config(**gpt2.NO_DROPOUT, **({} if full else gpt2.SMALL))
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    return VisionEncoderDecoderModel(config)


def _pictures(full: bool) -> Inputs:
    side = 224 if full else 32
    return {"pixel_values": random_pixels(2, 3, side, side)}


def _other_size(full: bool) -> Inputs:
    height, width = (320, 160) if full else (44, 24)  # rows and columns, more and fewer
    return {"pixel_values": random_pixels(2, 3, height, width)}


def _texts(full: bool) -> Inputs:
    vocab, eos, pad = (49408, 49407, 49407) if full else (40, 37, 1)
    tokens = random_tokens(vocab - 5, 3, 9)
    tokens[:, 0] = 3
    if not full:
        tokens[:, 2] = 39  # higher than eos
    lengths = np.array([9, 6, 4])
    tokens[np.arange(3), lengths - 1] = eos
    mask = np.arange(9) < lengths[:, None]
    return {"input_ids": np.where(mask, tokens, pad), "attention_mask": mask.astype(np.int64)}


def _pairs(full: bool) -> Inputs:
    return {**_pictures(full), **_texts(full)}


def _captions(full: bool) -> Inputs:
    return {
        **_pictures(full),
        "decoder_input_ids": random_tokens(50257 if full else 40, 2, 7),
    }


def ask_pairs(model: Any, tensors: dict[str, Any]) -> Any:
    """What a model of two towers computes, with the states of both."""
    output = model(**tensors, **STATES)
    vision, text = output.vision_model_output, output.text_model_output
    return {
        "logits_per_image": output.logits_per_image,
        "logits_per_text": output.logits_per_text,
        "image_embeds": vision.pooler_output,
        "text_embeds": text.pooler_output,
        "vision_hidden_states": vision.hidden_states,
        "vision_attentions": vision.attentions,
        "text_hidden_states": text.hidden_states,
        "text_attentions": text.attentions,
    }


def interpolated(model: Any, tensors: dict[str, Any]) -> Any:
    """What a vision tower computes of pictures of another size."""
    return model(**tensors, **STATES, interpolate_pos_encoding=True)


def as_text(inputs: Inputs) -> TextBatch:
    """The texts as our models take them."""
    return TextBatch(inputs["input_ids"], inputs["attention_mask"] == 1)


def run_pairs(model: Any, inputs: Inputs) -> Outputs:
    """The same of ours; transformers does not give the attention of a tower's head."""
    logits, seen = observe(model, pixels(inputs), as_text(inputs))
    states = {k.replace(".", "_"): value for k, value in seen.items() if ".head." not in k}
    return {
        "logits_per_image": logits[0],
        "logits_per_text": logits[1],
        "image_embeds": model.embed_images(pixels(inputs)),
        "text_embeds": model.embed_texts(as_text(inputs)),
        **states,
    }


def run_vision(model: Any, inputs: Inputs) -> Outputs:
    """What a vision tower computes."""
    features, seen = observe(model, pixels(inputs))
    return {"last_hidden_state": features.tokens, "pooler_output": model.pool(features), **seen}


def run_text(model: Any, inputs: Inputs) -> Outputs:
    """What a text tower computes."""
    text = as_text(inputs)
    features, seen = observe(model, text)
    pooled = model.pool(features, text)
    return {"last_hidden_state": features.tokens, "pooler_output": pooled, **seen}


CASES = [
    Case("clip", _clip, _pairs, run_pairs, ask_pairs, loss="logits_per_image"),
    Case("clip-vision", _vision, _pictures, run_vision, loss="pooler_output"),
    Case(
        "clip-vision-other-size",
        _vision,
        _other_size,
        run_vision,
        interpolated,
        loss="last_hidden_state",
    ),
    Case("clip-text", _text, _texts, run_text, loss="pooler_output"),
    Case("clip-gpt2", _clip_gpt2, _captions, vision_encoder_decoder.run),
]
