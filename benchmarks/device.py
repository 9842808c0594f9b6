"""What captax does on this machine's accelerator, in a few minutes: a short set of the benchmarks.

    python benchmarks/device.py [--device gpu|cpu] [--seconds 290] [--only PART ...]

It needs captax, transformers and PyTorch, and no data: pictures and weights are made up. Each part
is a command, which is printed, and which ends when the time is over; what it has printed by then
counts. On a CPU the parts are the same at a smaller size, to try them out.

| part | measures |
| --- | --- |
| first | the first caption of a fresh process, and the built-in captioner's pictures a second |
| captions | a vit-gpt2 in bfloat16 beside transformers, op by op, the floor, and a stream |
| training | a step of `flickr8k-vit` in bfloat16 beside PyTorch, and the floor |
| compiled | the same as the last two, with PyTorch compiled |
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).parent
# Pictures, runs and the batch of the built-in captioner.
SIZES = {"gpu": (2048, 2, 256), "cpu": (64, 1, 32)}


def make_pictures(folder: Path, count: int) -> None:
    """JPEG files of 640 x 480 pixels, as cameras' are after a first reduction."""
    draw = np.random.default_rng(0)
    folder.mkdir()
    for index in range(count):
        squares = draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(squares).resize((640, 480)).save(folder / f"{index:05}.jpg", quality=90)


def parts(device: str, scratch: Path) -> dict[str, list[list[str]]]:
    """The commands of each part, without Python."""
    count, runs, batch = SIZES[device]
    how = ["--device", device]
    generation = ["generation.py", *how, "--checkpoint", str(scratch / "generation")]
    training = ["training.py", *how, "--folder", str(scratch / "training")]
    training += ["--recipes", "flickr8k-vit", "--precisions", "bfloat16"]
    if device == "cpu":
        generation += ["--settings", "batch 1, greedy", "--repeats", "1"]
        training += ["--repeats", "1"]
    narrow = ["--peers", "transformers16", "captax16"]
    sizes = ["--count", str(count), "--runs", str(runs), "--batch-size", str(batch)]
    return {
        "first": [["captioning.py", str(scratch / "pictures"), *sizes]],
        "captions": [[*generation, *narrow]],
        "training": [[*training, "--peers", "torch", "captax"]],
        "compiled": [
            [*training, "--peers", "compiled", "captax"],
            [*generation, "--peers", "compiled16", "captax16"],
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=[*SIZES], default="gpu")
    parser.add_argument("--seconds", type=float, default=290)
    parser.add_argument("--only", nargs="+", choices=["first", "captions", "training", "compiled"])
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        chosen = parts(options.device, scratch)
        make_pictures(scratch / "pictures", SIZES[options.device][0])
        for name in options.only or chosen:
            for command in chosen[name]:
                left = end - time.monotonic()
                print(f"\n## {name}: {' '.join(command)}   ({left:.0f} s left)", flush=True)
                if left <= 0:
                    print("the time is over")
                    continue
                whole = [sys.executable, "-u", str(FOLDER / command[0]), *command[1:]]
                with subprocess.Popen(whole, start_new_session=True) as process:
                    try:
                        failed |= process.wait(left) != 0
                    except subprocess.TimeoutExpired:
                        print("the time was over before it ended")
                    finally:
                        # With the processes that it has started, which hold the device too.
                        with contextlib.suppress(ProcessLookupError):
                            os.killpg(process.pid, signal.SIGKILL)
    sys.exit(failed)


if __name__ == "__main__":
    main()
