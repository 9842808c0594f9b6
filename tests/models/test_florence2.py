"""Florence-2: how Microsoft's checkpoints spell it, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from captax.checkpoints.directory import load_model, save_model
from captax.checkpoints.state import parameters
from captax.models.encoders import ShapeError
from captax.models.florence2 import Florence2Config
from captax.models.registry import ConfigError, build, read_config
from golden.families import CASES

STORED = CASES["florence2"].stored
# Today's names, and Microsoft's, as transformers' conversion script pairs them.
SPELT = {
    "model.multi_modal_projector.image_projection.weight": "image_projection",
    "model.multi_modal_projector.image_proj_norm": "image_proj_norm",
    "model.multi_modal_projector.image_position_embed": "image_pos_embed",
    "model.multi_modal_projector.visual_temporal_embed": "visual_temporal_embed",
    "model.language_model.": "language_model.model.",
    "model.vision_tower.": "vision_tower.",
}
WITHIN = {
    r"(convs\.\d+)\.conv\.": r"\1.proj.",
    r"_block\.(conv\d)\.": r"_block.\1.fn.dw.",
    r"(spatial_block)\.norm1\.": r"\1.window_attn.norm.",
    r"(channel_block)\.norm1\.": r"\1.channel_attn.norm.",
    r"_block\.norm2\.": "_block.ffn.norm.",
    r"_block\.(\w+_attn)\.(qkv|proj)\.": r"_block.\1.fn.\2.",
    r"_block\.ffn\.(fc\d)\.": r"_block.ffn.fn.net.\1.",
}


def as_microsoft(folder: Path) -> Path:
    """The stored checkpoint, as Microsoft would have it."""
    tensors = {}
    for name, value in safetensors.numpy.load_file(STORED / "model.safetensors").items():
        for today, old in SPELT.items():
            if name.startswith(today):
                name = old + name.removeprefix(today)
        for today, old in WITHIN.items():
            name = re.sub(today, old, name)
        tensors[name] = np.ascontiguousarray(value.T) if name == "image_projection" else value
    words = tensors["language_model.model.shared.weight"]
    for copy in ("model.encoder.embed_tokens", "model.decoder.embed_tokens", "lm_head"):
        tensors[f"language_model.{copy}.weight"] = words
    tensors["language_model.final_logits_bias"] = np.zeros((1, len(words)), np.float32)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    config = json.loads((STORED / "config.json").read_text())
    vision, text = config["vision_config"], config["text_config"]
    del config["image_token_id"]
    vision |= {
        "model_type": "davit",
        "dim_embed": vision.pop("embed_dim"),
        "image_feature_source": ["spatial_avg_pool", "temporal_avg_pool"],
        "image_pos_embed": {
            "type": "learned_abs_2d",
            "max_pos_embeddings": vision.pop("max_position_embeddings"),
        },
        "visual_temporal_embedding": {
            "type": "COSINE",
            "max_temporal_embeddings": vision.pop("max_temporal_embeddings"),
        },
    }
    text |= {"model_type": "florence2_language", "normalize_before": False}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_microsofts_checkpoints_are_read_and_saved_as_transformers_has_them(tmp_path: Path) -> None:
    model: Any = load_model(as_microsoft(tmp_path))
    want: Any = load_model(STORED)
    assert model.config.vision_config == want.config.vision_config
    assert model.config.text_config == want.config.text_config
    assert model.config.image_token_id == 51289  # behind the last embedding
    got, expected = parameters(model), parameters(want)
    assert got.keys() == expected.keys()
    for name, value in got.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    (tmp_path / "saved").mkdir()
    save_model(tmp_path / "saved", model)
    saved = safetensors.numpy.load_file(tmp_path / "saved" / "model.safetensors")
    stored = safetensors.numpy.load_file(STORED / "model.safetensors")
    assert saved.keys() == stored.keys()
    for name, value in saved.items():
        np.testing.assert_array_equal(value, stored[name], err_msg=name)


def test_a_new_model_has_waves_for_times() -> None:
    config = json.loads((STORED / "config.json").read_text())
    model: Any = build(config, rngs=nnx.Rngs(0))
    stored = parameters(load_model(STORED))
    # The stored table is five times what transformers begins with, as other weights there are.
    want = stored["connector.times"] / 5
    np.testing.assert_allclose(model.connector.times[...], want, atol=1e-6)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"text_config": 3}, "text_config=3 must be a JSON object"),
        ({"vision_config": {"projection_dim": 10}}, "projection_dim=10 must be the width of BART"),
        ({"vision_config": {"depths": [1, 1]}}, "every stage needs one value"),
        ({"vision_config": {"num_heads": [3, 8, 16, 32]}}, "must divide embed_dim"),
        ({"vision_config": {"image_pos_embed": {"type": "sine"}}}, "its type must be"),
        ({"vision_config": {"visual_temporal_embedding": 1}}, "its type must be"),
        ({"vision_config": {"image_feature_source": ["last_frame"]}}, "is not supported"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"text_config": {"scale_embedding": 2}}, "scale_embedding"),
    ],
)
def test_models_that_captax_does_not_have_are_refused(said: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config({"model_type": "florence2", **said})


def test_a_picture_may_not_have_more_tokens_than_there_are_positions() -> None:
    model: Any = load_model(STORED)
    config: Florence2Config = model.config
    assert config.places_of((48, 80)) == 16 and Florence2Config().places == 577
    with pytest.raises(ShapeError, match="2 x 7 tokens and the model has positions for 6 x 6"):
        model.encode(jnp.zeros((1, 32, 112, 3)))
