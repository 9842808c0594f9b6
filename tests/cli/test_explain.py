"""`captax explain`: words and where they came from, as text, pictures, pages and arrays."""

import base64
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from captax.cli import explain as command
from captax.explain import maps
from captax.explain.evidence import EVIDENCE
from captax.explain.explain import ALL
from captax.explain.hiding import HIDE
from captax.explain.views import VIEWS
from captax.generation import programs


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "tiles.png"
    tiles = np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8)
    Image.fromarray(np.kron(tiles, np.ones((20, 20, 1), np.uint8))).save(path)
    return path


def test_choices_are_those_of_the_library() -> None:
    """They are written out in the command, whose help starts without JAX."""
    assert list(command.Method) == [*maps.METHODS, ALL]
    assert list(command.View) == list(VIEWS)
    assert list(command.Hide) == list(HIDE)
    assert list(command.Per) == list(get_args(maps.Per))


def test_words_are_listed_with_where_they_came_from(
    run: Callable[..., Any], model: Path, picture: Path
) -> None:
    found = run("explain", picture, "--model", model, "--caption", "a red square")
    assert found.code == 0 and found.err == ""
    caption, *lines = found.out.splitlines()
    assert caption == "a red square" and len(lines) == 3
    for number, (line, word) in enumerate(zip(lines, caption.split(), strict=True), 1):
        assert re.match(rf" +{number}  {word} +-\d+\.\d\d +\d+% at row [12] of 2, column", line)
        assert line.endswith(("top left", "top right", "bottom left", "bottom right"))


@pytest.mark.slow
def test_what_is_said_is_explained_by_default(
    run: Callable[..., Any], model: Path, picture: Path
) -> None:
    options = (picture, "--model", model, "--num-beams", "2", "--max-new-tokens", "4")
    captioned = run("caption", *options).out.strip().removeprefix(f"{picture}: ")
    found = run("explain", *options, "--feed-back")
    lines = found.out.splitlines()
    assert lines[0] == captioned and len(lines) == len(captioned.split()) + 2
    assert lines[-1].startswith("fed back: ")


@pytest.mark.slow
def test_files_are_written_as_their_names_say(
    run: Callable[..., Any], model: Path, picture: Path, tmp_path: Path
) -> None:
    given = ("explain", picture, "--model", model, "--caption", "a red square", "--out")
    for name, options in (
        ("strip.png", ()),
        ("word.png", ("--word", "red", "--layer", "-1", "--head", "0")),
        ("token.png", ("--per", "token", "--word", "4", "--view", "heat")),
        ("page.html", ("--method", "occlusion", "--faithfulness")),
        ("all.npz", ()),
    ):
        found = run(*given, tmp_path / name, *options)
        assert found.code == 0, found.err
        assert (tmp_path / name).stat().st_size > 1000
        assert found.out.startswith("a red square\n  1  ")  # as without --out
    sizes = set()
    for name in ("strip.png", "word.png", "token.png"):
        with Image.open(tmp_path / name) as image:
            sizes.add(image.size)
    assert len(sizes) >= 2
    assert "How far to believe" in (tmp_path / "page.html").read_text()
    with np.load(tmp_path / "all.npz") as arrays:
        assert arrays["maps/attention"].shape == (3, 2, 2)


def test_long_work_says_what_it_does(run: Callable[..., Any], model: Path, picture: Path) -> None:
    """Each method as it begins, and each compilation."""
    given = ("explain", picture, "--model", model, "--caption", "a red square")
    told = run(*given, "--method", "attention", "--method", "occlusion").err.splitlines()
    steps = [line.removeprefix("captax: ") for line in told]
    compiling = "compiling a program for this step, which is kept for the next time"
    assert steps == ["method attention", compiling, "method occlusion", compiling]


