"""Checkpoints in 8 and 4 bits: read as others wrote them, and written for others to read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

import captax
from captax.checkpoints.compressed_tensors import widened_or_kept
from captax.checkpoints.directory import load_model, save_model
from captax.checkpoints.lazy import strided
from captax.checkpoints.state import CheckpointError, export, parameters
from captax.models.quantised import Quantised
from captax.models.registry import read_config

Checkpoint = Callable[[str], Path]
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 20,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "tie_word_embeddings": False,
}
NAME, OURS = "model.layers.0.mlp.down_proj.weight", "layers.0.mlp.down.kernel"
ROWS, WIDTH = 12, 20  # of that matrix
ROUNDED = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float32": np.float32}


def in_words(codes: np.ndarray, bits: int) -> np.ndarray:
    """Rows of codes as rows of words: one long number, whose lowest bits are the first code."""
    rows = []
    for row in codes:
        number = sum(int(code) + 2 ** (bits - 1) << bits * place for place, code in enumerate(row))
        count = -(-len(row) * bits // 32)
        rows.append(np.frombuffer(number.to_bytes(4 * count, "little"), "<i4"))
    return np.array(rows)


def described(**weights: Any) -> dict[str, Any]:
    """What a config says, which is much the same for all forms."""
    said = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", **weights}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": said}},
        "ignore": ["re:.*self_attn.*", "lm_head"],
    }


@pytest.fixture(scope="module")
def wide() -> dict[str, np.ndarray]:
    """The tensors of a small language model."""
    model = read_config(CONFIG).build(rngs=nnx.Rngs(0))
    return export(model, model.config.layout())


@pytest.fixture
def write(tmp_path: Path, wide: dict[str, np.ndarray]) -> Callable[..., Path]:
    """Write the model with other tensors in the place of one matrix."""

    def write(parts: dict[str, np.ndarray], form: Any, **config: Any) -> Path:
        rest = {name: value for name, value in wide.items() if name != NAME}
        new = {NAME + suffix: np.ascontiguousarray(value) for suffix, value in parts.items()}
        safetensors.numpy.save_file(rest | new, tmp_path / "model.safetensors")
        contents = {**CONFIG, "dtype": "float32", "quantization_config": form, **config}
        (tmp_path / "config.json").write_text(json.dumps(contents))
        return tmp_path

    return write


def drawn(bits: int, groups: int, kind: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    """Codes, the extreme ones among them, and scales, some of which are negative."""
    rng = np.random.default_rng(bits + groups)
    half = 2 ** (bits - 1)
    codes = rng.integers(-half, half, (ROWS, WIDTH)).astype(np.int8)
    codes[0, :2] = -half, half - 1
    return codes, rng.normal(size=(ROWS, groups)).astype(ROUNDED[kind])


def numbers(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """What the codes stand for."""
    by_code = np.repeat(scales.astype(np.float32), WIDTH // scales.shape[1], axis=1)
    return codes.astype(np.float32) * by_code


@pytest.mark.parametrize("kind", ROUNDED)
@pytest.mark.parametrize(("bits", "groups"), [(8, 1), (8, 5), (4, 1), (4, 5), (4, 2), (4, 20)])
def test_packed_codes_are_kept_as_they_are(
    bits: int, groups: int, kind: str, write: Callable[..., Path]
) -> None:
    codes, scales = drawn(bits, groups, kind)
    shape = np.array(codes.shape)
    parts = {"_packed": in_words(codes, bits), "_scale": scales, "_shape": shape}
    folder = write(parts, described(num_bits=bits))
    want = numbers(codes, scales)
    for dtype in (None, "auto"):
        held = parameters(load_model(folder, dtype=dtype))
        assert {name for name, each in held.items() if isinstance(each, Quantised)} == {OURS}
        kept = held[OURS]
        assert (kept.bits, kept.shape, kept.scales.dtype) == (bits, (ROWS, WIDTH), scales.dtype)
        np.testing.assert_array_equal(kept.astype("float32"), want)
        assert kept.dtype == held["embedding"].dtype == jnp.float32
    widened = parameters(load_model(folder, dtype="float32"))[OURS]
    np.testing.assert_array_equal(widened, want)
    # A model that is saved as it is holds the same bytes under the same names.
    (folder / "again").mkdir()
    save_model(folder / "again", load_model(folder, dtype=None))
    one, other = (
        safetensors.numpy.load_file(each / "model.safetensors")
        for each in (folder, folder / "again")
    )
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], strict=True, err_msg=name)


@pytest.mark.parametrize("scales", [(ROWS, 1), (ROWS, 4), (ROWS,), (1,), (1, 1), ()])
def test_bytes_are_codes(scales: tuple[int, ...], write: Callable[..., Path]) -> None:
    """As in the form of 8-bit activations, which captax does not round."""
    codes, _ = drawn(8, 1)
    scale = np.random.default_rng(0).normal(size=scales).astype(np.float32)
    form = described(strategy="channel")
    form["format"] = "int-quantized"
    form["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8, "dynamic": True}
    folder = write({"": codes, "_scale": scale}, form)
    by_row = np.broadcast_to(scale if len(scales) == 2 else scale.reshape(-1, 1), (ROWS, 4))
    kept = parameters(load_model(folder, dtype=None))[OURS]
    assert isinstance(kept, Quantised)
    np.testing.assert_array_equal(kept.astype("float32"), numbers(codes, by_row))


def test_zero_points_of_4_bits_are_taken_away(write: Callable[..., Path]) -> None:
    """A code less the one for 0 fits 8 bits."""
    codes, scales = drawn(4, 5)
    zeros = np.random.default_rng(1).integers(-8, 8, scales.shape).astype(np.int8)
    parts = {"_packed": in_words(codes, 4), "_scale": scales, "_shape": np.array(codes.shape)}
    parts["_zero_point"] = in_words(zeros.T, 4).T
    folder = write(parts, described(num_bits=4, symmetric=False, strategy="group", group_size=4))
    want = numbers(codes - np.repeat(zeros, 4, axis=1).astype(np.int32), scales)
    kept = parameters(load_model(folder, dtype=None))[OURS]
    assert isinstance(kept, Quantised) and kept.bits == 8
    np.testing.assert_array_equal(kept.astype("float32"), want)
    np.testing.assert_array_equal(parameters(load_model(folder, dtype="float32"))[OURS], want)


def test_what_cannot_be_kept_is_widened(write: Callable[..., Path]) -> None:
    """Codes of 8 bits with zero points, columns in another order, and numbers in 8 bits."""
    codes, scales = drawn(8, 5)
    rng = np.random.default_rng(1)
    packed = {"_packed": in_words(codes, 8), "_scale": scales, "_shape": np.array(codes.shape)}
    zeros = rng.integers(-128, 128, scales.shape).astype(np.int8)
    order = rng.permutation(np.arange(WIDTH) // 4).astype(np.int32)
    eighths = rng.normal(size=(ROWS, WIDTH)).astype(ml_dtypes.float8_e4m3fn)
    floats = described(type="float")
    floats["format"] = "float-quantized"
    shifted = codes.astype(np.int32) - np.repeat(zeros, 4, axis=1)
    cases: list[tuple[dict[str, np.ndarray], Any, np.ndarray]] = [
        (
            packed | {"_zero_point": in_words(zeros.T, 8).T},
            described(symmetric=False),
            numbers(shifted, scales),
        ),
        (packed | {"_g_idx": order}, described(), codes * scales[:, order]),
        (
            {"": eighths, "_scale": scales[:, :1]},
            floats,
            eighths.astype(np.float32) * scales[:, :1],
        ),
    ]
    for parts, form, want in cases:
        held = parameters(load_model(write(parts, form), dtype="auto"))[OURS]
        assert not isinstance(held, Quantised)
        np.testing.assert_array_equal(held, want)


def test_an_order_that_changes_nothing_is_none(write: Callable[..., Path]) -> None:
    codes, scales = drawn(4, 5)
    parts = {"_packed": in_words(codes, 4), "_scale": scales, "_shape": np.array(codes.shape)}
    for order in (np.arange(WIDTH) // 4, np.full(WIDTH, -1)):
        folder = write(parts | {"_g_idx": order.astype(np.int32)}, described(num_bits=4))
        assert parameters(load_model(folder, dtype=None))[OURS].bits == 4


def test_scales_of_activations_are_left_out(write: Callable[..., Path]) -> None:
    codes, scales = drawn(8, 1)
    parts = {"_packed": in_words(codes, 8), "_scale": scales, "_shape": np.array(codes.shape)}
    folder = write(parts, described())
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    for name in ("mlp.down_proj.input_scale", "self_attn.k_scale", "self_attn.v_scale"):
        tensors[f"model.layers.0.{name}"] = np.ones(1, np.float32)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    assert isinstance(parameters(load_model(folder, dtype=None))[OURS], Quantised)


PACKED = {
    "_packed": np.zeros((ROWS, 5), np.int32),
    "_scale": np.ones((ROWS, 1), np.float32),
    "_shape": np.array([ROWS, WIDTH]),
}


@pytest.mark.parametrize(
    ("change", "parts", "message"),
    [
        ({"quant_method": "awq"}, {}, "form 'awq' are not supported; give the checkpoint"),
        ({"quant_method": None}, {}, "form None are not supported"),
        ({"format": "nvfp4-pack-quantized"}, {}, "format 'nvfp4-pack-quantized' are not supported"),
        ({"format": "mixed-precision"}, {}, "format 'mixed-precision' are not supported"),
        ({"config_groups": ["W4A16"]}, {}, "config_groups of quantization_config does not"),
        ({"config_groups": {"W4A16": ["Linear"]}}, {}, "config_groups of quantization_config does"),
        (
            {"config_groups": {"W4A16": {"weights": {"num_bits": [4]}}}},
            {},
            "config_groups of quant",
        ),
        (
            {"format": ["pack-quantized"]},
            {},
            r"format of quantization_config is \['pack-quantized'",
        ),
        ({"sparsity_config": {"format": "sparse-24"}}, {}, "sparse weights are not supported"),
        ({"transform_config": {"R1": {}}}, {}, r"its weights are rotated \(transform_config\)"),
        ({}, {"_packed": np.zeros((ROWS, 4), np.int32)}, "packed in 4 words for rows of 20, not 8"),
        ({}, {"_packed": np.zeros((ROWS, 5), np.uint8)}, "packed in uint8, and captax reads int32"),
        ({}, {"_packed": np.zeros((3, ROWS, 5), np.int32)}, "kept narrow in 3 axes"),
        ({}, {"_shape": np.array([ROWS])}, "nothing says its shape"),
        ({}, {"_shape": np.array([ROWS, -4])}, "is packed in 5 words for rows of -4"),
        ({}, {"_shape": np.array([10**12, WIDTH])}, "is packed in 5 words"),
        ({}, {"_scale": np.ones((ROWS, 3), np.float32)}, r"12 x 20 and has scales \(12, 3\)"),
        ({}, {"_scale": np.ones((ROWS, 0), np.float32)}, r"12 x 20 and has scales \(12, 0\)"),
        ({}, {"_scale": np.ones((ROWS, 1), np.int32)}, "has scales of type int32"),
        ({}, {"_scale": np.full((ROWS, 1), np.nan, np.float32)}, "has scales that are not finite"),
        ({}, {"_zero_point": np.zeros((2, 2), np.int32)}, "zero points that do not fit"),
        ({}, {"_zero_point": np.full((ROWS, 1), 2**40)}, "zero points that do not fit"),
        ({}, {"_g_idx": np.full(WIDTH, 1, np.int32)}, "names groups of columns that it does not"),
        ({}, {"": np.ones((ROWS, WIDTH), np.float32)}, "is there twice, packed and not"),
    ],
)
def test_other_forms_are_refused_in_a_line(
    change: dict[str, Any],
    parts: dict[str, np.ndarray],
    message: str,
    write: Callable[..., Path],
) -> None:
    folder = write(PACKED | parts, described() | change)
    with pytest.raises(CheckpointError, match=message) as refused:
        load_model(folder, dtype=None)
    said = str(refused.value)
    assert said.startswith(str(folder)) and "\n" not in said and "; " in said


def test_a_zero_point_that_no_code_of_4_bits_can_be_is_refused(write: Callable[..., Path]) -> None:
    """Less such a one, a code would not fit 8 bits."""
    parts = {"_packed": np.zeros((ROWS, 3), np.int32), "_zero_point": np.full((ROWS, 1), -121)}
    with pytest.raises(CheckpointError, match="zero points that do not fit its scales"):
        load_model(write(PACKED | parts, described(num_bits=4, symmetric=False)))


def test_a_matrix_without_columns_is_refused(write: Callable[..., Path]) -> None:
    parts = {"": np.zeros((ROWS, 0), np.int8), "_g_idx": np.zeros(0, np.int32)}
    with pytest.raises(CheckpointError, match=r"is \(12, 0\), expected \(12, 20\)"):
        load_model(write(parts | {"_scale": PACKED["_scale"]}, described()))


def test_codes_by_columns_are_read_whole(tmp_path: Path) -> None:
    """PyTorch's files keep the order that a tensor had in memory, so it is not read in parts."""
    codes, scales = drawn(8, 5)
    tensors = {}
    for suffix, values in (("", codes), ("_scale", scales)):
        path = tmp_path / f"values{suffix}"
        path.write_bytes(np.ascontiguousarray(values.T).tobytes())
        tensors[NAME + suffix] = strided(path, values.dtype, values.shape, (1, ROWS), 0)
    read = widened_or_kept({"quantization_config": described()}, tensors, tmp_path / "config.json")
    found = np.empty((ROWS, WIDTH), np.float32)
    read[NAME].read_into(found)
    np.testing.assert_array_equal(found, numbers(codes, scales))
    kept = read[NAME].codes
    assert kept is not None
    for value, want in zip(kept.read(), (codes, scales), strict=True):
        np.testing.assert_array_equal(value, want)


