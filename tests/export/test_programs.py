"""The exported programs compute what the model does."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import onnx
import pytest

from captax.checkpoints.state import fill
from captax.checkpoints.state import parameters as weights_of
from captax.export import ExportError
from captax.export.onnx_graph import make_model
from captax.export.onnx_operators import OPERATORS
from captax.export.programs import Program
from captax.pipelines.captioner import Captioner

Captioners = Callable[[str], Captioner]
Exported = Callable[..., Path]

OTHERS = (
    *("git", "blip", "vit-gpt2", "vit-gpt2-projected", "vit-bert", "clip-gpt2", "siglip-gpt2"),
    *("resnet-gpt2", "stretched"),
)
LONG = [pytest.mark.slow, pytest.mark.nightly("exported programs")]
CASES = [
    ("tiny", "onnx"),
    pytest.param("tiny", "stablehlo", marks=LONG),
    *(
        pytest.param(family, format, marks=LONG)
        for format, families in {
            "onnx": OTHERS,
            "stablehlo": OTHERS,
        }.items()
        for family in families
    ),
]
PROMPT = 2


def _inputs(captioner: Captioner, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and tokens."""
    rng = np.random.default_rng(batch)
    pixels = rng.standard_normal((batch, *captioner.processor.size, 3)).astype(np.float32)
    return pixels, rng.integers(3, captioner.tokenizer.vocab_size, (batch, 5)).astype(np.int32)


def _of_the_model(model: Any, pixels: np.ndarray, said: np.ndarray) -> list[jax.Array]:
    """Logits after the prompt and after each of the other tokens."""

    @jax.jit
    def run(pixels: jax.Array, said: jax.Array) -> list[jax.Array]:
        logits, cache = model.begin(model.encode(pixels), said[:, :PROMPT], 9)
        found = [logits]
        for i in range(PROMPT, said.shape[1]):
            logits, cache = model.advance(said[:, i], cache)
            found.append(logits)
        return found

    return run(pixels, said)


def _of_the_programs(
    script: ModuleType,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    pixels: np.ndarray,
    said: np.ndarray,
    first: int = PROMPT,
) -> list[np.ndarray]:
    monkeypatch.setattr(script, "HERE", folder)
    manifest = json.loads((folder / "export.json").read_text())
    programs = script.load_programs(manifest)
    writer = script.Writer(programs, pixels, said[0, :first], said.shape[1] + 1, None)
    seen = programs["encoder"]({"pixels": pixels})
    found = programs["prefill"]({"tokens": said[:, :first], **seen})
    logits = [found.pop("logits")]
    writer.tokens, writer.cache = said[:, :first], writer._as_past(found)
    for i in range(first, said.shape[1]):
        writer.go_on(said[:, i])
        logits.append(writer.logits)
    return logits[PROMPT - first :]


@pytest.mark.parametrize(("family", "format"), CASES)
def test_programs_compute_what_the_model_does(
    family: str,
    format: str,
    captioners: Captioners,
    exported: Exported,
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = _inputs(captioners(family), batch=3)
    found = _of_the_programs(script, exported(family, format), monkeypatch, *given)
    for a, b in zip(found, _of_the_model(captioners(family).model, *given), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "stablehlo"])
