"""Takes the named tensors of a model, and fills a model from named tensors."""

import functools
import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from captax.checkpoints.lazy import LazyCodes, LazyTensor, transposed
from captax.errors import CheckpointError
from captax.models.layout import Layout, Tensor, joined_shape
from captax.models.modules import linear_kernels
from captax.models.quantised import QUANTISED, Quantised, fits, groups_of, quantise
from captax.models.vision_language import VisionLanguageModel

DTYPES = ("float32", "float16", "bfloat16")
# Parameters that models only look rows up in, or multiply by: they can be `Quantised`.
_TABLES = ("embedding", "words")
_HEADS = ("head", "classifier")  # modules that give the scores of words or labels
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
    kept: int = 0,
    saved: bool = False,
) -> Model:
    """The model with parameters from `tensors`; it may have been built without values.

    `tensors` are arrays, or `LazyTensor`s that are read one at a time; `layout` says their names
    and shapes. Values are cast to `dtype`. Matrices of products are `quantised`, as in "int8", one
    at a time; with `saved`, only those that a checkpoint can hold so. Those of at most `kept`
    bits in `tensors` stay as they are. A tensor whose name in `tensors` matches `optional` may be
    missing, and the model then keeps its own value, or may be unexpected, and is then ignored.
    Raises `CheckpointError`, which lists every missing, unexpected and misshapen tensor at once and
    begins with `where`, the place that was read.
    """
    check_dtype(dtype)
    graph, state = nnx.split(model)
    leaves = {_name(path): (path, leaf) for path, leaf in nnx.to_flat_state(state)}
    expected, spelt = _matched(leaves, tensors, where, layout or Layout(), optional)
    products = _quantisable(model)
    chosen = _to_narrow(model, layout) if saved else products
    bits = QUANTISED[quantised] if quantised else 0
    filled = []
    for name, tensor in expected.items():
        if name not in spelt:
            own = [leaves[ours] for ours in tensor.ours]
            filled += [(path, leaf.replace(leaf[...].astype(dtype))) for path, leaf in own]
            continue
        values: Sequence[Any]
        if products.issuperset(tensor.ours) and _stays(spelt[name], tensor, kept):
            values = _codes(spelt[name], len(tensor.ours), dtype)
        else:
            shapes = [leaves[ours][1].shape for ours in tensor.ours]
            values = [
                quantise(part, bits, dtype)
                if bits and ours in chosen and fits(part.shape)
                else jnp.asarray(part, dtype)
                for ours, part in zip(
                    tensor.ours, _parts(spelt[name], tensor, shapes, dtype), strict=True
                )
            ]
        for ours, value in zip(tensor.ours, values, strict=True):
            path, leaf = leaves[ours]
            filled.append((path, leaf.replace(value)))
    return nnx.merge(graph, nnx.from_flat_state(filled))


def _quantisable(model: nnx.Module) -> set[str]:
    """Names of the parameters that may be quantised."""
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return linear_kernels(model) | {_name(path) for path, _ in flat if path[-1] in _TABLES}


def _held_narrow(model: nnx.Module, layout: Layout | None) -> set[str]:
    """Names of the parameters that a checkpoint can hold in 8 or 4 bits.

    They are kernels of `torch.nn.Linear`s. Tables of words are none, nor is what multiplies inside
    `torch.nn.MultiheadAttention`, which is no layer of its own.
    """
    names = [_name(path) for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))]
    kernels = linear_kernels(model)
    tensors = (layout or Layout()).tensors(names)
    theirs = {tensor.theirs for tensor in tensors}
    found: set[str] = set()
    for tensor in tensors:
        module, _, kind = tensor.theirs.rpartition(".")
        inside = f"{module.rpartition('.')[0]}.in_proj_weight" in theirs
        known = kind in ("weight", "kernel") and not inside and _plain(tensor)
        if known and kernels.issuperset(tensor.ours):
            found.update(tensor.ours)
    return found


def _to_narrow(model: nnx.Module, layout: Layout | None) -> set[str]:
    """Those of them that are quantised for a checkpoint.

    Heads and the eyes of a language model stay wide, as in most published checkpoints: not every
    program that reads narrow weights expects those to be.
    """
    wide = ("encoder.", "connector.") if isinstance(model, VisionLanguageModel) else ()
    return {
        name
        for name in _held_narrow(model, layout)
        if name.split(".")[-2] not in _HEADS and not name.startswith(wide)
    }


def _plain(tensor: Tensor) -> bool:
    """Whether a tensor's rows are those of the parameters."""
    return tensor.rule.axes is None and not tensor.rule.lead


def _stays(value: Any, tensor: Tensor, kept: int) -> bool:
    codes = value.codes if isinstance(value, LazyTensor) else None
    return codes is not None and codes.bits <= kept and _plain(tensor)


