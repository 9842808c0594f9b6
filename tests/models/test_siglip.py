"""SigLIP: its towers and heads, and what is beside the comparison of whole batches."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from captax.checkpoints.directory import load_for_labels, load_half, load_model, save_model
from captax.checkpoints.state import CheckpointError, parameters
from captax.models.config import ConfigError
from captax.models.encoders import LengthError, TextBatch
from captax.models.observing import observe
from captax.models.registry import build, read_config
from captax.models.siglip import Siglip, SiglipClassifier, SiglipConfig, SiglipVision
from golden.case import CHECKPOINTS

VISION = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 20,
    "projection_size": 24,
}


@pytest.fixture(scope="module")
def siglip() -> Siglip:
    return load_model(CHECKPOINTS / "siglip")


def siglip_config(**vision: Any) -> dict[str, Any]:
    return {"model_type": "siglip", "vision_config": {**VISION, **vision}, "text_config": TEXT}


def same_weights(model: nnx.Module, other: nnx.Module) -> None:
    got, want = parameters(model), parameters(other)
    assert got.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


def test_a_config_is_recognised_and_has_the_defaults_of_transformers() -> None:
    config = read_config({"model_type": "siglip"})
    assert isinstance(config, SiglipConfig) and not config.labels
    vision, text = config.vision_config, config.text_config
    assert (vision.patch_size, vision.hidden_act) == (16, "gelu_pytorch_tanh")
    assert vision.layer_norm_eps == text.layer_norm_eps == 1e-6 and vision.vision_use_head
    assert (text.vocab_size, text.max_position_embeddings, text.vector_width) == (32000, 64, 768)


@pytest.mark.parametrize(
    ("tensors", "labels"),
    [((), 3), (("classifier.weight",), 3), (("text_model.head.weight",), 0)],
)
def test_the_tensors_or_else_the_class_tell_whether_it_classifies(
    tensors: tuple[str, ...], labels: int
) -> None:
    named = {"architectures": ["SiglipForImageClassification"], "num_labels": 3}
    config = read_config(siglip_config() | named, tensors)
    assert isinstance(config, SiglipConfig) and len(config.labels) == labels
    assert isinstance(config.build(), SiglipClassifier if labels else Siglip)


def test_pictures_become_a_grid_of_tokens_and_nothing_else() -> None:
    model = build({"model_type": "siglip_vision_model", **VISION}, rngs=nnx.Rngs(0))
    features = model(jnp.zeros((2, 32, 24, 3)))
    assert features.tokens.shape == (2, 4 * 3, 24)
    assert (features.grid, features.lead) == ((4, 3), 0)
    assert model.pool(features).shape == (2, 24)


def test_a_tower_without_a_head_is_the_same_encoder_and_cannot_pool() -> None:
    config = {"model_type": "siglip_vision_model", **VISION}
    whole, bare = (
        build({**config, "vision_use_head": head}, rngs=nnx.Rngs(0)) for head in (True, False)
    )
    assert not any(name.startswith("head") for name in parameters(bare))
    features = bare(jnp.ones((1, 32, 32, 3)))
    np.testing.assert_array_equal(features.tokens, whole(jnp.ones((1, 32, 32, 3))).tokens)
    with pytest.raises(ConfigError, match="vision_use_head=false leaves the vision tower without"):
        bare.pool(features)


def test_the_head_tells_where_it_looked(siglip: Siglip) -> None:
    pixels = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    _, seen = observe(siglip.embed_images, pixels)
    [looked] = seen["vision.head.cross_attentions"]
    assert looked.shape == (2, 3, 1, 16)
    np.testing.assert_allclose(looked.sum(-1), 1, rtol=1e-5)
    assert len(seen["vision.attentions"]) == 2  # of the layers alone


def test_padding_is_read_unless_a_mask_hides_it(siglip: Siglip) -> None:
    """The vector of a text is at the end of its row, padding or not, as the model was trained."""
    tokens = jnp.array([[9, 8, 1, 1, 1, 1]])
    shown, hidden = (
        siglip.embed_texts(TextBatch(tokens, jnp.array([[1, 1, 1, rest, rest, rest]], bool)))
        for rest in (1, 0)
    )
    alone = siglip.embed_texts(TextBatch(tokens[:, :3], jnp.ones((1, 3), bool)))
    assert abs(shown - hidden).max() > 0.01
    assert abs(shown - alone).max() > 0.01
    with pytest.raises(LengthError, match="encoder reads 12 tokens and was given 13"):
        siglip.text(jnp.full((1, 13), 5))


def test_each_text_has_a_probability_of_its_own(siglip: Siglip) -> None:
    cosines = jnp.array([[0.9, -0.3], [0.1, 0.2]])
    scale, bias = (float(parameters(siglip)[f"logit_{name}"]) for name in ("scale", "bias"))
    want = 1 / (1 + np.exp(-(np.exp(scale) * np.asarray(cosines) + bias)))
    np.testing.assert_allclose(siglip.probabilities(cosines), want, atol=1e-6)


@pytest.mark.parametrize("name", ["siglip", "siglip-classifier", "siglip-vision"])
def test_half_of_a_captioner_is_the_vision_tower(name: str) -> None:
    whole = load_model(CHECKPOINTS / name)
    encoder = load_half(CHECKPOINTS / name, "encoder", rngs=nnx.Rngs(0))
    assert isinstance(encoder, SiglipVision)
    same_weights(encoder, whole if name == "siglip-vision" else whole.vision)


@pytest.mark.parametrize("name", ["siglip", "siglip-classifier", "siglip-vision"])
def test_a_new_head_is_put_on_any_vision_tower(name: str, tmp_path: Path) -> None:
    labels = ("cat", "dog", "none")
    classifier = load_for_labels(CHECKPOINTS / name, labels, rngs=nnx.Rngs(0))
    assert isinstance(classifier, SiglipClassifier) and classifier.config.labels == labels
    same_weights(classifier.vision, load_half(CHECKPOINTS / name, "encoder", rngs=nnx.Rngs(0)))
    assert classifier.classify(jnp.zeros((2, 32, 32, 3))).shape == (2, 3)
    save_model(tmp_path, classifier)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["architectures"] == ["SiglipForImageClassification"]
    assert written["id2label"]["1"] == "dog" and "labels" not in written
    same_weights(load_model(tmp_path), classifier)


def test_labels_are_of_the_mean_of_the_tokens() -> None:
    classifier = load_model(CHECKPOINTS / "siglip-classifier")
    pixels = jax.random.normal(jax.random.key(0), (2, 32, 24, 3))
    mean = np.asarray(classifier(pixels).tokens).mean(1)
    want = mean @ np.asarray(classifier.classifier.kernel).T + np.asarray(
        classifier.classifier.bias
    )
    np.testing.assert_allclose(classifier.classify(pixels), want, atol=1e-5)


@pytest.mark.parametrize("name", ["siglip-vision", "siglip-text"])
def test_bare_towers_of_before_transformers_5_are_read(name: str, tmp_path: Path) -> None:
    old = shutil.copytree(CHECKPOINTS / name, tmp_path / "old")
    prefix = name.removeprefix("siglip-") + "_model."
    tensors = safetensors.numpy.load_file(old / "model.safetensors")
    tensors["embeddings.position_ids"] = np.arange(9)[None]
    tensors = {prefix + name: tensor for name, tensor in tensors.items()}
    safetensors.numpy.save_file(tensors, old / "model.safetensors")
    same_weights(load_model(old), load_model(CHECKPOINTS / name))


@pytest.mark.parametrize("name", ["siglip-vision", "siglip-classifier"])
def test_a_frozen_tower_can_be_cut_anywhere(name: str) -> None:
    """`last_parts` after `first_parts` is the whole, also of pictures of another size."""
    pixels = jax.random.normal(jax.random.key(1), (1, 40, 24, 3))
    model = load_model(CHECKPOINTS / name)
    whole = model(pixels)
    assert whole.grid == (5, 3)
    assert model.image_size == (32, 32) and model.features_width == 24
    assert len(model.parts()) == 4
    for depth in range(5):
        cut = model.last_parts(model.first_parts(pixels, depth), depth, (40, 24))
        np.testing.assert_allclose(cut.tokens, whole.tokens, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (siglip_config(vision_use_head=False), "pictures and texts cannot be compared without"),
        (siglip_config(hidden_size=48), "texts are 24 wide and vectors of pictures 48"),
        (siglip_config(num_channels=1), "num_channels=1 is not supported; it must be 3"),
        ({"model_type": "siglip", "text_config": "base"}, "text_config='base' must be a JSON obj"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        build(config)
    assert str(error.value).startswith("siglip")


def test_a_checkpoint_that_does_not_fit_is_named_tensor_by_tensor(tmp_path: Path) -> None:
    path = shutil.copytree(CHECKPOINTS / "siglip", tmp_path / "siglip")
    tensors = safetensors.numpy.load_file(path / "model.safetensors")
    del tensors["logit_bias"]
    name = "vision_model.head.attention.in_proj_weight"
    tensors[name] = tensors[name][:-1]
    safetensors.numpy.save_file(tensors, path / "model.safetensors")
    with pytest.raises(CheckpointError) as error:
        load_model(path)
    assert "missing logit_bias" in str(error.value)
    assert f"{name} is (71, 24), expected (72, 24)" in str(error.value)


def test_initial_weights_are_spread_as_in_the_reference() -> None:
    wide = siglip_config(hidden_size=96, intermediate_size=256, patch_size=4)
    wide["text_config"] = {**TEXT, "projection_size": 96, "vocab_size": 2000}
    model = build(wide, rngs=nnx.Rngs(0))
    layer, head = model.vision.layers[1], model.vision.head
    want = {
        "embeddings.kernel": (model.vision.embeddings.kernel, 48**-0.5),
        "embeddings.positions": (model.vision.embeddings.positions, 96**-0.5),
        "query": (layer.self_attention.query.kernel, 96**-0.5),
        "up": (layer.mlp.up.kernel, (2 / 352) ** 0.5),
        "down": (layer.mlp.down.kernel, (2 / 352) ** 0.5),
        "head.query": (head.attention.query.kernel, 192**-0.5),
        "head.out": (head.attention.out.kernel, 96**-0.5),
        "text.embedding": (model.text.embedding, 16**-0.5),
        "text.head": (model.text.head.kernel, 16**-0.5),
    }
    for name, (value, std) in want.items():
        assert float(value[...].std()) == pytest.approx(std, rel=0.07), name
    assert float(model.logit_scale[...]) == float(model.logit_bias[...]) == 0
