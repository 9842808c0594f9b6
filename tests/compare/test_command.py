"""`captax compare` as a shell sees it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import captax
from captax.compare import runs
from captax.compare.comparison import Comparison, read_comparison
from captax.errors import CaptaxError
from cli.test_endpoint import Fake, serving
from compare.conftest import CAPTIONS, draw, write_captions

Run = Callable[..., Any]
FILES = ["cats.jsonl", "dogs.jsonl"]


def test_files_are_compared_without_any_model(
    compared: tuple[Path, Comparison], run: Run, here: Path
) -> None:
    out, found = compared
    assert [each.name for each in found.captioners] == list(CAPTIONS)
    first = found.pictures[0]
    assert first.name == "0.png" and first.shared == ["mat"] and first.references == []
    assert [each.only for each in first.said] == [["cat"], ["dog"], ["bird"]]
    assert first.disagreement == pytest.approx(0.5)
    cats, dogs, birds = found.captioners
    assert (cats.captions, cats.words, cats.shortest, cats.longest) == (4, 3.25, 2, 5)
    assert cats.vocabulary == len({*["a", "cat", "on", "mat", "two", "cats", "black", "asleep"]})
    assert cats.agreement["dogs"] == dogs.agreement["cats"] == pytest.approx(0.6)
    assert birds.shortest == 0 and cats.scores == {} and cats.measured is None
    for path in ("index.html", "comparison.json", "captions/cats.jsonl", "captions/birds.jsonl"):
        assert (out / path).is_file()
    again = run("compare", "out/captions/cats.jsonl", *FILES[1:], "--data", "p", "--out", "again")
    assert again.code == 0  # what is written is read


def test_the_table_is_short(run: Run, here: Path) -> None:
    result = run("compare", *FILES, "--data", "p")
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[1].split()[:3] == ["cats", "3.2", "8"] and lines[-1] == "4 pictures"
    assert "captax: wrote compare/index.html\n" in result.err


def test_references_give_scores_with_intervals(run: Run, here: Path) -> None:
    for number, caption in enumerate(CAPTIONS["cats"]):
        (here / "p" / f"{number}.txt").write_text(caption)
    assert run("compare", *FILES, "--data", "p", "--metrics", "bleu,wer").code == 0
    found = read_comparison(here / "compare")
    cats, dogs = found.captioners
    assert found.scored == 4 and list(cats.scores) == [*(f"BLEU-{n}" for n in range(1, 5)), "WER"]
    assert cats.scores["WER"].value == 0 < dogs.scores["WER"].value
    bleu = dogs.scores["BLEU-1"]
    assert bleu.low is not None and bleu.high is not None and bleu.low <= bleu.value <= bleu.high
    assert found.pictures[1].said[1].scores["WER"] == 0 < found.pictures[0].said[1].scores["WER"]
    assert found.pictures[0].references == ["a cat on a mat"]
    page = (here / "compare" / "index.html").read_text()
    assert "WER (lower is better)" in page
    result = run("compare", *FILES, "--data", "p", "--no-references")
    assert result.code == 0 and read_comparison(here / "compare").captioners[0].scores == {}


def test_a_picture_without_a_caption_or_that_is_broken_costs_a_row(run: Run, here: Path) -> None:
    write_captions(here / "few.jsonl", {"0.png": "a cat", "2.png": "a dog"})
    (here / "p" / "2.png").write_bytes(b"broken")
    result = run("compare", "cats.jsonl", "few.jsonl", "--data", "p")
    assert result.code == 1 and "2 pictures have no caption of some captioner" in result.err
    found = read_comparison(here / "compare")
    assert found.captioners[1].failed == 2 and found.captioners[0].failed == 0
    assert [each.said[1].error for each in found.pictures] == [
        "", "the file has no caption of it", "", "the file has no caption of it"
    ]  # fmt: skip
    assert found.pictures[1].disagreement is None
    assert [bool(each.thumbnail) for each in found.pictures] == [True, True, False, True]


def test_captions_of_strangers_are_text(compared: tuple[Path, Comparison]) -> None:
    page = (compared[0] / "index.html").read_text()
    assert "<b>a</b> dog" not in page and "&lt;b&gt;" in page.replace("<mark>b</mark>", "b")
    assert page.count("<script>") == 1


def test_names_that_are_not_utf_8_are_compared_too(run: Run, here: Path) -> None:
    odd = os.fsdecode(b"\xff.png")
    try:
        (here / "p" / "0.png").rename(here / "p" / odd)
    except OSError:
        pytest.skip("this file system has no such names")
    for name in ("one", "two"):
        (here / f"{name}.txt").write_text("a cat\na dog\na bird\na fish\n")
    result = run("compare", "one.txt", f"{odd}=two.txt", "--data", "p")
    assert result.code == 0, result.err
    found = read_comparison(here / "compare")
    assert "\\udcff.png" in [each.name for each in found.pictures]
    assert all(each.thumbnail for each in found.pictures)


def test_other_files_are_told_of_and_links_are_not_followed(run: Run, here: Path) -> None:
    (here / "p" / "clip.mp4").write_bytes(b"no picture")
    assert "1 file skipped: 1 .mp4" in run("compare", *FILES, "--data", "p").err
    for name in ("captions", "thumbnails"):
        shutil.rmtree(here / "compare" / name)
        (here / "elsewhere").mkdir(exist_ok=True)
        (here / "compare" / name).symlink_to(here / "elsewhere")
        result = run("compare", *FILES, "--data", "p")
        assert result.code == 2 and "a link leads out of its folder" in result.err
        assert list((here / "elsewhere").iterdir()) == []
        (here / "compare" / name).unlink()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["cats.jsonl"], "two captioners or more"),
        ([], "two captioners or more"),
        ([*FILES, "absent.csv"], "absent.csv: no such file"),
        (["cats.jsonl", "default", "--metrics", "blue"], "no metric 'blue'"),
        (
            ["cats.jsonl", "default", "--prompt", "On {{exif.date}}"],
            "{exif.date} differs by picture",
        ),
        (["default", "other.jsonl"], "none of its captions is of a picture in p"),
        (["default", "no/such-checkpoint"], "no/such-checkpoint"),
        (["default", "m@http://127.0.0.1:9/v1"], "no server answers"),
        (["default", "{classifier}"], "cannot caption"),
        (["default", "cats.jsonl", "--clip", "default"], "needs a CLIP"),
        (["default", "cats.jsonl", "--concurrency", "2"], "only applies to servers"),
        (["default", "m@http://127.0.0.1:9/v1", "--voter", "x"], "only applies to votes"),
        ([*FILES, "--prompt", "Why?"], "only applies to captioners that run"),
        ([*FILES, "--dtype", "bfloat16"], "only applies to checkpoints"),
        ([*FILES, "--metrics", "meteor"], "only applies to pictures with reference captions"),
        (["default", "cats.jsonl", "--vote", "out"], "for a comparison that is there"),
        (["default", "cats.jsonl", "--out", "mine"], "is there already"),
        (["default", "cats.jsonl", "--split", "dev"], "leave out --split"),
        (["default", "cats.jsonl", "--out", "p/compare"], "is in the folder of the pictures"),
    ],
)
def test_everything_wrong_is_told_before_a_model_is_loaded(
    words: list[str],
    told: str,
    run: Run,
    here: Path,
    checkpoint: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(runs, "_run", lambda job: pytest.fail("a model was loaded"))
    write_captions(here / "other.jsonl", {"other.png": "a cat"})
    (here / "mine").mkdir()
    (here / "mine" / "index.html").write_text("mine")
    for number in range(4):
        if "blue" in words:
            (here / "p" / f"{number}.txt").write_text("a cat")
    given = [word.format(classifier=checkpoint("vit-classifier")) for word in words]
    result = run("compare", *given, "--data", "p")
    assert result.code == 2 and told in result.err and result.err.count("\n") == 1
    assert (here / "mine" / "index.html").read_text() == "mine"
    assert not (here / "compare").exists()


def test_what_a_comparison_is_made_of_is_not_replaced(run: Run, here: Path) -> None:
    assert run("compare", *FILES, "--data", "p", "--out", "out").code == 0
    before = (here / "out" / "captions" / "cats.jsonl").read_bytes()
    words = ("out/captions/cats.jsonl", "dogs.jsonl", "--data", "p", "--out", "out")
    result = run("compare", *words, "--overwrite")
    assert result.code == 2 and "is an input of this command" in result.err
    assert (here / "out" / "captions" / "cats.jsonl").read_bytes() == before


def test_results_of_votes(run: Run, compared: tuple[Path, Comparison]) -> None:
    out, found = compared
    assert "has no votes" in run("compare", "--results", out).err
    rows = [
        {
            "voter": f"v{n % 2}",
            "picture": each.name,
            "left": "cats",
            "right": "birds",
            "captions": [each.said[0].caption, each.said[2].caption],
            "choice": "left",
        }
        for n, each in enumerate(found.pictures)
    ]
    (out / "votes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run("compare", "--results", out)
    assert result.code == 0 and "votes: 4 (v0 2, v1 2)" in result.out
    assert result.out.splitlines()[1].split()[:5] == ["cats", "4", "0", "0", "100.0%"]
    told = json.loads((out / "results.json").read_text())
    assert told["captioners"][0]["rate"] == 1 and told["pairs"][1]["wins"] == 4
    assert "<h2>Votes</h2>" in (out / "index.html").read_text()
    assert run("compare", "--results", out).code == 0  # its own files are replaced
    assert run("compare", *FILES, "birds.jsonl", "--data", "p", "--out", out).code == 0
    assert "<h2>Votes</h2>" in (out / "index.html").read_text()


@pytest.mark.parametrize("option", ["--vote", "--results"])
@pytest.mark.parametrize(
    "words", [["--limit", "3"], ["--no-references"], ["--out", "other"], ["--dtype", "bfloat16"]]
)
def test_options_of_captioning_are_refused_with_votes(
    option: str, words: list[str], run: Run
) -> None:
    result = run("compare", option, "out", *words)
    assert result.code == 2 and f"{words[0]} has no effect on a comparison" in result.err


def test_damaged_votes_are_told_before_a_model_is_loaded(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_run", lambda job: pytest.fail("a model was loaded"))
    (here / "out").mkdir()
    (here / "out" / "votes.jsonl").write_text("{}\n")
    result = run("compare", "default", "cats.jsonl", "--data", "p", "--out", "out")
    assert result.code == 2 and "line 1: is no vote" in result.err


def test_names_do_not_control_the_terminal(
    run: Run, here: Path, two: tuple[Path, Comparison]
) -> None:
    path = two[0] / "comparison.json"
    path.write_text(path.read_text().replace('"cats"', '"c\\u001b[31m"'))
    vote = {"voter": "v\x1b]0;x", "picture": "0.png", "left": "c\x1b[31m", "right": "dogs"}
    said = {"captions": ["a cat on a mat", "a dog on a mat"], "choice": "left"}
    (two[0] / "votes.jsonl").write_text(json.dumps(vote | said) + "\n")
    result = run("compare", "--results", two[0])
    assert result.code == 0, result.err
    assert "\x1b" not in result.out and "c\\x1b[31m" in result.out
    words = ["c\x1b[31m=cats.jsonl", "dogs.jsonl", "--data", "p", "--out", "other"]
    assert "\x1b" not in run("compare", *words).out


@pytest.mark.parametrize(
    "damage",
    [
        lambda told: told["captioners"].pop(),
        lambda told: told["pictures"][0]["said"].pop(),
        lambda told: told["pictures"][0].update(thumbnail="../../secret.jpg"),
        lambda told: told["captioners"][1].update(name="cats"),
        lambda told: told.pop("pictures"),
        lambda told: told.update(pictures=[[]]),
    ],
)
def test_a_damaged_comparison_is_told(
    damage: Callable[[Any], Any], run: Run, two: tuple[Path, Comparison]
) -> None:
    path = two[0] / "comparison.json"
    told = json.loads(path.read_text())
    damage(told)
    path.write_text(json.dumps(told))
    for option in ("--vote", "--results"):
        result = run("compare", option, two[0])
        assert result.code == 2 and str(path) in result.err and result.err.count("\n") == 1
    assert "no such file" in run("compare", "--vote", "nowhere").err


def journals(out: Path) -> dict[str, list[str]]:
    """The lines of each captioner's journal."""
    found = sorted((out / ".captax").glob("*/journal.jsonl"))
    return {each.parent.name: each.read_text().splitlines() for each in found}


