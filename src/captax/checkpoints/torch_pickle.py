"""What the pickle in a PyTorch checkpoint describes, found without unpickling it.

Unpickling runs whatever the file names. Here a small interpreter follows the pickle's instructions
one by one. It knows data and the few names that a dictionary of tensors needs, and it refuses every
other instruction and name.
"""

import io
import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from captax.checkpoints.lazy import BFLOAT16, FLOAT8, is_shape
from captax.checkpoints.state import CheckpointError
from captax.errors import quoted

STORAGE_DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": BFLOAT16,
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
    "ComplexFloatStorage": np.dtype("<c8"),
    "ComplexDoubleStorage": np.dtype("<c16"),
}
# A tensor takes about 30 instructions, and a hostile one can make an object of 64 bytes.
MOST_INSTRUCTIONS = 2**21
# More than any number of a checkpoint has. Python does not keep the hash of a large number, and
# takes long to find one of many keys that have the same hash.
_NUMBER_BITS, _KEY_BITS = 512, 64
# Dtypes that are newer than typed storages: their values lie in storages of bytes.
UNTYPED_DTYPES = FLOAT8 | {name: np.dtype(name) for name in ("uint16", "uint32", "uint64")}


class TorchFileError(CheckpointError):
    """A file is not a PyTorch checkpoint, or holds more than tensors."""


class _Name(NamedTuple):
    module: str
    name: str


class Storage(NamedTuple):
    """The memory behind tensors: `values` elements of `dtype`, or bytes if `dtype` is None."""

    key: str
    dtype: np.dtype | None
    values: int

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self.values * (self.dtype.itemsize if self.dtype else 1)


