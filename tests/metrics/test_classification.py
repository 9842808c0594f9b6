from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from captax.errors import CaptaxError
from captax.files import OutputError
from captax.metrics.classification import (
    confusion_matrix,
    most_confused,
    per_class,
    plot_confusion,
    top_k_accuracy,
)

SCORES = np.array([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])
LABELS = np.array([0, 2, 0, 1])


def test_top_k_accuracy() -> None:
    # Ranks of the labels: 1, 2, 3, and 2 of equal scores, where the lower class comes first.
    assert [top_k_accuracy(SCORES, LABELS, k) for k in (1, 2, 3)] == [1 / 4, 3 / 4, 1]


@given(st.integers(0, 2**32 - 1))
def test_top_1_is_what_argmax_gets_right_and_top_k_grows_with_k(seed: int) -> None:
    draw = np.random.default_rng(seed)
    scores = draw.integers(0, 4, (20, 5)).astype(np.float32)  # with many ties
    labels = draw.integers(0, 5, 20)
    found = [top_k_accuracy(scores, labels, k) for k in range(1, 6)]
    assert found[0] == (scores.argmax(axis=1) == labels).mean()
    assert found == sorted(found)
    assert found[-1] == 1


@pytest.mark.parametrize(
    ("scores", "labels", "k", "message"),
    [
        (SCORES, LABELS, 4, "top-4 accuracy of 3 classes: k must be 1 to 3"),
        (SCORES, LABELS, 0, "top-0"),
        (SCORES, np.array([0, 1, 3, -1]), 1, "image number 3 has the label 3.* 0 to 2"),
        (SCORES[:0], LABELS[:0], 1, "give at least one"),
        (np.where(SCORES == 5, np.nan, SCORES), LABELS, 1, "image number 2 has a score"),
    ],
)
def test_bad_input(scores: Any, labels: Any, k: int, message: str) -> None:
    with pytest.raises(CaptaxError, match=message):
        top_k_accuracy(scores, labels, k)


def test_confusion_matrix_has_a_row_a_label() -> None:
    found = confusion_matrix(np.array([0, 1, 1, 0, 2]), np.array([0, 0, 1, 0, 1]), 4)
    assert found.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    with pytest.raises(CaptaxError, match="image number 1 has the prediction 4"):
        confusion_matrix(np.array([4]), np.array([0]), 4)


def test_per_class_by_hand() -> None:
    found = per_class(np.array([[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]))
    np.testing.assert_allclose(found.precision, [1, 1 / 2, 0, np.nan])
    np.testing.assert_allclose(found.recall, [2 / 3, 1 / 2, np.nan, np.nan])
    np.testing.assert_allclose(found.f1, [4 / 5, 1 / 2, 0, np.nan])
    # A class without images does not count, whatever is taken for it.
    macro = {"macro precision": 3 / 4, "macro recall": 7 / 12, "macro F1": 13 / 20}
    assert found.macro() == pytest.approx(macro)
    # Wrong of 5: the one of class 0 taken for 1; that and the one taken for 2; the latter; none.
    np.testing.assert_allclose(found.accuracy, [4 / 5, 3 / 5, 4 / 5, 1])
    assert found.support.tolist() == [3, 2, 0, 0]


def test_the_most_confused_come_first() -> None:
    confusion = np.array([[9, 1, 3], [2, 9, 0], [3, 0, 0]])
    assert most_confused(confusion, 3) == [(0, 2, 3), (2, 0, 3), (1, 0, 2)]
    assert most_confused(confusion, 99) == [(0, 2, 3), (2, 0, 3), (1, 0, 2), (0, 1, 1)]
    assert most_confused(np.eye(3, dtype=np.int64), 5) == []


def test_cells_are_dark_by_their_share_of_the_label(tmp_path: Path) -> None:
    names = ["a $cat", "dog $x_y$"]

    def dark(cells: list[list[int]]) -> int:
        path = tmp_path / "a folder" / "confusion.png"
        plot_confusion(path, np.array(cells), names)
        return int((np.asarray(Image.open(path).convert("L")) < 100).sum())

    assert dark([[98, 2], [0, 0]]) < 0.8 * dark([[5, 0], [0, 900]])


def test_a_picture_of_many_classes(tmp_path: Path) -> None:
    names = [f"class {n}" for n in range(200)]
    plot_confusion(tmp_path / "confusion.png", np.eye(200, dtype=np.int64), names)
    with Image.open(tmp_path / "confusion.png") as picture:
        assert max(picture.size) < 2500


def test_names_and_mistakes_are_written_as_long_as_they_can_be_read(tmp_path: Path) -> None:
    """There is more ink at the left than without names, and at the right the more is confused."""

    def ink(classes: int, wrong: int, part: slice) -> int:
        path = tmp_path / "confusion.png"
        confusion = 5 * np.eye(classes, dtype=np.int64)
        confusion[0, 1 : wrong + 1] = 1
        plot_confusion(path, confusion, [f"dish number {n}" for n in range(classes)])
        with Image.open(path) as picture:
            grey = np.asarray(picture.convert("L"))
        width = grey.shape[1]
        return int(
            (grey[:, slice(part.start * width // 100, part.stop * width // 100)] < 128).sum()
        )

    left, right = slice(0, 7), slice(85, 100)
    assert ink(101, 0, left) > 5 * ink(151, 0, left)
    assert ink(101, 8, right) > 3 * ink(101, 1, right)


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(CaptaxError, match="1 names for 2 classes"):
        plot_confusion(tmp_path / "x.png", np.eye(2, dtype=np.int64), ["a"])
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        plot_confusion(tmp_path / "file" / "x.png", np.eye(2, dtype=np.int64), ["a", "b"])
