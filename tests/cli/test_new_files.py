"""No command replaces what it reads, or what captax did not make; every file written is told."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from captax.files import Kind, NewFile, OutputError, check_new_files
from captax.metrics import Metric

Run = Callable[..., Any]
# A command, what it writes, and a file that it reads.
WRITING = [
    ("explain b.png --model {m} --out new.png", "b.png"),
    ("explain b.html --model {m} --out new.html", "b.html"),
    ("explain b.npz --model {m} --out new.npz", "b.npz"),
    ("caption p --model {m} --sheet new.html", "p/a.jpg"),
    ("caption p/*.jpg --model {m} --sheet new.html", "p/a.jpg"),
    ("caption p --model {m} --sheet new.html", "{m}/config.json"),
    ("caption p.txt --model {m} --sheet new.html", "p.txt"),
    ("alt site --model {m} --out new.patch", "site/a.html"),
    ("alt site --model {m} --report new.jsonl", "site/a.jpg"),
    ("alt site/a.html --model {m} --sheet new.html", "site/a.html"),
    ("data check p --sheet new.html", "p/a.txt"),
    ("evaluate {m} p --json new.json", "p/a.jpg"),
    ("score c.jsonl r.jsonl --json new.json", "c.jsonl"),
    ("score c.jsonl r.jsonl --csv new.csv", "r.jsonl"),
    ("score c.jsonl r.jsonl --write-document-frequencies new.json", "c.jsonl"),
    ("score c.jsonl r.jsonl --worst 1 --images p --out new.html", "p/a.jpg"),
    ("classify p --model {vit-classifier} --out new.txt", "p/a.jpg"),
    ("classify p --model {vit-classifier} --out new.jsonl", "{vit-classifier}/config.json"),
    ("generate {bert2bert} --file texts --out new.jsonl", "texts"),
    ("generate {bert2bert} --file texts --out new.txt", "texts"),
]


@pytest.fixture
def here(examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that the commands read, which is the current one."""
    monkeypatch.chdir(tmp_path)
    picture = next(each for each in sorted(examples.iterdir()) if each.suffix == ".jpg")
    for folder in ("p", "site"):
        (tmp_path / folder).mkdir()
        shutil.copy(picture, tmp_path / folder / "a.jpg")
    for suffix in (".png", ".html", ".npz"):  # a picture's name says nothing of its content
        shutil.copy(picture, tmp_path / f"b{suffix}")
    (tmp_path / "p" / "a.txt").write_text("a dog in the grass")
    (tmp_path / "p.txt").write_text("p/a.jpg\n")
    (tmp_path / "site" / "a.html").write_text('<p>text</p><img src="a.jpg">')
    (tmp_path / "texts").write_text("a dog\n")
    for name in ("c", "r"):
        row = '{"image_id": "a.jpg", "caption": "a dog in the grass"}\n'
        (tmp_path / f"{name}.jsonl").write_text(row)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(("command", "read"), WRITING)
def test_a_file_is_replaced_only_where_captax_made_it(
    command: str,
    read: str,
    run: Run,
    here: Path,
    model: Path,
    checkpoint: Callable[[str], Path],
) -> None:
    names = {
        "m": model,
        **{n: checkpoint(n) for n in ("vit-classifier", "bert2bert") if n in command},
    }
    [new] = re.findall(r"new\.\w+", command)
    words = command.format(**names).split()
    given = Path(read.format(**names))
    before = given.read_bytes()

    Path(new).write_text("mine")
    refused = run(*words)
    assert refused.code == 2 and refused.err.startswith(f"captax: {new}: is there already, and is")
    assert refused.err.count("\n") == 1 and "--overwrite" in refused.err and refused.out == ""
    assert Path(new).read_text() == "mine"

    result = run(*words, "--overwrite")
    assert result.code == 0, result.err
    assert Path(new).read_bytes() not in (b"mine", b"")
    assert f"captax: wrote {new}\n" in result.err and "wrote" not in result.out
    again = run(*words)
    if command.startswith("generate") and new.endswith(".txt"):  # texts are anybody's
        assert again.code == 2 and "is no list of texts that captax made" in again.err
    else:
        assert again.code == 0, again.err

    refused = run(*(str(given) if word == new else word for word in words), "--overwrite")
    assert refused.code == 2 and "is an input of this command, so it is not replaced" in refused.err
    assert refused.err.count("\n") == 1 and given.read_bytes() == before


@pytest.mark.parametrize("out", ["p.jsonl", "p/a.jpg", "link.jsonl"])
def test_captions_are_not_written_over_what_is_captioned(
    out: str, run: Run, here: Path, model: Path
) -> None:
    Path("p.jsonl").write_text('{"path": "p/a.jpg", "caption": "mine", "score": -1.0}\n')
    Path("link.jsonl").symlink_to("p.jsonl")
    before = Path(out).read_bytes()
    for options in (), ("--overwrite",), ("--on-exists", "overwrite"):
        result = run("caption", "p.jsonl", "p", "--model", model, "--out", out, *options)
        assert result.code == 2 and "is an input of this command" in result.err
        assert result.err.count("\n") == 1 and Path(out).read_bytes() == before


def test_a_list_beside_the_captions_is_no_persons(run: Run, here: Path, model: Path) -> None:
    Path("p/bad.jpg").write_bytes(b"")
    for name, out in (("x.txt", "x.txt"), ("captax-sidecar", "p")):
        mine = Path("p" if out == "p" else ".", f"{name}.errors.jsonl")
        mine.write_text("mine")
        command = ["caption", "p", "--model", model, "--out", out]
        command += ["--format", "sidecar"] if out == "p" else []
        refused = run(*command)
        assert refused.code == 2 and f"captax: {mine}: is there already" in refused.err
        assert mine.read_text() == "mine"
        again = run(*command, "--overwrite")
        assert again.code == 1 and "bad.jpg" in mine.read_text()
        assert run(*command).code == 1  # the list is captax's own now


