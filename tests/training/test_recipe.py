"""Recipes: what is read, what may be set, and how mistakes are told."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from captax.data import take_rows
from captax.training.recipe import (
    Optimizer,
    Recipe,
    RecipeError,
    Source,
    Stage,
    load_recipe,
    recipe_names,
)

RECIPE = """
name: small
data:
  root: pictures
  train: [{path: ours, split: train}, {path: others}]
  dev: [{path: ours, split: dev}]
stages:
  - {name: decoder, epochs: 1, lr: 1.0e-3, trainable: [decoder]}
  - {name: all, epochs: 2, lr: 1.0e-4, lr_scale: {encoder: 0.1}}
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / "small.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def error_of(name: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(name, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_that_come_with_captax_need_only_the_data(name: str, tmp_path: Path) -> None:
    assert "data.root is missing" in error_of(name)
    recipe = load_recipe(name, [f"data.root={tmp_path}"])
    assert recipe.name == name and recipe.data.root == tmp_path


def test_a_recipe_written_out_is_the_same_recipe(write: Callable[[str], str]) -> None:
    overrides = ["model.encoder.weights=lite2.pth", "augment.crop_scale=[0.5, 1.0]"]
    recipe = load_recipe(write(RECIPE), overrides)
    assert recipe.stages[1].lr_scale == {"encoder": 0.1}
    assert load_recipe(write(recipe.to_yaml())) == recipe


