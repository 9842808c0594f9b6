"""What loading takes of memory, in a process of its own: little more than the weights."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from captax.checkpoints import lazy
from captax.checkpoints.directory import load_model
from captax.checkpoints.state import parameters
from captax.models.registry import read_config

# Most of it is one embedding, as in small language models of large vocabularies, and GPT-2's other
# matrices are transposed and split.
CONFIG = {"model_type": "gpt2", "vocab_size": 50_000, "n_embd": 384, "n_layer": 4, "n_head": 6}
LOAD = """
import re, sys
from pathlib import Path
import jax
from flax import nnx
from captax.checkpoints.directory import load_model

def status(key):
    text = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"^{key}:\\s+(\\d+) kB", text, re.M)[1])

jax.numpy.zeros(3).block_until_ready()
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = status("VmHWM")
weights = nnx.state(load_model(Path(sys.argv[1]), dtype=sys.argv[2]))
jax.block_until_ready(weights)
print((status("VmHWM") - before) / sum(leaf.nbytes for leaf in jax.tree.leaves(weights)))
"""


def write(folder: Path, dtype: str, shards: int, contents: Mapping[str, Any] = CONFIG) -> Path:
    """A checkpoint with random weights, in one file or in several."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**contents, "dtype": dtype}))
    config = read_config(contents)
    state = nnx.to_flat_state(nnx.state(config.build()))
    shapes = {".".join(map(str, path)): leaf.shape for path, leaf in state}
    rng, tensors = np.random.default_rng(0), {}
    for tensor in config.layout().tensors(shapes):
        shape = tensor.rule.their_shape([shapes[name] for name in tensor.ours])
        values = rng.standard_normal(shape, np.float32)
        tensors[tensor.theirs] = values.astype(jnp.dtype(dtype))
    names = sorted(tensors)
    if shards == 1:
        safetensors.numpy.save_file(tensors, folder / "model.safetensors")
        return folder
    places = {name: f"model-{i % shards}.safetensors" for i, name in enumerate(names)}
    for file in set(places.values()):
        there = {name: tensors[name] for name in names if places[name] == file}
        safetensors.numpy.save_file(there, folder / file)
    index = json.dumps({"weight_map": places})
    (folder / "model.safetensors.index.json").write_text(index)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the peak of a process")
@pytest.mark.parametrize(
    ("stored", "wanted", "shards"),
    [
        ("float32", "float32", 1),
        ("bfloat16", "bfloat16", 1),
        ("float32", "bfloat16", 1),
        ("float32", "auto", 3),
        ("bfloat16", "float32", 1),
    ],
)
def test_loading_takes_little_more_than_the_weights(
    stored: str, wanted: str, shards: int, tmp_path: Path
) -> None:
    folder = write(tmp_path / "model", stored, shards)
    command = [sys.executable, "-c", LOAD, folder, wanted]
    peak = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert 1 <= peak < 1.3


def test_tensors_that_are_read_in_pieces_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last piece is shorter, and fused and transposed tensors have several."""
    config = {**CONFIG, "vocab_size": 99, "n_embd": 16, "n_layer": 1, "n_head": 2}
    folder = write(tmp_path / "model", "float32", 1, config)
    monkeypatch.setattr(lazy, "PIECE", 500)
    theirs = safetensors.numpy.load_file(folder / "model.safetensors")
    for dtype in ("float32", "bfloat16"):
        ours = parameters(load_model(folder, dtype=dtype))
        for tensor in read_config(config).layout().tensors(ours):
            parts = tensor.rule.to_ours(theirs[tensor.theirs])
            for name, want in zip(tensor.ours, parts, strict=True):
                got = np.asarray(ours[name])
                np.testing.assert_array_equal(got, want.astype(got.dtype), strict=True)