@pytest.mark.slow
def test_models_and_servers_run_once_and_are_measured(
    run: Run, here: Path, model: Path, checkpoint: Callable[[str], Path]
) -> None:
    (here / "p" / "3.png").write_bytes(b"broken")
    fake = Fake()
    with serving(fake) as url:
        words = [f"tiny={model}", f"a-model@{url}", "cats.jsonl", "--data", "p", "--out", "out"]
        words += ["--batch-size", "2", "--prompt", "What is it?", "--clip", str(checkpoint("clip"))]
        result = run("compare", *words)
        assert result.code == 1, result.err
        found = read_comparison(here / "out")
        tiny, served, cats = found.captioners
        assert [each.failed for each in found.captioners] == [1, 1, 0]
        theirs = captax.load(model).caption([f"p/{n}.png" for n in range(3)], batch_size=2)
        assert [p.said[0].caption for p in found.pictures[:3]] == [c.text for c in theirs]
        assert all((p.said[1].caption or "").startswith("picture") for p in found.pictures[:3])
        assert {b["messages"][-1]["content"][0]["text"] for b in fake.bodies} == {"What is it?"}
        assert tiny.measured and tiny.measured.pictures == 3 and (tiny.measured.memory or 0) > 2**20
        assert served.measured and served.measured.pictures == 3 and served.measured.memory is None
        assert cats.measured is None
        assert set(cats.scores) == {"CLIPScore"} and found.scored == 3
        before, asked = journals(here / "out"), len(fake.bodies)
        os.utime(here / "cats.jsonl")
        again = run("compare", *words)
        assert again.code == 1 and read_comparison(here / "out") == found
        assert journals(here / "out") == before and len(fake.bodies) == asked
        # One that changed is captioned again, and no other.
        shutil.copy(here / "p" / "0.png", here / "p" / "3.png")
        assert run("compare", *words).code == 0
        assert len(fake.bodies) == asked + 1
        assert read_comparison(here / "out").captioners[0].captions == 4


