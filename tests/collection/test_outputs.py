"""Captions in files, read back by programs of others."""

import csv
import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pyarrow.parquet
import pytest

from captax.collection.caption_template import merged
from captax.collection.choices import CaptionFormat, OnExists
from captax.collection.item import CollectionError, Item
from captax.collection.job import Summary
from captax.collection.outputs import WRITERS, OneFile, Screen, format_of
from captax.collection.record import Record, columns_of, utf8
from captax.metrics.caption_files import read_captions
from captax.text.regions import Region
from captax.text.tags import Tag

NAMES = [
    "a.jpg",
    "new\nline.jpg",
    "return\rand\r\n.jpg",
    "comma, 'and' \"quotes\".jpg",
    "tab\tand \\ and ; and é 犬.jpg",
    "bytes \udcff\udc80.jpg",
    f"{'long' * 60}.jpg",
    " space .jpg",
    "=1+1.jpg",
]
SAID = (('a "cat", and\na dog', -0.5), ("zwei Hünde\r", -1.25), ("犬", -2.0))
RECORDS = [Record(f"sub/{name}", SAID[: 1 + i % 3]) for i, name in enumerate(NAMES)]
RECORDS += [Record("sub/copy.jpg", SAID[:1], copy_of="sub/a.jpg")]
BROKEN = Record("sub/\udcff.jpg", error='is "broken" \udcff, or\nso')


def written(tmp_path: Path, format: CaptionFormat, *records: Record) -> Path:
    path = tmp_path / f"captions.{format}"
    WRITERS[format](path, lambda: records)
    return path


def test_csv_is_read_back(tmp_path: Path) -> None:
    with written(tmp_path, CaptionFormat.csv, *RECORDS, BROKEN).open(
        encoding="utf-8", newline=""
    ) as file:
        rows = list(csv.DictReader(file, strict=True))
    assert list(rows[0])[:6] == ["path", "caption", "score", "error", "caption_2", "score_2"]
    for row, record in zip(rows, [*RECORDS, BROKEN], strict=True):
        assert row["path"] == utf8(record.name) and row["error"] == utf8(record.error)
        columns = [(row[f"caption{n}"], row[f"score{n}"]) for n in ("", "_2", "_3")]
        found = tuple((text, float(score or 0)) for text, score in columns if text)
        assert found == record.captions


def test_jsonl_is_read_back(tmp_path: Path) -> None:
    path = written(tmp_path, CaptionFormat.jsonl, *RECORDS, BROKEN)
    rows = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    for row, record in zip(rows, RECORDS, strict=False):
        said = [row, *row.get("alternatives", [])]
        assert row["path"] == record.name
        assert [(each["caption"], each["score"]) for each in said] == list(record.captions)
    assert rows[-2]["copy_of"] == "sub/a.jpg"
    assert rows[-1] == {"path": BROKEN.name, "error": BROKEN.error}


def test_a_caption_of_a_graphic_says_so(tmp_path: Path) -> None:
    said = [Record("a.png", (("a map of a city", -1.0),)), Record("b.png", (("a dog", -1.0),))]
    path = written(tmp_path, CaptionFormat.jsonl, *said)
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row.get("graphic") for row in found] == ["map", None]


def test_parquet_is_read_back(tmp_path: Path) -> None:
    rows = pyarrow.parquet.read_table(
        written(tmp_path, CaptionFormat.parquet, *RECORDS, BROKEN)
    ).to_pylist()
    for row, record in zip(rows, RECORDS, strict=False):
        said = [row, *row["alternatives"]]
        assert row["path"] == utf8(record.name) and row["error"] is None
        assert [(each["caption"], each["score"]) for each in said] == list(record.captions)
    assert rows[-1]["error"] == utf8(BROKEN.error) and rows[-1]["caption"] is None
    empty = pyarrow.parquet.read_table(written(tmp_path, CaptionFormat.parquet))
    assert (empty.num_rows, empty.column_names[0]) == (0, "path")


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["COCO_val2014_000000000042.jpg", "x/7.png"], [42, 7]),
        (["a/7.png", "a/x.png"], ["7.png", "x.png"]),
        (["a/7.png", "a/7.jpg"], ["7.png", "7.jpg"]),
        (["a/07.png", "a/7.png"], ["07.png", "7.png"]),
        (["a/7.png", "b/7.png"], ["a/7.png", "b/7.png"]),
    ],
)
def test_coco_results_have_an_id_a_picture(
    tmp_path: Path, names: list[str], ids: list[int | str]
) -> None:
    path = written(
        tmp_path, CaptionFormat.coco, *(Record(name, SAID[:1]) for name in names), BROKEN
    )
    assert json.loads(path.read_text(encoding="utf-8")) == [
        {"image_id": id, "caption": SAID[0][0]} for id in ids
    ]


def test_coco_results_of_nothing_are_an_empty_list(tmp_path: Path) -> None:
    assert json.loads(written(tmp_path, CaptionFormat.coco, BROKEN).read_text()) == []


@pytest.mark.parametrize(
    "format", [CaptionFormat.jsonl, CaptionFormat.coco, CaptionFormat.csv, CaptionFormat.metadata]
)
def test_captax_scores_what_it_writes(tmp_path: Path, format: CaptionFormat) -> None:
    """`captax score` reads the files, names and all."""
    records = [Record(str(tmp_path / f"{n}.jpg"), ((f"caption {n}", -1.0),)) for n in range(3)]
    path = written(tmp_path, format, *records)
    assert sorted(row.caption for rows in read_captions(path).rows.values() for row in rows) == [
        f"caption {n}" for n in range(3)
    ]


