"""Learning tasks whose outputs are texts: captions of pictures, and texts from texts."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct
from jaxtyping import Array, Float, Int

from captax import data, metrics
from captax.checkpoints.state import parameters, rebuilder
from captax.data import PackedCaptions
from captax.generation import GenerationConfig, Prompts, Sequences, generate
from captax.images import Augment, SheetRow, rng_for
from captax.models.encoders import TextBatch
from captax.pipelines.captioner import Captioner
from captax.pipelines.text_generator import TextGenerator
from captax.pipelines.vision_language import VisionLanguageCaptioner
from captax.training.build import build
from captax.training.encoder_inputs import Asked, AskedInputs, EncoderInputs
from captax.training.examples import Examples
from captax.training.learning_task import DevResult, LearningTask, Scores, as_learned
from captax.training.recipe import Recipe, RecipeError
from captax.training.step import Losses, Parameters, narrowed, token_losses


@struct.dataclass
class Batch:
    """Examples as a step takes them; NumPy's arrays on their way in, JAX's inside.

    `given` are pictures, as pixels or after the frozen part of the encoder, `Asked` pictures, or a
    `TextBatch`.
    """

    given: Any
    inputs: Int[Any, "batch time"]
    targets: Int[Any, "batch time"]
    positions: Int[Any, "batch time"]
    segments: Int[Any, "batch time"]


class WritingTask(LearningTask):
    """What captions of pictures and texts from texts have in common."""

    def __init__(self, recipe: Recipe, examples: Examples | None = None):
        super().__init__(recipe, examples)
        self.subject = subject = build(recipe, captions=self.learned())
        said, unknown = recipe.evaluation, subject.tokenizer.unk_id
        subject.generation = subject.generation.replace(
            # The unknown token stands for words that were not learned, and decodes to nothing.
            suppress_tokens=() if unknown is None else (unknown,),
            num_beams=said.num_beams,
            max_new_tokens=said.max_new_tokens,
            min_new_tokens=said.min_new_tokens,
            length_penalty=said.length_penalty,
            early_stopping=said.early_stopping,
            no_repeat_ngram_size=said.no_repeat_ngram_size,
        )
        self.generation: GenerationConfig = subject.generation
        start, eos = self.generation.decoder_start_token_id, self.generation.eos_ids[0]
        self.start = subject.tokenizer.start_id if start is None else start
        self.eos = eos
        vocab = getattr(subject.model.decoder.config, "vocab_size", None)
        if vocab is not None and subject.tokenizer.vocab_size > vocab:
            raise RecipeError(
                f"the model's decoder has {vocab} tokens and its tokenizer has "
                f"{subject.tokenizer.vocab_size}; give the tokenizer that the decoder was made with"
            )
        longest, prompt = recipe.data.max_tokens, self.longest_prompt()
        places = subject.model.decoder.max_positions
        others = f", {prompt} of them for the prompt" if prompt > 1 else ""
        if prompt + longest - 2 > places:
            raise RecipeError(
                f"data.max_tokens is {longest}, but the decoder reads {places} tokens{others}; "
                f"give at most {places - prompt + 2}"
            )
        if prompt + said.max_new_tokens > places:
            raise RecipeError(
                f"evaluation.max_new_tokens is {said.max_new_tokens}, but the decoder reads "
                f"{places} tokens{others or ', start included'}; give at most {places - prompt}"
            )

    def learned(self) -> list[str]:
        """All texts that are learned."""
        raise NotImplementedError

    def longest_prompt(self) -> int:
        """How many tokens come before a text at most: here, the start."""
        return 1

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Texts as the decoder is to write them: start, words, eos.

        After a prompt, the start stands for it. Where decoding forces a first token, as BART's
        checkpoints ask, it comes after the start.
        """
        begin = [self.start, *self.generation.forced_begin]
        return [[*begin, *ids, self.eos] for ids in self.subject.spell(texts)]

    def pack(self, texts: Sequence[Sequence[Sequence[int]]]) -> PackedCaptions:
        """Each example's texts in one row."""
        options = self.recipe.data
        pad = self.generation.pad_token_id
        return data.pack_captions(
            texts,
            capacity=options.row_tokens or options.max_tokens - 1,
            max_tokens=options.max_tokens,
            pad_id=self.eos if pad is None else pad,
        )

    def features(self, model: Any, given: Any) -> Any:
        """The encoder's output for the `given` of a batch, as the decoder reads it."""
        if isinstance(given, TextBatch):
            return model.encode(given)
        if isinstance(given, Asked):
            if not self.depth:
                return self.subject.encode(model, given.pictures)
            given = given.pictures
        return model.bridge(self._encoded(model.encoder, given))

    def _encoded(self, encoder: Any, given: Any) -> Any:
        """The output of an encoder for pictures that have passed through its first parts."""
        size = self.subject.processor.size
        return encoder.last_parts(given.astype(jnp.float32), self.depth, size)

    def read(self, model: Any, features: Any, batch: Batch) -> Float[Array, "batch time vocab"]:
        """Logits of the batch's targets."""
        prompt = batch.given.prompt if isinstance(batch.given, Asked) else None
        return model.read(features, batch.inputs, batch.positions, batch.segments, prompt)

    def write(self, model: Any, features: Any, given: Any, rows: int, **how: Any) -> Sequences:
        """Texts written for the `given` of a batch; `how` are the other arguments of `generate`."""
        begin: Any = jnp.full((rows, 1), self.start)
        if isinstance(given, Asked):
            most = how["max_new_tokens"]
            begin = Prompts(given.prompt, jnp.full(rows, most), most)
        return generate(model, features, begin, **how)

    def loss(self, model: Any, batch: Batch) -> Losses:
        features = self.features(model, batch.given)
        logits = self.read(model, features, batch)
        smoothing = self.recipe.optimizer.label_smoothing
        losses = token_losses(logits, batch.targets, batch.segments > 0, smoothing)
        return self.keeping_classes(losses, features, batch.given)

    def keeping_classes(self, losses: Losses, features: Any, given: Any) -> Losses:
        """The losses and, if the recipe asks for it, the mean divergence of the encoder's classes.

        It is measured from the classes that the encoder gave before training.
        """
        options, encoder = self.recipe.optimizer, self.subject.model.encoder
        if not options.keep_classes or features.labels is None:
            return losses
        if self.depth == len(encoder.parts()):  # nothing of it is trained
            return losses
        before = rebuilder(encoder)(narrowed(parameters(encoder), options))
        wanted = self._encoded(before, given).labels
        wanted = jax.nn.log_softmax(jax.lax.stop_gradient(wanted).astype(jnp.float32))
        found = jax.nn.log_softmax(features.labels.astype(jnp.float32))
        apart = (jnp.exp(wanted) * (wanted - found)).sum(-1).mean() * losses.weight
        measures = losses.measures | {"classes": apart}
        return Losses(losses.total + options.keep_classes * apart, losses.weight, measures)

    def evaluate(self, model: Callable[[Parameters], nnx.Module]) -> Callable[..., DevResult]:
        config = self.generation
        size = min(self.recipe.evaluation.batch_size, self.dev_size)

        @jax.jit
        def write(weights: Parameters, batch: Batch) -> tuple[Array, Losses]:
            built: Any = model(weights)
            features = self.features(built, batch.given)
            sequences = self.write(
                built,
                features,
                batch.given,
                len(batch.inputs),
                strategy=config.strategy,
                max_new_tokens=config.max_new_tokens,
                eos_id=config.eos_ids,
                pad_id=self.eos if config.pad_token_id is None else config.pad_token_id,
                constraints=config.constraints,
            )
            logits = self.read(built, features, batch)
            return sequences.tokens[:, 0], token_losses(logits, batch.targets, batch.segments > 0)

        def written(
            weights: Parameters, batch_of: Callable[..., Batch], places: Sequence[int]
        ) -> tuple[list[str], dict[str, float]]:
            """The texts for these examples, and the sums of their losses."""
            texts: list[str] = []
            total = weight = right = 0.0
            for first in range(0, len(places), size):
                # The last batch is filled up with repeats, so that one program serves all.
                rows = np.arange(first, first + size)
                real = rows < len(places)
                batch = batch_of(np.take(places, rows, mode="wrap"))
                counted = batch.segments * real[:, None]
                tokens, losses = write(weights, dataclasses.replace(batch, segments=counted))
                said = [[t for t in row if t != self.eos] for row in np.asarray(tokens).tolist()]
                texts += [text.strip() for text in self.subject.decode(said)]
                total += float(losses.measures["nll"])
                right += float(losses.measures["accuracy"])
                weight += float(losses.weight)
            sums = {"nll": total, "accuracy": right, "weight": weight}
            return texts[: len(places)], sums

        def run(weights: Parameters) -> DevResult:
            texts, sums = written(weights, self.dev_batch, range(self.dev_size))
            loss = sums["nll"] / sums["weight"]
            scores = {
                **self.scores(texts),
                "loss": loss,
                "perplexity": float(np.exp(min(loss, 50.0))),
                "token accuracy": sums["accuracy"] / sums["weight"],
            }
            shown = self.spread(self.dev)
            rows = self.cards(self.dev, shown, [texts[place] for place in shown])
            known = self.spread(self.train)
            again, _ = written(weights, self.train_batch, known)
            cards = [as_learned(row) for row in self.cards(self.train, known, again)]
            return DevResult(scores, texts, rows, cards)

        return run

    dev_size: int

    def dev_batch(self, chosen: Int[np.ndarray, " batch"]) -> Batch:
        """Dev examples, unchanged, each with its first text."""
        raise NotImplementedError

    def train_batch(self, chosen: Int[np.ndarray, " batch"]) -> Batch:
        """Training examples as dev examples are given: unchanged, each with its first text."""
        raise NotImplementedError

    def scores(self, texts: Sequence[str]) -> Scores:
        """The scores of the texts written for the dev examples, in order."""
        raise NotImplementedError

    def cards(
        self, examples: Sequence[Any], places: Sequence[int], texts: Sequence[str]
    ) -> list[SheetRow]:
        """Cards of the examples at these places, with the texts written for them."""
        raise NotImplementedError

    def score_names(self) -> list[str]:
        """The scores of texts, whatever they say, and of their tokens."""
        return [*self.scores(["a"] * self.dev_size), "loss", "perplexity", "token accuracy"]


