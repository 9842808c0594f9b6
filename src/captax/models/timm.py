"""Classifiers as timm publishes them: a config that names an architecture, and timm's tensor names.

timm (https://github.com/huggingface/pytorch-image-models) builds a model from the name of an
`architecture`, which stands for its shape, and from `model_args`, which change that. transformers
reads the same files by its `TimmWrapperConfig`.
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

from flax import nnx
from jaxtyping import Array, Float

from captax.errors import quoted
from captax.models.arithmetic import ACTIVATIONS
from captax.models.config import MOST, MOST_RATIO, ConfigError, ModelConfig, labels_of
from captax.models.convnext import EPSILON, KERNEL, ConvNextConfig
from captax.models.encoders import Features, PatchEncoder
from captax.models.layout import Layout, Rule, conv2d, linear, norm, table
from captax.models.modules import LayerNorm, Linear
from captax.models.patches import PatchEmbedding
from captax.models.swinv2 import Swinv2Config
from captax.models.vit import ViT, ViTConfig

# What timm calls activations, by transformers' names where these differ.
_ACTIVATIONS = {"gelu_tanh": "gelu_pytorch_tanh"}
# Arguments that change nothing once a model is trained.
_IDLE = re.compile(
    r"\w+_rate|weight_init|fix_init|head_init_scale|ls_init_value|num_classes|strict_img_size|"
    r"dynamic_img_size|dynamic_img_pad"
)


@dataclasses.dataclass(frozen=True)
class TimmConfig(ModelConfig):
    """Finds the family of a timm config; what it reads is a `TimmForm` of that family."""

    model_type: ClassVar[str] = "timm_wrapper"

    @classmethod
    def read(cls, config: Mapping[str, Any], tensors: Collection[str] = ()) -> Any:
        name = config.get("architecture")
        for pattern, form in FORMS.items():
            if isinstance(name, str) and (match := re.fullmatch(pattern, name)):
                try:
                    return form.of_timm(config, match.groupdict())
                except ConfigError as error:
                    raise ConfigError(f"{name}: {error}") from None
        raise ConfigError(
            f"architecture {quoted(name)} is not supported; captax has timm's vit, convnext and "
            "swinv2"
        )


@dataclasses.dataclass(frozen=True)
class TimmForm(ModelConfig):
    """What timm's form of a family changes: how it is read and written, and its tensors' names.

    `renamed` are timm's arguments by the fields that they become, `others` those that have no
    default in `defaults`, and `fixed_arguments` those for which captax supports one value only.
    `described` is the config as it was read, which is written again.
    """

    renamed: ClassVar[Mapping[str, str]] = {}
    others: ClassVar[tuple[str, ...]] = ()
    fixed_arguments: ClassVar[Mapping[str, Any]] = {}
    rules: ClassVar[tuple[Rule, ...]] = ()

    described: dict[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def defaults(cls, name: Mapping[str, str]) -> dict[str, Any]:
        """timm's arguments that the parts of an architecture's name stand for."""
        raise NotImplementedError

    @classmethod
    def fields(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        """The fields that timm's arguments become."""
        return {cls.renamed.get(key, key): value for key, value in arguments.items()}

    @property
    def stride(self) -> int:
        """The pixels across one cell of the last grid."""
        raise NotImplementedError

    @classmethod
    def of_timm(cls, config: Mapping[str, Any], name: Mapping[str, str]) -> Any:
        """The config that timm's config describes, given the parts of its architecture's name."""
        given = config.get("model_args") or {}
        pretrained = config.get("pretrained_cfg") or {}
        if not isinstance(given, Mapping) or not isinstance(pretrained, Mapping):
            raise ConfigError("model_args and pretrained_cfg must be objects")
        arguments = cls.defaults(name)
        if isinstance(size := pretrained.get("input_size"), list) and size[1:]:
            arguments["img_size"] = size[1] if size[1] == size[-1] else size[1:]
        fixed = {"in_chans": 3, "norm_layer": None, **cls.fixed_arguments}
        known = {*arguments, *cls.others}
        for key, value in given.items():
            if key in fixed and value == fixed[key]:
                continue
            if key in known - fixed.keys():
                arguments[key] = value
            elif not _IDLE.fullmatch(key):
                raise ConfigError(f"model_args: {key}={quoted(value)} is not supported")
        act = arguments.pop("act_layer", None) or "gelu"
        known_act = isinstance(act, str) and _ACTIVATIONS.get(act, act)
        if known_act not in ACTIVATIONS:
            raise ConfigError(f"model_args: act_layer={quoted(act)} is not supported")
        described: Any = cls.read({**cls.fields(arguments), "hidden_act": known_act})
        sides = described.image_size
        if min(sides if isinstance(sides, tuple) else (sides,)) < described.stride:
            raise ConfigError(
                f"pictures of {sides} are too small; give img_size or input_size of at least "
                f"{described.stride}"
            )
        count = config.get("num_classes", pretrained.get("num_classes"))
        return dataclasses.replace(
            described, labels=labels_of({"num_labels": count}), described=dict(config)
        )

    def write(self) -> dict[str, Any]:
        return dict(self.described)

    def as_encoder(self) -> Any:
        return ModelConfig.as_encoder(self)

    def as_classifier(self, labels: tuple[str, ...]) -> Any:
        return ModelConfig.as_classifier(self, labels)

    def layout(self) -> Layout:
        # transformers' wrapper puts timm's model under a name of its own.
        return Layout(self.rules, lambda name: name.removeprefix("timm_model."))


