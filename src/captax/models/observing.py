"""What a model computes on its way to an answer, handed out on request.

>>> logits, seen = observe(model, pixels, tokens)
>>> seen["decoder.cross_attentions"][0].shape
(batch, heads, time, patches)
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

import jax

T = TypeVar("T")
Observed = dict[str, list[jax.Array]]

_observed: ContextVar[Observed | None] = ContextVar("observed", default=None)
_scope: ContextVar[str] = ContextVar("scope", default="")


def observe(function: Callable[..., T], *args: Any, **kwargs: Any) -> tuple[T, Observed]:
    """`function(*args, **kwargs)`, and by name what was recorded meanwhile, layer by layer.

    Names are those of transformers' outputs: `hidden_states` (before every layer and after the
    last) and `attentions`, `[batch heads time places]`. In a captioner the name of the half comes
    first: `encoder.hidden_states`, `decoder.attentions`, `decoder.cross_attentions` and so on.
    To compile it, put the whole call inside `jax.jit`; values inside a function that is
    already jitted are not seen.
    """
    seen: Observed = {}
    token = _observed.set(seen)
    try:
        return function(*args, **kwargs), seen
    finally:
        _observed.reset(token)


def observing() -> bool:
    """Whether a call of `observe` asked for what is recorded."""
    return _observed.get() is not None


def record(name: str, value: jax.Array) -> jax.Array:
    """Give `value` to the call of `observe` around this, if there is one, and return it."""
    seen = _observed.get()
    if seen is not None:
        seen.setdefault(_scope.get() + name, []).append(value)
    return value


@contextlib.contextmanager
def scope(name: str) -> Iterator[None]:
    """Record under `name.` inside the block."""
    token = _scope.set(f"{_scope.get()}{name}.")
    try:
        yield
    finally:
        _scope.reset(token)