def test_a_matrix_without_its_zero_points_is_refused(write: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointError, match="lacks zero points"):
        load_model(write(PACKED, described(symmetric=False)))
    scaled = {"": np.ones((ROWS, WIDTH), np.float32), "_scale": PACKED["_scale"]}
    with pytest.raises(CheckpointError, match="has scales and is float32, not 8 bits"):
        load_model(write(scaled, described()))


# Small models have small matrices.
@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quantise small matrices too."""
    monkeypatch.setattr("captax.models.quantised.LEAST", 1)
    monkeypatch.setattr("captax.models.quantised.GROUP", 4)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("name", ["smolvlm", "qwen2.5-vl", "vit-gpt2", "blip"])
def test_what_was_loaded_narrow_is_saved_so(
    name: str, dtype: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """Every layer's codes stay as they are, also where a file joins queries, keys and values."""
    narrow = captax.load(checkpoint(name), dtype=dtype)
    narrow.save(tmp_path / "out")
    again = captax.load(tmp_path / "out")
    before, after = parameters(narrow.model), parameters(again.model)
    kept = {key for key, each in after.items() if isinstance(each, Quantised)}
    assert any("mlp.up" in key or "query" in key for key in kept)
    for key, each in after.items():
        if key in kept:
            np.testing.assert_array_equal(each.codes, before[key].codes)
            np.testing.assert_array_equal(each.scales, before[key].scales, strict=True)
        else:
            np.testing.assert_array_equal(each, before[key].astype("float32"))