def test_a_compilation_that_takes_long_is_told_of(
    run: Callable[..., Any], model: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing else is said, because all else is quick."""
    monkeypatch.setattr(programs, "PATIENCE", 1e-6)
    told = run("explain", picture, "--model", model, "--caption", "a red square").err
    assert told == "captax: compiling a program for this step, which is kept for the next time\n"


@pytest.mark.slow
def test_all_methods_that_the_model_has_are_named(
    run: Callable[..., Any], model: Path, picture: Path
) -> None:
    told = run("explain", picture, "--model", model, "--method", "all", "--faithfulness").err
    steps = [line.removeprefix("captax: ") for line in told.splitlines() if "compil" not in line]
    methods = [f"method {name}" for name in ("attention", *EVIDENCE)]
    assert steps == ["writing the caption", *methods, "measuring how far to believe each map"]


def test_faithfulness_is_a_table_best_first(
    run: Callable[..., Any], model: Path, picture: Path
) -> None:
    options = ("--caption", "a red square", "--method", "attention", "--method", "occlusion")
    found = run("explain", picture, "--model", model, *options, "--faithfulness")
    table = found.out.split("\n\n")[1].splitlines()
    assert table[0].split() == ["map", "deletion", "insertion", "score"]
    rows = [line.split() for line in table[1:-1]]
    assert {row[0] for row in rows} == {"attention", "occlusion", "random"}
    scores = [float(row[3]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    for row in rows:
        assert float(row[3]) == pytest.approx(float(row[2]) - float(row[1]), abs=0.0021)
    assert re.fullmatch(r"one random order scores 0 ± \d\.\d{3}", table[-1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--view", "heat"), "--view only applies to a .png; add --out NAME.png"),
        (
            ("--out", "x.png", "--method", "all"),
            "a .png shows one method; give one --method, or --out NAME.html for several",
        ),
        (
            ("--out", "x.png", "--view", "strip", "--word", "1"),
            "--view strip shows every word; leave --word out, or choose another view",
        ),
        (
            ("--method", "occlusion", "--layer", "1"),
            "occlusion has no layers or heads; give neither, or choose attention or rollout",
        ),
        (
            ("--word", "zebra"),
            "word 'zebra' is not in the caption; its words are 1 a, 2 red, 3 square",
        ),
        (("--per", "token", "--word", "9"), "there is no token '9'; give a number from 1 to 4"),
        (("--layer", "7"), "the decoder has no layer 7; choose 0 to 1"),
        (("--caption", " "), "--caption has no words to explain; give it some, or leave it out"),
        (
            ("--method", "rollout"),
            "rollout needs an encoder with attention, and this model's encoder has none (it is "
            "convolutional) or reads a picture in several views; choose attention, gradient, "
            "integrated, occlusion",
        ),
        (
            ("--out", "x.jpg"),
            "x.jpg: the suffix does not say what to write; use .png, .html or .npz",
        ),
        (
            ("--method", "occlusion", "--head", "0"),
            "occlusion has no layers or heads; give neither, or choose attention or rollout",
        ),
        (
            ("--per", "token", "--feed-back"),
            "--feed-back takes the maps of words; leave --per token out",
        ),
    ],
)
def test_mistakes_are_told_in_a_line(
    run: Callable[..., Any], model: Path, picture: Path, options: tuple[str, ...], message: str
) -> None:
    found = run("explain", picture, "--model", model, "--caption", "a red square", *options)
    assert found.code == 2 and found.err.count("\n") == 1
    assert found.err.startswith("captax: ") and message in found.err


def test_what_cannot_be_explained_is_named(
    run: Callable[..., Any], checkpoint: Callable[..., Path], model: Path, tmp_path: Path
) -> None:
    found = run("explain", tmp_path / "gone.png", "--model", model)
    assert found.code == 2 and "gone.png: no such file" in found.err
    found = run("explain", tmp_path / "gone.png", "--model", checkpoint("bert-gpt2"))
    assert found.code == 2 and "which cannot caption" in found.err


def test_no_thread_imports_numpy_before_the_main_thread_has(picture: Path, tmp_path: Path) -> None:
    """Two threads that import NumPy at once may each see the other's half of it."""
    script = """
import sys, threading
start = threading.Thread.start
def told(thread):
    print(thread.name, {"numpy", "jax", "jax.numpy"} <= sys.modules.keys())
    start(thread)
threading.Thread.start = told
sys.argv = ["captax", *sys.argv[1:]]
from captax.cli.main import main
main()
"""
    command = ["explain", picture, "--model", tmp_path / "none", "--out", tmp_path / "o.png"]
    run = subprocess.run(
        [sys.executable, "-c", script, *map(str, command)], capture_output=True, text=True
    )
    assert run.returncode == 2 and "Thread-1" in run.stdout and "False" not in run.stdout


def test_a_url_is_explained_as_caption_takes_it(
    run: Callable[..., Any], model: Path, picture: Path
) -> None:
    by_path, by_url, by_data = (
        run("explain", each, "--model", model, "--caption", "a red square")
        for each in (
            picture,
            f"file://{picture}",
            f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}",
        )
    )
    assert by_path.out == by_url.out == by_data.out
    missing = run("explain", f"file://{picture}.none", "--model", model)
    assert missing.code == 2 and missing.err == f"captax: file://{picture}.none: no such file\n"