def _codes(value: LazyTensor, count: int, dtype: str) -> list[Quantised]:
    """A checkpoint's narrow matrix as parameters, joined along the rows."""
    assert value.codes is not None
    codes, scales = (np.split(each, count) for each in value.codes.read())
    pairs = zip(codes, scales, strict=True)
    return [Quantised(jnp.asarray(each), jnp.asarray(scale), dtype) for each, scale in pairs]


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


def types_for(asked: str | None, own: Callable[[], str], *, narrow: bool = False) -> dict[str, Any]:
    """The `dtype`, `quantised` and `kept` of `fill` for a type that was asked for.

    None is float32, or the checkpoint's own if some of its weights are `narrow`. `own` gives the
    type of the others, which all that is not quantised keeps.
    """
    asked = str(asked or (AUTO if narrow else "float32"))
    quantised = asked if asked in QUANTISED else None
    kept = max(QUANTISED.values()) if asked == AUTO else QUANTISED.get(asked, 0)
    dtype = own() if asked == AUTO or quantised else asked
    return {"dtype": dtype, "quantised": quantised, "kept": kept}


def check_dtype(name: str) -> None:
    """Raise `CheckpointError` unless `name` is a dtype that weights can have."""
    if name not in DTYPES:
        raise CheckpointError(f"dtype {name!r} is not supported; give {', '.join(DTYPES)}")


def export(
    model: nnx.Module, layout: Layout | None = None, *, dtype: str = "float32"
) -> dict[str, np.ndarray]:
    """The model's parameters as the tensors of a checkpoint, which `fill` takes."""
    return {name: tensor.read() for name, tensor in exported(model, layout, dtype=dtype).items()}


def exported(
    model: nnx.Module,
    layout: Layout | None = None,
    *,
    dtype: str = "float32",
    quantised: str | None = None,
    kept: int = 0,
) -> dict[str, LazyTensor]:
    """The same, made one at a time as they are read.

    Those that have at most `kept` bits already have `codes`, if a checkpoint can hold them, and so
    do those that are `quantised` now, as in "int8".
    """
    check_dtype(dtype)
    ours = parameters(model)
    layout = layout or Layout()
    narrow, chosen = _held_narrow(model, layout), _to_narrow(model, layout)
    tensors = {}
    for tensor in layout.tensors(ours):
        held = [ours[name] for name in tensor.ours]
        shape = tensor.rule.their_shape([tuple(each.shape) for each in held])
        read = functools.partial(_read_held, held, tensor, dtype)
        codes = None
        if narrow.issuperset(tensor.ours):
            asked = quantised if chosen.issuperset(tensor.ours) else None
            codes = _codes_of(held, dtype, asked, kept)
        tensors[tensor.theirs] = LazyTensor(shape, np.dtype(jnp.dtype(dtype)), read, None, codes)
        if tensor.counter is not None:
            zero = functools.partial(np.zeros, (), np.int64)
            tensors[tensor.counter] = LazyTensor((), np.dtype(np.int64), zero)
    return tensors


def _codes_of(held: list[Any], dtype: str, quantised: str | None, kept: int) -> LazyCodes | None:
    """The codes of matrices that are one tensor of a checkpoint; None if it is to be wide."""
    forms = {
        (each.bits, each.scales.shape[1], each.scales.dtype) if _is_kept(each, kept) else None
        for each in held
    }
    if len(forms) == 1 and (form := forms.pop()) is not None:
        return LazyCodes(form[0], form[1], np.dtype(form[2]), functools.partial(_joined, held))
    if quantised is None or not all(fits(tuple(each.shape)) for each in held):
        return None
    bits = QUANTISED[quantised]

    def read() -> tuple[np.ndarray, np.ndarray]:
        wide = (np.asarray(each.astype(jnp.float32)) for each in held)
        return _joined([quantise(each, bits, dtype) for each in wide])

    groups = groups_of(held[0].shape[1], bits)
    return LazyCodes(bits, groups, np.dtype(jnp.dtype(dtype)), read)


def _is_kept(value: Any, kept: int) -> bool:
    return isinstance(value, Quantised) and value.bits <= kept


def _joined(matrices: list[Quantised]) -> tuple[np.ndarray, np.ndarray]:
    """The codes and the scales of several matrices, joined along the rows."""
    codes = [np.asarray(each.codes) for each in matrices]
    scales = [np.asarray(each.scales) for each in matrices]
    return np.concatenate(codes), np.concatenate(scales)


def types_to_save(model: nnx.Module, asked: str | None) -> dict[str, Any]:
    """The `dtype`, `quantised` and `kept` of `exported` for a type that was asked for.

    None is float32, or for a model that is narrow in part what it is.
    """
    held: Counter[str] = Counter()
    for each in parameters(model).values():
        held[each.dtype.name] += each.size
    narrow = any(isinstance(each, Quantised) for each in parameters(model).values())
    return types_for(asked, lambda: own_dtype(None, held), narrow=narrow)


def _read_held(held: list[Any], tensor: Tensor, dtype: str) -> np.ndarray:
    parts = [np.asarray(each.astype(dtype)) for each in held]
    return np.asarray(tensor.rule.to_theirs(parts), order="C")


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
