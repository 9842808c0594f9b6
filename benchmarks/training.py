"""How long a training step takes, compared with PyTorch and the floor; and what a cache saves.

    python benchmarks/training.py [--device cpu|gpu] [--recipes NAME ...] [--repeats N]
                                  [--json FILE] [--data FOLDER] [--pictures N]

The models of three recipes, with random weights, are trained on one batch of made-up pictures, each
with one caption of 50 tokens, with the recipe's own task, optimiser and step: `flickr8k-vit` (batch
32, the frozen encoder computed in the step), `food101-vit` (batch 16, 20 classes) and
`flickr8k-resnet50` (batch 16, pictures of 448 pixels, 3,000 words). PyTorch, op by op and
compiled, has the same model with the same weights, built from transformers' encoder and `torch.nn`
layers, and the same step: dropout, clipping, optimiser and average. The losses before the first
step, without dropout, show that the models are the same. Each side runs alone in its own process,
on a CPU on two threads. Times are medians over repeated steps after two steps that are not counted.
bfloat16 rows use `optimizer.precision=bfloat16` and `torch.autocast`.

The floor is the number of operations in the step's products and convolutions, forward and backward,
at the measured rate of a large product.

With FOLDER, which holds `flickr8k`, the program also trains on the first pictures of it for an
epoch with the feature cache and without it, from files to steps, with `flickr8k-vit` and both
stages of `captax-lite`. It prints the seconds for these pictures, and in proportion for an epoch
of all 6,000.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from peers import THREADS, TORCH_DEVICE, run_on
from training_peers import OVERRIDES, PEERS, make_checkpoints, prepare

PRECISIONS = ("float32", "bfloat16")
FLICKR8K = 6000
# Recipe and stage.
EPOCHS = (("flickr8k-vit", 0), ("captax-lite", 0), ("captax-lite", 1))


def seconds(call: Callable[[], Any], repeats: int) -> list[float]:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return times


def rates() -> dict[str, float]:
    """Operations a second of large products, by program and precision."""
    import jax
    import jax.numpy as jnp
    import torch

    on_gpu = TORCH_DEVICE == "cuda"
    if not on_gpu:
        torch.set_num_threads(THREADS)
    side = 8192 if on_gpu else 3072
    waits = torch.cuda.synchronize if on_gpu else lambda: None
    a = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32)
    product = jax.jit(lambda x: jnp.matmul(x, x, preferred_element_type=jnp.float32))
    found = {}
    for precision in PRECISIONS:
        x = torch.from_numpy(a).to(TORCH_DEVICE, getattr(torch, precision))
        y = jnp.asarray(a, precision)
        calls = {
            "torch": lambda x=x: (x.mm(x), waits()),
            "captax": lambda y=y: product(y).block_until_ready(),
        }
        for name, call in calls.items():
            found[f"{name} {precision}"] = 2 * len(a) ** 3 / min(seconds(call, 8))
    return found


def measure(peer: str, recipe: str, precision: str, folder: Path, repeats: int) -> dict[str, Any]:
    """The times of steps, and the losses before the first and of the last."""
    made = PEERS[peer](folder, recipe, precision)
    before = made.loss()
    made.step()
    made.step()
    losses = []
    times = seconds(lambda: losses.append(made.step()), repeats)
    return {"before": before, "last": losses[-1], "seconds": times}


def epoch(recipe: str, index: int, cached: bool, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of making the cache, of an epoch, and of making its batches alone."""
    import jax

    from captax import data
    from captax.checkpoints.state import parameters, rebuilder
    from captax.training.loop import frozen_depth
    from captax.training.optimizers import make_optimizer
    from captax.training.recipe import load_recipe, matches
    from captax.training.step import begin_stage, make_step
    from captax.training.tasks import make_task

    given = [f"data.root={options.data}", "data.dev.0.rows=:1", f"stages.{index}.epochs=2"]
    given += [f"data.train=[{{path: flickr8k, split: train, rows: ':{options.pictures}'}}]"]
    if recipe == "flickr8k-vit":
        names = ("model.encoder.checkpoint", "model.tokenizer")
        given += [f"{name}={options.folder / 'vit'}" for name in names]
    described = load_recipe(recipe, given)
    task, stage, settings = make_task(described), described.stages[index], described.optimizer
    weights = parameters(task.model)
    trained = {n: v for n, v in weights.items() if matches(stage.trainable or (".*",), n)}
    frozen = {n: v for n, v in weights.items() if n not in trained}
    started = time.perf_counter()
    if cached:
        encoder: Any = task.model.encoder
        depth = frozen_depth(encoder, "encoder.", {*trained})
        task.pictures.cache(options.folder, encoder, depth, views=1, label="features")
    made = time.perf_counter() - started
    optimizer, _ = make_optimizer(stage, settings, 1000)
    state = begin_stage(trained, optimizer, settings)
    step = make_step(rebuilder(task.model), task.loss, optimizer, settings)
    size = settings.batch_size

    def batches(number: int) -> Any:
        order, visits = data.epoch_order(task.parts, seed=described.seed, epoch=number)
        for first in range(0, task.size - size + 1, size):
            yield task.batch(order[first : first + size], visits[first : first + size])

    key = jax.random.key(0)
    state, output = step(state, frozen, next(batches(0)), key)
    float(output["loss"])
    started = time.perf_counter()
    for batch in data.prefetch(batches(1), 2):
        state, output = step(state, frozen, batch, key)
    float(output["loss"])
    whole = time.perf_counter() - started
    reading = seconds(lambda: list(batches(1)), 1)[0]
    share = FLICKR8K / (task.size // size * size)
    return {"made": made, "epoch": whole, "reading": reading, "share": share}


def work(options: argparse.Namespace) -> Any:
    kind, *rest = options.worker
    if kind == "make":
        return make_checkpoints(options.folder)
    if kind == "prepare":
        return prepare(options.folder, rest[0])
    if kind == "operations":
        return PEERS["torch"](options.folder, rest[0], "float32").operations()
    if kind == "rates":
        return rates()
    if kind == "epoch":
        return epoch(rest[0], int(rest[1]), rest[2] == "cached", options)
    recipe, precision = rest
    return measure(kind, recipe, precision, options.folder, options.repeats)


def apart(options: argparse.Namespace, *task: str) -> Any:
    """What this program, run anew for one measurement, found; it ends where that fails."""
    command = [sys.executable, __file__, "--worker", *task, "--folder", str(options.folder)]
    command += ["--repeats", str(options.repeats), "--pictures", str(options.pictures)]
    command += ["--data", str(options.data)]
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        done = subprocess.run([*command, "--json", str(found)], capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["?"])[-1]
            sys.exit(f"{' '.join(task)}: failed: {said}")
        return json.loads(found.read_text())


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything and print it."""
    if not (options.folder / "captioned").exists():
        apart(options, "make")
    speeds = apart(options, "rates")
    said = ", ".join(f"{name} {speed / 1e9:.0f}" for name, speed in speeds.items())
    print(f"products: {said} GFLOP/s")
    result: dict[str, Any] = {"rates": speeds, "steps": {}, "epochs": {}}
    for recipe in options.recipes:
        if not (options.folder / recipe).exists():
            apart(options, "prepare", recipe)
        operations = apart(options, "operations", recipe)
        print(f"\n{recipe:18} seconds (least, most)     / captax  / floor  loss before, last")
        result["steps"][recipe] = {"operations": operations}
        for precision in options.precisions:
            floor = operations / max(v for name, v in speeds.items() if name.endswith(precision))
            found = {peer: apart(options, peer, recipe, precision) for peer in options.peers}
            result["steps"][recipe][precision] = found
            print(f"{'floor ' + precision:18} {floor:7.3f}  {operations / 1e9:.0f} GFLOP")
            mine = statistics.median(found["captax"]["seconds"])
            for peer, one in found.items():
                times = one["seconds"]
                median = statistics.median(times)
                spread = f"({min(times):.3f}, {max(times):.3f})"
                ratios = f"{median / mine:8.2f} {median / floor:8.2f}"
                losses = f"{one['before']:.4f}, {one['last']:.4f}"
                print(f"{peer:18} {median:7.3f} {spread:18} {ratios}  {losses}", flush=True)
    for recipe, index in EPOCHS if options.data else ():
        name = f"{recipe}, stage {index + 1}"
        kinds = ("cached", "without")
        found = {kind: apart(options, "epoch", recipe, str(index), kind) for kind in kinds}
        result["epochs"][name] = found
        ratio = found["without"]["epoch"] / found["cached"]["epoch"]
        print(f"\n{name}: seconds of an epoch of {options.pictures} pictures, of {FLICKR8K}")
        for kind, one in found.items():
            whole = f"{one['epoch']:7.2f} {one['epoch'] * one['share']:8.0f}"
            print(f"{kind:18} {whole}   batches alone {one['reading']:.2f}")
        print(f"{'ratio':18} {ratio:7.2f}   the cache is made in {found['cached']['made']:.1f}")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--peers", nargs="+", choices=[*PEERS], default=[*PEERS])
    parser.add_argument("--recipes", nargs="*", choices=[*OVERRIDES], default=[*OVERRIDES])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--data", type=Path, help="folder that holds flickr8k, for the epochs")
    parser.add_argument("--pictures", type=int, default=200, help="of an epoch")
    parser.add_argument("--json", type=Path, help="where to write everything that was measured")
    parser.add_argument("--folder", type=Path, help="folder to make the checkpoints in and keep")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        options.json.write_text(json.dumps(work(options)))
        return
    run_on(options.device)
    with tempfile.TemporaryDirectory() as scratch:
        options.folder = (options.folder or Path(scratch)).resolve()
        options.folder.mkdir(parents=True, exist_ok=True)
        print(f"load average before {os.getloadavg()[0]:.1f}")
        result = report(options)
    if options.json:
        options.json.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
