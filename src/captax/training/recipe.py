"""Recipes: everything a training run depends on, read from YAML and checked before it starts."""

import difflib
import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pydantic
import regex
import yaml
from pydantic import Field, NonNegativeFloat, PositiveFloat
from pydantic_core import PydanticKnownError

from captax.checkpoints.names import BUILT_IN, FORMER_NAMES
from captax.data.splits import ROWS
from captax.errors import CaptaxError, plain, plural, quoted
from captax.files import CONFIG_LIMIT, is_file, read_text
from captax.hub import is_dataset


class RecipeError(CaptaxError):
    """A recipe does not exist, or its values are not allowed."""


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Fraction = Annotated[float, Field(ge=0, lt=1)]
# What counts epochs, steps and examples, and what sizes arrays. The bounds are far beyond any use;
# without them one number asks for all memory, or overflows a 32-bit integer hours later.
PositiveInt = Annotated[int, Field(gt=0, le=2**30)]
NonNegativeInt = Annotated[int, Field(ge=0, le=2**30)]
Size = Annotated[int, Field(gt=0, le=2**16)]
Side = Annotated[int, Field(gt=0, le=1024)]  # of a grid
_MOST_VALUES = 100_000  # a recipe has a hundred, or the names of all its classes
_LONGEST = 1_000_000  # characters of a recipe
_LONGEST_PATTERN, _MOST_REPEATS = 10_000, 10_000  # the latter is what {n} and {n}{m} ask for
_PATIENCE = 1.0  # seconds that a pattern may take for a name


def _changed(section: pydantic.BaseModel) -> set[str]:
    """Names of the fields that differ from their defaults; a run's own recipe sets all fields."""
    fields = type(section).model_fields
    return {name for name, field in fields.items() if getattr(section, name) != field.default}


def _compiled(patterns: Any) -> Any:
    for pattern in patterns or ():
        if not isinstance(pattern, str):
            continue  # pydantic says so
        counts = [int(count) for count in re.findall(r"\{(?:\d*,)?(\d{1,9})", pattern)]
        if len(pattern) > _LONGEST_PATTERN or math.prod(counts) > _MOST_REPEATS:
            raise ValueError(
                f"{quoted(pattern)} is not a regular expression for names: it is too long or "
                "repeats too often"
            )
        try:
            regex.compile(pattern)
        except (regex.error, OverflowError, RecursionError, MemoryError) as error:
            raise ValueError(f"{quoted(pattern)} is not a regular expression: {error}") from None
    return patterns


def matches(patterns: Iterable[str], name: str, *, whole: bool = False) -> bool:
    """Whether one of the patterns matches the beginning of a parameter's name, or the `whole` name.

    Raises `RecipeError` when a pattern takes too long, as `(a+)+x` does.
    """
    for pattern in patterns:
        compiled = regex.compile(pattern)
        try:
            if (compiled.fullmatch if whole else compiled.match)(name, timeout=_PATIENCE):
                return True
        except TimeoutError:
            raise RecipeError(
                f"the pattern {quoted(pattern)} takes too long to match {name}; write it without a "
                "repeated group that is repeated again"
            ) from None
    return False


class Source(_Section):
    """A dataset, and which part of it: a split, or rows as Python slices them (`":-300"`).

    `path` is a folder or a file, or `hf://owner/name` for a dataset of the Hugging Face hub.

    An epoch takes each training example `weight` times: with 2.5 it takes all twice, and every
    second one, drawn anew in each epoch, a third time.
    """

    path: str
    split: Literal["train", "dev", "val", "validation", "test"] | None = None
    rows: str | None = Field(None, pattern=ROWS)
    weight: float = Field(1.0, gt=0, le=1000)


