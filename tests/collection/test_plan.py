"""What a job may not be is refused before anything is looked at."""

from pathlib import Path
from typing import Any

import pytest

from captax.collection.choices import CaptionFormat
from captax.collection.item import CollectionError
from captax.collection.items import find_items
from captax.collection.plan import Plan


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        (["a"], {"format": CaptionFormat.csv}, "--format csv writes a file; add --out"),
        (["a"], {"ext": ".foo"}, "--ext only applies to sidecars; add --format sidecar or xmp"),
        (
            ["a"],
            {"format": CaptionFormat.sidecar, "ext": ".jpg"},
            "--ext is '.jpg', a suffix of pictures; give one such as .txt",
        ),
        (
            ["a"],
            {"format": CaptionFormat.sidecar, "ext": "txt"},
            "--ext is 'txt'; give one such as .txt or .caption",
        ),
        (
            ["a"],
            {"format": CaptionFormat.xmp, "ext": ".txt"},
            "--ext is '.txt', but .xmp sidecars end in .xmp; leave it out, or give .xmp",
        ),
        (
            ["a.zip"],
            {"format": CaptionFormat.sidecar},
            "a.zip: its sidecars need a folder; add --out FOLDER",
        ),
        (
            ["s3://a"],
            {"format": CaptionFormat.embed},
            "s3://a: a description can only be embedded in a picture's own file; use",
        ),
        (
            ["a.tar"],
            {"out": Path("metadata.jsonl")},
            "a.tar: metadata.jsonl names only pictures in its folder; give --out another",
        ),
        (["a"], {"out": Path("a.tsv")}, "a.tsv: tables are written as .csv or .parquet"),
        (
            ["a"],
            {"out": Path("/dev/null")},
            "/dev/null: is not a regular file; leave out --out to print captions",
        ),
        (["a"], {"out": Path("/")}, "/: is a folder; give a file, or add --format sidecar"),
    ],
)
def test_what_cannot_be_is_refused(
    sources: list[str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(CollectionError, match=message):
        _ = Plan(tuple(sources), **options).wanted


def test_a_folder_is_named_only_by_metadata_above_it(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Plan((str(tmp_path / "in"),), tmp_path / "metadata.jsonl")
    with pytest.raises(CollectionError, match="is not in"):
        Plan((str(tmp_path),), tmp_path / "in" / "metadata.jsonl")


def test_a_text_file_lists_a_picture_a_line(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.jpg\r\n\nhttps://example.org/b.jpg\n")
    items = list(find_items([str(tmp_path / "list.txt")]))
    assert [item.place.name for item in items] == ["a.jpg", "b.jpg"]
    assert items[0].path == tmp_path / "a.jpg"


def test_no_list_leads_out_of_the_folder_of_outputs(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("//etc/a.jpg\n/etc/b.jpg\n../../c.jpg\n")
    for item in find_items([str(tmp_path / "list.txt")]):
        assert (tmp_path / item.place).is_relative_to(tmp_path) and ".." not in item.place.parts
