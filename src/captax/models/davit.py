"""DaViT, a vision encoder of four stages, each of which looks at windows and at channels in turn.

Ding et al., *DaViT: Dual Attention Vision Transformers* (https://arxiv.org/abs/2204.03645). The
model computes what transformers' `Florence2VisionBackbone` computes. Stochastic depth, which its
checkpoints were trained with, is left out.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from captax.models.arithmetic import activation_dtype
from captax.models.config import ConfigError, ModelConfig
from captax.models.depthwise import depthwise_convolution
from captax.models.encoders import VisionEncoder
from captax.models.layout import Layout, conv2d, linear, norm, table
from captax.models.modules import LayerNorm, Linear, Mlp, MlpConfig, parameter
from captax.models.windows import cut, filled_up, join

EPSILON = 1e-5
# No config names the size of pictures: Florence-2's processor does.
PICTURE = (768, 768)


@dataclasses.dataclass(frozen=True)
class DaViTConfig(ModelConfig):
    """Shape of the encoder, with the names and defaults of transformers, stage by stage."""

    model_type: ClassVar[str] = "florence_vision"
    fixed: ClassVar[dict[str, Any]] = {"in_channels": 3}

    depths: tuple[int, ...] = (1, 1, 9, 1)
    patch_size: tuple[int, ...] = (7, 3, 3, 3)
    patch_stride: tuple[int, ...] = (4, 2, 2, 2)
    patch_padding: tuple[int, ...] = (3, 1, 1, 1)
    patch_prenorm: tuple[bool, ...] = (False, True, True, True)
    embed_dim: tuple[int, ...] = (128, 256, 512, 1024)
    num_heads: tuple[int, ...] = (4, 8, 16, 32)
    num_groups: tuple[int, ...] = (4, 8, 16, 32)
    window_size: int = 12
    drop_path_rate: float = 0.1
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    activation_function: str = "gelu"
    projection_dim: int = 1024
    max_temporal_embeddings: int = 100
    max_position_embeddings: int = 50
    initializer_range: float = 0.02

    @classmethod
    def read(cls, config: Mapping[str, Any], tensors: Collection[str] = ()) -> "DaViTConfig":
        described = super().read(config, tensors)
        stages = {field.name: getattr(described, field.name) for field in dataclasses.fields(cls)}
        lengths = {len(value) for value in stages.values() if isinstance(value, tuple)}
        widths = zip(described.embed_dim, described.num_heads, described.num_groups, strict=False)
        if len(lengths) > 1 or any(width % part for width, *parts in widths for part in parts):
            raise ConfigError(
                f"{cls.model_type}: every stage needs one value in depths, patch_size, "
                "patch_stride, patch_padding, patch_prenorm, embed_dim, num_heads and num_groups, "
                "and num_heads and num_groups must divide embed_dim; correct the config"
            )
        return described

    def write(self) -> dict[str, Any]:
        return {**super().write(), "architectures": ["Florence2VisionBackbone"], "in_channels": 3}

    def grid_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """The rows and columns of tokens of a picture of this (height, width)."""
        rows, columns = size
        steps = zip(self.patch_size, self.patch_stride, self.patch_padding, strict=True)
        for kernel, stride, padding in steps:
            rows, columns = ((s + 2 * padding - kernel) // stride + 1 for s in (rows, columns))
        return rows, columns

    def as_encoder(self) -> "DaViTConfig":
        return self

    def layout(self) -> Layout:
        return Layout(RULES)

    def build(self, *, rngs: nnx.Rngs | None = None) -> "DaViT":
        return DaViT(self, rngs=rngs)


class PatchConvolution(nnx.Module):
    """The beginning of a stage: overlapping patches become tokens, normalised before or after."""

    def __init__(self, config: DaViTConfig, stage: int, *, rngs: nnx.Rngs | None):
        size, width = config.patch_size[stage], config.embed_dim[stage]
        before = config.embed_dim[stage - 1] if stage else 3
        std = config.initializer_range
        self.kernel = parameter(rngs, (size, size, before, width), std=std)
        self.bias = parameter(rngs, (width,))
        self.stride, self.padding = config.patch_stride[stage], config.patch_padding[stage]
        self.norm_first = config.patch_prenorm[stage]
        self.norm = LayerNorm(before if self.norm_first else width, rngs=rngs, epsilon=EPSILON)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 C2"]:
        dtype, pad = activation_dtype(self.kernel.dtype), (self.padding, self.padding)
        x = jax.lax.conv_general_dilated(
            (self.norm(x) if self.norm_first else x).astype(dtype),
            self.kernel[...].astype(dtype),
            (self.stride, self.stride),
            (pad, pad),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = x + self.bias[...].astype(dtype)
        return x if self.norm_first else self.norm(x)


class Neighbours(nnx.Module):
    """Adds a 3 x 3 depthwise convolution, which tells where a token is."""

    def __init__(self, width: int, *, rngs: nnx.Rngs | None, std: float):
        self.kernel = parameter(rngs, (3, 3, 1, width), std=std)
        self.bias = parameter(rngs, (width,))

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        kernel = self.kernel[...][:, :, 0].astype(x.dtype)
        return x + depthwise_convolution(x, kernel, 1) + self.bias[...].astype(x.dtype)


class Attention(nnx.Module):
    """The projections that both kinds of attention have."""

    def __init__(self, config: DaViTConfig, stage: int, *, rngs: nnx.Rngs | None):
        width, std, bias = config.embed_dim[stage], config.initializer_range, config.qkv_bias
        self.query = Linear(width, width, rngs=rngs, std=std, bias=bias)
        self.key = Linear(width, width, rngs=rngs, std=std, bias=bias)
        self.value = Linear(width, width, rngs=rngs, std=std, bias=bias)
        self.out = Linear(width, width, rngs=rngs, std=std)

    def parts(
        self, x: Float[Array, "sets tokens width"], heads: int
    ) -> list[Float[Array, "sets tokens heads head"]]:
        """Queries, keys and values of each head."""
        return [
            linear(x).reshape(*x.shape[:2], heads, -1)
            for linear in (self.query, self.key, self.value)
        ]


class WindowAttention(Attention):
    """Tokens see those of their own square window.

    Windows that reach beyond the picture are filled up with zeros, which are seen too.
    """

    def __init__(self, config: DaViTConfig, stage: int, *, rngs: nnx.Rngs | None):
        super().__init__(config, stage, rngs=rngs)
        self.heads, self.side = config.num_heads[stage], config.window_size

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        whole = filled_up(x, self.side)
        windows = cut(whole, self.side)
        query, key, value = self.parts(windows, self.heads)
        scores = jnp.einsum(
            "sqhc,skhc->shqk",
            query * query.shape[-1] ** -0.5,
            key,
            preferred_element_type=jnp.float32,
        )
        seen = jax.nn.softmax(scores, axis=-1).astype(x.dtype)
        mixed = self.out(jnp.einsum("shqk,skhc->sqhc", seen, value).reshape(windows.shape))
        grid = join(mixed, self.side, (whole.shape[1], whole.shape[2]))
        return grid[:, : x.shape[1], : x.shape[2]]


class ChannelAttention(Attention):
    """Channels see those of their own group, by what they are in all tokens."""

    def __init__(self, config: DaViTConfig, stage: int, *, rngs: nnx.Rngs | None):
        super().__init__(config, stage, rngs=rngs)
        self.groups = config.num_groups[stage]

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])
        query, key, value = self.parts(tokens, self.groups)
        scores = jnp.einsum(
            "bngc,bngd->bgcd",
            query * tokens.shape[1] ** -0.5,
            key,
            preferred_element_type=jnp.float32,
        )
        seen = jax.nn.softmax(scores, axis=-1).astype(x.dtype)
        mixed = jnp.einsum("bgcd,bngd->bngc", seen, value)
        return self.out(mixed.reshape(tokens.shape)).reshape(x.shape)


class HalfBlock(nnx.Module):
    """Attention of one kind and an MLP, each after `Neighbours`, normalised and added."""

    def __init__(
        self, config: DaViTConfig, stage: int, kind: type[Attention], *, rngs: nnx.Rngs | None
    ):
        width, std = config.embed_dim[stage], config.initializer_range
        self.before_attention = Neighbours(width, rngs=rngs, std=std)
        self.attention_norm = LayerNorm(width, rngs=rngs, epsilon=EPSILON)
        self.attention: Any = kind(config, stage, rngs=rngs)
        self.before_mlp = Neighbours(width, rngs=rngs, std=std)
        self.mlp_norm = LayerNorm(width, rngs=rngs, epsilon=EPSILON)
        mlp = MlpConfig(int(width * config.mlp_ratio), config.activation_function)
        self.mlp = Mlp(width, mlp, rngs=rngs, std=std)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        x = self.before_attention(x)
        x = x + self.attention(self.attention_norm(x))
        x = self.before_mlp(x)
        return x + self.mlp(self.mlp_norm(x))


class Block(nnx.Module):
    """Attention in windows, then attention between channels."""

    def __init__(self, config: DaViTConfig, stage: int, *, rngs: nnx.Rngs | None):
        self.windows = HalfBlock(config, stage, WindowAttention, rngs=rngs)
        self.channels = HalfBlock(config, stage, ChannelAttention, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        return self.channels(self.windows(x))


class DaViT(VisionEncoder):
    """Turns a picture of any size into a grid of visual tokens."""

    def __init__(self, config: DaViTConfig, *, rngs: nnx.Rngs | None):
        self.config = config
        stages = range(len(config.depths))
        self.patches = nnx.List([PatchConvolution(config, i, rngs=rngs) for i in stages])
        self.blocks = nnx.List(
            [
                nnx.List([Block(config, i, rngs=rngs) for _ in range(config.depths[i])])
                for i in stages
            ]
        )

    def parts(self) -> Sequence[Callable[[Array], Array]]:
        """Stage by stage, the patches and the blocks."""
        stages = zip(self.patches, self.blocks, strict=True)
        return [part for patches, blocks in stages for part in (patches, *blocks)]

    @property
    def image_size(self) -> tuple[int, int]:
        return PICTURE

    @property
    def features_width(self) -> int:
        return self.config.embed_dim[-1]


RULES = table(
    conv2d("convs.{}.conv", "patches.{}"),
    norm("convs.{}.norm", "patches.{}.norm"),
    *(
        table(
            conv2d(f"{theirs}.conv1", f"{ours}.before_attention"),
            norm(f"{theirs}.norm1", f"{ours}.attention_norm"),
            linear(
                f"{theirs}.{attention}.qkv",
                *(f"{ours}.attention.{part}" for part in ("query", "key", "value")),
            ),
            linear(f"{theirs}.{attention}.proj", f"{ours}.attention.out"),
            conv2d(f"{theirs}.conv2", f"{ours}.before_mlp"),
            norm(f"{theirs}.norm2", f"{ours}.mlp_norm"),
            linear(f"{theirs}.ffn.fc1", f"{ours}.mlp.up"),
            linear(f"{theirs}.ffn.fc2", f"{ours}.mlp.down"),
        )
        for theirs, ours, attention in (
            ("blocks.{}.{}.spatial_block", "blocks.{}.{}.windows", "window_attn"),
            ("blocks.{}.{}.channel_block", "blocks.{}.{}.channels", "channel_attn"),
        )
    ),
)
