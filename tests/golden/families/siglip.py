"""SigLIP, its towers alone, its classifier, and its vision tower as the encoder of a captioner."""

from typing import Any

import numpy as np

from golden.case import Case, Inputs, random_pixels, random_tokens
from golden.families import clip, gpt2, vision_encoder_decoder, vit

SMALL_VISION = {**clip.LAYERS, "hidden_size": 24, "image_size": 32, "patch_size": 8}
SMALL_TEXT = {
    **clip.LAYERS,
    "hidden_size": 18,
    "vocab_size": 40,
    "max_position_embeddings": 12,
    "projection_size": 24,
}


def _siglip(full: bool) -> Any:
    from transformers import SiglipConfig, SiglipModel

    small = {} if full else {"text_config": SMALL_TEXT, "vision_config": SMALL_VISION}
    return SiglipModel(SiglipConfig(**small))


def _vision(full: bool) -> Any:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    return SiglipVisionModel(SiglipVisionConfig(**({} if full else SMALL_VISION)))


def _headless(full: bool) -> Any:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    size = {} if full else SMALL_VISION
    return SiglipVisionModel(SiglipVisionConfig(**size, vision_use_head=False))


def _text(full: bool) -> Any:
    from transformers import SiglipTextConfig, SiglipTextModel

    return SiglipTextModel(SiglipTextConfig(**({} if full else SMALL_TEXT)))


def _classifier(full: bool) -> Any:
    from transformers import SiglipConfig, SiglipForImageClassification

    labels = {i: f"thing {i}" for i in range(1000 if full else 7)}
    small = {} if full else {"text_config": SMALL_TEXT, "vision_config": SMALL_VISION}
    return SiglipForImageClassification(SiglipConfig(**small, id2label=labels))


def _siglip_gpt2(full: bool) -> Any:
    from transformers import (
        GPT2Config,
        SiglipVisionConfig,
        VisionEncoderDecoderConfig,
        VisionEncoderDecoderModel,
    )

    encoder = SiglipVisionConfig(**({} if full else SMALL_VISION))
    decoder = GPT2Config(**gpt2.NO_DROPOUT, **({} if full else gpt2.SMALL))
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    return VisionEncoderDecoderModel(config)


def _other_size(full: bool) -> Inputs:
    height, width = (320, 160) if full else (44, 24)  # rows and columns, more and fewer
    return {"pixel_values": random_pixels(2, 3, height, width)}


def _texts(full: bool) -> Inputs:
    """Texts of which the first fills its row; what is hidden of the others is padding."""
    vocab, time = (32000, 64) if full else (40, 12)
    mask = np.arange(time) < np.array([time, 6, 4])[:, None]
    tokens = np.where(mask, random_tokens(vocab, 3, time), 1)
    return {"input_ids": tokens, "attention_mask": mask.astype(np.int64)}


def _pairs(full: bool) -> Inputs:
    """Texts whose padding the model reads, as it did when it was trained."""
    texts = _texts(full)
    seen = {"attention_mask": np.ones_like(texts["attention_mask"])}
    return {**vit.vit_inputs(full), **texts, **seen}


def _captions(full: bool) -> Inputs:
    return {
        **vit.vit_inputs(full),
        "decoder_input_ids": random_tokens(50257 if full else 40, 2, 7),
    }


CASES = [
    Case("siglip", _siglip, _pairs, clip.run_pairs, clip.ask_pairs, loss="logits_per_image"),
    Case("siglip-vision", _vision, vit.vit_inputs, clip.run_vision, loss="pooler_output"),
    Case(
        "siglip-vision-headless",
        _headless,
        _other_size,
        vit.run_encoder,
        clip.interpolated,
        loss="last_hidden_state",
    ),
    Case("siglip-text", _text, _texts, clip.run_text, loss="pooler_output"),
    Case("siglip-classifier", _classifier, vit.vit_inputs, vit.run_classifier),
    Case("siglip-gpt2", _siglip_gpt2, _captions, vision_encoder_decoder.run),
]
