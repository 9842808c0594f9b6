"""JAX's primitives, those that captioners are made of, as ONNX operators.

Each function adds the nodes of one equation of a program, given what is known of its inputs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from captax.export.onnx_graph import OTHERWISE, TYPES, Graph, Known, Operator, Value
from captax.export.programs import ExportError

OPERATORS: dict[str, Operator] = {}


def operator(*names: str) -> Callable[[Operator], Operator]:
    """Register a function that writes primitives of these names."""

    def register(function: Operator) -> Operator:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return register


def _out(equation: Any) -> tuple[tuple[Any, ...], np.dtype]:
    aval = equation.outvars[0].aval
    return aval.shape, np.dtype(aval.dtype)


def _ints(*values: Any) -> np.ndarray:
    return np.array(values, np.int64)


def _broadcast(inputs: Sequence[Known]) -> tuple[Any, ...]:
    """The common shape of arrays; they have equally many axes, or none."""
    ranked = [x.shape for x in inputs if len(x.shape)]
    return tuple(next((s for s in sizes if s != 1), 1) for sizes in zip(*ranked, strict=True))


_ELEMENTWISE = {
    "abs": "Abs",
    "add": "Add",
    "add_any": "Add",
    "and": "And",
    "ceil": "Ceil",
    "cos": "Cos",
    "div": "Div",
    "eq": "Equal",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "log": "Log",
    "logistic": "Sigmoid",
    "lt": "Less",
    "mul": "Mul",
    "neg": "Neg",
    "not": "Not",
    "or": "Or",
    "pow": "Pow",
    "sign": "Sign",
    "sin": "Sin",
    "sqrt": "Sqrt",
    "sub": "Sub",
    "tanh": "Tanh",
}


@operator(*_ELEMENTWISE)
def _elementwise(graph: Graph, equation: Any, inputs: list[Known]) -> Known:
    kind, dtype = _ELEMENTWISE[equation.primitive.name], _out(equation)[1]
    return graph.add(kind, inputs, _broadcast(inputs), dtype)


@operator("max", "min")
def _extreme(graph: Graph, equation: Any, inputs: list[Known]) -> Known:
    """An array and one number make a Clip; two of them make one with both bounds, as in ReLU6."""
    name, dtype = equation.primitive.name, _out(equation)[1]
    first, second = inputs
    if isinstance(first, np.ndarray):
        first, second = second, first
    number = isinstance(second, np.ndarray) and second.size == 1 and dtype == np.float32
    if isinstance(first, np.ndarray) or not number:
        return graph.add(name.title(), inputs, _broadcast(inputs), dtype)
    bound = np.asarray(second).reshape(())
    if name == "max":
        return graph.add("Clip", [first, bound], first.shape, dtype)
    made = graph.made_by(first)
    if made.op_type == "Clip" and len(made.input) == 2:
        given: list[Known] = [Value(part, (), dtype) for part in made.input]
        return graph.add("Clip", [*given, bound], first.shape, dtype)
    return graph.add("Clip", [first, None, bound], first.shape, dtype)


@operator("square")
def _square(graph: Graph, equation: Any, inputs: list[Known]) -> Known:
    return graph.add("Mul", inputs * 2, inputs[0].shape, inputs[0].dtype)


@operator("integer_pow")
def _integer_pow(graph: Graph, equation: Any, inputs: list[Known]) -> Known:
    [x], power = inputs, equation.params["y"]
    if power not in (2, 3):
        return graph.add("Pow", [x, np.array(power, x.dtype)], x.shape, x.dtype)
    y = graph.add("Mul", [x, x], x.shape, x.dtype)
    return y if power == 2 else graph.add("Mul", [y, x], x.shape, x.dtype)


@operator("rsqrt")
def _rsqrt(graph: Graph, equation: Any, inputs: list[Known]) -> Known:
    root = graph.add("Sqrt", inputs, inputs[0].shape, inputs[0].dtype)
    return graph.add("Reciprocal", [root], root.shape, root.dtype)


@operator("erfc")
def _erfc(graph: Graph, equation: Any, inputs: list[Known]) -> Known:
    erf = graph.add("Erf", inputs, inputs[0].shape, inputs[0].dtype)
    return graph.add("Sub", [np.array(1, erf.dtype), erf], erf.shape, erf.dtype)


@operator("stop_gradient", "copy", "copy_p", "optimization_barrier")
def _same(graph: Graph, equation: Any, inputs: list[Known]) -> list[Known]:
    return inputs


@operator("convert_element_type")
def _convert(graph: Graph, equation: Any, inputs: list[Known]) -> Known:
    [x], dtype = inputs, _out(equation)[1]
    if x.dtype == dtype:
        return x
    return graph.add("Cast", [x], x.shape, dtype, to=TYPES[dtype.name])


@operator("select_n")
def _select(graph: Graph, equation: Any, inputs: list[Known]) -> Known:
    which, when_false, when_true = inputs
    shape, dtype = _broadcast(inputs), _out(equation)[1]
    return graph.add("Where", [which, when_true, when_false], shape, dtype)


@operator("reduce_sum", "reduce_max", "reduce_min")
def _reduce(graph: Graph, equation: Any, inputs: list[Known]) -> Known:
    kind = {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin"}
    shape, dtype = _out(equation)
    x = graph.full(inputs[0], equation.invars[0].aval.shape)
    axes = _ints(*equation.params["axes"])
    return graph.add(kind[equation.primitive.name], [x, axes], shape, dtype, keepdims=0)


@operator("reshape", "squeeze", "expand_dims")
def _reshape(graph: Graph, equation: Any, inputs: list[Known]) -> Known:
    return graph.reshape(graph.full(inputs[0], equation.invars[0].aval.shape), _out(equation)[0])


@operator("broadcast_in_dim")
def _broadcast_in_dim(graph: Graph, equation: Any, inputs: list[Known]) -> Known:
    """New axes of size 1; operators that need their full size call `Graph.full`."""
    shape: list[Any] = [1] * len(equation.params["shape"])
    for axis, size in zip(equation.params["broadcast_dimensions"], inputs[0].shape, strict=True):
        shape[axis] = size
    return graph.reshape(inputs[0], shape)


@operator("transpose")
def _transpose(graph: Graph, equation: Any, inputs: list[Known]) -> Known:
    return graph.transpose(inputs[0], equation.params["permutation"])


@operator("concatenate")
def _concatenate(graph: Graph, equation: Any, inputs: list[Known]) -> Known:
    shape, dtype = _out(equation)
    parts = [
        graph.full(x, atom.aval.shape) for x, atom in zip(inputs, equation.invars, strict=True)
    ]
    return graph.add("Concat", parts, shape, dtype, axis=equation.params["dimension"])


@operator("stack")
def _stack(graph: Graph, equation: Any, inputs: list[Known]) -> Known:
    shape, dtype = _out(equation)
    axis = equation.params["axis"]
    one = [1 if i == axis else size for i, size in enumerate(shape)]
    parts: list[Known] = [
        graph.reshape(graph.full(x, atom.aval.shape), one)
        for x, atom in zip(inputs, equation.invars, strict=True)
    ]
    return graph.add("Concat", parts, shape, dtype, axis=axis)


@operator("slice")
def _slice(graph: Graph, equation: Any, inputs: list[Known]) -> Known:
    shape, dtype = _out(equation)
    whole = equation.invars[0].aval.shape
    first, last = equation.params["start_indices"], equation.params["limit_indices"]
    strides = equation.params["strides"] or (1,) * len(whole)
    axes = [i for i, size in enumerate(whole) if (first[i], last[i], strides[i]) != (0, size, 1)]
    chosen = [_ints(*(part[i] for i in axes)) for part in (first, last)]
    steps = _ints(*(strides[i] for i in axes))
    x = graph.full(inputs[0], whole)
    return graph.add("Slice", [x, *chosen, _ints(*axes), steps], shape, dtype)


@operator("pad")
def _pad(graph: Graph, equation: Any, inputs: list[Known]) -> Known:
    shape, dtype = _out(equation)
    config = equation.params["padding_config"]
    if any(low < 0 or high < 0 or between for low, high, between in config):
        raise ExportError(
            f"the model crops or spreads an array by padding, which ONNX cannot do; {OTHERWISE}"
        )
    edges = _ints(*(low for low, _, _ in config), *(high for _, high, _ in config))
    x = graph.full(inputs[0], equation.invars[0].aval.shape)
    return graph.add("Pad", [x, edges, inputs[1]], shape, dtype)


@operator("iota")
def _iota(graph: Graph, equation: Any, inputs: list[Known]) -> Known:
    """A range of symbolic size; others are constants."""
    shape, dtype = _out(equation)
    if len(shape) != 1:
        raise ExportError(
            f"the model counts along an axis of {shape}, whose sizes are not known; {OTHERWISE}"
        )
    count = graph.reshape(graph.size(shape[0]), ())
    numbers = graph.add(
        "Range", [_ints(0).reshape(()), count, _ints(1).reshape(())], shape, "int64"
    )
    return graph.add("Cast", [numbers], shape, dtype, to=TYPES[dtype.name])


@operator("dim_as_value")
def _dim_as_value(graph: Graph, equation: Any, inputs: list[Known]) -> Known:
    dtype = _out(equation)[1]
    size = graph.reshape(graph.size(equation.params["dim"]), ())
    return graph.add("Cast", [size], (), dtype, to=TYPES[dtype.name])


@operator("dot_general")
def _dot_general(graph: Graph, equation: Any, inputs: list[Known]) -> Known:
    """A product of matrices, batched or not, with the axes brought into its order."""
    shape, dtype = _out(equation)
    ((over_a,), (over_b,)), (batch_a, batch_b) = equation.params["dimension_numbers"]
    a, b = (graph.full(x, v.aval.shape) for x, v in zip(inputs, equation.invars, strict=True))
    free_a = [i for i in range(len(a.shape)) if i != over_a and i not in batch_a]
    free_b = [i for i in range(len(b.shape)) if i != over_b and i not in batch_b]
    plain = not batch_a and len(b.shape) == 2
    if plain and len(a.shape) == 4:
        # For a picture, channels last, this is a convolution of one place, so a runtime that lays
        # pictures out channels first does so once and not at every turn.
        kernel = graph.reshape(
            graph.transpose(b, [*free_b, over_b]), (*_out(equation)[0][3:], a.shape[over_a], 1, 1)
        )
        image = graph.transpose(a, [0, 3, 1, 2])
        result = graph.add("Conv", [image, kernel], [shape[i] for i in (0, 3, 1, 2)], dtype)
        return graph.transpose(result, [0, 2, 3, 1])
    if not plain and (len(free_a), len(free_b)) != (1, 1):
        raise ExportError(
            f"the model multiplies arrays with too many axes for ONNX's MatMul; {OTHERWISE}"
        )
    left = graph.transpose(a, [*batch_a, *free_a, over_a])
    right = graph.transpose(b, [*batch_b, over_b, *free_b])
    return graph.add("MatMul", [left, right], shape, dtype)


@operator("conv_general_dilated")
def _convolution(graph: Graph, equation: Any, inputs: list[Known]) -> Known:
    shape, dtype = _out(equation)
    parameters = equation.params
    to_image, to_kernel, to_out = parameters["dimension_numbers"]
    if set(parameters["lhs_dilation"]) != {1} or parameters["batch_group_count"] != 1:
        raise ExportError(
            f"the model has a transposed convolution, which captax cannot write; {OTHERWISE}"
        )
    image, kernel = (
        graph.transpose(graph.full(x, atom.aval.shape), order)
        for x, atom, order in zip(inputs, equation.invars, (to_image, to_kernel), strict=True)
    )
    low, high = zip(*parameters["padding"], strict=True)
    result = graph.add(
        "Conv",
        [image, kernel],
        [shape[i] for i in to_out],
        dtype,
        strides=list(parameters["window_strides"]),
        pads=[*low, *high],
        dilations=list(parameters["rhs_dilation"]),
        group=parameters["feature_group_count"],
    )
    return graph.transpose(result, np.argsort(to_out).tolist())


@operator("gather")
def _gather(graph: Graph, equation: Any, inputs: list[Known]) -> Known:
    """A slice along one axis from a place on, or places of one axis as `take` has them."""
    shape, dtype = _out(equation)
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    whole, index = (atom.aval.shape for atom in equation.invars)
    x, axis = graph.full(inputs[0], whole), numbers.start_index_map[0]
    taken = numbers.collapsed_slice_dims == (axis,)
    one_axis = numbers.start_index_map == (axis,) and not numbers.operand_batching_dims
    if one_axis and len(index) == 1 and (taken or not numbers.collapsed_slice_dims):
        part = tuple(sizes[axis] if i == axis else size for i, size in enumerate(whole))
        return graph.reshape(_sliced(graph, x, inputs[1], axis, part), shape)
    new = [i for i in range(len(shape)) if i not in numbers.offset_dims]
    if not (one_axis and taken and new == list(range(axis, axis + len(new)))):
        raise ExportError(
            f"the model gathers along several axes, which captax cannot write in ONNX; {OTHERWISE}"
        )
    places = graph.reshape(graph.full(inputs[1], index), index[:-1])
    return graph.add("Gather", [x, places], shape, dtype, axis=axis)


def _sliced(graph: Graph, x: Value, start: Known, axis: int, part: Sequence[Any]) -> Value:
    """A part of an array along an axis, which begins at `start`."""
    first = _place(graph, start)
    last = graph.add("Add", [first, graph.size(part[axis])], (1,), "int64")
    return graph.add("Slice", [x, first, last, _ints(axis)], part, x.dtype)


@operator("dynamic_slice")
def _dynamic_slice(graph: Graph, equation: Any, inputs: list[Known]) -> Known:
    shape, whole = _out(equation)[0], equation.invars[0].aval.shape
    axis, x = _only_moving(whole, shape), graph.full(inputs[0], whole)
    return x if axis is None else _sliced(graph, x, inputs[1 + axis], axis, shape)


@operator("dynamic_update_slice")
def _dynamic_update_slice(graph: Graph, equation: Any, inputs: list[Known]) -> Known:
    """The part before the update, the update, and the part after it."""
    whole, part = (atom.aval.shape for atom in equation.invars[:2])
    dtype = _out(equation)[1]
    axis = _only_moving(whole, part)
    old, new = (graph.full(x, s) for x, s in zip(inputs[:2], (whole, part), strict=True))
    if axis is None:
        return new
    start = inputs[2 + axis]
    first = _place(graph, start)
    last = graph.add("Add", [first, graph.size(part[axis])], (1,), "int64")
    end = graph.size(whole[axis])
    some = tuple(None if i == axis else size for i, size in enumerate(whole))
    before: list[Known] = []
    if not isinstance(start, np.ndarray) or start.any():
        before.append(graph.add("Slice", [old, _ints(0), first, _ints(axis)], some, dtype))
    behind = graph.add("Slice", [old, last, end, _ints(axis)], some, dtype)
    return graph.add("Concat", [*before, new, behind], whole, dtype, axis=axis)


def _only_moving(whole: Sequence[Any], part: Sequence[Any]) -> int | None:
    """The axis along which a slice can move; `None` if it is the whole array."""
    axes = [i for i, (a, b) in enumerate(zip(whole, part, strict=True)) if a != b]
    if len(axes) > 1:
        raise ExportError(
            f"the model slices along several axes at once, which captax cannot write; {OTHERWISE}"
        )
    return axes[0] if axes else None


def _place(graph: Graph, start: Known) -> Known:
    """A start of a slice as int64 [1]."""
    if isinstance(start, np.ndarray):
        return start.astype(np.int64).reshape(1)
    wide = graph.add("Cast", [start], start.shape, "int64", to=TYPES["int64"])
    return graph.reshape(wide, (1,))