class TensorView(NamedTuple):
    """A view into a storage whose values come later in the file."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


_ATOMS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
}


def load(file: io.BytesIO) -> tuple[Any, dict[str, Storage]]:
    """The object that one pickle describes, and the storages that it refers to.

    Dictionaries and lists are Python's; names, storages and tensors are the classes above.
    """
    machine = _Machine()
    for count, (instruction, argument, _) in enumerate(pickletools.genops(file)):
        if count == MOST_INSTRUCTIONS:
            raise ValueError(f"more than {count:,} instructions, far more than tensors need")
        if instruction.name == "STOP":
            return machine.pop(1)[0], machine.storages
        machine.follow(instruction.name, argument)
    raise ValueError("the pickle is cut short")


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def follow(self, name: str, argument: Any) -> None:
        """Follow one instruction, by the name that `pickletools` has for it."""
        push = self.stack.append
        match name:
            case "PROTO" | "FRAME":
                pass
            case _ if name in _ATOMS:
                if isinstance(argument, int) and argument.bit_length() > _NUMBER_BITS:
                    raise ValueError("a number that is too large")
                push(argument)
            case _ if name in _CONSTANTS:
                push(_CONSTANTS[name])
            case _ if name in _EMPTY:
                push(_EMPTY[name]())
            case "MARK":
                self.marks.append(len(self.stack))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                push(tuple(self.pop(int(name[-1]))))
            case "TUPLE":
                push(tuple(self.pop_to_mark()))
            case "LIST":
                push(self.pop_to_mark())
            case "DICT":
                items = self.pop_to_mark()
                push({})
                self.set_items(items)
            case "APPEND":
                self.extend(self.pop(1))
            case "APPENDS" | "ADDITEMS":
                self.extend(self.pop_to_mark())
            case "SETITEM":
                self.set_items(self.pop(2))
            case "SETITEMS":
                self.set_items(self.pop_to_mark())
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                push(self.memo[argument])
            case "GLOBAL":
                push(_known(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                push(_known(*self.pop(2)))
            case "BINPERSID":
                storage = _storage(*self.pop(1))
                if self.storages.setdefault(storage.key, storage) != storage:
                    raise ValueError(f"storage {storage.key[:100]} is described in two ways")
                push(storage)
            case "REDUCE":
                push(_call(*self.pop(2)))
            case "BUILD":  # Attributes of a dictionary: torch keeps the versions of modules there.
                self.pop(1)
                if not isinstance(self.stack[-1], dict):
                    raise _refusal("sets attributes of something other than a dictionary")
            case "INST":
                _known(*argument.split(" ", 1))
                raise _refusal(f"makes an object of {argument[:100]}")
            case _:
                raise _refusal(f"holds the instruction {name}, which no tensor needs")

    def pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("the pickle takes more from its stack than it put there")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def pop_to_mark(self) -> list[Any]:
        return self.pop(len(self.stack) - self.marks.pop())

    def set_items(self, items: list[Any]) -> None:
        keys = items[::2]
        # Other keys are refused: hashing deeply nested tuples can overflow Python's stack.
        if not isinstance(self.stack[-1], dict) or not all(map(_is_key, keys)):
            raise ValueError("a dictionary has keys other than text and numbers")
        self.stack[-1].update(zip(keys, items[1::2], strict=True))

    def extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError("the pickle appends to something other than a list")
        self.stack[-1].extend(items)


def _is_key(value: Any) -> bool:
    if isinstance(value, int):
        return value.bit_length() <= _KEY_BITS
    return value is None or isinstance(value, str | float | bytes)


def _refusal(what: str) -> TorchFileError:
    return TorchFileError(f"the file {what}; do not use it")


def _known(module: Any, name: Any) -> _Name:
    if isinstance(module, str) and isinstance(name, str) and name in _NAMES.get(module, ()):
        return _Name(module, name)
    asked = ".".join(x[:100] if isinstance(x, str) else quoted(x) for x in (module, name))
    raise _refusal(f"asks to run {asked}, which is not a tensor")


def _storage(reference: Any) -> Storage:
    # ("storage", type, key, device, count), and before PyTorch 1.6 also a view, usually None.
    match reference:
        case ("storage", _Name(_, kind), str(key), _, int(count), *view) if count >= 0:
            if view in ([], [None]) and kind in STORAGE_DTYPES:
                return Storage(key, STORAGE_DTYPES[kind], count)
            if view in ([], [None]) and kind == "UntypedStorage":
                return Storage(key, None, count)
    raise _refusal("holds a reference that is not to a tensor's storage")


def _call(function: Any, arguments: Any) -> Any:
    """The result of a call to one of the known names."""
    match function, arguments:
        case _Name("collections", "OrderedDict"), ():
            return {}
        case _Name("torch._utils", name), tuple():
            return _REBUILD[name](*arguments)
    raise _refusal("makes a call that no tensor needs")


def _rebuild_tensor(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    gradient: Any,
    hooks: Any,
    flags: Any = None,
) -> TensorView:
    return _rebuild_untyped(storage, offset, shape, strides, gradient, hooks, None, flags)


def _rebuild_untyped(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    gradient: Any,
    hooks: Any,
    kind: _Name | None,
    flags: Any = None,
) -> TensorView:
    if not isinstance(storage, Storage) or type(offset) is not int or not is_shape(shape):
        raise ValueError("a tensor without a storage, an offset or a shape")
    dtype = UNTYPED_DTYPES[kind.name] if kind else storage.dtype
    if dtype is None or (kind and storage.dtype) or flags:
        raise ValueError("a tensor of an unknown kind")
    # The length first: one long tuple can be the strides of very many tensors.
    if not isinstance(strides, tuple) or len(strides) != len(shape):
        raise ValueError("a tensor without strides")
    if any(type(stride) is not int for stride in strides):
        raise ValueError("a tensor without strides")
    return TensorView(storage, dtype, offset, tuple(shape), strides)


def _rebuild_parameter(data: Any, gradient: Any, hooks: Any) -> TensorView:
    if not isinstance(data, TensorView):
        raise ValueError("a parameter without a tensor")
    return data


_REBUILD: dict[str, Callable[..., TensorView]] = {
    "_rebuild_tensor_v2": _rebuild_tensor,
    "_rebuild_tensor_v3": _rebuild_untyped,
    "_rebuild_parameter": _rebuild_parameter,
}
_NAMES = {
    "collections": ("OrderedDict",),
    "torch._utils": tuple(_REBUILD),
    "torch.storage": ("UntypedStorage",),
    "torch": (*STORAGE_DTYPES, *UNTYPED_DTYPES),
}