class CaptionTask(WritingTask):
    """Pictures to captions."""

    metric = "CIDEr-D"

    def __init__(self, recipe: Recipe, examples: Examples | None = None):
        super().__init__(recipe, examples)
        self.dev_size = len(self.dev)
        self.texts = [self.tokens(example.captions) for example in self.train]
        self.dev_texts = [self.tokens(example.captions[:1]) for example in self.dev]
        subject, augment = self.subject, Augment(**recipe.augment.model_dump())
        changed = augment if augment != Augment() else None

        def inputs(examples: Sequence[Any], **how: Any) -> EncoderInputs:
            if isinstance(subject, VisionLanguageCaptioner):
                return AskedInputs(examples, subject, recipe.model.prompts, **how)
            return EncoderInputs(examples, subject.processor, **how)

        self.pictures = inputs(self.train, augment=changed, seed=recipe.seed)
        self.dev_pictures = inputs(self.dev)

    def longest_prompt(self) -> int:
        if not isinstance(self.subject, VisionLanguageCaptioner):
            return super().longest_prompt()
        asking = map(self.subject.asking, self.recipe.model.prompts)
        return max(len(asked(self.subject.largest)) for asked in asking)

    def learned(self) -> list[str]:
        return [caption for example in self.train for caption in example.captions]

    def batch(self, chosen: Int[np.ndarray, " batch"], visits: Int[np.ndarray, " batch"]) -> Batch:
        visited = zip(visits.tolist(), chosen.tolist(), strict=True)
        packed = self.pack([self._captions(visit, place) for visit, place in visited])
        assert self.pictures is not None
        return _batch(self.pictures.read(chosen, visits), packed)

    def dev_batch(self, chosen: Int[np.ndarray, " batch"]) -> Batch:
        assert self.dev_pictures is not None
        packed = self.pack([self.dev_texts[place] for place in chosen])
        return _batch(self.dev_pictures.read(chosen), packed)

    def train_batch(self, chosen: Int[np.ndarray, " batch"]) -> Batch:
        assert self.pictures is not None
        packed = self.pack([self.texts[place][:1] for place in chosen])
        return _batch(self.pictures.read(chosen), packed)

    def _captions(self, visit: int, place: int) -> list[list[int]]:
        """Tokens of the captions to learn, shuffled: the last may find no room in the row."""
        tokens, kind = self.texts[place], self.recipe.data.captions
        if kind == "first":
            return tokens[:1]
        if kind == "longest":
            return [max(tokens, key=len)]
        rng = rng_for(self.recipe.seed, visit, self.train[place].id)
        count = len(tokens) if kind == "all" else 1
        return [tokens[i] for i in rng.permutation(len(tokens))[:count]]

    def scores(self, texts: Sequence[str]) -> Scores:
        hypotheses = dict(zip((example.id for example in self.dev), texts, strict=True))
        references = {example.id: example.captions for example in self.dev}
        wanted = (*metrics.STANDARD_METRICS, metrics.Metric.wer)
        found = metrics.score(hypotheses, references, metrics=wanted).corpus
        # `mix` begins each id with its source. Every source has its own document frequencies, so
        # its score is what `evaluate` prints for it.
        sources: dict[str, list[str]] = {}
        for example in self.dev:
            sources.setdefault(example.id.partition("/")[0], []).append(example.id)
        if len(sources) < 2 or not all("/" in example.id for example in self.dev):
            return found
        ciders = {}
        for name, ids in sources.items():
            said, known = ({id: each[id] for id in ids} for each in (hypotheses, references))
            scores = metrics.score(said, known, metrics=[metrics.Metric.cider_d]).corpus
            ciders[f"CIDEr-D {name}"] = scores["CIDEr-D"]
        return found | ciders | {"CIDEr-D mean": float(np.mean(list(ciders.values())))}

    def cards(
        self, examples: Sequence[Any], places: Sequence[int], texts: Sequence[str]
    ) -> list[SheetRow]:
        shown = zip((examples[place] for place in places), texts, strict=True)
        return [_beside(each.captions, each.image, each.id, text) for each, text in shown]

    def with_model(self, model: nnx.Module) -> Captioner:
        subject: Captioner = self.subject
        return subject.with_model(model)


