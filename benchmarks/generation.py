"""How long captioning a batch takes, compared with other programs and with the floor.

    python benchmarks/generation.py [--device cpu|gpu] [--peers NAME ...] [--settings NAME ...]
                                    [--json FILE]

All programs have the same checkpoint, a vit-gpt2 with random weights (ViT-B/16 at 224 px, GPT-2
small, float32); every caption has 20 tokens. Each peer runs alone in its own process, on two
threads. Times are medians over repeated calls after two calls that are not counted, from pixels in
memory to tokens in memory. The tokens must equal those of transformers, op by op, except for the
peers named 16, whose weights are bfloat16. Peers that are not installed are skipped;
`pip install -e '.[bench]'` installs all of them.

On a GPU, batches are larger, all peers have weights of bfloat16, and captax also captions a stream
of pictures in batches of 256.

The floor is a time that no program with weights of this type can beat here. It is the encoder's
products at the measured rate of a large product, and then for each step the longer of two times:
reading the decoder's weights and caches once at the memory's measured rate, or the step's products
at that rate of products.
"""

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from peers import PEERS, SIDE, STEPS, THREADS, TORCH_DEVICE, export, make_checkpoint, run_on

# Batch and beams; no beams is the vision encoder alone.
CPU = {
    "batch 8, beam 4": (8, 4),
    "batch 8, greedy": (8, 1),
    "batch 1, greedy": (1, 1),
    "batch 1, beam 4": (1, 4),
    "batch 8, encode": (8, 0),
}
GPU = {
    "batch 128, beam 4": (128, 4),
    "batch 128, greedy": (128, 1),
    "batch 32, beam 4": (32, 4),
    "batch 1, greedy": (1, 1),
    "batch 32, encode": (32, 0),
}
SETTINGS = {**CPU, **GPU}
DEFAULTS: dict[str, tuple[dict[str, tuple[int, int]], tuple[str, ...]]] = {
    "cpu": (CPU, tuple(name for name in PEERS if name != "compiled16")),
    "gpu": (GPU, ("transformers16", "compiled16", "captax16")),
}
# Batches of a stream and pictures of each.
STREAM = (8, 256)
MEMORY = (32, 5)


