"""The captioner, text generator or classifier that a recipe trains, before its first step."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from captax.checkpoints import hub
from captax.checkpoints.directory import load_half
from captax.checkpoints.efficientnet_lite import load_efficientnet_lite
from captax.checkpoints.state import parameters, rebuilder
from captax.errors import quoted
from captax.images import ImageProcessor, NativeProcessor, TileProcessor
from captax.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from captax.models.encoders import PatchEncoder, TextEncoder, VisionEncoder
from captax.models.shapes import DroppingConfig
from captax.models.transformer import TransformerDecoder, TransformerDecoderConfig
from captax.pipelines.assembly import classifier_for, from_pretrained_halves
from captax.pipelines.captioner import Captioner
from captax.pipelines.classifier import Classifier
from captax.pipelines.loading import load
from captax.pipelines.text_generator import TextGenerator
from captax.pipelines.vision_language import VisionLanguageCaptioner
from captax.text import Tokenizer, add_words, train_word_tokenizer
from captax.training.folder import BEST
from captax.training.recipe import Recipe, RecipeError

LITE = re.compile(r"efficientnet-lite([0-4])")
# COCO has 27,000 words. Each gets a row of weights, and a place among the logits of every token.
MOST_WORDS = 300_000
# EfficientNet-Lite was trained on (x - 127) / 128.
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
KINDS: dict[str, Any] = {"caption": Captioner, "rewrite": TextGenerator, "classify": Classifier}
# Settings of a config that say nothing about what its weights compute.
_OF_TRAINING = re.compile("drop|initializer|_token_id|id2label|label2id")


def build(recipe: Recipe, *, captions: Sequence[str] = (), labels: Sequence[str] = ()) -> Any:
    """The recipe's model with its processor and tokenizer; `captions` make a word vocabulary.

    Raises `RecipeError` when the checkpoints do not make what the task needs.
    """
    model = recipe.model
    subject: Any
    if recipe.task == "classify":
        name = model.checkpoint or model.encoder.checkpoint
        subject = classifier_for(name, labels, seed=recipe.seed)
        return Classifier(_with_dropout(subject.model, model.encoder.dropout), subject.processor)
    if model.checkpoint:
        # Training changes numbers, which narrow weights cannot follow.
        subject = load(None if model.checkpoint == "default" else model.checkpoint, dtype="float32")
        if isinstance(subject, VisionLanguageCaptioner):
            _prepare_to_ask(subject, recipe)
        elif model.add_words:
            subject = _with_words(subject, captions, recipe)
    elif model.decoder.checkpoint:
        subject = from_pretrained_halves(
            model.encoder.checkpoint, model.decoder.checkpoint, seed=recipe.seed
        )
    else:
        subject = _with_new_decoder(recipe, captions)
    right: Any = KINDS[recipe.task]
    if not isinstance(subject, right) or not isinstance(subject.model, EncoderDecoder):
        raise RecipeError(
            f"task is {recipe.task}, but the model's checkpoints make a {type(subject).__name__}; "
            "give other checkpoints or another task"
        )
    if not isinstance(subject, VisionLanguageCaptioner):
        for name in ("prompt", "tiles", "max_pixels"):
            if getattr(model, name) != type(model).model_fields[name].default:
                raise RecipeError(
                    f"model.{name} is for vision-language models, and the recipe's model is none; "
                    "leave it out"
                )
    return subject


def _with_dropout(encoder: Any, rate: float | None) -> Any:
    """The encoder with another rate of dropout, if one is given."""
    if rate is None:
        return encoder
    if not isinstance(encoder.config, DroppingConfig):
        raise RecipeError(
            f"model.encoder.dropout: the encoder ({encoder.config.model_type}) has no dropout; "
            "leave it out"
        )
    config = dataclasses.replace(
        encoder.config, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate
    )
    return rebuilder(config.build())(parameters(encoder))


def _prepare_to_ask(captioner: VisionLanguageCaptioner, recipe: Recipe) -> None:
    """Set up a vision-language model as the recipe says, or refuse what it cannot do."""
    if recipe.model.add_words:
        raise RecipeError(
            "model.add_words is for models with a word vocabulary, and this one writes any word; "
            "leave it out"
        )
    if not recipe.model.tiles and isinstance(captioner.processor, TileProcessor):
        captioner.processor = dataclasses.replace(captioner.processor, split=False)
    native = isinstance(captioner.processor, NativeProcessor)
    if most := recipe.model.max_pixels:
        if not native:
            raise RecipeError(
                "model.max_pixels is for models that see pictures at their own size, and this one "
                "does not; leave it out"
            )
        captioner.processor = captioner.processor.limited(most)
    if captioner.processor.most_tiles == (0, 0) and not native:
        return
    if native and (any(stage.views for stage in recipe.stages) or jax.process_count() > 1):
        raise RecipeError(
            "stages: a model that sees pictures at their own size is trained in one process, and "
            "their features are not kept; leave out views, and other processes"
        )
    if any(stage.views for stage in recipe.stages):
        raise RecipeError(
            "stages: the features of pictures are not kept for a model that sees them as tiles; "
            "leave out views, or give model.tiles=false"
        )
    if jax.process_count() > 1:
        raise RecipeError(
            "model.tiles: several processes cannot train a model that sees pictures as tiles; give "
            "model.tiles=false, or train in one process"
        )


def _with_words(captioner: Captioner, captions: Sequence[str], recipe: Recipe) -> Captioner:
    """The captioner with room for the captions' words that it lacks.

    Their embeddings begin at the mean of the others', and a little apart.
    """
    tokenizer = add_words(captioner.tokenizer, captions, min_count=recipe.data.min_count)
    _refuse_too_many_words(tokenizer, recipe)
    config: Any = captioner.model.config
    decoder = dataclasses.replace(config.decoder, vocab_size=tokenizer.vocab_size)
    wider = dataclasses.replace(config, decoder=decoder).build(rngs=nnx.Rngs(recipe.seed))
    old, new = parameters(captioner.model), parameters(wider)
    for name, value in old.items():
        if (count := len(new[name])) != len(value):
            drawn = new[name][len(value) :]
            old[name] = jnp.concatenate([value, value.mean(0) + drawn])[:count]
    return Captioner(rebuilder(wider)(old), captioner.processor, tokenizer, captioner.generation)


def _refuse_too_many_words(tokenizer: Tokenizer, recipe: Recipe) -> None:
    if tokenizer.vocab_size > MOST_WORDS:
        raise RecipeError(
            f"data.train: {tokenizer.vocab_size:,} different words occur data.min_count "
            f"({recipe.data.min_count}) times or more, and a decoder of words has at most "
            f"{MOST_WORDS:,}; raise data.min_count, or give a checkpoint's tokenizer"
        )


def _with_new_decoder(recipe: Recipe, captions: Sequence[str]) -> Any:
    rngs = nnx.Rngs(recipe.seed)
    chosen, wanted = recipe.model.tokenizer, recipe.model.decoder.hints
    classes = class_words(recipe.model.encoder.checkpoint) if wanted else []
    if chosen == "words":
        count = recipe.data.min_count
        tokenizer = train_word_tokenizer([*captions, *classes * count], min_count=count)
        _refuse_too_many_words(tokenizer, recipe)
    else:
        tokenizer = Tokenizer.load(hub.fetch(chosen))
    encoder, processor = _encoder(recipe)
    if side := recipe.model.encoder.image_size:
        processor = dataclasses.replace(processor, size=(side, side), resize_to=None)
    grid = recipe.model.encoder.grid
    if grid is not None and isinstance(encoder, PatchEncoder):
        raise RecipeError(
            "model.encoder.grid is for convolutional networks, and the recipe's encoder is none; "
            "leave it out"
        )
    config = TransformerDecoderConfig(
        vocab_size=tokenizer.vocab_size,
        features_width=encoder.features_width,
        grid=grid or _grid(encoder, processor.size),
        class_words=tuple(tuple(dict.fromkeys(words)) for words in tokenizer.encode_plain(classes)),
        **recipe.model.decoder.model_dump(exclude={"checkpoint"}),
    )
    decoder = TransformerDecoder(config, rngs=rngs)
    both = EncoderDecoderConfig(encoder.config, config, grid=grid)
    model = EncoderDecoder(encoder, decoder, config=both)
    return Captioner(model, processor, tokenizer)


def class_words(name: str) -> list[str]:
    """Words for each class that this encoder tells apart: its name, then more common words."""
    if not LITE.fullmatch(name):
        raise RecipeError(
            f"model.decoder.hints: the classes of {name} are not known here; give an "
            "efficientnet-lite0 to 4 as the encoder, or remove hints"
        )
    listed = resources.files("captax") / "assets" / "imagenet-1k.txt"
    # Captions seldom have a hyphen where these names have one.
    return re.sub("[-,]+ ?", " ", listed.read_text("utf-8")).splitlines()


def _grid(encoder: VisionEncoder, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the encoder's output for pictures of this (height, width)."""
    pixels = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    # Only shapes leave a traced function, so the grid leaves it as the shape of an array.
    return jax.eval_shape(lambda pixels: jnp.empty(encoder(pixels).grid), pixels).shape


