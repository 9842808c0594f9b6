"""Narrow checkpoints against the library of their form, and transformers, which reads them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from captax.checkpoints.directory import load_model, save_model
from captax.checkpoints.state import export, parameters
from captax.models.quantised import Quantised
from captax.models.registry import read_config

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
pytest.importorskip("compressed_tensors")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 40,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}
NAME, OURS = "model.layers.1.mlp.down_proj.weight", "layers.1.mlp.down.kernel"
GROUPS = {"strategy": "group", "group_size": 64}
FORMS: list[tuple[str, dict[str, Any], int]] = [
    ("pack-quantized", {"num_bits": 8, "strategy": "channel"}, 8),
    ("pack-quantized", {"num_bits": 8, **GROUPS}, 8),
    ("pack-quantized", {"num_bits": 4, **GROUPS}, 4),
    ("pack-quantized", {"num_bits": 4, "symmetric": False, **GROUPS}, 8),
    ("int-quantized", {"num_bits": 8, "strategy": "channel"}, 8),
    ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}, 0),
]


@pytest.mark.parametrize("kind", ["bfloat16", "float32"])
@pytest.mark.parametrize(("form", "weights", "bits"), FORMS)
def test_the_numbers_are_those_of_the_library(
    form: str, weights: dict[str, Any], bits: int, kind: str, tmp_path: Path
) -> None:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    model = read_config(CONFIG).build(rngs=nnx.Rngs(0))
    tensors: dict[str, Any] = dict(export(model, model.config.layout(), dtype=kind))
    wide = torch.tensor(tensors.pop(NAME).astype(np.float32)).to(getattr(torch, kind))
    groups = wide.unflatten(1, (-1, weights.get("group_size", wide.shape[1])))
    scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), scheme.weights)
    parts = {"weight": wide, "weight_scale": scale.to(wide.dtype), "weight_zero_point": zero}
    compressor = BaseCompressor.get_value_from_registry(form)
    stored = compressor.compress(parts, scheme)
    want = compressor.decompress(stored, scheme)["weight"]
    stem = NAME.removesuffix("weight")
    for name, value in stored.items():
        if value.dtype in (torch.bfloat16, torch.float8_e4m3fn):
            named = {torch.bfloat16: jnp.bfloat16, torch.float8_e4m3fn: jnp.float8_e4m3fn}
            raw = value.contiguous().view(torch.uint8).numpy().view(named[value.dtype])
            tensors[stem + name] = raw.reshape(tuple(value.shape))
        else:
            tensors[stem + name] = value.contiguous().numpy()
    said = {**json.loads(scheme.model_dump_json()), "format": form}
    described = {"quant_method": "compressed-tensors", "format": form}
    contents = {**CONFIG, "dtype": kind, "quantization_config": described}
    described["config_groups"] = {"group_0": said}  # type: ignore[assignment]
    (tmp_path / "config.json").write_text(json.dumps(contents))
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    held = parameters(load_model(tmp_path, dtype=None))[OURS]
    assert (held.bits if isinstance(held, Quantised) else 0) == bits
    assert held.dtype.name == kind
    np.testing.assert_array_equal(np.asarray(held.astype(kind), np.float32), want.float().numpy())


@pytest.mark.parametrize("dequantize", [True, False])
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_transformers_reads_what_is_saved(dtype: str, dequantize: bool, tmp_path: Path) -> None:
    model = read_config(CONFIG).build(rngs=nnx.Rngs(0))
    save_model(tmp_path, model, dtype=dtype)
    theirs, told = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path,
        quantization_config=transformers.CompressedTensorsConfig(dequantize=dequantize),
        output_loading_info=True,
    )
    assert not any(told.values()), told
    tokens = np.random.default_rng(0).integers(3, 40, (2, 9))
    with torch.no_grad():
        want = theirs(torch.tensor(tokens)).logits.numpy()
    narrow = load_model(tmp_path, dtype=None)
    assert any(isinstance(each, Quantised) for each in parameters(narrow).values())
    got: Any = narrow
    np.testing.assert_allclose(got(None, jnp.asarray(tokens)), want, atol=1e-5)
    assert np.abs(np.asarray(model(None, jnp.asarray(tokens))) - want).max() > 1e-3  # type: ignore[operator]


@pytest.mark.parametrize("name", ["smolvlm", "llava", "gemma3-vision", "qwen2.5-vl", "florence2"])
def test_transformers_reads_the_layers_of_vision_language_models(
    name: str,
    checkpoint: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """What is wide is left out by patterns, for modules are called otherwise than tensors."""
    monkeypatch.setattr("captax.models.quantised.LEAST", 1)
    monkeypatch.setattr("captax.models.quantised.GROUP", 4)
    for kind in ("narrow", "wide"):
        (tmp_path / kind).mkdir()
    save_model(tmp_path / "narrow", load_model(checkpoint(name)), dtype="int4")
    save_model(tmp_path / "wide", load_model(tmp_path / "narrow", dtype="float32"))
    contents = json.loads((tmp_path / "narrow" / "config.json").read_text())
    kind = getattr(transformers, contents["architectures"][0])
    narrow, told = kind.from_pretrained(
        tmp_path / "narrow",
        quantization_config=transformers.CompressedTensorsConfig(dequantize=False),
        output_loading_info=True,
    )
    assert not any(told.values()), told
    from compressed_tensors.compressors import decompress_module

    packed = [each for each in narrow.modules() if hasattr(each, "weight_packed")]
    assert packed
    for each in packed:
        decompress_module(each)
    found = narrow.state_dict()
    for key, value in kind.from_pretrained(tmp_path / "wide").state_dict().items():
        np.testing.assert_array_equal(found[key].numpy(), value.numpy(), err_msg=key)
