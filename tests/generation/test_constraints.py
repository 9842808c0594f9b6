"""Each constraint alone against sets and loops, and what constraints promise of whole captions."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from captax.generation import (
    Beam,
    Constraints,
    DiverseBeam,
    GenerationError,
    Greedy,
    Sample,
    Strategy,
)

VOCAB, EOS = 9, 2
ROWS, TIME = 30, 8
RNG = np.random.default_rng(0)
SCORES = RNG.standard_normal((ROWS, VOCAB)).astype(np.float32)
TOKENS = RNG.integers(0, 4, (ROWS, TIME))
STRATEGIES = (
    Greedy(),
    Sample(num_return_sequences=3),
    Beam(num_beams=3, num_return_sequences=3),
    DiverseBeam(num_beams=4, num_beam_groups=2, diversity_penalty=0.5, num_return_sequences=4),
)
kinds = pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: type(s).__name__)


def apply(position: int, *, prompt: int = 1, limit: Any = 20, **options: Any) -> np.ndarray:
    limits = jnp.broadcast_to(jnp.asarray(limit), (ROWS, 1))
    return np.asarray(program(Constraints(**options))(position, prompt, limits))


@functools.cache
def program(constraints: Constraints) -> Callable[..., jax.Array]:
    """Compiled once for all positions."""

    def run(position: jax.Array, prompt: jax.Array, limit: jax.Array) -> jax.Array:
        given = jnp.asarray(SCORES), jnp.asarray(TOKENS), position
        return constraints(*given, prompt=prompt, limit=limit, eos=(EOS,))

    return jax.jit(run)


def expect(position: int, change: Callable[[list[int], int, float], float]) -> np.ndarray:
    """Scores changed one by one, given the tokens before."""
    return np.array(
        [
            [change(list(said), token, score) for token, score in enumerate(scores)]
            for said, scores in zip(TOKENS[:, :position], SCORES, strict=True)
        ]
    )


positions = pytest.mark.parametrize("position", [1, 2, 3, 5, TIME])


@positions
def test_repetition_is_penalised_once_a_token(position: int) -> None:
    def change(said: list[int], token: int, score: float) -> float:
        return score if token not in said else score * 1.5 if score < 0 else score / 1.5

    want = expect(position, change)
    np.testing.assert_allclose(apply(position, repetition_penalty=1.5), want, rtol=1e-6)


@positions
@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_ngram_is_said_twice(position: int, size: int) -> None:
    def change(said: list[int], token: int, score: float) -> float:
        grown = [*said, token]
        seen = [said[i : i + size] for i in range(len(said) - size + 1)]
        return -np.inf if grown[-size:] in seen else score

    got = apply(position, no_repeat_ngram_size=size)
    np.testing.assert_array_equal(got, expect(position, change))


@positions
def test_no_bad_phrase_is_finished(position: int) -> None:
    phrases = ((1, 3), (2, 0, 3), (5,), (3, 1), (EOS,), (0,) * 12)

    def change(said: list[int], token: int, score: float) -> float:
        grown = [*said, token]
        ended = [p for p in phrases if p != (EOS,) and grown[-len(p) :] == list(p)]
        return -np.inf if ended else score

    got = apply(position, bad_words_ids=phrases)
    np.testing.assert_array_equal(got, expect(position, change))
    assert np.isneginf(got[:, 5]).all() and np.isfinite(got[:, EOS]).all()


@pytest.mark.parametrize(
    ("options", "at", "prompt", "limit"),
    [
        ({"min_length": 4}, (1, 3), 1, 20),
        ({"min_new_tokens": 4}, (3, 6), 3, 20),
        ({"suppress_tokens": (EOS,)}, (1, TIME), 1, 20),
        ({"begin_suppress_tokens": (EOS,)}, (3, 3), 3, 20),
        ({"begin_suppress_tokens": (EOS,), "forced_bos_token_id": 5}, (2, 2), 1, 20),
    ],
)
def test_a_token_is_forbidden_for_a_while(
    options: dict[str, Any], at: tuple[int, int], prompt: int, limit: int
) -> None:
    for position in range(max(prompt, 2), TIME):
        got = apply(position, prompt=prompt, limit=limit, **options)
        assert np.isneginf(got[:, EOS]).all() == (at[0] <= position <= at[1])
        others = np.arange(VOCAB) != EOS
        np.testing.assert_array_equal(got[:, others], SCORES[:, others])


def test_tokens_are_forced_at_the_beginning_and_at_the_end() -> None:
    bos = apply(1, forced_bos_token_id=5)
    assert (bos[:, 5] == 0).all() and np.isneginf(np.delete(bos, 5, 1)).all()
    np.testing.assert_array_equal(apply(2, forced_bos_token_id=5), SCORES)
    # Each row ends where it does.
    limit = jnp.where(jnp.arange(ROWS) < 10, 6, 8)[:, None]
    end = apply(5, forced_eos_token_id=(4, 6), limit=limit)
    assert (end[:10, [4, 6]] == 0).all() and np.isneginf(np.delete(end[:10], [4, 6], 1)).all()
    np.testing.assert_array_equal(end[10:], SCORES[10:])


def test_scores_can_be_made_a_distribution_again() -> None:
    got = apply(3, suppress_tokens=(3, 4), renormalize_logits=True)
    np.testing.assert_allclose(np.exp(got).sum(-1), 1, rtol=1e-5)
    assert np.isneginf(got[:, [3, 4]]).all()


@pytest.mark.parametrize("options", [{"suppress_tokens": (VOCAB,)}, {"forced_bos_token_id": -1}])
def test_tokens_that_there_are_not_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(GenerationError, match="not in the vocabulary; use ids from 0 to 8"):
        apply(1, **options)


def captions(found: Any) -> list[list[int]]:
    rows = zip(found.tokens.reshape(-1, found.tokens.shape[-1]), found.lengths.ravel(), strict=True)
    return [[1, *map(int, row[:length])] for row, length in rows]


def holds(caption: list[int], phrase: tuple[int, ...]) -> bool:
    size = len(phrase)
    return any(tuple(caption[i : i + size]) == phrase for i in range(len(caption) - size + 1))


@kinds
def test_constraints_hold_in_whole_captions(chain: Any, strategy: Strategy) -> None:
    free = captions(chain.decode(strategy, steps=7))
    constraints = Constraints(
        no_repeat_ngram_size=2, min_length=5, bad_words_ids=((6,), (3, 4)), suppress_tokens=(8,)
    )
    bound = captions(chain.decode(strategy, steps=7, constraints=constraints))
    for caption in bound:
        pairs = list(itertools.pairwise(caption))
        assert len(set(pairs)) == len(pairs)
        assert len(caption) >= 5 and not {6, 8} & set(caption) and not holds(caption, (3, 4))
    assert sum(caption not in bound for caption in free) > len(free) / 2


@kinds
@pytest.mark.parametrize("steps", [5, pytest.param(9, marks=pytest.mark.slow)])
def test_every_caption_holds_the_required_phrases(
    chain: Any, strategy: Strategy, steps: int
) -> None:
    """Each in one of its spellings, even where there is room for nothing else."""
    required = (((5, 5, 3), (8, 7, 6, 4)), ((3, 6),))
    constraints = Constraints(force_words_ids=required, no_repeat_ngram_size=1)
    free = captions(chain.decode(strategy, steps=steps))
    bound = captions(chain.decode(strategy, steps=steps, constraints=constraints))
    for spellings in required:
        assert not all(any(holds(caption, p) for p in spellings) for caption in free)
        assert all(any(holds(caption, p) for p in spellings) for caption in bound)
    if steps == 9:
        assert len({tuple(caption) for caption in bound}) > 4
        assert any(caption[-1] == EOS for caption in bound)
