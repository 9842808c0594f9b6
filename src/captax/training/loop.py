"""Train as a recipe says: stage after stage, resumable at any moment."""

import contextlib
import dataclasses
import functools
import itertools
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from filelock import Timeout
from flax import nnx

from captax import data, metrics
from captax.checkpoints.state import parameters, rebuilder
from captax.errors import plural, quoted
from captax.files import (
    OutputError,
    check_inside,
    check_no_links,
    hold,
    unwritable,
    write_text,
)
from captax.images import ImageError, write_sheet
from captax.models.encoders import VisionEncoder
from captax.models.modules import linear_kernels, statistics_of
from captax.progress import Progress, tell
from captax.stopping import stopping
from captax.training.build import fingerprint, weights_from
from captax.training.card import FEW, model_card, number_of
from captax.training.checkpoints import RunCheckpoints
from captax.training.curves import plot_curves
from captax.training.examples import (
    BrokenData,
    Examples,
    decoded,
    open_examples,
    present,
    read_skipped,
    told_skipped,
    write_skipped,
)
from captax.training.folder import BEST, LOCK, OWN_RECIPE, SKIPPED, check_folder, refuse_other
from captax.training.learning_task import DevResult
from captax.training.lora import DOWN, LORA_PATTERN, UP, add_lora, merge_lora
from captax.training.mesh import Placement
from captax.training.optimizers import make_optimizer
from captax.training.pushing import Pusher
from captax.training.recipe import Recipe, RecipeError, Stage, matches
from captax.training.self_critical import Critic
from captax.training.step import (
    Parameters,
    Step,
    TrainState,
    begin_stage,
    make_step,
    narrowed,
)
from captax.training.tasks import make_task
from captax.training.watch import DivergedError, Log, collapse, first_not_finite, rounded

# The scores that are best when they are lowest.
LOWER_IS_BETTER = metrics.LOWER_IS_BETTER | {"loss", "perplexity"}

MOST_STEPS = 2**30  # a step's number and the seed are added as 32-bit integers


def train(
    recipe: Recipe,
    out: Path,
    *,
    init_from: Path | None = None,
    follow_links: bool = False,
    skip_broken: bool = False,
) -> Path:
    """Run the recipe in folder `out`, going on where an earlier run of it stopped.

    A new run begins with the weights of `init_from`, another run's folder or a checkpoint directory
    of the same model with the same tokens or labels. Returns the directory of the best model,
    `out/best`. Nothing is written where a link leads out of `out`, except with `follow_links`.

    A new run looks at all its data first. With `skip_broken`, examples that cannot be used, such as
    pictures that cannot be read, are left out of it, and `out/skipped.json` names them.

    Raises `BrokenData` when examples cannot be used; `RecipeError` when `out` holds files and no
    run, a run of another recipe or one that began without `skip_broken`, when it is in the data or
    holds a model that the run reads, another process trains there, its data makes another
    vocabulary than when it began, `init_from` is another model, or the recipe cannot be carried
    out; `DivergedError` when the loss or a gradient is not finite; `ImageError` when a
    picture cannot be read any more; `OutputError` when the disk is full.
    """
    if jax.process_index() == 0:
        check_folder(out, recipe, init_from)
    with _alone_in(out):
        refuse_other(out, recipe)  # it may have begun meanwhile
        try:
            _train(recipe, out, init_from, follow_links, skip_broken)
        except MemoryError as error:
            raise _too_large(error) from None
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise _too_large(error) from None
    return out / BEST


def _train(
    recipe: Recipe, out: Path, init_from: Path | None, follow_links: bool, skip_broken: bool
) -> None:
    first = jax.process_index() == 0
    new = not (out / OWN_RECIPE).exists()
    examples = _examples(recipe, out, new, skip_broken)
    run = _Run(recipe, out, None if follow_links else out, examples)
    if new and init_from is not None:  # it may be refused, and nothing is written yet
        run.begin_with(init_from)
    if first and new:
        if skip_broken:
            write_skipped(out, examples.skipped)
        else:  # of a run that was ended before it began
            (out / SKIPPED).unlink(missing_ok=True)
        write_text(out / OWN_RECIPE, recipe.to_yaml(), own=True)
    if not follow_links:
        for name in ("best", "samples"):
            check_inside(out / name, out)
        for name in ("checkpoints", "tensorboard"):
            check_inside(out / name, out)
            check_no_links(out / name)
    with RunCheckpoints(out / "checkpoints", keep=recipe.keep) as run.checkpoints:
        run.resume(None if new else init_from)
        if first:
            for line in _remarks(run, examples, tuned=init_from is not None):
                tell(line)
        try:
            for index, stage in enumerate(recipe.stages):
                if index >= run.progress.stage:
                    run.run_stage(index, stage)
            if run.pusher is not None:
                run.pusher.finish(out / BEST)
        finally:
            if first:
                run.log.close()


