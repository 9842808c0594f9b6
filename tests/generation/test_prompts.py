"""Prompts of different lengths in one batch."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from captax.generation import Beam, Constraints, DiverseBeam, Greedy, Sample, Strategy

PROMPTS = ([1], [1, 4, 3, 5, 5], [1, 6], [1, 3, 3], [1, 8, 7, 4], [1, 4], [1], [1, 2, 3])


@pytest.mark.parametrize(
    "strategy",
    [
        Greedy(),
        Sample(num_return_sequences=2),
        Beam(num_beams=3, num_return_sequences=3, length_penalty=2.0),
        DiverseBeam(num_beams=4, num_beam_groups=2, diversity_penalty=0.3, num_return_sequences=3),
    ],
    ids=lambda strategy: type(strategy).__name__,
)
@pytest.mark.parametrize(
    "constraints",
    [
        Constraints(),
        pytest.param(
            Constraints(
                no_repeat_ngram_size=2,
                min_length=4,
                min_new_tokens=2,
                repetition_penalty=1.2,
                forced_eos_token_id=(2,),
                begin_suppress_tokens=(3, 4),
                force_words_ids=(((7, 5),),),
            ),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["free", "constrained"],
)
def test_each_row_is_decoded_as_if_alone(
    chain: Any, strategy: Strategy, constraints: Constraints
) -> None:
    seeds = jnp.array([[0, i] for i in range(8)])
    together = chain.decode(strategy, prompts=PROMPTS, seeds=seeds, constraints=constraints)
    assert together.tokens.shape[-1] >= 6 and (together.lengths <= 6).all()
    for row in (1, 3):
        alone = chain.decode(
            strategy,
            prompts=[PROMPTS[row]],
            pictures=[row],
            seeds=seeds[row : row + 1],
            constraints=constraints,
        )
        np.testing.assert_array_equal(alone.lengths[0], together.lengths[row])
        np.testing.assert_array_equal(alone.tokens[0][:, :6], together.tokens[row][:, :6])
        np.testing.assert_allclose(alone.scores[0], together.scores[row], atol=1e-5)
        np.testing.assert_allclose(
            alone.logprobs[0][:, :6], together.logprobs[row][:, :6], atol=1e-5
        )
    assert len(np.unique(together.lengths)) > 2 or constraints.force_words_ids


def test_only_new_tokens_count(chain: Any) -> None:
    prompt, row = [1, 4, 3], 5
    found = chain.decode(Greedy(), prompts=[prompt, [1]], pictures=[row, 0])
    said, total = list(prompt), 0.0
    for _ in range(6):
        logprobs = chain.logprobs(row, said)
        said.append(int(logprobs.argmax()))
        total += logprobs.max()
        if said[-1] == 2:
            break
    new = said[len(prompt) :]
    assert found.tokens[0, 0, : found.lengths[0, 0]].tolist() == new
    assert found.scores[0, 0] == pytest.approx(total / len(new), abs=1e-5)


def test_rows_that_fill_up_a_batch_are_not_waited_for(chain: Any) -> None:
    """The loop takes as many steps as the longest caption of those that count."""
    whole = chain.decode(Greedy(), steps=30)
    lengths = whole.lengths[:, 0]
    longest = int(lengths.argmax())
    alive = np.arange(8) != longest
    found = chain.decode(Greedy(), steps=30, alive=jnp.asarray(alive))
    np.testing.assert_array_equal(found.tokens[alive], whole.tokens[alive])
    assert (found.tokens[longest] == 0).all()
