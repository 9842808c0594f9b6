"""Programs as StableHLO, in the form of `jax.export` and in the form for other compilers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax import export as jax_export

from captax.export.programs import Program

# The same programs run on all of them; `caption.py` uses the device that its JAX finds.
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def write_programs(folder: Path, programs: Sequence[Program]) -> dict[str, list[str]]:
    """Write each program to `NAME.jax`, which takes its weights as a dictionary, then its inputs.

    A program of known sizes is also written to `NAME.mlirbc`, StableHLO's portable bytecode, in
    which each weight is an argument of its own, sorted by name.
    """
    files = {}
    for program in programs:
        path = folder / f"{program.name}.jax"
        path.write_bytes(_exported(program, PLATFORMS).serialize())
        files[program.name] = [path.name]
        if all(isinstance(s, int) for given in program.inputs.values() for s in given.shape):
            path = folder / f"{program.name}.mlirbc"
            path.write_bytes(_exported(program, PLATFORMS[:1]).mlir_module_serialized)
            files[program.name].append(path.name)
    return files


def _exported(program: Program, platforms: Sequence[str]) -> Any:
    exporting = jax_export.export(jax.jit(program), platforms=platforms)
    return exporting(program.weights, *program.inputs.values())
