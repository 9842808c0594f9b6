import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captax.metrics.rouge import longest_common_subsequence, rouge_l

captions = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=90)


def by_dynamic_programming(first: list[str], second: list[str]) -> int:
    row = [0] * (len(second) + 1)
    for token in first:
        previous = row
        row = [0]
        for place, other in enumerate(second):
            both = previous[place] + 1 if token == other else 0
            row.append(max(both, previous[place + 1], row[place]))
    return row[-1]


@settings(max_examples=60)
@given(captions, captions)
def test_longest_common_subsequence(first: list[str], second: list[str]) -> None:
    assert longest_common_subsequence(first, second) == by_dynamic_programming(first, second)


@pytest.mark.parametrize(
    ("hypothesis", "references", "expected"),
    [
        # L = 2 of 3 words on both sides: F = P = R.
        ("a dog runs", ["a big dog"], 2 / 3),
        # L = 2 of 2 and of 4: (1 + 1.44) · 1 · 0.5 / (0.5 + 1.44 · 1).
        ("a dog", ["a dog runs here"], 1.22 / 1.94),
        # P = 1 is of the first reference, R = 1 of the second.
        ("a dog runs", ["a dog runs in the park", "dog"], 1.0),
        ("a dog", ["two cats"], 0.0),
        ("", ["a dog"], 0.0),
        ("a dog", [""], 0.0),
        # The evaluation code finds one empty word in both.
        ("", [""], 1.0),
    ],
)
def test_rouge_l(hypothesis: str, references: list[str], expected: float) -> None:
    found = rouge_l(hypothesis.split(), [reference.split() for reference in references])
    assert found == pytest.approx(expected, rel=1e-12)
