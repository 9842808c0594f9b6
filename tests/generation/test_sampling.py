"""Draws: by the right probabilities, and by nothing but their own seeds."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from captax.generation import GenerationError, Sample

EOS = 2


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def filtered(logits: np.ndarray, options: dict[str, Any]) -> np.ndarray:
    """Probabilities after the filters, token by token."""
    logits = logits / options.get("temperature", 1.0)
    ranked = sorted(range(len(logits)), key=lambda token: -logits[token])
    kept = ranked[: options.get("top_k") or len(ranked)]
    mass, whole = 0.0, softmax(logits[kept])
    nucleus = []
    for token, probability in zip(kept, whole, strict=True):
        if mass < options.get("top_p", 1.0):
            nucleus.append(token)
        mass += probability
    best = softmax(logits[nucleus]).max()
    final = [
        token
        for token, probability in zip(nucleus, softmax(logits[nucleus]), strict=True)
        if probability >= options.get("min_p", 0.0) * best
    ]
    found = np.zeros(len(logits))
    found[final] = softmax(logits[final])
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 0},
        {"temperature": 0.5, "top_k": 0},
        {"top_k": 3},
        {"top_k": 0, "top_p": 0.7},
        {"top_k": 0, "min_p": 0.3},
        {"temperature": 2.0, "top_k": 7, "top_p": 0.9, "min_p": 0.2},
    ],
    ids=lambda options: "-".join(options),
)
def test_frequencies_pass_a_chi_square_test(chain: Any, options: dict[str, Any]) -> None:
    """Of first tokens, and of second ones after the most frequent first."""
    draws = 4000
    strategy = Sample(num_return_sequences=draws, **options)
    drawn = chain.decode(strategy, pictures=[0], steps=2).tokens[0]
    first = np.bincount(drawn[:, 0], minlength=9)
    check(first, filtered(chain.logits(0, [1]), options))
    said = int(np.delete(first, EOS).argmax())
    said += said >= EOS
    second = np.bincount(drawn[drawn[:, 0] == said, 1], minlength=9)
    check(second, filtered(chain.logits(0, [1, said]), options))


def check(counts: np.ndarray, probabilities: np.ndarray) -> None:
    assert not counts[probabilities == 0].any()
    expected = counts.sum() * probabilities[probabilities > 0]
    expected, seen = expected[expected > 5], counts[probabilities > 0][expected > 5]
    statistic = ((seen - expected) ** 2 / expected).sum()
    freedom = max(len(expected) - 1, 1)
    # Wilson and Hilferty: exceeded by chance once in 30000 times.
    spread = 2 / (9 * freedom)
    assert statistic < freedom * (1 - spread + 4 * spread**0.5) ** 3


@pytest.mark.slow
def test_a_draw_depends_on_nothing_but_its_seeds(chain: Any) -> None:
    seeds = jnp.array([[5, i] for i in range(8)])
    strategy = Sample(num_return_sequences=2)
    together = chain.decode(strategy, seeds=seeds)
    again = chain.decode(strategy, seeds=seeds)
    np.testing.assert_array_equal(together.tokens, again.tokens)
    for row in (0, 3, 7):
        alone = chain.decode(strategy, pictures=[row], seeds=seeds[row : row + 1])
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[row])
    padded = chain.decode(strategy, seeds=seeds, alive=jnp.arange(8) < 5)
    np.testing.assert_array_equal(padded.tokens[:5], together.tokens[:5])
    prompted = chain.decode(
        strategy, pictures=[2, 4], prompts=[[1], [1, 3, 4]], seeds=seeds[jnp.array([2, 4])]
    )
    np.testing.assert_array_equal(prompted.tokens[0, :, :6], together.tokens[2])

    twice = chain.decode(strategy, pictures=[0, 0], seeds=jnp.array([[5, 0], [6, 0]]))
    assert (twice.tokens[0] != twice.tokens[1]).any()
    assert (together.tokens[:, 0] != together.tokens[:, 1]).any()


def test_more_samples_do_not_change_the_first(chain: Any) -> None:
    few, many = (chain.decode(Sample(num_return_sequences=n)) for n in (2, 5))
    np.testing.assert_array_equal(few.tokens, many.tokens[:, :2])


def test_the_best_of_several_are_returned(chain: Any) -> None:
    drawn = chain.decode(Sample(num_return_sequences=6))
    best = chain.decode(Sample(best_of=6, num_return_sequences=2))
    for row in range(8):
        order = np.argsort(-drawn.scores[row])[:2]
        np.testing.assert_allclose(best.scores[row], drawn.scores[row][order])
        np.testing.assert_array_equal(best.tokens[row, 0], drawn.tokens[row, order[0]])


def test_scores_are_the_models_own_whatever_is_filtered(chain: Any) -> None:
    found = chain.decode(Sample(top_k=2, temperature=0.7, length_penalty=0.5))
    for row in range(8):
        said = [1]
        for token, logprob in zip(found.tokens[row, 0], found.logprobs[row, 0], strict=True):
            if len(said) <= found.lengths[row, 0]:
                assert logprob == pytest.approx(chain.logprobs(row, said)[token], abs=1e-5)
            else:
                assert logprob == 0
            said.append(int(token))
        total = found.logprobs[row, 0].sum() / found.lengths[row, 0] ** 0.5
        assert found.scores[row, 0] == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "`temperature` is 0"),
        ({"top_k": -1}, "`top_k` is -1"),
        ({"top_p": 0.0}, "`top_p` is 0"),
        ({"min_p": 1.5}, "`min_p` is 1.5"),
        ({"num_return_sequences": 0}, "`num_return_sequences` is 0"),
        ({"num_return_sequences": 3, "best_of": 2}, "`best_of` is 2"),
    ],
)
def test_options_without_meaning_are_refused(options: dict[str, Any], message: str) -> None:
    make: Callable[..., Sample] = Sample
    with pytest.raises(GenerationError, match=message):
        make(**options)
