"""New models from pretrained parts: two halves joined, or a new head."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

from flax import nnx

from captax.checkpoints import hub
from captax.checkpoints.directory import load_for_labels, load_half
from captax.errors import CheckpointError, quoted
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
from captax.pipelines.captioner import Captioner
from captax.pipelines.classifier import Classifier, LabelError
from captax.pipelines.text_generator import TextGenerator
from captax.text import Tokenizer

Name = str | PathLike[str]

# The families that can be half of an encoder-decoder in transformers.
HALVES = {"vit", "deit", "vit_msn", "clip_vision_model", "siglip_vision_model", "bert", "gpt2"}


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
    """Join an encoder and a decoder into a captioner or a text generator, to be fine-tuned.

    The encoder is a ViT, DeiT, ViT-MSN, ResNet, CLIP, SigLIP or BERT, and the decoder a GPT-2 or
    BERT. If the decoder has no cross-attention, it is added with new weights, initialised as in
    transformers. If the widths of the halves differ, a new projection is added between them.
    Captions begin with the decoder's bos (or CLS) token, end with its eos (or SEP) token, and are
    padded with its pad token, or with eos if it has none.

    Args:
        encoder: a checkpoint directory or a name on the hub.
        decoder: a checkpoint directory, a name on the hub, or the config of a new decoder, such as
            `TransformerDecoderConfig`.
        tokenizer: the decoder's tokenizer, by default the one of its checkpoint; a new decoder
            needs it.
        seed: the seed of new weights.
        dtype: the type of the weights.
        token: gives access to private models on the hub.
        offline: use only hub models that were downloaded before.

    Returns:
        A `Captioner`, or a `TextGenerator` if the encoder reads texts.

    Raises:
        CheckpointError: a checkpoint cannot be used, or a new decoder has no tokenizer.
    """
    rngs = nnx.Rngs(seed)
    source = hub.fetch(encoder, token=token, offline=offline)
    first = load_half(source, "encoder", rngs=rngs, dtype=dtype)
    if isinstance(decoder, ModelConfig):
        if tokenizer is None:
            raise CheckpointError("a new decoder has no tokenizer: give its tokenizer")
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
    """Make a classifier of new `labels` from a pretrained ViT, ResNet or SigLIP, to be fine-tuned.

    The head is new and initialised as is usual in the family, even if the checkpoint has a head.

    Raises:
        LabelError: `labels` is not a list of different labels.
    """
    if isinstance(labels, str) or not labels or len(set(labels)) != len(labels):
        raise LabelError(f"labels {quoted(labels)} cannot be used: give a list of different labels")
    directory = hub.fetch(name, token=token, offline=offline)
    model = load_for_labels(directory, labels, rngs=nnx.Rngs(seed), dtype=dtype)
    return Classifier(model, ImageProcessor.load(directory))


def _config(
    encoder: ModelConfig, decoder: ModelConfig, generation: GenerationConfig
) -> EncoderDecoderConfig:
    """The config of both halves: transformers' family if it has both, else captax's own."""
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
