"""GIT: decoding token by token, with the picture in the same sequence, and its checkpoints."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from captax.checkpoints.directory import load_model
from captax.checkpoints.state import parameters
from captax.models.config import ConfigError, Roles
from captax.models.encoder_decoder import EncoderDecoder
from captax.models.encoders import Features
from captax.models.registry import build, read_config
from golden.case import CHECKPOINTS


@pytest.fixture(scope="module")
def git() -> EncoderDecoder:
    return load_model(CHECKPOINTS / "git")


@pytest.fixture(scope="module")
def features(git: EncoderDecoder) -> Features:
    return jax.jit(git.encode)(jax.random.normal(jax.random.key(0), (2, 32, 32, 3)))


@pytest.mark.parametrize("prompt", [1, 3])
def test_decoding_with_a_cache_gives_the_logits_of_the_whole_caption(
    git: EncoderDecoder, features: Features, prompt: int
) -> None:
    tokens = np.random.default_rng(0).integers(0, 40, (2, 6)).astype(np.int32)
    whole = jax.jit(git.read)(features, tokens)
    advance = jax.jit(git.advance)
    logits, cache = jax.jit(git.begin, static_argnums=2)(features, tokens[:, :prompt], 6 - prompt)
    np.testing.assert_allclose(logits, whole[:, prompt - 1], atol=1e-4)
    for t in range(prompt, 6):
        logits, cache = advance(tokens[:, t], cache)
        np.testing.assert_allclose(logits, whole[:, t], atol=1e-4)
    assert (cache.positions == 6).all()


def test_beams_that_branch_and_swap_give_the_logits_of_their_own_captions(
    git: EncoderDecoder, features: Features
) -> None:
    batch, beams, rng = 2, 3, np.random.default_rng(1)
    rows = batch * beams
    said = np.repeat(rng.integers(0, 40, (batch, 2)), beams, axis=0).astype(np.int32)
    begin = jax.jit(git.begin, static_argnums=(2, 3))
    _, cache = begin(features, jnp.array(said[::beams]), 4, beams)
    assert cache.prefix.places[0][0].shape[0] == batch  # what was read is never repeated
    advance = jax.jit(lambda tokens, cache, parents: git.advance(tokens, cache.reorder(parents)))
    whole = jax.jit(git.read)
    shared = Features(jnp.repeat(features.tokens, beams, axis=0), features.grid, features.lead)
    for _ in range(4):
        # Beams continue any beam of their own picture.
        parents = rng.integers(0, beams, rows) + np.arange(rows) // beams * beams
        said = np.concatenate([said[parents], rng.integers(0, 40, (rows, 1))], 1).astype(np.int32)
        logits, cache = advance(jnp.array(said[:, -1]), cache, jnp.array(parents))
        padded = np.zeros((rows, 6), np.int32)
        padded[:, : said.shape[1]] = said
        want = whole(shared, padded)[:, said.shape[1] - 1]
        np.testing.assert_allclose(logits, want, atol=1e-4)


def test_packed_captions_give_the_logits_of_each_alone(
    git: EncoderDecoder, features: Features
) -> None:
    one = jax.tree.map(lambda x: x[:1], features)
    tokens = np.array([[1, 5, 3, 1, 4, 8]], np.int32)
    positions = np.array([[0, 1, 2, 0, 1, 2]], np.int32)
    segments = np.array([[1, 1, 1, 2, 2, 2]], np.int32)
    packed = jax.jit(git.read)(one, tokens, positions, segments)
    for part in (slice(0, 3), slice(3, 6)):
        want = jax.jit(git.read)(one, tokens[:, part])
        np.testing.assert_allclose(packed[:, part], want, atol=1e-4)


def test_the_caption_depends_on_the_picture(git: EncoderDecoder, features: Features) -> None:
    tokens = np.array([[1, 5]] * 2, np.int32)
    logits = jax.jit(git.read)(features, tokens)
    assert abs(logits[0] - logits[1]).max() > 1e-2


def test_checkpoints_with_buffers_and_tied_copies_are_read(tmp_path: Path) -> None:
    """As transformers wrote them before it left both out."""
    stored = CHECKPOINTS / "git-other-size"  # tied
    old = shutil.copytree(stored, tmp_path / "old")
    tensors = safetensors.numpy.load_file(old / "model.safetensors")
    tensors["output.weight"] = tensors["git.embeddings.word_embeddings.weight"].copy()
    tensors["git.embeddings.position_ids"] = np.arange(20)[None]
    tensors["git.image_encoder.vision_model.embeddings.position_ids"] = np.arange(17)[None]
    safetensors.numpy.save_file(tensors, old / "model.safetensors")
    got, want = parameters(load_model(old)), parameters(load_model(stored))
    assert got.keys() == want.keys()
    assert "decoder.kernel" not in got
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


def test_video_models_read_pictures_and_fewer_frames_too() -> None:
    """A picture has no place among frames; a video has that of its first ones."""
    model = load_model(CHECKPOINTS / "git-video")
    assert model.most_frames == 3
    frames = jax.random.normal(jax.random.key(0), (1, 2, 32, 32, 3))
    encode = jax.jit(model.encode)
    picture, first, both = encode(frames[:, 0]), encode(frames[:, :1]), encode(frames)
    places = picture.tokens.shape[1]
    assert both.tokens.shape[1] == 2 * places
    np.testing.assert_allclose(both.tokens[:, :places], first.tokens, atol=1e-5)
    added = first.tokens - picture.tokens
    np.testing.assert_allclose(added[0], [model.frames[0].value[...]] * places, atol=1e-5)


def test_checkpoints_of_videos_are_read_as_the_hub_spells_them(tmp_path: Path) -> None:
    stored = CHECKPOINTS / "git-video"
    old = shutil.copytree(stored, tmp_path / "old")
    tensors = safetensors.numpy.load_file(old / "model.safetensors")
    renamed = {name.replace("temporal", "temperal"): value for name, value in tensors.items()}
    assert renamed.keys() != tensors.keys()
    safetensors.numpy.save_file(renamed, old / "model.safetensors")
    got, want = parameters(load_model(old)), parameters(load_model(stored))
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


def test_impossible_configs_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_image_with_embedding=0 must be 1 to"):
        read_config({"model_type": "git", "num_image_with_embedding": 0})
    with pytest.raises(ConfigError, match="git: vision_config=16 must be a JSON object"):
        read_config({"model_type": "git", "vision_config": 16})


def test_the_config_says_how_captions_begin_and_end() -> None:
    """BERT's tokens, when it does not say otherwise."""
    assert read_config({"model_type": "git"}).roles() == Roles(101, 102, 0)
    assert read_config({"model_type": "git", "eos_token_id": 7}).roles().eos == 7


def test_new_models_begin_with_the_deviation_that_the_config_says() -> None:
    config = json.loads((CHECKPOINTS / "git" / "config.json").read_text())
    model = build({**config, "initializer_range": 0.5}, rngs=nnx.Rngs(0))
    for name, value in parameters(model).items():
        if value.ndim > 1:
            want = 0.02 if name.startswith("encoder") else 0.5
            assert float(value.std()) == pytest.approx(want, rel=0.2), name