def test_datasets_load_a_folder_with_its_metadata(
    tmp_path: Path, pictures: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    folder = pictures("a b.png", "sub/é, 'x'.png")
    records = [
        Record(str(folder / "a b.png"), SAID[:1]),
        Record(str(folder / "sub/é, 'x'.png"), SAID[1:]),
    ]
    out = OneFile(folder / "metadata.jsonl", CaptionFormat.metadata)
    (folder / ".metadata.jsonl.captax").mkdir()
    (folder / ".metadata.jsonl.captax" / "journal.jsonl").write_text('{"captax": 1}\n')
    out.finish(lambda: records)
    rows = datasets.load_dataset(
        "imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert sorted(rows["text"]) == sorted(record.text for record in records)
    assert rows[0]["image"].size == (1, 1)


def test_metadata_names_only_what_is_below_it(
    tmp_path: Path, pictures: Callable[..., Path]
) -> None:
    folder = pictures("a.png")
    out = OneFile(folder / "sub" / "metadata.jsonl", CaptionFormat.metadata)
    with pytest.raises(CollectionError, match=r"is not in .*sub, and metadata"):
        out.plan(Item("a", folder / "a.png", PurePosixPath("a")))
    with pytest.raises(
        CollectionError, match=r"is not a file on this disk, so metadata\.jsonl cannot name it"
    ):
        out.plan(Item("a", b"", PurePosixPath("a")))


@pytest.mark.parametrize("format", [CaptionFormat.text, CaptionFormat.jsonl])
def test_any_name_is_printed(
    capfdbinary: pytest.CaptureFixture[bytes], format: CaptionFormat
) -> None:
    screen = Screen(format)
    for record in RECORDS:
        screen.write(record)
    lines = capfdbinary.readouterr().out.decode()
    assert (rb"bytes \udcff\udc80.jpg".decode() in lines) and "犬.jpg" in lines


def test_formats_go_by_the_name() -> None:
    names = {"x.JSONL": "jsonl", "x.csv": "csv", "x.json": "coco", "x": "text", "x.txt": "text"}
    names |= {"a/metadata.jsonl": "metadata", "x.parquet": "parquet"}
    assert {name: str(format_of(Path(name))) for name in names} == names


def test_a_file_that_somebody_else_wrote_or_changed_is_not_replaced(tmp_path: Path) -> None:
    out, mark = tmp_path / "a.txt", tmp_path / "job" / "written"
    records = [Record("a.jpg", (("a dog", -1.0),))]
    output = OneFile(out, CaptionFormat.text, mark)
    output.check()
    output.finish(lambda: iter(records))
    output.check()
    out.write_text("a.jpg: my dog\n")
    with pytest.raises(CollectionError, match="was changed since it was written; add --overwrite"):
        output.check()
    mark.write_text("")  # what a job leaves that is killed while it writes
    output.check()
    mark.unlink()
    with pytest.raises(CollectionError, match="is there already; add --overwrite to replace it"):
        output.check()


def test_captions_that_were_cut_are_marked(tmp_path: Path) -> None:
    row = columns_of({"path": "a.jpg", "looped": "no"}, "path")
    records = [Record("a.jpg", SAID[:1], looped=True, columns=row), Record("b.jpg", SAID[:1])]
    assert [Record.read(json.loads(json.dumps(each.write()))) for each in records] == records
    path = written(tmp_path, CaptionFormat.jsonl, *records)
    cut, plain = map(json.loads, path.read_text("utf-8").splitlines())
    assert cut["looped"] is True and cut["list_looped"] == "no" and "looped" not in plain
    with pytest.raises(TypeError, match="looped"):
        Record.read({**records[0].write(), "looped": "yes"})
    summary = Summary(captioned=2, looped=1, seconds=1.0)
    assert any(line.startswith("captions that said the same again") for line in summary.lines())


def test_a_column_of_a_list_stays_beside_tags(tmp_path: Path) -> None:
    tags = (Tag("cat", "general", 0.5),)
    records = [
        Record("a.jpg", SAID[:1], tags=tags, columns={"tags": "mine"}),
        Record("b.jpg", SAID[:1], columns={"tags": "yours"}),
    ]
    path = written(tmp_path, CaptionFormat.jsonl, *records)
    tagged, plain = map(json.loads, path.read_text("utf-8").splitlines())
    assert tagged["list_tags"] == "mine" and tagged["tags"] == [tags[0].write()]
    assert plain["tags"] == "yours"


@pytest.mark.parametrize("policy", [OnExists.append, OnExists.prepend])
def test_nothing_is_added_to_a_text_where_nothing_was_said(policy: OnExists) -> None:
    assert merged(policy, "old\n", [""], ", ") == ["old"]


def test_regions_are_in_jsonl_only_where_a_task_has_them(tmp_path: Path) -> None:
    regions = (Region("犬", box=(0.1, 0.2, 0.3, 0.4)), Region("", polygons=((0.1, 0.2, 0.3, 0.4),)))
    column = {"regions": "north"}
    records = [
        Record("a.jpg", SAID[:1], regions=regions, columns=column),
        Record("b.jpg", SAID[:1], regions=()),
        Record("c.jpg", SAID[:1], columns=column),
    ]
    assert [Record.read(json.loads(json.dumps(each.write()))) for each in records] == records
    path = written(tmp_path, CaptionFormat.jsonl, *records)
    found, none, plain = map(json.loads, path.read_text("utf-8").splitlines())
    assert found["regions"] == [
        {"label": "犬", "box": [0.1, 0.2, 0.3, 0.4]},
        {"label": "", "polygons": [[0.1, 0.2, 0.3, 0.4]]},
    ]
    assert none["regions"] == [] and plain["regions"] == "north"