def _encoder(recipe: Recipe) -> tuple[VisionEncoder, ImageProcessor]:
    options = recipe.model.encoder
    if lite := LITE.fullmatch(options.checkpoint):
        classifier = recipe.model.decoder.hints > 0
        encoder = load_efficientnet_lite(int(lite[1]), options.weights, classifier=classifier)
        side = encoder.config.image_size
        return encoder, ImageProcessor(size=(side, side), mean=MEAN, std=STD)
    source = hub.fetch(options.checkpoint)
    half = load_half(source, "encoder", rngs=nnx.Rngs(recipe.seed))
    if isinstance(half, TextEncoder):
        raise RecipeError(
            f"model.encoder.checkpoint: {options.checkpoint} encodes texts, and a new decoder "
            "reads pictures; give the checkpoint of a vision encoder"
        )
    return _with_dropout(half, options.dropout), ImageProcessor.load(source)


def weights_from(source: Path, subject: Any, recipe: Recipe) -> dict[str, jax.Array]:
    """The weights of a run's best model, or of a checkpoint, for the recipe's model.

    Raises `RecipeError` unless they mean there what they mean in `subject`: equal shapes do not
    show that words are numbered alike.
    """
    best = source / BEST
    path = best if best.is_dir() else source
    other = load(path, dtype="float32")
    given, own = parameters(other.model), parameters(subject.model)
    if type(other) is not type(subject) or (
        {name: value.shape for name, value in given.items()}
        != {name: value.shape for name, value in own.items()}
    ):
        raise RecipeError(
            f"{source} holds another model than the recipe's; give a run or a checkpoint of the "
            "same architecture and sizes"
        )
    if difference := _difference(_tokens(other), _tokens(subject)):
        if recipe.task == "caption" and not (
            recipe.model.checkpoint or recipe.model.decoder.checkpoint
        ):
            do = f"set model.tokenizer={path} to train with its tokens"
        else:
            do = "make it the recipe's model.checkpoint, and leave out --init-from"
        raise RecipeError(f"{path}: {difference}; {do}")
    if difference := _difference(_labels(other), _labels(subject)):
        raise RecipeError(
            f"{path}: {difference}; make it the recipe's model.checkpoint, which gets a head for "
            "the labels of the data, and leave out --init-from"
        )
    if difference := _difference(_settings(other), _settings(subject)):
        raise RecipeError(
            f"{path}: {difference}; give a run or a checkpoint of the same architecture, or change "
            "the recipe's model"
        )
    return given