@pytest.mark.usefixtures("small")
def test_the_type_that_is_asked_for_decides(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source, out = checkpoint("smolvlm"), tmp_path / "out"
    captax.load(source, dtype="bfloat16").save(out, dtype="int8")
    name = "decoder.layers.0.mlp.up.kernel"

    def loaded(dtype: str | None) -> Any:
        return parameters(captax.load(out, dtype=dtype).model)

    assert loaded(None)[name].bits == loaded("int8")[name].bits == 8
    assert loaded(None)[name].dtype == loaded(None)["encoder.norm.scale"].dtype == jnp.bfloat16
    assert loaded("float32")[name].dtype == jnp.float32
    assert not isinstance(loaded("float32")[name], Quantised)
    # What the file leaves wide is narrow if one asks, and what is wider than one asks is narrowed.
    assert not isinstance(loaded(None)["decoder.embedding"], Quantised)
    assert isinstance(loaded("int8")["decoder.embedding"], Quantised)
    assert loaded("int4")[name].bits == 4
    np.testing.assert_array_equal(loaded("int8")[name].codes, loaded(None)[name].codes)
    captax.load(out).save(tmp_path / "wide", dtype="float16")
    assert "quantization_config" not in json.loads((tmp_path / "wide/config.json").read_text())


def test_nothing_that_can_be_narrow_is_said(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = load_model(checkpoint("gpt2"))
    with pytest.raises(CheckpointError, match="a file can hold no matrix of this gpt2 so; save it"):
        save_model(tmp_path, model, dtype="int8")
