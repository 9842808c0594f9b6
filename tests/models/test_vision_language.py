import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from captax.checkpoints.directory import load_model
from captax.checkpoints.state import parameters, rebuilder
from captax.models.config import ConfigError
from captax.models.gemma2 import Gemma2Config
from captax.models.paligemma import PaliGemmaConfig
from captax.models.prompt import Prompt
from captax.models.smolvlm import Idefics3Config, Idefics3VisionConfig, SmolVLMConfig, buckets
from golden.case import CHECKPOINTS

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


CAPTIONS = [[5, 9, 2], [7, 2], [30, 11, 12, 2]]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smolvlm", "paligemma2"])
def test_packed_captions_follow_the_prompt_as_in_decoding(name: str) -> None:
    """And every part of the model has a gradient."""
    model = load_model(CHECKPOINTS / name)
    rebuild = rebuilder(model)
    views = jax.random.normal(jax.random.key(0), (2, 1, 32, 32, 3))
    places = model.config.places
    # Of different lengths, filled up on the right.
    tokens = np.full((2, places + 6), 8, np.int32)
    tokens[:, 1 : places + 1] = model.config.image_token_id
    prompt = Prompt(jnp.array(tokens), jnp.array([places + 3, places + 6]))
    # The first token of a caption stands for the prompt, and may be any.
    rows = [
        [(k, place, k + 1) for k, caption in enumerate(CAPTIONS) for place in range(len(caption))]
    ]
    first, positions, segments = jnp.moveaxis(jnp.array(rows * 2), 2, 0)
    said = jnp.array([[0, *(token for caption in CAPTIONS for token in caption)][:-1]] * 2)
    inputs = jnp.where(positions == 0, first, said)

    def read(weights: dict[str, Array]) -> tuple[Array, Array]:
        built = rebuild(weights)
        logits = built.read(built.encode(views), inputs, positions, segments, prompt)
        return jnp.square(logits).sum(), logits

    (_, logits), gradient = jax.jit(jax.value_and_grad(read, has_aux=True))(parameters(model))
    for part in ("encoder.layers.0", "connector", "decoder.embedding", "decoder.layers.1"):
        assert any(name.startswith(part) and gradient[name].any() for name in gradient), part

    features = jax.jit(model.encode)(views)
    begin, advance = jax.jit(model.begin, static_argnums=2), jax.jit(model.advance)
    place = 0
    for caption in CAPTIONS:
        after, cache = begin(features, prompt, 4)
        for token in caption:
            np.testing.assert_allclose(logits[:, place], after, atol=1e-4)
            after, cache = advance(jnp.array([token, token]), cache)
            place += 1
    assert place == logits.shape[1]
