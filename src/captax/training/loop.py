"""Train as a recipe says: stage after stage, resumable at any moment."""

import dataclasses
import functools
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from captax import data, metrics
from captax.checkpoints.state import parameters, rebuilder
from captax.files import CONFIG_LIMIT, read_text, write_text
from captax.images import write_sheet
from captax.models.encoders import VisionEncoder
from captax.pipelines.loading import load_model
from captax.stopping import stopping
from captax.training.card import model_card
from captax.training.checkpoints import RunCheckpoints
from captax.training.curves import plot_curves
from captax.training.learning_task import DevResult
from captax.training.lora import DOWN, LORA_PATTERN, UP, add_lora, merge_lora
from captax.training.mesh import Placement
from captax.training.optimizers import make_optimizer
from captax.training.recipe import Recipe, RecipeError, Stage
from captax.training.self_critical import Critic
from captax.training.step import (
    Parameters,
    Step,
    TrainState,
    begin_stage,
    make_step,
    matches,
    narrowed,
)
from captax.training.tasks import make_task
from captax.training.watch import DivergedError, Log, collapse, first_not_finite, rounded

# The scores that are best when they are lowest.
LOWER_IS_BETTER = metrics.LOWER_IS_BETTER | {"loss", "perplexity"}


def train(recipe: Recipe, out: Path, *, init_from: Path | None = None) -> Path:
    """Run the recipe in folder `out`, going on where an earlier run of it stopped.

    A new run begins with the weights of `init_from`, another run's folder or a checkpoint directory
    of the same model. Returns the directory of the best model, `out/best`. Raises `RecipeError`
    when `out` holds a run of another recipe, or the recipe cannot be carried out; `DivergedError`
    when the loss or a gradient is not finite.
    """
    _refuse_other(out, recipe)
    run = _Run(recipe, out)
    if jax.process_index() == 0:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "recipe.yaml", recipe.to_yaml())
    with RunCheckpoints(out / "checkpoints", keep=recipe.keep) as run.checkpoints:
        run.resume(init_from)
        if (shared := run.task.shared()) and jax.process_index() == 0:
            count = f"{shared} dev example{' is' if shared == 1 else 's are'}"
            tqdm.write(f"warning: {count} also in the training data; dev scores will be too high")
        try:
            for index, stage in enumerate(recipe.stages):
                if index >= run.progress.stage:
                    run.run_stage(index, stage)
        finally:
            if jax.process_index() == 0:
                run.log.close()
    return out / "best"


def _refuse_other(out: Path, recipe: Recipe) -> None:
    path = out / "recipe.yaml"
    if path.exists() and read_text(path, limit=CONFIG_LIMIT) != recipe.to_yaml():
        raise RecipeError(
            f"{path}: this folder holds a run of another recipe; give another folder as --out"
        )


@dataclasses.dataclass
class _Progress:
    """How far a run is: its steps, its stage, the stage's steps, the best score and its age.

    `best` is the score (higher is better) and minus the loss, which decides between equal scores.
    """

    step: int = 0
    stage: int = 0
    stage_step: int = 0
    best: list[float] | None = None
    evaluations_since: int = 0


