"""Options that would have no effect, or less than they say, are refused in a line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Run = Callable[..., Any]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p").mkdir()
    for number in range(2):
        Image.effect_noise((40, 40), 30 + number).convert("RGB").save(
            tmp_path / "p" / f"{number}.png"
        )
    (tmp_path / "c.json").write_text('{"1": "a dog"}')
    return tmp_path


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("caption p --on-exists overwrite", "--on-exists only applies to captions that are kept"),
        ("caption p --on-exists append", "--on-exists append only applies to texts of pictures"),
        ("caption p --on-exists append --out x.csv", "--on-exists append only applies to texts"),
        ("caption p --separator /", "--separator only applies to texts that are added to"),
        ("caption p --format sidecar --separator /", "--on-exists append or prepend"),
        ("caption p --shard-size 3", "--shard-size only applies to a cluster; add --engine ray"),
        ("caption p --out x.csv --shard-size 3", "--shard-size only applies to a cluster"),
        ("caption p --retry-errors", "--retry-errors only applies to captions that are kept"),
        ("caption p --resume never", "--resume only applies to captions that are kept; add --out"),
        ("caption p --compare content", "--compare only applies to captions that are kept"),
        ("caption p --follow-links", "--follow-links only applies to captions that are kept"),
        ("caption p --no-csv-safe --out x.jsonl", "--no-csv-safe only applies to tables"),
        ("caption p --words 3", "--words only applies to the prompt of a style; add --style NAME"),
        ("caption p --extra pg", "--extra only applies to the prompt of a style"),
        ("caption p --style short --prompt a", "--style is a prompt; leave out --prompt"),
        ("caption p --overwrite", "--overwrite only applies to files; add --out FILE"),
        ("data check p --cards 3", "--cards only applies to the page; add --sheet FILE"),
        ("score c.json c.json --by bleu-1", "--by only applies to the worst captions"),
        ("score c.json c.json --out x.html", "--out only applies to the worst captions"),
        ("score c.json c.json --images p", "--images only applies to metrics and pages"),
        # What the format or the name of the file says otherwise.
        ("caption p --format parquet --out x.csv", "x.csv: its name says csv, and --format says"),
        ("caption p --format csv --out x.tsv", "x.tsv: tables are written as .csv or .parquet"),
        ("caption p --format coco --out x.jsonl", "give a name that ends in .json"),
        ("caption p --format text --out x.parquet", "give a name that ends in .txt"),
        ("caption p --format jsonl --out x.txt", "give a name that ends in .jsonl"),
        ("caption p --out x.jpg", "x.jpg: --out writes a file of captions, and the name says some"),
        ("caption p --sheet x.png", "--sheet writes a page, and the name says"),
        ("data check p --sheet x.csv", "give one that ends in .html"),
        ("score c.json c.json --json x.csv", "--json writes a file of scores, and the name says"),
        ("score c.json c.json --csv x.json", "give one that ends in .csv"),
        ("classify p --model nowhere --out x.csv", "--out writes a list of labels, and the name"),
        ("generate nowhere a --format text --out x.jsonl", "give one that ends in .txt"),
        ("alt p --out x.html", "--out writes a patch, and the name says something else"),
        ("caption p --num-return-sequences 2 --out x.json", "--num-return-sequences is 2, and"),
        ("caption p --num-return-sequences 2 --out p/metadata.jsonl", "holds one caption"),
        ("caption p --num-return-sequences 2 --format xmp", "holds one caption of each picture"),
        ("caption p --num-return-sequences 2 --format embed", "holds one caption of each"),
    ],
)
def test_an_option_without_effect_is_refused(command: str, said: str, run: Run, here: Path) -> None:
    before = sorted(here.rglob("*"))
    result = run(*command.split(), *(["--model", "nowhere"] if "caption" in command[:7] else []))
    assert (result.code, result.out) == (2, "") and said in result.err, result.err
    assert result.err.count("\n") == 1 and sorted(here.rglob("*")) == before


def test_a_phrase_without_words_is_refused(run: Run, here: Path, model: Path) -> None:
    for option in ("--bad-words", "--force-words"):
        for phrase in ("", " "):
            result = run("caption", "p", "--model", model, option, "a", option, phrase)
            assert result.code == 2 and f"{option} has a phrase without words" in result.err


def test_options_with_effect_are_taken(run: Run, here: Path, model: Path) -> None:
    options = ("--model", model, "--max-new-tokens", 3)
    sheet = ("--num-return-sequences", 2, "--num-beams", 2, "--sheet", "x.html")
    assert run("caption", "p", *options, *sheet, "--out", "x.json").code == 0
    metadata = ("--format", "metadata", "--out", "p/captions.jsonl", "--no-csv-safe")
    assert run("caption", "p", *options, *metadata[:-1]).code == 0
    added = ("--format", "sidecar", "--on-exists", "append", "--separator", "/")
    assert run("caption", "p", *options, *added, "--resume", "never", "--retry-errors").code == 0


@pytest.mark.slow
def test_captions_of_other_settings_that_stay_are_told(run: Run, here: Path, model: Path) -> None:
    command = ["caption", "p", "--model", model, "--max-new-tokens", 3]
    prefix = ("--prefix", "ohwx, ", "--resume", "always")
    assert run(*command, "--format", "sidecar").code == 0
    result = run(*command, "--format", "sidecar", *prefix)
    assert (
        "captax: made with other settings, and not made again: the captions of 2 pictures "
        "(prefix was '' and is 'ohwx, '); to make them again, add --resume never --on-exists "
        "overwrite\n" in result.err
    )
    assert "other settings" not in run(*command, "--format", "sidecar", *prefix).err
    again = ("--resume", "never", "--on-exists", "overwrite")
    assert run(*command, "--format", "sidecar", *prefix[:2], *again).code == 0
    assert Path("p/0.txt").read_text().startswith("ohwx, ")
    # A file of all captions is written with the new prefix, but by the old search.
    assert run(*command, "--out", "x.jsonl").code == 0
    result = run(*command, "--out", "x.jsonl", *prefix, "--num-beams", 2)
    assert "(num_beams was not given and is 2)" in result.err
    assert "ohwx, " in Path("x.jsonl").read_text()
