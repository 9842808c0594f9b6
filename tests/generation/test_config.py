"""Options read, replaced, refused and written, as transformers understands them."""

import json
from typing import Any

import numpy as np
import pytest

from captax.errors import CaptaxError
from captax.generation import (
    Beam,
    DiverseBeam,
    GenerationConfig,
    GenerationError,
    Greedy,
    Sample,
)
from captax.models.config import Roles

# As bert2bert-cnn_daily_mail and its likes have them, in config.json.
SUMMARISER = {
    "model_type": "encoder-decoder",
    "num_beams": 4,
    "length_penalty": 2.0,
    "no_repeat_ngram_size": 3,
    "min_length": 56,
    "max_length": 142,
    "early_stopping": True,
    "decoder_start_token_id": 101,
    "eos_token_id": 102,
    "pad_token_id": 0,
    "output_attentions": False,
    "transformers_version": "4.4",
    "use_cache": True,
    "repetition_penalty": 1.0,
    "typical_p": 1.0,
    "bad_words_ids": None,
}


def test_stored_options_are_all_read() -> None:
    config = GenerationConfig.read(SUMMARISER, Roles())
    assert config.strategy == Beam(num_beams=4, length_penalty=2.0, early_stopping=True)
    constraints = config.constraints
    assert constraints.no_repeat_ngram_size == 3 and constraints.min_length == 56
    assert config.eos_ids == (102,) and config.decoder_start_token_id == 101
    # max_length counts the prompt, and the token it begins with.
    assert config.limits(np.array([1, 5]), 512).tolist() == [142, 142]


@pytest.mark.parametrize(
    "config",
    [
        GenerationConfig(),
        GenerationConfig(num_beams=1, max_new_tokens=None, max_length=30, eos_token_id=(3, 4)),
        GenerationConfig().replace(
            bad_words_ids=[[1, 2], [3]],
            force_words_ids=[[5, 6], [[7], [8, 9]]],
            suppress_tokens=[4],
            forced_eos_token_id=2,
            repetition_penalty=1.2,
            num_beam_groups=3,
            diversity_penalty=0.5,
        ),
        GenerationConfig(num_beams=1, do_sample=True, top_k=0, top_p=0.9, min_p=0.1, best_of=4),
    ],
)
@pytest.mark.parametrize("binding", [False, True])
def test_what_is_written_is_read_again(config: GenerationConfig, binding: bool) -> None:
    stored = json.loads(json.dumps(config.write()))
    assert GenerationConfig.read(stored, Roles(binding=binding)) == config


def test_families_whose_generate_ignores_what_is_stored_do_so() -> None:
    roles = Roles(start=5, eos=6, pad=0, binding=True)
    want = GenerationConfig.read({}, roles)
    assert GenerationConfig.read(SUMMARISER, roles) == want
    assert want.strategy == Greedy() and want.eos_ids == (6,)


def test_where_nobody_says_how_long_it_is_twenty_new_tokens() -> None:
    config = GenerationConfig.read({}, Roles())
    assert config.limits(np.array([1, 7]), 512).tolist() == [21, 27]
    assert config.limits(np.array([1, 7]), 12).tolist() == [12, 12]
    assert GenerationConfig(max_new_tokens=3).limits(np.array([1, 7]), 12).tolist() == [4, 10]
    assert config.replace(max_length=9).limits(np.array([1, 7]), 12).tolist() == [9, 9]
    assert GenerationConfig().replace(max_length=9).limits(np.array([4]), 12).tolist() == [9]


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ({"encoder_no_repeat_ngram_size": 3}, "encoder_no_repeat_ngram_size=3"),
        ({"do_sample": True, "typical_p": 0.5}, "typical_p=0.5"),
        ({"sequence_bias": [[[1], 2.0]]}, "sequence_bias"),
    ],
)
def test_a_stored_option_that_would_matter_is_warned_of(stored: dict[str, Any], said: str) -> None:
    with pytest.warns(UserWarning, match=f"sets the decoding option {said}.*captions may differ"):
        GenerationConfig.read(stored, Roles())


