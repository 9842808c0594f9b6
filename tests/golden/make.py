"""Make the stored checkpoints and outputs anew: `python tests/golden/make.py [NAME ...]`.

Needs the parity extra. Each is a model of transformers with random weights, as it saves it, with
inputs and what it gave for them.
"""

import shutil
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from captax.checkpoints.directory import load_model
from golden.case import OUTPUTS, Case
from golden.families import CASES
from golden.torch_side import make_reference, outputs


def make(case: Case) -> None:
    shutil.rmtree(case.stored, ignore_errors=True)
    reference = make_reference(case, full=False)
    reference.save_pretrained(case.stored)
    inputs = case.inputs(False)
    names = case.outputs(load_model(case.stored), inputs)  # which outputs there are to store
    arrays = {f"inputs/{name}": value for name, value in inputs.items()}
    for name, value in outputs(case, reference, inputs, names).items():
        if isinstance(value, list):
            arrays |= {f"outputs/{name}/{i}": each for i, each in enumerate(value)}
        else:
            arrays[f"outputs/{name}"] = value
    np.savez_compressed(case.stored / OUTPUTS, **arrays)
    size = sum(path.stat().st_size for path in case.stored.iterdir())
    print(f"{case.name}: {size / 1000:.0f} kB")


if __name__ == "__main__":
    for name in sys.argv[1:] or CASES:
        make(CASES[name])