class _Run:
    """A run: what lasts from stage to stage, and the stages themselves."""

    checkpoints: RunCheckpoints
    log: Log
    weights: Parameters  # the current values, frozen ones too

    def __init__(self, recipe: Recipe, out: Path):
        self.recipe, self.out = recipe, out
        options = recipe.optimizer
        self.placement = Placement(recipe.mesh, options.batch_size // options.accumulation)
        self.task = make_task(recipe)
        self.steps_per_epoch = self.task.size // options.batch_size
        if not self.steps_per_epoch:
            raise RecipeError(
                f"data.train has {self.task.size} examples, fewer than optimizer.batch_size "
                f"({options.batch_size}); give more data or a smaller batch_size"
            )
        self.rebuild = rebuilder(self.task.model)
        self.parameters: Parameters = parameters(self.task.model)
        lora = recipe.model.lora
        if lora is not None:
            self.parameters = add_lora(self.parameters, lora, jax.random.key(recipe.seed))
        self.merge = functools.partial(merge_lora, lora=lora)
        self.trained = [self._trained(index, stage) for index, stage in enumerate(recipe.stages)]
        self.metric = recipe.evaluation.metric or self.task.metric
        if recipe.evaluation.metric and self.metric not in (known := self.task.score_names()):
            raise RecipeError(
                f"evaluation.metric is {self.metric!r}, which this task does not measure; give one "
                f"of {', '.join(known)}"
            )
        self.progress = _Progress()
        self.key = jax.random.key(recipe.seed)

    def _trained(self, index: int, stage: Stage) -> set[str]:
        """Names of what a stage trains; with LoRA its matrices, unless the recipe names others."""
        everything = LORA_PATTERN if self.recipe.model.lora else ".*"
        patterns = stage.trainable or (everything,)
        names = {name for name in self.parameters if matches(patterns, name)}
        if not names:
            raise RecipeError(
                f"stages.{index}.trainable matches no parameter; parameters have names such as "
                f"{next(iter(self.parameters))}"
            )
        for pattern in stage.lr_scale:
            if not any(matches((pattern,), name) for name in self.parameters):
                raise RecipeError(
                    f"stages.{index}.lr_scale: {pattern!r} matches no parameter; parameters have "
                    f"names such as {next(iter(self.parameters))}"
                )
        return names

    def model(self, tensors: Parameters) -> nnx.Module:
        """The model with these parameters, in the precision of the recipe."""
        return self.rebuild(narrowed(self.merge(tensors), self.recipe.optimizer))

    def resume(self, init_from: Path | None) -> None:
        """Go on from the newest checkpoint, if there is one; else begin."""
        found = self.checkpoints.progress()
        if found:
            self.progress = _Progress(**found)
        elif init_from is not None:
            best = init_from / "best"
            model = load_model(best if best.is_dir() else init_from)
            given = parameters(model)
            if {n: v.shape for n, v in given.items()} != {
                n: v.shape for n, v in parameters(self.task.model).items()
            }:
                raise RecipeError(
                    f"{init_from} holds another model than the recipe's; give a run or a "
                    "checkpoint of the same architecture and sizes"
                )
            self.parameters |= given
        if jax.process_index() == 0:
            self.log = Log(
                self.out / "log.jsonl",
                last_step=self.progress.step,
                tensorboard=self.recipe.tensorboard,
            )

    def run_stage(self, index: int, stage: Stage) -> None:
        """Train one stage to its end."""
        options, progress = self.recipe.optimizer, self.progress
        total = self._steps(stage)
        optimizer, schedule = make_optimizer(stage, options, total)
        names = self.trained[index]
        state = begin_stage({n: self.parameters[n] for n in names}, optimizer, options)
        # What earlier stages trained is saved with the state; everything else is as it was built.
        changed = sorted(set().union(*self.trained[:index]) - names)
        if progress.stage_step:
            like = {"changed": {n: self.parameters[n] for n in changed}, "state": state}
            saved = self.checkpoints.arrays(like)
            self.parameters |= saved["changed"]
            state = saved["state"]
        if progress.stage_step == total or self._out_of_patience():
            self._end_stage(index, state)
            return
        frozen = {n: v for n, v in self.parameters.items() if n not in names}
        if self.recipe.model.lora is None:
            frozen = narrowed(frozen, options)
        self._prepare_pictures(index, stage)
        place = self.placement
        state, frozen = place.weights(state), place.weights(frozen)
        step, critic = self._step(stage, optimizer)
        evaluate = self.task.evaluate(self.model)

        bar = tqdm(
            total=total,
            initial=progress.stage_step,
            desc=stage.name,
            unit="step",
            disable=jax.process_index() > 0,
        )
        pending: tuple[Any, ...] | None = None
        clock = time.perf_counter()
        with stopping("step") as asked:
            for chosen, local in data.prefetch(self._batches(index, stage), 2):
                batch = place.batch(local)
                if critic is not None:
                    sampled = critic.sample(
                        {**frozen, **state.parameters}, batch, chosen, progress.step
                    )
                    batch = place.batch(sampled)
                state, output = step(state, frozen, batch, self.key)
                self.weights = {**frozen, **state.parameters}
                progress.step += 1
                progress.stage_step += 1
                # Wait for the step before while this one runs.
                clock = self._note(pending, clock, bar)
                rate = float(schedule(progress.stage_step - 1))
                pending = (progress.step, stage, rate, output, chosen, batch)
                done = progress.stage_step == total
                if done or self._evaluates(progress.stage_step):
                    clock, pending = self._note(pending, clock, bar), None
                    trained = {**frozen, **state.evaluated}
                    self._judge(stage, trained, evaluate(trained))
                    self._save(changed, state)
                    if self._out_of_patience():
                        count = progress.evaluations_since
                        tqdm.write(
                            f"{stage.name}: {count} evaluations brought no better score, so the "
                            "stage ends here"
                        )
                        break
                    clock = time.perf_counter()
                elif progress.step % self.recipe.save_every == 0 or asked():
                    clock, pending = self._note(pending, clock, bar), None
                    self._save(changed, state)
                if asked():
                    tqdm.write(f"saved at step {progress.step}")
                    raise KeyboardInterrupt
        bar.close()
        self._end_stage(index, state)

    def _end_stage(self, index: int, state: TrainState) -> None:
        """End the stage; the next one begins with the weights that were evaluated."""
        self.parameters |= self.placement.whole(state.evaluated)
        progress = self.progress
        progress.stage, progress.stage_step, progress.evaluations_since = index + 1, 0, 0

    def _out_of_patience(self) -> bool:
        patience = self.recipe.evaluation.patience
        return patience is not None and self.progress.evaluations_since >= patience

    def _steps(self, stage: Stage) -> int:
        return min(stage.epochs * self.steps_per_epoch, stage.max_steps or sys.maxsize)

    def _step(self, stage: Stage, optimizer: Any) -> tuple[Step, Critic | None]:
        options = self.recipe.optimizer
        if stage.self_critical is None:
            made = make_step(self.rebuild, self.task.loss, optimizer, options, merge=self.merge)
            return made, None
        critic = Critic(self.task, stage.self_critical, self.model)
        # Captions are judged as they are sampled: without dropout.
        made = make_step(
            self.rebuild, critic.loss, optimizer, options, merge=self.merge, dropout=False
        )
        return made, critic

    def _note(self, pending: tuple[Any, ...] | None, clock: float, bar: tqdm) -> float:
        """Log a step once it is done; stop the run if its loss is not finite."""
        if pending is None:
            return clock
        number, stage, rate, output, chosen, batch = pending
        measured = {name: float(value) for name, value in output.items()}
        culprit = int(measured.pop("culprit"))
        if not measured.pop("finite"):
            names = sorted(self.trained[self.progress.stage])
            self._explain(number, measured, names[culprit], chosen, batch)
        if "nll" in measured:
            measured["perplexity"] = math.exp(min(measured["nll"], 50.0))
        now = time.perf_counter()
        if jax.process_index() == 0:
            self.log.write(
                step=number,
                epoch=number / self.steps_per_epoch,
                stage=stage.name,
                lr=rate,
                seconds=round(now - clock, 4),
                **measured,
            )
        rate = self.recipe.optimizer.batch_size / max(now - clock, 1e-9)
        bar.set_postfix_str(f"loss {measured['loss']:.3f}, {rate:.0f} examples/s", refresh=False)
        bar.update()
        return now

    def _explain(
        self,
        number: int,
        measured: Mapping[str, float],
        gradient: str,
        chosen: np.ndarray,
        batch: Any,
    ) -> None:
        """Raise an error that tells what is not finite. The weights are from before the step."""
        weight = first_not_finite(self.weights)
        given = {f"{i}": x for i, x in enumerate(jax.tree.leaves(batch)) if x.dtype.kind == "f"}
        if weight is not None:
            what = f"weight {weight} is"
        elif first_not_finite(given) is not None:
            what = "a picture's values are"
        else:
            what = f"the gradient of {gradient} is"
        names = ", ".join(self.task.name(int(place)) for place in chosen[:3])
        saved = self.checkpoints.progress()
        newest = (
            f"the newest checkpoint is from step {saved['step']}"
            if saved
            else "nothing is saved yet"
        )
        raise DivergedError(
            f"step {number}: the loss is {measured['loss']} and {what} not finite; the batch is "
            f"{names}, ...; {newest}. Start another run with a lower lr or optimizer.clip_norm, or "
            "with more warmup_steps"
        )

    def _evaluates(self, stage_step: int) -> bool:
        options = self.recipe.evaluation
        return stage_step % (options.steps or options.epochs * self.steps_per_epoch) == 0

    def _save(self, changed: list[str], state: TrainState) -> None:
        arrays = {"changed": {n: self.parameters[n] for n in changed}, "state": state}
        self.checkpoints.save(self.progress.step, arrays, dataclasses.asdict(self.progress))

    def _prepare_pictures(self, index: int, stage: Stage) -> None:
        """Compute the output of the encoder's frozen part for all pictures, if it is to be kept."""
        task = self.task
        if task.pictures is None:
            return
        model: Any = self.rebuild(self.merge(self.parameters))
        whole = not isinstance(model, VisionEncoder)
        encoder = model.encoder if whole else model
        depth = frozen_depth(encoder, "encoder." if whole else "", self.trained[index])
        folder = self.out.parent / "features"
        kinds = ((task.pictures, "training", stage.views), (task.dev_pictures, "dev", 1))
        for pictures, kind, views in kinds:
            label = f"{stage.name}: features of {kind} pictures"
            views = None if stage.views is None else views
            pictures.cache(folder, encoder, depth, views=views, label=label)

    def _batches(self, index: int, stage: Stage) -> Iterator[tuple[np.ndarray, Any]]:
        """The batches that are left in the stage; they depend only on the recipe."""
        recipe, size = self.recipe, self.recipe.optimizer.batch_size
        rows = self.placement.rows(size)
        before = sum(earlier.epochs for earlier in recipe.stages[:index])
        for number in range(self.progress.stage_step, self._steps(stage)):
            epoch = before + number // self.steps_per_epoch
            order = data.epoch_order(self.task.size, seed=recipe.seed, epoch=epoch)
            start = number % self.steps_per_epoch * size
            chosen = order[start : start + size][rows]
            yield chosen, self.task.batch(chosen, epoch)

    def _judge(self, stage: Stage, trained: Parameters, found: DevResult) -> None:
        """Log scores, show some of the outputs, keep the model if it is the best."""
        progress, scores = self.progress, found.scores
        sign = -1 if self.metric in LOWER_IS_BETTER else 1
        score = [sign * scores[self.metric], -scores["loss"]]
        better = progress.best is None or score > progress.best
        progress.evaluations_since = 0 if better else progress.evaluations_since + 1
        if better:
            progress.best = score
        kept = self.placement.whole(self.merge(trained)) if better else None
        if jax.process_index() > 0:
            return
        self.log.write(step=progress.step, stage=stage.name, scores=rounded(scores))
        told = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
        tqdm.write(f"step {progress.step}: {told}")
        for row in found.rows:
            tqdm.write(f"  {row.title}: {row.caption}")
        if warning := collapse(found.said, labels=self.recipe.task == "classify"):
            tqdm.write(f"warning: {warning}")
        if found.rows:
            folder = self.out / "samples"
            folder.mkdir(exist_ok=True)
            title = f"{self.recipe.name}, step {progress.step}"
            write_sheet(folder / f"step-{progress.step:06}.html", found.rows, title=title)
        if kept is not None:
            model = self.rebuild({n: jnp.asarray(v, jnp.float32) for n, v in kept.items()})
            card = model_card(self.recipe, scores, metric=self.metric)
            self.task.save(model, self.out / "best", card)
        plot_curves(self.out / "curves.png", self.log.records, title=self.recipe.name)


def frozen_depth(encoder: VisionEncoder, prefix: str, trained: set[str]) -> int:
    """How many of the encoder's first parts have nothing to train."""
    bare = {name.removesuffix(UP).removesuffix(DOWN) for name in trained}
    names = {
        id(leaf): prefix + ".".join(map(str, path))
        for path, leaf in nnx.iter_graph(encoder)
        if isinstance(leaf, nnx.Variable)
    }
    parts = encoder.parts()
    for depth, part in enumerate(parts):
        leaves = [leaf for _, leaf in nnx.iter_graph(part) if isinstance(leaf, nnx.Variable)]
        if any(names[id(leaf)] in bare for leaf in leaves):
            return depth
    return len(parts)
