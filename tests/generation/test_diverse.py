"""Beam groups against the published search, written plainly."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from captax.generation import Beam, DiverseBeam, GenerationError

START, EOS = 1, 2


def search(chain: Any, picture: int, steps: int, strategy: DiverseBeam) -> list[tuple[float, list]]:
    """Groups in turn, each by plain beam search of what earlier ones left it."""
    size = strategy.num_beams // strategy.num_beam_groups
    penalty = strategy.length_penalty
    live: list[list] = [[(0.0, [])] for _ in range(strategy.num_beam_groups)]
    done: list[list] = [[] for _ in live]
    ended = [False for _ in live]
    for length in range(1, steps + 1):
        taken: Counter[int] = Counter()
        for group in range(len(live)):
            grown = []
            for total, said in live[group]:
                for token, logprob in enumerate(chain.logprobs(picture, [START, *said])):
                    loss = strategy.diversity_penalty * taken[token]
                    grown.append((total + logprob - loss, [*said, token]))
            best = sorted(grown, reverse=True)[: 2 * size]
            ends = [said[-1] == EOS or length == steps for _, said in best]
            live[group] = [row for row in best if row[1][-1] != EOS][:size]
            if not ended[group]:
                taken.update(said[-1] for _, said in live[group])
                done[group] += [
                    (total / length**penalty, said)
                    for (total, said), end in zip(best[:size], ends, strict=False)
                    if end
                ]
                done[group] = sorted(done[group], reverse=True)[:size]
            if len(done[group]) == size and live[group]:
                hope = live[group][0][0] / length**penalty
                ended[group] |= bool(strategy.early_stopping or hope <= done[group][-1][0])
    return sorted((each for group in done for each in group), reverse=True)


@pytest.mark.parametrize(
    "strategy",
    [
        DiverseBeam(num_beams=4, num_beam_groups=2, diversity_penalty=1.0, num_return_sequences=4),
        DiverseBeam(num_beams=3, num_beam_groups=3, diversity_penalty=0.5, num_return_sequences=3),
        DiverseBeam(
            num_beams=6,
            num_beam_groups=2,
            diversity_penalty=3.0,
            num_return_sequences=5,
            length_penalty=2.0,
            early_stopping=True,
        ),
    ],
    ids=lambda strategy: f"{strategy.num_beams}-{strategy.num_beam_groups}",
)
def test_groups_find_what_the_plain_search_finds(chain: Any, strategy: DiverseBeam) -> None:
    found = chain.decode(strategy, steps=5)
    for row in range(8):
        want = search(chain, row, 5, strategy)[: strategy.num_return_sequences]
        np.testing.assert_allclose(found.scores[row], [score for score, _ in want], atol=1e-4)
        got = [
            tokens[:length].tolist()
            for tokens, length in zip(found.tokens[row], found.lengths[row], strict=True)
        ]
        assert sorted(got) == sorted(said for _, said in want)


def test_a_penalty_makes_captions_differ(chain: Any) -> None:
    options = {"num_beams": 4, "num_beam_groups": 4, "num_return_sequences": 4}
    alike, apart = (
        chain.decode(DiverseBeam(diversity_penalty=penalty, **options)) for penalty in (0.0, 5.0)
    )
    kinds = [[len(np.unique(each, axis=0)) for each in found.tokens] for found in (alike, apart)]
    assert kinds[0] == [1] * 8  # without one, every group finds the same
    assert np.mean(kinds[1]) > 2


def test_one_group_is_beam_search(chain: Any) -> None:
    one = DiverseBeam(num_beams=3, num_beam_groups=1, num_return_sequences=3)
    found, want = chain.decode(one), chain.decode(Beam(num_beams=3, num_return_sequences=3))
    np.testing.assert_array_equal(found.tokens, want.tokens)
    np.testing.assert_allclose(found.scores, want.scores, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"num_beams": 4, "num_beam_groups": 3},
            "`num_beam_groups` is 3; it must divide `num_beams`, which is 4",
        ),
        ({"diversity_penalty": -1.0}, "`diversity_penalty` is -1"),
        ({"num_return_sequences": 5}, "`num_return_sequences` is 5"),
        ({"early_stopping": "soon"}, "`early_stopping` is 'soon'"),
    ],
)
def test_options_without_meaning_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        DiverseBeam(**options)
