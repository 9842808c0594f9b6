"""New models on pretrained parts: two halves made one, or another head."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

from flax import nnx

from captax.captioner import Captioner
from captax.checkpoints import hub
from captax.checkpoints.directory import load_for_labels, load_half
from captax.classifier import Classifier, LabelError
from captax.errors import CheckpointError
from captax.generation import GenerationConfig
from captax.images import ImageProcessor
from captax.models.config import ModelConfig
from captax.models.encoder_decoder import (
    EncoderDecoder,
    EncoderDecoderConfig,
    TextEncoderDecoderConfig,
    VisionEncoderDecoderConfig,
)
from captax.models.encoders import TextEncoder
from captax.text import Tokenizer
from captax.text_generator import TextGenerator

Name = str | PathLike[str]

# What transformers can make half of its encoder-decoders.
HALVES = {"vit", "deit", "vit_msn", "clip_vision_model", "bert", "gpt2"}


def from_pretrained_halves(
    encoder: Name,
    decoder: Name | ModelConfig,
    *,
    tokenizer: Tokenizer | None = None,
    seed: int = 0,
    dtype: str = "float32",
    token: str | None = None,
    offline: bool = False,
) -> Captioner | TextGenerator:
    """A captioner, or of a text encoder a text-to-text model, to be fine-tuned.

    Each half is a checkpoint by its directory or its name on the hub: a ViT, ResNet, CLIP or BERT
    before a GPT-2 or BERT. Cross-attention that the decoder lacks is new, initialised as
    transformers does, and so is the projection between halves of different widths. In the place
    of a pretrained decoder there may be the config of a new one, such as
    `TransformerDecoderConfig`, with the `tokenizer` that it speaks. Captions begin with the
    decoder's bos (or CLS) token, end with its eos (or SEP) and are padded with its pad token, or
    with eos where there is none.
    """
    rngs = nnx.Rngs(seed)
    source = hub.fetch(encoder, token=token, offline=offline)
    first = load_half(source, "encoder", rngs=rngs, dtype=dtype)
    if isinstance(decoder, ModelConfig):
        if tokenizer is None:
            raise CheckpointError("a new decoder speaks no language yet: give its tokenizer")
        second: Any = decoder.build(rngs=rngs)
    else:
        target = hub.fetch(decoder, token=token, offline=offline)
        second = load_half(target, "decoder", rngs=rngs, dtype=dtype)
        tokenizer = tokenizer or Tokenizer.load(target)
    roles = second.config.roles()
    start = tokenizer.start_id if roles.start is None else roles.start
    eos = tokenizer.eos_id if roles.eos is None else roles.eos
    pad = roles.pad if roles.pad is not None else tokenizer.pad_id
    generation = GenerationConfig(
        decoder_start_token_id=start, eos_token_id=eos, pad_token_id=pad, num_beams=4
    )
    model = EncoderDecoder(
        first, second, config=_config(first.config, second.config, generation), rngs=rngs
    )
    if isinstance(first, TextEncoder):
        return TextGenerator(model, tokenizer, generation, source_tokenizer=Tokenizer.load(source))
    return Captioner(model, ImageProcessor.load(source), tokenizer, generation)


def classifier_for(
    name: Name,
    labels: Sequence[str],
    *,
    seed: int = 0,
    dtype: str = "float32",
    token: str | None = None,
    offline: bool = False,
) -> Classifier:
    """A classifier of new `labels` on a pretrained ViT or ResNet, to be fine-tuned.

    The head is new, initialised as the family's heads are, whether the checkpoint has one or not.
    """
    if isinstance(labels, str) or not labels or len(set(labels)) != len(labels):
        raise LabelError(f"labels {labels!r}: give a list of different labels")
    directory = hub.fetch(name, token=token, offline=offline)
    model = load_for_labels(directory, labels, rngs=nnx.Rngs(seed), dtype=dtype)
    return Classifier(model, ImageProcessor.load(directory))


def _config(
    encoder: ModelConfig, decoder: ModelConfig, generation: GenerationConfig
) -> EncoderDecoderConfig:
    """The family of the whole: transformers' where it has both halves, else captax's own."""
    if not {encoder.model_type, decoder.model_type} <= HALVES:
        return EncoderDecoderConfig(encoder, decoder)
    of_text = encoder.model_type == "bert"
    kind = TextEncoderDecoderConfig if of_text else VisionEncoderDecoderConfig
    return kind(
        encoder,
        decoder,
        generation.decoder_start_token_id,
        generation.eos_token_id,
        generation.pad_token_id,
    )
