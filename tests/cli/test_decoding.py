"""Decoding options on the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captax.cli.options import DECODING
from captax.pipelines.captioner import Captioner

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(1)
    for name in ("a.png", "b.png"):
        tiles = np.kron(rng.integers(0, 256, (3, 4, 3), np.uint8), np.ones((20, 20, 1), np.uint8))
        Image.fromarray(tiles).save(folder / name)
    return sorted(folder.iterdir())


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (
            "--bad-words a --bad-words red --no-repeat-ngram-size 2 --early-stopping never",
            {"bad_words": ["a", "red"], "no_repeat_ngram_size": 2, "early_stopping": "never"},
        ),
        pytest.param(
            "--do-sample --seed 5 --temperature 1.5 --top-k 4 --best-of 3",
            {"do_sample": True, "seed": 5, "temperature": 1.5, "top_k": 4, "best_of": 3},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_options_do_what_they_do_in_python(
    run: Run,
    model: Path,
    tiny_captioner: Captioner,
    pictures: list[Path],
    arguments: str,
    options: dict[str, Any],
) -> None:
    want = tiny_captioner.caption(list(map(str, pictures)), **options)
    flags = [*arguments.split(), "--format", "jsonl"]
    result = run("caption", *pictures, "--model", model, *flags)
    found = [json.loads(line)["caption"] for line in result.out.splitlines()]
    assert result.code == 0 and found == [caption.text for caption in want]


def test_options_without_meaning_are_refused_in_a_line(
    run: Run, model: Path, pictures: list[Path]
) -> None:
    result = run("caption", *pictures, "--model", model, "--best-of", "3")
    message = "captax: --best-of only applies to sampling; add --do-sample"
    assert result.code == 2 and result.err.splitlines()[-1] == message
    result = run("caption", *pictures, "--model", model, "--do-sample", "--num-beams", "4")
    message = "captax: --do-sample is not supported with 4 beams; use --num-beams 1"
    assert result.code == 2 and result.err.splitlines()[-1] == message


@pytest.mark.parametrize("command", ["caption", "generate"])
def test_help_names_every_option(run: Run, command: str) -> None:
    shown = run(command, "--help").out
    for name in DECODING:
        assert "--" + name.replace("_", "-") in shown
