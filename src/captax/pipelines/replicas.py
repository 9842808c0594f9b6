"""A model's weights on several devices: whole on each, or divided between some of them.

A replica is one copy of the weights. Each takes a batch whenever it is free and computes it without
a word from the others, so a text has the same tokens as on one device. If a replica is divided,
each of its devices computes a part of every product (Megatron-LM, arXiv:1909.08053, section 3), and
XLA adds the messages between them.
"""

import contextlib
import contextvars
import functools
import queue
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from captax.checkpoints.state import parameters, set_parameters
from captax.errors import OptionError
from captax.generation.programs import Programs

ALL = "all"
# Batches that a replica has at a time: one is made ready while the other is computed.
EACH = 2
_AXIS = "parts"
# Kernels are `[width_out width_in]`. The first product of attention and of an MLP is divided by
# what comes out of it, and the second by what goes in, so both together need one message.
_BY_OUTPUT = re.compile(
    r"(.*\.)?((query|key|value|up|gate|head)\.(kernel|bias)|embedding|words)", re.ASCII
)
_BY_INPUT = re.compile(r".*\.(out|down)\.kernel", re.ASCII)
_OF_HEADS = re.compile(r"(.*)\.(query|key|value|out)\.(kernel|bias)", re.ASCII)


# The replica that this thread computes on, if it was said.
_mine: contextvars.ContextVar[int | None] = contextvars.ContextVar("mine", default=None)


@contextlib.contextmanager
def on_replica(place: int) -> Iterator[None]:
    """Compute on this replica inside, the first of which is 0, and on no other."""
    token = _mine.set(place)
    try:
        yield
    finally:
        _mine.reset(token)


class Replicas:
    """The weights of a model on groups of devices, one replica on each group."""

    def __init__(self, groups: Sequence[Sequence[jax.Device]] = ()):
        """Without `groups`, the weights stay where they are."""
        self._groups = [tuple(group) for group in groups]
        self._held: list[dict[str, Any]] = [{}]
        self._heads: dict[str, tuple[int, int]] = {}
        self._changing = threading.Lock()

    def __len__(self) -> int:
        """How many replicas there are."""
        return max(1, len(self._groups))

    def place(self, model: nnx.Module) -> None:
        """Move the model's own weights to the first replica.

        Raises `OptionError` if the devices of a replica would each hold all of them.
        """
        self._heads = _heads(model)
        own, parts = parameters(model), len(self._groups[0])
        if parts > 1 and not any(
            any(self._division(name, each.shape, parts)) for name, each in own.items()
        ):
            raise OptionError(
                f"`tensor_parallel` is {parts}, and no matrix of this model can be divided so; "
                "give a number that divides its attention heads, or leave it out"
            )
        set_parameters(model, self._on(self._groups[0], own))

    def weights(self, model: nnx.Module) -> dict[str, Any]:
        """The model's present weights by name, on the replica of this thread."""
        own = parameters(model)
        if len(self) == 1:
            return own
        with self._changing:
            if any(self._held[0].get(name) is not value for name, value in own.items()):
                self._held = [own, *(self._on(group, own) for group in self._groups[1:])]
            return self._held[_mine.get() or 0]

    def _on(self, group: Sequence[jax.Device], weights: dict[str, Any]) -> dict[str, Any]:
        """Weights on one device, or divided between several."""
        if len(group) == 1:
            return jax.device_put(weights, SingleDeviceSharding(group[0]))
        mesh = Mesh(np.array(group), (_AXIS,))

        def divided(name: str, x: Any) -> Any:
            return jax.device_put(x, NamedSharding(mesh, self._division(name, x.shape, len(group))))

        return {
            name: jax.tree.map(lambda x, name=name: divided(name, x), value)
            for name, value in weights.items()
        }

    def _division(self, name: str, shape: tuple[int, ...], count: int) -> PartitionSpec:
        """Along which axis a tensor is divided; along none if that is not even."""
        axis = 1 if _BY_INPUT.fullmatch(name) else 0 if _BY_OUTPUT.fullmatch(name) else None
        if axis is None or axis >= len(shape) or shape[axis] % count:
            return PartitionSpec()
        if of_heads := _OF_HEADS.fullmatch(name):
            # A head is whole: its parts would have to meet again at every token.
            heads, kv_heads = self._heads.get(of_heads[1], (count, count))
            heads = kv_heads if of_heads[2] in ("key", "value") else heads
            if heads % count:
                return PartitionSpec()
        return PartitionSpec(*[None] * axis, _AXIS)


