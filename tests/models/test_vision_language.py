import pytest

from captax.models.config import ConfigError
from captax.models.gemma2 import Gemma2Config
from captax.models.paligemma import PaliGemmaConfig
from captax.models.smolvlm import Idefics3Config, Idefics3VisionConfig, SmolVLMConfig, buckets

# As published with HuggingFaceTB/SmolVLM-256M-Instruct, without what captax does not read.
SMOLVLM_256M = {
    "model_type": "smolvlm",
    "image_token_id": 49190,
    "scale_factor": 4,
    "tie_word_embeddings": False,
    "vision_config": {
        "model_type": "smolvlm_vision",
        "hidden_size": 768,
        "num_attention_heads": 12,
        "image_size": 512,
        "patch_size": 16,
    },
    "text_config": {
        "model_type": "llama",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49280,
        "rope_theta": 100000,
    },
}


def test_a_view_takes_as_many_tokens_as_its_grid_leaves() -> None:
    assert SmolVLMConfig.read(SMOLVLM_256M).places == 64
    vision = {"image_size": 364, "patch_size": 14}
    assert Idefics3Config.read({"vision_config": vision}).places == 169
    assert PaliGemmaConfig.read({}).places == 256


def test_the_grids_of_checkpoints_are_in_row_order() -> None:
    for learned in (16, 24, 26, 27, 32):
        assert buckets(learned, learned).tolist() == list(range(learned))


def test_what_a_config_leaves_out_has_the_defaults_of_transformers() -> None:
    vision = {"patch_size": 16}  # with the default, the grid cannot be divided
    config = Idefics3Config.read({"model_type": "idefics3", "vision_config": vision})
    assert config == Idefics3Config(vision_config=Idefics3VisionConfig(patch_size=16))
    assert config.text_config.rms_norm_eps == 1e-5
    assert (
        SmolVLMConfig.read({"vision_config": vision, "text_config": {}}).text_config.rms_norm_eps
        == 1e-6
    )
    paligemma = PaliGemmaConfig.read({})
    assert paligemma == PaliGemmaConfig() and paligemma.text_config.tie_word_embeddings


def test_the_language_model_of_paligemma_2() -> None:
    said = {"text_config": {"model_type": "gemma2", "hidden_size": 2048}, "image_token_index": 9}
    config = PaliGemmaConfig.read(said)
    assert isinstance(config.text_config, Gemma2Config) and config.image_token_id == 9
    assert config.write()["image_token_index"] == 9 and "image_token_id" not in config.write()


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        (SmolVLMConfig, {"scale_factor": 3}, "smolvlm: scale_factor=3 does not divide the 7 x 7"),
        (SmolVLMConfig, {"text_config": {"model_type": "gemma"}}, "'gemma' is not supported"),
        (SmolVLMConfig, {"text_config": 3}, "text_config=3 must be a JSON object"),
        (PaliGemmaConfig, {"projection_dim": 9}, "projection_dim=9 must be"),
        (
            PaliGemmaConfig,
            {"text_config": {"use_bidirectional_attention": False}},
            "use_bidirectional_attention=False is not supported",
        ),
    ],
)
def test_what_is_not_supported_is_refused(kind, config, message) -> None:
    with pytest.raises(ConfigError, match=message):
        kind.read(config)
