"""swinv2 beyond the golden checkpoints: as half of a captioner, and as a classifier."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import captax
from captax.models.registry import ConfigError, read_config
from captax.pipelines.assembly import from_pretrained_halves


def test_with_a_decoder_it_captions(
    checkpoint: Callable[[str], Path], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    captioner = from_pretrained_halves(
        checkpoint("swinv2"), checkpoint("gpt2"), tokenizer=tiny_tokenizer
    )
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    captioner.save(tmp_path / "saved")
    options = {"max_new_tokens": 3, "num_beams": 1}
    [said] = captioner.caption(picture, **options)
    [again] = captax.load(tmp_path / "saved").caption(picture, **options)
    assert said.tokens and again == said


def test_a_classifier_labels_pictures(checkpoint: Callable[[str], Path]) -> None:
    classifier = captax.load(checkpoint("swinv2-classifier"))
    [found] = classifier.classify(np.zeros((40, 50, 3), np.uint8), top=7)
    assert {each.label for each in found.alternatives} == {f"thing {i}" for i in range(7)}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"depths": [1, 2]}, "one number for every stage"),
        ({"num_heads": [5, 5, 5, 5]}, "must divide the widths"),
        ({"use_absolute_embeddings": True}, "use_absolute_embeddings=True"),
        ({"window_size": 65}, "windows of 65"),
        ({"pretrained_window_sizes": [1, 1, 1, 1]}, "windows of"),
        ({"mlp_ratio": 1e308}, "mlp_ratio=1e[+]308 must be above 0"),
        ({"depths": []}, "one number for every stage"),
    ],
)
def test_a_wrong_config_is_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_config({"model_type": "swinv2", **change})
