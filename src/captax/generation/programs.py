"""Few compiled programs for many calls: batch sizes, padding, seeds, what is kept."""

import contextlib
import contextvars
import dataclasses
import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from captax.compilation import refuse_fork
from captax.generation.decoding import GenerationError
from captax.generation.loop import Prompts
from captax.models.encoders import check_positions
from captax.models.prompt import Prompt

# Each size has a compiled program; a smaller batch is padded to the next size.
BATCH_SIZES = (1, 8, 32)
# How many programs are kept for each device: clients of a server may ask for any number of
# decoding options.
KEPT_PROGRAMS = 16
# New tokens that the first cache of a text has room for; every further one has twice the room of
# the one before it.
FIRST_ROOM = 128
PATIENCE = 2.0  # seconds that work may take without a word
# Prompts are padded to one of these lengths, or to eighths of a power of two.
PROMPT_LENGTHS = (1, 8, 32, 64, 128, 256)
# Captions that are read, and not written, are padded to this length or to powers of two.
CAPTION_LENGTH = 16

_compiling: list[float] = []  # seconds that each program took

_not_here: contextvars.ContextVar[bool] = contextvars.ContextVar("not_here", default=False)


@contextlib.contextmanager
def compiling_elsewhere() -> Iterator[None]:
    """Compile nothing inside: raise `NotCompiled` for a program that has not been compiled yet."""
    token = _not_here.set(True)
    try:
        yield
    finally:
        _not_here.reset(token)


def seconds_compiling() -> float:
    """Seconds for which calls in this process have waited for programs to be compiled."""
    return sum(_compiling)


_tell: contextvars.ContextVar[tuple[Callable[[], None], float] | None] = contextvars.ContextVar(
    "tell", default=None
)


