"""The process that decodes pictures and videos for another; see `apart.py`, which starts it."""

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from PIL import Image

from captax.images.apart import HEADER
from captax.images.budget import MIB, trim
from captax.images.decode import in_this_process
from captax.images.video import frames_in_this_process

try:
    import resource
except ModuleNotFoundError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

Made = tuple[Sequence[Image.Image], dict[str, Any]]


def _picture(data: bytes, **asked: Any) -> Made:
    return [in_this_process(data, **asked)], {}


# What a worker can be asked for: functions from the bytes of a file, and other arguments.
JOBS: dict[str, Callable[..., Made]] = {"picture": _picture, "video": frames_in_this_process}


def work() -> None:
    """Answer requests from the standard input until it ends; this is all that a worker does."""
    if hasattr(os, "nice"):  # what takes long gives way to all that does not
        os.nice(10)
    receive, send = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    while line := receive.readline(HEADER):
        asked = json.loads(line)
        job, memory, seconds = (asked.pop(key) for key in ("what", "memory", "seconds"))
        data = receive.read(asked.pop("bytes"))
        _limit(memory + len(data), seconds)
        images: Sequence[Image.Image] = ()
        try:
            images, told = JOBS[job](data, **asked)
            answer: dict[str, Any] = {**told, "sizes": [image.size for image in images]}
        except MemoryError:
            answer = {"kind": "MemoryError", "error": ""}
        except Exception as error:
            answer = {"kind": type(error).__name__, "error": str(error)[:10_000]}
        del data
        _write(send, answer, images)
        del images
        trim()


def _write(send: IO[bytes], answer: dict[str, Any], images: Sequence[Image.Image]) -> None:
    with contextlib.suppress(BrokenPipeError):
        send.write(json.dumps(answer).encode() + b"\n")
        for image in images:
            rows = max(1, MIB // image.width)
            for top in range(0, image.height, rows):
                band = image.crop((0, top, image.width, min(top + rows, image.height)))
                send.write(band.tobytes())
        send.flush()


def _limit(memory: int, seconds: float) -> None:
    """Let this process have so much more memory, and run so long, on every processor that it uses.

    The main process ends it by the clock; this is for the case that the main process is killed.
    """
    if resource is None:
        return
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    most = int(used + 2 + seconds * (os.cpu_count() or 1))
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))
