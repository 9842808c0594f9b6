"""`captax score`, as a shell would see it."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import captax
from captax import metrics

Run = Callable[..., Any]

HYPOTHESES = {"1": "a dog runs on the grass", "2": "two cats", "3": "a red bus on a street"}
REFERENCES = {
    "1": ["a dog is running on grass", "the dog runs on the grass"],
    "2": ["two cats sleep on a sofa"],
    "3": ["a red bus on a street"],
}
WORSE = {"1": "a dog", "2": "a man", "3": "a red bus"}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with captions in files."""
    monkeypatch.chdir(tmp_path)
    for name, content in (("h", HYPOTHESES), ("r", REFERENCES), ("worse", WORSE)):
        Path(f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def numbers(line: str) -> list[float]:
    return [float(number) for number in re.findall(r"[-+]?\d+\.\d+", line)]


def test_a_table_of_scores_with_intervals(run: Run, files: Path) -> None:
    result = run("score", "h.json", "r.json")
    assert (result.code, result.err) == (0, "")
    head, *lines, foot = result.out.splitlines()
    assert "95% interval" in head
    assert foot == "pictures: 3, references: 4; values x 100"
    found = metrics.score(HYPOTHESES, REFERENCES)
    intervals = metrics.bootstrap(found.statistics)
    assert [line.split()[0] for line in lines] == [*found.corpus]
    for line, (name, value) in zip(lines, found.corpus.items(), strict=True):
        expected = [value, intervals[name].low, intervals[name].high]
        assert numbers(line) == [round(100 * each, 2) for each in expected]


def test_cider_of_one_picture_is_explained(run: Run, files: Path) -> None:
    Path("one.json").write_text(json.dumps({"1": HYPOTHESES["1"]}))
    warning = "captax: warning: CIDEr of a single picture is always 0"
    assert warning in run("score", "one.json", "r.json", "--partial").err
    counts = ("--document-frequencies", "r.json")
    assert warning not in run("score", "one.json", "r.json", "--partial", *counts).err
    assert warning not in run("score", "one.json", "r.json", "--partial", "--metrics", "bleu").err


def test_two_systems_are_compared(run: Run, files: Path) -> None:
    result = run("score", "h.json", "r.json", "--against", "worse.json", "--json", "out.json")
    head, first, *_ = result.out.splitlines()
    assert head.split()[-3:] == ["against", "difference", "p"]
    one, other = (metrics.score(each, REFERENCES) for each in (HYPOTHESES, WORSE))
    compared = metrics.compare(one.statistics, other.statistics)["BLEU-1"]
    expected = [100 * other.corpus["BLEU-1"], 100 * compared.difference]
    assert numbers(first)[3:] == [*(round(x, 2) for x in expected), round(compared.p_value, 4)]
    written = json.loads(Path("out.json").read_text())["against"]
    assert written["scores"] == other.corpus
    assert written["p_values"]["BLEU-1"] == compared.p_value


def test_all_values_go_into_files(run: Run, files: Path) -> None:
    run("score", "h.json", "r.json", "--json", "out.json", "--csv", "out.csv")
    found = metrics.score(HYPOTHESES, REFERENCES)
    written = json.loads(Path("out.json").read_text())
    assert written["scores"] == found.corpus
    assert written["per_image"] == found.per_image
    assert written["captions"] == HYPOTHESES
    low, high = written["intervals"]["CIDEr-D"]
    assert low <= found.corpus["CIDEr-D"] <= high
    with Path("out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["caption"]) for row in rows] == [*HYPOTHESES.items()]
    assert [float(row["ROUGE-L"]) for row in rows] == [
        image["ROUGE-L"] for image in found.per_image.values()
    ]


def test_the_worst_are_a_page(run: Run, files: Path) -> None:
    (files / "pictures").mkdir()
    for name in ("COCO_val2014_000000000001.jpg", "2.png"):
        Image.new("RGB", (8, 8)).save(files / "pictures" / name)
    options = ("--images", "pictures", "--out", "page.html", "--worst")
    result = run("score", "h.json", "r.json", *options, 2, "--by", "bleu-1")
    assert result.err == "captax: wrote page.html\n"
    page = Path("page.html").read_text()
    assert "The 2 worst of 3 captions by BLEU-1" in page
    # exp(1 - 6 / 2): both words are in the reference, which is three times as long.
    assert page.index("two cats</p>") < page.index("a dog runs on the grass</p>")
    assert "BLEU-1 13.53" in page and "a red bus" not in page
    references = "<details open><summary>References</summary>"
    assert page.count(references) == 2 and "the dog runs on the grass" in page
    assert page.count("<img ") == 2 and "Error" not in page
    run("score", "h.json", "r.json", *options, 9)
    page = Path("page.html").read_text()
    assert "no picture of this name was found" in page and "3 pictures, 1 with an error" in page


def test_the_pages_pictures_are_found_where_captions_name_them(run: Run, files: Path) -> None:
    Image.new("RGB", (8, 8)).save("one.jpg")
    line = {"path": str(files / "one.jpg"), "caption": "a dog"}
    Path("h.jsonl").write_text(json.dumps(line))
    Path("r.csv").write_text("file_name,caption\none.jpg,a dog\n")
    assert run("score", "h.jsonl", "r.csv", "--worst", 1).code == 0
    assert Path("worst.html").read_text().count("<img ") == 1


def test_document_frequencies_are_kept_and_used(run: Run, files: Path) -> None:
    def cider(*options: object) -> list[float]:
        result = run("score", "one.json", "r.json", "--partial", *options)
        assert result.code == 0
        return numbers(next(line for line in result.out.splitlines() if "CIDEr-D" in line))

    Path("one.json").write_text(json.dumps({"1": HYPOTHESES["1"]}))
    run("score", "h.json", "r.json", "--write-document-frequencies", "df.json")
    expected = 100 * metrics.score(HYPOTHESES, REFERENCES).per_image["1"]["CIDEr-D"]
    assert cider()[0] == 0  # of a single image
    assert cider("--document-frequencies", "df.json")[0] == round(expected, 2)
    assert cider("--document-frequencies", "r.json")[0] == round(expected, 2)


def test_a_dataset_has_references_and_pictures(run: Run, files: Path) -> None:
    Path("data").mkdir()
    for name in ("x", "y"):
        Image.new("RGB", (8, 8)).save(f"data/{name}.png")
        Path(f"data/{name}.txt").write_text(f"a picture of {name}\nletter {name}\n")
    Path("h.csv").write_text("image,caption\nx,a picture\ny,a picture of y\n")
    result = run("score", "h.csv", "data", "--worst", 1)
    assert "pictures: 2, references: 4;" in result.out
    assert Path("worst.html").read_text().count("<img ") == 1


def test_pictures_without_a_hypothesis_are_refused_or_counted(run: Run, files: Path) -> None:
    Path("h.json").write_text(json.dumps({"1": "a dog", "2": "a cat"}))
    result = run("score", "h.json", "r.json")
    assert (result.code, result.out) == (2, "")
    assert "image '3' has no caption in h.json" in result.err and result.err.count("\n") == 1
    result = run("score", "h.json", "r.json", "--partial")
    assert result.code == 0 and "pictures: 2, references: 3;" in result.out
    assert result.err == "captax: skipped 1 picture that has no caption in h.json\n"


PARTS = {"1": "train", "2": "test", "3": "test"}


@pytest.mark.parametrize("named", ["id", "picture"])
def test_captions_of_other_splits_are_left_out_and_counted(
    run: Run, files: Path, named: str
) -> None:
    images = [
        {
            "cocoid": int(id),
            "filename": f"picture-{id}.jpg",
            "split": split,
            "sentences": [{"raw": text} for text in REFERENCES[id]],
        }
        for id, split in PARTS.items()
    ]
    Path("karpathy.json").write_text(json.dumps({"images": images}))
    said = {id if named == "id" else f"picture-{id}": text for id, text in HYPOTHESES.items()}
    Path("h.json").write_text(json.dumps(said))
    result = run("score", "h.json", "karpathy.json", "--split", "test", "--against", "h.json")
    assert result.code == 0 and "pictures: 2, references: 2;" in result.out
    assert result.err == "captax: left out the captions of 1 picture of other splits in h.json\n"
    result = run("score", "h.json", "karpathy.json", "--split", "train")
    assert "pictures: 1, references: 2;" in result.out and "of 2 pictures of other" in result.err
    assert "left out" not in run("score", "h.json", "karpathy.json").err
    Path("h.json").write_text(json.dumps(said | {"9": "a ghost"}))
    result = run("score", "h.json", "karpathy.json", "--split", "test")
    assert result.code == 2 and "image '9' has no references" in result.err


def test_clip_score_is_of_the_pictures(
    run: Run, files: Path, checkpoint: Callable[[str], Path], model: Path
) -> None:
    pictures = []
    for id, color in (("1", "red"), ("2", "green"), ("3", "blue")):
        Image.new("RGB", (32, 32), color).save(f"{id}.png")
        pictures.append(Path(f"{id}.png"))
    clip = checkpoint("clip")
    options = ("--metrics", "rouge-l", "--clip", clip)
    result = run("score", "h.json", "r.json", *options)
    assert (
        result.code == 2
        and "found none for image '1' and 2 more; give their folder with --images" in result.err
    )
    result = run(
        "score",
        "h.json",
        "r.json",
        *options,
        "--images",
        ".",
        "--json",
        "out.json",
        "--against",
        "worse.json",
    )
    assert result.code == 0, result.err
    written = json.loads(Path("out.json").read_text())
    matcher = captax.load(clip)
    plain = matcher.clip_score(pictures, [*HYPOTHESES.values()])
    other = matcher.clip_score(pictures, [*HYPOTHESES.values()], [*REFERENCES.values()])
    for name, values in (("CLIPScore", plain), ("RefCLIPScore", other)):
        found = [image[name] for image in written["per_image"].values()]
        assert found == pytest.approx(values.tolist(), rel=1e-6)
        assert written["scores"][name] == pytest.approx(values.mean(), rel=1e-6)
        assert name in written["intervals"]
    worse = matcher.clip_score(pictures, [*WORSE.values()], [*REFERENCES.values()])
    assert written["against"]["scores"]["RefCLIPScore"] == pytest.approx(worse.mean(), rel=1e-6)
    result = run("score", "h.json", "r.json", "--clip", model, "--images", ".")
    assert result.code == 2 and "holds a Captioner, but CLIPScore needs a CLIP" in result.err
    other = checkpoint("siglip")
    result = run("score", "h.json", "r.json", "--clip", other, "--images", ".")
    assert result.code == 2 and f"{other}: holds a Siglip, but CLIPScore needs a CL" in result.err


def test_diversity_counts_words_and_novel_captions(run: Run, files: Path) -> None:
    options = ("--metrics", "rouge-l,diversity", "--training", "worse.json")
    result = run("score", "h.json", "r.json", *options, "--against", "worse.json")
    lines = {line.split()[0]: line.split()[1:] for line in result.out.splitlines()}
    assert lines["vocabulary"] == ["11", "5", "+6"]
    assert lines["novel"] == ["100.00", "0.00", "+100.00"]


def test_what_is_new_is_not_in_the_training_split(run: Run, files: Path) -> None:
    images = [
        {"filename": f"{split}.jpg", "split": split, "sentences": [{"raw": f"two {split}"}]}
        for split in ("train", "test")
    ]
    Path("karpathy.json").write_text(json.dumps({"images": images}))
    Path("h.json").write_text(json.dumps({"1": "Two test.", "2": "two train"}))
    arguments = ("score", "h.json", "r.json", "--partial", "--training")
    for training, novel in (("karpathy.json", "50.00"), ("h.json", "0.00")):
        lines = run(*arguments, training).out.splitlines()
        assert ["novel", novel] in [line.split() for line in lines]


def test_objects_that_are_not_in_the_picture(run: Run, files: Path) -> None:
    Path("objects.json").write_text(json.dumps({"1": ["dog"], "2": [], "3": []}))
    Path("h.json").write_text(json.dumps({"1": "a dog", "2": "two cats", "3": "a person"}))
    result = run("score", "h.json", "r.json", "--metrics", "wer", "--objects", "objects.json")
    values = {line.split()[0]: numbers(line)[:1] for line in result.out.splitlines()[1:-1]}
    assert values["CHAIRs"] == values["CHAIRi"] == [33.33]
    Path("objects.json").write_text(json.dumps({"1": ["dog"], "3": []}))
    result = run("score", "h.json", "r.json", "--objects", "objects.json")
    assert result.code == 2 and "objects.json: has no objects for image '2'" in result.err


def test_several_captions_a_picture(run: Run, files: Path) -> None:
    several = {image: [text, WORSE[image]] for image, text in HYPOTHESES.items()}
    Path("several.json").write_text(json.dumps(several))
    arguments = ("score", "several.json", "r.json", "--metrics", "mbleu,rouge-l")
    lines = run(*arguments, "--against", "several.json").out.splitlines()
    found = metrics.score(
        HYPOTHESES, REFERENCES, metrics=["rouge-l", "mbleu"], all_hypotheses=several
    )
    for line, (name, value) in zip(lines[1:-1], found.corpus.items(), strict=True):
        assert line.split()[0] == name and numbers(line)[0] == round(100 * value, 2)
    assert "captions: 6 (mBLEU uses all, the other metrics the first), references: 4;" in lines[-1]
    result = run("score", "several.json", "r.json")
    assert result.code == 2 and "a second caption for image '1'" in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.json", "r.json"], "nowhere.json: cannot be read"),
        (["h.json", "nowhere.json"], "nowhere.json: cannot be read"),
        (["h.json", "r.json", "--metrics", "blue"], "no metric 'blue'; use one of bleu, "),
        (["h.json", "r.json", "--against", "r.json"], "r.json, '1': a second caption"),
        (
            ["h.json", "r.json", "--worst", "1", "--by", "CIDEr"],
            "no metric 'CIDEr' was computed for single",
        ),
        (["h.json", "r.json", "--worst", "1", "--images", "nowhere"], "nowhere: no such file"),
        (["h.json", "r.json", "--document-frequencies", "x"], "x: cannot be read"),
        (["h.json", "r.json", "--json", "h.json/x"], "h.json/x: cannot be written"),
        (["h.json", "r.json", "--metrics", "chair"], "CHAIR needs the objects"),
        (["h.json", "r.json", "--metrics", "mbleu"], "image '1' has 1 caption, but"),
        (["r.json", "h.json"], "if this file holds the references, give it second"),
        (["h.json", "r.json", "--split", "val"], "r.json: has no splits"),
        (["one.json", "r.json", "--partial", "--against", "h.json"], "no caption of image '"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(
    run: Run, files: Path, arguments: list[str], message: str
) -> None:
    Path("one.json").write_text(json.dumps({"1": "a dog"}))
    result = run("score", *arguments)
    error = result.err.splitlines()[-1]
    assert result.code == 2 and error.startswith("captax: ") and message in error


def test_the_help_names_every_metric(run: Run) -> None:
    text = run("score", "--help").out
    for name in metrics.Metric:
        assert re.search(rf"\b{name}\b", text), name
