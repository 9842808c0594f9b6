"""The weights of a checkpoint directory, in any of the usual file formats."""

import json
import math
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from captax.checkpoints.lazy import BFLOAT16, FLOAT8, LazyTensor, is_shape, stored
from captax.checkpoints.state import CheckpointError
from captax.checkpoints.torch_file import open_torch_file
from captax.errors import quoted
from captax.files import is_file, open_regular, parse_json

__all__ = ["NAMES", "LazyTensor", "open_weights"]

# In the order in which they are looked for.
NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
FOREIGN = {
    "*.h5": "TensorFlow",
    "*.msgpack": "Flax",
    "*.onnx": "ONNX",
    "model.ckpt*": "TensorFlow",
}
# Names and shapes of a hundred thousand tensors fit well; a larger header is an attack on memory.
HEADER_LIMIT = 25 * 2**20
SAFETENSORS_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": BFLOAT16,
    "F8_E4M3": FLOAT8["float8_e4m3fn"],
    "F8_E5M2": FLOAT8["float8_e5m2"],
    "F8_E8M0": FLOAT8["float8_e8m0fnu"],
    "F8_E4M3FNUZ": FLOAT8["float8_e4m3fnuz"],
    "F8_E5M2FNUZ": FLOAT8["float8_e5m2fnuz"],
    "C64": np.dtype("<c8"),
    **{f"I{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    "BOOL": np.dtype("?"),
}


def open_weights(path: Path) -> dict[str, LazyTensor]:
    """Tensors by name, to be read one by one, of a checkpoint directory or of one weight file.

    In a directory, the first file of `NAMES` that exists is opened; an index opens the shards that
    it names. Whether a file is safetensors or was written by `torch.save` is told by its content.
    Raises `CheckpointError` when there are no weights, or a file is cut short or describes itself
    wrongly.
    """
    path = Path(path)
    if not path.is_dir():
        return _open_file(path)
    for name in NAMES:
        if (path / name).is_file():
            is_index = name.endswith(".index.json")
            return _open_index(path / name) if is_index else _open_file(path / name)
    if any(path.glob("*.gguf")):
        raise CheckpointError(f"{path}: holds GGUF files; give the path of one of them")
    foreign = {kind for pattern, kind in FOREIGN.items() if any(path.glob(pattern))}
    reason = (
        f"only {' and '.join(sorted(foreign))} weights, which are not supported; "
        "convert them to safetensors"
        if foreign
        else f"no weights; looked for {', '.join(NAMES)}"
    )
    raise CheckpointError(f"{path}: holds {reason}")


def size_of(path: Path) -> int:
    """Bytes that the weights of a checkpoint directory, or of a file, take there."""
    if not path.is_dir():
        return path.stat().st_size
    tensors = open_weights(path).values()
    return sum(math.prod(tensor.shape) * tensor.dtype.itemsize for tensor in tensors)