class Data(_Section):
    """The training and dev data; the `path` of a source on this machine is relative to `root`.

    `captions` says which captions of a picture an epoch trains on: `all`, one at random (`one`),
    the `first` or the `longest`. For a classifier, `classes` is a list of classes, or a number to
    keep only the first ones.
    """

    train: tuple[Source, ...] = Field(min_length=1)
    dev: tuple[Source, ...] = Field(min_length=1)
    root: Annotated[Path, pydantic.AfterValidator(Path.absolute)] | None = Field(
        None, validate_default=True, description="required unless all sources are on the hub"
    )
    captions: Literal["all", "one", "first", "longest"] = "all"
    min_count: PositiveInt = 5
    max_tokens: int = Field(
        24,
        ge=2,
        le=2**16,
        description="the most tokens that a caption may have, start and eos included",
    )
    row_tokens: Size | None = Field(
        None,
        description="places for all captions of a picture; by default max_tokens - 1",
    )
    max_source_tokens: PositiveInt = Field(512, description="the most tokens of a source text")
    classes: PositiveInt | tuple[str, ...] | None = None

    @pydantic.field_validator("root")
    @classmethod
    def _is_there_for_paths(cls, root: Path | None, info: Any) -> Path | None:
        sources = (*info.data.get("train", ()), *info.data.get("dev", ()))
        if root is None and not all(is_dataset(source.path) for source in sources):
            raise PydanticKnownError("missing")
        return root

    def place(self, source: Source) -> str | Path:
        """Where a source is: a path, or the name of a dataset of the hub."""
        if self.root is None or is_dataset(source.path):
            return source.path
        return self.root / source.path

    @pydantic.model_validator(mode="after")
    def _a_caption_fits_its_row(self) -> "Data":
        if self.row_tokens and self.row_tokens < self.max_tokens - 1:
            raise ValueError(
                f"row_tokens is {self.row_tokens}, but a caption of max_tokens {self.max_tokens} "
                f"takes {self.max_tokens - 1} places; raise row_tokens or lower max_tokens"
            )
        return self


class Encoder(_Section):
    """A pretrained encoder, by its checkpoint: a directory, or a name on the hub.

    `efficientnet-lite0` to `4` are read from PyTorch's files: `weights`, or the files of the
    installed package. `image_size` resizes pictures to a square of another size, which changes the
    grid of visual tokens. `grid` (rows, columns) stretches a convolutional network's grid for a new
    decoder, as PyTorch's adaptive average pooling does. `dropout` replaces the checkpoint's rate.
    """

    checkpoint: str = "efficientnet-lite2"
    weights: Path | None = None
    image_size: Annotated[int, Field(gt=0, le=4096)] | None = None
    grid: tuple[Side, Side] | None = None
    dropout: Fraction | None = None


class Decoder(_Section):
    """A pretrained decoder by its checkpoint, or a new one.

    A new decoder can read `hints`: the names of that many of the encoder's likeliest classes. The
    encoder must be an EfficientNet-Lite, which comes with a classifier of ImageNet's classes. Its
    layers normalise their inputs (`order: pre`), or the sums after them, as the first transformers
    did (`post`). Without `tie_word_embeddings` its output layer has weights of its own.
    """

    checkpoint: str | None = None
    width: Size = 384
    layers: Annotated[int, Field(gt=0, le=1000)] = 3
    heads: Size = 6
    mlp_width: Size = 1536
    max_positions: Size = 64
    dropout: Fraction = 0.1
    order: Literal["pre", "post"] = "pre"
    tie_word_embeddings: bool = True
    hints: Annotated[int, Field(ge=0, le=1000)] = 0

    @pydantic.model_validator(mode="after")
    def _new_or_not(self) -> "Decoder":
        if self.width % self.heads:
            raise ValueError(
                f"width {self.width} is not a multiple of heads {self.heads}; change one of them"
            )
        if self.checkpoint and (given := _changed(self) - {"checkpoint"}):
            raise ValueError(f"decoder.checkpoint decides {', '.join(sorted(given))}; leave it out")
        return self


class Lora(_Section):
    """Low-rank changes of frozen kernels (https://arxiv.org/abs/2106.09685), merged at saving.

    A kernel whose name matches one of `targets` gets `alpha / rank` times a product of two
    matrices of that rank.
    """

    rank: Size = 8
    alpha: PositiveFloat = 16.0
    targets: tuple[str, ...] = (r".*(query|value)\.kernel",)

    _patterns_compile = pydantic.field_validator("targets")(_compiled)


