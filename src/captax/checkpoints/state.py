"""Parameters as named tensors, and named tensors back into a model."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from captax.errors import CaptaxError

Model = TypeVar("Model", bound=nnx.Module)


class CheckpointError(CaptaxError):
    """A checkpoint cannot be read, or does not fit the model it is meant for."""


def parameters(model: nnx.Module) -> dict[str, jax.Array]:
    """Every parameter by its path, as in `decoder.layers.0.mlp.up.kernel`."""
    return {_name(path): leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))}


def fill(model: Model, tensors: Mapping[str, np.ndarray | jax.Array], *, where: str) -> Model:
    """A model built without values, with its parameters taken from `tensors`.

    Values are cast to the model's dtypes. Raises `CheckpointError` that lists every missing,
    unexpected and misshapen tensor at once; `where` says in it what was being read.
    """
    graph, state = nnx.split(model)
    wanted = {_name(path): leaf for path, leaf in nnx.to_flat_state(state)}
    problems = [f"missing {name}" for name in wanted.keys() - tensors.keys()]
    problems += [f"unexpected {name}" for name in tensors.keys() - wanted.keys()]
    problems += [
        f"{name} is {tuple(tensors[name].shape)}, expected {tuple(leaf.shape)}"
        for name, leaf in wanted.items()
        if name in tensors and tuple(tensors[name].shape) != tuple(leaf.shape)
    ]
    if problems:
        raise CheckpointError(
            f"{where}: does not fit the model its config describes: {'; '.join(sorted(problems))}"
        )
    filled = [
        (path, leaf.replace(jnp.asarray(tensors[_name(path)], leaf.dtype)))
        for path, leaf in nnx.to_flat_state(state)
    ]
    return nnx.merge(graph, nnx.from_flat_state(filled))


def _name(path: tuple[object, ...]) -> str:
    return ".".join(map(str, path))


def rebuilder(model: Model) -> Callable[[Mapping[str, jax.Array]], Model]:
    """A pure function from named parameters to a model like this one, for use under `jax.jit`."""
    graph, state = nnx.split(model)
    leaves = [(_name(path), path, leaf) for path, leaf in nnx.to_flat_state(state)]

    def rebuild(tensors: Mapping[str, jax.Array]) -> Model:
        flat = [(path, leaf.replace(tensors[name])) for name, path, leaf in leaves]
        return nnx.merge(graph, nnx.from_flat_state(flat))

    return rebuild