def _remarks(run: "_Run", examples: Examples, *, tuned: bool) -> Iterator[str]:
    """What is to be known before a run begins or goes on."""
    recipe, out = run.recipe, run.out
    if run.finished:
        yield (
            f"this run has finished after {run.progress.step:,} steps; to train its model further, "
            f"begin another run with --init-from {out} and another --out"
        )
        return
    if run.progress.step:
        yield f"the run goes on from its checkpoint of step {run.progress.step:,}"
    if len(examples.dev) == 1 and run.task.metric.startswith("CIDEr"):
        yield (
            f"warning: there is one dev picture, and {run.task.metric} of a single picture is "
            "always 0, so it cannot tell the best weights; give more dev pictures"
        )
    yield from told_skipped(examples)
    if (few := len(examples.train)) < FEW and (recipe.model.checkpoint or tuned):
        yield (
            f"warning: the model is fine-tuned on only {number_of(few, recipe)} and will "
            "forget much of what it knows about others; give more, train for fewer epochs, or "
            "train fewer parameters (model.lora, or trainable of the stages)"
        )
    if shared := run.task.shared():
        count = plural(shared, "dev example is", "dev examples are")
        yield f"warning: {count} also in the training data; dev scores will be too high"


def _examples(recipe: Recipe, out: Path, new: bool, skip_broken: bool) -> Examples:
    """The examples of a run that begins, looked at one by one, or of a run that goes on."""
    if new:
        if skip_broken:  # in every process, and thoroughly: nothing can be left out later
            return open_examples(recipe, look=decoded, skip=True)
        look = None if jax.process_index() == 0 else present
        return open_examples(recipe, look=look)
    skipped = read_skipped(out)
    if skip_broken and skipped is None:
        raise RecipeError(
            f"{out}: this run began without --skip-broken, and goes on with the same examples; "
            "give another folder as --out, or leave out --skip-broken"
        )
    return open_examples(recipe, skipped=skipped)


