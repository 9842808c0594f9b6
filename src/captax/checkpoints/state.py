"""Parameters as named tensors, and named tensors back into a model."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from captax.checkpoints.lazy import LazyTensor
from captax.errors import CheckpointError
from captax.models.layout import Layout

Model = TypeVar("Model", bound=nnx.Module)


def parameters(model: nnx.Module) -> dict[str, jax.Array]:
    """Every parameter by its path, as in `decoder.layers.0.mlp.up.kernel`."""
    return {_name(path): leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))}


def fill(
    model: Model,
    tensors: Mapping[str, Any],
    *,
    where: str,
    layout: Layout | None = None,
    dtype: str = "float32",
) -> Model:
    """A model built without values, with its parameters taken from `tensors`.

    `tensors` are arrays, or `LazyTensor`s that are read one at a time, named and shaped as `layout`
    says; values are cast to `dtype`. Raises `CheckpointError` that lists every missing, unexpected
    and misshapen tensor at once; `where` says in it what was being read.
    """
    layout = layout or Layout()
    graph, state = nnx.split(model)
    leaves = {_name(path): (path, leaf) for path, leaf in nnx.to_flat_state(state)}
    expected = {tensor.theirs: tensor for tensor in layout.tensors(leaves)}
    spelt = {layout.canonical(name): value for name, value in tensors.items()}
    for ignored in (None, *(tensor.counter for tensor in expected.values())):
        spelt.pop(ignored, None)

    problems = [f"missing {name}" for name in expected.keys() - spelt.keys()]
    problems += [f"unexpected {name}" for name in spelt.keys() - expected.keys()]
    for name in expected.keys() & spelt.keys():
        shapes = [tuple(leaves[ours][1].shape) for ours in expected[name].ours if ours in leaves]
        has, needs = tuple(spelt[name].shape), expected[name].rule.their_shape(shapes)
        if has != needs:
            problems.append(f"{name} is {has}, expected {needs}")
    if problems:
        raise CheckpointError(
            f"{where}: does not fit the model its config describes: {'; '.join(sorted(problems))}"
        )

    filled = []
    for name, tensor in expected.items():
        value = spelt[name].read() if isinstance(spelt[name], LazyTensor) else spelt[name]
        for ours, part in zip(tensor.ours, tensor.rule.to_ours(np.asarray(value)), strict=True):
            path, leaf = leaves[ours]
            filled.append((path, leaf.replace(jnp.asarray(part, dtype))))
    return nnx.merge(graph, nnx.from_flat_state(filled))


def export(
    model: nnx.Module, layout: Layout | None = None, *, dtype: str = "float32"
) -> dict[str, np.ndarray]:
    """The model's parameters as the tensors of a checkpoint, which `fill` takes."""
    ours = parameters(model)
    tensors = {}
    for tensor in (layout or Layout()).tensors(ours):
        parts = [np.asarray(ours[name].astype(dtype)) for name in tensor.ours]
        tensors[tensor.theirs] = np.ascontiguousarray(tensor.rule.to_theirs(parts))
        if tensor.counter is not None:
            tensors[tensor.counter] = np.zeros((), np.int64)
    return tensors


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