def test_a_stored_option_that_does_not_matter_is_passed_over() -> None:
    stored = {"typical_p": 0.5, "epsilon_cutoff": 0.0, "guidance_scale": None, "top_h": 0.3}
    assert GenerationConfig.read(stored, Roles()) == GenerationConfig.read({}, Roles())


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"num_beams": "4"}, "num_beams='4' must be of the type int"),
        ({"num_beams": [4]}, r"num_beams=\[4\] must be"),
        ({"length_penalty": float("inf")}, "length_penalty=inf must be of the type float"),
        ({"eos_token_id": [1, [2]]}, "a list of token ids was expected: unhashable type"),
        ({"eos_token_id": ["a"]}, "eos_token_id='a' must be of the type"),
        ({"suppress_tokens": 3}, "a list of token ids was expected: 'int' object"),
        ({"bad_words_ids": [[1], 2]}, "a list of token ids was expected: 'int' object"),
        ({"bad_words_ids": [["a"]]}, r"bad_words_ids=\(\('a',\),\) must be"),
        ({"force_words_ids": [[]]}, "a list of token ids was expected: list index out of"),
    ],
)
def test_stored_options_of_another_type_are_refused(stored: dict[str, Any], message: str) -> None:
    with pytest.raises(CaptaxError, match=message):
        GenerationConfig.read(stored, Roles())


def test_options_choose_the_strategy() -> None:
    config = GenerationConfig(num_beams=4)
    assert config.replace(num_beams=1).strategy == Greedy()
    assert config.replace(num_beam_groups=2, diversity_penalty=0.5).strategy == DiverseBeam(
        num_beams=4, num_beam_groups=2, diversity_penalty=0.5
    )
    # As in transformers, 50 tokens unless it is said.
    assert config.replace(do_sample=True).strategy == Sample(top_k=50)
    several = config.replace(do_sample=True, num_return_sequences=6, top_k=0, temperature=0.5)
    assert several.strategy == Sample(num_return_sequences=6, top_k=0, temperature=0.5)
    assert config.replace(num_return_sequences=6).num_beams == 6


def test_stored_beam_sampling_is_refused_not_changed() -> None:
    stored = GenerationConfig.read({"do_sample": True, "num_beams": 4}, Roles())
    with pytest.raises(GenerationError, match="`do_sample=True` is not supported with 4 beams"):
        assert stored.replace(max_new_tokens=5).strategy
    assert stored.replace(do_sample=False).strategy == Beam(num_beams=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"no_repeat_ngram": 3}, r"unknown option 'no_repeat_ngram'; did you mean no_repeat_ngram"),
        ({"lenght_penalty": 3}, r"did you mean length_penalty\?"),
        ({"zzz": 3}, "unknown option 'zzz'; known options: num_beams,"),
        ({"typical_p": 0.3}, "does not support the option `typical_p` of transf"),
        (
            {"do_sample": True, "num_beams": 2},
            "`do_sample=True` is not supported with 2 beams; use `num_beams=1`",
        ),
        ({"best_of": 2}, "`best_of` only applies to sampling; add `do_sample=True`"),
        ({"temperature": 0.7}, "`temperature` only applies to sampling; add `do_sample=True`"),
        ({"do_sample": False, "top_p": 0.9}, "`top_p` only applies to sampling"),
        ({"repetition_penalty": 0.0}, "`repetition_penalty` is 0"),
        ({"min_length": -1}, "`min_length` is -1"),
        ({"max_length": 3}, "`max_length` is 3 and counts the prompt, which has 3 tokens"),
        (
            {"num_beams": 1, "num_return_sequences": 3},
            "is 3, more than `num_beams`, which is 1; use `num_beams=3`",
        ),
        ({"max_new_tokens": 0}, "`max_new_tokens` is 0"),
        (
            {"max_new_tokens": 3, "min_new_tokens": 9},
            "`min_new_tokens` is 9; it must be at most `max_new_tokens`, which is 3",
        ),
        ({"diversity_penalty": 1.0}, "`diversity_penalty` only applies to groups of beams"),
        (
            {"max_new_tokens": 2, "force_words_ids": [[1, 2], [3]]},
            "need 3 tokens and a caption has 2; use a higher `max_new_tokens`",
        ),
    ],
)
def test_options_without_meaning_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        config = GenerationConfig().replace(**options)
        assert config.strategy and config.constraints
        config.limits(np.array([3]), 512)
