"""ViT-MSN: from its config to a caption, in the steps of docs/new-family.md."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

import captax
from captax.models.registry import build, read_config
from captax.models.transformer import TransformerDecoderConfig
from captax.models.vit_msn import ViTMSNConfig
from captax.text import Tokenizer
from golden.families.vit import SMALL


def test_a_config_is_recognised_and_has_the_defaults_of_transformers() -> None:
    config = read_config({"model_type": "vit_msn"})
    assert isinstance(config, ViTMSNConfig)
    assert config.layer_norm_eps == 1e-6 and config.hidden_size == 768


def test_pictures_become_a_grid_of_tokens_behind_one_of_their_own() -> None:
    model = build({"model_type": "vit_msn", **SMALL}, rngs=nnx.Rngs(0))
    features = model(jnp.zeros((2, 32, 24, 3)))
    assert features.tokens.shape == (2, 1 + 4 * 3, 24)
    assert (features.grid, features.lead) == ((4, 3), 1)


def test_a_captioner_made_of_it_captions(
    checkpoint, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """With a decoder that has learned nothing, but the whole way from a picture to text."""
    decoder = TransformerDecoderConfig(
        vocab_size=tiny_tokenizer.vocab_size,
        width=16,
        layers=1,
        heads=2,
        mlp_width=32,
        max_positions=16,
        features_width=24,
        grid=(4, 4),
    )
    captioner = captax.from_pretrained_halves(
        checkpoint("vit-msn"), decoder, tokenizer=tiny_tokenizer
    )
    captioner.save(tmp_path / "captioner")
    picture = np.zeros((40, 50, 3), np.uint8)
    caption = captax.load(tmp_path / "captioner").caption(picture, max_new_tokens=3)[0]
    assert 1 <= len(caption.tokens) <= 3
