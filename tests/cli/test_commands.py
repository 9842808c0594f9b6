"""The commands besides `caption`, and the command line as a whole."""

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import captax
from captax.checkpoints.directory import load_model
from captax.cli.main import _told
from captax.pipelines.captioner import Captioner
from checkpoints import gguf_files

Run = Callable[..., Any]

HELP = """
import sys
from captax.cli.main import main
sys.argv = ["captax", *sys.argv[1:]]
try:
    main()
finally:
    heavy = {"jax", "flax", "numpy", "PIL", "matplotlib"} & sys.modules.keys()
    print("imported:", *sorted(heavy))
"""


@pytest.mark.parametrize("command", [[], ["caption"], ["train"]], ids=" ".join)
def test_help_waits_for_nothing(command: list[str]) -> None:
    arguments = [sys.executable, "-c", HELP, *command, "--help"]
    result = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "imported:"
    if not command:
        for name in ("caption", "train", "generate", "assemble", "push", "info"):
            assert f" {name} " in result.stdout


def test_it_runs_as_a_module() -> None:
    arguments = [sys.executable, "-m", "captax", "caption", "nowhere.jpg"]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr == "captax: nowhere.jpg: no such file or folder\n"


def test_no_command_shows_the_help(run: Run) -> None:
    result = run()
    assert " caption " in result.out and result.code == 0


