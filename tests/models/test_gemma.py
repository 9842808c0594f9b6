"""The Gemmas: their configs, their limits of scores and logits, their windows."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from captax.checkpoints.directory import load_model
from captax.models.attention import Attention
from captax.models.cache import Span
from captax.models.config import ConfigError
from captax.models.modules import AttentionConfig, LayerConfig, MlpConfig
from captax.models.observing import observe
from captax.models.prompt import Prompt
from captax.models.registry import read_config
from golden.case import random_tokens
from golden.families import CASES
from golden.families.gemma import SMALL, SMALL_2

LOCAL, GLOBAL = "sliding_attention", "full_attention"


def test_configs_are_recognised_and_have_the_defaults_of_transformers() -> None:
    first, second, third = (
        read_config({"model_type": name}) for name in ("gemma", "gemma2", "gemma3_text")
    )
    for config in (first, second, third):
        assert config.norm.offset == 1.0 and config.head == 256 and config.tie_word_embeddings
        assert config.roles().eos == 1 and config.roles().pad == 0
    assert first.hidden_size == 3072 and first.layer().order == "pre"
    assert second.layer().attention.softcap == 50.0 and second.logit_softcap == 30.0
    assert third.layer().attention.softcap is None and third.logit_softcap is None


@pytest.mark.parametrize(
    ("said", "kinds"),
    [
        ({"model_type": "gemma2", "num_hidden_layers": 3}, (LOCAL, GLOBAL, LOCAL)),
        ({"model_type": "gemma3_text", "num_hidden_layers": 7}, (*[LOCAL] * 5, GLOBAL, LOCAL)),
        (
            {"model_type": "gemma3_text", "num_hidden_layers": 3, "sliding_window_pattern": 3},
            (LOCAL, LOCAL, GLOBAL),
        ),
    ],
)
def test_local_and_global_layers_take_turns(said: dict[str, Any], kinds: tuple[str, ...]) -> None:
    config = read_config(said)
    assert config.layer_types == kinds
    windows = [config.layer_of(i).attention.window for i in range(len(kinds))]
    assert windows == [4096 if kind == LOCAL else None for kind in kinds]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"model_type": "gemma2", "attn_logit_softcapping": 0}, "must be above 0"),
        ({"model_type": "gemma2", "final_logit_softcapping": -30.0}, "must be above 0"),
        ({"model_type": "gemma2", "layer_types": [LOCAL]}, "for each of 26 layers"),
        ({"model_type": "gemma2", "hidden_activation": "x"}, "hidden_activation='x' is not supp"),
        ({"model_type": "gemma3_text", "hidden_activation": None}, "hidden_activation=None is not"),
        ({"model_type": "gemma", "use_bidirectional_attention": True}, "must be False"),
        ({"model_type": "gemma3_text", "attn_logit_softcapping": 50.0}, "must be None"),
    ],
)
def test_what_no_gemma_can_be_is_refused(said: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=f"{said['model_type']}: .*{told}"):
        read_config(said)


def test_what_transformers_may_say_of_them_is_taken() -> None:
    said = {"use_bidirectional_attention": None, "hidden_activation": None}
    assert read_config({"model_type": "gemma", **said}) == read_config({"model_type": "gemma"})
    whole = read_config({"model_type": "gemma2", "attn_logit_softcapping": 50})
    assert whole == read_config({"model_type": "gemma2"})
    assert type(whole.write()["attn_logit_softcapping"]) is float


def test_the_first_checkpoints_gelu_is_its_approximation(make_model: Callable[..., Any]) -> None:
    config = {"model_type": "gemma", **SMALL}
    tokens = jnp.asarray(random_tokens(40, 1, 6))
    model, named = (make_model({**config, "hidden_act": act}) for act in ("gelu", "gelu_new"))
    np.testing.assert_array_equal(model(None, tokens), named(None, tokens))
    assert read_config(model.config.write()) == model.config


def test_scores_and_logits_stay_below_their_limits(make_model: Callable[..., Any]) -> None:
    config = {"model_type": "gemma2", **SMALL_2}
    tokens = jnp.asarray(random_tokens(40, 2, 12))
    logits, seen = observe(make_model(config), None, tokens)
    assert np.abs(logits).max() < 2.0
    assert max(map(_spread, seen["attentions"])) < 1.001  # of limits of 0.5 on both sides
    free = {**config, "attn_logit_softcapping": None, "final_logit_softcapping": None}
    logits, seen = observe(make_model(free), None, tokens)
    assert np.abs(logits).max() > 2.0
    assert max(map(_spread, seen["attentions"])) > 1.5


def _spread(weights: Any) -> float:
    """By how much the scores of two places that a query sees differ at most."""
    scores = np.log(np.where(weights > 0, weights, np.nan))
    return float((np.nanmax(scores, -1) - np.nanmin(scores, -1)).max())


def test_what_is_shared_is_limited_as_a_query_s_own_places_are() -> None:
    """GIT's pictures come beside the tokens: one softmax, and one limit."""
    shape = AttentionConfig(2, softcap=0.1)
    attention = Attention(LayerConfig(8, shape, MlpConfig(8), std=3.0), rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (1, 6, 8))
    keys, values = attention.keys_and_values(x)
    whole = attention(x, [Span(keys, values)])
    parts = [Span(keys[:, :, part], values[:, :, part]) for part in (slice(2), slice(2, None))]
    np.testing.assert_allclose(attention(x, parts), whole, atol=1e-5)


@pytest.mark.parametrize("name", ["gemma", "gemma2", "gemma3"])
def test_one_token_at_a_time_gives_the_logits_of_all_at_once(name: str) -> None:
    """Beyond the window too, and with padding behind the prompt."""
    model = load_model(CASES[name].stored)
    tokens = jnp.asarray(random_tokens(40, 2, 12, seed=3))
    want = jax.jit(lambda: model(None, tokens))()
    advance = jax.jit(model.advance)
    row = jnp.arange(2)
    for time, lengths in ((4, jnp.array([4, 4])), (8, jnp.array([3, 7]))):
        logits, cache = model.begin(None, Prompt(tokens[:, :time], lengths), 9)
        for step in range(int(12 - lengths.max())):
            np.testing.assert_allclose(logits, want[row, lengths + step - 1], atol=1e-5)
            logits, cache = advance(tokens[row, lengths + step], cache)
