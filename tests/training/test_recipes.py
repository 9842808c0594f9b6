"""Every recipe that comes with captax, from its data to what it saved: small, and so in seconds."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import captax
from captax.generation import GenerationConfig
from captax.images import ImageProcessor
from captax.pipelines.captioner import Captioner
from captax.training import build
from captax.training.loop import train
from captax.training.recipe import RecipeError, load_recipe, recipe_names
from captax.training.watch import read_log

pytestmark = pytest.mark.usefixtures("small_encoder")

FLICKR = (
    "data.train=[{path: shapes, split: train}]",
    "data.dev=[{path: shapes, split: dev}]",
    "data.row_tokens=14",
    "data.min_count=1",
)
NEW_DECODER = tuple(
    f"model.decoder.{key}" for key in ("width=16", "layers=1", "heads=2", "mlp_width=16")
)
BERTS = ("model.encoder.checkpoint={bert}", "model.decoder.checkpoint={bert-decoder}")
RESNET = (
    *FLICKR,
    *NEW_DECODER,
    "model.encoder.checkpoint={resnet}",
    "model.encoder.image_size=64",
    "stages.0.trainable=[decoder, 'encoder\\.stages\\.[12]\\.']",  # the small one has three
)
VIT = (*FLICKR, *NEW_DECODER, "model.encoder.checkpoint={vit}", "model.tokenizer={gpt2}")
FOOD = ("model.encoder.checkpoint={vit-classifier}", "data.classes=2")
GIT = ("model.checkpoint={git}", "evaluation.steps=1")
VIT_GPT2 = (*FLICKR, "model.encoder.checkpoint={vit}", "model.decoder.checkpoint={gpt2}")
# Beside these: one epoch a stage, batches of four, a few tokens.
SMALL: dict[str, tuple[str, ...]] = {
    "bert2bert": BERTS,
    "bert2bert-tutorial": (*BERTS, "evaluation.min_new_tokens=2"),
    "blip-finetune": ("model.checkpoint={blip}",),
    "finetune": ("model.checkpoint={default}",),
    "captax-lite": (
        *FLICKR,
        *NEW_DECODER,
        "data.train=[{path: shapes, split: train}, {path: own, split: train, weight: 2.5}]",
        "data.dev=[{path: shapes, split: dev}, {path: own, split: dev}]",
        "evaluation.limit=null",
        "model.decoder.max_positions=10",
        "stages.2.max_steps=2",
    ),
    "flickr8k-resnet50": RESNET,
    "flickr8k-resnet50-tutorial": RESNET,
    "flickr8k-vit": VIT,
    "flickr8k-vit-tutorial": VIT,
    "food101-vit": FOOD,
    "food101-vit-tutorial": FOOD,
    "git-finetune": GIT,
    "git-finetune-tutorial": GIT,
    "florence2-finetune": ("model.checkpoint={florence2}",),
    "joycaption-finetune": ("model.checkpoint={joycaption}", "model.prompt=look"),
    "qwen-vl-finetune": (
        "model.checkpoint={qwen3-vl}",
        "model.prompt=[look, red]",
        "model.max_pixels=4096",
    ),
    "smolvlm-finetune": ("model.checkpoint={smolvlm}",),
    "vit-gpt2": VIT_GPT2,
    "vit-gpt2-tutorial": VIT_GPT2,
}


@pytest.fixture(scope="module")
def root(
    dataset: Callable[[Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Flickr8k's layout, Food-101's, one's own pictures and pairs of texts, all made up."""
    root = dataset(tmp_path_factory.mktemp("data"))
    pictures = sorted((root / "shapes" / "images").iterdir(), key=lambda path: int(path.stem))
    for split, part in (("train", pictures[:8]), ("val", pictures[8:])):
        folder = root / "own" / split
        folder.mkdir(parents=True)
        rows = []
        for picture in part:
            (folder / picture.name).write_bytes(picture.read_bytes())
            rows.append({"file_name": picture.name, "text": "a zebra in the dark"})
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    food = root / "food" / "food-101"
    (food / "meta").mkdir(parents=True)
    listed: dict[str, list[str]] = {"train": [], "test": []}
    for label, colour in (("apple_pie", "red"), ("baklava", "blue"), ("waffles", "lime")):
        (food / "images" / label).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (40, 36 + number), colour).save(
                food / "images" / label / f"{number}.jpg"
            )
            listed["train" if number < 4 else "test"].append(f"{label}/{number}")
    for split, ids in listed.items():
        (food / "meta" / f"{split}.txt").write_text("\n".join(ids))
    (root / "texts").mkdir()
    for split, count in (("train", 8), ("val", 3)):
        pairs = [
            {"source": "the red square is in the dark", "target": f"a red square {number}"}
            for number in range(count)
        ]
        (root / "texts" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    return root


@pytest.fixture(scope="module")
def default(
    make_model: Callable[..., Any],
    small_encoder: Any,
    tiny_tokenizer: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """In the place of the built-in captioner."""
    decoder = {
        "model_type": "captax-transformer",
        "vocab_size": tiny_tokenizer.vocab_size,
        "width": 16,
        "layers": 1,
        "heads": 2,
        "mlp_width": 16,
        "max_positions": 10,
        "features_width": small_encoder.features_width,
        "grid": [2, 2],
    }
    config = {
        "model_type": "captax-encoder-decoder",
        "encoder": small_encoder.config.write(),
        "decoder": decoder,
    }
    captioner = Captioner(
        make_model(config), ImageProcessor(size=(40, 40)), tiny_tokenizer, GenerationConfig()
    )
    directory = tmp_path_factory.mktemp("default") / "model"
    captioner.save(directory)
    return directory


# Those that are judged by beam search here too, which takes long to compile.
SEARCH = ("vit-gpt2",)
# Those that take more than a few seconds: several stages, or convolutions.
LONG = (
    "bert2bert",
    "blip-finetune",
    "captax-lite",
    "flickr8k-resnet50",
    "flickr8k-vit",
    "food101-vit",
    "git-finetune",
    "florence2-finetune",
    "joycaption-finetune",
    "qwen-vl-finetune",
    "smolvlm-finetune",
    "vit-gpt2",
)
DATA = {"bert2bert": "texts", "food101-vit": "food"}
OWN = (
    *("blip-finetune", "finetune", "florence2-finetune", "git-finetune"),
    *("joycaption-finetune", "qwen-vl-finetune", "smolvlm-finetune"),
)


@pytest.fixture
def small(
    root: Path, default: Path, checkpoint: Callable[[str], Path]
) -> Callable[[str], list[str]]:
    """The overrides that make a recipe small."""

    class Places(dict[str, Path]):
        def __missing__(self, name: str) -> Path:
            return default if name == "default" else checkpoint(name)

    def overrides(name: str) -> list[str]:
        of = name.removesuffix("-tutorial")
        folder = DATA.get(of, "own" if of in OWN else ".")
        stages = load_recipe(name, ["data.root=."]).stages
        return [
            f"data.root={root / folder}",
            "data.max_tokens=9",
            "optimizer.batch_size=4",
            "evaluation.batch_size=2",
            "evaluation.max_new_tokens=6",
            "evaluation.samples=2",
            "evaluation.limit=3",
            *(() if name in SEARCH else ("evaluation.num_beams=1",)),
            *(f"stages.{index}.epochs=1" for index in range(len(stages))),
            *(f"stages.{index}.warmup_steps=0" for index in range(len(stages))),
            *(part.format_map(Places()) if "={" in part else part for part in SMALL[name]),
        ]

    return overrides


def test_classes_of_efficientnet_lite_have_their_words_in_order() -> None:
    words = build.class_words("efficientnet-lite2")
    assert len(words) == 1000
    # Places in https://storage.googleapis.com/download.tensorflow.org/data/ImageNetLabels.txt
    known = {
        0: "tench fish",
        285: "Egyptian cat cat",
        421: "bannister staircase stairs railing",
        872: "tripod camera tripod",
        967: "espresso coffee cup",
    }
    assert {place: words[place] for place in known} == known
    assert not any(re.search("[^A-Za-z' ]", each) for each in words)
    with pytest.raises(RecipeError, match=r"hints: the classes of resnet are not known"):
        build.class_words("resnet")


def test_every_recipe_is_run() -> None:
    assert sorted(SMALL) == recipe_names()


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in SMALL],
)
def test_a_recipe_runs_from_its_data_to_what_it_saved(
    name: str, small: Callable[[str], list[str]], root: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(name, small(name))
    best = train(recipe, tmp_path / "run")
    log = read_log(tmp_path / "run" / "log.jsonl")
    steps = [record for record in log if "loss" in record]
    assert all(math.isfinite(record["loss"]) for record in steps)
    assert [*dict.fromkeys(record["stage"] for record in steps)] == [s.name for s in recipe.stages]
    scores = [record["scores"] for record in log if "scores" in record][-1]
    pictures = sorted((root / "shapes" / "images").iterdir())[:2]
    found = captax.load(best)
    if recipe.task == "caption":
        assert {"CIDEr-D", "WER", "perplexity", "token accuracy"} <= scores.keys()
        captions = found.caption(pictures)
        assert len(captions) == 2 and all(isinstance(each.text, str) for each in captions)
        # It captions as it was judged.
        assert found.generation.num_beams == recipe.evaluation.num_beams
        assert found.generation.max_new_tokens == 6
    elif recipe.task == "classify":
        assert scores.keys() == {"accuracy", "loss"}  # five are all of two
        assert found.labels == ("apple_pie", "baklava")
        [guess, _] = found.classify(pictures)
        assert guess.label in found.labels and len(guess.alternatives) == 2
    else:
        assert {"rouge1", "rougeL", "perplexity"} <= scores.keys()
        [said] = found.generate(["the red square is in the dark"])
        assert isinstance(said.text, str)
    card = (best / "README.md").read_text()
    assert f"captax train {name}" in card and "| metric | value |" in card
    pages = sorted((tmp_path / "run" / "samples").iterdir())
    assert len(pages) >= len(recipe.stages)
    assert (recipe.task != "classify") == ("References" in pages[-1].read_text())
