"""Takes the named tensors of a model, and fills a model from named tensors."""

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from captax.checkpoints.lazy import LazyTensor, transposed
from captax.errors import CheckpointError
from captax.models.layout import Layout, Tensor, joined_shape
from captax.models.modules import linear_kernels
from captax.models.quantised import QUANTISED, fits, quantise

DTYPES = ("float32", "float16", "bfloat16")
# Parameters that models only look rows up in, or multiply by: they can be `Quantised`.
_TABLES = ("embedding", "words")
AUTO = "auto"  # where a checkpoint is loaded: the type that it has
_ALIGNMENT = 64  # bytes, of the memory that XLA:CPU does not copy
Model = TypeVar("Model", bound=nnx.Module)


def parameters(model: nnx.Module) -> dict[str, Any]:
    """Every parameter by its path, as in `decoder.layers.0.mlp.up.kernel`.

    It is an array, or `Quantised`.
    """
    return {_name(path): leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))}


def set_parameters(model: nnx.Module, values: Mapping[str, Any]) -> None:
    """Give a model the values of all its parameters, by their paths."""
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    nnx.update(
        model,
        nnx.from_flat_state([(path, leaf.replace(values[_name(path)])) for path, leaf in flat]),
    )


def weights_digest(*models: Any) -> str:
    """16 hexadecimal digits that change when a weight or a statistic of `models` does."""
    digest = hashlib.blake2b(digest_size=8)
    for leaf in jax.tree.leaves([nnx.state(model) for model in models]):
        digest.update(np.asarray(leaf).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def fill(
    model: Model,
    tensors: Mapping[str, Any],
    *,
    where: str,
    layout: Layout | None = None,
    dtype: str = "float32",
    optional: str | None = None,
    quantised: str | None = None,
) -> Model:
    """The model with parameters from `tensors`; it may have been built without values.

    `tensors` are arrays, or `LazyTensor`s that are read one at a time; `layout` says their names
    and shapes. Values are cast to `dtype`, and matrices of products are `quantised`, as in "int8",
    one at a time. A tensor whose name in `tensors` matches `optional` may
    be missing, and the model then keeps its own value, or may be unexpected, and is then ignored.
    Raises `CheckpointError`, which lists every missing, unexpected and misshapen tensor at once and
    begins with `where`, the place that was read.
    """
    check_dtype(dtype)
    graph, state = nnx.split(model)
    leaves = {_name(path): (path, leaf) for path, leaf in nnx.to_flat_state(state)}
    expected, spelt = _matched(leaves, tensors, where, layout or Layout(), optional)
    narrow = _quantisable(model) if quantised else set()
    filled = []
    for name, tensor in expected.items():
        if name not in spelt:
            kept = [leaves[ours] for ours in tensor.ours]
            filled += [(path, leaf.replace(leaf[...].astype(dtype))) for path, leaf in kept]
            continue
        parts = _parts(spelt[name], tensor, [leaves[ours][1].shape for ours in tensor.ours], dtype)
        for ours, part in zip(tensor.ours, parts, strict=True):
            path, leaf = leaves[ours]
            value: Any = part
            if quantised and ours in narrow and fits(part.shape):
                value = quantise(part, QUANTISED[quantised], dtype)
            else:
                value = jnp.asarray(part, dtype)
            filled.append((path, leaf.replace(value)))
    return nnx.merge(graph, nnx.from_flat_state(filled))


def _quantisable(model: nnx.Module) -> set[str]:
    """Names of the parameters that may be quantised."""
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return linear_kernels(model) | {_name(path) for path, _ in flat if path[-1] in _TABLES}


def _parts(
    value: Any, tensor: Tensor, shapes: list[tuple[int, ...]], dtype: str
) -> list[np.ndarray]:
    """A checkpoint's tensor as parameters of these shapes.

    A lazy one is read straight into the memory that the parameters will have, in their type and
    order, so that there is never a second copy of it.
    """
    rule = tensor.rule
    if not isinstance(value, LazyTensor):
        return rule.to_ours(np.asarray(value))
    whole = _aligned(joined_shape(shapes), dtype)
    value.read_into(rule.to_theirs([whole]))
    return [whole] if len(shapes) == 1 else np.split(whole, len(shapes))


def _aligned(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An array whose memory JAX can take as it is on a CPU."""
    kind = jnp.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    begin = -raw.ctypes.data % _ALIGNMENT
    return raw[begin : begin + size].view(kind).reshape(shape)


def check_fit(
    model: nnx.Module,
    tensors: Mapping[str, Any],
    *,
    where: str,
    layout: Layout | None = None,
    optional: str | None = None,
) -> None:
    """Raise the error that `fill` would raise; `model` may have been built without values."""
    leaves = {_name(path): (path, leaf) for path, leaf in nnx.to_flat_state(nnx.state(model))}
    _matched(leaves, tensors, where, layout or Layout(), optional)


def _matched(
    leaves: Mapping[str, tuple[Any, Any]],
    tensors: Mapping[str, Any],
    where: str,
    layout: Layout,
    optional: str | None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors that a model expects, and those that it was given, by name in a checkpoint."""
    expected = {tensor.theirs: tensor for tensor in layout.tensors(leaves)}
    counters = {tensor.counter for tensor in expected.values()}
    spelt = {}
    for name, value in tensors.items():
        spelling = layout.canonical(name)
        if spelling is not None and spelling not in counters:
            spelt[spelling] = transposed(value) if name in layout.transposed else value

    def needed(name: str) -> bool:
        return optional is None or not re.search(optional, name)

    problems = [f"missing {n}" for n in expected.keys() - spelt.keys() if needed(n)]
    problems += [f"unexpected {n}" for n in spelt.keys() - expected.keys() if needed(n)]
    for name in expected.keys() & spelt.keys():
        shapes = [tuple(leaves[ours][1].shape) for ours in expected[name].ours if ours in leaves]
        has, needs = tuple(spelt[name].shape), expected[name].rule.their_shape(shapes)
        if has != needs:
            problems.append(f"{name} is {has}, expected {needs}")
    if problems:
        raise CheckpointError(
            f"{where}: does not fit the model its config describes: {'; '.join(sorted(problems))}"
        )
    return expected, spelt


def own_dtype(named: Any, held: Mapping[str, int]) -> str:
    """The dtype for weights that keep the type of their checkpoint.

    It is `named`, what a config says, or else the type that most values have; `held` has their
    numbers by type. captax computes in `DTYPES` only: float64 becomes float32, and an 8-bit type
    bfloat16, which has all of its values.
    """
    for name in (named, *sorted(held, key=lambda name: -held[name])):
        if name in DTYPES:
            return name
        if isinstance(name, str) and name.startswith("float"):
            return "bfloat16" if name.startswith("float8") else "float32"
    return "float32"


def types_for(asked: str, own: Callable[[], str]) -> dict[str, Any]:
    """The `dtype` and `quantised` of `fill` for a type that was asked for.

    `own` gives the checkpoint's, which all that is not quantised keeps.
    """
    quantised = asked if asked in QUANTISED else None
    return {"dtype": own() if asked == AUTO or quantised else asked, "quantised": quantised}


def check_dtype(name: str) -> None:
    """Raise `CheckpointError` unless `name` is a dtype that weights can have."""
    if name not in DTYPES:
        raise CheckpointError(f"dtype {name!r} is not supported; give {', '.join(DTYPES)}")


def export(
    model: nnx.Module, layout: Layout | None = None, *, dtype: str = "float32"
) -> dict[str, np.ndarray]:
    """The model's parameters as the tensors of a checkpoint, which `fill` takes."""
    check_dtype(dtype)
    ours = parameters(model)
    tensors = {}
    for tensor in (layout or Layout()).tensors(ours):
        parts = [np.asarray(ours[name].astype(dtype)) for name in tensor.ours]
        tensors[tensor.theirs] = np.asarray(tensor.rule.to_theirs(parts), order="C")
        if tensor.counter is not None:
            tensors[tensor.counter] = np.zeros((), np.int64)
    return tensors


def _name(path: tuple[object, ...]) -> str:
    return ".".join(map(str, path))


def rebuilder(model: Model) -> Callable[[Mapping[str, Any]], Model]:
    """A pure function from named parameters to a model like this one, for use under `jax.jit`."""
    graph, state = nnx.split(model)
    # Only shapes are kept, so that the memory of the model's present values can be freed.
    leaves = [
        (_name(path), path, leaf.replace(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)))
        for path, leaf in nnx.to_flat_state(state)
    ]

    def rebuild(tensors: Mapping[str, Any]) -> Model:
        flat = [(path, leaf.replace(tensors[name])) for name, path, leaf in leaves]
        return nnx.merge(graph, nnx.from_flat_state(flat))

    return rebuild