class Replicated:
    """A pipeline whose model may lie on several devices."""

    model: Any
    _programs: Programs
    _replicas = Replicas()

    @property
    def at_once(self) -> int:
        """How many batches are computed at once."""
        return len(self._replicas)

    def replicate(self, devices: int | str | None = ALL, tensor_parallel: int = 1) -> None:
        """Compute on so many of this process's devices, on `"all"`, or on as many as needed.

        Each batch is computed by `tensor_parallel` devices, which divide the weights, and as many
        batches are computed at once as there are such groups. Raises `OptionError` if there are too
        few devices, or if they or the weights cannot be divided so.
        """
        there = jax.local_devices()
        count = tensor_parallel if devices is None else len(there) if devices == ALL else devices
        if not isinstance(count, int) or count < 1:
            raise OptionError(f"`devices` is {devices!r}; give a number from 1, or {ALL!r}")
        if count > len(there):
            raise OptionError(
                f"`devices` is {count}, and there are only {len(there)} of the kind "
                f"{there[0].platform}; give that many at most"
            )
        if tensor_parallel < 1 or count % tensor_parallel:
            raise OptionError(
                f"`tensor_parallel` is {tensor_parallel}, which does not divide `devices`, {count}"
            )
        groups = [there[i : i + tensor_parallel] for i in range(0, count, tensor_parallel)]
        replicas = Replicas(groups)
        replicas.place(self.model)
        self._replicas = replicas
        self._programs.serve(self.at_once)

    def _weights(self) -> dict[str, Any]:
        """The weights for the next program, by name."""
        return self._replicas.weights(self.model)


@contextlib.contextmanager
def started(at_once: int) -> Iterator[Callable[..., Callable[[], Any]]]:
    """A function that starts `compute(*arguments)`, and returns what waits for its result.

    With several batches at once, threads start them, each on its replica: they may wait for the
    device, which only knows the length of a long text at its end. The results are NumPy arrays.
    When the block is left, it waits for what is still running, except after Ctrl-C.
    """
    if at_once == 1 or _mine.get() is not None:

        def start(compute: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
            result = compute(*arguments)
            return lambda: jax.device_get(result)

        yield start
        return
    free: queue.SimpleQueue[int] = queue.SimpleQueue()
    tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
    left = threading.Event()

    def work() -> None:
        while (task := tasks.get()) is not None:
            if not left.is_set():
                task()

    def submit(compute: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
        found: Future[Any] = Future()

        def task() -> None:
            place = free.get()
            try:
                with on_replica(place):
                    found.set_result(jax.device_get(compute(*arguments)))
            except BaseException as error:
                found.set_exception(error)
            finally:
                free.put(place)

        tasks.put(functools.partial(contextvars.copy_context().run, task))
        return found.result

    # Python waits for no daemon at its end.
    threads = [
        threading.Thread(target=work, name=f"captax-replica-{each}", daemon=True)
        for each in range(EACH * at_once)
    ]
    for each, thread in enumerate(threads):
        free.put(each % at_once)
        thread.start()
    hurried = False
    try:
        yield submit
    except KeyboardInterrupt:
        hurried = True
        raise
    finally:
        left.set()
        for _ in threads:
            tasks.put(None)
        # A daemon inside JAX at Python's end would abort the process.
        for thread in () if hurried else threads:
            thread.join()


def in_host_memory() -> contextlib.AbstractContextManager[Any]:
    """Inside, arrays are made in the host's memory, for a model may be too large for one device."""
    with contextlib.suppress(RuntimeError):  # JAX_PLATFORMS may leave the CPU out
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    return contextlib.nullcontext()


def _heads(model: nnx.Module) -> dict[str, tuple[int, int]]:
    """The heads of each attention, and those of its keys and values, by its path."""
    found: dict[str, tuple[int, int]] = {}
    for path, module in nnx.iter_modules(model):
        heads = getattr(module, "heads", None)
        if isinstance(heads, int):
            found[".".join(map(str, path))] = heads, getattr(module, "kv_heads", heads)
    return found