def test_any_field_can_be_set(write: Callable[[str], str]) -> None:
    recipe = load_recipe(
        write(RECIPE),
        [
            "seed=7",
            "optimizer.label_smoothing=0",  # a section the file does not have
            "stages.1.lr=3e-4",
            "data.train.0.path=mine",
            "stages.0.trainable=[decoder, 'encoder\\.head']",
            "stages.0.lr_scale.encoder=0.5",
            "description=a = b",
        ],
    )
    assert recipe.seed == 7 and recipe.optimizer.label_smoothing == 0
    assert recipe.stages[1].lr == 3e-4 and recipe.stages[0].lr == 1e-3
    assert recipe.data.train[0].path == "mine" and recipe.data.train[0].split == "train"
    assert recipe.stages[0].trainable == ("decoder", r"encoder\.head")
    assert recipe.stages[0].lr_scale == {"encoder": 0.5}
    assert recipe.description == "a = b"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "stages.2.lr=1",
            "--set stages.2.lr=1: there is no stages.2.lr to set; stages has 2 entries; use",
        ),
        (
            "stages.first.lr=1",
            "there is no stages.first.lr to set; stages has 2 entries; use stages.0 or stages.1",
        ),
        ("name.first=1", "there is no name.first to set; name has no parts; set name itself"),
        ("seed", "give it the form key.path=value"),
        ("seed=[1", "'[1' is not a YAML value; put quotes around it"),
        ("sed=1", "sed: unknown key; did you mean seed?"),
        ("optimizer.bath_size=1", "optimizer.bath_size: unknown key; did you mean batch_size?"),
        (
            "stages.1.learning=1",
            "stages.1.learning: unknown key; choose from name, epochs, max_steps, lr,",
        ),
        ("data.dev.0.spilt=dev", "data.dev.0.spilt: unknown key; did you mean split?"),
        ("model.decoder.witdh=1", "model.decoder.witdh: unknown key; did you mean width?"),
        ("optimizer.batch_size=0", "optimizer.batch_size: .*greater than 0.*got 0"),
        ("optimizer.batch_size=many", "optimizer.batch_size: .*integer.*got 'many'"),
        ("optimizer.label_smoothing=1", "optimizer.label_smoothing: .*less than 1.*got 1"),
        ("stages=[]", "stages: .*at least 1"),
        ("stages.0.lr=-1", "stages.0.lr: .*greater than 0"),
        ("stages.0.trainable=['(']", "stages.0.trainable: '(' is not a regular expression"),
        ("data.dev.0.split=all", "data.dev.0.split: .*'validation' or 'test'.*got 'all'"),
        ("model.decoder.heads=7", "model.decoder: width 384 is not a multiple of heads 7"),
        (
            "model.encoder.size=5",
            "model.encoder.size: unknown key; choose from checkpoint, weights",
        ),
        ("model.encoder.image_size=0", "model.encoder.image_size: .*greater than 0"),
        (
            "model={checkpoint: x, decoder: {layers: 2}}",
            "model: model.checkpoint decides decoder; leave it out",
        ),
        ("data.row_tokens=22", "data: row_tokens is 22, but a caption of max_tokens 24 takes 23"),
        (
            "model.decoder={checkpoint: gpt2, layers: 2}",
            "decoder.checkpoint decides layers; leave it out",
        ),
        ("model.lora.rank=0", "model.lora.rank: .*greater than 0"),
        ("model.lora.targets=['[']", "model.lora.targets: '[' is not a regular expression"),
        ("data.train.0.rows='-300'", "data.train.0.rows: .*match pattern"),
        ("data.train.0.rows='-:3'", "data.train.0.rows: .*match pattern"),
        ("data.captions=two", "data.captions: .*'all', 'one', 'first' or 'longest'"),
        ("optimizer.name=adagrad", "optimizer.name: .*'adamw'.*got 'adagrad'"),
        (
            "optimizer.accumulation=2",
            "optimizer: batch_size 25 is not a multiple of accumulation 2",
        ),
        ("optimizer.precision=int8", "optimizer.precision: .*'float32', 'bfloat16' or 'float16'"),
        ("optimizer.ema_decay=1", "optimizer.ema_decay: .*less than 1"),
        ("stages.0.schedule=step", "stages.0.schedule: .*'cosine', 'linear' or 'constant'"),
        ("stages.0.lr_scale={'(': 1}", "stages.0.lr_scale: '(' is not a regular expression"),
        ("stages.0.self_critical.samples=1", "stages.0.self_critical.samples: .*or equal to 2"),
        ("mesh.fsdp=0", "mesh.fsdp: .*greater than 0"),
        ("keep=0", "keep: .*greater than 0"),
        ("data.max_tokens=1", "data.max_tokens: .*greater than or equal to 2"),
        (
            "model.decoder.max_positions=9",
            ": data.max_tokens is 24, .*max_positions .9.; raise that or lower this$",
        ),
        ("evaluation.max_new_tokens=65", "evaluation.max_new_tokens is 65, more than"),
        (
            "evaluation={min_new_tokens: 9, max_new_tokens: 8}",
            "evaluation: min_new_tokens is 9, more than max_new_tokens (8); lower it",
        ),
        (
            "model={encoder: {grid: [14, 14]}, decoder: {checkpoint: gpt2}}",
            "model: encoder.grid is for a new decoder or head; leave it out",
        ),
        (
            "model={encoder: {dropout: 0.1}, decoder: {checkpoint: gpt2}}",
            "model: encoder.dropout is for a new decoder or head; leave it out",
        ),
        ("model.encoder.grid=[14]", "model.encoder.grid"),
        ("base=finetune", "base: unknown key"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_what_would_be_right(
    write: Callable[[str], str], override: str, message: str
) -> None:
    said = error_of(write(RECIPE), override)
    assert re.search(message if "*" in message else re.escape(message), said), said


def test_a_variant_states_its_difference_from_its_base(
    write: Callable[[str], str], tmp_path: Path
) -> None:
    write(RECIPE)
    variant = tmp_path / "variant.yaml"
    variant.write_text(
        "name: variant\nbase: small.yaml\noptimizer: {batch_size: 7}\n"
        "data: {captions: first, dev: [{path: mine}]}\nmodel: {encoder: {image_size: 64}}\n"
    )
    found = load_recipe(str(variant), ["data.max_tokens=9"])
    base = load_recipe(str(tmp_path / "small.yaml"))
    assert found.name == "variant" and found.stages == base.stages
    assert found.data.train == base.data.train and found.data.root == base.data.root
    assert [source.path for source in found.data.dev] == ["mine"]  # a list is replaced whole
    assert (found.data.captions, found.data.max_tokens) == ("first", 9)
    assert found.optimizer == Optimizer(batch_size=7)
    assert found.model.encoder.image_size == 64
    # Written out, it is whole: a run does not change when its base does.
    written = write(found.to_yaml())
    assert "base" not in Path(written).read_text() and load_recipe(written) == found


def test_a_variant_of_a_variant_and_of_a_recipe_by_name(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "folder" / "two.yaml"
    two.parent.mkdir()
    one.write_text("name: one\nbase: food101-vit\noptimizer: {momentum: 0.5}\n")
    two.write_text("name: two\nbase: ../one.yaml\noptimizer: {batch_size: 2}\n")
    found = load_recipe(str(two), ["data.root=."])
    assert found.task == "classify" and found.optimizer.name == "sgd"
    assert (found.optimizer.momentum, found.optimizer.batch_size) == (0.5, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: small\nbase: small.yaml", "its base leads back to itself (small.yaml -> "),
        ("name: small\nbase: sub/../small.yaml", "its base leads back to itself (small.yaml -> "),
        ("name: small\nbase: link.yaml", "its base leads back to itself (small.yaml -> "),
        (
            "name: small\nbase: absent.yaml",
            "base of small.yaml: absent.yaml: there is no such recipe file; give",
        ),
        (f"name: small\nbase: {'a' * 300}.yaml", "aaa.yaml: there is no such recipe file; give"),
        (
            "name: small\nbase: absent",
            "base of small.yaml: there is no recipe 'absent'; give a .yaml file or one of",
        ),
        ("name: small\nbase: [finetune]", "base is ['finetune']; give the name of a recipe"),
        ("base: finetune", "name is missing; write it in the recipe"),  # it is not its base's
    ],
)
def test_a_base_that_cannot_be_is_refused(
    write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.chdir(folder := Path(write(text)).parent)
    (folder / "sub").mkdir()
    (folder / "link.yaml").symlink_to("small.yaml")
    assert message in error_of("small.yaml", "data.root=.")


@pytest.mark.parametrize(
    ("task", "stage", "message"),
    [
        (
            "classify",
            "self_critical={samples: 2}",
            "self_critical trains captioners only, and task is classify;",
        ),
        ("rewrite", "views=2", "views are kept of pictures only, and task is rewrite"),
    ],
)
def test_what_a_task_cannot_do_is_refused(
    write: Callable[[str], str], task: str, stage: str, message: str
) -> None:
    said = error_of(write(RECIPE), f"task={task}", f"stages.0.{stage}")
    assert message in said


def test_no_features_are_kept_of_norms_that_change(write: Callable[[str], str]) -> None:
    said = error_of(write(RECIPE), "optimizer.update_statistics=true", "stages.0.views=1")
    assert "views are kept of frozen parts, and optimizer.update_statistics changes" in said


@pytest.mark.parametrize(
    ("rows", "left"),
    [(None, [0, 1, 2, 3]), (":-1", [0, 1, 2]), ("-1:", [3]), ("1:3", [1, 2]), (":", [0, 1, 2, 3])],
)
def test_rows_are_slices(rows: str | None, left: list[int]) -> None:
    assert take_rows([0, 1, 2, 3], Source(path="x", rows=rows).rows) == left


def test_every_mistake_is_told_at_once(write: Callable[[str], str]) -> None:
    said = error_of(write(RECIPE), "sed=1", "stages.0.lr=fast", "data.root=null")
    assert said.startswith("recipe ") and "small.yaml: " in said
    assert all(part in said for part in ("sed: unknown", "stages.0.lr: ", "data.root is missing"))


@pytest.mark.parametrize("text", ["a: [1", "\tname: x", "just words", "- 1", "", "name: \x00"])
def test_what_is_not_a_recipe_is_refused(write: Callable[[str], str], text: str) -> None:
    said = error_of(write(text))
    assert "small.yaml: this is not YAML: " in said or "small.yaml: a recipe has keys and" in said


def test_recipes_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    assert "no such recipe file" in error_of(str(tmp_path / "nowhere.yaml"))
    said = error_of("captax-light")
    assert "no recipe 'captax-light'" in said and "captax-lite" in said
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    assert "latin.yaml: " in error_of(str(tmp_path / "latin.yaml"))


@pytest.mark.parametrize("room", ["training.recipe", "data"])
def test_recipes_and_data_are_read_without_jax(room: str) -> None:
    """Which takes a second, and is not needed to tell a mistake, nor in workers that read data."""
    said = f"import sys, captax.{room}; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", said]).returncode == 0


def test_a_former_name_of_the_built_in_captioner_names_its_recipe() -> None:
    data = ["data.root=."]
    assert load_recipe("flickr8k-lite", data) == load_recipe("captax-lite", data)


def test_a_default_changes_nothing_that_was_set(write: Callable[[str], str]) -> None:
    """A written recipe holds every field: a later default cannot change what a run was."""
    fields = yaml.safe_load(load_recipe(write(RECIPE)).to_yaml())
    assert fields.keys() == Recipe.model_fields.keys()
    assert fields["optimizer"]["beta2"] == 0.98


@pytest.mark.parametrize(
    "text",
    [
        "name: 2020-99-99",  # a date to PyYAML, and to Python a ValueError
        "name: !!int ''",
        "name: !!bool maybe",
        "name: !!timestamp soon",
        "seed: 1" + "0" * 5000,
        "[" * 2000,
        "name: \x00",
    ],
)
def test_what_yaml_cannot_say_is_told(write: Callable[[str], str], text: str) -> None:
    path = write(text)
    assert error_of(path).startswith(f"{path}: this is not YAML: ")


def test_yaml_that_stands_for_more_than_fits_in_memory(write: Callable[[str], str]) -> None:
    bomb = "x0: &x0 [a]\n"
    bomb += "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 30))
    for text in (bomb, "name: &a [*a]", "data: &a {train: *a}"):
        assert "more than 100,000 values" in error_of(write(text))
    recipe = write(RECIPE)
    assert "is not a YAML value" in error_of(recipe, "data.classes=&a [*a]")
    # To name a part twice is what this is for.
    shared = RECIPE.replace("dev: [", "dev: [&s ").replace("}]\nstages", "}, *s]\nstages")
    assert len(load_recipe(write(shared)).data.dev) == 2


@pytest.mark.parametrize("pattern", ["a{99999999999}", "(" * 2000, "[", "(?P<a"])
def test_patterns_that_are_none(write: Callable[[str], str], pattern: str) -> None:
    assert "is not a regular expression" in error_of(
        write(RECIPE), f"stages.0.trainable=['{pattern}']"
    )


def test_a_stage_may_have_its_own_average_and_decay() -> None:
    stages = [{"name": "a", "epochs": 1, "lr": 1}, {"name": "b", "epochs": 1, "lr": 1}]
    stages[1] |= {"ema_decay": 0.5, "weight_decay": 0.0}
    options = Optimizer(ema_decay=0.9, weight_decay=0.1, batch_size=7)
    first, second = (options.of(Stage.model_validate(stage)) for stage in stages)
    assert first == options
    assert second == options.model_copy(update={"ema_decay": 0.5, "weight_decay": 0.0})
