"""A JAX program as an ONNX graph: the general part; `onnx_operators` has the primitives.

What depends only on constants is computed at once. Arrays that were only broadcast stay small as
long as operators broadcast by themselves. Sizes may be symbolic: the graph reads them from its
inputs when it runs.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from jax.extend import core
from onnx import TensorProto, helper

from captax.export.programs import ExportError, Program

# Every runtime of the last years has it, and since it reductions take axes as inputs.
OPSET = 18
# What to do about a model that cannot be written in ONNX.
OTHERWISE = "export it with --format stablehlo"
IR_VERSION = 8
TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
}


@dataclasses.dataclass(frozen=True)
class Value:
    """An array of the graph: its name, and its shape before any broadcasting."""

    name: str
    shape: tuple[Any, ...]
    dtype: np.dtype


Known = Value | np.ndarray
# Adds the nodes of one equation of a program, given its inputs.
Operator = Callable[["Graph", Any, list[Known]], Known | list[Known]]


class Graph:
    """Nodes and constants, which `operators` add; they have the names of primitives."""

    def __init__(self, operators: Mapping[str, Operator]) -> None:
        self._operators = operators
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self._sizes: list[tuple[Any, str, int]] = []
        self._constants: dict[Any, Value] = {}
        self._nodes: dict[str, onnx.NodeProto] = {}
        self._made: dict[Any, Value] = {}

    def input(self, name: str, shape: Sequence[Any], dtype: Any) -> Value:
        """An input of the graph."""
        self.inputs.append(_info(name, shape, dtype))
        for axis, size in enumerate(shape):
            if not isinstance(size, int):
                self._sizes.append((size, name, axis))
        return Value(name, tuple(shape), np.dtype(dtype))

    def add(
        self, kind: str, inputs: Sequence[Known | None], shape: Any, dtype: Any, **attributes: Any
    ) -> Value:
        """The one output of a new node, or of an equal node that is there already."""
        names = ["" if x is None else self.value(x).name for x in inputs]
        key = (kind, tuple(names), repr(sorted(attributes.items())))
        if key not in self._made:
            name = f"{kind}_{len(self._nodes)}"
            self._nodes[name] = helper.make_node(kind, names, [name], name=name, **attributes)
            self._made[key] = Value(name, tuple(shape), np.dtype(dtype))
        return self._made[key]

    def made_by(self, value: Value) -> onnx.NodeProto:
        """The node that computes an array; a node without a kind for inputs."""
        node = self._nodes.get(value.name)
        return onnx.NodeProto() if node is None else node

    def needed(self, outputs: Sequence[str]) -> list[onnx.NodeProto]:
        """The nodes that outputs depend on, in order."""
        wanted = set(outputs)
        kept = []
        for name, node in reversed(self._nodes.items()):
            if name in wanted:
                kept.append(node)
                wanted.update(node.input)
        return kept[::-1]

    def value(self, known: Known) -> Value:
        """A constant as an array of the graph."""
        if isinstance(known, Value):
            return known
        array = np.asarray(known, order="C")
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            tensor = helper.make_tensor(
                name, TYPES[array.dtype.name], array.shape, array.tobytes(), raw=True
            )
            self.initializers.append(tensor)
            self._constants[key] = Value(name, array.shape, array.dtype)
        return self._constants[key]

    def shape(self, sizes: Sequence[Any]) -> Known:
        """A shape as an array of int64."""
        if all(isinstance(size, int) for size in sizes):
            return np.array(sizes, np.int64)
        parts: list[Known] = [self.size(size) for size in sizes]
        return self.add("Concat", parts, (len(parts),), np.int64, axis=0)

    def size(self, size: Any) -> Known:
        """One size as an array of int64 [1]."""
        if isinstance(size, int):
            return np.array([size], np.int64)
        for symbol, name, axis in self._sizes:
            more = size - symbol
            if isinstance(more, int):
                given = Value(name, (), np.dtype(np.float32))
                found = self.add("Shape", [given], (1,), np.int64, start=axis, end=axis + 1)
                more = np.array([more], np.int64)
                return self.add("Add", [found, more], (1,), np.int64) if more.any() else found
        raise ExportError(
            f"the model has an array of size {size}, which is no size of an input; {OTHERWISE}"
        )

    def reshape(self, x: Known, shape: Sequence[Any]) -> Known:
        """The same values in another shape."""
        shape = tuple(shape)
        if isinstance(x, np.ndarray) and all(isinstance(size, int) for size in shape):
            return x.reshape(shape)
        x = self.value(x)
        if x.shape == shape:
            return x
        # 0 stands for the size that the input has there, and -1 for what is left over.
        spelt = [
            0 if not isinstance(s, int) and i < len(x.shape) and x.shape[i] == s else s
            for i, s in enumerate(shape)
        ]
        open_sizes = [i for i, size in enumerate(spelt) if not isinstance(size, int)]
        if len(open_sizes) == 1:
            spelt[open_sizes[0]] = -1
        return self.add("Reshape", [x, self.shape(spelt)], shape, x.dtype)

    def transpose(self, x: Known, order: Sequence[int]) -> Known:
        """The same values with the axes in another order."""
        if isinstance(x, np.ndarray):
            return x.transpose(order)
        if list(order) == sorted(order):
            return x
        shape = [x.shape[i] for i in order]
        return self.add("Transpose", [x], shape, x.dtype, perm=list(order))

    def full(self, x: Known, shape: Sequence[Any]) -> Value:
        """The array expanded to `shape`, if it was only broadcast before."""
        x = self.value(x)
        if x.shape == tuple(shape):
            return x
        return self.add("Expand", [x, self.shape(shape)], shape, x.dtype)

    def run(self, jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Known]) -> list[Known]:
        """Add the nodes of a program, and give its outputs."""
        known: dict[Any, Known] = dict(
            zip(jaxpr.constvars, map(np.asarray, constants), strict=True)
        )
        known.update(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> Known:
            return np.asarray(atom.val) if isinstance(atom, core.Literal) else known[atom]

        for equation in _needed(jaxpr):
            inputs = [read(atom) for atom in equation.invars]
            outputs = self._equation(equation, inputs)
            known.update(zip(equation.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, inputs: list[Known]) -> list[Known]:
        name, parameters = equation.primitive.name, equation.params
        inner = parameters.get("jaxpr", parameters.get("call_jaxpr"))
        if inner is not None and name in INLINED:
            return self.run(inner.jaxpr, inner.consts, inputs)
        if name == "platform_index":
            # A form for one of JAX's devices suits no runtime in particular, so take the default.
            default = next(i for i, each in enumerate(parameters["platforms"]) if each is None)
            return [np.array(default, np.int32)]
        if name == "cond" and isinstance(inputs[0], np.ndarray):
            branch = parameters["branches"][int(inputs[0])]
            return self.run(branch.jaxpr, branch.consts, inputs[1:])
        if _constant(equation, inputs):
            shapes = [atom.aval.shape for atom in equation.invars]
            arrays = [x for x in inputs if isinstance(x, np.ndarray)]
            full = [np.broadcast_to(x, s) for x, s in zip(arrays, shapes, strict=True)]
            found = equation.primitive.bind(*full, **parameters)
            found = found if equation.primitive.multiple_results else [found]
            return [_shrunk(np.asarray(x)) for x in found]
        if name not in self._operators:
            raise ExportError(
                f"the model computes {name!r}, which captax cannot write in ONNX; {OTHERWISE}"
            )
        found = self._operators[name](self, equation, inputs)
        return found if isinstance(found, list) else [found]


INLINED = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "remat")


def _constant(equation: Any, inputs: Sequence[Known]) -> bool:
    """Whether an equation can be computed now."""
    sizes = [size for out in equation.outvars for size in out.aval.shape]
    sizes += [size for atom in equation.invars for size in atom.aval.shape]
    fixed = all(isinstance(size, int) for size in sizes) and "dim" not in equation.params
    return fixed and all(isinstance(x, np.ndarray) for x in inputs)


def _shrunk(array: np.ndarray) -> np.ndarray:
    """An array of equal values as one value with as many axes."""
    if array.size > 1 and (array == array.flat[0]).all():
        return array[(slice(1),) * array.ndim]
    return array


def _needed(jaxpr: Any) -> list[Any]:
    """The equations that outputs depend on, in order."""
    wanted = {atom for atom in jaxpr.outvars if not isinstance(atom, core.Literal)}
    kept = []
    for equation in reversed(jaxpr.eqns):
        if wanted.intersection(equation.outvars):
            kept.append(equation)
            wanted.update(x for x in equation.invars if not isinstance(x, core.Literal))
    return kept[::-1]


def make_model(
    program: Program, operators: Mapping[str, Operator], weights: Mapping[str, onnx.TensorProto]
) -> onnx.ModelProto:
    """A program as an ONNX model.

    Weights are tensors of float32, or of a narrower type that is widened when the model is loaded.
    """
    graph = Graph(operators)
    given: list[Known] = []
    for name, slot in program.slots.items():
        if name not in program.weights:
            given.append(Value("", slot.shape, slot.dtype))  # which nothing reads
            continue
        graph.initializers.append(weights[name])
        value, stored = Value(name, slot.shape, slot.dtype), weights[name].data_type
        if stored != TensorProto.FLOAT:
            value = graph.add("Cast", [value], slot.shape, np.float32, to=TensorProto.FLOAT)
        given.append(value)
    inputs, outputs, traced = program.inputs, program.outputs, program.traced
    given += [graph.input(key, shape.shape, shape.dtype) for key, shape in inputs.items()]
    found = graph.run(traced.jaxpr, traced.consts, given)
    full = [
        graph.full(value, shape.shape).name
        for value, shape in zip(found, outputs.values(), strict=True)
    ]
    nodes = graph.needed(full) + [
        helper.make_node("Identity", [value], [key], name=key)
        for key, value in zip(outputs, full, strict=True)
    ]
    infos = [_info(key, shape.shape, shape.dtype) for key, shape in outputs.items()]
    made = helper.make_graph(nodes, program.name, graph.inputs, infos, graph.initializers)
    return helper.make_model(
        made,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="captax",
    )


def _info(name: str, shape: Sequence[Any], dtype: Any) -> onnx.ValueInfoProto:
    sizes = [size if isinstance(size, int) else str(size) for size in shape]
    return helper.make_tensor_value_info(name, TYPES[np.dtype(dtype).name], sizes)