_VIT = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
_BLOCK = table(
    norm("blocks.{}.norm1", "layers.{}.self_norm"),
    linear(
        "blocks.{}.attn.qkv",
        *(f"layers.{{}}.self_attention.{part}" for part in ("query", "key", "value")),
    ),
    linear("blocks.{}.attn.proj", "layers.{}.self_attention.out"),
    norm("blocks.{}.norm2", "layers.{}.mlp_norm"),
    linear("blocks.{}.mlp.fc1", "layers.{}.mlp.up"),
    linear("blocks.{}.mlp.fc2", "layers.{}.mlp.down"),
)


@dataclasses.dataclass(frozen=True)
class TimmViTConfig(TimmForm, ViTConfig):
    """A ViT that may have no CLS token, and classifies by it or by the mean of all others.

    The mean is taken of the tokens after the last norm or, with `fc_norm`, before it.
    """

    renamed: ClassVar[Mapping[str, str]] = {
        "embed_dim": "hidden_size",
        "depth": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "img_size": "image_size",
    }
    others: ClassVar[tuple[str, ...]] = ("class_token", "global_pool", "fc_norm", "qkv_bias")
    fixed_arguments: ClassVar[Mapping[str, Any]] = {
        "init_values": None,
        "embed_layer": None,
        "embed_norm_layer": None,
        "pre_norm": False,
        "final_norm": True,
        "qk_norm": False,
        "proj_bias": True,
        "reg_tokens": 0,
        "no_embed_class": False,
        "pos_embed": "learn",
    }
    rules: ClassVar[tuple[Rule, ...]] = table(
        Rule("cls_token", ("embeddings.cls_token",), lead=2),
        Rule("pos_embed", ("embeddings.positions",), lead=1),
        conv2d("patch_embed.proj", "embeddings"),
        _BLOCK,
        norm("norm", "norm"),
        norm("fc_norm", "pooled_norm"),
        linear("head", "classifier"),
    )

    layer_norm_eps: float = 1e-6
    class_token: bool = True
    global_pool: str = "token"
    fc_norm: bool | None = None

    @classmethod
    def defaults(cls, name: Mapping[str, str]) -> dict[str, Any]:
        width, depth, heads = _VIT[name["size"]]
        return {
            "embed_dim": width,
            "depth": depth,
            "num_heads": heads,
            "mlp_ratio": 4.0,
            "patch_size": int(name["patch"]),
            "img_size": int(name["picture"]),
            "act_layer": "gelu",
        }

    @classmethod
    def fields(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        fields = super().fields(arguments)
        ratio, width = fields.pop("mlp_ratio"), fields["hidden_size"]
        return fields | {"intermediate_size": times("mlp_ratio", ratio, width)}

    @classmethod
    def read(cls, config: Mapping[str, Any], tensors: Collection[str] = ()) -> "TimmViTConfig":
        described: Any = super().read(config, tensors)
        pools = described.global_pool
        if pools not in ("token", "avg") or (pools == "token" and not described.class_token):
            raise ConfigError(
                f"global_pool={quoted(pools)} with class_token={described.class_token} is not "
                "supported; it must be avg, or token with a class token"
            )
        return described

    @property
    def stride(self) -> int:
        return self.patch_size

    @property
    def norm_comes_last(self) -> bool:
        """Whether the pooled token is normalised, and not all tokens before."""
        return self.global_pool == "avg" if self.fc_norm is None else self.fc_norm

    def build(self, *, rngs: nnx.Rngs | None = None) -> "TimmViT":
        return TimmViT(self, rngs=rngs)


class TimmViT(ViT):
    """Turns a picture into a grid of visual tokens, and classifies it."""

    config: TimmViTConfig

    def __init__(self, config: TimmViTConfig, *, rngs: nnx.Rngs | None):
        width, std = config.hidden_size, config.initializer_range
        embeddings = PatchEmbedding(
            width,
            config.patch_size,
            config.grid,
            rngs=rngs,
            has_cls=config.class_token,
            std=std,
        )
        PatchEncoder.__init__(self, config, embeddings, rngs=rngs)
        if config.norm_comes_last:
            del self.norm
            self.pooled_norm = LayerNorm(width, rngs=rngs, epsilon=config.layer_norm_eps)
        self.classifier = Linear(width, len(config.labels), rngs=rngs, std=std)

    def parts(self) -> Sequence[Callable[[Array], Array]]:
        """Embeddings, layers and, unless only the pooled token is normalised, the norm."""
        last = [] if self.config.norm_comes_last else [self.norm]
        return [self.embeddings, *self.layers, *last]

    def label(self, features: Features) -> Float[Array, "batch labels"]:
        """Logits of the labels, from the CLS token or the mean of the others."""
        tokens = features.tokens
        by_token = self.config.global_pool == "token"
        pooled = tokens[:, 0] if by_token else tokens[:, features.lead :].mean(1)
        return self.classifier(self.pooled_norm(pooled) if self.config.norm_comes_last else pooled)


_STAGES = {"tiny": (3, 3, 9, 3), "small": (3, 3, 27, 3)}
_CONVNEXT = {"tiny": 96, "small": 96, "base": 128, "large": 192}
_DW = "stages.{}.blocks.{}"


@dataclasses.dataclass(frozen=True)
class TimmConvNextConfig(TimmForm, ConvNextConfig):
    """A ConvNeXt, whose norms all have the same epsilon."""

    renamed: ClassVar[Mapping[str, str]] = {
        "dims": "hidden_sizes",
        "img_size": "image_size",
    }
    fixed_arguments: ClassVar[Mapping[str, Any]] = {
        "global_pool": "avg",
        "output_stride": 32,
        "kernel_sizes": KERNEL,
        "stem_type": "patch",
        "head_norm_first": False,
        "head_hidden_size": None,
        "conv_mlp": False,
        "conv_bias": True,
        "use_grn": False,
        "norm_eps": None,
    }
    rules: ClassVar[tuple[Rule, ...]] = table(
        conv2d("stem.0", "stem.squares"),
        norm("stem.1", "stem.norm"),
        norm("stages.{}.downsample.0", "stages.{}.downsampling.norm"),
        conv2d("stages.{}.downsample.1", "stages.{}.downsampling.squares"),
        conv2d(f"{_DW}.conv_dw", _DW),
        norm(f"{_DW}.norm", f"{_DW}.norm"),
        linear(f"{_DW}.mlp.fc1", f"{_DW}.mlp.up"),
        linear(f"{_DW}.mlp.fc2", f"{_DW}.mlp.down"),
        Rule(f"{_DW}.gamma", (f"{_DW}.scale",)),
        norm("head.norm", "norm"),
        linear("head.fc", "classifier"),
    )

    layer_norm_eps: float = EPSILON

    @classmethod
    def fields(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        fields = super().fields(arguments)
        depths = fields["depths"]
        return fields | {"num_stages": len(depths) if isinstance(depths, list) else 4}

    @property
    def stride(self) -> int:
        return self.patch_size * 2 ** (len(self.depths) - 1)

    @classmethod
    def defaults(cls, name: Mapping[str, str]) -> dict[str, Any]:
        width = _CONVNEXT[name["size"]]
        return {
            "dims": [width, 2 * width, 4 * width, 8 * width],
            "depths": list(_STAGES.get(name["size"], _STAGES["small"])),
            "patch_size": 4,
            "img_size": 224,
            "act_layer": "gelu",
        }


_SWIN = {
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48)),
}
_LAYER = "layers.{}.blocks.{}"
_OURS = "stages.{}.blocks.{}"


