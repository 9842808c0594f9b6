"""Commands and snippets of README, the docs and the recipes run as they stand.

A reader has pictures, datasets and models of the names that are written there. Here, small ones
have these names; what is too large or too far away is replaced, and only that (`INSTEAD`).
"""

import contextlib
import dataclasses
import io
import itertools
import json
import re
import shlex
import shutil
import tarfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import typer.main
import yaml
from PIL import Image

import captax
from captax.checkpoints import hub as checkpoint_hub
from captax.cli.main import app
from captax.data import class_names
from captax.serve.schemas import CaptionRequest
from captax.training import loop
from captax.training.recipe import load_recipe, recipe_names
from checkpoints import gguf_files
from video_files import write_video

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "src" / "captax" / "recipes").glob("*.yaml"))
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Command:
    """A `captax` command: the page that it is on, and its words after `captax`."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(("captax", *self.words))


def _words(line: str) -> tuple[str, ...]:
    """The words of a command, without its comment and where its output goes."""
    words = shlex.split(line, comments=True)
    return tuple(words[: words.index(">")] if ">" in words else words)


def _commands() -> list[Command]:
    """All lines of shell that begin with `captax`, and what comments add to their recipes."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for language, block in BLOCK.findall(text):
            lines = re.findall(r"^(?:\$ |ExecStart=\S*/)?captax (.*)", block, re.MULTILINE)
            assert language in ("console", "ini") or not lines, (page, language)
            found += [Command(page.name, _words(line)) for line in lines]
    for recipe in RECIPES:
        lines = recipe.read_text(encoding="utf-8").splitlines()
        text = " ".join(line.removeprefix("#") for line in lines if line.startswith("#"))
        for options in re.findall(r"`(--set [^`]*)`", text):
            own = recipe.stem.endswith("finetune")  # of one's own pictures
            root = ("--set", f"data.root={'MY-PICTURES' if own else 'DATA'}")
            found.append(Command(recipe.name, ("train", recipe.stem, *root, *_words(options))))
    return found


COMMANDS = _commands()
# What only its parts can be tested of: these are parsed, and no more.
NOT_RUN = {
    "serve": "it does not end; tests/serve asks servers",
    "mcp": "it does not end; tests/mcp asks it",
    "--tensor-parallel": "it needs two devices; see tests/pipelines/test_replicas.py",
    "--endpoint": "it needs another server; see tests/cli/test_endpoint.py",
    "@http": "it needs another server; see tests/compare/test_command.py",
    "--vote": "it does not end; see tests/compare/test_pages.py",
    "--results": "it needs votes; see tests/compare/test_command.py",
    "--engine ray": "a cluster takes long to start; see tests/collection/test_cluster.py",
    "--json-schema": "the stand-ins write words only; see tests/generation/test_automaton.py",
    "data get": "it needs the network; tests/data/test_get.py fetches from another server",
    "hf://": "it needs the hub; tests/data/test_repository.py reads datasets from another",
    "--processes": "it waits for the other processes; see tests/training/test_mesh.py",
}
# By words of the commands: numbers of pictures, other people's buckets, and words that a captioner
# without a vocabulary to speak of does not say.
INSTEAD = {
    "shards/{000..255}.tar": "shards/{000..001}.tar",
    "s3://bucket/photos": "memory://bucket/photos",
    "dog": "1",
    "a dog in the snow": "a red square",
    "a picture of": "a red",
    "examples/coffee.jpg": "photo.jpg",
    "data.train.0.rows=:-300": "data.train.0.rows=:-3",
    "data.dev.0.rows='-300:'": "data.dev.0.rows='-3:'",
    'data.dev.0.rows="-300:"': 'data.dev.0.rows="-3:"',
}
MODELS = {
    "HuggingFaceTB/SmolVLM-256M-Instruct": "smolvlm",
    "google/paligemma2-3b-mix-224": "paligemma",
    "fancyfeast/llama-joycaption-beta-one-hf-llava": "joycaption",
    "florence-community/Florence-2-base": "florence2",
    "SmilingWolf/wd-vit-tagger-v3": "tagger",
    "SmilingWolf/wd-swinv2-tagger-v3": "tagger",
    "Qwen/Qwen3-VL-2B-Instruct": "qwen3-vl",
    "Qwen/Qwen2.5-VL-3B-Instruct": "qwen2.5-vl",
    "Salesforce/blip-image-captioning-base": "blip",
    "google/vit-base-patch16-224": "vit-classifier",
    "google/vit-base-patch16-224-in21k": "vit",
    "google-bert/bert-base-uncased": "bert-decoder",
    "gpt2": "gpt2",
    "facebook/vit-msn-base": "vit-msn",
    "microsoft/git-base": "git",
    "microsoft/git-base-coco": "git",
    "microsoft/git-base-vatex": "git-video",
    "microsoft/resnet-50": "resnet",
    "my-git": "git",
    "my-gpt2": "gpt2",
    "my-vit": "vit",
    "me/git-monsters": "git",
    "runs/food101-vit/best": "vit-classifier",
    "runs/git/best": "git",
    "runs/git-finetune/best": "git",
    "runs/smolvlm-finetune/best": "smolvlm",
    "runs/florence2-finetune/best": "florence2",
    "florence-community/Florence-2-base-ft": "florence2",
    "llava-hf/llava-1.5-7b-hf": "llava",
    "nlpconnect/vit-gpt2-image-captioning": "vit-gpt2",
    "openai-community/gpt2": "gpt2",
    "patrickvonplaten/bert2bert-cnn_dailymail-fp16": "bert2bert",
}
# The stand-ins are small, and so are recipes for them.
SMALL = tuple(
    word
    for setting in (
        "data.max_tokens=8",
        "data.row_tokens=8",
        "optimizer.batch_size=4",
        "evaluation.max_new_tokens=4",
    )
    for word in ("--set", setting)
)
DEV = [f"{number}.jpg" for number in range(8, 20)]
FOOD = "DATA/food-101"