class Model(_Section):
    """What is trained: a whole checkpoint, or an encoder and a decoder that are joined.

    `checkpoint` is a directory, a name on the hub or `default`, the built-in captioner. For a new
    decoder, `tokenizer` is `words` (a vocabulary of the captions' words) or the checkpoint whose
    tokenizer is used. `add_words` adds missing words to a checkpoint that has a word vocabulary.

    For a vision-language model, captions are its answers to `prompt`, by default that of its
    family. Of several, each picture takes one after the other, epoch by epoch, and the first one is
    asked in evaluation. Without `tiles` it sees every picture as a single view. `max_pixels` is for
    models that see pictures at their own size: larger pictures are resized to as many.
    """

    checkpoint: str | None = None
    encoder: Encoder = Encoder()
    decoder: Decoder = Decoder()
    tokenizer: str = "words"
    add_words: bool = False
    prompt: str | Annotated[tuple[str, ...], Field(min_length=1, max_length=1000)] | None = None
    tiles: bool = True
    max_pixels: PositiveInt | None = None
    lora: Lora | None = None

    @pydantic.model_validator(mode="after")
    def _one_source(self) -> "Model":
        halves = _changed(self) & {"encoder", "decoder", "tokenizer"}
        if self.checkpoint and halves:
            raise ValueError(
                f"model.checkpoint decides {', '.join(sorted(halves))}; leave it out, or replace "
                f"the recipe's whole model by --set 'model={{checkpoint: {self.checkpoint}}}'"
            )
        if self.decoder.checkpoint:
            for name in ("grid", "dropout"):
                if getattr(self.encoder, name) is not None:
                    raise ValueError(f"encoder.{name} is for a new decoder or head; leave it out")
        return self

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts, the empty one for that of the family."""
        return (self.prompt or "",) if isinstance(self.prompt, str | None) else self.prompt


class AugmentOptions(_Section):
    """Random changes of training pictures."""

    crop_scale: tuple[PositiveFloat, PositiveFloat] | None = None
    flip: bool = False
    jitter: Fraction = 0.0


class SelfCritical(_Section):
    """Training towards the score of sampled captions (https://arxiv.org/abs/1612.00563).

    `samples` captions of each picture are drawn at `temperature`. The reward of a caption is its
    CIDEr-D plus `bleu` times its BLEU-4. Captions become more likely if their reward is above the
    `baseline`: the mean reward of the picture's other samples
    (https://openreview.net/forum?id=r1lgTGL5DE), or the reward of the greedy caption.
    """

    samples: int = Field(5, ge=2, le=1000)
    temperature: PositiveFloat = 1.0
    bleu: NonNegativeFloat = 0.0
    baseline: Literal["others", "greedy"] = "others"


class Stage(_Section):
    """Some epochs of training, with a learning rate schedule of their own.

    `trainable` and the keys of `lr_scale` are regular expressions that are matched from the start
    of a parameter's name, such as `decoder.layers.0.mlp.up.kernel`. By default all parameters are
    trained, or with LoRA only its matrices. With `views`, the output of the encoder's frozen parts
    is computed once for that many augmented views of each picture and kept on disk; otherwise
    pictures are decoded and augmented anew in every epoch. `max_steps` ends a stage before its
    epochs are over. `ema_decay` and `weight_decay` replace the optimiser's in this stage.
    """

    name: str
    epochs: PositiveInt
    max_steps: PositiveInt | None = None
    lr: PositiveFloat
    warmup_steps: NonNegativeInt = 0
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    trainable: tuple[str, ...] | None = None
    lr_scale: Annotated[
        dict[str, PositiveFloat], pydantic.BeforeValidator(lambda given: given or {})
    ] = {}
    views: PositiveInt | None = None
    self_critical: SelfCritical | None = None
    ema_decay: Fraction | None = None
    weight_decay: NonNegativeFloat | None = None

    _patterns_compile = pydantic.field_validator("trainable", "lr_scale")(_compiled)


class Optimizer(_Section):
    """An optimiser of optax by its name; weight decay leaves biases, norms and embeddings alone.

    A step learns from `batch_size` examples, which are computed in `accumulation` parts, one after
    the other. `keep_classes` weights a further loss of captioners whose decoder reads hints: the
    divergence of the encoder's classes from those it had before training
    (https://arxiv.org/abs/1503.02531). With `ema_decay`, a moving average of the weights is
    evaluated and kept. `precision` is the precision of matrix products; everything else stays
    float32. With float16 the loss is scaled, and a step whose gradients overflow is left out
    (https://arxiv.org/abs/1710.03740). With `update_statistics`, batch norms use the mean and
    variance of each batch and average them for later, as PyTorch's do in training mode; otherwise
    they keep those of the checkpoint. `remat` keeps only the inputs of layers for the gradients
    and computes the layers twice.
    """

    name: Literal["adamw", "adam", "sgd", "lion", "adafactor", "lamb"] = "adamw"
    batch_size: PositiveInt = 25
    accumulation: PositiveInt = 1
    weight_decay: NonNegativeFloat = 0.01
    beta1: Fraction = 0.9
    beta2: Fraction = 0.98
    momentum: Fraction = 0.9
    nesterov: bool = True
    clip_norm: PositiveFloat | None = 1.0
    label_smoothing: Fraction = 0.0
    keep_classes: NonNegativeFloat = 0.0
    ema_decay: Fraction | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    update_statistics: bool = False
    remat: bool = False

    @pydantic.model_validator(mode="after")
    def _parts_are_equal(self) -> "Optimizer":
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of accumulation "
                f"{self.accumulation}; change one of them"
            )
        return self

    def of(self, stage: Stage) -> "Optimizer":
        """The optimiser of a stage."""
        own = {"ema_decay": stage.ema_decay, "weight_decay": stage.weight_decay}
        return self.model_copy(update={k: v for k, v in own.items() if v is not None})


class EvaluationOptions(_Section):
    """How the model is evaluated: every `epochs`, or every `steps`, and at the end of each stage.

    `min_new_tokens`, `length_penalty` and `early_stopping` are the options of decoding with these
    names. The model with the best `metric` is kept. A stage ends after `patience` evaluations
    without a better one. With `limit`, only the first `limit` dev examples are used.
    """

    num_beams: Annotated[int, Field(gt=0, le=1000)] = 3
    max_new_tokens: Size = 20
    min_new_tokens: NonNegativeInt = 0
    length_penalty: float = 1.0
    early_stopping: bool = False
    no_repeat_ngram_size: NonNegativeInt = 0
    batch_size: PositiveInt = 50
    samples: NonNegativeInt = 5
    epochs: PositiveInt = 1
    steps: PositiveInt | None = None
    metric: str | None = None
    patience: PositiveInt | None = None
    limit: PositiveInt | None = None

    @pydantic.model_validator(mode="after")
    def _room_for_the_fewest(self) -> "EvaluationOptions":
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens is {self.min_new_tokens}, more than max_new_tokens "
                f"({self.max_new_tokens}); lower it or raise that"
            )
        return self


class Mesh(_Section):
    """How devices share the work: weights are cut into `fsdp` parts, with `data` copies of each."""

    data: PositiveInt | None = Field(None, description="by default as many as the devices allow")
    fsdp: PositiveInt = 1


class Recipe(_Section):
    """A whole training run; `task` is what the model does.

    With `push`, the best model is uploaded to that repository of the Hugging Face hub each time it
    becomes better; the repository is made if it does not exist, `push_private` or public.
    """

    name: str
    description: str = ""
    task: Literal["caption", "classify", "rewrite"] = "caption"
    seed: NonNegativeInt = 0
    data: Data
    model: Model = Model()
    augment: AugmentOptions = AugmentOptions()
    stages: tuple[Stage, ...] = Field(min_length=1)
    optimizer: Optimizer = Optimizer()
    evaluation: EvaluationOptions = EvaluationOptions()
    mesh: Mesh = Mesh(data=None)
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="the type of the weights in best/"
    )
    save_every: PositiveInt = Field(100, description="steps between checkpoints")
    keep: PositiveInt = Field(2, description="how many checkpoints are kept")
    tensorboard: bool = False
    push: str | None = Field(None, pattern=r"^(\w[\w.-]*/)?\w[\w.-]*$")
    push_private: bool = False

    @pydantic.model_validator(mode="after")
    def _parts_fit(self) -> "Recipe":
        if self.push_private and self.push is None:
            raise ValueError("push_private is true, but nothing is pushed; give push a name")
        if self.task != "caption" and any(stage.self_critical for stage in self.stages):
            raise ValueError(
                f"self_critical trains captioners only, and task is {self.task}; remove it from "
                "the stages"
            )
        if self.optimizer.update_statistics and any(stage.views for stage in self.stages):
            raise ValueError(
                "views are kept of frozen parts, and optimizer.update_statistics changes all batch "
                "norms; remove one of them"
            )
        if self.task == "rewrite" and any(stage.views for stage in self.stages):
            raise ValueError(
                "views are kept of pictures only, and task is rewrite; remove views from the stages"
            )
        if self.model.checkpoint or self.model.decoder.checkpoint or self.task == "classify":
            return self
        places = self.model.decoder.max_positions
        for name, tokens in (
            ("data.max_tokens", self.data.max_tokens),
            ("evaluation.max_new_tokens", self.evaluation.max_new_tokens),
        ):
            if tokens > places:
                raise ValueError(
                    f"{name} is {tokens}, more than model.decoder.max_positions ({places}); raise "
                    "that or lower this"
                )
        return self

    def to_yaml(self) -> str:
        """The recipe as a file that `load_recipe` reads."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def differences(before: Recipe, after: Recipe) -> list[str]:
    """What differs between two recipes, each field in words."""
    one, other = (dict(_fields(each.model_dump(mode="json"))) for each in (before, after))
    # What is empty has no fields, and is told of only where the other recipe has none there either.
    within = {key.rpartition(".")[0] for key in (*one, *other)}
    told = []
    for key in dict.fromkeys([*one, *other]):
        was, now = one.get(key), other.get(key)
        if was != now and key not in within:
            told.append(f"{key} was {quoted(was)} and is {quoted(now)}")
    return told


def _fields(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of a recipe by their paths, as `--set` takes them."""
    if not isinstance(value, dict | list) or not value:
        yield key, value
        return
    for name, part in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _fields(part, f"{key}.{name}" if key else str(name))


def recipe_names() -> list[str]:
    """Names of the recipes that come with captax."""
    folder = resources.files("captax") / "recipes"
    return sorted(Path(f.name).stem for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by its name or from a `.yaml` file, with `key.path=value` overrides.

    A recipe whose `base` names another one states only its differences from it. Values are read as
    YAML. Raises `RecipeError` that names every unknown key and bad value.
    """
    if name in FORMER_NAMES:
        name = BUILT_IN  # the recipe that it was trained by
    fields = _read(name)
    for override in overrides:
        _set(fields, override)
    return _validated(fields, name)


def _read(name: str, variants: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields of a recipe; `variants` are the recipes that it is the base of.

    A recipe with a `base` states only its differences: parts of sections take the place of the
    base's, and all else, lists too, replaces what is there. Its name is its own.
    """
    if _place(name) in map(_place, variants):
        told = " -> ".join((*variants, name))
        raise RecipeError(f"recipe {variants[0]}: its base leads back to itself ({told})")
    named = f"base of {variants[-1]}: " if variants else ""
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not is_file(path):
            raise RecipeError(
                f"{named}{path}: there is no such recipe file; give the path of a .yaml file, or "
                f"one of {', '.join(recipe_names())}"
            )
        try:
            text = read_text(path, limit=CONFIG_LIMIT)
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(
                f"{path}: cannot be read ({error}); give a UTF-8 file that you may read"
            ) from None
    elif name in recipe_names():
        text = (resources.files("captax") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        known = ", ".join(recipe_names())
        raise RecipeError(
            f"{named}there is no recipe {quoted(name)}; give a .yaml file or one of {known}"
        )
    try:
        fields = _parse(text)
    except ValueError as error:
        raise RecipeError(f"{name}: this is not YAML: {error}; correct the file") from None
    if not isinstance(fields, dict):
        raise RecipeError(f"{name}: a recipe has keys and values at the top, such as `name: ...`")
    whole: dict[str, Any] = fields
    if (base := whole.pop("base", None)) is None:
        return whole
    if not isinstance(base, str):
        raise RecipeError(f"recipe {name}: base is {quoted(base)}; give the name of a recipe")
    if base.endswith((".yaml", ".yml")):
        base = str(Path(name).parent / base)
    below = _read(base, (*variants, name))
    return _merged({key: below[key] for key in below if key not in ("name", "description")}, whole)


def _place(name: str) -> str:
    """What tells a recipe from others: its name, or where its file is, which has many paths."""
    there = name.endswith((".yaml", ".yml")) and is_file(Path(name))
    return os.path.realpath(name) if there else name


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Fields with others above them, section by section."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            value = _merged(old, value)
        merged[key] = value
    return merged


def parse_recipe(text: str) -> Recipe:
    """The recipe that a text in YAML is.

    Raises `ValueError` for what is not YAML, and `RecipeError` for what is no recipe.
    """
    return _validated(_parse(text), "")


def _validated(fields: Any, name: str) -> Recipe:
    try:
        return Recipe.model_validate(fields)
    except pydantic.ValidationError as error:
        found = error.errors()
        # Where something in a list is wrong, pydantic also says that the list is too short.
        inner = [p for p in found if not any(_within(q["loc"], p["loc"]) for q in found)]
        problems = "; ".join(map(_explain, inner))
        raise RecipeError(f"recipe {name}: {problems}") from None


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with a bound on the keys that `<<` copies into mappings."""

    merged = 0

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                for each in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if isinstance(each, yaml.MappingNode):
                        self.flatten_mapping(each)
                        self.merged += len(each.value)
                        if self.merged > _MOST_VALUES:
                            raise ValueError(f"it stands for more than {_MOST_VALUES:,} values")
        super().flatten_mapping(node)


def _parse(text: str) -> Any:
    """Parse YAML. Raises `ValueError` for text that is not YAML or stands for too many values.

    With anchors and aliases, twenty lines can stand for more values than fit in memory, or for
    infinitely many.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"it has more than {_LONGEST:,} characters")
    try:
        content = yaml.load(text, _Loader)
    except Exception as error:  # for `2020-99-99` or `!!int ""`, PyYAML passes on Python's own
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None
    # The count stops there, because there may be infinitely many.
    if sum(1 for _ in itertools.islice(_values(content), _MOST_VALUES + 1)) > _MOST_VALUES:
        raise ValueError(f"it stands for more than {_MOST_VALUES:,} values")
    return content


def _values(content: Any) -> Iterator[Any]:
    """`content` and all values in it, one after the other. A value with two aliases comes twice."""
    waiting = [iter([content])]
    while waiting:
        for value in waiting[-1]:
            yield value
            if isinstance(value, dict | list):
                waiting.append(iter(value.values() if isinstance(value, dict) else value))
                break
        else:
            waiting.pop()


def _set(fields: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise RecipeError(f"--set {override}: give it the form key.path=value")
    try:
        given = _parse(value)
    except ValueError:
        raise RecipeError(
            f"--set {override[:200]}: {quoted(value)} is not a YAML value; put quotes around it"
        ) from None
    *parents, last = key.split(".")
    at: Any = fields
    done: list[str] = []
    try:
        for parent in parents:
            at = at[int(parent)] if isinstance(at, list) else at.setdefault(parent, {})
            done.append(parent)
        at[int(last) if isinstance(at, list) else last] = given
    except (TypeError, ValueError, IndexError, AttributeError):
        why = _why_not(".".join(done), at)
        raise RecipeError(f"--set {override}: there is no {key} to set; {why}") from None


def _why_not(path: str, at: Any) -> str:
    """Why nothing can be set inside `at`, the value at `path`, and what to do instead."""
    if not isinstance(at, list):
        return f"{path} has no parts; set {path} itself"
    members = [f"{path}.{i}" for i in range(len(at))] or [f"{path} itself"]
    named = f"{members[0]} to {members[-1]}" if len(members) > 2 else " or ".join(members)
    return f"{path} has {plural(len(at), 'entry', 'entries')}; use {named}"


def _within(inner: Sequence[Any], outer: Sequence[Any]) -> bool:
    return len(inner) > len(outer) and tuple(inner[: len(outer)]) == tuple(outer)


def _explain(problem: Any) -> str:
    where = ".".join(map(str, problem["loc"]))
    if problem["type"] == "missing":
        return f"{where} is missing; write it in the recipe or give --set {where}=VALUE"
    if problem["type"] != "extra_forbidden":
        told = isinstance(problem["input"], dict)  # the value is a whole section
        given = "" if told else f" (got {quoted(problem['input'])})"
        place = f"{where}: " if where else ""
        return f"{place}{plain(problem['msg'])}{given}"
    *parents, unknown = problem["loc"]
    known = list(_section(parents).model_fields)
    near = difflib.get_close_matches(str(unknown), known, 1)
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"
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
