"""Captioners with a calibration: the same captions, and a confidence that checkpoints keep."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import captax
from captax.errors import CheckpointError
from captax.generation import Calibration
from captax.pipelines.captioner import Captioner
from captax.pipelines.conversion import convert

CALIBRATION = Calibration(
    {"mean_logprob": 3.0, "length": -0.1, "evidence": 0.2, "spread": 0.1, "flatness": -0.5},
    bias=1.0,
    threshold=0.5,
    fitted={"data": "tiles (12)", "auroc": 0.8},
)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    tiles = [rng.integers(0, 256, (3, 4, 3), np.uint8) for _ in range(11)]
    return [np.kron(each, np.ones((20, 20, 1), np.uint8)) for each in tiles]


@pytest.fixture(scope="module")
def calibrated(tiny_captioner: Captioner) -> Captioner:
    tiny = tiny_captioner
    return Captioner(tiny.model, tiny.processor, tiny.tokenizer, tiny.generation, CALIBRATION)


@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 1}, {"do_sample": True, "num_beams": 1, "seed": 3}, {"prompt": "a red"}],
    ids=str,
)
def test_captions_and_scores_stay_what_they_were(
    options: dict[str, Any],
    tiny_captioner: Captioner,
    calibrated: Captioner,
    pictures: list[np.ndarray],
) -> None:
    want = tiny_captioner.caption(pictures, **options)
    got = calibrated.caption(pictures, **options)
    for before, after in zip(want, got, strict=True):
        assert before.confidence is None and before.signals == {}
        assert after.tokens == before.tokens and after.text == before.text
        assert after.score == before.score and after.alternatives == before.alternatives
        assert after.confidence == CALIBRATION.confidence(after.signals)
        assert after.signals.keys() == CALIBRATION.weights.keys()
        assert after.signals["mean_logprob"] == pytest.approx(np.mean(after.logprobs), abs=1e-5)
    assert len({each.confidence for each in got}) > 5


def test_a_confidence_depends_on_its_picture_alone(
    calibrated: Captioner, pictures: list[np.ndarray]
) -> None:
    together = calibrated.caption(pictures, batch_size=11)
    apart = [calibrated.caption(picture)[0] for picture in pictures[:3]]
    for one, other in zip(together, apart, strict=False):
        assert other.confidence == pytest.approx(one.confidence, abs=1e-4)


def test_signals_can_be_asked_for_without_a_calibration(
    tiny_captioner: Captioner, calibrated: Captioner, pictures: list[np.ndarray]
) -> None:
    [found] = tiny_captioner.stream(pictures[:1], signals=True)
    assert found.confidence is None
    # This encoder has no classes.
    assert found.signals.keys() == CALIBRATION.weights.keys() | {"lowest_logprob"}
    [same] = calibrated.caption(pictures[0])
    for name, value in same.signals.items():
        assert found.signals[name] == pytest.approx(value, abs=1e-5)


def test_a_checkpoint_keeps_its_calibration(
    calibrated: Captioner,
    tiny_captioner: Captioner,
    pictures: list[np.ndarray],
    tmp_path: Path,
) -> None:
    calibrated.save(tmp_path / "model")
    (tmp_path / "model" / "confidence.png").write_bytes(b"the diagram of this calibration")
    convert(str(tmp_path / "model"), tmp_path / "half", dtype="float16")
    for name in ("model", "half"):
        assert captax.load(tmp_path / name).calibration == CALIBRATION
    want = calibrated.caption(pictures[0])[0].confidence
    assert captax.load(tmp_path / "model").caption(pictures[0])[0].confidence == want
    # Other weights, such as training saves: the old calibration is not theirs.
    tiny_captioner.save(tmp_path / "model")
    assert not list((tmp_path / "model").glob("confidence.*"))
    assert captax.load(tmp_path / "model").calibration is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"weights": {"length": NaN}, "bias": 0, "threshold": 0}',
        b'{"weights": {"length": 1e999}, "bias": 0, "threshold": 0}',
        b'{"weights": {"\\u2028": 1}, "bias": 0, "threshold": 0}',
        b"[" * 100_000,
    ],
    ids=lambda content: repr(content[:30]),
)
def test_a_broken_file_is_an_error_that_names_it(
    content: bytes, calibrated: Captioner, tmp_path: Path
) -> None:
    calibrated.save(tmp_path / "model")
    (tmp_path / "model" / "confidence.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"confidence\.json: ") as error:
        captax.load(tmp_path / "model")
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


def test_a_signal_that_the_model_lacks_is_an_error_that_says_so(
    calibrated: Captioner, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    calibrated.save(tmp_path / "model")
    content = {"weights": {"class_probability": 1}, "bias": 0, "threshold": 0}
    (tmp_path / "model" / "confidence.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"class_probability.*captax calibrate"):
        captax.load(tmp_path / "model").caption(pictures[0])
