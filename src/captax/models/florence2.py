"""Florence-2: DaViT, whose tokens take places in the text that BART rewrites.

Xiao et al., *Florence-2: Advancing a Unified Representation for a Variety of Vision Tasks*
(https://arxiv.org/abs/2311.06242). The model computes what transformers'
`Florence2ForConditionalGeneration` computes. BART's encoder reads picture and prompt, and its
decoder begins with the start token alone.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from captax.errors import quoted
from captax.models.bart import RULES as BART_RULES
from captax.models.bart import TIED, WORDS, BartConfig, BartDecoder, BartEncoder
from captax.models.config import ConfigError, ModelConfig, Roles
from captax.models.connectors import Connector
from captax.models.davit import PICTURE, DaViTConfig
from captax.models.encoders import Features, LengthError, ShapeError
from captax.models.layout import Layout, Rule, linear, norm, table
from captax.models.modules import LayerNorm, Linear, parameter
from captax.models.observing import scope
from captax.models.prompt import Prompt, splice
from captax.models.vision_language import VisionLanguageModel

VISION, TEXT = DaViTConfig(), BartConfig(logits_bias=False)
# What `microsoft/*` calls a setting of the encoder, with the kind that captax has.
_OLD_SETTINGS = {
    "visual_temporal_embedding": ("COSINE", "max_temporal_embeddings", "max_temporal_embeddings"),
    "image_pos_embed": ("learned_abs_2d", "max_pos_embeddings", "max_position_embeddings"),
}
_SOURCES = ["spatial_avg_pool", "temporal_avg_pool"]


@dataclasses.dataclass(frozen=True)
class Florence2Config(ModelConfig):
    """The configs of the encoder of pictures and of BART, as transformers or as Microsoft has them.

    It is written as transformers has it.
    """

    model_type: ClassVar[str] = "florence2"
    fixed: ClassVar[dict[str, Any]] = {"tie_word_embeddings": True}
    several: ClassVar[bool] = False

    vision_config: DaViTConfig = VISION
    text_config: BartConfig = TEXT
    image_token_id: int = 51289

    @classmethod
    def read(cls, config: Mapping[str, Any], tensors: Collection[str] = ()) -> "Florence2Config":
        vision, text = (config.get(name) or {} for name in ("vision_config", "text_config"))
        for name, said in (("vision_config", vision), ("text_config", text)):
            if not isinstance(said, Mapping):
                raise ConfigError(f"florence2: {name}={quoted(said)} must be a JSON object")
        parts = {
            "vision_config": DaViTConfig.read(_as_today(vision)),
            "text_config": dataclasses.replace(BartConfig.read(text), logits_bias=False),
        }
        described = super().read({**config, **parts}, tensors)
        widths = described.vision_config.projection_dim, described.text_config.d_model
        if widths[0] != widths[1]:
            raise ConfigError(
                f"florence2: vision_config.projection_dim={widths[0]} must be the width of BART, "
                f"text_config.d_model={widths[1]}"
            )
        return described

    def write(self) -> dict[str, Any]:
        vision, text = self.vision_config.write(), self.text_config.write()
        for said in (vision, text):
            del said["architectures"]
        del text["logits_bias"]
        return {
            **super().write(),
            "vision_config": vision,
            "text_config": text,
            "architectures": ["Florence2ForConditionalGeneration"],
            "is_encoder_decoder": True,
            "tie_word_embeddings": True,
        }

    def roles(self) -> Roles:
        return self.text_config.roles()

    def layout(self) -> Layout:
        return Layout(RULES, _canonical, frozenset({"image_projection"}))

    def places_of(self, size: tuple[int, int]) -> int:
        """How many tokens stand for a picture of this (height, width)."""
        rows, columns = self.vision_config.grid_of(size)
        return 1 + rows * columns

    @property
    def places(self) -> int:
        """How many tokens stand for a picture of the size of all published checkpoints."""
        return self.places_of(PICTURE)

    def build(self, *, rngs: nnx.Rngs | None = None) -> "Florence2":
        return Florence2(self, rngs=rngs)


class Florence2Connector(Connector):
    """Adds positions, puts the mean of all tokens first, and projects and normalises them.

    The second table holds positions in time, whose first one a picture has; it is not trained.
    """

    def __init__(self, config: DaViTConfig, *, rngs: nnx.Rngs | None):
        width, std = config.embed_dim[-1], config.initializer_range
        most = config.max_position_embeddings
        self.rows = parameter(rngs, (most, width // 2), std=std)
        self.columns = parameter(rngs, (most, width - width // 2), std=std)
        self.times = parameter(rngs, (config.max_temporal_embeddings, width))
        if rngs is not None:
            self.times = nnx.Param(_waves(config.max_temporal_embeddings, width))
        self.proj = Linear(width, config.projection_dim, rngs=rngs, bias=False, std=std)
        self.norm = LayerNorm(config.projection_dim, rngs=rngs, epsilon=1e-5)

    def __call__(self, features: Features) -> Features:
        rows, columns = features.grid
        if max(rows, columns) > len(self.rows):
            raise ShapeError(
                f"the picture has {rows} x {columns} tokens and the model has positions for "
                f"{len(self.rows)} x {len(self.rows)}; use a smaller size of pictures"
            )
        grid = jnp.broadcast_to(self.columns[...][:columns], (rows, columns, self.columns.shape[1]))
        down = jnp.broadcast_to(self.rows[...][:rows, None], (rows, columns, self.rows.shape[1]))
        places = jnp.concatenate([grid, down], axis=-1).reshape(rows * columns, -1)
        tokens = features.tokens + places + jax.lax.stop_gradient(self.times[...][0])
        tokens = jnp.concatenate([tokens.mean(1, keepdims=True), tokens], axis=1)
        tokens = self.norm(self.proj(tokens.astype(features.tokens.dtype)))
        return Features(tokens, features.grid, lead=1)


def _waves(count: int, width: int) -> Float[Array, "count width"]:
    """Sines and cosines in turn, as in https://arxiv.org/abs/1706.03762, section 3.5."""
    half = width // 2
    angles = np.arange(count)[:, None] * np.exp(-np.log(10_000) / half * np.arange(half))
    return jnp.asarray(np.stack([np.sin(angles), np.cos(angles)], -1).reshape(count, -1))


