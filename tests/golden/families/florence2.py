"""Florence-2, which rewrites a text with a picture in it."""

from typing import Any

import numpy as np

from captax.models.observing import observe
from captax.models.prompt import Prompt
from golden.case import Case, Inputs, Outputs, pixels, random_pixels, random_tokens
from golden.families import bart, davit

PICTURE, SAID = 39, 6


def _florence2(full: bool) -> Any:
    """At the real size, florence-community/Florence-2-base."""
    from transformers import Florence2Config, Florence2ForConditionalGeneration

    vision = {"projection_dim": 768, "drop_path_rate": 0.0}
    text = {**bart.NO_DROPOUT, "model_type": "bart"}
    if full:
        text |= {**bart.BASE, "vocab_size": 51328}
    else:
        vision |= {**davit.SMALL, "projection_dim": 24}
        text |= {**bart.SMALL, "max_position_embeddings": 40}
    config = Florence2Config(
        vision_config=vision, text_config=text, image_token_id=51289 if full else PICTURE
    )
    return Florence2ForConditionalGeneration(config)


def inputs(full: bool, batch: int = 2) -> Inputs:
    """Prompts of different lengths."""
    places = 577 if full else 1 + 3 * 5
    texts = random_tokens(PICTURE, batch, 9)
    texts[:, -1] = 2
    mask = np.ones((batch, places + 9), np.int64)
    mask[1::2, -3:] = 0
    pictures = np.full((batch, places), 51289 if full else PICTURE)
    return {
        "pixel_values": random_pixels(batch, 3, *((768, 768) if full else (48, 80))),
        "input_ids": np.concatenate([pictures, texts], 1),
        "attention_mask": mask,
    }


def _inputs(full: bool) -> Inputs:
    said = random_tokens(PICTURE, 2, SAID, seed=2)
    said[:, 0] = 2
    return inputs(full) | {"decoder_input_ids": said}


def asked(given: Inputs, begin: Any) -> Prompt:
    """The prompt of a decoder that begins with these tokens."""
    return Prompt(begin, question=Prompt(given["input_ids"], given["attention_mask"].sum(1)))


def _ask(model: Any, tensors: dict[str, Any]) -> Any:
    found = model(**tensors, output_hidden_states=True, output_attentions=True, use_cache=False)
    pictures = model.get_image_features(tensors["pixel_values"]).pooler_output
    return dict(found) | {"image_hidden_states": pictures}


def _run(model: Any, given: Inputs) -> Outputs:
    said = given["decoder_input_ids"]

    def look_and_read() -> Any:
        features = model.encode(pixels(given))
        read, _ = model.given(features, asked(given, said[:, :1]))
        return features, model.read(read, said)

    (features, logits), seen = observe(look_and_read)
    return {
        "logits": logits,
        "image_hidden_states": features.tokens,
        "encoder_hidden_states": seen["text_encoder.hidden_states"],
        "encoder_attentions": seen["text_encoder.attentions"],
        "decoder_hidden_states": seen["decoder.hidden_states"],
        "decoder_attentions": seen["decoder.attentions"],
        "cross_attentions": seen["decoder.cross_attentions"],
    }


CASES = [Case("florence2", _florence2, _inputs, _run, _ask)]
