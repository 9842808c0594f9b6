"""Texts that say the same again and again: noticed, ended and cut."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from captax.generation import Beam, Greedy, Sample, Sequences
from captax.generation.loops import COPIES, LEAST, LONGEST, first_copy_end, in_loop
from captax.pipelines.captioner import Captioner
from generation.conftest import EOS, Chain

TIME = 400


def looped(text: list[int]) -> bool:
    """By the definition."""
    return any(
        len(text) >= (n := max(LEAST, COPIES * period))
        and text[len(text) - n :][:-period] == text[len(text) - n :][period:]
        for period in range(1, LONGEST + 1)
    )


few = st.lists(st.integers(3, 5), max_size=70)


@given(few, st.lists(st.integers(3, 5), min_size=1, max_size=66), st.integers(1, 300), few)
@example([], [3], 64, [])
@example([], [3], 63, [])
@example([4], [*range(3, 67)], 192, [])
@example([4], [*range(3, 67)], 191, [])
@example([4], [*range(3, 68)], 260, [])
@example([], [3, 4], 100, [5])
def test_a_loop_is_what_the_definition_says(
    before: list[int], period: list[int], size: int, after: list[int]
) -> None:
    copies = period * (size // len(period) + 1)
    text = [*before, *copies[:size], *after][:TIME]
    wanted = looped(text)
    tokens = np.zeros((1, TIME + 10), np.int32)
    tokens[0, 10 : 10 + len(text)] = text
    begin = jnp.full((1, 1), 10)
    assert bool(in_loop(jnp.asarray(tokens), 10 + len(text), begin)[0]) is wanted
    # Tokens of a prompt, such as those of a picture, are no loop.
    assert not in_loop(jnp.asarray(tokens), 10 + len(text), begin + len(text))[0]
    end = first_copy_end(text)
    assert (end is not None) is wanted
    if end is not None:
        assert 0 < end <= len(text) - (LEAST - LONGEST) and not looped(text[:end])


@pytest.fixture(scope="module")
def endless(chain: Chain) -> Chain:
    """A chain that never ends, and says the same again and again sooner or later."""
    tables = np.array(chain.pictures)
    tables[:, EOS] = -20
    return Chain(tables)


def test_a_text_in_a_loop_ends(endless: Chain) -> None:
    free = endless.decode(Greedy(), steps=200)
    ended = endless.decode(Greedy(), steps=200, end_loops=True)
    assert set(free.lengths[:, 0]) == {200}
    for row, length in enumerate(ended.lengths[:, 0]):
        text = free.tokens[row, 0].tolist()
        first = next((n for n in range(200) if looped(text[:n])), None)
        assert length == (200 if first is None else first + 1), row
        if first is not None:
            assert ended.tokens[row, 0, : first + 1].tolist() == [*text[:first], EOS]
    assert ended.lengths.min() < 100


@pytest.mark.parametrize("strategy", [Beam(num_beams=3), Sample(temperature=0.01)])
def test_it_ends_whatever_chooses_the_tokens(endless: Chain, strategy: Any) -> None:
    found = endless.decode(strategy, steps=120, end_loops=True)
    assert found.lengths.min() < 120


def test_short_texts_are_as_they_were(endless: Chain) -> None:
    free, ended = (endless.decode(Greedy(), steps=64, end_loops=each) for each in (False, True))
    np.testing.assert_array_equal(free.tokens, ended.tokens)


@pytest.mark.parametrize("end", [True, False])
def test_a_loop_is_cut_and_told(tiny_captioner: Captioner, end: bool) -> None:
    config = tiny_captioner._config({"length_penalty": 1.0, "num_return_sequences": 2})
    [red, blue, dog], eos = tiny_captioner.spell(["red blue a"])[0], config.eos_ids[0]
    looping = [dog, *[red, blue] * 40][:70]
    rows = [[*looping, eos] if end else [*looping, dog, *[dog] * 70][:71], [dog, red, eos]]
    length = [len(row) for row in rows]
    tokens = np.array([row + [0] * (71 - len(row)) for row in rows])
    logprobs = np.where(np.arange(71) < np.array(length)[:, None], -2.0, 0.0)
    logprobs[0, 3:70] = -0.01
    scores = logprobs.sum(1) / length
    found = Sequences(tokens, np.array(length), scores, logprobs)
    said = tiny_captioner._texts([], found, config)
    if not end:  # what comes last is no loop
        assert said["tokens"] == tuple(rows[0]) and not said["looped"]
        return
    # The loop seemed the more certain of the two; what is left of it is as certain as the other.
    assert said["alternatives"][0].text == "a red blue"
    assert said["looped"] and said["tokens"] == (dog, red, blue)
    assert said["score"] == pytest.approx(-2.0) and said["logprobs"] == (-2.0,) * 3
    free = tiny_captioner._texts([], found, tiny_captioner._config({"end_loops": False}))
    assert free["tokens"] == tuple(rows[0]) and not free["looped"]