@dataclasses.dataclass(frozen=True)
class TimmSwinv2Config(TimmForm, Swinv2Config):
    """A SwinV2 in which tokens are merged at the beginning of a stage, not at its end."""

    merges_first: ClassVar[bool] = True
    others: ClassVar[tuple[str, ...]] = ("pretrained_window_sizes",)
    renamed: ClassVar[Mapping[str, str]] = {"img_size": "image_size"}
    fixed_arguments: ClassVar[Mapping[str, Any]] = {
        "global_pool": "avg",
        "qkv_bias": True,
        "always_partition": False,
    }
    rules: ClassVar[tuple[Rule, ...]] = table(
        conv2d("patch_embed.proj", "patches.squares"),
        norm("patch_embed.norm", "patches.norm"),
        linear(
            f"{_LAYER}.attn.qkv",
            *(f"{_OURS}.attention.{part}" for part in ("query", "key", "value")),
            bias=False,
        ),
        Rule(f"{_LAYER}.attn.q_bias", (f"{_OURS}.attention.query.bias",)),
        Rule(f"{_LAYER}.attn.v_bias", (f"{_OURS}.attention.value.bias",)),
        Rule(f"{_LAYER}.attn.logit_scale", (f"{_OURS}.attention.logit_scale",)),
        linear(f"{_LAYER}.attn.cpb_mlp.0", f"{_OURS}.attention.bias_up"),
        linear(f"{_LAYER}.attn.cpb_mlp.2", f"{_OURS}.attention.bias_down", bias=False),
        linear(f"{_LAYER}.attn.proj", f"{_OURS}.attention.out"),
        norm(f"{_LAYER}.norm1", f"{_OURS}.attention_norm"),
        linear(f"{_LAYER}.mlp.fc1", f"{_OURS}.mlp.up"),
        linear(f"{_LAYER}.mlp.fc2", f"{_OURS}.mlp.down"),
        norm(f"{_LAYER}.norm2", f"{_OURS}.mlp_norm"),
        linear("layers.{}.downsample.reduction", "stages.{}.merging.reduction", bias=False),
        norm("layers.{}.downsample.norm", "stages.{}.merging.norm"),
        norm("norm", "norm"),
        linear("head.fc", "classifier"),
    )

    @property
    def stride(self) -> int:
        return self.patch_size * 2 ** (len(self.depths) - 1)

    @classmethod
    def defaults(cls, name: Mapping[str, str]) -> dict[str, Any]:
        width, depths, heads = _SWIN[name["size"]]
        return {
            "embed_dim": width,
            "depths": list(depths),
            "num_heads": list(heads),
            "window_size": int(name["window"]),
            "patch_size": 4,
            "img_size": int(name["picture"]),
            "mlp_ratio": 4.0,
            "act_layer": "gelu",
        }

    @classmethod
    def fields(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        fields = super().fields(arguments)
        if "pretrained_window_sizes" not in fields and isinstance(fields["depths"], list):
            fields["pretrained_window_sizes"] = [0] * len(fields["depths"])
        return fields

    @classmethod
    def read(cls, config: Mapping[str, Any], tensors: Collection[str] = ()) -> Any:
        described: Any = super().read(config, tensors)
        # timm fills grids up in another way than transformers; none of the published needs that.
        grids = [described.image_size // described.patch_size]
        for _ in described.depths[1:]:
            grids.append(grids[-1] // 2)
        whole = (
            described.image_size
            == described.patch_size * grids[0]
            == (described.patch_size * grids[-1] * 2 ** (len(grids) - 1))
        )
        if not whole or any(grid % min(grid, described.window_size) for grid in grids if grid):
            raise ConfigError(
                f"img_size={described.image_size} with window_size={described.window_size} is not "
                "supported; windows must fill the grid of every stage"
            )
        return described


def times(name: str, ratio: Any, width: Any) -> int:
    """`ratio` times `width`, rounded down; raises `ConfigError` for what gives no sensible size."""
    plain = type(ratio) in (int, float) and type(width) is int
    if not plain or not 0 < ratio <= MOST_RATIO or not 0 < width <= MOST:
        raise ConfigError(f"{name}={quoted(ratio)} must be above 0 and at most {MOST_RATIO:,}")
    return int(width * ratio)


# By patterns of the architecture's name, whose groups `defaults` reads.
FORMS: dict[str, type[TimmForm]] = {
    r"vit_(?P<size>tiny|small|base|large)_patch(?P<patch>\d{1,2})_(?P<picture>\d{2,4})": (
        TimmViTConfig
    ),
    r"convnext_(?P<size>tiny|small|base|large)": TimmConvNextConfig,
    r"swinv2_(?P<size>tiny|small|base|large)_window(?P<window>\d{1,2})_(?P<picture>\d{2,4})": (
        TimmSwinv2Config
    ),
}
