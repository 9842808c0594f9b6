import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import captax
from captax.errors import CaptaxError
from captax.metrics.clip_score import clip_score, ref_clip_score
from captax.pipelines.matcher import Matcher

CAPTIONS = ["a red square", "the yellow tile", "three"]
REFERENCES = [["two blue squares"], ["a wall", "three green stripes", "a red square"], ["three"]]


def test_values_by_hand() -> None:
    images = np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    captions = np.array([[3.0, 4.0], [0.0, 5.0], [-1.0, 1.0], [3.0, 4.0]])
    np.testing.assert_allclose(clip_score(images, captions), [2.5 * 0.6, 2.5, 0, 2.5 * 0.6])
    references = [
        np.array([[1.0, 0.0], [0.0, 1.0]]),  # cosines 0.6, 0.8
        np.array([[0.0, 7.0]]),  # 1
        np.array([[-1.0, 1.0]]),  # 1, but the picture's is below 0
        np.array([[-3.0, -4.0]]),  # -1
    ]
    found = ref_clip_score(images, captions, references)
    expected = [2 * 1.5 * 0.8 / (1.5 + 0.8), 2 * 2.5 / 3.5, 0, 0]
    np.testing.assert_allclose(found, expected)


def test_an_image_without_references() -> None:
    one = np.ones((2, 3))
    with pytest.raises(CaptaxError, match="image number 2 has no reference"):
        ref_clip_score(one, one, [one, one[:0]])


@given(st.integers(0, 2**32 - 1))
def test_bounds_and_more_references_never_lower(seed: int) -> None:
    draw = np.random.default_rng(seed)
    images, captions = draw.standard_normal((2, 4, 3))
    references = list(draw.standard_normal((4, 2, 3)))
    fewer = ref_clip_score(images, captions, [found[:1] for found in references])
    more = ref_clip_score(images, captions, references)
    assert (more >= fewer - 1e-12).all()
    assert ((more >= 0) & (more <= 2 * 2.5 / 3.5 + 1e-12)).all()
    scores = clip_score(images, captions)
    assert ((scores >= 0) & (scores <= 2.5 + 1e-12)).all()


@pytest.fixture(scope="module")
def directory(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = shutil.copytree(checkpoint("clip"), tmp_path_factory.mktemp("clip") / "clip")
    config = json.loads((path / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 2  # the tokenizer's, not the golden inputs'
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module")
def matcher(directory: Path) -> Matcher:
    return captax.load(directory)


@pytest.fixture(scope="module")
def pictures(examples: Path) -> list[Path]:
    return sorted(examples.glob("*.jpg"))[:3]


def test_pictures_and_captions_in_scores_out(matcher: Matcher, pictures: list[Path]) -> None:
    seen = matcher.embed_images(pictures)
    said = matcher.embed_texts(["A photo depicts " + caption for caption in CAPTIONS])
    expected = clip_score(seen, said)
    np.testing.assert_allclose(matcher.clip_score(pictures, CAPTIONS), expected, atol=1e-6)
    alone = matcher.clip_score(pictures[0], CAPTIONS[0], REFERENCES[:1])
    together = matcher.clip_score(pictures, CAPTIONS, REFERENCES)
    np.testing.assert_allclose(alone, together[:1], atol=1e-5)


def test_numbers_that_do_not_fit(matcher: Matcher, pictures: list[Path]) -> None:
    with pytest.raises(CaptaxError, match="2 captions for 3 images"):
        matcher.clip_score(pictures, CAPTIONS[:2])
    with pytest.raises(CaptaxError, match="1 lists of references for 3 images"):
        matcher.clip_score(pictures, CAPTIONS, REFERENCES[:1])
    with pytest.raises(CaptaxError, match="a list of texts for each image"):
        matcher.clip_score(pictures, CAPTIONS, CAPTIONS)


@pytest.mark.parity
def test_equals_transformers(directory: Path, matcher: Matcher, pictures: list[Path]) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.CLIPModel.from_pretrained(directory).eval()
    pixels = torch.from_numpy(matcher.processor(pictures).transpose(0, 3, 1, 2).copy())

    def embed(text: str) -> np.ndarray:
        tokens = torch.tensor(matcher.tokenizer.encode(["A photo depicts " + text]))
        with torch.no_grad():
            found = model(input_ids=tokens, pixel_values=pixels)
        return found.text_embeds[0].double().numpy()

    with torch.no_grad():
        tokens = torch.tensor(matcher.tokenizer.encode(["three"]))
        seen = model(input_ids=tokens, pixel_values=pixels).image_embeds.double().numpy()
    scores, with_references = [], []
    for image, caption, references in zip(seen, CAPTIONS, REFERENCES, strict=True):
        said = embed(caption)
        score = 2.5 * max(image @ said, 0)
        nearest = max(0, *(said @ embed(text) for text in references))
        scores.append(score)
        with_references.append(2 * score * nearest / (score + nearest) if score else 0)
    assert max(scores) > 0.01
    np.testing.assert_allclose(matcher.clip_score(pictures, CAPTIONS), scores, atol=1e-5)
    found = matcher.clip_score(pictures, CAPTIONS, REFERENCES)
    np.testing.assert_allclose(found, with_references, atol=1e-5)
