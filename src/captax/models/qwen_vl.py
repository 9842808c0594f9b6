"""What Qwen's vision-language models share: pictures of any size, and positions on three axes.

A picture keeps its aspect ratio. Its patches are read as one sequence, with angles for their rows
and columns; squares of them become tokens. In the prompt, a token of the picture has the position
of its row and its column, so that a picture takes as many positions as its longer side has tokens.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from captax.errors import quoted
from captax.models.arithmetic import map_pictures, project
from captax.models.config import ConfigError, ModelConfig
from captax.models.connectors import MergeConnector
from captax.models.encoders import Features, VisionEncoder
from captax.models.layers import EncoderLayer
from captax.models.layout import Layout, Rule, join, linear, table
from captax.models.modules import AttentionConfig, LayerConfig, MlpConfig, NormConfig, parameter
from captax.models.observing import record, scope
from captax.models.patches import Patches, in_squares
from captax.models.prompt import Prompt
from captax.models.rotary import Rotary
from captax.models.vision_language import (
    VIEWS_AT_ONCE,
    VisionLanguageConfig,
    VisionLanguageModel,
    language_layout,
)

Config = TypeVar("Config", bound=ModelConfig)
Whole = TypeVar("Whole", bound="QwenVLConfig")
Pixels = Float[Array, "batch *views height width 3"]
# With so many patches each, `VIEWS_AT_ONCE` pictures are encoded at once.
PATCHES = 1024


@dataclasses.dataclass(frozen=True)
class QwenVisionConfig(ModelConfig):
    """Fields of the towers, with transformers' names."""

    fixed: ClassVar[dict[str, Any]] = {"in_channels": 3}
    # What the patches' projection has, and what the layers have.
    patch_bias: ClassVar[bool] = True
    norm: ClassVar[NormConfig] = NormConfig(1e-6)
    gated: ClassVar[bool] = False

    depth: int = 27
    hidden_size: int = 1152
    hidden_act: str = "gelu_pytorch_tanh"
    intermediate_size: int = 4304
    num_heads: int = 16
    patch_size: int = 16
    spatial_merge_size: int = 2
    temporal_patch_size: int = 2
    out_hidden_size: int = 3584
    initializer_range: float = 0.02

    def layer(self) -> LayerConfig:
        """The shape of its layers."""
        return LayerConfig(
            self.hidden_size,
            AttentionConfig(self.num_heads, rotary=self.rotary),
            MlpConfig(self.intermediate_size, self.hidden_act, gated=self.gated),
            self.norm,
            std=self.initializer_range,
        )

    @property
    def rotary(self) -> Rotary:
        """Angles whose first half is of rows and whose second half is of columns."""
        head = self.hidden_size // self.num_heads
        return Rotary(head, axes=(0,) * (head // 4) + (1,) * (head // 4), parts=2)

    @property
    def levels(self) -> tuple[int, ...]:
        """The layers whose output the language model is shown besides the last one."""
        return ()

    def write(self) -> dict[str, Any]:
        return {**super().write(), "in_channels": 3}

    def layout(self) -> Layout:
        return Layout(
            table(
                Rule("patch_embed.proj.weight", ("kernel",), axes=(0, 2, 3, 4, 1)),
                Rule("patch_embed.proj.bias", ("bias",)),
                linear(
                    "blocks.{}.attn.qkv",
                    *(f"layers.{{}}.self_attention.{part}" for part in ("query", "key", "value")),
                ),
                linear("blocks.{}.attn.proj", "layers.{}.self_attention.out"),
                self.rules(),
            )
        )

    def rules(self) -> tuple[Rule, ...]:
        """The tensors that differ between families."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class SectionedConfig(ModelConfig):
    """What a language model's config says of positions on three axes: time, row and column.

    So many pairs of each head are turned by each axis as `mrope_section` says. The sections follow
    each other or, if `interleaved`, take turns.
    """

    interleaved: ClassVar[bool] = False

    mrope_section: tuple[int, int, int] = (16, 24, 24)

    @classmethod
    def read(cls: type[Config], config: Mapping[str, Any], tensors: Collection[str] = ()) -> Config:
        config = dict(config)
        for key in ("rope_scaling", "rope_parameters"):
            if isinstance(said := config.get(key), Mapping):
                rest = {name: said[name] for name in said if not name.startswith("mrope_")}
                kind = rest.pop("rope_type", rest.pop("type", "default"))
                rest |= {} if kind in ("mrope", "default") else {"rope_type": kind}
                config[key] = rest or None
                if "mrope_section" in said:
                    config["mrope_section"] = said["mrope_section"]
        return super().read(config, tensors)

    @property
    def axes(self) -> tuple[int, ...]:
        """The axis of each pair."""
        time, rows, columns = self.mrope_section
        if not self.interleaved:
            return (0,) * time + (1,) * rows + (2,) * columns
        ends = (0, 3 * rows, 3 * columns)
        pairs = range(sum(self.mrope_section))
        return tuple(pair % 3 if pair < ends[pair % 3] else 0 for pair in pairs)

    def write(self) -> dict[str, Any]:
        said = super().write()
        sections: dict[str, Any] = {"mrope_section": list(said.pop("mrope_section"))}
        if self.interleaved:
            sections["mrope_interleaved"] = True
        return {**said, "rope_parameters": {**said["rope_parameters"], **sections}}


@dataclasses.dataclass(frozen=True)
class QwenVLConfig(VisionLanguageConfig):
    """What the configs of whole models share.

    `prefixes` are those of the tower's tensors and of the language model's, as transformers writes
    them; it reads those of every family in both.
    """

    several: ClassVar[bool] = True
    prefixes: ClassVar[tuple[str, str]] = ("model.visual.", "model.language_model.")

    vision_config: QwenVisionConfig = QwenVisionConfig()
    image_token_id: int = 151_655
    video_token_id: int = 151_656
    vision_start_token_id: int = 151_652
    vision_end_token_id: int = 151_653

    @classmethod
    def read(cls: type[Whole], config: Mapping[str, Any], tensors: Collection[str] = ()) -> Whole:
        vision, text = config.get("vision_config"), config.get("text_config")
        if isinstance(vision, Mapping) and vision.get("model_type") == cls.model_type:
            # As the first checkpoints have it.
            kept = {key: value for key, value in vision.items() if key != "model_type"}
            config = {**config, "vision_config": kept}
        if text is None:
            # So have they the language model's config, flat.
            flat = {key: value for key, value in config.items() if key != "model_type"}
            config = {**config, "text_config": flat}
        elif isinstance(text, Mapping) and not config.get("tie_word_embeddings"):
            config = {**config, "tie_word_embeddings": bool(text.get("tie_word_embeddings"))}
        return super().read(config, tensors)

    def check(self) -> None:
        vision, text = self.vision_config, self.text_config
        head = vision.hidden_size // vision.num_heads
        if head % 4:
            raise ConfigError(
                f"vision_config.hidden_size={vision.hidden_size} with num_heads="
                f"{vision.num_heads} makes heads whose width is not a multiple of 4"
            )
        if vision.out_hidden_size != text.hidden_size:
            raise ConfigError(
                f"vision_config.out_hidden_size={vision.out_hidden_size} must be the width of the "
                f"language model, text_config.hidden_size={text.hidden_size}"
            )
        sections = getattr(text, "mrope_section", ())
        if 2 * sum(sections) != text.head:
            raise ConfigError(
                f"text_config.mrope_section={quoted(sections)} must add up to half the width of a "
                f"head, {text.head // 2}"
            )
        if bad := [level for level in vision.levels if not 0 <= level < vision.depth]:
            raise ConfigError(
                f"vision_config: there is no layer {bad[0]} of deepstack_visual_indexes; give "
                f"layers from 0 to {vision.depth - 1}"
            )

    @property
    def kind(self) -> "type[QwenVL]":
        return QwenVL

    @property
    def side(self) -> int:
        """The pixels of a side of what becomes one token."""
        return self.vision_config.patch_size * self.vision_config.spatial_merge_size

    @property
    def places(self) -> int:
        """One; how many tokens a picture takes depends on its size."""
        return 1

    def connector(self, *, rngs: nnx.Rngs | None) -> MergeConnector:
        vision = self.vision_config
        return MergeConnector(
            vision.hidden_size,
            self.text_config.hidden_size,
            vision.spatial_merge_size,
            vision.norm,
            levels=len(vision.levels),
            rngs=rngs,
            std=vision.initializer_range,
        )

    def layout(self) -> Layout:
        visual, language = self.prefixes
        parts = join(
            self.vision_config.layout().within(visual, "encoder."),
            Layout(self.connector_rules()).within(visual, "connector."),
            language_layout(self.text_config, language, "lm_head."),
        )
        spellings = (
            *(("model.visual.", visual), ("visual.", visual)),
            *(("model.language_model.", language), ("model.", language)),
        )

        def canonical(name: str) -> str | None:
            for spelt, ours in spellings:
                if name.startswith(spelt):
                    return parts.canonical(ours + name.removeprefix(spelt))
            return parts.canonical(name)

        return Layout(parts.rules, canonical)


class QwenTower(VisionEncoder):
    """Turns pictures of any size into a token for each patch."""

    config: Any

    def __init__(self, config: QwenVisionConfig, *, rngs: nnx.Rngs | None):
        self.config = config
        width, std, patch = config.hidden_size, config.initializer_range, config.patch_size
        shape = (width, config.temporal_patch_size, patch, patch, 3)
        self.kernel = parameter(rngs, shape, std=std)
        self.bias = parameter(rngs, (width,)) if config.patch_bias else None
        layer = config.layer()
        self.layers = nnx.List([EncoderLayer(layer, rngs=rngs) for _ in range(config.depth)])

    @property
    def features_width(self) -> int:
        return self.config.hidden_size

    def parts(self) -> Sequence[Callable[[Array], Array]]:
        """None: what each picture's patches need to know of its size is no array's shape."""
        return []

    def __call__(self, pictures: Patches | Float[Array, "batch height width 3"]) -> Features:
        """Encode pictures: of one size, or patches of several, which may be filled up."""
        grid = None
        if not isinstance(pictures, Patches):
            patch, factor = self.config.patch_size, self.config.spatial_merge_size
            grid = pictures.shape[1] // patch, pictures.shape[2] // patch
            grids = jnp.broadcast_to(jnp.array(grid), (len(pictures), 2))
            pictures = Patches(in_squares(pictures, patch, factor), grids)
        row, column, real = pictures.cells(self.config.spatial_merge_size)
        # A picture that is not filled up needs no mask.
        mask = None if grid is not None else real
        kernel = self.kernel[...]
        flat = kernel.reshape(len(kernel), -1)
        if pictures.values.shape[-1] < flat.shape[1]:  # a still picture is the same at all times
            still = kernel.astype(jnp.float32).sum(1).astype(kernel.dtype)
            flat = still.reshape(len(kernel), -1)
        x = project(pictures.values, flat)
        if self.bias is not None:
            x = x + self.bias[...]
        x = self.placed(x, pictures.grids, row, column)
        turns = self.config.rotary.turns(jnp.stack([row, column]))
        levels = []
        for index, layer in enumerate(self.layers):
            x = layer(x, self.seen(index, row, column, mask), turns)
            if index in self.config.levels:
                levels.append(x)
        record("hidden_states", x)
        return Features(
            x,
            grid or (1, x.shape[1]),
            mask=mask,
            grids=pictures.grids,
            deep=jnp.stack(levels, axis=1) if levels else None,
        )

    def placed(
        self,
        x: Float[Array, "batch patches width"],
        grids: Int[Array, "batch 2"],
        row: Int[Array, "batch patches"],
        column: Int[Array, "batch patches"],
    ) -> Float[Array, "batch patches width"]:
        """Patches with their position embeddings, if the tower has any."""
        return x

    def seen(
        self,
        index: int,
        row: Int[Array, "batch patches"],
        column: Int[Array, "batch patches"],
        real: Bool[Array, "batch patches"] | None,
    ) -> Bool[Array, "batch _ patches"] | None:
        """Which patches a layer lets see each other; None for all."""
        return None if real is None else real[:, None]


class QwenVL(VisionLanguageModel):
    """A language model that is shown pictures of any size."""

    def encode(self, inputs: Patches | Pixels) -> Features:  # type: ignore[override]
        """Encode pictures, of one size or as patches; each is a single view.

        Of pictures that are shown together, the tokens of all follow each other.
        """
        if not isinstance(inputs, Patches) and inputs.ndim == 5:
            inputs = inputs[:, 0]
        if isinstance(inputs, Patches) and inputs.values.ndim == 4:
            values, grids = inputs.values, inputs.grids
            alone = Patches(values.reshape(-1, *values.shape[2:]), grids.reshape(-1, 2))
            return one_after_another(self.encode(alone), len(values), inputs.times)
        at_once = VIEWS_AT_ONCE
        if isinstance(inputs, Patches):
            # Attention takes memory for each pair of patches.
            share = (inputs.values.shape[1] / PATCHES) ** 2
            while at_once > 1 and at_once * share > VIEWS_AT_ONCE:
                at_once //= 2
        with scope("encoder"):
            features = map_pictures(self.encoder, inputs, at_once)
        return self.bridge(features)

    def given(self, features: Features, prompt: Prompt) -> tuple[Features, Prompt]:
        prompt = self.placed(prompt)
        assert prompt.pictures is not None and features.grids is not None
        grids = features.grids if features.grids.ndim == 3 else features.grids[:, None]
        positions = positions_around(prompt.pictures, grids, features.times)
        return features, dataclasses.replace(prompt, positions=positions)

    def placed(self, prompt: Prompt) -> Prompt:
        tokens, config = jnp.asarray(prompt.tokens), self.config
        pictures = (tokens == config.image_token_id) | (tokens == config.video_token_id)
        return dataclasses.replace(prompt, pictures=pictures & prompt.real)


def one_after_another(
    features: Features, batch: int, times: Int[Array, "batch pictures"] | None
) -> Features:
    """Features of pictures as those of `batch` rows of several: the padding of all comes last."""
    assert features.grids is not None
    room = features.tokens.shape[1]
    grids = features.grids.reshape(batch, -1, 2)
    counts = grids.prod(-1)
    ends = jnp.cumsum(counts, axis=1)
    order = jnp.arange(grids.shape[1] * room)[None]
    which = jnp.minimum((order[..., None] >= ends[:, None]).sum(-1), grids.shape[1] - 1)
    inside = order - jnp.take_along_axis(ends - counts, which, axis=1)
    source = which * room + jnp.clip(inside, 0, room - 1)

    def ordered(x: Array) -> Array:
        flat = x.reshape(batch, -1, x.shape[-1])
        return jnp.take_along_axis(flat, source[..., None], axis=1)

    deep = features.deep
    if deep is not None:
        levels = [ordered(deep[:, level]) for level in range(deep.shape[1])]
        deep = jnp.stack(levels, axis=1)
    return Features(
        ordered(features.tokens),
        (1, grids.shape[1] * room),
        grids=grids,
        times=times,
        deep=deep,
    )


def positions_around(
    pictures: Bool[Array, "batch time"],
    grids: Int[Array, "batch pictures 2"],
    times: Int[Array, "batch pictures"] | None = None,
) -> Int[Array, "axes batch time"]:
    """The time, row and column of every token of prompts that hold pictures.

    Before a picture, the three count tokens. Those of the picture are its start, to which rows and
    columns add. After it, counting goes on from the larger of both:

        words   picture of 2 x 3   words
        0 1     2 2 2 2 2 2        5 6     time
        0 1     2 2 2 3 3 3        5 6     row
        0 1     2 3 4 2 3 4        5 6     column

    Pictures between which nothing stands are parts of a video: they have one start, to which
    `times` add too.
    """
    counts = grids.prod(-1)
    ends = jnp.cumsum(counts, axis=1)
    order = jnp.cumsum(pictures, axis=1) - 1
    which = jnp.minimum((order[..., None] >= ends[:, None]).sum(-1), grids.shape[1] - 1)
    inside = order - jnp.take_along_axis(ends - counts, which, axis=1)
    rows, columns = (jnp.take_along_axis(grids[..., axis], which, axis=1) for axis in (0, 1))
    across = jnp.maximum(columns, 1)
    # Counting stands still inside a picture or video, and jumps at its end.
    last = pictures & ~jnp.pad(pictures, ((0, 0), (0, 1)))[:, 1:]
    steps = jnp.where(pictures, jnp.where(last, jnp.maximum(rows, columns), 0), 1)
    start = jnp.cumsum(steps, axis=1) - steps
    moved = 0 if times is None else jnp.take_along_axis(times, which, axis=1)
    of_picture = [jnp.zeros_like(inside) + moved, inside // across, inside % across]
    return jnp.stack([start + jnp.where(pictures, axis, 0) for axis in of_picture])
