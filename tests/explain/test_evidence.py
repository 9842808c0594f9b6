"""Evidence and rollout against arithmetic done here."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from captax.explain.evidence import evidence, occlusion
from captax.explain.faithfulness import measure
from captax.explain.hiding import hidden_picture
from captax.explain.reading import Given, Reader
from captax.explain.rollout import rollout
from captax.models.encoder_decoder import EncoderDecoder
from captax.models.encoders import Features
from captax.models.prompt import Prompt

RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(6, 4, 3)).astype(np.float32) / 3
GRID = (3, 2)
CELL = [[slice(2 * r, 2 * r + 2), slice(2 * c, 2 * c + 2)] for r in range(3) for c in range(2)]


class Logistic(EncoderDecoder):
    """Of two tokens, the first has the odds exp(weights . pixels) at every step."""

    def __init__(self) -> None:
        pass

    def encode(self, pixels: Any) -> Features:
        return Features((pixels * WEIGHTS).reshape(len(pixels), -1, 1), grid=GRID)

    def predict(self, features: Features, prompt: Prompt, tokens: Any) -> Any:
        odds = features.tokens.sum((1, 2))[:, None]
        odds = jnp.broadcast_to(odds, tokens.shape)
        return jnp.stack([odds, jnp.zeros_like(odds)], axis=-1)


@pytest.fixture
def reader() -> Reader:
    model = Logistic()
    return Reader(model, lambda weights: model)


@pytest.fixture
def given() -> Given:
    """The first two tokens, 0 and 1, are explained; the others are padding."""
    pixels, hidden = RNG.normal(size=(2, 6, 4, 3)).astype(np.float32)
    prompt = Prompt(np.array([[1, 0]], np.int32), np.array([2], np.int32))
    return Given(pixels, hidden, prompt, np.array([0, 1, 0], np.int32), said=2)


def odds(pixels: np.ndarray) -> float:
    return float((pixels * WEIGHTS).sum())


def logprobs(pixels: np.ndarray) -> np.ndarray:
    z = odds(pixels)
    return np.array([-np.log1p(np.exp(-z)), -np.log1p(np.exp(z))])


def test_occlusion_is_the_fall_when_a_cell_is_hidden(reader: Reader, given: Given) -> None:
    found = evidence("occlusion", reader, given, GRID)
    assert found.shape == (2, *GRID)
    for place, (rows, columns) in enumerate(CELL):
        hidden = given.pixels.copy()
        hidden[rows, columns] = given.hidden[rows, columns]
        want = logprobs(given.pixels) - logprobs(hidden)
        np.testing.assert_allclose(found.reshape(2, -1)[:, place], want, atol=1e-5)


def test_wide_windows_share_their_fall_among_the_cells_they_cover(
    reader: Reader, given: Given
) -> None:
    """Two windows of 2 x 2 on a 3 x 2 grid: the middle row has the mean of both."""
    found = occlusion(reader, given, GRID, window=2)
    top, bottom = given.pixels.copy(), given.pixels.copy()
    top[:4], bottom[2:] = given.hidden[:4], given.hidden[2:]
    falls = [logprobs(given.pixels) - logprobs(each) for each in (top, bottom)]
    for row, want in enumerate((falls[0], (falls[0] + falls[1]) / 2, falls[1])):
        np.testing.assert_allclose(found[:, row], np.stack([want] * 2, 1), atol=1e-5)


def test_the_gradient_is_that_of_the_log_probability(reader: Reader, given: Given) -> None:
    chance = 1 / (1 + np.exp(-odds(given.pixels)))
    moved = (given.pixels - given.hidden) * WEIGHTS
    want = np.array([moved[rows, columns].sum() for rows, columns in CELL]).reshape(GRID)
    found = evidence("gradient", reader, given, GRID)
    np.testing.assert_allclose(found[0], (1 - chance) * want, atol=1e-5)
    np.testing.assert_allclose(found[1], -chance * want, atol=1e-5)


def test_integrated_gradients_sum_to_the_whole_difference(reader: Reader, given: Given) -> None:
    found = evidence("integrated", reader, given, GRID)
    want = logprobs(given.pixels) - logprobs(given.hidden)
    np.testing.assert_allclose(found.sum((1, 2)), want, rtol=0.01)


def test_deletion_and_insertion_take_the_cells_of_a_map_in_order(
    reader: Reader, given: Given
) -> None:
    """Against hiding and showing them one by one."""
    words = [(0,), (1,), (0, 1)]
    rankings = np.random.default_rng(5).permutation(18).reshape(3, *GRID).astype(np.float32)
    found = measure(reader, given, words, {"map": rankings})
    each = found["map"]
    for word, tokens in enumerate(words):
        order = np.argsort(-rankings[word].ravel())
        for point, share in enumerate(each.fractions):
            less, more = given.pixels.copy(), given.hidden.copy()
            for cell in order[: round(share * 6)]:
                place = tuple(CELL[cell])
                less[place], more[place] = given.hidden[place], given.pixels[place]
            for curve, pixels in ((each.deletion, less), (each.insertion, more)):
                want = np.exp(logprobs(pixels)[list(tokens)].sum())
                assert curve[word, point] == pytest.approx(want, abs=1e-5)
    area = ((each.deletion[:, 1:] + each.deletion[:, :-1]) / 2).mean()
    assert each.deletion_area == pytest.approx(area)
    assert each.score == pytest.approx(each.insertion_area - each.deletion_area)
    assert found["random"].score == pytest.approx(0, abs=1e-6)
    assert found["random"].spread == each.spread > 0


def test_rollout_multiplies_half_identity_half_mean_of_heads() -> None:
    first = np.array([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]])  # mean: all a half
    second = np.array([[[0.0, 1.0], [1.0, 0.0]]])
    # (I + 1/2) / 2 = [3/4 1/4; 1/4 3/4], then [1/2 1/2; 1/2 1/2] from the left.
    flow = rollout([jnp.asarray(first), jnp.asarray(second)])
    np.testing.assert_allclose(flow, [[0.5, 0.5], [0.5, 0.5]], atol=1e-6)
    np.testing.assert_allclose(rollout([jnp.asarray(first)]), [[0.75, 0.25], [0.25, 0.75]])


def test_a_hidden_picture_is_its_mean_colour_or_a_blur() -> None:
    half = np.zeros((32, 32, 3), np.uint8)
    half[:, 16:] = (200, 100, 50)
    flat = np.asarray(hidden_picture(Image.fromarray(half), "mean"))
    assert (flat == (100, 50, 25)).all()
    blurred = np.asarray(hidden_picture(Image.fromarray(half), "blur")).astype(int)
    assert np.abs(np.diff(blurred[..., 0], axis=1)).max() < 40  # the edge of 200 is gone
    assert blurred[0, 0, 0] < 60 and blurred[0, -1, 0] > 140