@pytest.mark.slow
def test_a_kill_loses_no_caption(here: Path) -> None:
    draw(here / "p", 12)
    fake = Fake()
    fake.pause = 0.3
    with serving(fake) as url:
        words = ["compare", f"a-model@{url}", "other=cats.jsonl", "--data", "p", "--out", "out"]
        words += ["--batch-size", "1", "--concurrency", "1"]
        command = [sys.executable, "-m", "captax", *words]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE)
        end = time.monotonic() + 120
        while sum(map(len, journals(here / "out").values())) < 4:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        process.kill()
        process.communicate()
        kept = max(map(len, journals(here / "out").values())) - 1
        # Its child ends with it, and lets go of the journal.
        time.sleep(1)
        fake.pause, fake.bodies = 0.0, []
        done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr  # the file has captions of 4 pictures only
    assert read_comparison(here / "out").captioners[0].captions == 12
    assert len(fake.bodies) <= 12 - kept


@pytest.mark.slow
def test_ctrl_c_ends_after_a_batch_and_says_how_to_go_on(here: Path) -> None:
    draw(here / "p", 12)
    fake = Fake()
    fake.pause = 0.3
    hearing = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from captax.cli.main import main; main()"
    )
    with serving(fake) as url:
        words = ["compare", f"a-model@{url}", "other=cats.jsonl", "--data", "p", "--out", "out"]
        words += ["--batch-size", "1", "--concurrency", "1"]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.Popen(
            [sys.executable, "-c", hearing, *words], env=env, stderr=subprocess.PIPE, text=True
        )
        end = time.monotonic() + 120
        while sum(map(len, journals(here / "out").values())) < 3:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again to go on from here" in told and "Traceback" not in told


@pytest.mark.slow
def test_a_model_whose_process_dies_is_told(
    here: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = runs.ChildJob("tiny", str(model), "", "out/j", "out", {}, {"folder": "p"})
    real = subprocess.Popen

    def killed(*given: Any, **options: Any) -> Any:
        process = real(*given, **options)
        process.kill()
        return process

    with monkeypatch.context() as patch:
        patch.setattr(runs.subprocess, "Popen", killed)
        with pytest.raises(CaptaxError, match="tiny: its process was killed by SIGKILL"):
            runs._run(job)
    shutil.rmtree("p")
    with pytest.raises(CaptaxError, match="'tiny': p: no such"):
        runs._run(job)
