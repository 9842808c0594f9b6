"""What a run says of itself: its log, TensorBoard, and what goes wrong."""

import json
import struct
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from captax.errors import CaptaxError
from captax.training.curves import plot_curves
from captax.training.watch import Log, collapse, first_not_finite, read_log, rounded


def test_a_collapse_is_told_with_what_to_try() -> None:
    same = ["a dog runs"] * 6 + list("abcd")
    told = collapse(same)
    assert told is not None and told.startswith("6 of 10 dev captions are 'a dog runs': ")
    assert "lr" in told and "\n" not in told
    of_labels = collapse(same, labels=True)
    assert of_labels is not None and of_labels.startswith("6 of 10 dev pictures are labelled ")


@pytest.mark.parametrize("texts", [["a"] * 5 + list("bcdef"), ["a"] * 9, [], list("abcdefghij")])
def test_half_alike_or_a_few_are_no_collapse(texts: list[str]) -> None:
    assert collapse(texts) is None


def test_the_first_tensor_that_is_not_finite_is_named() -> None:
    fine = {"a": jnp.ones(3), "n": jnp.arange(3)}
    assert first_not_finite(fine) is None and first_not_finite({}) is None
    for value in (np.nan, np.inf, -np.inf):
        bad = jnp.ones((2, 2)).at[1, 0].set(value)
        assert first_not_finite({**fine, "b": bad, "c": bad}) == "b"


def test_scores_are_logged_to_five_places() -> None:
    assert rounded({"a": 1 / 3, "b": 2.0}) == {"a": 0.33333, "b": 2.0}
    # A NumPy number that is a float, too, is one that JSON holds.
    assert json.dumps(rounded({"a": np.float64(0.5)})) == '{"a": 0.5}'


def test_tensorboard_gets_what_the_log_gets(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl", last_step=0, tensorboard=True)
    log.write(step=1, stage="decoder", loss=0.25)
    log.write(step=1, scores={"CIDEr-D": 0.5})
    log.close()
    [events] = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert b"loss" in content and b"CIDEr-D" in content and b"decoder" not in content
    assert struct.pack("<f", 0.25) in content and struct.pack("<f", 0.5) in content
    assert [record["step"] for record in read_log(tmp_path / "log.jsonl")] == [1, 1]


def test_without_tensorboard_one_line_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(
        CaptaxError, match=r"^the recipe's tensorboard: true needs .*pip install.*$"
    ) as told:
        Log(tmp_path / "log.jsonl", last_step=0, tensorboard=True)
    assert "\n" not in str(told.value)
    Log(tmp_path / "log.jsonl", last_step=0).write(step=1, loss=1.0)


@pytest.mark.parametrize(
    ("metric", "first", "best"),
    [("CIDEr-D", {"CIDEr-D", "CIDEr-D mean"}, (20, 90)), ("WER", {"WER"}, (30, 40))],
)
def test_each_score_is_drawn_on_its_own_scale(
    metric: str,
    first: set[str],
    best: tuple[int, float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))[1]
    )
    records: list[dict[str, Any]] = []
    for step in range(1, 31):
        records.append({"step": step, "loss": 3 - step / 20, "lr": step / 1e4})
        if step % 10 == 0:
            cider = {10: 0.5, 20: 0.9, 30: 0.8}[step]
            scores = {"BLEU-1": 0.6, "BLEU-4": 0.2, "CIDEr-D": cider, "CIDEr-D mean": cider / 2}
            scores |= {"WER": 1 - step / 50, "loss": 1.0, "perplexity": 2.7, "token accuracy": 0.5}
            records.append({"step": step, "stage": "s", "scores": scores})
    del records[4]["loss"]  # a step that float16 left out
    plot_curves(tmp_path / "curves.png", records, title="run", metric=metric)
    [figure] = drawn
    panels = [{str(line.get_label()): line for line in a.get_lines()} for a in figure.axes]
    losses, rate, *scored = panels
    assert losses["dev loss"].get_ydata().tolist() == [1.0] * 3
    assert len(losses["training loss"].get_xdata()) == 29
    assert [line.get_ydata()[-1] for line in rate.values()] == [pytest.approx(3e-3)]
    names = [{name for name in panel if not name.startswith("best")} for panel in scored]
    assert names[0] == first and {"WER"} in names[:2]
    assert {"BLEU-1", "BLEU-4"} in names and {"token accuracy"} in names and len(names) == 4
    [marked] = [line for panel in panels for name, line in panel.items() if name[:4] == "best"]
    assert marked in scored[0].values()
    assert (*marked.get_xdata(), *marked.get_ydata()) == pytest.approx(best)
    # No other score flattens it.
    low, high = figure.axes[2].get_ylim()
    values = [y for line in scored[0].values() for y in line.get_ydata()]
    assert high - low < 1.2 * (max(values) - min(values))


def test_a_run_that_is_chosen_by_its_loss_has_that_marked(tmp_path: Path) -> None:
    records = [{"step": 1, "loss": 2.0, "lr": 0.1}]
    for step, loss in ((1, 2.0), (2, 1.0), (3, 1.5)):
        records.append({"step": step, "stage": "s", "scores": {"loss": loss, "accuracy": 0.5}})
    plot_curves(tmp_path / "curves.png", records, title="$run", metric="loss")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
