"""The memory of all pictures that are decoded at once."""

import contextlib
import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from captax.errors import CaptaxError

MIB = 1 << 20
# Decoding may take this for each pixel that is allowed, and a little for the rest.
PIXEL_BYTES = 26
FIXED_BYTES = 64 * MIB
# Decoding that takes less waits for nothing: a phone's photo, decoded at a smaller size.
SMALL_BYTES = 128 * MIB


class NotWanted(CaptaxError):
    """Nobody waits for the picture any more."""


def never() -> bool:
    """The usual answer to whether a picture is not wanted any more."""
    return False


def most_memory(max_pixels: int) -> int:
    """The most bytes that one picture may take while it is decoded."""
    return PIXEL_BYTES * max_pixels + FIXED_BYTES


def ended(gone: Callable[[], bool]) -> bool:
    """Whether to stop waiting: nobody wants the picture, or the program is ending."""
    return gone() or not threading.main_thread().is_alive()


def _room() -> int:
    """A quarter of the memory that this process may have, and at least 1 GiB."""
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        whole = 0
    with contextlib.suppress(OSError, ValueError):  # of the container, where there is one
        whole = min(whole, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return max(1024 * MIB, whole // 4)


_ROOM = _room()
_changed = threading.Condition()
_taken = 0


@contextlib.contextmanager
def room(size: int, gone: Callable[[], bool]) -> Iterator[None]:
    """Wait until `size` bytes fit beside the pictures that are being decoded; then take them.

    A picture that is larger than all room is decoded while no other large one is.

    Raises:
        NotWanted: `gone` became true, or the program is ending.
    """
    global _taken
    if size <= SMALL_BYTES:
        yield
        return
    with _changed:
        while _taken and _taken + size > _ROOM:
            if ended(gone):
                raise NotWanted("nobody waits for this picture any more")
            _changed.wait(0.1)
        _taken += size
    try:
        yield
    finally:
        trim()
        with _changed:
            _taken -= size
            _changed.notify_all()


def wait(until: float, gone: Callable[[], bool], done: threading.Event) -> bool:
    """Wait until `done`; false if `until` passed first, or there is no reason to wait any more."""
    while not done.wait(0.05):
        if time.monotonic() > until or ended(gone):
            return False
    return True


def trim() -> None:
    """Give freed memory back to the system; glibc keeps blocks of up to 32 MiB for later."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
