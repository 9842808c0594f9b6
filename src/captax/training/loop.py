"""Train a captioner as a recipe says: stage after stage, resumable at any moment."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from captax import data, metrics
from captax.captioner import Captioner
from captax.checkpoints.efficientnet_lite import load_efficientnet_lite
from captax.checkpoints.state import parameters, rebuilder
from captax.data import Example
from captax.files import write_text
from captax.generation import GenerationConfig, generate
from captax.images import Augment, ImageProcessor, rng_for
from captax.models.efficientnet import EfficientNetLite
from captax.models.encoder_decoder import EncoderDecoder
from captax.models.transformer import TransformerDecoder, TransformerDecoderConfig
from captax.text import Tokenizer, train_word_tokenizer
from captax.training.card import model_card
from captax.training.checkpoints import Log, RunCheckpoints
from captax.training.curves import plot_curves
from captax.training.features import FeatureCache, cache_features
from captax.training.recipe import Recipe, RecipeError, Source, Stage
from captax.training.step import (
    Batch,
    Parameters,
    TrainState,
    begin_stage,
    make_optimizer,
    make_step,
    matches,
)

# EfficientNet-Lite was trained on (x - 127) / 128.
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3


def train(recipe: Recipe, out: Path) -> Path:
    """Run the recipe in folder `out`, going on where an earlier run of it stopped.

    Returns the directory of the best captioner, `out/best`. Raises `RecipeError` when `out` holds
    a run of another recipe.
    """
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, recipe)
    run = _Run(recipe, out)
    with RunCheckpoints(out / "checkpoints") as run.checkpoints:
        run.resume()
        for index, stage in enumerate(recipe.stages):
            if index >= run.progress.stage:
                run.run_stage(index, stage)
    return out / "best"


def _claim(out: Path, recipe: Recipe) -> None:
    path, text = out / "recipe.yaml", recipe.to_yaml()
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise RecipeError(f"{path}: this folder holds a run of another recipe; give another --out")
    write_text(path, text)


@dataclasses.dataclass
class _Progress:
    """How far a run is: steps in all, the stage, steps in it, and the best score so far."""

    step: int = 0
    stage: int = 0
    stage_step: int = 0
    best: float = -math.inf


class _Run:
    """What a run holds between its stages."""

    checkpoints: RunCheckpoints

    def __init__(self, recipe: Recipe, out: Path):
        self.recipe, self.out = recipe, out
        self.train = _open(recipe, recipe.data.train)
        self.dev = _open(recipe, recipe.data.dev)
        captions = [caption for example in self.train for caption in example.captions]
        self.tokenizer = train_word_tokenizer(captions, min_count=recipe.data.min_count)
        self.tokens = [self.tokenizer.encode(example.captions) for example in self.train]
        self.steps_per_epoch = len(self.train) // recipe.optimizer.batch_size
        if not self.steps_per_epoch:
            raise RecipeError(
                f"data.train has {len(self.train)} pictures, fewer than optimizer.batch_size "
                f"({recipe.optimizer.batch_size})"
            )
        encoder = load_efficientnet_lite(recipe.model.encoder.size, recipe.model.encoder.weights)
        model = _new_model(recipe, encoder, self.tokenizer)
        self.processor = _processor(encoder)
        self.rebuild = rebuilder(model)
        self.parameters = parameters(model)
        self.generation = GenerationConfig(
            num_beams=recipe.evaluation.num_beams, max_new_tokens=recipe.evaluation.max_new_tokens
        )
        self.progress = _Progress()
        self.key = jax.random.key(recipe.seed)

    def resume(self) -> None:
        """Take up the newest checkpoint, if there is one."""
        found = self.checkpoints.progress()
        if found:
            self.progress = _Progress(**found)
        self.log = Log(self.out / "log.jsonl", last_step=self.progress.step)

    def run_stage(self, index: int, stage: Stage) -> None:
        """Train one stage to its end."""
        options, progress = self.recipe.optimizer, self.progress
        total = stage.epochs * self.steps_per_epoch
        optimizer, schedule = make_optimizer(stage, options, total)
        trainable = {n: v for n, v in self.parameters.items() if matches(stage.trainable, n)}
        if not trainable:
            raise RecipeError(f"stages.{index}.trainable matches no parameter")
        state = begin_stage(trainable, optimizer)
        frozen = {n: v for n, v in self.parameters.items() if n not in trainable}
        if progress.stage_step:
            saved = self.checkpoints.arrays({"frozen": frozen, "state": state})
            frozen, state = saved["frozen"], saved["state"]
            self.parameters = {**frozen, **state.average}
        depth = _frozen_depth(self.rebuild(self.parameters), stage)
        caches = self._caches(stage, depth)
        step = make_step(self.rebuild, depth, optimizer, options)
        write = self._caption_program(depth)

        bar = tqdm(total=total, initial=progress.stage_step, desc=stage.name, unit="step")
        batches = data.prefetch(self._batches(index, stage, caches[0]), 2)
        started = time.perf_counter()
        for batch in batches:
            state, output = step(state, frozen, batch, self.key)
            measured = {name: float(value) for name, value in output.items()}
            if not math.isfinite(measured["loss"]):
                raise RecipeError(
                    f"the loss became {measured['loss']} at step {progress.step + 1}; lower "
                    f"stages.{index}.lr (now {stage.lr}) or optimizer.clip_norm"
                )
            progress.step += 1
            progress.stage_step += 1
            seconds, started = time.perf_counter() - started, time.perf_counter()
            self.log.write(
                step=progress.step,
                epoch=progress.step / self.steps_per_epoch,
                stage=stage.name,
                lr=float(schedule(progress.stage_step - 1)),
                seconds=round(seconds, 4),
                **measured,
            )
            bar.set_postfix(loss=f"{measured['loss']:.3f}", refresh=False)
            bar.update()
            if progress.stage_step % self.steps_per_epoch == 0:
                trained = {**frozen, **state.average}
                self._evaluate(stage, trained, self._caption_dev(write, trained, caches[1]))
                self._save(frozen, state)
            elif progress.step % self.recipe.save_every == 0:
                self._save(frozen, state)
        bar.close()
        # The next stage goes on from the average, which is what was evaluated.
        self.parameters = {**frozen, **state.average}
        progress.stage, progress.stage_step = index + 1, 0

    def _save(self, frozen: Parameters, state: TrainState) -> None:
        self.checkpoints.save(
            self.progress.step,
            {"frozen": frozen, "state": state},
            dataclasses.asdict(self.progress),
        )

    def _caches(self, stage: Stage, depth: int) -> tuple[FeatureCache, FeatureCache]:
        """Train and dev pictures after the frozen part of the encoder."""
        encoder = self.rebuild(self.parameters).encoder
        folder = self.out.parent / "features"
        augment = Augment(**self.recipe.augment.model_dump())
        return (
            cache_features(
                folder,
                encoder,
                depth,
                self.train,
                self.processor,
                augment=augment,
                views=stage.views,
                seed=self.recipe.seed,
                label=f"{stage.name}: features of training pictures",
            ),
            cache_features(
                folder,
                encoder,
                depth,
                self.dev,
                self.processor,
                label=f"{stage.name}: features of dev pictures",
            ),
        )

    def _batches(self, index: int, stage: Stage, cache: FeatureCache) -> Iterator[Batch]:
        """Batches from where the stage stands to its end; they depend on nothing but the recipe."""
        recipe, size = self.recipe, self.recipe.optimizer.batch_size
        before = sum(earlier.epochs for earlier in recipe.stages[:index])
        for number in range(self.progress.stage_step, stage.epochs * self.steps_per_epoch):
            epoch = before + number // self.steps_per_epoch
            order = data.epoch_order(len(self.train), seed=recipe.seed, epoch=epoch)
            start = number % self.steps_per_epoch * size
            chosen = order[start : start + size]
            packed = data.pack_captions(
                [self._captions(epoch, example) for example in chosen],
                capacity=recipe.data.row_tokens,
                max_tokens=recipe.data.max_tokens,
                pad_id=self.tokenizer.pad_id,
            )
            yield Batch(
                # Every picture takes its views in turn, and neighbours are not at the same one.
                pictures=jnp.asarray(cache.read(chosen, (chosen + epoch) % cache.views)),
                inputs=jnp.asarray(packed.inputs),
                targets=jnp.asarray(packed.targets),
                positions=jnp.asarray(packed.positions),
                segments=jnp.asarray(packed.segments),
            )

    def _captions(self, epoch: int, example: int | np.integer) -> Sequence[Sequence[int]]:
        """Tokens of the captions to learn, shuffled: the last may find no room in the row."""
        tokens = self.tokens[example]
        rng = rng_for(self.recipe.seed, epoch, self.train[example].id)
        count = len(tokens) if self.recipe.data.captions == "all" else 1
        return [tokens[i] for i in rng.permutation(len(tokens))[:count]]

    def _evaluate(self, stage: Stage, trained: Parameters, captions: Sequence[str]) -> None:
        """Score captions of the dev pictures, print some, keep the captioner if it is the best."""
        progress = self.progress
        hypotheses = dict(zip((e.id for e in self.dev), captions, strict=True))
        references = {example.id: example.captions for example in self.dev}
        scores = metrics.score(hypotheses, references).corpus
        rounded = {name: round(value, 5) for name, value in scores.items()}
        self.log.write(step=progress.step, stage=stage.name, scores=rounded)
        tqdm.write(f"step {progress.step}: " + "  ".join(f"{k} {v:.4f}" for k, v in scores.items()))
        spread = np.linspace(0, len(self.dev) - 1, self.recipe.evaluation.samples).astype(int)
        for index in spread:
            tqdm.write(f"  {self.dev[index].id}: {captions[index]}")
        if scores["CIDEr-D"] > progress.best:
            progress.best = scores["CIDEr-D"]
            model = self.rebuild(trained)
            captioner = Captioner(model, self.processor, self.tokenizer, self.generation)
            card = model_card(self.recipe, scores)
            captioner.save(self.out / "best", dtype=self.recipe.dtype, card=card)
        plot_curves(self.out / "curves.png", self.log.records, title=self.recipe.name)

    def _caption_program(self, depth: int) -> Callable[[Parameters, np.ndarray], jax.Array]:
        """From pictures after the frozen part of the encoder to tokens, jitted."""
        tokenizer, generation = self.tokenizer, self.generation

        def program(parameters: Parameters, pictures: jax.Array) -> jax.Array:
            model = self.rebuild(parameters)
            sequences = generate(
                model,
                model.bridge(model.encoder.suffix(pictures.astype(jnp.float32), depth)),
                jnp.full((pictures.shape[0], 1), tokenizer.start_id),
                generation.strategy,
                max_new_tokens=generation.max_new_tokens,
                eos_id=tokenizer.eos_id,
                pad_id=tokenizer.pad_id,
            )
            return sequences.tokens[:, 0]

        return jax.jit(program)

    def _caption_dev(
        self,
        write: Callable[[Parameters, np.ndarray], jax.Array],
        trained: Parameters,
        cache: FeatureCache,
    ) -> list[str]:
        size = self.recipe.evaluation.batch_size
        captions: list[str] = []
        for start in range(0, len(self.dev), size):
            # The last batch is filled up with repeats, so that one program serves all.
            rows = np.arange(start, start + size) % len(self.dev)
            tokens = np.asarray(write(trained, cache.read(rows, np.zeros_like(rows))))
            captions += [self.tokenizer.decode(row) for row in tokens.tolist()]
        return captions[: len(self.dev)]


def _open(recipe: Recipe, sources: Sequence[Source]) -> list[Example]:
    root = recipe.data.root
    return data.mix(*(data.open(root / source.path, split=source.split) for source in sources))


def _new_model(recipe: Recipe, encoder: EfficientNetLite, tokenizer: Tokenizer) -> EncoderDecoder:
    config = TransformerDecoderConfig(
        vocab_size=tokenizer.vocab_size,
        features_width=encoder.features_width,
        grid=encoder.config.grid,
        **recipe.model.decoder.model_dump(),
    )
    return EncoderDecoder(encoder, TransformerDecoder(config, rngs=nnx.Rngs(recipe.seed)))


def _processor(encoder: EfficientNetLite) -> ImageProcessor:
    side = encoder.config.image_size
    return ImageProcessor(size=(side, side), mean=MEAN, std=STD)


def _frozen_depth(model: EncoderDecoder, stage: Stage) -> int:
    """How many of the encoder's first parts have nothing to train."""
    parts = model.encoder.parts()
    names = {
        id(leaf): f"encoder.{'.'.join(map(str, path))}"
        for path, leaf in nnx.iter_graph(model.encoder)
        if isinstance(leaf, nnx.Variable)
    }
    for depth, part in enumerate(parts):
        leaves = [leaf for _, leaf in nnx.iter_graph(part) if isinstance(leaf, nnx.Variable)]
        if any(matches(stage.trainable, names[id(leaf)]) for leaf in leaves):
            return depth
    return len(parts)