def _draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((40, 40), 30 + seed).convert("RGB").save(path)


def _datasets() -> None:
    """Flickr8k and COCO in DATA, pictures with captions of one's own, and captions to score."""
    names = [f"{number}.jpg" for number in range(22)]
    captions = {name: f"a {'red' if n % 2 else 'blue'} square" for n, name in enumerate(names)}
    text = Path("DATA/flickr8k/text")
    text.mkdir(parents=True)
    lines = [f"{name}#{n}\t{said} .\n" for name, said in captions.items() for n in range(2)]
    (text / "Flickr8k.token.txt").write_text("".join(lines))
    for split, part in (("train", names[:8]), ("dev", DEV), ("test", names[20:])):
        (text / f"Flickr_8k.{split}Images.txt").write_text("\n".join(part))
    for number, (name, said) in enumerate(captions.items()):
        _draw(text.parent / "images" / name, number)
        for folder in ("DATA/coco", "MY-PICTURES", "PICTURES"):
            _draw(Path(folder, name), 50 + number)
            Path(folder, name).with_suffix(".txt").write_text(said)
    for label in ("cats", "dogs"):
        for number in range(20):
            _draw(Path("CLASSES", label, f"{number}.jpg"), number)
    pairs = [{"source": said, "target": said} for said in captions.values()]
    Path("PAIRS").mkdir()
    for split in ("train", "dev"):
        Path(f"PAIRS/{split}.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    Path("annotations").mkdir()
    images = [{"id": n, "file_name": name} for n, name in enumerate(DEV)]
    annotations = [{"image_id": n, "caption": captions[name]} for n, name in enumerate(DEV)]
    told = {"images": images, "annotations": annotations}
    Path("annotations/captions_val2014.json").write_text(json.dumps(told))
    karpathy = [
        {"filename": name, "split": "test", "sentences": [{"raw": said}]}
        for name, said in captions.items()
        if name in DEV
    ]
    Path("dataset_coco.json").write_text(json.dumps({"images": karpathy}))
    Path("baseline.json").write_text(json.dumps({name: captions[name] for name in DEV}))
    Path("DATA/food-101/meta").mkdir(parents=True)
    for split in ("train", "test"):
        listed = [f"dish{label:02}/{split}" for label in range(20)]
        Path(f"DATA/food-101/meta/{split}.txt").write_text("\n".join(listed))
        for seed, name in enumerate(listed):
            _draw(Path("DATA/food-101/images", f"{name}.jpg"), seed)


def _scored() -> None:
    """Captions of the pictures that have references."""
    rows = [json.dumps({"path": name, "caption": "a red square"}) for name in DEV]
    for file in ("captions.jsonl", "baseline.jsonl"):
        Path(file).write_text("\n".join(rows))


def _half_described(name: str) -> None:
    """DATA in which half of the captions are what this captioner says, and the rest never are.

    What its random weights make of noise differs by machine; it is made to say words.
    """
    path = Path(name, "generation_config.json")
    how = json.loads(path.read_text()) | {"suppress_tokens": [0, 1, 3]}  # <pad> <start> <unk>
    path.write_text(json.dumps(how))
    pictures = sorted([*Path("DATA/coco").glob("*.jpg"), *Path("DATA/flickr8k").rglob("*.jpg")])
    lines = []
    for picture, said in zip(pictures, captax.load(name).caption(pictures), strict=True):
        caption = said.text if int(picture.stem) % 2 else f"something else, number {picture.stem}"
        if picture.parent.name == "coco":
            picture.with_suffix(".txt").write_text(caption)
        else:
            lines.append(f"{picture.name}#0\t{caption}\n")
    Path("DATA/flickr8k/text/Flickr8k.token.txt").write_text("".join(lines))


def _pictures() -> None:
    """Pictures in files, folders and shards, and a site that shows one."""
    for name in ("cat", "coffee"):
        _draw(Path("examples", f"{name}.jpg"), len(name))
    for seed, path in enumerate(
        (
            *("photo.jpg", "cat.jpg", "holiday/1.jpg", "holiday/2.jpg", "scans/1.png"),
            *("photos/1.jpg", "photos/2.jpg", "training/square/1.jpg", "docs/1.jpg"),
            *("lunch.jpg", "sketches/1.jpg"),
        )
    ):
        _draw(Path(path), seed)
    write_video(Path("clip.mp4"))
    Path("docs/index.md").write_text("# A page\n\n![](1.jpg)\n")
    Path("shards").mkdir()
    for shard in ("000", "001"):
        with tarfile.open(f"shards/{shard}.tar", "w") as archive:
            archive.add("photos/1.jpg", f"{shard}.jpg")
    remote = fsspec.filesystem("memory")
    remote.pipe("/bucket/photos/1.jpg", Path("photo.jpg").read_bytes())
    Path("notes.csv").write_text("file,note\n1.jpg,red\n")
    Path("articles.txt").write_text("the red square is under a white tile\n")


def _recipe(finetune: Path) -> None:
    """A recipe of one's own: `finetune` on one's own pictures."""
    tree = yaml.safe_load(finetune.read_text(encoding="utf-8"))
    tree["data"] |= {"root": "MY-PICTURES"}
    Path("my-recipe.yaml").write_text(yaml.safe_dump(tree))


@pytest.fixture
def desk(
    checkpoint: Callable[[str], Path],
    make_model: Callable[..., Any],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder with all that the commands name, which is the current one."""
    monkeypatch.chdir(tmp_path)
    captioner = tmp_path / "captioner"
    shutil.copytree(model, captioner)
    how = json.loads((captioner / "generation_config.json").read_text())
    how |= {"num_beams": 1, "min_new_tokens": 2}
    (captioner / "generation_config.json").write_text(json.dumps(how))
    monkeypatch.setattr(checkpoint_hub, "BUILT_IN", str(captioner))
    _pictures()
    _datasets()
    _recipe(next(recipe for recipe in RECIPES if recipe.stem == "finetune"))
    for name, kind in MODELS.items():
        shutil.copytree(checkpoint(kind), name)
    for name in ("my-captioner", "runs/mine/best", "runs/longer/best", "runs/flickr8k-vit/best"):
        shutil.copytree(captioner, name)
    dishes = captax.classifier_for("runs/food101-vit/best", class_names(FOOD))
    dishes.save("runs/food101-vit/best")
    config = gguf_files.LLAMA
    gguf_files.write(
        Path("SmolLM2-135M-Instruct.Q4_1.gguf"),
        "llama",
        gguf_files.numbers(config),
        gguf_files.theirs(make_model(config)),
        gguf_files.Kind.Q4_1,
    )
    return tmp_path


def test_commands_are_found() -> None:
    """As many as a search for the word finds, so that none hides behind another form."""
    lines = [
        line
        for page in PAGES
        for _, block in BLOCK.findall(page.read_text(encoding="utf-8"))
        for line in block.splitlines()
        if re.search(r"(?:^\W*|bin/)captax \w", line)
    ]
    assert len(lines) == len([each for each in COMMANDS if each.page.endswith(".md")]) > 50


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_is_one(command: Command) -> None:
    """It is parsed as the command line parses it, and a recipe takes its settings."""
    parser: Any = typer.main.get_command(app)
    words = list(command.words)
    while hasattr(parser, "commands"):
        parser = parser.commands[words.pop(0)]
    given = parser.make_context("captax", words).params
    if command.words[0] == "train" and given["recipe"] in recipe_names():
        settings = given["set"] or []
        rooted = any(each.startswith("data.root=") for each in settings)
        load_recipe(given["recipe"], [*settings, *([] if rooted else ["data.root=DATA"])])


def _stand_ins(command: Command) -> Command:
    return dataclasses.replace(command, words=tuple(INSTEAD.get(w, w) for w in command.words))


# Each once, on the first page that has it.
RUN = {
    each.words: each
    for each in map(_stand_ins, reversed(COMMANDS))
    if not any(why in f"{each} " for why in NOT_RUN)
}


@pytest.mark.slow
# The library's own way of putting a file, without its store.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
@pytest.mark.parametrize("page", dict.fromkeys(each.page for each in COMMANDS))
def test_the_commands_of_a_page_run(
    page: str, desk: Path, run: Callable[..., Any], hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.writer)
    # Every recipe is trained with in tests/training/test_recipes.py; here a run begins and ends.
    monkeypatch.setattr(loop._Run, "run_stage", lambda *_: None)
    # The stand-ins have small matrices, which are quantised all the same.
    monkeypatch.setattr("captax.models.quantised.LEAST", 1)
    monkeypatch.setattr("captax.models.quantised.GROUP", 4)
    for command in reversed(RUN.values()):
        if command.page == page:
            if command.words[0] in ("score", "compare"):
                _scored()
            if command.words[0] == "calibrate":
                _half_described(command.words[1])
            for option, name in itertools.pairwise(command.words):
                if option == "--out" and Path(name).is_file():
                    Path(name).unlink()  # of another example
            with_recipe = command.words[0] == "train" or "--augmented" in command.words
            small = SMALL if with_recipe else ()
            if command.words[:2] == ("train", "qwen-vl-finetune"):
                small = (*small, "--set", "model.max_pixels=4096")  # the stand-in reads few tokens
            with _new_run(command.words):
                result = run(*command.words, *small)
            assert result.code == 0, f"{command}: {result.err}"


@contextlib.contextmanager
def _new_run(words: tuple[str, ...]) -> Iterator[None]:
    """Make room for a run; then the model that stands for its result is there again."""
    if words[0] != "train" or "--resume" in words:
        yield
        return
    named = dict(itertools.pairwise(words)).get("--out", f"runs/{Path(words[1]).stem}")
    out, aside = Path(named), Path("aside")
    if (out / "best").is_dir():
        (out / "best").rename(aside)
    shutil.rmtree(out, ignore_errors=True)
    yield
    if aside.is_dir():
        shutil.rmtree(out / "best", ignore_errors=True)
        out.mkdir(exist_ok=True)
        aside.rename(out / "best")


SNIPPETS = {
    page.name: [code for language, code in BLOCK.findall(page.read_text()) if language == "python"]
    for page in PAGES
    if page.name != "new-family.md"  # parts of files; see tests/cli/test_new_family.py
}


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page, codes in SNIPPETS.items() if codes])
def test_the_snippets_of_a_page_run(page: str, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: urllib.request.Request) -> io.BytesIO:
        """As a server would: it refuses what it does not know."""
        assert isinstance(request.data, bytes) and request.full_url.endswith("/v1/caption")
        CaptionRequest.model_validate_json(request.data)
        return io.BytesIO(b'{"captions": [{"caption": "a cat"}]}')

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    # Some go on where another page's snippet ended.
    names: dict[str, Any] = {"captax": captax, "captioner": captax.load()}
    code = "\n".join(SNIPPETS[page])
    code = code.replace("max_new_tokens=20", "max_new_tokens=8")  # the small one reads few
    exec(compile(code, page, "exec"), names)
