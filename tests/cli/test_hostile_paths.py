"""Pipes, devices, huge files and closed streams given to commands: one line, and no waiting."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
        env={**os.environ, "CAPTAX": f"{sys.executable} -m captax", "HF_HUB_OFFLINE": "1"},
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
