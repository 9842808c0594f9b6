"""The decoder: what training computes at once and what decoding computes token by token."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from captax.models.config import ConfigError
from captax.models.encoders import Features
from captax.models.transformer import TransformerDecoder

CONFIG = {
    "model_type": "captax-transformer",
    "vocab_size": 9,
    "width": 16,
    "layers": 2,
    "heads": 2,
    "mlp_width": 32,
    "max_positions": 12,
    "features_width": 8,
    "grid": [2, 3],
}


HINTED = CONFIG | {"hints": 2, "class_words": [[4], [5, 6], [7], [8, 2]]}


# As the first transformers were: norms after the sums, and an output layer of its own.
FIRST = CONFIG | {"order": "post", "tie_word_embeddings": False}


@pytest.fixture(
    scope="module", params=[CONFIG, HINTED, FIRST], ids=["plain", "hinted", "post-norm"]
)
def decoder(make_model: Callable[..., Any], request: pytest.FixtureRequest) -> TransformerDecoder:
    return make_model(request.param)


def pictures(count: int, *, lead: int = 0) -> Features:
    tokens = jax.random.normal(jax.random.key(count), (count, lead + 6, 8))
    labels = jax.random.normal(jax.random.key(count + 1), (count, 4))
    return Features(tokens=tokens, grid=(2, 3), lead=lead, labels=labels)


@pytest.mark.parametrize(("prompt", "lead"), [(1, 0), (3, 1)])
def test_decoding_with_a_cache_gives_the_logits_of_the_whole_caption(
    decoder: TransformerDecoder, prompt: int, lead: int
) -> None:
    features = pictures(2, lead=lead)
    tokens = np.random.default_rng(0).integers(0, 9, (2, 6)).astype(np.int32)
    whole = jax.jit(decoder)(features, tokens)
    begin, advance = jax.jit(decoder.begin, static_argnums=2), jax.jit(decoder.advance)
    logits, cache = begin(features, tokens[:, :prompt], 6 - prompt)
    np.testing.assert_allclose(logits, whole[:, prompt - 1], atol=1e-4)
    for t in range(prompt, 6):
        logits, cache = advance(tokens[:, t], cache)
        np.testing.assert_allclose(logits, whole[:, t], atol=1e-4)
    assert (cache.positions == 6).all()


def test_beams_that_branch_and_swap_give_the_logits_of_their_own_captions(
    decoder: TransformerDecoder,
) -> None:
    batch, beams, rng = 2, 3, np.random.default_rng(1)
    rows = batch * beams
    features = pictures(batch)
    said = np.repeat(rng.integers(0, 9, (batch, 2)), beams, axis=0).astype(np.int32)
    begin = jax.jit(decoder.begin, static_argnums=(2, 3))
    _, cache = begin(features, jnp.array(said[::beams]), 4, beams)
    assert cache.prefix.memory[0][0].shape[0] == batch  # what was read is never repeated
    advance = jax.jit(
        lambda tokens, cache, parents: decoder.advance(tokens, cache.reorder(parents))
    )
    whole = jax.jit(decoder)
    shared = jax.tree.map(lambda x: jnp.repeat(x, beams, axis=0), features)
    for _ in range(4):
        # Beams continue any beam of their own picture.
        parents = rng.integers(0, beams, rows) + np.arange(rows) // beams * beams
        said = np.concatenate([said[parents], rng.integers(0, 9, (rows, 1))], 1).astype(np.int32)
        logits, cache = advance(jnp.array(said[:, -1]), cache, jnp.array(parents))
        padded = np.zeros((rows, 6), np.int32)
        padded[:, : said.shape[1]] = said
        want = whole(shared, padded)[:, said.shape[1] - 1]
        np.testing.assert_allclose(logits, want, atol=1e-4)


def test_packed_captions_give_the_logits_of_each_alone(decoder: TransformerDecoder) -> None:
    features = pictures(1)
    captions = [[1, 5, 3], [1, 4], [1, 7, 8, 6]]
    tokens = np.array([[*captions[0], *captions[1], *captions[2], 0]], np.int32)
    positions = np.array([[0, 1, 2, 0, 1, 0, 1, 2, 3, 0]], np.int32)
    segments = np.array([[1, 1, 1, 2, 2, 3, 3, 3, 3, 0]], np.int32)
    packed = jax.jit(decoder)(features, tokens, positions, segments)[0]
    alone = jax.jit(decoder)
    begin = 0
    for caption in captions:
        padded = np.zeros((1, 4), np.int32)  # what follows cannot be seen
        padded[0, : len(caption)] = caption
        want = alone(features, padded)[0, : len(caption)]
        np.testing.assert_allclose(packed[begin : begin + len(caption)], want, atol=1e-4)
        begin += len(caption)


def test_the_caption_depends_on_where_in_the_picture_things_are(
    decoder: TransformerDecoder,
) -> None:
    features, lead = pictures(1), pictures(1, lead=1)
    tokens = np.array([[1, 2]], np.int32)
    whole = jax.jit(decoder)

    def logits(features: Features, order: list[int]) -> np.ndarray:
        moved = dataclasses.replace(features, tokens=features.tokens[:, jnp.array(order)])
        return np.asarray(whole(moved, tokens))

    here = logits(features, [0, 1, 2, 3, 4, 5])
    assert abs(logits(features, [1, 0, 2, 3, 4, 5]) - here).max() > 1e-2  # another column
    assert abs(logits(features, [3, 1, 2, 0, 4, 5]) - here).max() > 1e-2  # another row
    # A leading token has no place: with it alone dropped, the others are where they were.
    grid_only = Features(lead.tokens[:, 1:], lead.grid)
    memory = decoder.bridge(lead)[:, 1:]
    np.testing.assert_allclose(memory, decoder.bridge(grid_only), atol=1e-5)


def test_hints_are_the_likeliest_classes_and_how_likely_they_are(
    make_model: Callable[..., Any],
) -> None:
    decoder = make_model(HINTED)
    features = pictures(1)

    def memory(*shares: float, chosen: TransformerDecoder = decoder) -> np.ndarray:
        given = dataclasses.replace(features, labels=jnp.log(jnp.array([shares])))
        return np.asarray(chosen.memory(given)[0])

    here = memory(0.1, 0.6, 0.1, 0.2)
    np.testing.assert_allclose(here[:6], decoder.bridge(features)[0], atol=1e-6)
    assert here.shape == (8, 16)
    # The first is class 1, whose words are 5 and 6; the second is class 3.
    words = decoder.embedding[...][jnp.array([5, 6])].mean(0)
    hints = decoder.hints
    want = hints.project(hints.norm(words)) + 0.6 * hints.certainty[...]
    np.testing.assert_allclose(here[6], want, atol=1e-6)
    surer = memory(0.05, 0.8, 0.05, 0.1)
    np.testing.assert_allclose(surer[6] - here[6], 0.2 * hints.certainty[...], atol=1e-6)
    assert abs(memory(0.3, 0.6, 0.0, 0.1)[7] - here[7]).max() > 1e-3  # class 0 in its place


@pytest.mark.parametrize(
    "words", [[[4]], [[4], []], [[4], [9]], [[4], [-1]], [4, 5], [["a"], ["b"]], 3]
)
def test_a_config_with_hints_that_cannot_be_is_refused(
    make_model: Callable[..., Any], words: Any
) -> None:
    with pytest.raises(ConfigError, match="class_words"):
        make_model(CONFIG | {"hints": 2, "class_words": words})


def test_hints_need_an_encoder_with_as_many_classes(make_model: Callable[..., Any]) -> None:
    encoder = {"model_type": "efficientnet-lite", "image_size": 40}
    described = {
        "model_type": "captax-encoder-decoder",
        "encoder": encoder,
        "decoder": HINTED | {"features_width": 1280, "grid": [2, 2]},
    }
    with pytest.raises(ConfigError, match="hints from 4 classes"):
        make_model(described)
    make_model(described | {"encoder": encoder | {"num_labels": 4}})


def test_an_output_layer_of_its_own_is_no_part_of_the_embedding(
    make_model: Callable[..., Any],
) -> None:
    decoder = make_model(FIRST)
    assert decoder.head.kernel.shape == (9, 16) and decoder.norm is None
    tokens = jnp.zeros((1, 3), jnp.int32)
    before = decoder(pictures(1), tokens)
    decoder.embedding[...] = decoder.embedding[...].at[5].add(1.0)  # no token of the input
    np.testing.assert_array_equal(decoder(pictures(1), tokens), before)
    decoder.head.bias[...] = decoder.head.bias[...].at[5].add(1.0)
    moved = decoder(pictures(1), tokens) - before
    np.testing.assert_allclose(moved, np.eye(9)[[5] * 3][None], atol=1e-5)


def test_a_config_keeps_what_is_not_usual_and_writes_nothing_else(
    make_model: Callable[..., Any],
) -> None:
    written = make_model(FIRST).config.write()
    assert (written["order"], written["tie_word_embeddings"]) == ("post", False)
    assert make_model(written).config == make_model(FIRST).config
    assert not {"order", "tie_word_embeddings"} & make_model(CONFIG).config.write().keys()
    with pytest.raises(ConfigError, match=r"order='sandwich' must be pre or post"):
        make_model(CONFIG | {"order": "sandwich"})