class RewriteTask(WritingTask):
    """Texts to texts."""

    metric = "rougeL"

    def __init__(self, recipe: Recipe, examples: Examples | None = None):
        super().__init__(recipe, examples)
        self.dev_size = len(self.dev)
        longest = min(recipe.data.max_source_tokens, self.subject.model.encoder.max_positions)

        def read(pairs: Sequence[Any]) -> list[list[int]]:
            texts = [pair.source for pair in pairs]
            return self.subject.source_tokenizer.encode_template(texts, max_length=longest)

        self.sources, self.dev_sources = read(self.train), read(self.dev)
        self.texts = self.tokens([pair.target for pair in self.train])
        self.dev_texts = self.tokens([pair.target for pair in self.dev])
        # One length for all, so that one program serves all.
        self.time = max(map(len, [*self.sources, *self.dev_sources]))

    def learned(self) -> list[str]:
        return [pair.target for pair in self.train]

    def batch(self, chosen: Int[np.ndarray, " batch"], visits: Int[np.ndarray, " batch"]) -> Batch:
        return self.train_batch(chosen)

    def dev_batch(self, chosen: Int[np.ndarray, " batch"]) -> Batch:
        packed = self.pack([[self.dev_texts[place]] for place in chosen])
        return _batch(self._text([self.dev_sources[place] for place in chosen]), packed)

    def train_batch(self, chosen: Int[np.ndarray, " batch"]) -> Batch:
        packed = self.pack([[self.texts[place]] for place in chosen])
        return _batch(self._text([self.sources[place] for place in chosen]), packed)

    def _text(self, sources: Sequence[Sequence[int]]) -> TextBatch:
        tokens = np.zeros((len(sources), self.time), np.int32)
        mask = np.zeros(tokens.shape, bool)
        for row, source in enumerate(sources):
            tokens[row, : len(source)] = source
            mask[row, : len(source)] = True
        return TextBatch(tokens, mask)

    def scores(self, texts: Sequence[str]) -> Scores:
        hypotheses = {str(place): text for place, text in enumerate(texts)}
        references = {str(place): [pair.target] for place, pair in enumerate(self.dev)}
        wanted = [metrics.Metric.rouge_score]
        return metrics.score(hypotheses, references, metrics=wanted).corpus

    def cards(
        self, examples: Sequence[Any], places: Sequence[int], texts: Sequence[str]
    ) -> list[SheetRow]:
        shown = zip((examples[place] for place in places), texts, strict=True)
        return [_beside([each.target], None, each.source[:200], text) for each, text in shown]

    def with_model(self, model: nnx.Module) -> TextGenerator:
        subject: TextGenerator = self.subject
        assert isinstance(model, type(subject.model))
        return TextGenerator(
            model, subject.tokenizer, subject.generation, source_tokenizer=subject.source_tokenizer
        )


def _beside(references: Sequence[str], image: Any, title: str, text: str) -> SheetRow:
    """A card with the hypothesis and its references."""
    others = tuple((reference, None) for reference in references)
    return SheetRow(image, title, text, None, others, others="References", unfolded=True)


def _batch(given: Any, packed: PackedCaptions) -> Batch:
    return Batch(
        given=given,
        inputs=packed.inputs,
        targets=packed.targets,
        positions=packed.positions,
        segments=packed.segments,
    )
