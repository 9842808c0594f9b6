"""How long a first caption takes, and how many pictures a second a whole command captions.

    python benchmarks/captioning.py PICTURES

Each line is a run of the `captax` command as a user would type it, from start to exit, over the
first pictures of the folder PICTURES. "cold" means that the cache of compiled programs is empty.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        cold = [run(Path(scratch) / f"cold{i}", str(PICTURE)) for i in range(options.runs)]
        cache = Path(scratch) / "cold0"
        warm = [run(cache, str(PICTURE)) for _ in range(options.runs)]
        pictures = sorted(options.pictures.iterdir())[: options.count]
        folder = [*map(str, pictures), "--num-beams", "3"]
        run(cache, *folder)
        seconds = [run(cache, *folder) for _ in range(3)]
    count = len(pictures)
    print(f"one picture, cold   {statistics.median(cold):6.2f} s")
    print(f"one picture, warm   {statistics.median(warm):6.2f} s")
    median = statistics.median(seconds)
    print(
        f"{count} pictures, beam 3, warm   {median:.1f} s, {count / median:.1f} pictures a second"
    )


if __name__ == "__main__":
    main()