def test_programs_of_a_fixed_size_take_fewer_rows_too(
    format: str,
    captioners: Captioners,
    exported: Exported,
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = exported("tiny", format, batch_size=4)
    programs = json.loads((folder / "export.json").read_text())["programs"]
    sizes = [
        s for p in programs.values() for x in (*p["inputs"], *p["outputs"]) for s in x["shape"]
    ]
    assert all(isinstance(size, int) for size in sizes)
    given = _inputs(captioners("tiny"), batch=3)
    found = _of_the_programs(script, folder, monkeypatch, *given, first=1)
    for a, b in zip(found, _of_the_model(captioners("tiny").model, *given), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "format"),
    [("bfloat16", "onnx"), ("float16", "onnx"), ("bfloat16", "stablehlo")],
)
def test_narrow_weights_are_half_the_file_and_computed_with_in_float32(
    dtype: str,
    format: str,
    captioners: Captioners,
    exported: Exported,
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    captioner = captioners("vit-gpt2-projected")
    wide = exported("vit-gpt2-projected", "onnx") / "weights.safetensors"
    folder = exported("vit-gpt2-projected", format, dtype=dtype)
    assert (folder / "weights.safetensors").stat().st_size < 0.6 * wide.stat().st_size
    rounded = {
        name: np.asarray(value.astype(dtype).astype("float32"))
        for name, value in weights_of(captioner.model).items()
    }
    model = fill(captioner.model, rounded, where="rounded weights")
    given = _inputs(captioner, batch=2)
    found = _of_the_programs(script, folder, monkeypatch, *given)
    for a, b in zip(found, _of_the_model(model, *given), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4, rtol=0)


def test_weights_are_stored_once_and_programs_say_where(exported: Exported) -> None:
    folder = exported("vit-gpt2-projected")
    stored = (folder / "weights.safetensors").stat().st_size
    programs = list(folder.glob("*.onnx"))
    assert sorted(path.stem for path in programs) == ["encoder", "prefill", "step"]
    for path in programs:
        onnx.checker.check_model(path, full_check=True)
        model = onnx.load(path, load_external_data=False)
        outside = [t for t in model.graph.initializer if t.external_data]
        assert outside and {t.external_data[0].value for t in outside} == {"weights.safetensors"}
        # What lies inside is smaller than the smallest matrix.
        assert max(len(t.raw_data) for t in model.graph.initializer) < 1000
    assert stored > 50_000


@pytest.mark.parametrize("function", [lambda x: jax.lax.cumsum(x), lambda x: jax.lax.sort(x)])
def test_what_cannot_be_said_in_onnx_is_named(function: Callable[..., Any]) -> None:
    shapes = {"x": jax.ShapeDtypeStruct((4,), np.float32)}
    traced = jax.make_jaxpr(function)(*shapes.values())
    program = Program("step", traced, {}, {}, shapes, shapes)
    with pytest.raises(ExportError, match=r"computes '(cumsum|sort)'.*--format stablehlo"):
        make_model(program, OPERATORS, {})


OPERATIONS: dict[str, Callable[..., Any]] = {
    "relu6 of a bound": lambda x: jax.nn.relu6(x) + jax.numpy.minimum(x, 0.5),
    "exact gelu": functools.partial(jax.nn.gelu, approximate=False),
    "a slice from behind": lambda x: x[:, -1][:, 2:] + x[..., 2:].sum(1),
    "every second": lambda x: jax.lax.slice_in_dim(x, 0, None, 2, 2),
    "powers": lambda x: x**3 + x**2 + x**5,
    "where": lambda x: jax.numpy.where(x < 0, x * 2, 1.0),
    "argless constants": lambda x: x + jax.numpy.arange(6.0),
    "padding": lambda x: jax.numpy.pad(x, ((0, 0), (1, 2), (0, 3)), constant_values=7.0),
    "batched product": lambda x: jax.numpy.einsum("bij,bkj->bik", x, x),
    "extremes": lambda x: x.max(-1) - x.min(1)[:, :4],
    "norm": lambda x: x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5),
    "count": lambda x: x + jax.numpy.arange(x.shape[0], dtype="float32")[:, None, None],
    "stacked": lambda x: jax.numpy.stack([x, x + 1], axis=2),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operators_say_what_primitives_do(name: str) -> None:
    import onnxruntime

    (batch,) = jax.export.symbolic_shape("batch")
    inputs = {"x": jax.ShapeDtypeStruct((batch, 4, 6), np.float32)}
    function = OPERATIONS[name]
    traced = jax.make_jaxpr(function)(*inputs.values())
    [shape] = traced.out_avals
    outputs = {"y": jax.ShapeDtypeStruct(shape.shape, shape.dtype)}
    model = make_model(Program("one", traced, {}, {}, inputs, outputs), OPERATORS, {})
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for rows in (1, 5):
        x = np.random.default_rng(rows).standard_normal((rows, 4, 6)).astype(np.float32) * 4
        [found] = session.run(None, {"x": x})
        np.testing.assert_allclose(found, function(x), atol=1e-5, rtol=1e-5)
