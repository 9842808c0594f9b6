"""CLIP: what checkpoints of all ages hold, and what is beside the comparison of whole batches."""

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

from captax.checkpoints.directory import load_half, load_model
from captax.checkpoints.state import parameters
from captax.models.clip import Clip, ClipText
from captax.models.config import ConfigError
from captax.models.encoders import Features, LengthError, TextBatch
from captax.models.registry import build, read_config
from golden.case import CHECKPOINTS

TEXT = {
    "model_type": "clip_text_model",
    "vocab_size": 20,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 8,
}


@pytest.fixture(scope="module")
def clip() -> Clip:
    return load_model(CHECKPOINTS / "clip")


def pictures(count: int = 2) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (count, 32, 32, 3))


def rewrite(directory: Path, config: Any = None, rename: Any = None) -> None:
    """Change a checkpoint's config and the names of its tensors."""
    path = directory / "config.json"
    if config:
        path.write_text(json.dumps(config(json.loads(path.read_text()))))
    if rename:
        weights = directory / "model.safetensors"
        safetensors.numpy.save_file(rename(safetensors.numpy.load_file(weights)), weights)


def test_a_text_alone_is_what_it_is_padded_beside_others(clip: Clip) -> None:
    tokens = np.array([[3, 9, 8, 37, 1, 1], [3, 39, 7, 6, 5, 37]])
    mask = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]], bool)
    embed = jax.jit(lambda text: clip.embed_texts(text))
    both = embed(TextBatch(jnp.array(tokens), jnp.array(mask)))
    alone = embed(TextBatch(jnp.array(tokens[:1, :4]), jnp.ones((1, 4), bool)))
    np.testing.assert_allclose(both[:1], alone, atol=1e-5)
    assert abs(both[0] - both[1]).max() > 0.1


@pytest.mark.parametrize(("eos", "places"), [(2, [2, 1]), (12, [1, 3])])
def test_a_text_is_pooled_at_its_first_eos_or_highest_token(eos: int, places: list[int]) -> None:
    """The highest where the config says 2, as configs did that were wrong about it."""
    tokens = jnp.array([[4, 12, 15, 12, 2], [3, 19, 2, 12, 12]])
    states = jax.random.normal(jax.random.key(0), (2, 5, 16))
    model = build({**TEXT, "eos_token_id": eos})
    assert isinstance(model, ClipText)
    pooled = model.pool(Features(states, (1, 5)), TextBatch(tokens, jnp.ones((2, 5), bool)))
    np.testing.assert_array_equal(pooled, np.asarray(states)[[0, 1], places])


def test_texts_too_long_are_refused(clip: Clip) -> None:
    text = TextBatch(jnp.full((1, 13), 5), jnp.ones((1, 13), bool))
    with pytest.raises(
        LengthError, match="encoder reads 12 tokens and was given 13; shorten the texts"
    ):
        clip.embed_texts(text)


def test_checkpoints_of_before_2023_are_read(clip: Clip, tmp_path: Path) -> None:
    """They say the towers' configs twice and hold buffers."""

    def config(new: dict[str, Any]) -> dict[str, Any]:
        text = new.pop("text_config")
        vision = new.pop("vision_config")
        # Of both, transformers takes the older.
        return {
            **new,
            "text_config": {**text, "hidden_size": 99},
            "text_config_dict": text,
            "vision_config": None,
            "vision_config_dict": vision,
        }

    def rename(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        buffers = {
            f"{tower}_model.embeddings.position_ids": np.arange(12)[None]
            for tower in ("text", "vision")
        }
        return {**tensors, **buffers}

    old = shutil.copytree(CHECKPOINTS / "clip", tmp_path / "old")
    rewrite(old, config, rename)
    again = load_model(old)
    assert again.config == clip.config
    same_weights(again, clip)


@pytest.mark.parametrize("name", ["clip-vision", "clip-text"])
def test_bare_towers_of_before_transformers_5_are_read(name: str, tmp_path: Path) -> None:
    old = shutil.copytree(CHECKPOINTS / name, tmp_path / "old")
    prefix = name.removeprefix("clip-") + "_model."
    position_ids = {"embeddings.position_ids": np.arange(9)[None]}
    rewrite(old, None, lambda found: {prefix + k: v for k, v in (found | position_ids).items()})
    same_weights(load_model(old), load_model(CHECKPOINTS / name))


def test_half_of_a_captioner_is_the_vision_tower(clip: Clip) -> None:
    encoder = load_half(CHECKPOINTS / "clip", "encoder", rngs=nnx.Rngs(0))
    same_weights(encoder, clip.vision)


def test_a_config_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="clip: text_config='base' must be a JSON object"):
        read_config({"model_type": "clip", "text_config": "base"})
    with pytest.raises(ConfigError, match="num_channels=1 is not supported; it must be 3"):
        read_config({"model_type": "clip", "vision_config": {"num_channels": 1}})


def test_initial_weights_are_spread_as_in_the_paper_s_code() -> None:
    config = {**TEXT, "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 8}
    layer = build(config, rngs=nnx.Rngs(0)).layers[3]
    want = {
        layer.self_attention.query: 64**-0.5 * 16**-0.5,
        layer.self_attention.out: 64**-0.5,
        layer.mlp.up: 128**-0.5,
        layer.mlp.down: 64**-0.5 * 16**-0.5,
    }
    for module, std in want.items():
        assert float(module.kernel[...].std()) == pytest.approx(std, rel=0.05)


def test_a_frozen_tower_can_be_cut_anywhere(clip: Clip) -> None:
    """`last_parts` after `first_parts` is the whole, also of pictures of another size."""
    pixels = jax.random.normal(jax.random.key(1), (1, 40, 24, 3))
    vision = clip.vision
    whole = vision(pixels)
    assert whole.grid == (5, 3)
    assert len(vision.parts()) == 4
    for depth in range(5):
        cut = vision.last_parts(vision.first_parts(pixels, depth), depth, (40, 24))
        np.testing.assert_allclose(cut.tokens, whole.tokens, atol=1e-5)


def same_weights(model: nnx.Module, other: nnx.Module) -> None:
    got, want = parameters(model), parameters(other)
    assert got.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)
