import math

import numpy as np
import pytest

from captax.errors import CaptaxError
from captax.metrics import bootstrap, compare, score
from captax.metrics.significance import Statistics, mean_statistics


def normal(images: int, mean: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1, images)


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    values = normal(400, 5, 0)
    interval = bootstrap([mean_statistics("m", values)], samples=4000)["m"]
    error = 1.96 * values.std() / math.sqrt(400)
    assert interval.low == pytest.approx(values.mean() - error, abs=0.01)
    assert interval.high == pytest.approx(values.mean() + error, abs=0.01)
    narrower = bootstrap([mean_statistics("m", values)], samples=4000, confidence=0.5)["m"]
    assert interval.low < narrower.low < values.mean() < narrower.high < interval.high


def test_what_is_computed_of_sums_is_resampled_by_its_sums() -> None:
    # The ratio of two sums; each sample's is computed here image by image.
    rows = np.stack([normal(50, 3, 1), normal(50, 9, 2)], -1)
    ratio = Statistics(("r",), rows, lambda sums: sums[..., :1] / sums[..., 1:])
    assert ratio.corpus() == pytest.approx({"r": rows[:, 0].sum() / rows[:, 1].sum()})
    drawn = np.random.default_rng(7).integers(0, 50, (300, 50))
    expected = [rows[each, 0].sum() / rows[each, 1].sum() for each in drawn]
    found = bootstrap([ratio], samples=300, seed=7)["r"]
    low, high = np.quantile(expected, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)


def test_many_images_are_sampled_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    statistics = [mean_statistics("m", normal(100, 0, 0))]
    other = [mean_statistics("m", normal(100, 0.2, 1))]
    whole = bootstrap(statistics), compare(statistics, other, trials=1000)
    monkeypatch.setattr("captax.metrics.significance._ROWS_AT_ONCE", 700)
    parts = bootstrap(statistics), compare(statistics, other, trials=1000)
    assert parts[0]["m"].low == pytest.approx(whole[0]["m"].low, rel=0.1)
    assert parts[1]["m"].p_value == pytest.approx(whole[1]["m"].p_value, abs=0.05)


def test_a_p_value_is_the_share_of_exchanges_that_differ_as_much() -> None:
    # All 2^6 exchanges of six images, by hand.
    ours, theirs = np.array([3.0, 1, 4, 1, 5, 9]), np.array([2.0, 2, 1, 0, 4, 5])
    difference = ours - theirs
    signs = np.array(np.meshgrid(*[[1, -1]] * 6)).reshape(6, -1)
    exact = np.mean(np.abs(difference @ signs) >= abs(difference.sum()) - 1e-9)
    found = compare([mean_statistics("m", ours)], [mean_statistics("m", theirs)], trials=20_000)[
        "m"
    ]
    assert found.difference == pytest.approx(difference.mean())
    assert found.p_value == pytest.approx(exact, abs=0.01)


def test_equal_systems_do_not_differ_and_unlike_ones_do() -> None:
    one = [mean_statistics("m", normal(300, 0, 0))]
    assert compare(one, one)["m"].p_value == 1
    better = [mean_statistics("m", one[0].rows[:, 0] + normal(300, 0.5, 3))]
    assert compare(better, one)["m"].difference > 0.3
    assert compare(better, one)["m"].p_value == pytest.approx(1 / 10_001)
    assert compare(one, better)["m"].difference == -compare(better, one)["m"].difference


def test_p_values_of_systems_alike_are_spread_evenly() -> None:
    found = [
        compare(
            [mean_statistics("m", normal(40, 0, 2 * seed))],
            [mean_statistics("m", normal(40, 0, 2 * seed + 1))],
            trials=400,
        )["m"].p_value
        for seed in range(200)
    ]
    assert np.mean(np.array(found) < 0.1) == pytest.approx(0.1, abs=0.05)
    assert np.mean(found) == pytest.approx(0.5, abs=0.07)


def test_scores_of_captions_are_sampled_and_compared() -> None:
    references = {str(n): [f"a dog number {n} runs on grass"] for n in range(40)}
    good = {image: texts[0] for image, texts in references.items()}
    bad = dict.fromkeys(references, "a dog runs")
    ours, theirs = score(good, references), score(bad, references)
    intervals = bootstrap(ours.statistics)
    assert list(intervals) == list(ours.corpus)
    assert intervals["BLEU-4"].low == pytest.approx(1) == intervals["BLEU-4"].high
    compared = compare(ours.statistics, theirs.statistics)
    for name, each in compared.items():
        assert each.difference == pytest.approx(ours.corpus[name] - theirs.corpus[name])
        assert each.p_value < 0.001
    assert bootstrap(ours.statistics, seed=3) == bootstrap(ours.statistics, seed=3)


def test_only_the_same_images_and_metrics_can_be_compared() -> None:
    one, other = (mean_statistics(name, np.ones(3)) for name in "mn")
    with pytest.raises(CaptaxError, match="different metrics; score both by the same"):
        compare([one], [other])
    with pytest.raises(CaptaxError, match=r"same images, but their numbers are \[3, 4\]"):
        compare([one], [mean_statistics("m", np.ones(4))])
