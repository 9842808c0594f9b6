"""Models from configs and configs from models."""

import json
from typing import Any

import pytest

from captax.models.modules import Mlp, MlpConfig
from captax.models.registry import ConfigError, build, describe, read_config

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
        ({"model_type": "swin"}, "'swin' is not supported; use one of .*efficientnet-lite,"),
        ({}, "None is not supported"),
        (
            {"model_type": "captax-encoder-decoder", "encoder": ENCODER},
            "captax-encoder-decoder: the config does not describe the decoder; "
            "put its config under 'decoder'",
        ),
        ({**WHOLE, "decoder": {"model_type": "opt"}}, "'opt' is not supported"),
        (
            {**DECODER, "widht": 8},
            "captax-transformer: .*'widht'; its fields are vocab_size, width,",
        ),
        ({"model_type": "captax-transformer"}, "captax-transformer: .*'vocab_size'"),
        # Types: of JSON, not of what a model can do with.
        ({"model_type": {}}, r"model_type \{\} is not supported"),
        ({**DECODER, "width": 4.0}, "captax-transformer: width=4.0 must be of the type int"),
        ({**DECODER, "layers": True}, "layers=True must be of the type int"),
        ({**DECODER, "grid": [3]}, r"grid=\(3,\) must be of the type tuple\[int, int\]"),
        ({**DECODER, "grid": [1, [1]]}, r"grid=\(1, \[1\]\) must be of the type"),
        ({**DECODER, "dropout": float("nan")}, "dropout=nan must be of the type float"),
        ({"model_type": "bert", "hidden_act": ["gelu"]}, r"hidden_act=\['gelu'\] is not supported"),
        ({"model_type": "bert", "tie_word_embeddings": "no"}, "='no' must be of the type bool"),
        ({"model_type": "git", "vision_config": {"patch_size": None}}, "git_vision_model: patch_s"),
        ({"model_type": "resnet", "depths": 3}, r"resnet: depths=3 must be of the type tuple"),
        (
            {
                "model_type": "encoder-decoder",
                "encoder": {"model_type": "bert"},
                "decoder": {"model_type": "bert"},
                "eos_token_id": {},
            },
            r"eos_token_id=\{\} must be of the type",
        ),
        # Sizes: nobody waits for a model that no checkpoint fills.
        ({**DECODER, "layers": 10**9}, "layers=1000000000 must be 1 to 1,000"),
        ({**DECODER, "vocab_size": 10**30}, "vocab_size=10+ must be 1 to 2,147,483,648"),
        ({**DECODER, "heads": 0}, "heads=0 must be 1 to"),
        (
            {**DECODER, "heads": 3},
            "captax-transformer: the width 4 is not a multiple of the number of heads, 3;",
        ),
        (
            {"model_type": "git", "vision_config": {"hidden_size": 13}},
            "the width 13 is not a multiple of",
        ),
        ({"model_type": "resnet", "hidden_sizes": [8, 3, 8, 8]}, "bottlenecks must be 4 or more"),
        ({**DECODER, "grid": [-1, 3]}, r"grid=\(-1, 3\) must be 1 to"),
        (
            {**ENCODER, "depth_scale": 1e9},
            "width_scale and depth_scale must be above 0 and at most 10",
        ),
        ({"model_type": "florence_vision", "mlp_ratio": 1e308}, "mlp_ratio=1e.308 must be above 0"),
        ({"model_type": "resnet", "depths": [10**8, 1, 1, 1]}, r"depths=\(10+, 1, 1, 1\) must be"),
        (
            {"model_type": "vit", "num_labels": 10**12, "architectures": ["ViTClassification"]},
            "num_labels=10+ must be a whole number from 1 to 1,000,000",
        ),
    ],
)
def test_a_config_of_no_known_model_is_refused_by_name(
    config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(config)


def test_what_transformers_may_say_is_taken() -> None:
    config = read_config({"model_type": "gpt2", "eos_token_id": [1, 2], "n_inner": None,
                          "bos_token_id": -1, "resid_pdrop": 0, "architectures": [3]})  # fmt: skip
    assert config.roles().eos == (1, 2)
    for said in ([], None, "ViT", [{}]):
        assert read_config({"model_type": "vit", "architectures": said}).labels == ()
    numbers = {"id2label": {"1": "b", "0": "a"}, "architectures": ["ViTForImageClassification"]}
    assert read_config({"model_type": "vit", **numbers}).labels == ("a", "b")
    with pytest.raises(ConfigError, match="id2label: labels must be numbered"):
        read_config({"model_type": "vit", **numbers, "id2label": {"first": "a"}})


def test_a_module_of_no_family_is_not_described() -> None:
    with pytest.raises(
        ConfigError, match="Mlp has no `config` of a family and cannot be saved; give a"
    ):
        describe(Mlp(2, MlpConfig(2), rngs=None))
