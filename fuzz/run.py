"""Fuzz what captax reads: `python fuzz/run.py images --minutes 10`.

libFuzzer, through atheris, mutates the seeds of a target and keeps inputs that reach new code. A
target is a file in `targets/`. It reads the input, and must either succeed or raise a
`CaptaxError` (see `judge.py`). It runs in a process with bounded memory. If that process crashes,
hangs or runs out of memory, this is a finding too, and another process continues. Findings are
kept in `findings/TARGET/`:

    python fuzz/run.py images --replay fuzz/findings/images/3f2a.input

atheris comes with the extra `fuzz`. Memory can only be measured on Linux.
"""

import argparse
import contextlib
import importlib
import mmap
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "src"))  # what is fuzzed is this tree's
import judge  # noqa: E402

NAMES = sorted(path.stem for path in (HERE / "targets").glob("[a-z]*.py"))
# What the coverage of tells inputs apart: our code, and what of the readers is Python.
INSTRUMENTED = ["captax", "PIL", "yaml", "json", "csv", "tarfile", "zipfile", "pickletools"]
MEMORY = 5 * 2**30  # addresses beyond what the imports took; see also judge.py
HANG_SECONDS = 120  # by the wall, also in C, where no clock of ours is looked at
DEATHS = 50  # of workers, after which more would tell nothing


def main() -> int:
    """Fuzz or replay; the exit code is 1 when there are findings."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("target", choices=NAMES)
    parser.add_argument("--minutes", type=float, default=10, help="0: read the seeds, no more")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--replay", type=Path, help="read this one input, and tell what comes of it"
    )
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.target, args.minutes, args.seed, args.worker)
    if args.replay:
        return replay(args.target, [args.replay.read_bytes()])
    if not args.minutes:
        return replay(args.target, None)
    return supervise(args.target, args.minutes, args.seed)


def supervise(name: str, minutes: float, seed: int) -> int:
    """Run workers until the time is over."""
    folder = HERE / "findings" / name
    for part in ("corpus", "seeds"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    counter = folder / "executions"
    counter.write_bytes(bytes(8))
    end = time.monotonic() + 60 * minutes
    deaths = 0
    while (left := end - time.monotonic()) > 1 and deaths < DEATHS:
        command = [sys.executable, __file__, name, f"--minutes={left / 60}", f"--worker={folder}"]
        with (folder / "log").open("ab") as log:
            code = subprocess.run([*command, f"--seed={seed + deaths}"], stderr=log, stdout=log)
        deaths += code.returncode != 0
    (executions,) = struct.unpack("<Q", counter.read_bytes())
    found = sorted(path for path in folder.iterdir() if path.suffix == ".txt")
    dead = sorted(path for path in folder.glob("*-*") if path.is_file())
    print(f"{name}: {minutes:g} min, {executions:,} inputs, {len(found) + len(dead)} findings")
    for path in found:
        print(f"  {path.with_suffix('.input')}: {path.read_text().splitlines()[0]}")
    for path in dead:  # libFuzzer names them: crash-..., timeout-...
        print(f"  {path}: ended the process; see {folder / 'log'}")
    if deaths and not dead:
        print(f"  {deaths} workers ended by themselves; see {folder / 'log'}")
    return 1 if found or dead or deaths else 0


def work(name: str, minutes: float, seed: int, folder: Path) -> None:
    """Fuzz in this process until the time is over, then end it."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED, enable_loader_override=False):
        target = importlib.import_module(f"targets.{name}")
        import mutation  # which imports what is to be instrumented
    inputs = Path(tempfile.mkdtemp(prefix="captax-fuzz-"))
    prepare(target, inputs)
    longest = 0
    for n, data in enumerate(seeds_of(target)):
        longest = max(longest, len(data))
        (folder / "seeds" / f"{n:03}").write_bytes(data)
    words = folder / "words"
    escaped = ["".join(f"\\x{byte:02x}" for byte in word) for word in target.WORDS]
    words.write_text("".join(f'"{word}"\n' for word in escaped))
    with (folder / "executions").open("r+b") as file:
        counter = mmap.mmap(file.fileno(), 8)

    def one(data: bytes) -> None:
        (count,) = struct.unpack("<Q", counter[:])
        counter[:] = struct.pack("<Q", count + 1)
        if finding := judge.read(target, inputs, data):
            path = folder / f"{finding.key}.input"
            if not path.exists():
                path.write_bytes(data)
                path.with_suffix(".txt").write_text(finding.story)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if data and hasattr(target, "mutate") and rng.random() < 0.8:
            return (data[:1] + target.mutate(data[1:], rng))[:most]
        if data and rng.random() < 0.5:
            kind = target.KINDS[data[0] % len(target.KINDS)]
            with contextlib.suppress(Exception):  # what is no tree is bytes
                changed = mutation.of_tree(kind, data[1:], rng, target.WORDS)
                return (data[:1] + changed)[:most]
        return atheris.Mutate(data, most)

    watch(target, inputs)
    bound_memory()
    options = [
        str(folder / "corpus"),
        str(folder / "seeds"),
        f"-artifact_prefix={folder}/",
        f"-dict={words}",
        f"-max_len={2 * longest}",
        f"-report_slow_units={HANG_SECONDS}",
        f"-max_total_time={max(1, round(60 * minutes))}",
        "-rss_limit_mb=0",
        f"-seed={seed}",
        f"-timeout={HANG_SECONDS}",
    ]
    atheris.Setup([sys.argv[0], *options], one, custom_mutator=mutate)
    atheris.Fuzz()


def replay(name: str, inputs: list[bytes] | None) -> int:
    """Tell what comes of these inputs, or of the seeds; needs no atheris."""
    target = importlib.import_module(f"targets.{name}")
    folder = Path(tempfile.mkdtemp(prefix="captax-fuzz-"))
    prepare(target, folder)
    watch(target, folder)
    bound_memory()
    findings = 0
    for data in seeds_of(target) if inputs is None else inputs:
        if finding := judge.read(target, folder, data):
            print(f"{judge.place(target, folder, data)}:\n{finding.story}")
            findings += 1
    if not findings:
        print("read, or refused as it should be")
    return 1 if findings else 0


def seeds_of(target: ModuleType) -> Iterator[bytes]:
    """Its seeds as inputs: a byte that says which kind of file, and the file."""
    for kind, content in target.seeds():
        yield bytes([target.KINDS.index(kind)]) + content


def watch(target: ModuleType, inputs: Path) -> None:
    """Refuse from now on what the target's inputs may not have done."""
    reads, writes = hasattr(target, "READS_ANYWHERE"), hasattr(target, "WRITES")
    starts = hasattr(target, "STARTS")
    judge.watch(inputs, anywhere=reads, writes=writes, starts=starts)


def prepare(target: ModuleType, inputs: Path) -> None:
    """Write what lies beside the inputs, and read every seed once, so that all is imported."""
    if hasattr(target, "prepare"):
        target.prepare(inputs)
    for data in seeds_of(target):
        judge.read(target, inputs, data)


def bound_memory() -> None:
    """What needs much more than now gets a MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    sys.exit(main())