def pictures(batch: int) -> np.ndarray:
    """Coloured squares, [batch 3 height width], of bytes normalised to -1..1."""
    squares = np.random.default_rng(0).integers(0, 256, (batch, 3, SIDE // 16, SIDE // 16))
    return (squares.repeat(16, 2).repeat(16, 3) / 127.5 - 1).astype(np.float32)


def seconds(call: Callable[[], Any], repeats: int) -> list[float]:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return times


def measure(name: str, checkpoint: Path, settings: list[str], repeats: int) -> dict[str, Any]:
    """A peer's times and what it said, by setting."""
    peer = PEERS[name][0](checkpoint)
    found = {}
    for setting in settings:
        batch, beams = SETTINGS[setting]
        pixels = pictures(batch)

        def call(pixels: np.ndarray = pixels, beams: int = beams) -> np.ndarray:
            return peer.generate(pixels, beams) if beams else peer.encode(pixels)

        call()
        said = np.asarray(call())
        found[setting] = {"said": said.tolist(), "seconds": seconds(call, repeats)}
    return found


def memory(checkpoint: Path) -> dict[str, float]:
    """Peak bytes of captax above those of its imports: after loading, compiling and running."""
    import jax  # noqa: F401

    import captax  # noqa: F401

    batch, beams = MEMORY
    pixels = pictures(batch)
    resident = Path("/proc/self/statm").read_text().split()[1]
    baseline = int(resident) * resource.getpagesize()

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - baseline

    peer = PEERS["captax"][0](checkpoint)
    loaded = peak()
    peer.generate(pixels, beams)
    return {"loaded": loaded, "peak": peak()}


def stream(checkpoint: Path, beams: int) -> float:
    """Pictures a second of captax, from a stream of pictures in memory."""
    peer = PEERS["captax16"][0](checkpoint)
    batches, size = STREAM
    shown = np.rint((pictures(size).transpose(0, 2, 3, 1) + 1) * 127.5).astype(np.uint8)
    options = {"num_beams": beams, "max_new_tokens": STEPS, "batch_size": size}

    def run(times: int) -> int:
        return sum(
            1 for _ in peer.captioner.stream((p for _ in range(times) for p in shown), **options)
        )

    run(1)
    started = time.perf_counter()
    return run(batches) / (time.perf_counter() - started)


def rates(device: str) -> dict[str, float]:
    """Bytes a second of reading and copying memory, and operations of products a second."""
    import jax
    import jax.numpy as jnp
    import torch

    torch.set_grad_enabled(False)
    on_gpu = device == "gpu"
    if not on_gpu:
        torch.set_num_threads(THREADS)
    where, dtype, side = (TORCH_DEVICE, "bfloat16", 8192) if on_gpu else ("cpu", "float32", 3072)
    kind = {"device": where, "dtype": getattr(torch, dtype)}
    large, vector = torch.ones(2**14, 2**14, **kind), torch.ones(2**14, **kind)
    other = torch.empty_like(large)
    a = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32)
    x, y = torch.from_numpy(a).to(**kind), jnp.asarray(a, dtype)
    product = jax.jit(jnp.matmul)
    size = large.numel() * large.element_size()
    waits = torch.cuda.synchronize if on_gpu else lambda: None
    calls: dict[str, tuple[float, Callable[[], Any]]] = {
        "read": (size, lambda: large.mv(vector)),
        "sum": (size, large.sum),
        "copy": (2 * size, lambda: other.copy_(large)),
        "torch": (2 * side**3, lambda: x.mm(x)),
        "jax": (2 * side**3, lambda: product(y, y).block_until_ready()),
    }

    def whole(call: Callable[[], Any]) -> None:
        call()
        waits()

    return {
        name: work / min(seconds(lambda call=call: whole(call), 8))
        for name, (work, call) in calls.items()
    }


class Costs:
    """Bytes and operations of this captioner, counted from its config and parameters.

    A number takes `width_of` bytes.
    """

    def __init__(self, checkpoint: Path, width_of: int):
        import safetensors

        self.bytes = width_of
        config = json.loads((checkpoint / "config.json").read_text())
        encoder, decoder = config["encoder"], config["decoder"]
        self.places = 1 + (encoder["image_size"] // encoder["patch_size"]) ** 2
        self.width, self.layers = decoder["n_embd"], decoder["n_layer"]
        self.encoder = self.decoder = self.cross = 0
        with safetensors.safe_open(checkpoint / "model.safetensors", "np") as file:
            for name in file.keys():  # noqa: SIM118
                shape = file.get_slice(name).get_shape()
                count = int(np.prod(shape))
                if "crossattention.c_attn.weight" in name:
                    self.cross += count
                elif name.startswith("decoder.") and "wpe" not in name and len(shape) > 1:
                    self.decoder += count
                elif "encoder.layer" in name or "projection" in name:
                    self.encoder += count if len(shape) > 1 else 0
        deep = encoder["num_hidden_layers"] * encoder["hidden_size"]
        # Two for each weight and place; two products of queries with keys, and weights with values.
        self.encoding = 2 * self.encoder * self.places + 4 * deep * self.places**2

    def cached(self, batch: int, beams: int, tokens: int) -> int:
        """Bytes of keys and values, cross-attention's once a picture."""
        places = batch * self.places + batch * beams * tokens
        return places * self.layers * self.width * 2 * self.bytes

    def floor(self, batch: int, beams: int, bandwidth: float, speed: float) -> float:
        """Seconds."""
        total = batch * self.encoding / speed
        if not beams:
            return total
        total += 2 * batch * self.places * self.cross / speed
        for step in range(STEPS):
            rows = batch * (beams if step else 1)  # all beams begin as one
            read = self.bytes * self.decoder + self.cached(batch, beams if step else 1, step)
            attended = 4 * rows * self.layers * self.width * (self.places + step + 1)
            total += max(read / bandwidth, (2 * rows * self.decoder + attended) / speed)
        return total


def missing(name: str) -> list[str]:
    return [need for need in PEERS[name][1] if importlib.util.find_spec(need) is None]


def apart(name: str, options: argparse.Namespace, checkpoint: Path) -> Any:
    """What this program, run anew for one measurement, found; None and a line if it failed."""
    command = [sys.executable, __file__, "--worker", name, "--checkpoint", str(checkpoint)]
    command += ["--repeats", str(options.repeats), "--settings", *options.settings]
    command += ["--device", options.device]
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        done = subprocess.run([*command, "--json", str(found)], capture_output=True, text=True)
        if done.returncode:
            print(f"{name}: failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
            return None
        return json.loads(found.read_text())


def work(name: str, options: argparse.Namespace) -> Any:
    if name == "export":
        return export(options.checkpoint, options.checkpoint / "onnx")
    if name == "rates":
        return rates(options.device)
    if name.startswith("stream"):
        return stream(options.checkpoint, int(name.removeprefix("stream")))
    if name == "memory":
        return memory(options.checkpoint)
    return measure(name, options.checkpoint, options.settings, options.repeats)


def agreement(found: dict[str, Any], oracle: dict[str, Any], setting: str) -> str:
    here, there = (np.asarray(each[setting]["said"]) for each in (found, oracle))
    if here.shape != there.shape:
        return f"shape {here.shape}, not {there.shape}"
    if SETTINGS[setting][1]:
        return f"{(here == there).mean():.0%} of {here.size} tokens"
    return f"within {abs(here - there).max():.1e}"


def report(options: argparse.Namespace, checkpoint: Path) -> dict[str, Any]:
    """Measure everything and print it."""
    names = []
    for name in options.peers:
        if need := missing(name):
            print(f"{name}: skipped, {', '.join(need)} not installed")
        else:
            names.append(name)
    if {"onnxruntime", "openvino"} & set(names) and not (checkpoint / "onnx").exists():
        apart("export", options, checkpoint)
    found = {name: one for name in names if (one := apart(name, options, checkpoint))}
    narrow = "16" if options.device == "gpu" else ""
    oracle, own = found.get(f"transformers{narrow}"), found.get(f"captax{narrow}")
    speeds = apart("rates", options, checkpoint)
    bandwidth = max(speeds[name] for name in ("read", "sum", "copy"))
    speed = max(speeds["torch"], speeds["jax"])
    costs = Costs(checkpoint, 2 if narrow else 4)
    said = (f"{name} {speeds[name] / 1e9:.1f}" for name in ("read", "sum", "copy"))
    print(f"memory: {', '.join(said)} GB/s")
    print(f"products: torch {speeds['torch'] / 1e9:.0f}, jax {speeds['jax'] / 1e9:.0f} GFLOP/s")
    print(f"weights of a step: {costs.bytes * costs.decoder / 1e6:.0f} MB; {STEPS} steps")
    for setting in options.settings:
        floor = costs.floor(*SETTINGS[setting], bandwidth, speed)
        print(f"\n{setting:16} seconds (least, most)     / captax  / floor  as transformers")
        print(f"{'floor':16} {floor:7.3f}")
        mine = statistics.median(own[setting]["seconds"]) if own else None
        for name, one in found.items():
            times = one[setting]["seconds"]
            median = statistics.median(times)
            ratio = f"{median / mine:8.2f}" if mine else " " * 8
            said = agreement(one, oracle, setting) if oracle else ""
            spread = f"({min(times):.3f}, {max(times):.3f})"
            print(f"{name:16} {median:7.3f} {spread:18} {ratio} {median / floor:8.2f}  {said}")
    result = {"rates": speeds, "peers": found}
    if "captax16" in names and narrow:
        for beams in (1, 4):
            if rate := apart(f"stream{beams}", options, checkpoint):
                kind = f"beam {beams}" if beams > 1 else "greedy"
                print(f"captax16, a stream in batches of {STREAM[1]}, {kind}: {rate:.0f} a second")
                result[f"stream{beams}"] = rate
    if "captax" in names and not narrow:
        peaks = result["memory"] = apart("memory", options, checkpoint)
        batch, beams = MEMORY
        weights = (checkpoint / "model.safetensors").stat().st_size
        cached = costs.cached(batch, beams, STEPS)
        given = f"{weights / 1e6:.0f} MB of weights and {cached / 1e6:.0f} MB of caches"
        times = peaks["peak"] / (weights + cached)
        print(f"\ncaptax, batch {batch}, beam {beams}: peak {peaks['peak'] / 1e6:.0f} MB above its")
        print(f"imports, {times:.2f} times {given}; {peaks['loaded'] / 1e6:.0f} MB after loading")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=[*DEFAULTS], default="cpu")
    parser.add_argument("--peers", nargs="+", choices=[*PEERS], help="by default those that suit")
    parser.add_argument(
        "--settings", nargs="+", choices=[*SETTINGS], help="by default the device's"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write everything that was measured")
    parser.add_argument("--checkpoint", type=Path, help="folder to make the checkpoint in and keep")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        result = work(options.worker, options)
        options.json.write_text(json.dumps(result))
        return
    settings, peers = DEFAULTS[options.device]
    options.settings, options.peers = options.settings or [*settings], options.peers or [*peers]
    run_on(options.device)
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = options.checkpoint or Path(scratch) / "checkpoint"
        if not (checkpoint / "config.json").exists():
            checkpoint.mkdir(parents=True, exist_ok=True)
            make_checkpoint(checkpoint)
        print(f"load average before {os.getloadavg()[0]:.1f}")
        result = report(options, checkpoint)
    if options.json:
        options.json.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