def fingerprint(subject: Any) -> str:
    """A digest of what a model's numbers stand for: its tokens and labels."""
    told = json.dumps([*_tokens(subject).items(), *_labels(subject).items()])
    return hashlib.sha256(told.encode()).hexdigest()


def _tokens(subject: Any) -> dict[str, str]:
    """The tokens that a model reads and writes, by their numbers."""
    tokens: dict[str, str] = {}
    for name, noun in (("tokenizer", "token"), ("source_tokenizer", "source token")):
        if (tokenizer := getattr(subject, name, None)) is not None:
            tokens |= {f"{noun} {number}": token for number, token in tokenizer.vocabulary.items()}
    return tokens


def _labels(subject: Any) -> dict[str, str]:
    return {f"label {number}": name for number, name in enumerate(getattr(subject, "labels", ()))}


def _settings(subject: Any) -> dict[str, Any]:
    """What the shapes of a model's weights may not show, by the names of its config."""
    settings = subject.model.config.write()
    if (processor := getattr(subject, "processor", None)) is not None:
        norm = {name: getattr(processor, name) for name in ("mean", "std", "rescale")}
        settings = {**settings, "preprocessor": norm}
    return dict(_flat(json.loads(json.dumps(settings))))  # a list and a tuple say the same


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping) and not _OF_TRAINING.search(name):
            yield from _flat(value, f"{prefix}{name}.")
        elif not _OF_TRAINING.search(name):
            yield f"{prefix}{name}", value


def _difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """The first of what both have that is not the same, in words."""
    for name, value in here.items():
        if there.get(name, value) != value:
            return (
                f"{name} is {quoted(there[name])} there and {quoted(value)} in the recipe's model"
            )
    return None
