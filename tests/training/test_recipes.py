"""Every recipe that comes with captax, from its data to what it saved: small, and so in seconds."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import captax
from captax.checkpoints.state import parameters
from captax.generation import GenerationConfig
from captax.images import ImageProcessor
from captax.models.modules import Dropout
from captax.pipelines.captioner import Captioner
from captax.training import build
from captax.training.loop import train
from captax.training.recipe import RecipeError, load_recipe, recipe_names
from captax.training.tasks import make_task
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
    "bert2bert-tutorial",
    "blip-finetune",
    "captax-lite",
    "flickr8k-resnet50",
    "flickr8k-vit",
    "flickr8k-vit-tutorial",
    "food101-vit",
    "git-finetune",
    "git-finetune-tutorial",
    "florence2-finetune",
    "joycaption-finetune",
    "qwen-vl-finetune",
    "smolvlm-finetune",
    "vit-gpt2",
    "vit-gpt2-tutorial",
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


# What the tutorials say, by fields of recipes. Sources, in the order of the names:
# "Leveraging Pre-trained Language Model Checkpoints for Encoder-Decoder Models" (Hugging Face's
# blog), tutorials in PyTorch on a ResNet-50 and a transformer, "Image Captioning with Vision
# Transformer (ViT) model" and "Vision Transformer with JAX & FLAX" (JAX AI Stack), the guide
# "Image captioning" (transformers), tutorials on VisionEncoderDecoderModel.
TUTORIALS: dict[str, dict[str, Any]] = {
    "bert2bert-tutorial": {
        "model.encoder.checkpoint": "google-bert/bert-base-uncased",
        "model.decoder.checkpoint": "google-bert/bert-base-uncased",
        "data.max_source_tokens": 512,
        "data.max_tokens": 128,
        "optimizer.batch_size": 16,
        "optimizer.precision": "float16",
        "stages.0.epochs": 3,  # the Trainer's
        "stages.0.lr": 5e-5,  # the Trainer's
        "stages.0.warmup_steps": 2000,
        "evaluation.steps": 7500,
        "evaluation.metric": "rouge2",
        "evaluation.num_beams": 4,
        "evaluation.max_new_tokens": 142 - 1,  # their max_length counts the start
        "evaluation.min_new_tokens": 56 - 1,
        "evaluation.length_penalty": 2.0,
        "evaluation.early_stopping": True,
        "evaluation.no_repeat_ngram_size": 3,
        "save_every": 500,
        "keep": 3,
    },
    "flickr8k-resnet50-tutorial": {
        "data.train.0.rows": ":-300",
        "data.dev.0.rows": "-300:",
        "data.captions": "first",
        "data.min_count": 5,
        "data.max_tokens": 50,
        "model.encoder.checkpoint": "microsoft/resnet-50",
        "model.encoder.image_size": 256,
        "model.encoder.grid": [14, 14],
        "model.decoder.width": 1024,
        "model.decoder.layers": 6,
        "model.decoder.mlp_width": 4096,
        "model.decoder.dropout": 0.2,
        "stages.0.epochs": 4,
        "stages.0.lr": 1e-4,
        "stages.0.warmup_steps": 0,
        "stages.0.trainable": ["decoder", r"encoder\.stages\.[123]\."],
        "optimizer.name": "adamw",
        "optimizer.batch_size": 64,
        "optimizer.ema_decay": None,
        "optimizer.update_statistics": True,
        "evaluation.num_beams": 1,
    },
    "flickr8k-vit-tutorial": {
        "data.max_tokens": 150,
        "data.row_tokens": 150,
        "data.dev.0.split": "test",
        "model.tokenizer": "openai-community/gpt2",
        "model.encoder.checkpoint": "google/vit-base-patch16-224",
        "model.encoder.dropout": 0.1,
        "model.decoder.width": 768,
        "model.decoder.layers": 4,
        "model.decoder.heads": 6,
        "model.decoder.mlp_width": 3072,
        "model.decoder.max_positions": 150,
        "model.decoder.dropout": 0.1,
        "model.decoder.order": "post",
        "model.decoder.tie_word_embeddings": False,
        "augment.crop_scale": [0.7, 1.0],
        "augment.flip": True,
        "augment.jitter": 0.2,
        "stages.0.epochs": 200,
        "stages.0.lr": 0.015,
        "stages.0.schedule": "constant",
        "stages.0.trainable": ["decoder"],
        "stages.0.views": None,  # augmented anew in every epoch
        "optimizer.name": "sgd",
        "optimizer.momentum": 0.9,
        "optimizer.nesterov": True,
        "optimizer.batch_size": 196,
        "optimizer.weight_decay": 0.0,
        "optimizer.clip_norm": None,
        "evaluation.epochs": 10,
        "evaluation.metric": "token accuracy",
    },
    "food101-vit-tutorial": {
        "data.classes": 20,
        "model.encoder.checkpoint": "google/vit-base-patch16-224",
        "model.encoder.dropout": 0.1,
        "augment.crop_scale": [0.7, 1.0],
        "augment.flip": True,
        "augment.jitter": 0.2,
        "stages.0.epochs": 3,
        "stages.0.lr": 1e-3,
        "stages.0.schedule": "linear",
        "stages.0.warmup_steps": 0,
        "stages.0.trainable": None,
        "optimizer.name": "sgd",
        "optimizer.momentum": 0.8,
        "optimizer.nesterov": True,
        "optimizer.batch_size": 32,
        "optimizer.weight_decay": 0.0,
        "optimizer.clip_norm": None,
        "evaluation.batch_size": 64,
    },
    "git-finetune-tutorial": {
        "model.checkpoint": "microsoft/git-base",
        "stages.0.epochs": 50,
        "stages.0.lr": 5e-5,
        "stages.0.schedule": "linear",
        "stages.0.warmup_steps": 0,
        "optimizer.name": "adamw",
        "optimizer.beta2": 0.999,
        "optimizer.weight_decay": 0.0,
        "optimizer.clip_norm": 1.0,
        "optimizer.batch_size": 32 * 2,
        "optimizer.accumulation": 2,
        "optimizer.precision": "float16",
        "evaluation.steps": 50,
        "evaluation.metric": "loss",  # the Trainer's, where the best model is loaded at the end
        "evaluation.batch_size": 32,
        "evaluation.max_new_tokens": 50 - 1,
        "save_every": 50,
        "keep": 3,
    },
    "vit-gpt2-tutorial": {
        "model.encoder.checkpoint": "google/vit-base-patch16-224-in21k",
        "model.decoder.checkpoint": "openai-community/gpt2",
        "data.max_tokens": 128,
        "augment.crop_scale": None,
        "augment.flip": False,
        "stages.0.epochs": 3,
        "stages.0.lr": 5e-5,
        "stages.0.schedule": "linear",
        "stages.0.warmup_steps": 0,
        "stages.0.trainable": None,
        "optimizer.name": "adamw",
        "optimizer.beta2": 0.999,
        "optimizer.weight_decay": 0.0,
        "optimizer.clip_norm": 1.0,
        "optimizer.batch_size": 4,
        "evaluation.num_beams": 4,
    },
}


def test_variants_have_the_numbers_of_their_tutorials() -> None:
    assert sorted(TUTORIALS) == [name for name in recipe_names() if name.endswith("-tutorial")]
    for name, settings in TUTORIALS.items():
        recipe = load_recipe(name, ["data.root=."]).model_dump(mode="json")
        for path, wanted in settings.items():
            found: Any = recipe
            for key in path.split("."):
                found = found[int(key) if isinstance(found, list) else key]
            assert found == wanted, f"{name}: {path}"
        assert len(recipe["stages"]) == 1


def test_variants_build_what_their_tutorials_describe(small: Callable[[str], list[str]]) -> None:
    def task(name: str, *more: str) -> Any:
        return make_task(load_recipe(name, [*small(name), *more]))

    resnet = task("flickr8k-resnet50-tutorial")
    model = resnet.model
    assert model.grid == model.decoder.config.grid == (14, 14)
    assert model.decoder.config.order == "post" and model.decoder.head is not None
    assert resnet.subject.processor.size == (64, 64)
    # The first caption of each picture, and always the same.
    firsts = resnet.tokens([example.captions[0] for example in resnet.train])
    assert all(resnet._captions(visit, 3) == [firsts[3]] for visit in range(4))
    features = model.encode(jnp.asarray(resnet.pictures.read(np.arange(2))))
    assert features.grid == (14, 14) and features.tokens.shape[1] == 14 * 14

    food = task("food101-vit-tutorial").model
    assert food.config.hidden_dropout_prob == food.config.attention_probs_dropout_prob == 0.1
    assert {each.rate for _, each in nnx.iter_modules(food) if isinstance(each, Dropout)} == {0.1}

    bert = task("bert2bert-tutorial", "evaluation.num_beams=4").generation
    assert (bert.min_new_tokens, bert.length_penalty, bert.early_stopping) == (2, 2.0, True)


def test_what_an_encoder_cannot_do_is_refused(small: Callable[[str], list[str]]) -> None:
    for name, override, message in (
        ("flickr8k-vit", "model.encoder.grid=[4, 4]", "grid is for convolutional networks"),
        ("flickr8k-resnet50", "model.encoder.dropout=0.1", "the encoder (resnet) has no dropout"),
    ):
        with pytest.raises(RecipeError, match=re.escape(message)):
            make_task(load_recipe(name, [*small(name), override]))


def test_statistics_need_batch_norms(small: Callable[[str], list[str]], tmp_path: Path) -> None:
    overrides = [*small("food101-vit"), "optimizer.update_statistics=true"]
    with pytest.raises(RecipeError, match="update_statistics is for models with batch norms"):
        train(load_recipe("food101-vit", overrides), tmp_path / "run")


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
    if recipe.optimizer.update_statistics:
        given = recipe.model.encoder.checkpoint
        for part in ("embedder.convolution", "stages.2.0.layers.0"):  # frozen, and trained
            kept, new = (
                parameters(model)[f"{part}.norm.mean"]
                for model in (captax.load_model(given), found.model.encoder)
            )
            assert np.abs(kept - new).max() > 1e-4
    card = (best / "README.md").read_text()
    assert f"captax train {name}" in card and "| metric | value |" in card
    pages = sorted((tmp_path / "run" / "samples").iterdir())
    assert len(pages) >= len(recipe.stages)
    assert (recipe.task != "classify") == ("References" in pages[-1].read_text())
    assert (recipe.task == "classify") == ("probability 0." in pages[-1].read_text())
