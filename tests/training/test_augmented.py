"""Training pictures as a recipe's views show them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captax.training.augmented import augmented_rows, recipe_for
from captax.training.recipe import AugmentOptions, Recipe, RecipeError
from captax.training.tasks import make_task

AUGMENT = AugmentOptions(crop_scale=(0.4, 0.8), flip=True, jitter=0.3)


@pytest.fixture
def recipe(finetune: Callable[[int], Recipe], root: Path, tmp_path: Path) -> Recipe:
    """The recipe of a file, for the dataset of another one."""
    path = tmp_path / "mine.yaml"
    path.write_text(finetune(4).model_copy(update={"augment": AUGMENT}).to_yaml())
    return recipe_for(str(path), str(root / "shapes"), "train")


def pixels(image: Any) -> np.ndarray:
    assert isinstance(image, Image.Image)
    return np.asarray(image)


def test_the_cards_show_what_the_model_is_given(recipe: Recipe) -> None:
    rows = list(augmented_rows(recipe, 11))
    assert [row.title for row in rows] == [
        f"{place}: {view}"
        for place in ("shapes/0", "shapes/7")
        for view in ("unchanged", *(f"view {number}" for number in range(1, 5)))
    ]
    assert rows[0].caption == "A red stripe in the dark . · The stripe is red ."
    task = make_task(recipe)
    # The first visit of an epoch is view 1.
    for title, visits in (("shapes/7: view 1", [0]), ("shapes/7: view 3", [2])):
        [row] = [row for row in rows if row.title == title]
        [given] = task.pictures.read(np.array([7]), np.array(visits))
        [shown] = recipe_pixels(task, pixels(row.image))
        np.testing.assert_array_equal(given, shown)
    assert not np.array_equal(pixels(rows[0].image), pixels(rows[1].image))


def recipe_pixels(task: Any, picture: np.ndarray) -> Any:
    return task.pictures.processor.normalize(picture[None])


def test_only_views_that_training_sees_are_shown(recipe: Recipe) -> None:
    kept = recipe.stages[0].model_copy(update={"views": 2})
    rows = list(augmented_rows(recipe.model_copy(update={"stages": (kept,)}), 4))
    assert [row.title.partition(": ")[2] for row in rows] == ["unchanged", "view 1"] * 2
    plain = recipe.model_copy(update={"augment": AugmentOptions()})
    assert [row.title for row in augmented_rows(plain, 2)] == [
        "shapes/0: unchanged",
        "shapes/7: unchanged",
    ]


def test_a_picture_that_cannot_be_read_is_told(recipe: Recipe, root: Path) -> None:
    (root / "shapes" / "images" / "0.jpg").write_bytes(b"no picture")
    first, second, *_ = augmented_rows(recipe, 10)
    assert first.image is None and first.error and "0.jpg" in first.error
    assert second.title == "shapes/7: unchanged"


def test_texts_have_no_views() -> None:
    with pytest.raises(RecipeError, match="has no pictures; leave out --augmented"):
        recipe_for("bert2bert", "pairs", "train")


@pytest.mark.parametrize("name", ["it's", 'a "b" it\'s', "back\\slash", "köln 🐕", "a: b, #{c}]"])
def test_a_folder_may_have_any_name(name: str) -> None:
    [source] = recipe_for("flickr8k-vit", f"/data/{name}", "validation").data.train
    assert (source.path, source.split) == (f"/data/{name}", "validation")
