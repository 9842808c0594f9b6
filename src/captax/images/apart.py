"""Decodes pictures and videos in processes of their own, which can be ended.

A decoder that runs in a thread cannot be stopped. So a picture whose decoding may take long is
decoded by a worker process with a limit of memory and time, and so is every video. A worker that
exceeds them is killed, and the next such file gets a new one. Workers import no JAX, start in about
0.2 s and are kept.
"""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from PIL import Image

from captax.images.budget import NotWanted, wait

KEPT = 4
_idle: list["_Worker"] = []
_lock = threading.Lock()
HEADER = 64 * 1024


class Failed(Exception):
    """A worker did not decode the file.

    Attributes:
        kind: the name of the exception that the worker had, or "ended" for a worker that died.
    """

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


def decode_apart(
    data: bytes, asked: dict[str, Any], *, memory: int, seconds: float, gone: Callable[[], bool]
) -> Image.Image:
    """The picture that `captax.images.decode.in_this_process` makes of `data`, made in a worker.

    `asked` are its other arguments; for the rest, see `ask_apart`.
    """
    [image], _ = ask_apart("picture", data, asked, memory=memory, seconds=seconds, gone=gone)
    return image


def ask_apart(
    what: str,
    data: bytes,
    asked: dict[str, Any],
    *,
    memory: int,
    seconds: float,
    gone: Callable[[], bool],
) -> tuple[list[Image.Image], dict[str, Any]]:
    """What a worker makes of `data`: pictures, and what it tells of them.

    `what` names its function (`captax.images.worker.JOBS`), and `asked` are the other arguments of
    that. The worker may have `memory` bytes and `seconds`.

    Raises:
        Failed: it cannot be decoded, or not within the limits.
        NotWanted: `gone` became true, or the program is ending.
    """
    worker = _take()
    limits = {"what": what, "memory": memory, "seconds": seconds}
    try:
        made = worker.decode(data, {**asked, **limits}, seconds, gone)
    except BaseException as error:
        if not isinstance(error, Failed) or error.kind == "ended":
            worker.kill()
        raise
    finally:
        _give(worker)
    return made


def _take() -> "_Worker":
    with _lock:
        while _idle:
            worker = _idle.pop()
            if worker.process.poll() is None:
                return worker
            worker.kill()
    return _Worker()


def _give(worker: "_Worker") -> None:
    if worker.process.poll() is None:
        with _lock:
            if len(_idle) < KEPT:
                _idle.append(worker)
                return
    worker.kill()


def stop() -> None:
    """End the workers that have no picture to decode."""
    while _idle:
        _idle.pop().kill()


def _forget() -> None:
    """A forked process leaves the workers to its parent."""
    global _lock
    _lock = threading.Lock()
    _idle.clear()


atexit.register(stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class _Worker:
    """A process that decodes one file after the other."""

    def __init__(self) -> None:
        # Isolated: a folder of pictures may have modules in it too.
        code = (
            f"import sys; sys.path[:] = {sys.path!r}\nfrom captax.images.worker import work\nwork()"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the main process, which ends this one
            # Arenas reserve addresses, which are limited; one is enough.
            env={**os.environ, "MALLOC_ARENA_MAX": "1"},
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()

    def decode(
        self, data: bytes, asked: dict[str, Any], seconds: float, gone: Callable[[], bool]
    ) -> tuple[list[Image.Image], dict[str, Any]]:
        until, done, stopped = time.monotonic() + seconds, threading.Event(), threading.Event()

        def watch() -> None:
            if not wait(until, gone, done):
                stopped.set()
                self.process.kill()

        watching = threading.Thread(target=watch, name="captax-watch", daemon=True)
        watching.start()
        try:
            return self._exchange(data, asked)
        except (OSError, ValueError):
            if stopped.is_set() and time.monotonic() < until:
                raise NotWanted("nobody waits for this picture any more") from None
            if stopped.is_set():
                raise Failed("ended", f"decoding it took more than {seconds:g} s") from None
            code = self.process.wait()
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise Failed("ended", f"its decoder ended with {how}") from None
        finally:
            done.set()
            watching.join()

    def _exchange(
        self, data: bytes, asked: dict[str, Any]
    ) -> tuple[list[Image.Image], dict[str, Any]]:
        send, receive = self.process.stdin, self.process.stdout
        assert send is not None and receive is not None
        send.write(json.dumps({**asked, "bytes": len(data)}).encode() + b"\n")
        send.write(data)
        send.flush()
        answer = json.loads(receive.readline(HEADER))
        if "error" in answer:
            raise Failed(str(answer["kind"]), str(answer["error"]))
        images = []
        for width, height in answer.pop("sizes"):
            pixels = receive.read(3 * width * height)
            if len(pixels) < 3 * width * height:
                raise ValueError
            images.append(Image.frombytes("RGB", (width, height), pixels))
        return images, answer
