"""Which text fits which picture."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import captax
from captax.errors import CaptaxError
from captax.images import ImageError
from captax.models.encoders import TextBatch
from captax.pipelines.matcher import Matcher
from captax.text import TextError

TEXTS = ["a red square", "the yellow tile is under a white one", "three"]


@pytest.fixture(scope="module")
def matcher(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Matcher:
    path = shutil.copytree(checkpoint("clip"), tmp_path_factory.mktemp("clip") / "clip")
    config = json.loads((path / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 2  # the tokenizer's, not the golden inputs'
    (path / "config.json").write_text(json.dumps(config))
    return captax.load(path)


@pytest.mark.slow
def test_probabilities_are_those_of_the_models_logits(matcher: Matcher, examples: Path) -> None:
    pictures = sorted(examples.glob("*.jpg"))[:3]
    found = matcher.match(pictures, TEXTS)
    logits = np.zeros((3, 3))
    for j, text in enumerate(TEXTS):  # alone, unpadded
        tokens = jnp.array(matcher.tokenizer.encode([text]))
        pixels = jnp.array(matcher.processor(pictures))
        whole, _ = matcher.model(pixels, TextBatch(tokens, jnp.ones(tokens.shape, bool)))
        logits[:, j] = whole[:, 0]
    odds = np.exp(logits)
    np.testing.assert_allclose(found, odds / odds.sum(1, keepdims=True), atol=1e-5)
    assert np.ptp(found) > 0.01


@pytest.fixture(scope="module")
def siglip(checkpoint: Callable[[str], Path]) -> Matcher:
    matcher = captax.load(checkpoint("siglip"))
    assert isinstance(matcher, Matcher)
    return matcher


@pytest.mark.slow
def test_a_siglip_judges_each_text_alone_with_its_padding(siglip: Matcher, examples: Path) -> None:
    pictures = sorted(examples.glob("*.jpg"))[:3]
    found = siglip.match(pictures, TEXTS)
    ids = siglip.tokenizer.encode_plain(TEXTS)
    tokens = np.full((3, 12), siglip.tokenizer.pad_id)
    for row, text in zip(tokens, ids, strict=True):
        row[: len(text) + 1] = [*text, siglip.tokenizer.eos_id]
    seen = TextBatch(jnp.array(tokens), jnp.ones(tokens.shape, bool))
    logits, _ = siglip.model(jnp.array(siglip.processor(pictures)), seen)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-np.asarray(logits))), atol=1e-5)
    np.testing.assert_allclose(siglip.match(pictures, TEXTS[1]), found[:, 1:2], atol=1e-5)
    assert abs(found.sum(1) - 1).min() > 0.01
    assert siglip.match(pictures[0], []).shape == (1, 0)


def test_a_text_that_is_too_long_for_a_siglip_is_cut(siglip: Matcher) -> None:
    long = " ".join(["red"] * 40)
    cut, whole, short = siglip.embed_texts([long, " ".join(["red"] * 11), "red"])
    np.testing.assert_allclose(cut, whole, atol=1e-6)
    assert abs(cut - short).max() > 0.01
    assert siglip.embed_texts([]).shape == (0, 24)


def test_a_siglip_has_no_clip_score(siglip: Matcher, examples: Path) -> None:
    with pytest.raises(CaptaxError, match="the model is a Siglip, but CLIPScore needs a CLIP"):
        siglip.clip_score(examples / "cat.jpg", "a cat")


@pytest.mark.slow
def test_a_saved_siglip_says_the_same(siglip: Matcher, examples: Path, tmp_path: Path) -> None:
    siglip.save(tmp_path / "saved")
    again = captax.load(tmp_path / "saved")
    picture = examples / "cat.jpg"
    np.testing.assert_array_equal(again.match(picture, TEXTS), siglip.match(picture, TEXTS))


def test_embeddings_have_length_one_and_do_not_depend_on_the_batch(
    matcher: Matcher, examples: Path
) -> None:
    pictures = sorted(examples.glob("*.jpg"))[:3]
    together = matcher.embed_images(pictures, batch_size=2)
    np.testing.assert_allclose(together[2:], matcher.embed_images(pictures[2]), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-5)
    texts = matcher.embed_texts(TEXTS, batch_size=2)
    np.testing.assert_allclose(texts[1:2], matcher.embed_texts([TEXTS[1]]), atol=1e-5)


def test_saved_and_loaded_it_says_the_same(
    matcher: Matcher, examples: Path, tmp_path: Path
) -> None:
    matcher.save(tmp_path / "saved")
    again = captax.load(tmp_path / "saved")
    picture = examples / "cat.jpg"
    np.testing.assert_array_equal(again.match(picture, TEXTS), matcher.match(picture, TEXTS))


def test_a_broken_picture_is_an_error(matcher: Matcher, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"x\.jpg"):
        matcher.embed_images([tmp_path / "x.jpg"])


def test_one_text_or_none_is_no_list_of_letters(matcher: Matcher, examples: Path) -> None:
    assert matcher.match(examples / "cat.jpg", "a red square").shape == (1, 1)
    assert matcher.match(examples / "cat.jpg", []).shape == (1, 0)
    with pytest.raises(TextError, match=r"pass \[text\]"):
        matcher.tokenizer.encode("a red square")


def test_it_answers_with_the_weights_its_model_has_now(
    checkpoint: Callable[[str], Path], examples: Path
) -> None:
    matcher = captax.load(checkpoint("clip"))
    before = matcher.embed_images(examples / "cat.jpg")
    matcher.model.visual_projection.kernel[...] *= jnp.arange(1.0, 13.0)[:, None]
    assert np.abs(matcher.embed_images(examples / "cat.jpg") - before).max() > 0.01
