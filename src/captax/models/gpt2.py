"""GPT-2, as a language model or, with cross-attention, as the decoder of a captioner.

Radford et al., *Language Models are Unsupervised Multitask Learners* (2019). The model computes
what transformers' `GPT2LMHeadModel` computes.
"""

import dataclasses
import re
from typing import Any, ClassVar

from flax import nnx
from jaxtyping import Array, Float

from captax.models.arithmetic import project
from captax.models.config import ModelConfig, Roles
from captax.models.decoders import WordDecoder
from captax.models.layout import Layout, Rule, conv1d, linear, norm, table
from captax.models.modules import (
    AttentionConfig,
    LayerConfig,
    LayerNorm,
    Linear,
    MlpConfig,
    NormConfig,
)
from captax.models.observing import record


@dataclasses.dataclass(frozen=True)
class GPT2Config(ModelConfig):
    """Shape of the model, with the names and defaults of transformers."""

    model_type: ClassVar[str] = "gpt2"
    fixed: ClassVar[dict[str, Any]] = {
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        # The encoder may have any width here: a projection maps its hidden states to `n_embd`.
        "cross_attention_hidden_size": None,
    }

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True
    bos_token_id: int | None = 50256
    eos_token_id: int | tuple[int, ...] | None = 50256
    pad_token_id: int | None = None

    def roles(self) -> Roles:
        return Roles(self.bos_token_id, self.eos_token_id, self.pad_token_id)

    def as_decoder(self) -> "GPT2Config":
        return dataclasses.replace(self, add_cross_attention=True)

    def layer(self) -> LayerConfig:
        """The shape of its layers."""
        return LayerConfig(
            self.n_embd,
            AttentionConfig(self.n_head, dropout=self.attn_pdrop),
            MlpConfig(self.n_inner or 4 * self.n_embd, self.activation_function),
            NormConfig(self.layer_norm_epsilon),
            context_width=self.n_embd if self.add_cross_attention else None,
            dropout=self.resid_pdrop,
            std=self.initializer_range,
            # Smaller, so that the residual stream does not grow with depth.
            out_std=self.initializer_range * (2 * self.n_layer) ** -0.5,
        )

    def write(self) -> dict[str, Any]:
        kind = {"architectures": ["GPT2LMHeadModel"], "is_decoder": self.add_cross_attention}
        return {**super().write(), **kind}

    def layout(self) -> Layout:
        tied = self.tie_word_embeddings
        head = () if tied else linear("lm_head", "head", bias=False)
        return Layout(table(RULES, head), lambda name: _canonical(name, tied))

    def build(self, *, rngs: nnx.Rngs | None = None) -> "GPT2":
        return GPT2(self, rngs=rngs)


class GPT2(WordDecoder):
    """Pre-norm layers over token and position embeddings.

    If `tie_word_embeddings`, the token embedding is also the output layer.
    """

    def __init__(self, config: GPT2Config, *, rngs: nnx.Rngs | None):
        width, std = config.n_embd, config.initializer_range
        super().__init__(
            config,
            config.vocab_size,
            config.n_positions,
            config.layer(),
            config.n_layer,
            rngs=rngs,
            dropout=config.embd_pdrop,
            std=std,
        )
        self.norm = LayerNorm(width, rngs=rngs, epsilon=config.layer_norm_epsilon)
        if not config.tie_word_embeddings:
            self.head = Linear(width, config.vocab_size, rngs=rngs, bias=False, std=std)

    def logits(self, x: Float[Array, "*rows width"]) -> Float[Array, "*rows vocab"]:
        x = record("hidden_states", self.norm(x))
        return project(x, self.embedding[...]) if self.config.tie_word_embeddings else self.head(x)


RULES = table(
    Rule("transformer.wte.weight", ("embedding",)),
    Rule("transformer.wpe.weight", ("positions",)),
    norm("transformer.h.{}.ln_1", "layers.{}.self_norm"),
    conv1d(
        "transformer.h.{}.attn.c_attn",
        "layers.{}.self_attention.query",
        "layers.{}.self_attention.key",
        "layers.{}.self_attention.value",
    ),
    conv1d("transformer.h.{}.attn.c_proj", "layers.{}.self_attention.out"),
    norm("transformer.h.{}.ln_cross_attn", "layers.{}.cross_norm"),
    conv1d("transformer.h.{}.crossattention.q_attn", "layers.{}.cross_attention.query"),
    conv1d(
        "transformer.h.{}.crossattention.c_attn",
        "layers.{}.cross_attention.key",
        "layers.{}.cross_attention.value",
    ),
    conv1d("transformer.h.{}.crossattention.c_proj", "layers.{}.cross_attention.out"),
    norm("transformer.h.{}.ln_2", "layers.{}.mlp_norm"),
    conv1d("transformer.h.{}.mlp.c_fc", "layers.{}.mlp.up"),
    conv1d("transformer.h.{}.mlp.c_proj", "layers.{}.mlp.down"),
    norm("transformer.ln_f", "norm"),
)
# Buffers that hold the causal mask in checkpoints from before 2023.
MASKS = re.compile(r"transformer\.h\.\d+\.(attn|crossattention)\.(bias|masked_bias)")


def _canonical(name: str, tied: bool) -> str | None:
    if name == "lm_head.weight":
        return None if tied else name
    # The first checkpoints, such as `gpt2` itself, hold the model without its head.
    name = name if name.startswith("transformer.") else f"transformer.{name}"
    return None if MASKS.fullmatch(name) else name