@contextlib.contextmanager
def telling(tell: Callable[[], None], *, after: float = 0.0) -> Iterator[None]:
    """Call `tell` for each compilation inside, so that nobody waits without a word.

    It is called at once, or in another thread if the compilation takes longer than `after` seconds.
    """
    token = _tell.set((tell, after))
    try:
        yield
    finally:
        _tell.reset(token)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Tell of the compilation in the block, if somebody wants to know."""
    tell, after = _tell.get() or (lambda: None, 0)
    if not after:
        tell()
        yield
        return
    timer = threading.Timer(after, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class NotCompiled(Exception):
    """A program is needed that has not been compiled; `compile` compiles and keeps it.

    Programs with equal `key`s are the same. `compile` takes options of XLA.
    """

    def __init__(self, key: Hashable, compile: Callable[..., Any]):
        super().__init__("a program has not been compiled yet")
        self.key, self.compile = key, compile


def here_only(key: Hashable, compile: Callable[..., Any]) -> None:
    """Raise `NotCompiled` where nothing that takes long may be made."""
    if _not_here.get():
        raise NotCompiled(key, compile)


class Programs:
    """Compiled programs by what they depend on; the least recently used one goes first.

    They are compiled ahead of their calls and held only here, so the memory of a program that goes
    is free again.
    """

    def __init__(self) -> None:
        refuse_fork()
        self._kept: dict[Hashable, Callable[..., Any]] = {}
        self._pinned: frozenset[Hashable] = frozenset()
        self._most = KEPT_PROGRAMS
        self._changing = threading.Lock()
        self._in_order = threading.Lock()
        self._locks: dict[Hashable, tuple[threading.Lock, int]] = {}

    def run(
        self,
        name: Hashable,
        make: Callable[[], Callable[..., Any]],
        *arguments: Any,
        spent: Any = None,
    ) -> Any:
        """The result of a program for `arguments`, which are pytrees.

        `make` makes the function to compile, if no program is kept for `name` and for arguments of
        these shapes. Numbers among the arguments may differ between calls. What is `spent` is the
        last argument if it is given, and its memory becomes the result's.
        """
        refuse_fork()
        leaves, structure = jax.tree.flatten(arguments)
        leaves = [_array(leaf) for leaf in leaves]
        gone, structure_of_gone = jax.tree.flatten(spent)
        shapes = tuple(map(_shape, leaves)), tuple(map(_shape, gone))
        key = (name, structure, structure_of_gone, shapes)
        program = self._find(key)
        if program is None:

            def compile(options: dict[str, Any] | None = None) -> Callable[..., Any]:
                with self._alone(key):
                    return self._find(key) or made(options)

            def made(options: dict[str, Any] | None) -> Callable[..., Any]:
                function = make()

                # Leaves alone, for classes check what they are made of, and JAX would make some of
                # descriptions.
                def flat(leaves: list[Any], gone: list[Any]) -> Any:
                    last = [] if spent is None else [jax.tree.unflatten(structure_of_gone, gone)]
                    return function(*jax.tree.unflatten(structure, leaves), *last)

                jitted = jax.jit(flat, donate_argnums=1)
                program = jitted.lower(leaves, gone).compile(options)
                self._keep(key, program)
                return program

            here_only(key, compile)
            started = time.perf_counter()
            with _told():
                program = compile()
            _compiling.append(time.perf_counter() - started)
        # Devices that compute together must get their programs in the same order.
        together = any(len(_devices(leaf)) > 1 for leaf in leaves)
        with self._in_order if together else contextlib.nullcontext():
            return program(leaves, gone)

    def serve(self, replicas: int) -> None:
        """Keep as many programs for each of several replicas as for one."""
        self._most = KEPT_PROGRAMS * replicas

    def pin(self) -> None:
        """Never forget the programs that are kept now."""
        self._pinned = frozenset(self._kept)

    @contextlib.contextmanager
    def _alone(self, key: Hashable) -> Iterator[None]:
        """Inside, no other thread compiles the program of this key."""
        with self._changing:
            lock, count = self._locks.get(key, (threading.Lock(), 0))
            self._locks[key] = lock, count + 1
        try:
            with lock:
                yield
        finally:
            with self._changing:
                lock, count = self._locks.pop(key)
                if count > 1:
                    self._locks[key] = lock, count - 1

    def _find(self, key: Hashable) -> Callable[..., Any] | None:
        with self._changing:
            program = self._kept.pop(key, None)
            if program is not None:
                # Put back, so that the least recently used one comes first.
                self._kept[key] = program
            return program

    def _keep(self, key: Hashable, program: Callable[..., Any]) -> None:
        with self._changing:
            self._kept[key] = program
            others = [each for each in self._kept if each not in self._pinned]
            for each in others[: max(0, len(others) - self._most)]:
                del self._kept[each]


def _array(leaf: Any) -> Any:
    """A leaf as an array; numbers have 32 bits."""
    if isinstance(leaf, bool | float | int):
        return np.asarray(leaf, {bool: np.bool_, int: np.int32}.get(type(leaf), np.float32))
    return leaf


def _shape(leaf: Any) -> Hashable:
    return leaf.shape, leaf.dtype, getattr(leaf, "sharding", None)


def _devices(leaf: Any) -> Collection[jax.Device]:
    sharding = getattr(leaf, "sharding", None)
    return () if sharding is None else sharding.device_set


def padded(size: int, batch_size: int) -> int:
    """The number of rows that a batch of `size` is padded to."""
    return min(each for each in (*BATCH_SIZES, batch_size) if each >= size)


def rooms(new_tokens: int) -> list[int]:
    """For how many new tokens the caches of a text have room, one after the other."""
    found = [FIRST_ROOM]
    while found[-1] < new_tokens:
        found.append(2 * found[-1])
    return [*found[:-1], new_tokens]


def padded_length(longest: int, shortest: int, most: int) -> int:
    """The number of tokens that texts are padded to: `shortest` or, beyond it, a power of two."""
    if longest <= shortest:
        return min(shortest, most)
    return min(1 << (longest - 1).bit_length(), most)


def seeds_of(seed: int | Sequence[int], places: Sequence[int]) -> list[tuple[int, int]]:
    """Two seeds for each input: the seed and its place, or its own of several seeds and 0."""
    if isinstance(seed, int):
        return [(seed, place) for place in places]
    if places and max(places) >= len(seed):
        raise GenerationError(
            f"there are more inputs than seeds ({len(seed)}); give one seed for each"
        )
    return [(seed[place], 0) for place in places]


class Begun(list[int]):
    """The tokens that a decoder begins with, where an encoder reads the `question`.

    It reads at most `room` tokens.
    """

    def __init__(self, tokens: Iterable[int], question: Sequence[int], room: int):
        super().__init__(tokens)
        self.question, self.room = question, room


class Filled(list[int]):
    """The tokens of a prompt with pictures of `places` tokens, which are filled up to `room`."""

    def __init__(self, tokens: Iterable[int], places: int, room: int):
        super().__init__(tokens)
        self.places, self.room = places, room


def fill_prompts(prompts: Sequence[Sequence[int]], rows: int, *, max_positions: int) -> Prompt:
    """Prompts for the device, padded to one of a few lengths and to so many rows.

    The last prompt stands in the rows that are left. If one is `Begun`, all of them are.
    """
    filled = _filled(prompts, rows, max_positions)
    begun = [prompt for prompt in prompts if isinstance(prompt, Begun)]
    if not begun:
        return filled
    questions = _filled([each.question for each in begun], rows, begun[0].room)
    return dataclasses.replace(filled, question=questions)


def _filled(prompts: Sequence[Sequence[int]], rows: int, most: int) -> Prompt:
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    longest = int(lengths.max())
    # Pictures of several sizes are filled up apart from the words, so that few programs serve all.
    shown = [prompt for prompt in prompts if isinstance(prompt, Filled)]
    room = max((prompt.room for prompt in shown), default=0)
    words = max(len(prompt) - prompt.places for prompt in shown) if shown else longest
    time = next((size for size in PROMPT_LENGTHS if words <= size), 0)
    if not time:
        # Pictures can be a thousand tokens: at most a fifth is padding.
        step = 1 << ((words - 1).bit_length() - 3)
        time = -(-words // step) * step
    time += room
    tokens = np.zeros((rows, max(longest, min(time, most))), np.int32)
    for row in range(rows):
        prompt = prompts[min(row, len(prompts) - 1)]
        tokens[row, : len(prompt)] = prompt
    return Prompt(tokens, np.pad(lengths, (0, rows - len(prompts)), "edge"))


def with_limits(
    prompt: Prompt, limits: Int[np.ndarray, " real"], *, usual: int, max_positions: int
) -> Prompts:
    """Prompts with the largest numbers of new tokens, and room for a few numbers of them.

    A handful of compiled programs serves them all: `usual`, the limit of the default options, is
    not rounded up. Raises `LengthError` if a prompt and its new tokens are more than
    `max_positions`.
    """
    assert prompt.lengths is not None
    limits = np.pad(limits, (0, len(prompt.tokens) - len(limits)), "edge").astype(np.int32)
    # The last token is never read.
    check_positions(int((prompt.lengths + limits).max()) - 1, max_positions)
    return Prompts(prompt, limits, padded_length(int(limits.max()), usual, max_positions))
