"""StableHLO is for other compilers than XLA too: IREE's gives the same numbers."""

import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("family", ["tiny", "vit-gpt2", "git", "blip"])
def test_iree_computes_what_xla_does(family: str, exported: Callable[..., Path]) -> None:
    compiler = pytest.importorskip("iree.compiler")
    runtime = pytest.importorskip("iree.runtime")
    folder = exported(family, "stablehlo", batch_size=2)
    weights = safetensors.numpy.load_file(folder / "weights.safetensors")
    rng = np.random.default_rng(0)
    for name, program in json.loads((folder / "export.json").read_text())["programs"].items():
        shapes = [(each["shape"], each["dtype"]) for each in program["inputs"]]
        inputs = [
            rng.standard_normal(shape).astype(dtype)
            if dtype == "float32"
            else np.array(rng.integers(1, 6, shape), dtype)
            for shape, dtype in shapes
        ]
        own = {each: weights[each] for each in program["weights"]}
        exporting = jax.export.deserialize(bytearray((folder / f"{name}.jax").read_bytes()))
        wanted = exporting.call(own, *inputs)

        compiled = compiler.compile_file(
            str(folder / f"{name}.mlirbc"), target_backends=["llvm-cpu"], input_type="stablehlo"
        )
        module = runtime.load_vm_flatbuffer(compiled, driver="local-sync")
        found = module.main(*own.values(), *inputs)
        found = found if isinstance(found, list | tuple) else [found]
        assert len(found) == len(wanted)
        named = {each["name"]: i for i, each in enumerate(program["outputs"])}
        for output, i in named.items():
            # States may be large: they are the same to that share of their largest value.
            scale = 1.0 if output == "logits" else max(1.0, float(np.abs(wanted[i]).max()))
            ours = found[i].to_host()
            np.testing.assert_allclose(ours, wanted[i], atol=1e-4 * scale, rtol=0, err_msg=output)