class Florence2(VisionLanguageModel):
    """DaViT, the connector, and BART; `text_encoder` is the half of BART that reads prompts."""

    def __init__(self, config: Florence2Config, *, rngs: nnx.Rngs | None):
        vision, text = config.vision_config, config.text_config
        decoder = BartDecoder(text, rngs=rngs)
        super().__init__(
            vision.build(rngs=rngs),
            Florence2Connector(vision, rngs=rngs),
            decoder,
            config=config,
        )
        self.text_encoder = BartEncoder(text, decoder.embeddings.words, rngs=rngs)
        self.project = None  # the connector does it

    def placed(self, prompt: Prompt) -> Prompt:
        return prompt  # the question has the picture's places

    def given(self, features: Features, prompt: Prompt) -> tuple[Features, Prompt]:
        """The encoded question, and the prompt without it.

        Raises `LengthError` if the question is longer than the encoder can read.
        """
        if prompt.question is None:
            return features, prompt
        question: Any = super().placed(prompt.question)
        time, most = question.tokens.shape[1], self.text_encoder.max_positions
        if time > most:
            raise LengthError(
                f"the encoder reads {most} tokens and picture and prompt have {time}; shorten the "
                "prompt"
            )
        # The picture's token may have no embedding.
        tokens = jnp.where(question.pictures, 0, jnp.asarray(question.tokens))
        words = self.text_encoder.embeddings.of_words(tokens)
        with scope("text_encoder"):
            spliced = splice(words, features.tokens, question.pictures)
            read = self.text_encoder.read(spliced, question.real)
        return read, dataclasses.replace(prompt, question=None)


CONNECTOR = "model.multi_modal_projector"


def _of_bart(rule: Rule) -> Rule:
    ours = tuple(re.sub(r"^encoder\.", "text_encoder.", name) for name in rule.ours)
    theirs = rule.theirs.replace("model.", "model.language_model.", 1)
    return dataclasses.replace(rule, theirs=theirs, ours=ours)


RULES = table(
    VISION.layout().within("model.vision_tower.", "encoder.").rules,
    linear(f"{CONNECTOR}.image_projection", "connector.proj", bias=False),
    norm(f"{CONNECTOR}.image_proj_norm", "connector.norm"),
    Rule(f"{CONNECTOR}.image_position_embed.row_embeddings.weight", ("connector.rows",)),
    Rule(f"{CONNECTOR}.image_position_embed.column_embeddings.weight", ("connector.columns",)),
    Rule(f"{CONNECTOR}.visual_temporal_embed.pos_idx_to_embed", ("connector.times",)),
    *(_of_bart(rule) for rule in BART_RULES if rule.theirs.startswith("model.")),
)
# How Microsoft's checkpoints spell what transformers spells otherwise.
_SPELT = tuple(
    (re.compile(old), new)
    for old, new in (
        (r"^image_projection$", f"{CONNECTOR}.image_projection.weight"),
        (r"^image_proj_norm\.", f"{CONNECTOR}.image_proj_norm."),
        (r"^image_pos_embed\.", f"{CONNECTOR}.image_position_embed."),
        (r"^visual_temporal_embed\.", f"{CONNECTOR}.visual_temporal_embed."),
        (r"^vision_tower\.", "model.vision_tower."),
        (r"^language_model\.model\.", "model.language_model."),
        (r"^language_model\.lm_head\.", "lm_head."),
        (r"(convs\.\d+)\.proj\.", r"\1.conv."),
        (r"_block\.(conv[12])\.fn\.dw\.", r"_block.\1."),
        (r"_block\.(window|channel)_attn\.norm\.", "_block.norm1."),
        (r"_block\.(window|channel)_attn\.fn\.", r"_block.\1_attn."),
        (r"_block\.ffn\.norm\.", "_block.norm2."),
        (r"_block\.ffn\.fn\.net\.", "_block.ffn."),
    )
)


def _canonical(name: str) -> str | None:
    for old, new in _SPELT:
        name = old.sub(new, name)
    if name == "language_model.final_logits_bias":
        return None  # zeros, which transformers' class has no place for
    bare = name.replace("model.language_model.", "model.", 1)
    return WORDS.replace("model.", "model.language_model.", 1) if bare in TIED else name


def _as_today(vision: Mapping[str, Any]) -> dict[str, Any]:
    """The encoder's config with the names of transformers, from one with Microsoft's names."""
    said = dict(vision)
    if "dim_embed" in said:
        said["embed_dim"] = said.pop("dim_embed")
    for name, (kind, theirs, ours) in _OLD_SETTINGS.items():
        inner = said.pop(name, None)
        if inner is None:
            continue
        if not isinstance(inner, Mapping) or inner.get("type", kind) != kind or theirs not in inner:
            raise ConfigError(
                f"florence2: vision_config.{name}={quoted(inner)} is not supported; its type must "
                f"be {quoted(kind)}, and it must have {theirs}"
            )
        said[ours] = inner[theirs]
    if said.get("image_feature_source", _SOURCES) != _SOURCES:
        raise ConfigError(
            f"florence2: vision_config.image_feature_source={quoted(said['image_feature_source'])} "
            f"is not supported; it must be {quoted(_SOURCES)}"
        )
    return said
