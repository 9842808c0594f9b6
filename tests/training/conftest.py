"""A made-up dataset of a dozen pictures, small enough to train on in a test."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captax.models import efficientnet
from captax.pipelines.captioner import Captioner
from captax.training import build
from captax.training.recipe import Recipe, load_recipe

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220)}


def draw(path: Path, colour: tuple[int, int, int], shape: int, seed: int) -> None:
    """A coloured stripe or square on noise."""
    pixels = np.random.default_rng(seed).integers(0, 90, (48, 40, 3), np.uint8)
    if shape:
        pixels[14:34, 10:30] = colour
    else:
        pixels[:, 15:25] = colour
    Image.fromarray(pixels).save(path, quality=95)


@pytest.fixture(scope="session")
def dataset() -> Callable[[Path], Path]:
    """Write a dataset in Flickr8k's layout into a folder: 8 pictures to train on, 4 for dev."""

    def write(root: Path) -> Path:
        folder = root / "shapes"
        (folder / "images").mkdir(parents=True)
        (folder / "text").mkdir()
        captions, names = [], []
        for number in range(12):
            colour, shape = list(COLOURS)[number % 3], number % 2
            name = f"{number}.jpg"
            draw(folder / "images" / name, COLOURS[colour], shape, number)
            thing = ("stripe", "square")[shape]
            side = "on the left" if number == 5 else "in the dark"
            captions.append(f"{name}#0\tA {colour} {thing} {side} .")
            captions.append(f"{name}#1\tThe {thing} is {colour} .")
            names.append(name)
        text = folder / "text"
        (text / "Flickr8k.token.txt").write_text("\n".join(captions) + "\n")
        (text / "Flickr_8k.trainImages.txt").write_text("\n".join(names[:8]) + "\n")
        (text / "Flickr_8k.devImages.txt").write_text("\n".join(names[8:]) + "\n")
        return root

    return write


@pytest.fixture
def root(dataset: Callable[[Path], Path], tiny_captioner: Captioner, tmp_path: Path) -> Path:
    """The dataset, and a captioner to train on it."""
    root = dataset(tmp_path)
    tiny_captioner.save(root / "captioner")
    return root


@pytest.fixture
def finetune(root: Path) -> Callable[[int], Recipe]:
    """A recipe that trains this captioner for two epochs, with batches of a size."""

    def recipe(batch_size: int) -> Recipe:
        return load_recipe(
            "finetune",
            [
                f"data.root={root}",
                "data.train=[{path: shapes, split: train}]",
                "data.dev=[{path: shapes, split: dev}]",
                "data.max_tokens=10",
                f"model.checkpoint={root / 'captioner'}",
                "evaluation={num_beams: 1, max_new_tokens: 4, metric: loss, samples: 1, epochs: 1}",
                f"optimizer={{batch_size: {batch_size}}}",
                "stages=[{name: s, epochs: 2, lr: 0.01, trainable: [decoder]}]",
                "save_every=1",
            ],
        )

    return recipe


@pytest.fixture(scope="module")
def small_encoder(make_model: Callable[..., Any]) -> Iterator[Any]:
    """One block wherever there would be an EfficientNet-Lite, pretrained or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet, "STAGES", ((1, 3, 16, 1, 8),))
        described = {"model_type": "efficientnet-lite", "image_size": 40}
        encoder = make_model(described)

        def load(size: int, weights: object, classifier: bool) -> Any:
            return make_model({**described, "num_labels": 1000}) if classifier else encoder

        patch.setattr(build, "load_efficientnet_lite", load)
        yield encoder


@pytest.fixture
def small_classifier(
    small_encoder: Any, make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Any:
    """The same with a classifier of four classes."""
    described = {"model_type": "efficientnet-lite", "image_size": 40, "num_labels": 4}
    encoder = make_model(described)
    monkeypatch.setattr(build, "load_efficientnet_lite", lambda size, weights, classifier: encoder)
    names = ["red stripe", "yo yo", "square", "Egyptian cat"]
    monkeypatch.setattr(build, "class_words", lambda name: names)
    return encoder
