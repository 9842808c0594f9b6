"""GIT, a captioner whose decoder reads picture and text as one sequence.

Wang et al., *GIT: A Generative Image-to-text Transformer for Vision and Language*
(https://arxiv.org/abs/2205.14100). The model computes what transformers' `GitForCausalLM` computes.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from captax.errors import quoted
from captax.models.arithmetic import project
from captax.models.bert import LAYER_RULES
from captax.models.clip import VisionTowerConfig
from captax.models.config import ConfigError
from captax.models.decoders import BertLikeDecoder, TextDecoder
from captax.models.encoder_decoder import EncoderDecoder
from captax.models.encoders import Features, VisionEncoder
from captax.models.layout import Layout, Rule, join, linear, norm, table
from captax.models.modules import LayerNorm, Linear, parameter
from captax.models.observing import record
from captax.models.shapes import BertLikeConfig

Pixels = Float[Array, "batch height width 3"] | Float[Array, "batch frames height width 3"]


@dataclasses.dataclass(frozen=True)
class GitVisionConfig(VisionTowerConfig):
    """Shape of the encoder: CLIP's vision tower with smaller patches."""

    model_type: ClassVar[str] = "git_vision_model"
    architecture: ClassVar[str] = "GitVisionModel"
    prefix: ClassVar[str] = "vision_model."
    final_norm: ClassVar[bool] = True

    patch_size: int = 16


@dataclasses.dataclass(frozen=True)
class GitConfig(BertLikeConfig):
    """Shape of both halves, with the names and defaults of transformers.

    If `num_image_with_embedding` is set, the model also reads up to that many frames of a video.
    """

    model_type: ClassVar[str] = "git"

    num_image_with_embedding: int | None = None
    vision_config: GitVisionConfig = GitVisionConfig()
    num_hidden_layers: int = 6
    max_position_embeddings: int = 1024
    tie_word_embeddings: bool = False
    bos_token_id: int | None = 101
    eos_token_id: int | tuple[int, ...] | None = 102

    @classmethod
    def read(cls, config: Mapping[str, Any], tensors: Collection[str] = ()) -> "GitConfig":
        vision = config.get("vision_config") or {}
        if not isinstance(vision, Mapping):
            raise ConfigError(f"git: vision_config={quoted(vision)} must be a JSON object")
        return super().read({**config, "vision_config": GitVisionConfig.read(vision)}, tensors)

    def write(self) -> dict[str, Any]:
        return {
            **super().write(),
            "vision_config": self.vision_config.write(),
            "architectures": ["GitForCausalLM"],
        }

    def layout(self) -> Layout:
        def canonical(name: str) -> str | None:
            copies = {"output.weight"} if self.tie_word_embeddings else set()
            if name in copies | {"git.embeddings.position_ids"}:
                return None
            # As checkpoints on the hub spell it.
            return name.replace("git.img_temperal_embedding.", "git.img_temporal_embedding.")

        return join(
            self.vision_config.layout().within("git.image_encoder.", "encoder."),
            Layout((Rule("git.img_temporal_embedding.{}", ("frames.{}.value",), lead=2),)),
            Layout(Layout(RULES).within("", "decoder.").rules, canonical),
        )

    def build(self, *, rngs: nnx.Rngs | None = None) -> "Git":
        encoder = self.vision_config.build(rngs=rngs)
        return Git(encoder, GitDecoder(self, rngs=rngs), config=self, rngs=rngs)


class FramePlace(nnx.Module):
    """What is added to all tokens of one of the frames of a video."""

    def __init__(self, width: int, *, rngs: nnx.Rngs | None):
        self.value = parameter(rngs, (width,))


class Git(EncoderDecoder):
    """GIT, which is shown pictures or, if it was taught to, videos."""

    config: GitConfig

    def __init__(
        self,
        encoder: VisionEncoder,
        decoder: TextDecoder,
        *,
        config: GitConfig,
        rngs: nnx.Rngs | None = None,
    ):
        super().__init__(encoder, decoder, config=config, rngs=rngs)
        width = config.vision_config.hidden_size
        count = config.num_image_with_embedding or 0
        self.frames = nnx.List([FramePlace(width, rngs=rngs) for _ in range(count)])

    @property
    def most_frames(self) -> int:
        return len(self.frames)

    def encode(self, inputs: Pixels) -> Features:  # type: ignore[override]
        """Encode pictures, or videos: the tokens of all frames of each, one frame after another."""
        if inputs.ndim == 4:
            return super().encode(inputs)
        batch, count = inputs.shape[:2]
        features = super().encode(inputs.reshape(-1, *inputs.shape[2:]))
        places = jnp.stack([frame.value[...] for frame in self.frames[:count]])
        _, patches, width = features.tokens.shape
        tokens = features.tokens.reshape(batch, count, patches, width) + places[:, None]
        return Features(tokens.reshape(batch, count * patches, width), (1, count * patches))


class GitDecoder(BertLikeDecoder):
    """Post-norm layers over picture tokens, which see one another, and text tokens, which see both.

    Picture tokens do not see the text, so they go through the layers once, before any text.
    """

    def __init__(self, config: GitConfig, *, rngs: nnx.Rngs | None):
        width, std, vision = config.hidden_size, config.initializer_range, config.vision_config
        self.project = Linear(vision.hidden_size, width, rngs=rngs, std=std)
        self.project_norm = LayerNorm(width, rngs=rngs, epsilon=vision.layer_norm_eps)
        super().__init__(config, rngs=rngs)
        self.embedding_norm = LayerNorm(width, rngs=rngs, epsilon=config.layer_norm_eps)
        tied = config.tie_word_embeddings
        self.kernel = None if tied else parameter(rngs, (config.vocab_size, width), std=std)
        self.bias = parameter(rngs, (config.vocab_size,))

    @property
    def context_width(self) -> None:
        return None  # the decoder projects the encoder's tokens

    def front(self, features: Features) -> Float[Array, "batch places width"]:
        return self.project_norm(self.project(features.tokens))

    def normed(self, x: Float[Array, "rows time width"]) -> Float[Array, "rows time width"]:
        return self.embedding_norm(x)

    def logits(self, x: Float[Array, "*rows width"]) -> Float[Array, "*rows vocab"]:
        kernel = (self.embedding if self.kernel is None else self.kernel)[...]
        return project(record("hidden_states", x), kernel) + self.bias[...]


RULES = table(
    linear("git.visual_projection.visual_projection.0", "project"),
    norm("git.visual_projection.visual_projection.1", "project_norm"),
    Rule("git.embeddings.word_embeddings.weight", ("embedding",)),
    Rule("git.embeddings.position_embeddings.weight", ("positions",)),
    norm("git.embeddings.LayerNorm", "embedding_norm"),
    Layout(LAYER_RULES).within("git.", "").rules,
    Rule("output.weight", ("kernel",)),
    Rule("output.bias", ("bias",)),
)
