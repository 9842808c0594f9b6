"""The classifier as a user holds it, on small checkpoints that transformers made."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import captax
from captax.checkpoints.directory import load_model
from captax.checkpoints.state import parameters
from captax.errors import CaptaxError, CheckpointError
from captax.images import ImageError, ImageProcessor
from captax.models.config import ConfigError
from captax.pipelines.classifier import Classification, Classifier, LabelError
from golden.families import CASES

PROCESSOR = ImageProcessor(size=(32, 32), mean=(0.5, 0.4, 0.3), std=(0.1, 0.1, 0.1))
FAMILIES = ["vit-classifier", "resnet-classifier", "siglip-classifier"]


@pytest.fixture(scope="module")
def classifiers() -> dict[str, Classifier]:
    return {name: Classifier(load_model(CASES[name].stored), PROCESSOR) for name in FAMILIES}


@pytest.fixture(scope="module")
def classifier(classifiers: dict[str, Classifier]) -> Classifier:
    return classifiers["vit-classifier"]


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """Eleven pictures of coloured tiles, of several sizes."""
    rng = np.random.default_rng(0)
    tiles = [rng.integers(0, 256, (3, 4, 3), np.uint8) for _ in range(11)]
    return [np.kron(each, np.ones((20 + i, 20, 1), np.uint8)) for i, each in enumerate(tiles)]


@pytest.fixture(scope="module")
def found(classifier: Classifier, pictures: list[np.ndarray]) -> list[Classification]:
    return classifier.classify(pictures, batch_size=8)


def same(got: Any, want: Classification) -> bool:
    assert isinstance(got, Classification) and len(got.alternatives) == len(want.alternatives)
    return got.label == want.label and all(
        a.label == b.label and abs(a.probability - b.probability) < 1e-5
        for a, b in zip(got.alternatives, want.alternatives, strict=True)
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_come_by_the_softmax_of_the_logits(
    classifiers: dict[str, Classifier], pictures: list[np.ndarray], family: str
) -> None:
    classifier = classifiers[family]
    classify = jax.jit(lambda pixels: classifier.model.classify(pixels))
    logits = np.asarray(classify(classifier.processor(pictures)), np.float64)
    odds = np.exp(logits)
    probabilities = odds / odds.sum(-1, keepdims=True)
    found = classifier.classify(pictures, top=3, batch_size=8)
    assert len(found) == 11 and len({each.alternatives[1].label for each in found}) > 1
    for row, each in zip(probabilities, found, strict=True):
        order = row.argsort()[::-1][:3]
        assert [a.label for a in each.alternatives] == [f"thing {i}" for i in order]
        np.testing.assert_allclose(
            [a.probability for a in each.alternatives], row[order], atol=1e-5
        )
        assert str(each) == each.label == each.alternatives[0].label
        assert each.probability == each.alternatives[0].probability


def test_more_labels_than_there_are_gives_them_all(
    classifier: Classifier, pictures: list[np.ndarray]
) -> None:
    [all_of_them] = classifier.classify(pictures[0], top=1000)
    assert sorted(a.label for a in all_of_them.alternatives) == sorted(classifier.labels)
    assert sum(a.probability for a in all_of_them.alternatives) == pytest.approx(1, abs=1e-5)


def test_one_picture_several_or_none(
    classifier: Classifier,
    pictures: list[np.ndarray],
    found: list[Classification],
    tmp_path: Path,
) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(pictures[0]).save(path)
    for source in (path, str(path), path.read_bytes(), Image.open(path), pictures[0]):
        [got] = classifier.classify(source)
        assert same(got, found[0])
    assert classifier.classify([]) == []
    for batch_size in (1, 3):
        got = classifier.classify(pictures, batch_size=batch_size)
        assert len(got) == 11 and all(map(same, got, found))


def test_errors_come_in_the_place_of_their_pictures(
    classifier: Classifier, pictures: list[np.ndarray], found: list[Classification]
) -> None:
    sources: list[Any] = list(pictures)
    bad = (0, 4, 8, 9, 10)  # with batches of 8, a whole batch is bad
    for row in bad:
        sources[row] = b"no picture"
    stream = list(classifier.stream(sources, batch_size=8))
    assert len(stream) == 11
    for row, got in enumerate(stream):
        assert isinstance(got, ImageError) if row in bad else same(got, found[row])
    with pytest.raises(ImageError):
        classifier.classify(sources, batch_size=8)


def test_pictures_are_taken_as_they_come(
    classifier: Classifier, pictures: list[np.ndarray], found: list[Classification]
) -> None:
    taken = []

    def endless() -> Iterator[np.ndarray]:
        while True:
            taken.append(1)
            yield pictures[len(taken) % 11 - 1]

    stream = classifier.stream(endless(), batch_size=8)
    for want in (*found, *found):
        assert same(next(stream), want)
    assert len(taken) < 100
    stream.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_loaded_it_says_the_same(
    classifiers: dict[str, Classifier], pictures: list[np.ndarray], family: str, tmp_path: Path
) -> None:
    classifier, folder = classifiers[family], tmp_path / "classifier"
    classifier.save(folder, card="# A card\n")
    assert (folder / "README.md").read_text() == "# A card\n"
    want = classifier.classify(pictures[:1])
    loaded = captax.load(folder)
    assert isinstance(loaded, Classifier)
    assert loaded.labels == classifier.labels and loaded.processor == PROCESSOR
    assert loaded.classify(pictures[:1]) == want


@pytest.mark.parametrize("family", FAMILIES)
def test_it_classifies_in_half_precision(
    classifiers: dict[str, Classifier], pictures: list[np.ndarray], family: str, tmp_path: Path
) -> None:
    classifiers[family].save(tmp_path / "classifier")
    half = captax.load(tmp_path / "classifier", dtype="bfloat16")
    assert {str(value.dtype) for value in parameters(half.model).values()} == {"bfloat16"}
    [got], [want] = (each.classify(pictures[:1]) for each in (half, classifiers[family]))
    assert got.probability == pytest.approx(want.probability, abs=0.05)


def test_other_names_for_the_same_labels(classifier: Classifier, tmp_path: Path) -> None:
    names = [f"name {i}" for i in range(7)]
    renamed = Classifier(classifier.model, PROCESSOR, names)
    assert renamed.labels == tuple(names)
    assert classifier.labels == tuple(f"thing {i}" for i in range(7))
    renamed.save(tmp_path / "renamed")
    config = json.loads((tmp_path / "renamed" / "config.json").read_text())
    assert list(config["id2label"].values()) == names


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_new_labels_get_a_new_head_and_nothing_else_changes(
    classifiers: dict[str, Classifier], family: str, tmp_path: Path
) -> None:
    classifier = classifiers[family]
    classifier.save(tmp_path / "old")
    labels = [f"new {i}" for i in range(400)]
    changed = captax.classifier_for(tmp_path / "old", labels, seed=3)
    assert len(classifier.labels) == 7 and changed.labels == tuple(labels)
    old, new = parameters(classifier.model), parameters(changed.model)
    assert new.keys() == old.keys()
    for name in old.keys() - {"classifier.kernel", "classifier.bias"}:
        np.testing.assert_array_equal(new[name], old[name])
    kernel, bias = np.asarray(new["classifier.kernel"]), np.asarray(new["classifier.bias"])
    assert kernel.shape == (400, 24) and bias.shape == (400,)
    # Normal with the config's deviation, or with 1 / sqrt(24); no bias.
    normal = {"vit-classifier": 0.02, "siglip-classifier": 24**-0.5}
    if (std := normal.get(family)) is not None:
        assert kernel.std() == pytest.approx(std, rel=0.05) and not bias.any()
        assert np.abs(kernel).max() > 3 * std
    else:  # uniform within 1 / sqrt(24)
        for values in (kernel, bias):
            assert values.std() == pytest.approx(24**-0.5 / 3**0.5, rel=0.1)
            assert 0.19 < np.abs(values).max() <= 24**-0.5
    again = captax.classifier_for(tmp_path / "old", labels, seed=4)
    assert (np.asarray(parameters(again.model)["classifier.kernel"]) != kernel).any()
    changed.save(tmp_path / "changed")
    loaded = captax.load(tmp_path / "changed")
    assert loaded.labels == tuple(labels)


def test_a_model_without_a_head_gets_one(checkpoint: Callable[[str], Path]) -> None:
    bare = parameters(captax.load_model(checkpoint("vit")))
    classifier = captax.classifier_for(checkpoint("vit"), ["a", "b", "c"])
    assert classifier.labels == ("a", "b", "c")
    for name, value in parameters(classifier.model).items():
        if "classifier" not in name:
            np.testing.assert_array_equal(value, bare[name])
    known = "convnext, deit, resnet, siglip, siglip_vision_model, swinv2, vit, vit_msn"
    with pytest.raises(ConfigError, match=f"gpt2 cannot classify; use one of {known}$"):
        captax.classifier_for(checkpoint("gpt2"), ["a"])


def test_what_cannot_be_asked_is_refused(
    classifier: Classifier, pictures: list[np.ndarray]
) -> None:
    with pytest.raises(CaptaxError, match="top is 0"):
        classifier.classify(pictures, top=0)
    with pytest.raises(LabelError, match="2 labels for a model of 7"):
        Classifier(classifier.model, PROCESSOR, ["a", "b"])
    with pytest.raises(LabelError, match="ViT has no classifier head"):
        Classifier(load_model(CASES["vit"].stored), PROCESSOR)


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_checkpoints_without_a_head_are_refused(name: str) -> None:
    stored = CASES[name].stored
    with pytest.raises(CheckpointError, match="holds a bare"):
        captax.load(stored)


def test_what_is_saved_is_what_was_there(classifier: Classifier, tmp_path: Path) -> None:
    classifier.save(tmp_path / "saved")
    got = safetensors.numpy.load_file(tmp_path / "saved" / "model.safetensors")
    stored = CASES["vit-classifier"].stored / "model.safetensors"
    for name, value in safetensors.numpy.load_file(stored).items():
        np.testing.assert_array_equal(got[name], value)


def test_it_answers_with_the_weights_its_model_has_now(
    checkpoint: Callable[[str], Path], pictures: list[np.ndarray]
) -> None:
    """As after a step of training on `classifier.model`."""
    classifier = captax.load(checkpoint("vit-classifier"))
    classifier.classify(pictures[:1])
    classifier.model.classifier.bias[...] += jnp.zeros(7).at[3].set(50.0)
    assert classifier.classify(pictures[:1])[0].label == "thing 3"


@pytest.mark.parametrize("labels", [[], "cat", ["cat", "cat"]])
def test_labels_are_several_and_different(checkpoint: Callable[[str], Path], labels: Any) -> None:
    with pytest.raises(LabelError, match="give a list of different labels"):
        captax.classifier_for(checkpoint("vit"), labels)
