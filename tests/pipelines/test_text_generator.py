"""Text from text."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import captax
from captax.pipelines.text_generator import TextGenerator


@pytest.fixture(scope="module")
def continuer(checkpoint: Callable[[str], Path]) -> TextGenerator:
    return captax.load(checkpoint("gpt2"))


TEXTS = ("a red square", "the yellow tile is under", "three", "a blue tile")


@pytest.mark.slow
def test_a_language_model_goes_on_from_its_prompt(continuer: TextGenerator) -> None:
    """Greedily, as by hand, whatever the other prompts of the batch."""
    found = continuer.generate(TEXTS, num_beams=1, max_new_tokens=4)
    read = jax.jit(lambda tokens: jax.nn.log_softmax(continuer.model(None, tokens)))
    for text, generated in zip(TEXTS, found, strict=True):
        tokens = prompt = continuer.tokenizer.encode_plain([text])[0]
        total = 0.0
        for _ in range(4):
            padded = jnp.array([[*tokens, *[0] * (12 - len(tokens))]])  # nobody sees what follows
            logprobs = np.asarray(read(padded))[0, len(tokens) - 1]
            tokens = [*tokens, int(logprobs.argmax())]
            total += float(logprobs.max())
            if tokens[-1] == continuer.generation.eos_token_id:
                break
        new = tokens[len(prompt) :]
        assert generated.tokens == tuple(new)
        assert generated.score == pytest.approx(total / len(new), abs=1e-4)
        assert generated.text.startswith(continuer.decode([prompt])[0])


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 3])
def test_bart_rewrites_texts(checkpoint: Callable[[str], Path], beams: int) -> None:
    """The shorter texts of a batch are filled up, and no answer begins with its text."""
    rewriter = captax.load(checkpoint("bart"))
    assert isinstance(rewriter, TextGenerator)
    options = {"num_beams": beams, "max_new_tokens": 6, "no_repeat_ngram_size": 1}
    together = rewriter.generate(TEXTS, **options)
    for text, found in zip(TEXTS, together, strict=True):
        [alone] = rewriter.generate(text, **options)
        assert alone.tokens == found.tokens
        assert alone.score == pytest.approx(found.score, rel=1e-5)
    assert len({found.score for found in together}) > 1


@pytest.mark.slow
def test_one_text_may_be_given_alone_or_be_empty(continuer: TextGenerator) -> None:
    alone = continuer.generate("three", num_beams=2, max_new_tokens=3)
    assert alone == continuer.generate(["three"], num_beams=2, max_new_tokens=3)
    assert continuer.generate([]) == []

    assert len(continuer.generate([""], max_new_tokens=3)[0].tokens) <= 3


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"num_beams": 3}, {"do_sample": True, "seed": [1, 2, 3, 4]}])
def test_prompts_of_all_lengths_share_a_batch(
    continuer: TextGenerator, options: dict[str, Any]
) -> None:
    found = continuer.generate(TEXTS, max_new_tokens=4, **options)
    for i, text in enumerate(TEXTS):
        own = {**options, **({"seed": [options["seed"][i]]} if "seed" in options else {})}
        [alone] = continuer.generate(text, max_new_tokens=4, **own)
        assert alone.tokens == found[i].tokens and alone.text == found[i].text
        assert alone.logprobs == pytest.approx(found[i].logprobs, abs=1e-4)
