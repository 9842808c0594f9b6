"""`captax caption` on folders as people have them."""

import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import captax
from captax.pipelines.captioner import Captioner

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good pictures, and three files that only look like pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name in ("a b.png", "é.jpg", "sub/c.webp"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        tiles = np.kron(rng.integers(0, 256, (3, 4, 3), np.uint8), np.ones((20, 20, 1), np.uint8))
        Image.fromarray(tiles).save(path)
    whole = (folder / "é.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("not a picture")
    (folder / "notes.txt").write_text("ignored")
    return folder


GOOD, BAD = ["a b.png", "sub/c.webp", "é.jpg"], ["cut.jpg", "empty.jpg", "text.jpg"]


@pytest.fixture(scope="module")
def expected(tiny_captioner: Captioner, pictures: Path) -> dict[str, str]:
    paths = [str(pictures / name) for name in GOOD]
    captions = tiny_captioner.caption(paths, batch_size=8)
    return {path: caption.text for path, caption in zip(paths, captions, strict=True)}


def test_every_good_picture_is_captioned_and_every_bad_one_named(
    run: Run, model: Path, pictures: Path, expected: dict[str, str]
) -> None:
    result = run("caption", pictures, "--model", model)
    assert result.code == 1
    assert result.out.splitlines() == [f"{path}: {text}" for path, text in expected.items()]
    lines = result.err.splitlines()
    for name, line in zip(BAD, lines, strict=False):
        assert line.startswith(f"captax: {pictures / name}: ")
    assert lines[3].startswith("captax: 6 pictures: 3 captioned, 3 failed in ")
    assert lines[3].endswith("; 1 file skipped: 1 .txt")
    assert sorted(lines[4:]) == [
        "captax: 1 x damaged or truncated JPEG picture",
        "captax: 1 x is empty",
        "captax: 1 x not a picture that can be read",
    ]


def test_jsonl_has_a_record_for_every_picture_in_order(
    run: Run, model: Path, pictures: Path, expected: dict[str, str]
) -> None:
    result = run("caption", pictures, "--model", model, "--format", "jsonl")
    records = [json.loads(line) for line in result.out.splitlines()]
    assert [Path(record["path"]).name for record in records] == [
        "a b.png",
        "cut.jpg",
        "empty.jpg",
        "c.webp",
        "text.jpg",
        "é.jpg",
    ]
    good = [record for record in records if "error" not in record]
    assert {record["path"]: record["caption"] for record in good} == expected
    assert all(record.keys() == {"path", "caption", "score"} for record in good)
    assert all(record.keys() == {"path", "error"} for record in records if "error" in record)
    assert "é.jpg" in result.out  # not escaped


def test_files_and_patterns_are_captioned_once_each(
    run: Run, model: Path, pictures: Path, expected: dict[str, str]
) -> None:
    first = pictures / "a b.png"
    result = run("caption", first, pictures / "*.png", first, "--model", model)
    assert (result.code, result.err) == (0, "")
    assert result.out == f"{first}: {expected[str(first)]}\n"


def test_options_reach_the_search(run: Run, model: Path, pictures: Path) -> None:
    path = pictures / "a b.png"
    options = {"num_return_sequences": 4, "max_new_tokens": 3, "length_penalty": 0.5}
    flags = [str(part) for k, v in options.items() for part in (f"--{k.replace('_', '-')}", v)]
    result = run("caption", path, "--model", model, "--format", "jsonl", *flags)
    [want] = captax.load(model).caption([path], **options)
    record = json.loads(result.out)
    found = [(record["caption"], record["score"])]
    found += [(other["caption"], other["score"]) for other in record["alternatives"]]
    assert found == [(a.text, a.score) for a in want.alternatives] and len(found) == 4


def test_out_and_sheet_are_written(
    run: Run, model: Path, pictures: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    out, sheet = tmp_path / "new" / "captions.txt", tmp_path / "captions.html"
    result = run("caption", pictures, "--model", model, "--out", out, "--sheet", sheet)
    assert result.code == 1 and result.out == ""
    lines = out.read_text(encoding="utf-8").splitlines()
    assert lines == [f"{path}: {text}" for path, text in expected.items()]
    page = sheet.read_text(encoding="utf-8")
    assert all(text in page for text in expected.values()) and "empty.jpg" in page
    errors = out.with_name("captions.txt.errors.jsonl").read_text().splitlines()
    assert [json.loads(line)["path"] for line in errors] == [str(pictures / name) for name in BAD]
    seen = (path for path in tmp_path.rglob("*") if ".captax" not in str(path) and path.is_file())
    assert sorted(path.name for path in seen) == [
        "captions.html",
        "captions.txt",
        "captions.txt.errors.jsonl",
    ]


def stop_after_one(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    stream = Captioner.stream_pixels

    def stop(*arguments: Any, **options: Any) -> Any:
        yield next(stream(*arguments, **options))
        raise error

    monkeypatch.setattr(Captioner, "stream_pixels", stop)


def test_an_interrupted_run_leaves_the_old_output(
    run: Run, model: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "captions.txt"
    out.write_text("old")
    stop_after_one(monkeypatch, KeyboardInterrupt())
    command = ("caption", pictures, "--model", model, "--out", out)
    refused = run(*command)
    assert refused.code == 2 and "is there already; add --overwrite to replace it" in refused.err
    assert run(*command, "--on-exists", "overwrite").code == 130
    assert out.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_captions_are_printed_as_they_come(
    run: Run, model: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after_one(monkeypatch, KeyboardInterrupt())
    result = run("caption", pictures, "--model", model, "--batch-size", 1)
    assert result.out.startswith(f"{pictures / 'a b.png'}: ")


def test_a_reader_that_goes_away_is_no_crash(
    run: Run, model: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closed:
        def write(self, text: str) -> int:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

        def flush(self) -> None: ...

        def isatty(self) -> bool:
            return False

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Closed())
        result = run("caption", pictures / "a b.png", "--model", model)
    assert (result.code, result.err) == (1, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jpg"], "nowhere.jpg: no such file or folder"),
        (["*.jpg"], "*.jpg: this pattern matches no picture"),
        (["."], ".: there are no pictures in this folder"),
        (["a.png", "--model", "./nowhere"], "./nowhere: no such directory"),
        (["a.png", "--model", "."], "config.json: no such file"),
    ],
)
def test_wrong_paths_are_one_line_and_exit_2(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if "a.png" in arguments:
        Image.new("RGB", (8, 8)).save("a.png")
    result = run("caption", *arguments)
    assert result.code == 2 and result.out == ""
    assert result.err.startswith("captax: ") and message in result.err
    assert result.err.count("\n") == 1


def test_an_output_that_cannot_be_written_is_one_line_and_exit_2(
    run: Run, model: Path, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "captions.txt"
    result = run("caption", pictures / "a b.png", "--model", model, "--out", out)
    assert result.code == 2 and result.err.startswith(f"captax: {tmp_path / 'file'}")
    assert "cannot be written" in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'sources'"),
        (["a.png", "--beams", "3"], "No such option: --beams"),
        (["a.png", "--num-beams", "0"], "Invalid value for '--num-beams'"),
        (["a.png", "--format", "xml"], "Invalid value for '--format'"),
    ],
)
def test_wrong_options_are_told_as_such_and_exit_2(
    run: Run, arguments: list[str], message: str
) -> None:
    result = run("caption", *arguments)
    assert result.code == 2 and message.lower() in result.err.lower()


def test_every_sequence_asked_for_is_a_line(run: Run, model: Path, pictures: Path) -> None:
    picture = pictures / GOOD[0]
    options = ("--model", model, "--num-return-sequences", 3)
    lines = run("caption", picture, *options).out.splitlines()
    assert len(lines) == 3 and all(line.startswith(f"{picture}: ") for line in lines)


def test_a_jsonl_file_holds_json(run: Run, model: Path, pictures: Path, tmp_path: Path) -> None:
    picture = pictures / GOOD[0]
    run("caption", picture, "--model", model, "--out", tmp_path / "x.jsonl")
    assert json.loads((tmp_path / "x.jsonl").read_text())["path"] == str(picture)
