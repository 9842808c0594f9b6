"""Pipes, devices, huge files and closed streams given to commands: one line, and no waiting."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.slow

MEMORY = 3 * 2**20  # KiB
# One process tries all kinds of paths, since loading JAX takes longer than the attacks.
DRIVER = """
import sys
from captax.cli.main import main
for line in open(sys.argv[1]).read().splitlines():
    sys.argv = line.split("|")
    print("==", line, file=sys.stderr)
    try:
        main()
    except SystemExit as stop:
        print("-- exit", stop.code or 0, file=sys.stderr)
"""
# `@` stands for the path attacked, `{m}` for a model and `{p}` for a picture.
COMMANDS = [
    "caption @",
    "caption {p} --model @",
    "alt @",
    "explain @",
    "classify @ --model {m}",
    "train @",
    "evaluate {m} @",
    "score @ {c}",
    "score {c} @",
    "data check @",
    "generate --model {m} --file @",
    "convert @ out",
    "export {m} @",
    "push @ owner/name",
]
KINDS = ("pipe", "device", "folder", "missing", "empty", "binary", "huge")
SUFFIXES = {"caption": ".csv", "alt": ".html", "train": ".yaml", "data": ".json", "score": ".jsonl"}


def attack(kind: str, path: Path) -> Path:
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            try:  # the machine's own is not attacked if it can be helped
                os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
            except PermissionError:
                return Path("/dev/zero")
        case "folder":
            path.mkdir()
        case "empty":
            path.touch()
        case "binary":
            path.write_bytes(bytes(range(256)) * 100)
        case "huge":
            path.touch()
            os.truncate(path, 2**40)
    return path


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a shell's command in `folder`, with bounded memory and time."""
    return subprocess.run(
        ["bash", "-c", f"ulimit -d {MEMORY}; {command}"],
        cwd=folder,
        env={
            **os.environ,
            "CAPTAX": f"{sys.executable} -m captax",
            "HF_HUB_OFFLINE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",  # on a full disk Python would keep half of a module
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_a_path_of_any_kind_is_a_line(
    command: str, tmp_path: Path, model: Path, examples: Path
) -> None:
    captions = tmp_path / "captions.jsonl"
    captions.write_text('{"image_id": 1, "caption": "a dog"}\n')
    picture = next(each for each in sorted(examples.iterdir()) if each.suffix == ".jpg")
    lines = []
    for kind in KINDS:
        path = attack(kind, tmp_path / f"{kind}{SUFFIXES.get(command.split()[0], '')}")
        words = command.format(m=model, p=picture, c=captions).replace("@", str(path))
        lines.append("captax|" + words.replace(" ", "|"))
    (tmp_path / "lines").write_text("\n".join(lines))
    (tmp_path / "driver.py").write_text(DRIVER)
    result = shell(f"{sys.executable} driver.py lines", tmp_path)
    assert "Traceback" not in result.stderr and result.returncode == 0, result.stderr
    codes = dict(zip(KINDS, result.stderr.split("-- exit ")[1:], strict=True))
    for kind in ("pipe", "device", "huge"):
        assert codes[kind][0] in "12", (kind, result.stderr)


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("caption {p} >&-", 2, "standard output"),
        ("caption {p} >/dev/full", 2, "standard output"),
        ("info >/dev/full", 2, "standard output"),
        ("--version >/dev/full", 2, "standard output"),
        ("caption site site/a.jpg 2>said | head -1; [ ! -s said ]", 0, ""),
        ("caption {p} 2>said | true; [ ! -s said ]", 0, ""),
        ("caption {p} --out x.csv >&-", 0, ""),
        ("caption {p} 2>&-", 0, ""),
        ("caption {p} 2>/dev/full", 0, ""),
        ("caption {p} --out y.csv 2>/dev/full", 0, ""),
        ("caption {p} <&-", 0, ""),
        ("alt site >/dev/full", 2, "standard output"),
        ("convert {m} out --dtype float32", 2, ""),
        ("caption {p} --out z.csv", 2, "z.csv"),
    ],
)
def test_streams_and_disks_that_refuse(
    command: str, code: int, said: str, tmp_path: Path, model: Path, examples: Path
) -> None:
    picture = next(each for each in sorted(examples.iterdir()) if each.suffix == ".jpg")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "a.jpg").write_bytes(picture.read_bytes())
    (tmp_path / "site" / "a.html").write_text('<p>text</p><img src="a.jpg">')
    words = command.format(m=model, p=picture)
    limit = "ulimit -f 0; " if "z.csv" in command or "convert" in command else ""
    result = shell(f"{limit}CAPTAX_CACHE=off $CAPTAX {words}", tmp_path)
    assert (result.returncode, result.stderr.count("Traceback")) == (code, 0), result.stderr
    assert said in result.stderr


