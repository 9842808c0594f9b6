"""Fine-tuning of vision-language models, which learn captions as their answers to a prompt."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import captax
from captax.checkpoints.state import export, parameters, rebuilder
from captax.pipelines.vision_language import VIEWS, VisionLanguageCaptioner
from captax.training.encoder_inputs import Asked
from captax.training.loop import train
from captax.training.lora import LORA_PATTERN
from captax.training.recipe import Recipe, RecipeError
from captax.training.tasks import make_task
from captax.training.watch import Log, read_log
from vision_language_files import write

LORA = {"rank": 4, "alpha": 8, "targets": [r"decoder\..*(query|key|value|out)\.kernel"]}
STAGE = {"name": "lora", "epochs": 2, "lr": 0.02, "trainable": [LORA_PATTERN, "connector"]}


@pytest.fixture(scope="module")
def root(dataset: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = dataset(tmp_path_factory.mktemp("data"))
    for name in ("smolvlm", "paligemma", "florence2", "qwen2.5-vl"):
        write(name, root / name)
    return root


@pytest.fixture
def recipe(root: Path) -> Callable[..., Recipe]:
    """`recipe(name, model={...}, stage={...})`: a small one, with other fields of these."""

    def make(name: str, *, model: Any = None, stage: Any = None, **fields: Any) -> Recipe:
        return Recipe.model_validate(
            {
                "name": "tiny",
                "data": {
                    "root": root,
                    "train": [{"path": "shapes", "split": "train"}],
                    "dev": [{"path": "shapes", "split": "dev"}],
                    "max_tokens": 10,
                    "row_tokens": 18,
                },
                "model": {"checkpoint": str(root / name), "lora": LORA, **(model or {})},
                "stages": [{**STAGE, **(stage or {})}],
                "optimizer": {"batch_size": 4},
                "evaluation": {
                    "num_beams": 1,
                    "max_new_tokens": 4,
                    "batch_size": 2,
                    "samples": 1,
                    "metric": "loss",
                    "limit": 2,
                },
                **fields,
            }
        )

    return make


def batch_of(task: Any, *chosen: int) -> Any:
    places = np.array(chosen)
    return task.batch(places, np.zeros_like(places))


def logits_of(task: Any, batch: Any) -> Any:
    rebuild = rebuilder(task.model)

    @jax.jit
    def read(weights: Any, batch: Any) -> Any:
        model = rebuild(weights)
        return task.read(model, task.features(model, batch.given), batch)

    return read(parameters(task.model), batch)


def test_batches_hold_bytes_prompts_and_packed_captions(recipe: Callable[..., Recipe]) -> None:
    task = make_task(recipe("smolvlm", model={"prompt": "look red"}))
    batch = batch_of(task, 0, 3)
    given = batch.given
    assert isinstance(given, Asked)
    # 3 x 3 tiles and the whole view, filled up to one of a few numbers of views.
    assert given.pictures.shape == (2, VIEWS[3], 32, 32, 3) and given.pictures.dtype == np.uint8
    subject: VisionLanguageCaptioner = task.subject
    shown = subject.largest
    assert shown.grids == ((3, 3),)
    whole = subject.asking("look red")(shown)
    assert whole != subject.asking("look")(shown)
    assert given.prompt.tokens[0, : given.prompt.lengths[0]].tolist() == whole
    assert (batch.segments.max(1) == 2).all()  # both captions of each picture
    # Nothing of the prompt is learned.
    said = subject.tokenizer.encode_plain(["red", "look", "User:"])
    learned = set(batch.targets[batch.segments > 0].tolist())
    assert said[0][0] in learned and not learned & {
        said[1][0],
        said[2][0],
        subject.model.config.image_token_id,
    }
    alone = make_task(recipe("smolvlm", model={"tiles": False}))
    assert batch_of(alone, 0, 3).given.pictures.shape == (2, 1, 32, 32, 3)
    assert not alone.subject.processor.split


def test_pictures_take_the_prompts_by_turns(recipe: Callable[..., Recipe]) -> None:
    task = make_task(recipe("qwen2.5-vl", model={"prompt": ["look", "a red"], "max_pixels": 2048}))
    look, red = (task.subject.tokenizer.encode_plain([word])[0][0] for word in ("look", "red"))
    assert task.subject.processor.max_pixels == 2048
    places, asked = np.arange(4), []
    for visit in range(2):
        prompts = task.batch(places, places * 0 + visit).given.prompt.tokens
        asked.append([red in row for row in prompts.tolist()])
        assert [look in row for row in prompts.tolist()] == [not each for each in asked[-1]]
    assert asked == [[False, True, False, True], [True, False, True, False]]
    assert not any(red in row for row in task.dev_batch(places[:2]).given.prompt.tokens.tolist())


@pytest.mark.slow
def test_a_packed_batch_is_each_picture_and_caption_alone(recipe: Callable[..., Recipe]) -> None:
    tiles = make_task(recipe("smolvlm"))
    together = logits_of(tiles, batch := batch_of(tiles, 0, 3, 5))
    alone = logits_of(tiles, batch_of(tiles, 3))
    np.testing.assert_allclose(together[1:2], alone, atol=1e-4)
    score = tiles.loss(tiles.model, jax.tree.map(jax.numpy.asarray, batch))
    assert int(score.weight) == int((batch.segments > 0).sum())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smolvlm", "paligemma", "florence2", "qwen2.5-vl"])
def test_lora_learns_and_what_it_saves_answers(
    name: str, recipe: Callable[..., Recipe], root: Path, tmp_path: Path
) -> None:
    asked = recipe(
        name,
        model={"prompt": "look"},
        stage={"epochs": 8},
        optimizer={"batch_size": 4, "precision": "bfloat16" if name == "smolvlm" else "float32"},
        evaluation={
            "num_beams": 1,
            "max_new_tokens": 4,
            "batch_size": 2,
            "epochs": 4,
            "metric": "loss",
        },
    )
    best = train(asked, tmp_path / "run")
    losses = [
        record["loss"] for record in read_log(tmp_path / "run" / "log.jsonl") if "loss" in record
    ]
    assert np.mean(losses[-2:]) < 0.7 * np.mean(losses[:2])
    captioner = captax.load(best)
    assert isinstance(captioner, VisionLanguageCaptioner)
    pictures = sorted((root / "shapes" / "images").iterdir())[:2]
    found = captioner.caption(pictures, prompt="look")
    assert len(found) == 2 and captioner.generation.max_new_tokens == 4
    assert 'prompt="look")' in (best / "README.md").read_text()
    # Only what was trained has changed.
    before, after = parameters(captax.load(root / name).model), parameters(captioner.model)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed and all(each.startswith("connector") or "attention." in each for each in changed)
    assert any(each.startswith("connector") for each in changed)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["smolvlm", "paligemma"])
def test_transformers_loads_what_is_saved(
    name: str, recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    best = train(recipe(name, stage={"epochs": 1, "max_steps": 1}), tmp_path / "run")
    kind = transformers.AutoModelForImageTextToText
    model, info = kind.from_pretrained(best, output_loading_info=True)
    assert not any(info.values()), info
    ours = parameters(captax.load(best).model)["connector.proj.kernel"]
    [theirs] = [
        value.detach().numpy()
        for name, value in model.named_parameters()
        if ("modality_projection" in name or "multi_modal_projector" in name) and value.ndim == 2
    ]
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parity
def test_the_loss_of_florence2_is_that_of_labels(recipe: Callable[..., Recipe], root: Path) -> None:
    """And so are its gradients: the encoder reads the question once for both captions."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    task = make_task(recipe("florence2", model={"prompt": "look red", "lora": None}))
    batch = jax.tree.map(jax.numpy.asarray, batch_of(task, 0, 3))
    assert (batch.segments.max(1) == 2).all()
    rebuild = rebuilder(task.model)

    @jax.jit
    @jax.value_and_grad
    def loss_of(weights: Any) -> Any:
        losses = task.loss(rebuild(weights), batch)
        return losses.total / losses.weight

    value, gradient = loss_of(parameters(task.model))

    theirs = transformers.AutoModelForImageTextToText.from_pretrained(
        root / "florence2", attn_implementation="eager", dtype=torch.float32
    ).eval()
    asked: Any = task.subject.asking("look red")((0, 0))
    total, count = torch.zeros(()), 0
    for place in (0, 3):
        shown = task.subject.prepare(task.train[place].image)
        pixels = task.subject.processor.normalize(shown.views).transpose(0, 3, 1, 2)
        for caption in task.texts[place]:
            labels = torch.tensor([caption[1:]])  # they put the start before
            loss = theirs(
                input_ids=torch.tensor([asked.question]),
                pixel_values=torch.from_numpy(pixels),
                labels=labels,
            ).loss
            total, count = total + loss * labels.shape[1], count + labels.shape[1]
    (total / count).backward()
    np.testing.assert_allclose(value, (total / count).item(), rtol=1e-5)
    layout = task.model.config.layout()
    want = {layout.canonical(name): value.grad for name, value in theirs.named_parameters()}
    got = export(rebuild(gradient), layout)
    largest = max(float(abs(each).max()) for each in want.values())
    assert want.keys() <= got.keys()
    pad = theirs.config.text_config.pad_token_id
    for name, there in want.items():
        here = np.array(got[name])
        if name.endswith("shared.weight"):
            here[pad] = 0  # PyTorch never learns how the token that fills rows is read
        np.testing.assert_allclose(here, there, atol=1e-4 * largest, err_msg=name)


