"""Models from configs and configs from models."""

import json
from typing import Any

import pytest

from captax.models.layers import Mlp
from captax.models.registry import ConfigError, build, describe

ENCODER = {
    "model_type": "efficientnet-lite",
    "width_scale": 0.25,
    "depth_scale": 0.1,
    "image_size": 32,
    "num_labels": 3,
}
DECODER = {
    "model_type": "captax-transformer",
    "vocab_size": 5,
    "width": 4,
    "layers": 1,
    "heads": 2,
    "mlp_width": 4,
    "max_positions": 6,
    "dropout": 0.5,
    "features_width": 1280,
    "grid": [1, 1],
}
WHOLE = {"model_type": "captax-encoder-decoder", "encoder": ENCODER, "decoder": DECODER}


@pytest.mark.parametrize("config", [ENCODER, DECODER, WHOLE], ids=lambda c: c["model_type"])
def test_a_model_describes_itself_as_the_config_it_was_built_from(config: dict[str, Any]) -> None:
    described = json.loads(json.dumps(describe(build(config))))
    assert described == config


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "swin"}, "'swin' is not supported; supported are .*efficientnet-lite,"),
        ({}, "None is not supported"),
        (
            {"model_type": "captax-encoder-decoder", "encoder": ENCODER},
            "the config describes no decoder",
        ),
        ({**WHOLE, "decoder": {"model_type": "opt"}}, "'opt' is not supported"),
        ({**DECODER, "widht": 8}, "captax-transformer: .*'widht'.*config has vocab_size, width,"),
        ({"model_type": "captax-transformer"}, "captax-transformer: .*'vocab_size'"),
    ],
)
def test_a_config_of_no_known_model_is_refused_by_name(
    config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(config)


def test_a_module_of_no_family_is_not_described() -> None:
    with pytest.raises(ConfigError, match="Mlp is in no family"):
        describe(Mlp(2, 2, rngs=None))
