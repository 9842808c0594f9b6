"""The columns of a list come back in the files of its captions."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from captax.collection.plan import Plan
from captax.pipelines.captioner import Captioner

ROWS: list[dict[str, Any]] = [
    {"image": "a.png", "name": "=Anna", "caption": "by hand", "page": 3, "none": None},
    {"image": "gone.png", "name": "Ödön, \n2", "caption": "", "page": 4, "none": None},
]


def written(path: Path) -> list[dict[str, Any]]:
    """The rows of an output file."""
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def make(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        table = pyarrow.Table.from_pylist(rows)
        table = table.append_column("raw", pyarrow.array([b"x"] * len(rows)))
        pyarrow.parquet.write_table(table, path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("out", ["out.jsonl", "out.csv", "out.parquet"])
@pytest.mark.parametrize("listed", ["list.csv", "list.jsonl", "list.parquet"])
def test_columns_of_a_list_are_kept(
    pictures: Callable[..., Path], tiny_captioner: Captioner, listed: str, out: str
) -> None:
    folder = pictures("a.png")
    plan = Plan((str(make(folder / listed, ROWS)),), folder / out)
    summary = plan.run(tiny_captioner)
    assert (summary.captioned, summary.errors.total()) == (1, 1)
    good, bad = written(folder / out)
    assert good["path"] == str(folder / "a.png") and good["caption"] not in ("", "by hand")
    name = "'=Anna" if out == "out.csv" else "=Anna"
    assert (good["name"], good["list_caption"], str(good["page"])) == (name, "by hand", "3")
    assert (bad["name"], bad["list_caption"], str(bad["page"])) == ("Ödön, \n2", "", "4")
    assert "raw" not in good and "image" not in good
    assert bad["error"]
    before = (folder / out).read_bytes()
    assert plan.run(tiny_captioner).before == 1  # from the journal
    assert (folder / out).read_bytes() == before


def test_what_captax_wrote_is_written_anew(
    pictures: Callable[..., Path], tiny_captioner: Captioner
) -> None:
    folder = pictures("a.png")
    row = {"path": "a.png", "caption": "old", "score": -9.0, "error": "", "name": "Anna"}
    row |= {"confidence": 0.9, "graphic": "map"}
    Plan((str(make(folder / "list.csv", [row])),), folder / "out.jsonl").run(tiny_captioner)
    [found] = written(folder / "out.jsonl")
    assert list(found) == ["path", "caption", "score", "name"] and found["caption"] != "old"


def test_a_text_that_is_no_utf8_hides_no_picture(
    pictures: Callable[..., Path], tiny_captioner: Captioner
) -> None:
    folder = pictures("a.png")
    broken = pyarrow.array([b"\xff"]).view(pyarrow.binary()).view(pyarrow.string())
    table = pyarrow.table({"image": ["a.png"], "name": broken})
    pyarrow.parquet.write_table(table, folder / "list.parquet")
    summary = Plan((str(folder / "list.parquet"),), folder / "out.jsonl").run(tiny_captioner)
    assert summary.captioned == 1 and not summary.errors
