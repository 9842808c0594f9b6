"""How long a first caption takes, and how many pictures a second are captioned.

    python benchmarks/captioning.py PICTURES [--count 1000] [--runs 5] [--batch-size 32]

The first lines are runs of the `captax` command as a user would type it, from start to exit, over
the first pictures of the folder PICTURES. "cold" means that the cache of compiled programs is
empty. The last two are of `Captioner.stream` in one process, once its programs are there: from
these files, and from pictures that are decoded and resized already, so that nothing but the model
takes time.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PICTURE = Path(__file__).parent.parent / "examples" / "cat.jpg"


def run(cache: Path, *arguments: str) -> float:
    command = [sys.executable, "-m", "captax", "caption", *arguments]
    started = time.perf_counter()
    subprocess.run(
        command,
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "CAPTAX_CACHE": str(cache)},
    )
    return time.perf_counter() - started


def rates(pictures: list[Path], batch_size: int, runs: int) -> dict[str, float]:
    """Pictures a second in this process: of files, and of pictures that are ready."""
    import captax

    captioner = captax.load()
    size = captioner.processor.size
    ready = [captioner.prepare(captioner.read(path)) for path in pictures[:batch_size]]
    many: Any = [ready[i % len(ready)] for i in range(max(len(pictures), 8 * batch_size))]
    kinds: dict[str, Iterable[Any]] = {"files": pictures, f"ready, {size[0]} x {size[1]}": many}
    found = {}
    for name, given in kinds.items():

        def stream(given: Any = given) -> float:
            started = time.perf_counter()
            count = sum(1 for _ in captioner.stream(given, batch_size=batch_size, num_beams=3))
            return count / (time.perf_counter() - started)

        stream()
        found[name] = statistics.median(stream() for _ in range(runs))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args()
    pictures = sorted(options.pictures.iterdir())[: options.count]
    count = len(pictures)
    with tempfile.TemporaryDirectory() as scratch:
        cold = [run(Path(scratch) / f"cold{i}", str(PICTURE)) for i in range(options.runs)]
        print(f"one picture, cold   {statistics.median(cold):6.2f} s", flush=True)
        cache = Path(scratch) / "cold0"
        warm = [run(cache, str(PICTURE)) for _ in range(options.runs)]
        print(f"one picture, warm   {statistics.median(warm):6.2f} s", flush=True)
        folder = [*map(str, pictures), "--num-beams", "3", "--batch-size", str(options.batch_size)]
        run(cache, *folder)
        seconds = [run(cache, *folder) for _ in range(min(3, options.runs))]
    median = statistics.median(seconds)
    print(
        f"{count} pictures, beam 3, warm   {median:.1f} s, {count / median:.1f} pictures a second",
        flush=True,
    )
    for name, rate in rates(pictures, options.batch_size, min(3, options.runs)).items():
        print(f"in one process, {name}   {rate:.1f} pictures a second")


if __name__ == "__main__":
    main()
