"""Programs as ONNX files that share the weights of one safetensors file."""

import json
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import onnx

from captax.export.onnx_graph import make_model
from captax.export.onnx_operators import OPERATORS
from captax.export.programs import WEIGHTS, Program

_TYPES = {
    "F32": onnx.TensorProto.FLOAT,
    "F16": onnx.TensorProto.FLOAT16,
    "BF16": onnx.TensorProto.BFLOAT16,
}


def write_programs(folder: Path, programs: Sequence[Program]) -> dict[str, list[str]]:
    """Write each program to `NAME.onnx`, whose weights lie in the folder's `weights.safetensors`.

    Raises `ExportError` for a program that cannot be written in ONNX.
    """
    files = {}
    for program in programs:
        weights = dict(_tensors(folder / WEIGHTS, program.weights))
        model = make_model(program, OPERATORS, weights)
        path = folder / f"{program.name}.onnx"
        onnx.save(model, path)
        onnx.checker.check_model(path)
        files[program.name] = [path.name]
    return files


def _tensors(path: Path, names: Iterable[str]) -> Iterable[tuple[str, onnx.TensorProto]]:
    """Tensors that point to their values in a safetensors file, which ONNX reads as they are."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    for name in names:
        first, last = header[name]["data_offsets"]
        tensor = onnx.TensorProto(
            name=name,
            dims=header[name]["shape"],
            data_type=_TYPES[header[name]["dtype"]],
            data_location=onnx.TensorProto.EXTERNAL,
        )
        where = {"location": path.name, "offset": 8 + size + first, "length": last - first}
        for key, value in where.items():
            tensor.external_data.add(key=key, value=str(value))
        yield name, tensor