# Room for files of so many KiB, and a command that writes to `old`, which is there before.
FULL_DISKS = [
    (0, "train recipe.yaml --out run"),
    (64, "export {m} new"),
    (64, "export {m} new --format stablehlo"),
    (0, "score c.jsonl c.jsonl --json old --overwrite"),
    (0, "score c.jsonl c.jsonl --csv old --overwrite"),
    (0, "score c.jsonl c.jsonl --write-document-frequencies old --overwrite"),
    (1, "score c.jsonl c.jsonl --worst 1 --images pictures --out old --overwrite"),
    (0, "evaluate {m} pictures --json old --overwrite"),
    (1, "explain pictures/a.jpg --model {m} --out old.png --overwrite"),
    (1, "explain pictures/a.jpg --model {m} --out old.html --overwrite"),
    (1, "explain pictures/a.jpg --model {m} --out old.npz --overwrite"),
    (0, "alt site --model {m} --out old --overwrite"),
    (0, "alt site --model {m} --out /dev/null --report old --overwrite"),
    (1, "alt site --model {m} --out /dev/null --sheet old --overwrite"),
    (1, "data check pictures --sheet old --overwrite"),
    (0, "assemble {vit} {gpt2} new"),
    (64, "assemble {vit} {gpt2} new"),
    (1, "caption pictures --model {m} --sheet old --overwrite"),
    (0, "caption pictures --model {m} --out old.jsonl"),
    (0, "classify pictures --model {vit_classifier} --out old --overwrite"),
    (0, "generate {bert2bert} --file texts --out old --overwrite"),
]


@pytest.mark.parametrize(("room", "command"), FULL_DISKS)
def test_a_full_disk_keeps_what_was_there(
    room: int,
    command: str,
    tmp_path: Path,
    model: Path,
    examples: Path,
    checkpoint: Callable[[str], Path],
) -> None:
    """One line says it, and no file is new, lost or half written."""
    picture = next(each for each in sorted(examples.iterdir()) if each.suffix == ".jpg")
    for folder in ("pictures", "site"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jpg").write_bytes(picture.read_bytes())
    (tmp_path / "pictures" / "a.txt").write_text("a dog in the grass")
    (tmp_path / "site" / "a.html").write_text('<p>text</p><img src="a.jpg">')
    (tmp_path / "c.jsonl").write_text('{"image_id": "a.jpg", "caption": "a dog in the grass"}\n')
    (tmp_path / "texts").write_text("a dog\n")
    for suffix in ("", ".png", ".html", ".npz", ".jsonl"):
        (tmp_path / f"old{suffix}").write_text("mine")
    data = [{"path": "pictures"}]
    recipe: dict[str, Any] = {
        "name": "full",
        "model": {"checkpoint": str(model), "add_words": True},
        "data": {"root": ".", "train": data, "dev": data, "min_count": 1, "max_tokens": 10},
        "stages": [{"name": "all", "epochs": 1, "lr": 0.01}],
        "optimizer": {"batch_size": 1},
        "evaluation": {"max_new_tokens": 6},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    before = content(tmp_path)
    names = ("vit", "gpt2", "vit-classifier", "bert2bert")
    spelt = {name.replace("-", "_"): name for name in names}
    made = {key: checkpoint(name) for key, name in spelt.items() if f"{{{key}}}" in command}
    words = command.format(m=model, **made)
    result = shell(f"ulimit -f {room}; CAPTAX_CACHE=/dev/null/no $CAPTAX {words}", tmp_path)
    assert "Traceback" not in result.stderr and result.returncode == 2, result.stderr
    [line] = [each for each in result.stderr.splitlines() if "cannot be written" in each]
    assert line.startswith("captax: ") and "File too large" in line
    assert content(tmp_path) == before


def content(folder: Path) -> dict[Path, bytes | None]:
    """Everything below `folder`."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