@contextlib.contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Hold the run's folder, which the system lets go of if the process is killed.

    If the run is refused before it wrote anything, a folder that was made for it is removed.
    """
    if jax.process_index() > 0:
        yield
        return
    made = list(itertools.takewhile(lambda folder: not folder.exists(), (out, *out.parents)))
    try:
        lock = hold(out / LOCK)
    except Timeout:
        raise RecipeError(
            f"{out}: another process trains in this folder; wait for it, or give another --out"
        ) from None
    except OSError as error:
        raise unwritable(out, error) from None
    try:
        # A killed process leaves what it was writing.
        for partial in (*out.glob(".*.captax*.partial"), *out.glob("samples/.*.captax*.partial")):
            with contextlib.suppress(OSError):
                partial.unlink()
        yield
    finally:
        with contextlib.suppress(OSError):
            if {path.name for path in out.iterdir()} <= {LOCK}:
                (out / LOCK).unlink(missing_ok=True)
                for folder in made:
                    folder.rmdir()
        lock.release()


def _too_large(error: Exception) -> RecipeError:
    told = " ".join(str(error).split())[:200]
    return RecipeError(
        "there is not enough memory for this recipe; lower optimizer.batch_size, "
        "evaluation.batch_size or num_beams, raise optimizer.accumulation, or take a smaller model"
        + (f" ({told})" if told else "")
    )


@dataclasses.dataclass
class _Progress:
    """How far a run is: its steps, its stage, the stage's steps, the best score and its age.

    `best` is the score (higher is better) and minus the loss, which decides between equal scores.
    `fingerprint` is that of the model; runs of earlier versions have none.
    """

    step: pydantic.NonNegativeInt = 0
    stage: pydantic.NonNegativeInt = 0
    stage_step: pydantic.NonNegativeInt = 0
    best: list[float] | None = None
    evaluations_since: pydantic.NonNegativeInt = 0
    fingerprint: str | None = None


class _Run:
    """A run: what lasts from stage to stage, and the stages themselves."""

    checkpoints: RunCheckpoints
    log: Log
    weights: Parameters  # the current values, frozen ones too

    def __init__(self, recipe: Recipe, out: Path, inside: Path | None, examples: Examples):
        self.recipe, self.out, self.inside = recipe, out, inside
        options = recipe.optimizer
        self.placement = Placement(recipe.mesh, options.batch_size // options.accumulation)
        self.task = make_task(recipe, examples)
        self.steps_per_epoch = self.task.size // options.batch_size
        if not self.steps_per_epoch:
            raise RecipeError(
                f"data.train has {plural(self.task.size, 'example')}, fewer than "
                f"optimizer.batch_size ({options.batch_size}); give more data or a smaller "
                "batch_size"
            )
        self._refuse_endless()
        self.rebuild = rebuilder(self.task.model)
        self.parameters: Parameters = parameters(self.task.model)
        lora = recipe.model.lora
        if lora is not None:
            self.parameters = add_lora(self.parameters, lora, jax.random.key(recipe.seed))
        self.merge = functools.partial(merge_lora, lora=lora)
        self.adapt = functools.partial(self.merge, apart=linear_kernels(self.task.model))
        self.trained = [self._trained(index, stage) for index, stage in enumerate(recipe.stages)]
        self.metric = recipe.evaluation.metric or self.task.metric
        if recipe.evaluation.metric and self.metric not in (known := self.task.score_names()):
            raise RecipeError(
                f"evaluation.metric is {quoted(self.metric)}, which this task does not measure; "
                "give one "
                f"of {', '.join(known)}"
            )
        self.progress = _Progress(fingerprint=fingerprint(self.task.subject))
        self.key = jax.random.key(recipe.seed)
        self.pusher: Pusher | None = None
        if recipe.push is not None and jax.process_index() == 0:
            self.pusher = Pusher(recipe.push, out, private=recipe.push_private)

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
                    f"stages.{index}.lr_scale: {quoted(pattern)} matches no parameter; parameters "
                    "have "
                    f"names such as {next(iter(self.parameters))}"
                )
        if self.recipe.optimizer.update_statistics:
            if not (statistics := statistics_of(self.task.model)):
                raise RecipeError(
                    "optimizer.update_statistics is for models with batch norms, such as ResNet, "
                    "and the recipe's model has none; leave it out"
                )
            names |= statistics
        return names

    def model(self, tensors: Parameters) -> nnx.Module:
        """The model with these parameters, in the precision of the recipe."""
        return self.rebuild(narrowed(self.merge(tensors), self.recipe.optimizer))

    def begin_with(self, init_from: Path) -> None:
        """Take the weights of another run or a checkpoint."""
        self.parameters |= weights_from(init_from, self.task.subject, self.recipe)

    def resume(self, init_from: Path | None) -> None:
        """Go on from the newest checkpoint, if there is one; else begin."""
        found = self.checkpoints.progress()
        if found is not None:
            self.progress = self._progress(found)
        elif init_from is not None:
            self.begin_with(init_from)
        if jax.process_index() == 0:
            self.log = Log(
                self.out / "log.jsonl",
                last_step=self.progress.step,
                tensorboard=self.recipe.tensorboard,
            )

    def _progress(self, found: Any) -> _Progress:
        """The progress in a checkpoint. Raises `RecipeError` unless this recipe can be there."""
        stages = self.recipe.stages
        try:
            progress = pydantic.TypeAdapter(_Progress).validate_python(found)
            # A finished stage is saved as such, and the next one begins without a checkpoint.
            possible = (
                progress.step == self.checkpoints.newest
                and progress.stage < len(stages)
                and progress.stage_step <= min(progress.step, self._steps(stages[progress.stage]))
                and (progress.best is None or len(progress.best) == 2)
            )
        except pydantic.ValidationError:
            possible = False
        if not possible:
            folder = self.out / "checkpoints" / str(self.checkpoints.newest)
            raise RecipeError(
                f"{folder}: its progress is not one of this recipe's; remove this folder to "
                "continue from an earlier checkpoint"
            )
        if progress.fingerprint not in (None, self.progress.fingerprint):
            raise RecipeError(
                f"{self.out}: the tokens or labels of its model are no longer those that the run "
                "began with, because its data or checkpoints have changed; restore them, or give "
                "another folder as --out"
            )
        return dataclasses.replace(progress, fingerprint=self.progress.fingerprint)

    @property
    def finished(self) -> bool:
        """Whether every stage has ended."""
        stages, progress = self.recipe.stages, self.progress
        last = progress.stage == len(stages) - 1
        ended = progress.stage_step == self._steps(stages[-1]) or self._out_of_patience()
        return last and progress.step > 0 and ended

    def run_stage(self, index: int, stage: Stage) -> None:
        """Train one stage to its end."""
        options, progress = self.recipe.optimizer.of(stage), self.progress
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
        frozen = narrowed(frozen, options)
        if jax.process_index() == 0:
            self._refuse_full_disk(state)
        self._prepare_pictures(index, stage)
        place = self.placement
        state, frozen = place.weights(state), place.weights(frozen)
        step, critic = self._step(stage, optimizer)
        evaluate = self.task.evaluate(self.model)

        shown = Progress(
            total,
            initial=progress.stage_step,
            label=stage.name,
            unit="step",
            shown=jax.process_index() == 0,
            leave=True,
        )
        pending: tuple[Any, ...] | None = None
        clock = time.perf_counter()
        with self._saving_before_an_error(changed, lambda: state), stopping("step") as asked:
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
                clock = self._note(pending, clock, shown)
                rate = float(schedule(progress.stage_step - 1))
                pending = (progress.step, stage, rate, output, chosen, batch)
                done = progress.stage_step == total
                if done or self._evaluates(progress.stage_step):
                    clock, pending = self._note(pending, clock, shown), None
                    trained = {**frozen, **state.evaluated}
                    self._judge(stage, trained, evaluate(trained))
                    self._save(changed, state)
                    if self._out_of_patience():
                        count = progress.evaluations_since
                        tell(
                            f"{stage.name}: {count} evaluations brought no better score, so the "
                            "stage ends here"
                        )
                        break
                    clock = time.perf_counter()
                elif progress.step % self.recipe.save_every == 0 or asked():
                    clock, pending = self._note(pending, clock, shown), None
                    self._save(changed, state)
                if asked():
                    tell(f"saved at step {progress.step}")
                    raise KeyboardInterrupt
        shown.close()
        self._end_stage(index, state)

    @contextlib.contextmanager
    def _saving_before_an_error(
        self, changed: list[str], state: Callable[[], TrainState]
    ) -> Iterator[None]:
        """When a picture cannot be read any more, save the steps that were made, and stop."""
        try:
            yield
        except ImageError as error:
            if self.progress.step == (self.checkpoints.newest or 0):
                raise
            self._save(changed, state())
            raise ImageError(
                f"{error}; saved at step {self.progress.step}. Restore the picture and run the "
                "same command again to continue"
            ) from None

    def _refuse_full_disk(self, state: TrainState) -> None:
        """Refuse to begin when not even one checkpoint and one model fit on the disk."""
        weights = sum(value.nbytes for value in self.parameters.values())
        size = weights + sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self.out).free
        if size > free:
            raise RecipeError(
                f"{self.out}: a checkpoint and a model take up to {size / 1e6:,.1f} MB and "
                f"{free / 1e6:,.1f} MB are free; free space, or give --out on another disk"
            )

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

    def _refuse_endless(self) -> None:
        """Refuse more steps than the counters of a run hold."""
        total = sum(map(self._steps, self.recipe.stages))
        if total > MOST_STEPS:
            raise RecipeError(
                f"stages: they have {total:,} steps in all, more than the {MOST_STEPS:,} that can "
                "be counted; lower their epochs or give max_steps"
            )

    def _step(self, stage: Stage, optimizer: Any) -> tuple[Step, Critic | None]:
        options = self.recipe.optimizer.of(stage)
        if stage.self_critical is None:
            made = make_step(self.rebuild, self.task.loss, optimizer, options, merge=self.adapt)
            return made, None
        critic = Critic(self.task, stage.self_critical, self.model)
        # Captions are judged as they are sampled: without dropout, by the statistics that are kept.
        options = options.model_copy(update={"update_statistics": False})
        made = make_step(
            self.rebuild, critic.loss, optimizer, options, merge=self.adapt, dropout=False
        )
        return made, critic

    def _note(self, pending: tuple[Any, ...] | None, clock: float, shown: Progress) -> float:
        """Log a step once it is done; stop the run if its loss is not finite."""
        if pending is None:
            return clock
        number, stage, rate, output, chosen, batch = pending
        measured = {name: float(value) for name, value in output.items()}
        culprit = int(measured.pop("culprit"))
        if not measured.pop("finite"):
            names = sorted(self.trained[self.progress.stage])
            self._explain(number, measured, names[culprit], chosen, batch)
        # A step that float16 left out, because a value overflowed, has no such measures.
        measured = {name: value for name, value in measured.items() if math.isfinite(value)}
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
        loss = f"loss {measured['loss']:.3f}" if "loss" in measured else "left out"
        shown.detail = f"{loss}, {rate:.0f} examples/s"
        shown.update()
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
        if self.inside is not None:
            check_inside(folder, folder.parent)
        kinds = ((task.pictures, "training", stage.views), (task.dev_pictures, "dev", 1))
        for pictures, kind, views in kinds:
            label = f"{stage.name}: features of {kind} pictures"
            views = None if stage.views is None else views
            try:
                pictures.cache(folder, encoder, depth, views=views, label=label)
            except ImageError:
                if faults := task.examples.faults():  # tell of all, and not one a day
                    raise BrokenData(faults) from None
                raise

    def _batches(self, index: int, stage: Stage) -> Iterator[tuple[np.ndarray, Any]]:
        """The batches that are left in the stage; they depend only on the recipe."""
        recipe, size = self.recipe, self.recipe.optimizer.batch_size
        rows = self.placement.rows(size)
        before = sum(earlier.epochs for earlier in recipe.stages[:index])
        for number in range(self.progress.stage_step, self._steps(stage)):
            epoch = before + number // self.steps_per_epoch
            order, visits = data.epoch_order(self.task.parts, seed=recipe.seed, epoch=epoch)
            start = number % self.steps_per_epoch * size
            chosen = order[start : start + size][rows]
            yield chosen, self.task.batch(chosen, visits[start : start + size][rows])

    def _judge(self, stage: Stage, trained: Parameters, found: DevResult) -> None:
        """Log scores, show some of the outputs, keep the model if it is the best."""
        progress, scores = self.progress, found.scores
        score = ranked(scores, self.metric)
        better = progress.best is None or score > progress.best
        progress.evaluations_since = 0 if better else progress.evaluations_since + 1
        if better:
            progress.best = score
        kept: Parameters | None = None
        if better:
            # What is frozen was narrowed for the products of this stage, and is kept as it was.
            new = {name: trained[name] for name in self.trained[progress.stage]}
            kept = self.merge({**self.parameters, **self.placement.whole(new)})
        if jax.process_index() > 0:
            return
        self.log.write(step=progress.step, stage=stage.name, scores=rounded(scores))
        told = "  ".join(_told(name, value) for name, value in scores.items())
        tell(f"step {progress.step}: {told}")
        for row in found.rows:
            share = f" ({100 * row.score:.1f}%)" if row.score is not None else ""
            tell(f"  {row.title}: {row.caption}{share}")
        if warning := collapse(found.said, labels=self.recipe.task == "classify"):
            tell(f"warning: {warning}")
        if found.rows:
            title = f"{self.recipe.name}, step {progress.step}"
            path = self.out / "samples" / f"step-{progress.step:06}.html"
            write = functools.partial(write_sheet, inside=self.inside, own=True)
            _attempt(lambda: write(path, [*found.rows, *found.learned], title=title))
        if kept is not None:
            model = self.rebuild({n: jnp.asarray(v, jnp.float32) for n, v in kept.items()})
            card = model_card(self.recipe, self.task.examples, scores, metric=self.metric)
            if self.inside is not None:
                check_inside(self.out / BEST, self.inside)
            self.task.save(model, self.out / BEST, card)
            if self.pusher is not None:
                told = _told(self.metric, scores[self.metric])
                self.pusher.push(self.out / BEST, f"Step {progress.step}: {told}")
        curves = self.out / "curves.png"
        records, title = self.log.records, self.recipe.name
        _attempt(lambda: plot_curves(curves, records, title=title, metric=self.metric))


def ranked(scores: Mapping[str, float], metric: str) -> list[float]:
    """A metric and the loss, which decides between equal scores; higher is better.

    What is not a number is worse than any number: compared as it is, it would stay the best.
    """
    sign = -1 if metric in LOWER_IS_BETTER else 1
    found = (sign * scores[metric], -scores["loss"])
    return [-math.inf if math.isnan(each) else each for each in found]


def _told(name: str, value: float) -> str:
    """A score in a line: x 100, as `captax evaluate` prints it, but for losses and counts."""
    if name in ("loss", "perplexity") or name in metrics.COUNTS:
        return f"{name} {value:.4f}"
    return f"{name} {100 * value:.2f}"


def _attempt(write: Callable[[], None]) -> None:
    """Write a page or a plot; a run goes on without it when that is impossible."""
    try:
        write()
    except OutputError as error:
        tell(f"warning: {error}")


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
