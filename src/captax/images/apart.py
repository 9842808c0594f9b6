"""Decodes pictures in processes of their own, which can be ended.

A decoder that runs in a thread cannot be stopped. So a picture whose decoding may take long is
decoded by a worker process with a limit of memory and time. A worker that exceeds them is killed,
and the next such picture gets a new one. Workers import no JAX, start in about 0.2 s and are kept.
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
    """A worker did not decode the picture.

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

    `asked` are its other arguments. The worker may have `memory` bytes and `seconds`.

    Raises:
        Failed: it cannot be decoded, or not within the limits.
        NotWanted: `gone` became true, or the program is ending.
    """
    worker = _take()
    try:
        image = worker.decode(data, {**asked, "memory": memory, "seconds": seconds}, seconds, gone)
    except BaseException as error:
        if not isinstance(error, Failed) or error.kind == "ended":
            worker.kill()
        raise
    finally:
        _give(worker)
    return image


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
    """A process that decodes one picture after the other."""

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
    ) -> Image.Image:
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

    def _exchange(self, data: bytes, asked: dict[str, Any]) -> Image.Image:
        send, receive = self.process.stdin, self.process.stdout
        assert send is not None and receive is not None
        send.write(json.dumps({**asked, "bytes": len(data)}).encode() + b"\n")
        send.write(data)
        send.flush()
        answer = json.loads(receive.readline(HEADER))
        if "error" in answer:
            raise Failed(str(answer["kind"]), str(answer["error"]))
        width, height = int(answer["width"]), int(answer["height"])
        pixels = receive.read(3 * width * height)
        if len(pixels) < 3 * width * height:
            raise ValueError
        return Image.frombytes("RGB", (width, height), pixels)
