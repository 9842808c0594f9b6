"""BERT as an encoder, as a decoder, and as either half of a captioner or a text-to-text model."""

from typing import Any

import numpy as np

from captax.models.encoders import TextBatch
from captax.models.observing import observe
from golden.case import Case, Inputs, Outputs, random_pixels, random_tokens
from golden.families import gpt2, vit
from golden.families.vision_encoder_decoder import named, run

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "vocab_size": 40,
    "max_position_embeddings": 14,
}
VOCAB, BATCH = 30522, 2


def _config(full: bool, **other: Any) -> Any:
    from transformers import BertConfig

    return BertConfig(**NO_DROPOUT | ({} if full else SMALL) | other)


def _bert(full: bool) -> Any:
    from transformers import BertModel

    return BertModel(_config(full))


def _decoder(full: bool) -> Any:
    from transformers import BertLMHeadModel

    return BertLMHeadModel(_config(full, is_decoder=True))


def _untied(full: bool) -> Any:
    from transformers import BertLMHeadModel

    return BertLMHeadModel(_config(full, is_decoder=True, tie_word_embeddings=False))


def _bert2bert(full: bool) -> Any:
    return _text_to_text(_config(full), _config(full))


def _bert_gpt2(full: bool) -> Any:
    """Halves of different widths have a projection between them."""
    from transformers import GPT2Config

    narrow = {"hidden_size": 512, "num_attention_heads": 8} if full else {"hidden_size": 18}
    decoder = GPT2Config(**gpt2.NO_DROPOUT, **({} if full else gpt2.SMALL))
    return _text_to_text(_config(full, **narrow), decoder)


def _text_to_text(encoder: Any, decoder: Any) -> Any:
    from transformers import EncoderDecoderConfig, EncoderDecoderModel

    return EncoderDecoderModel(EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder))


def _vit_bert(full: bool) -> Any:
    from transformers import VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig

    encoder = ViTConfig(**({} if full else vit.SMALL))
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, _config(full))
    return VisionEncoderDecoderModel(config)


def texts(full: bool, batch: int = BATCH) -> Inputs:
    """Some texts are padded behind and some before, and what pads them is not all the same."""
    mask = np.ones((batch, 11), np.int64)
    mask[::2, -4:] = mask[1::2, :2] = 0
    return {"input_ids": random_tokens(VOCAB if full else 40, *mask.shape), "attention_mask": mask}


def _prompts(full: bool) -> Inputs:
    return {"input_ids": random_tokens(VOCAB if full else 40, BATCH, 9)}


def _pairs(full: bool) -> Inputs:
    return texts(full) | _said(full)


def _pictures(full: bool) -> Inputs:
    side = 224 if full else 32
    return {"pixel_values": random_pixels(BATCH, 3, side, side)} | _said(full)


def _said(full: bool) -> Inputs:
    return {"decoder_input_ids": random_tokens(VOCAB if full else 40, BATCH, 7, seed=2)}


def text(inputs: Inputs) -> TextBatch:
    """The texts as ours takes them."""
    return TextBatch(inputs["input_ids"], inputs["attention_mask"] == 1)


def _encode(model: Any, inputs: Inputs) -> Outputs:
    features, seen = observe(model, text(inputs))
    return {"last_hidden_state": features.tokens, **seen}


def _continue(model: Any, inputs: Inputs) -> Outputs:
    logits, seen = observe(model, None, inputs["input_ids"])
    return {"logits": logits, **seen}


def rewrite(model: Any, inputs: Inputs) -> Outputs:
    return named(*observe(model, text(inputs), inputs["decoder_input_ids"]))


CASES = [
    Case("bert", _bert, texts, _encode, loss="last_hidden_state"),
    Case("bert-decoder", _decoder, _prompts, _continue),
    Case("bert-decoder-untied", _untied, _prompts, _continue),
    Case("bert2bert", _bert2bert, _pairs, rewrite),
    Case("bert-gpt2", _bert_gpt2, _pairs, rewrite),
    Case("vit-bert", _vit_bert, _pictures, run),
]