def test_the_version_is_told(run: Run) -> None:
    assert run("--version").out == f"captax {version('captax')}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("captoin", "captax: No such command 'captoin'"),
        ("caption --nope x.jpg", "captax: No such option: --nope"),
        ("caption", "captax: Missing argument 'sources'; see `captax caption --help`"),
        ("caption x.jpg --num-beams 0", "captax: Invalid value for '--num-beams'"),
        ("data", "captax: Missing command; see `captax data --help`"),
    ],
)
def test_wrong_use_is_a_line(run: Run, arguments: str, message: str) -> None:
    result = run(*arguments.split())
    assert result.code == 2 and result.out == ""
    [line] = result.err.splitlines()
    assert line.startswith(message) and line.endswith("--help`")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three captioned pictures in a folder."""
    folder = tmp_path / "dataset"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        tiles = np.kron(rng.integers(0, 256, (3, 4, 3), np.uint8), np.ones((20, 20, 1), np.uint8))
        Image.fromarray(tiles).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"the tile number {number}\na red square\n")
    return folder


def test_evaluate_scores_the_captions_of_a_dataset(
    run: Run, model: Path, dataset: Path, tmp_path: Path
) -> None:
    from captax import metrics

    out = tmp_path / "scores.json"
    result = run("evaluate", model, dataset, "--json", out, "--max-new-tokens", 8)
    assert result.code == 0, result.err
    found = json.loads(out.read_text())
    paths = sorted(dataset.glob("*.png"))
    said = captax.load(model).caption(paths)
    assert list(found["captions"].values()) == [caption.text for caption in said]
    references = {
        id: (dataset / f"{path.stem}.txt").read_text().splitlines()
        for id, path in zip(found["captions"], paths, strict=True)
    }
    want = metrics.score(found["captions"], references).corpus
    assert found["scores"] == pytest.approx(want)
    for name, value in want.items():
        assert any(line.split() == [name, f"{100 * value:.2f}"] for line in result.out.splitlines())
    assert "3 pictures, " in result.out
    assert (
        "captax: scored the pictures of all splits; --split dev scores only those of dev"
        in result.err
    )

    options = ("--metrics", "wer, diversity", "--max-new-tokens", 8, "--limit", 2)
    lines = [line.split() for line in run("evaluate", model, dataset, *options).out.splitlines()]
    captions, references = (dict(list(of.items())[:2]) for of in (found["captions"], references))
    want = metrics.score(captions, references, metrics=["wer", "diversity"]).corpus
    assert ["WER", f"{100 * want['WER']:.2f}"] in lines
    assert ["vocabulary", f"{want['vocabulary']:.0f}"] in lines


def test_evaluate_says_what_is_missing_before_it_captions(
    run: Run, model: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captax.Captioner, "stream", lambda *_, **__: pytest.fail("captioned"))
    for metric, message in (("blue", "no metric 'blue'"), ("bleu,chair", "CHAIR needs")):
        result = run("evaluate", model, dataset, "--metrics", metric)
        assert result.code == 2 and message in result.err and result.err.count("\n") == 1


def test_evaluate_refuses_what_it_cannot_read(run: Run, model: Path, dataset: Path) -> None:
    (dataset / "1.png").write_bytes(b"")
    result = run("evaluate", model, dataset)
    assert result.code == 2 and "1.png" in result.err and result.err.count("\n") == 1
    result = run("evaluate", model, dataset / "nowhere")
    assert result.code == 2 and result.err.count("\n") == 1


def test_convert_writes_a_checkpoint(
    run: Run,
    make_model: Callable[..., Any],
    tiny_encoder: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from captax.pipelines import conversion

    asked = []

    def load(size: int, *, classifier: bool) -> Any:
        asked.append((size, classifier))
        return make_model(tiny_encoder)

    monkeypatch.setattr(conversion, "load_efficientnet_lite", load)
    result = run("convert", "efficientnet-lite2", tmp_path / "lite2")
    assert result.code == 0 and asked == [(2, True)]
    assert load_model(tmp_path / "lite2").config.image_size == tiny_encoder["image_size"]


def test_convert_casts_what_a_checkpoint_holds(
    run: Run, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    result = run("convert", checkpoint("vit"), tmp_path / "out", "--dtype", "bfloat16")
    assert (result.code, result.err) == (0, f"captax: wrote {tmp_path / 'out'}\n")
    assert re.fullmatch(r"weights: \d\.\d MB before, \d\.\d MB after \(50%\)\n", result.out)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("name", ["default", "smolvlm"])
def test_convert_measures_what_is_lost(
    name: str,
    run: Run,
    checkpoint: Callable[[str], Path],
    tiny_captioner: Any,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("captax.models.quantised.LEAST", 1)
    monkeypatch.setattr("captax.models.quantised.GROUP", 4)
    source = tmp_path / "source"
    if name == "default":
        tiny_captioner.save(source)
    else:
        source = checkpoint(name)
    pictures = sorted(dataset.glob("*.png"))
    lines = {}
    for dtype in ("float32", "int8", "int4"):
        out = tmp_path / dtype
        result = run("convert", source, out, "--dtype", dtype, "--check", dataset)
        assert (result.code, result.err) == (0, f"captax: wrote {out}\n")
        lines[dtype] = result.out.splitlines()
        assert len(lines[dtype]) == 3
    same = f"captions that stay the same, word for word: {len(pictures)} of {len(pictures)}"
    assert lines["float32"][1] == same
    assert "changed by +0.0000 on average" in lines["float32"][2].replace("-0.0000", "+0.0000")
    bytes = [(tmp_path / each / "model.safetensors").stat().st_size for each in lines]
    assert len(set(bytes)) == 3 and max(bytes) == bytes[0]
    # The figures are those that a user would find by hand.
    before, after = (captax.load(each, dtype="auto") for each in (source, tmp_path / "int4"))
    asked = {"num_beams": 1, "length_penalty": 1.0}
    captions = before.caption(pictures, **asked)
    found = after.caption(pictures, **asked)
    kept = sum(one.text == other.text for one, other in zip(captions, found, strict=True))
    assert lines["int4"][1].endswith(f": {kept} of {len(pictures)}")
    scores = after.score(pictures, captions, **asked)
    change = np.mean([new - old.score for new, old in zip(scores, captions, strict=True)])
    told = re.search(r"changed by ([+-]\d\.\d{4}) on", lines["int4"][2])
    assert told is not None and float(told[1]) == pytest.approx(change, abs=2e-4) != 0


def test_convert_reads_gguf(run: Run, make_model: Callable[..., Any], tmp_path: Path) -> None:
    config = gguf_files.LLAMA
    given = gguf_files.theirs(make_model(config))
    file = tmp_path / "model.gguf"
    gguf_files.write(file, "llama", gguf_files.numbers(config), given, gguf_files.Kind.Q4_1)
    result = run("convert", file, tmp_path / "out", "--dtype", "float32")
    assert result.code == 0 and " MB before, " in result.out

    (one,), (other,) = (
        each.generate("a red", max_new_tokens=3)
        for each in map(captax.load, (file, tmp_path / "out"))
    )
    assert (one.tokens, one.score) == (other.tokens, other.score)


def test_convert_says_what_it_cannot_check(
    run: Run, checkpoint: Callable[[str], Path], dataset: Path, tmp_path: Path
) -> None:
    result = run("convert", checkpoint("gpt2"), tmp_path / "out", "--check", dataset)
    assert result.code == 2 and "which cannot caption; leave the pictures out" in result.err
    (tmp_path / "empty").mkdir()
    result = run("convert", "efficientnet-lite0", tmp_path / "out", "--check", dataset)
    assert result.code == 2
    assert "--check: efficientnet-lite0 is a classifier, which cannot caption" in result.err
    result = run("convert", checkpoint("vit-gpt2"), tmp_path / "out", "--check", tmp_path / "empty")
    assert result.code == 2 and result.err.count("\n") == 1
    result = run("convert", checkpoint("gpt2"), tmp_path / "out", "--dtype", "int8")
    assert result.code == 2 and "a file can hold no matrix of this gpt2 so" in result.err
    assert not (tmp_path / "out").exists()


def test_average_writes_a_checkpoint_once(
    run: Run, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    same = [checkpoint("vit")] * 2
    result = run("average", *same, "--out", tmp_path / "mean")
    assert (result.code, result.out, result.err) == (0, "", f"captax: wrote {tmp_path / 'mean'}\n")
    again = run("average", *same, "--out", tmp_path / "mean")
    assert again.code == 2 and "--overwrite" in again.err


def test_convert_refuses_files_that_are_no_weights(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    result = run("convert", file, tmp_path / "out")
    assert result.code == 2 and result.err.count("\n") == 1 and str(file) in result.err
    assert not (tmp_path / "out").exists()


def test_assemble_joins_halves_and_caption_uses_them(
    run: Run, checkpoint: Callable[[str], Path], dataset: Path, tmp_path: Path
) -> None:
    result = run("assemble", checkpoint("vit"), checkpoint("gpt2"), tmp_path / "out")
    assert (result.code, result.err) == (0, f"captax: wrote {tmp_path / 'out'}\n")
    pictures = sorted(dataset.glob("*.png"))
    options = ("--max-new-tokens", 3, "--num-beams", 1, "--prompt", "a red")
    result = run("caption", *pictures, "--model", tmp_path / "out", *options)
    lines = result.out.splitlines()
    assert result.code == 0 and len(lines) == 3
    assert all(": a red" in line for line in lines)


def test_generate_answers_a_line_for_a_line(
    run: Run, checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--max-new-tokens", 3, "--num-beams", 2)
    said = run("generate", checkpoint("gpt2"), "a red", "the yellow", *options)
    assert said.code == 0 and len(said.out.splitlines()) == 2
    (tmp_path / "texts.txt").write_text("a red\nthe yellow\n")
    read = run("generate", checkpoint("gpt2"), "--file", tmp_path / "texts.txt", *options)
    assert read.out == said.out
    monkeypatch.setattr("sys.stdin", io.StringIO("a red\nthe yellow\n"))
    assert run("generate", checkpoint("gpt2"), *options).out == said.out
    options = (*options, "--num-return-sequences", 2, "--format", "jsonl")
    records = run("generate", checkpoint("gpt2"), "a red", *options).out.splitlines()
    record = json.loads(records[0])
    assert record["text"] == "a red" and record["generated"] == said.out.splitlines()[0]
    assert record["alternatives"][0]["score"] <= record["score"]


def test_a_model_of_another_kind_is_refused_by_what_it_is(
    run: Run, checkpoint: Callable[[str], Path], dataset: Path
) -> None:
    picture = next(dataset.glob("*.png"))
    for arguments, message in (
        (("caption", picture, "--model", checkpoint("gpt2")), "TextGenerator, which cannot"),
        (
            ("generate", checkpoint("vit-gpt2"), "x"),
            "Captioner, which does not take texts; give a text generator",
        ),
        (("caption", picture, "--model", checkpoint("vit")), "holds a bare ViT"),
    ):
        result = run(*arguments)
        assert result.code == 2 and message in result.err and result.err.count("\n") == 1


def test_push_needs_a_checkpoint(run: Run, tmp_path: Path) -> None:
    result = run("push", tmp_path, "org/name")
    assert result.code == 2 and "not a checkpoint" in result.err and result.err.count("\n") == 1


def test_info_says_what_is_installed(
    run: Run, tiny_captioner: Captioner, monkeypatch: pytest.MonkeyPatch, programs: Path
) -> None:
    monkeypatch.setattr("captax.pipelines.loading.load", lambda: tiny_captioner)
    result = run("info")
    assert result.code == 0, result.err
    for part in ("captax ", "jax ", "64x64 px, 24 words", "captax-lite", str(programs)):
        assert part in result.out


def test_train_runs_the_recipe_in_its_folder(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from captax.training import loop

    runs = []

    def train(recipe: Any, out: Path, *, init_from: Path | None, **_: bool) -> Path:
        runs.append((recipe, out, init_from))
        return out / "best"

    monkeypatch.setattr(loop, "train", train)
    root = f"data.root={tmp_path}"
    result = run("train", "captax-lite", "--set", root, "--set", "stages.0.epochs=1")
    assert (result.code, result.out) == (0, "best model: runs/captax-lite/best\n")
    start = ["--init-from", tmp_path / "other"]
    run("train", "captax-lite", "--set", root, "--out", tmp_path / "run", *start)
    assert runs[0][0].stages[0].epochs == 1 and runs[0][0].data.root == tmp_path
    assert [each[1:] for each in runs] == [
        (Path("runs/captax-lite"), None),
        (tmp_path / "run", tmp_path / "other"),
    ]


def test_train_goes_on_by_the_recipe_of_the_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from captax.training import loop
    from captax.training.recipe import load_recipe

    monkeypatch.chdir(tmp_path)
    kept = load_recipe("captax-lite", ["data.root=data", "seed=3", "stages.0.lr_scale=null"])
    assert kept.data.root == tmp_path / "data"  # wherever it goes on from
    (tmp_path / "recipe.yaml").write_text(kept.to_yaml())
    monkeypatch.setattr(loop, "train", lambda recipe, out, **_: out / str(recipe.seed))
    assert run("train", "--resume", tmp_path).out == f"best model: {tmp_path / '3'}\n"
    result = run("train", "finetune", "--resume", tmp_path)
    assert result.code == 2 and "give nothing else" in result.err
    assert "give a recipe's name" in run("train").err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["captax-lite"], "data.root is missing;"),
        (["captax-lite", "--set", "data.rot=x"], "data.rot: unknown key; did you mean root?"),
        (["finetune", "--set", "data.root=nowhere"], "nowhere"),
        (["flickr8k"], "no recipe 'flickr8k'"),
    ],
)
def test_train_tells_mistakes_in_one_line(
    run: Run, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = run("train", *arguments, "--out", tmp_path / "run")
    assert result.code == 2 and message in result.err and result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--format", "json", "'json' is not one of 'text', 'jsonl',"),
        ("--num-beams", "three", "must be an integer; see"),
        (
            "--max-new-tokens",
            "500",
            "positions and 500 are needed; use a lower --max-new-tokens or",
        ),
    ],
)
def test_messages_of_other_libraries_are_made_plain(
    run: Run, model: Path, examples: Path, option: str, value: str, message: str
) -> None:
    result = run("caption", examples / "cat.jpg", "--model", model, option, value)
    assert result.code == 2 and message in result.err
    assert "Value error" not in result.err and result.err.count("\n") == 1


def test_a_library_that_finds_no_memory_is_told_as_such() -> None:
    error = ImportError("libjax_common.so: failed to map segment from shared object")
    assert _told(error).startswith("there is not enough memory")
    assert _told(ImportError("cannot import name 'x'")) == ""  # a fault of captax's


@pytest.mark.slow
def test_assembled_halves_are_trained_on_a_folder_as_the_page_says(
    run: Run, checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "PICTURES").mkdir()
    for n in range(24):
        Image.effect_noise((40, 40), 30 + n).save(tmp_path / "PICTURES" / f"{n}.png")
        (tmp_path / "PICTURES" / f"{n}.txt").write_text("a red square" if n % 2 else "a blue one")
    shutil.copytree(checkpoint("vit"), "my-vit")
    shutil.copytree(checkpoint("gpt2"), "my-gpt2")
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"captax (assemble my-vit .*|train vit-gpt2 .*joined.*)", page)
    assert len(commands) == 2
    small = ["data.max_tokens=8", "data.row_tokens=8", "optimizer.batch_size=4"]
    small += ["stages.0.epochs=1", "stages.1.epochs=1", "stages.0.views=1"]
    small += ["evaluation.max_new_tokens=4", "evaluation.num_beams=1"]
    for command in commands:
        extra = [part for each in small for part in ("--set", each)] if "train" in command else []
        result = run(*shlex.split(command), *extra)
        assert result.code == 0, result.err
