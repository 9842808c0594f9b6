"""Configs and positions of Qwen's vision-language models."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from captax.models.config import ConfigError, read_config
from captax.models.qwen2_5_vl import Qwen2_5_VLConfig
from captax.models.qwen3_vl import Qwen3VLConfig
from captax.models.qwen_vl import positions_around
from captax.models.rotary import Rotary

# As published, without what captax does not read.
QWEN25_3B: dict[str, Any] = {
    "model_type": "qwen2_5_vl",
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_attention_heads": 16,
    "num_hidden_layers": 36,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "use_sliding_window": False,
    "tie_word_embeddings": True,
    "vision_config": {
        "depth": 32,
        "hidden_act": "silu",
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "in_chans": 3,
        "out_hidden_size": 2048,
        "patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vocab_size": 151936,
}
QWEN3_2B: dict[str, Any] = {
    "model_type": "qwen3_vl",
    "text_config": {
        "model_type": "qwen3_vl_text",
        "head_dim": 128,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
        "num_key_value_heads": 8,
        "rope_scaling": {
            "mrope_interleaved": True,
            "mrope_section": [24, 20, 20],
            "rope_type": "default",
        },
        "rope_theta": 5000000,
        "tie_word_embeddings": True,
        "vocab_size": 151936,
    },
    "tie_word_embeddings": True,
    "vision_config": {
        "model_type": "qwen3_vl",
        "deepstack_visual_indexes": [5, 11, 17],
        "depth": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_heads": 16,
        "out_hidden_size": 2048,
    },
}


def test_published_configs_are_read() -> None:
    first = read_config(QWEN25_3B)
    assert isinstance(first, Qwen2_5_VLConfig) and first.side == 28
    assert first.text_config.num_hidden_layers == 36 and first.text_config.tie_word_embeddings
    assert first.text_config.rope_theta == 1e6 and first.text_config.rope_scaling is None
    later = read_config(QWEN3_2B)
    assert isinstance(later, Qwen3VLConfig) and later.side == 32
    assert later.vision_config.levels == (5, 11, 17)
    assert later.text_config.rope_theta == 5e6 and later.text_config.tie_word_embeddings
    for config in (first, later):
        assert read_config(config.write()) == config


def test_sections_of_positions_follow_each_other_or_take_turns() -> None:
    first, later = read_config(QWEN25_3B), read_config(QWEN3_2B)
    assert first.text_config.layer().attention.rotary.axes == (0,) * 16 + (1,) * 24 + (2,) * 24
    axes = later.text_config.layer().attention.rotary.axes
    assert axes == (0, 1, 2) * 20 + (0,) * 4
    # On one axis, all pairs turn as they always did.
    rotary = Rotary(128, 5e6, axes=axes)
    places = jnp.arange(7)[None]
    for got, want in zip(
        rotary.turns(jnp.stack([places] * 3)), Rotary(128, 5e6).turns(places), strict=True
    ):
        np.testing.assert_array_equal(got, want)


def test_words_go_on_from_the_longer_side_of_a_picture() -> None:
    pictures = jnp.array([[0, 0, 1, 1, 1, 1, 1, 1, 0, 0], [0] * 10, [1] * 4 + [0] * 6], bool)
    found = positions_around(pictures, jnp.array([[[2, 3]], [[2, 3]], [[4, 1]]]))
    np.testing.assert_array_equal(
        found[:, 0],
        [
            [0, 1, 2, 2, 2, 2, 2, 2, 5, 6],
            [0, 1, 2, 2, 2, 3, 3, 3, 5, 6],
            [0, 1, 2, 3, 4, 2, 3, 4, 5, 6],
        ],
    )
    np.testing.assert_array_equal(found[:, 1], [range(10)] * 3)
    np.testing.assert_array_equal(found[1, 2], range(10))
    np.testing.assert_array_equal(found[2, 2], [0, 0, 0, 0, 4, 5, 6, 7, 8, 9])


@pytest.mark.parametrize(
    ("config", "part", "change", "message"),
    [
        (QWEN3_2B, "vision_config", {"out_hidden_size": 9}, "out_hidden_size=9 must be the width"),
        (QWEN3_2B, "vision_config", {"num_heads": 512}, "not a multiple of 4"),
        (QWEN3_2B, "vision_config", {"num_heads": 3}, "not a multiple of the number of heads"),
        (QWEN3_2B, "vision_config", {"deepstack_visual_indexes": [5, 24]}, "no layer 24"),
        (QWEN3_2B, "vision_config", {"num_position_embeddings": 5}, "must be a square"),
        (QWEN3_2B, "vision_config", {"in_channels": 4}, "in_channels=4 is not supported"),
        (QWEN3_2B, "text_config", {"head_dim": 64}, "must add up to half the width of a head, 32"),
        (QWEN3_2B, "text_config", {"model_type": "llama"}, "'llama' is not supported"),
        (QWEN25_3B, "vision_config", {"window_size": 14}, "must be at least the 28 pixels"),
    ],
)
def test_what_does_not_fit_is_refused(
    config: dict[str, Any], part: str, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config({**config, part: {**config[part], **change}})
    with pytest.raises(ConfigError, match="use_sliding_window=True is not supported"):
        read_config({**QWEN25_3B, "use_sliding_window": True})