class Killed(BaseException):
    pass


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_had_been(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = recipe("smolvlm", save_every=1, augment={"crop_scale": [0.5, 1.0]})
    train(asked, tmp_path / "whole")

    wrote = Log.write

    def dying(self: Log, **record: Any) -> None:
        if record["step"] == 3 and "loss" in record:
            raise Killed
        wrote(self, **record)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "write", dying)
        with pytest.raises(Killed):
            train(asked, tmp_path / "killed")
    train(asked, tmp_path / "killed")

    def records(out: Path) -> list[dict[str, Any]]:
        lines = (out / "log.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(x).items() if k != "seconds"} for x in lines]

    assert records(tmp_path / "killed") == records(tmp_path / "whole")
    for name in ("model.safetensors", "preprocessor_config.json", "tokenizer.json"):
        ours, theirs = (
            (tmp_path / run / "best" / name).read_bytes() for run in ("killed", "whole")
        )
        assert ours == theirs


@pytest.mark.slow
def test_features_of_single_views_are_kept(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    """The losses are those of fresh pictures, to half precision."""
    found = []
    for name, views in (("fresh", None), ("kept", 1)):
        stage = {"epochs": 1, "views": views}
        train(recipe("smolvlm", model={"tiles": False}, stage=stage), tmp_path / name)
        log = read_log(tmp_path / name / "log.jsonl")
        found.append([record["loss"] for record in log if "loss" in record])
    assert (tmp_path / "features").is_dir()
    np.testing.assert_allclose(*found, rtol=2e-3)


@pytest.mark.slow
def test_self_critical_training_asks_too(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    stage = {"epochs": 1, "self_critical": {"samples": 2}}
    train(recipe("smolvlm", model={"tiles": False}, stage=stage), tmp_path / "run")
    log = read_log(tmp_path / "run" / "log.jsonl")
    assert all(np.isfinite(record["reward"]) for record in log if "loss" in record)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stage": {"views": 2}}, "the features of pictures are not kept for a model that sees"),
        ({"model": {"add_words": True}}, "model.add_words is for models with a word vocabulary"),
        ({"model": {"prompt": "a <image>"}}, "meaning of its own"),
        ({"model": {"prompt": ["look", "a <image>"]}}, "meaning of its own"),
        ({"model": {"max_pixels": 2048}}, "model.max_pixels is for models that see pictures at"),
        ({"data": {"max_tokens": 500}}, r"reads 512 tokens, \d+ of them for the prompt; give at"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_it_begins(
    fields: dict[str, Any], message: str, recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    given = dict(fields)
    if "data" in given:
        given["data"] = {**recipe("smolvlm").data.model_dump(), "row_tokens": None, **given["data"]}
    with pytest.raises(captax.CaptaxError, match=message):
        train(recipe("smolvlm", **given), tmp_path / "run")


def test_other_captioners_are_not_asked(
    recipe: Callable[..., Recipe], tiny_captioner: Any, root: Path, tmp_path: Path
) -> None:
    tiny_captioner.save(root / "captioner")
    for change in ({"prompt": "look"}, {"tiles": False}, {"max_pixels": 4096}):
        with pytest.raises(RecipeError, match="is for vision-language models"):
            train(recipe("captioner", model=change), tmp_path / "run")
