"""Swin Transformer V2, as the encoder of a captioner or as a classifier.

Liu et al., *Swin Transformer V2: Scaling Up Capacity and Resolution*
(https://arxiv.org/abs/2111.09883). The model computes what transformers' `Swinv2Model` and
`Swinv2ForImageClassification` compute. Stochastic depth, which checkpoints were trained with, is
left out.

Legend: `B` batch, `H` `W` height and width, `C` channels, `windows` those of all pictures.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from captax.models.config import MOST_STAGES, ConfigError, ModelConfig, labels_of_head, write_labels
from captax.models.encoders import Features, VisionEncoder
from captax.models.layout import Layout, Rule, conv2d, linear, norm, table
from captax.models.modules import LayerNorm, Linear, Mlp, MlpConfig, parameter
from captax.models.patches import SquareProjection
from captax.models.windows import cut, filled_up, join

BIAS_WIDTH = 512  # of the MLP that gives position biases
EPSILON = 1e-5  # of the norms between stages, whatever the config says
MOST_SCALE = math.log(100)
HIDDEN = -100.0  # the score of what a token does not see
MOST_SIDE = 64  # of a window: tables of positions grow with its square, and no weight does


@dataclasses.dataclass(frozen=True)
class Swinv2Config(ModelConfig):
    """Shape of the model, with the names and defaults of transformers, stage by stage.

    With `labels` it is a classifier.
    """

    model_type: ClassVar[str] = "swinv2"
    fixed: ClassVar[dict[str, Any]] = {"num_channels": 3, "use_absolute_embeddings": False}
    # Whether what merges tokens belongs to the stage after it, not to the one before it.
    merges_first: ClassVar[bool] = False

    image_size: int = 224
    patch_size: int = 4
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    # 0 stands for the width of the model's own windows.
    pretrained_window_sizes: tuple[int, ...] = (0, 0, 0, 0)
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    hidden_act: str = "gelu"
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    labels: tuple[str, ...] = ()

    @classmethod
    def read(cls, config: Mapping[str, Any], tensors: Collection[str] = ()) -> Any:
        described = super().read(config, tensors)
        stages = {len(described.depths), len(described.num_heads)}
        stages |= {len(described.pretrained_window_sizes)}
        widths = zip(described.widths, described.num_heads, strict=False)
        if (
            len(stages) > 1
            or max(stages) > MOST_STAGES
            or any(width % heads for width, heads in widths)
        ):
            raise ConfigError(
                "swinv2: depths, num_heads and pretrained_window_sizes must each have one number "
                f"for every stage, at most {MOST_STAGES}, and num_heads must divide the widths of "
                "the stages; correct the config"
            )
        sides = (described.window_size, *described.pretrained_window_sizes)
        if max(sides) > MOST_SIDE or 1 in described.pretrained_window_sizes:
            raise ConfigError(f"swinv2: windows of {max(sides)} are not supported")
        return dataclasses.replace(described, labels=labels_of_head(config, tensors))

    @property
    def widths(self) -> tuple[int, ...]:
        """The width of every stage."""
        return tuple(self.embed_dim * 2**stage for stage in range(len(self.depths)))

    def write(self) -> dict[str, Any]:
        config = super().write()
        kind = "ForImageClassification" if config.pop("labels") else "Model"
        config["architectures"] = [f"Swinv2{kind}"]
        return config | (write_labels(self.labels) if self.labels else {})

    def as_encoder(self) -> Any:
        return dataclasses.replace(self, labels=())

    def as_classifier(self, labels: tuple[str, ...]) -> Any:
        return dataclasses.replace(self, labels=labels)

    def layout(self) -> Layout:
        # A classifier's checkpoint puts the bare model under the name of its family.
        prefix = "swinv2." if self.labels else ""

        def canonical(name: str) -> str | None:
            bare = name.removeprefix("swinv2.")
            # Old checkpoints keep tables, and pretraining put a token over hidden patches.
            if bare.endswith(("relative_coords_table", "relative_position_index", "mask_token")):
                return None
            return bare if bare.startswith("classifier.") else prefix + bare

        head = linear("classifier", "classifier") if self.labels else ()
        return Layout(head + Layout(RULES).within(prefix, "").rules, canonical)

    def build(self, *, rngs: nnx.Rngs | None = None) -> "Swinv2":
        return Swinv2(self, rngs=rngs)


class PatchLayer(nnx.Module):
    """Squares of the picture become tokens, which are normalised."""

    def __init__(self, config: Swinv2Config, *, rngs: nnx.Rngs | None):
        width, std = config.embed_dim, config.initializer_range
        self.squares = SquareProjection(config.patch_size, 3, width, rngs=rngs, std=std)
        self.norm = LayerNorm(width, rngs=rngs, epsilon=EPSILON)

    def __call__(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B H2 W2 C"]:
        return self.norm(self.squares(filled_up(pixels, self.squares.side)))


class Merging(nnx.Module):
    """Between stages: four neighbours become one token."""

    def __init__(self, config: Swinv2Config, stage: int, *, rngs: nnx.Rngs | None):
        width = config.widths[stage]
        std = config.initializer_range
        self.reduction = Linear(4 * width, 2 * width, rngs=rngs, bias=False, std=std)
        self.norm = LayerNorm(2 * width, rngs=rngs, epsilon=EPSILON)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 C2"]:
        x = filled_up(x, 2)
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.norm(self.reduction(jnp.concatenate(corners, -1)))


class WindowAttention(nnx.Module):
    """Tokens see those of their own window, by cosines of queries and keys.

    An MLP gives the bias of each head for two places from the logarithm of how far apart they are.
    """

    def __init__(self, config: Swinv2Config, stage: int, *, rngs: nnx.Rngs | None):
        width, std = config.widths[stage], config.initializer_range
        self.heads, self.pretrained = config.num_heads[stage], config.pretrained_window_sizes[stage]
        bias = config.qkv_bias
        self.query = Linear(width, width, rngs=rngs, std=std, bias=bias)
        self.key = Linear(width, width, rngs=rngs, std=std, bias=False)
        self.value = Linear(width, width, rngs=rngs, std=std, bias=bias)
        self.out = Linear(width, width, rngs=rngs, std=std)
        self.logit_scale = parameter(rngs, (self.heads, 1, 1), fill=math.log(10))
        self.bias_up = Linear(2, BIAS_WIDTH, rngs=rngs, std=std)
        self.bias_down = Linear(BIAS_WIDTH, self.heads, rngs=rngs, std=std, bias=False)

    def __call__(
        self, x: Float[Array, "windows tokens C"], side: int, hidden: np.ndarray | None
    ) -> Float[Array, "windows tokens C"]:
        """Attend within windows of this `side`.

        `hidden [of_picture tokens tokens]` is added to the scores in the windows of each picture.
        """
        query, key, value = (
            linear(x).reshape(*x.shape[:2], self.heads, -1)
            for linear in (self.query, self.key, self.value)
        )
        scale = jnp.exp(jnp.minimum(self.logit_scale[...].astype(jnp.float32), MOST_SCALE))
        scores = scale * jnp.einsum(
            "sqhc,skhc->shqk", _unit(query), _unit(key), preferred_element_type=jnp.float32
        )
        scores = scores + self.bias(side)
        if hidden is not None:
            shape = scores.shape
            by_window = scores.reshape(-1, len(hidden), *shape[1:])
            scores = (by_window + hidden[:, None]).reshape(shape)
        seen = jax.nn.softmax(scores, axis=-1).astype(x.dtype)
        mixed = jnp.einsum("shqk,skhc->sqhc", seen, value)
        return self.out(mixed.reshape(x.shape))

    def bias(self, side: int) -> Float[Array, "heads tokens tokens"]:
        """What is added to the scores for where query and key lie in the window."""
        far, index = _places(side, self.pretrained)
        dtype = self.bias_up.kernel.dtype
        table = self.bias_down(jax.nn.relu(self.bias_up(jnp.asarray(far, dtype))))
        found = table.astype(jnp.float32)[index]
        return 16 * jax.nn.sigmoid(found).transpose(2, 0, 1)


def _unit(x: Float[Array, "windows tokens heads head"]) -> Float[Array, "..."]:
    """Vectors of length 1; those of 0, which fill grids up, stay, and have gradients."""
    wide = x.astype(jnp.float32)
    square = jnp.square(wide).sum(-1, keepdims=True)
    return (wide * jax.lax.rsqrt(jnp.maximum(square, 1e-24))).astype(x.dtype)


@functools.lru_cache(maxsize=16)
def _places(
    side: int, pretrained: int
) -> tuple[Float[np.ndarray, "offsets 2"], Int[np.ndarray, "tokens tokens"]]:
    """How far apart places of a window can be, and which of these each pair of places is."""
    steps = np.arange(1 - side, side)
    far = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2).astype(np.float32)
    far *= 8 / max((pretrained or side) - 1, 1)
    far = np.sign(far) * np.log2(np.abs(far) + 1) / np.log2(8)
    rows, columns = np.divmod(np.arange(side**2), side)
    down, across = (each[:, None] - each[None] + side - 1 for each in (rows, columns))
    return far.astype(np.float32), down * (2 * side - 1) + across


class Block(nnx.Module):
    """Attention in windows and an MLP, the output of each normalised and added.

    Every second block moves its windows by half their side, around the edges of the picture.
    """

    def __init__(self, config: Swinv2Config, stage: int, *, shifted: bool, rngs: nnx.Rngs | None):
        width, std = config.widths[stage], config.initializer_range
        epsilon = config.layer_norm_eps
        # The grid that the model was made for decides, also for pictures of other sizes.
        grid = config.image_size // config.patch_size // 2**stage
        self.side = max(1, min(config.window_size, grid))
        self.shift = config.window_size // 2 if shifted and grid > config.window_size else 0
        self.attention = WindowAttention(config, stage, rngs=rngs)
        self.attention_norm = LayerNorm(width, rngs=rngs, epsilon=epsilon)
        mlp = MlpConfig(int(width * config.mlp_ratio), config.hidden_act)
        self.mlp = Mlp(width, mlp, rngs=rngs, std=std)
        self.mlp_norm = LayerNorm(width, rngs=rngs, epsilon=epsilon)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        _, height, width, _ = x.shape
        whole, side, shift = filled_up(x, self.side), self.side, self.shift
        size, hidden = (whole.shape[1], whole.shape[2]), None
        if shift:
            whole, hidden = jnp.roll(whole, (-shift, -shift), (1, 2)), _hidden(size, side, shift)
        grid = join(self.attention(cut(whole, side), side, hidden), side, size)
        if shift:
            grid = jnp.roll(grid, (shift, shift), (1, 2))
        x = x + self.attention_norm(grid[:, :height, :width])
        return x + self.mlp_norm(self.mlp(x))


def _hidden(size: tuple[int, int], side: int, shift: int) -> Float[np.ndarray, "windows q k"]:
    """What is added to scores where a moved window holds parts from both ends of the picture."""
    regions = [
        (np.arange(each) >= each - side).astype(int) + (np.arange(each) >= each - shift)
        for each in size
    ]
    grid = regions[0][:, None] * 3 + regions[1][None]
    rows, columns = (each // side for each in size)
    windows = grid.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side**2)
    return np.where(windows[:, None] != windows[:, :, None], HIDDEN, 0.0).astype(np.float32)


class Stage(nnx.Module):
    """Blocks and, between stages, what merges their tokens."""

    def __init__(self, config: Swinv2Config, stage: int, *, rngs: nnx.Rngs | None):
        self.merges_first = config.merges_first
        self.blocks = nnx.List(
            [
                Block(config, stage, shifted=i % 2 == 1, rngs=rngs)
                for i in range(config.depths[stage])
            ]
        )
        before = stage - 1 if self.merges_first else stage
        between = 0 <= before < len(config.depths) - 1
        self.merging = Merging(config, before, rngs=rngs) if between else None

    def parts(self) -> list[nnx.Module]:
        """Its modules in order."""
        merging = [] if self.merging is None else [self.merging]
        return [*merging, *self.blocks] if self.merges_first else [*self.blocks, *merging]


class Swinv2(VisionEncoder):
    """Turns a picture into a grid of visual tokens; with labels it also classifies."""

    config: Swinv2Config

    def __init__(self, config: Swinv2Config, *, rngs: nnx.Rngs | None):
        self.config = config
        self.patches = PatchLayer(config, rngs=rngs)
        self.stages = nnx.List([Stage(config, i, rngs=rngs) for i in range(len(config.depths))])
        width, labels = config.widths[-1], len(config.labels)
        self.norm = LayerNorm(width, rngs=rngs, epsilon=config.layer_norm_eps)
        if labels:
            self.classifier = Linear(width, labels, rngs=rngs, std=config.initializer_range)

    @property
    def image_size(self) -> tuple[int, int]:
        return self.config.image_size, self.config.image_size

    @property
    def features_width(self) -> int:
        return self.config.widths[-1]

    def parts(self) -> Sequence[Callable[[Array], Array]]:
        """The patches, the parts of every stage, the norm."""
        inner: list[Any] = [part for stage in self.stages for part in stage.parts()]
        return [self.patches, *inner, self.norm]

    def label(self, features: Features) -> Float[Array, "batch labels"]:
        """Logits of the labels, from the mean over the grid."""
        return self.classifier(features.tokens.mean(axis=1))


_BLOCK = "encoder.layers.{}.blocks.{}"
_ATTENTION = f"{_BLOCK}.attention.self"
_OURS = "stages.{}.blocks.{}"
RULES = table(
    conv2d("embeddings.patch_embeddings.projection", "patches.squares"),
    norm("embeddings.norm", "patches.norm"),
    linear(f"{_ATTENTION}.query", f"{_OURS}.attention.query"),
    linear(f"{_ATTENTION}.key", f"{_OURS}.attention.key", bias=False),
    linear(f"{_ATTENTION}.value", f"{_OURS}.attention.value"),
    Rule(f"{_ATTENTION}.logit_scale", (f"{_OURS}.attention.logit_scale",)),
    linear(f"{_ATTENTION}.continuous_position_bias_mlp.0", f"{_OURS}.attention.bias_up"),
    linear(
        f"{_ATTENTION}.continuous_position_bias_mlp.2", f"{_OURS}.attention.bias_down", bias=False
    ),
    linear(f"{_BLOCK}.attention.output.dense", f"{_OURS}.attention.out"),
    norm(f"{_BLOCK}.layernorm_before", f"{_OURS}.attention_norm"),
    linear(f"{_BLOCK}.intermediate.dense", f"{_OURS}.mlp.up"),
    linear(f"{_BLOCK}.output.dense", f"{_OURS}.mlp.down"),
    norm(f"{_BLOCK}.layernorm_after", f"{_OURS}.mlp_norm"),
    linear("encoder.layers.{}.downsample.reduction", "stages.{}.merging.reduction", bias=False),
    norm("encoder.layers.{}.downsample.norm", "stages.{}.merging.norm"),
    norm("layernorm", "norm"),
)