def test_the_overwrite_of_a_page_leaves_sidecars(run: Run, here: Path, model: Path) -> None:
    Path("page.html").write_text("mine")
    command = ("caption", "p", "--model", model, "--format", "sidecar", "--sheet", "page.html")
    assert run(*command).code == 2
    assert run(*command, "--overwrite").code == 0
    assert Path("p/a.txt").read_text() == "a dog in the grass"


def test_two_outputs_have_two_names(run: Run, here: Path) -> None:
    options = ("--json", "x", "--csv", "./x")
    result = run("score", "c.jsonl", "r.jsonl", *options)
    assert result.code == 2 and "--json and --csv name the same file" in result.err
    assert not Path("x").exists()


def test_a_folder_of_that_name_is_told_before_the_work(run: Run, here: Path) -> None:
    result = run("score", "c.jsonl", "nowhere.jsonl", "--json", "p")
    assert result.code == 2 and "captax: p: is a folder" in result.err


def test_every_metric_has_its_place_in_the_mark_of_a_table(run: Run, here: Path) -> None:
    needs = {Metric.meteor, Metric.spice, Metric.chair, Metric.diversity, Metric.mbleu}
    for metric in set(Metric) - needs:
        for _ in range(2):
            result = run("score", "c.jsonl", "r.jsonl", "--metrics", metric, "--csv", "x.csv")
            assert result.code == 0, result.err
    Path("x.csv").write_text("id,caption\n1,mine\n")
    assert run("score", "c.jsonl", "r.jsonl", "--csv", "x.csv").code == 2
    Path("x.csv").write_text("id,caption,CIDEr-D,notes\n1,mine,1,mine\n")
    assert run("score", "c.jsonl", "r.jsonl", "--csv", "x.csv").code == 2


@pytest.mark.parametrize(
    "command",
    [
        "convert {x} {out} --overwrite",
        "average {x} {y} --out {out} --overwrite",
        "average {y} {x} --out {out} --overwrite",
        "assemble {x} {y} {out} --overwrite",
        "assemble {y} {x} {out} --overwrite",
        "export {x} {out}",
    ],
)
def test_a_checkpoint_does_not_replace_one_that_it_is_made_of(
    command: str, run: Run, model: Path, tmp_path: Path
) -> None:
    x, y, link, linked = (tmp_path / name for name in ("x", "y", "link", "linked"))
    for each in (x, y):
        shutil.copytree(model, each)
    (x / "export.json").write_text("mine")  # as if it were an export, too
    link.symlink_to(x)
    linked.mkdir()
    for each in x.iterdir():
        (linked / each.name).symlink_to(each)
    before = {path: path.read_bytes() for path in x.rglob("*") if path.is_file()}
    for given, out in ((x, x), (x, link), (link, x), (x, x / "." / ".." / "x"), (linked, x)):
        result = run(*command.format(x=given, y=y, out=out).split())
        assert result.code == 2 and result.err == (
            f"captax: {given}: is an input of this command, so it is not replaced; give another "
            f"place than {out}\n"
        )
    assert {path: path.read_bytes() for path in x.rglob("*") if path.is_file()} == before


def test_a_weight_file_is_not_replaced_by_the_checkpoint_made_of_it(
    run: Run, model: Path, tmp_path: Path
) -> None:
    shutil.copytree(model, tmp_path / "x")
    given = tmp_path / "x" / "resnet.safetensors"
    given.write_bytes(b"mine")
    result = run("convert", given, tmp_path / "x", "--overwrite")
    assert result.code == 2 and f"captax: {given}: is an input of this command" in result.err
    assert given.read_bytes() == b"mine"


def test_a_checkpoint_may_be_made_beside_and_below_what_it_is_made_of(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model, tmp_path / "x")
    for out in ("y", "x/half", "default"):
        for _ in range(2):
            assert run("convert", "x", out, "--dtype", "float16", "--overwrite").code == 0
    assert run("convert", "default", "default", "--overwrite").code == 0  # the built-in captioner


KIND = Kind("note", re.compile(b"captax"))


def refused(path: Path, *inputs: Path | str, overwrite: bool = False) -> bool:
    try:
        check_new_files([NewFile("--out", path, KIND, overwrite)], inputs)
    except OutputError:
        return True
    return False


def test_what_new_files_may_replace(tmp_path: Path) -> None:
    mine, ours, empty, link = (tmp_path / name for name in ("mine", "ours", "empty", "link"))
    mine.write_text("my captax")
    ours.write_text("captax made this")
    empty.touch()
    link.symlink_to(mine)
    assert [refused(each) for each in (mine, ours, empty, link)] == [True, False, False, True]
    assert not any(refused(each, overwrite=True) for each in (mine, ours, empty, link))
    for path in (tmp_path / "new", Path("/dev/null"), tmp_path / ("n" * 300), Path("a\0b")):
        assert not refused(path, tmp_path, "a\0b", "https://a.b/c", "x" * 5000)
    hard = tmp_path / "hard"
    hard.hardlink_to(ours)
    for path in (ours, hard):  # whoever made it, it is read
        assert refused(path, ours, overwrite=True)
    assert refused(link, tmp_path / "*.jpg", overwrite=True)
    assert not refused(ours, tmp_path, overwrite=True)
    with pytest.raises(OutputError, match="--a and --b name the same file"):
        check_new_files([NewFile("--a", mine, KIND, True), NewFile("--b", link, KIND, True)])