def write_safetensors(path: Path, tensors: Mapping[str, LazyTensor]) -> None:
    """Write tensors to a new file, one at a time; no more than one is in memory."""
    kinds = {dtype: kind for kind, dtype in SAFETENSORS_DTYPES.items()}
    # In this order each begins at a multiple of the size of its values, as readers expect.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    # transformers looks for this entry, which says that names and shapes are PyTorch's.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        tensor, begin = tensors[name], end
        end += math.prod(tensor.shape) * tensor.dtype.itemsize
        header[name] = {
            "dtype": kinds[tensor.dtype.newbyteorder("<")],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            values = np.ascontiguousarray(tensors[name].read(), tensors[name].dtype)
            file.write(values.reshape(-1).view(np.uint8).data)


def _open_index(path: Path) -> dict[str, LazyTensor]:
    """The tensors that the `weight_map` of an index names, each from the shard it lies in."""
    index = _read_index(path)
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{path}: has no weight_map of its tensors; download it again")
    shards = {}
    for name in places.values():
        # Only plain names: an index must not make us read files outside the checkpoint.
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", name):
            raise CheckpointError(
                f"{path}: names {quoted(name)}, which is not a file of the checkpoint; download "
                "it again"
            )
        if name in shards:
            continue
        if not is_file(path.parent / name):
            raise CheckpointError(f"{path}: names {name}, which is missing; download it")
        shards[name] = _open_file(path.parent / name)
    if lacking := [name for name, shard in places.items() if name not in shards[shard]]:
        some = ", ".join(map(quoted, lacking[:3])) + (", ..." if len(lacking) > 3 else "")
        raise CheckpointError(f"{path}: names {some}, which the shards lack; download them again")
    return {name: shards[shard][name] for name, shard in places.items()}


def _open_file(path: Path) -> dict[str, LazyTensor]:
    try:
        with open_regular(path) as file:
            head = file.read(64)
            file.seek(0)
            # A header begins with a brace, after its length; torch's zip and pickle do not.
            if head[8:9] == b"{":
                return _open_safetensors(path, file)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path}: is a git-lfs pointer, not the weights; run `git lfs pull`")
    if path.suffix == ".safetensors":
        raise CheckpointError(f"{path}: not a safetensors file; download it again")
    return open_torch_file(path)


# The safetensors library is not used: it maps the file, and touched pages count as memory.
def _open_safetensors(path: Path, file: BinaryIO) -> dict[str, LazyTensor]:
    """The tensors of a file: the header's length (8 bytes), the header in JSON, then the values."""
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    (length,) = struct.unpack("<Q", file.read(8))
    if length > HEADER_LIMIT:
        raise _wrong(path, f"not a safetensors file, or one with a header of {length} bytes")
    if 8 + length > end:
        raise _wrong(path, "cut short within its header")
    header = _parse(path, file.read(length))
    if not isinstance(header, dict):
        raise _wrong(path, "its header is not a JSON object")
    header.pop("__metadata__", None)
    places = {name: _entry(path, name, entry) for name, entry in header.items()}
    reached = 0
    for name, (_, _, begin, stop) in sorted(places.items(), key=lambda item: item[1][2:]):
        if begin != reached:
            raise _wrong(path, f"{name} does not begin where the tensor before it ends")
        reached = stop
    if 8 + length + reached != end:
        raise _wrong(path, f"has {end} bytes, and its header describes {8 + length + reached}")
    return {
        name: stored(path, dtype, shape, 8 + length + begin)
        for name, (dtype, shape, begin, _) in places.items()
    }


def _entry(path: Path, name: str, entry: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """A tensor's dtype, its shape, and the bytes at which its values begin and end."""
    match entry:
        case {"dtype": str(kind), "shape": list(shape), "data_offsets": [int(begin), int(stop)]}:
            if kind not in SAFETENSORS_DTYPES:
                raise CheckpointError(
                    f"{path}: {quoted(name)} has dtype {quoted(kind)}, which is not supported; "
                    "convert it to float32"
                )
            dtype = SAFETENSORS_DTYPES[kind]
            if is_shape(shape) and begin >= 0 and stop - begin == math.prod(shape) * dtype.itemsize:
                return dtype, tuple(shape), begin, stop
    raise _wrong(path, f"the shape, dtype and place of {name} do not fit each other")


def _read_index(path: Path) -> Any:
    try:
        with open_regular(path) as file:
            content = file.read(HEADER_LIMIT + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    if len(content) > HEADER_LIMIT:
        raise _wrong(path, "it is far too large for an index")
    return _parse(path, content)


def _parse(path: Path, content: bytes) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("an object has a name twice")
        return dict(pairs)

    try:
        return parse_json(content.decode("utf-8"), pairs=once)
    except ValueError as error:
        raise _wrong(path, f"not JSON ({error})") from None


def _wrong(path: Path, reason: str) -> CheckpointError:
    # The message stays one line, whatever names the file gives its tensors.
    return CheckpointError(f"{path}: {' '.join(reason.split())}; download it again")
