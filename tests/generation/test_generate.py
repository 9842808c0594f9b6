"""Decoding against searches written plainly in Python over the uncached decoder."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from captax.errors import CaptaxError
from captax.generation import Beam, Greedy, Sequences, Strategy, generate
from captax.generation.strategies import GenerationError
from captax.models.encoders import Features
from captax.models.transformer import TransformerDecoder

PAD, START, EOS, VOCAB = 0, 1, 2, 5
STEPS, PICTURES = 5, 8
CONFIG = {
    "model_type": "captax-transformer",
    "vocab_size": VOCAB,
    "width": 16,
    "layers": 1,
    "heads": 2,
    "mlp_width": 16,
    "max_positions": 8,
    "features_width": 8,
    "grid": [2, 2],
}
# Log-probabilities of the next token after each beginning of a caption of one picture.
Next = dict[tuple[int, ...], np.ndarray]
Found = list[tuple[float, tuple[int, ...]]]


@pytest.fixture(scope="module")
def decoder(make_model: Callable[..., Any]) -> TransformerDecoder:
    return make_model(CONFIG, 11)


@pytest.fixture(scope="module")
def features() -> Features:
    tokens = 2 * jax.random.normal(jax.random.key(0), (PICTURES, 4, 8))
    return Features(tokens=tokens, grid=(2, 2))


@pytest.fixture(scope="module")
def following(decoder: TransformerDecoder, features: Features) -> list[Next]:
    """What every beginning may go on with, from one pass without a cache over all of them."""
    words = [token for token in range(VOCAB) if token != EOS]
    said = list(itertools.product(words, repeat=STEPS - 1))
    inputs = jnp.array([(START, *tokens) for tokens in said])

    def look(tokens: jax.Array) -> jax.Array:
        shared = jnp.broadcast_to(tokens, (len(said), *tokens.shape))
        return jax.nn.log_softmax(decoder(Features(shared, features.grid), inputs))

    found = np.asarray(jax.jit(lambda tokens: jax.lax.map(look, tokens))(features.tokens))
    return [
        {tokens[:n]: row[n] for tokens, row in zip(said, rows, strict=True) for n in range(STEPS)}
        for rows in found.astype(np.float64)
    ]


def decode(
    decoder: TransformerDecoder,
    features: Features,
    strategy: Strategy,
    *,
    steps: int = STEPS,
    eos: int = EOS,
    pad: int = PAD,
) -> Sequences:
    return jax.device_get(program(decoder, strategy, steps, eos, pad)(features))


@functools.cache
def program(
    decoder: TransformerDecoder, strategy: Strategy, steps: int, eos: int, pad: int
) -> Callable[[Features], Sequences]:
    """Compiled once for all the tests that ask for the same."""

    def run(features: Features) -> Sequences:
        return generate(
            decoder,
            features,
            jnp.full((features.tokens.shape[0], 1), START),
            strategy,
            max_new_tokens=steps,
            eos_id=eos,
            pad_id=pad,
        )

    return jax.jit(run)


def enumerate_all(following: Next, steps: int, penalty: float) -> Found:
    """Every caption there is, best first."""
    found: Found = []

    def grow(said: tuple[int, ...], total: float) -> None:
        for token, logprob in enumerate(following[said]):
            caption, sum_ = (*said, token), total + logprob
            if token == EOS or len(caption) == steps:
                found.append((sum_ / len(caption) ** penalty, caption))
            else:
                grow(caption, sum_)

    grow((), 0.0)
    return sorted(found, reverse=True)


def search(following: Next, steps: int, strategy: Beam) -> Found:
    """Beam search for one picture, as transformers' `generate` defines it."""
    beams, penalty = strategy.num_beams, strategy.length_penalty
    live: Found = [(0.0, ())]
    done: Found = []
    for length in range(1, steps + 1):
        grown = [
            (total + logprob, (*said, token))
            for total, said in live
            for token, logprob in enumerate(following[said])
        ]
        best = sorted(grown, reverse=True)[: 2 * beams]
        ends = [caption[-1] == EOS or length == steps for _, caption in best]
        for (total, caption), ended in zip(best[:beams], ends, strict=False):
            if ended:
                done.append((total / length**penalty, caption))
        done = sorted(done, reverse=True)[:beams]
        live = [row for row, ended in zip(best, ends, strict=True) if not ended][:beams]
        if len(done) == beams:
            if strategy.early_stopping is True:
                break
            longest = strategy.early_stopping == "never" and penalty > 0
            if live and live[0][0] / (steps if longest else length) ** penalty <= done[-1][0]:
                break
    return done


def check(got: Sequences, row: int, want: Found) -> None:
    """Row `row` holds the captions `want`, in order, padded, with their lengths and scores."""
    for i, (score, caption) in enumerate(want):
        padded = [*caption, *[PAD] * (got.tokens.shape[-1] - len(caption))]
        assert got.tokens[row, i].tolist() == padded
        assert got.lengths[row, i] == len(caption)
        np.testing.assert_allclose(got.scores[row, i], score, atol=1e-4)


def test_the_oracle_is_worth_its_name(following: list[Next]) -> None:
    """Best captions differ between pictures, in length too, and strategies disagree."""
    best = [search(each, STEPS, Beam(num_beams=3))[0][1] for each in following]
    assert len(set(best)) >= 4 and len({len(caption) for caption in best}) >= 3

    def all_found(**options: Any) -> list[Found]:
        return [search(each, STEPS, Beam(num_beams=3, **options)) for each in following]

    default = all_found()
    assert default != all_found(early_stopping=True) != all_found(early_stopping="never")
    assert default != all_found(early_stopping="never")


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_a_beam_wide_enough_finds_the_best_of_all_captions(
    decoder: TransformerDecoder, features: Features, following: list[Next], penalty: float
) -> None:
    steps, want = 4, [enumerate_all(each, 4, penalty) for each in following]
    width = len(want[0])  # 341
    strategy = Beam(num_beams=width, num_return_sequences=12, length_penalty=penalty)
    got = decode(decoder, features, strategy, steps=steps)
    for row in range(PICTURES):
        check(got, row, want[row][:12])


@pytest.mark.parametrize(
    "strategy",
    [
        Beam(num_beams=1),
        Beam(num_beams=2),
        Beam(num_beams=2, num_return_sequences=2, length_penalty=0.0, early_stopping="never"),
        Beam(num_beams=3, num_return_sequences=3, length_penalty=2.0),
        Beam(num_beams=3, num_return_sequences=3, early_stopping=True),
        Beam(num_beams=3, num_return_sequences=3, early_stopping="never"),
        Beam(num_beams=4, num_return_sequences=2, length_penalty=-1.0, early_stopping="never"),
        Beam(num_beams=7, num_return_sequences=7, early_stopping=True),  # more than the vocabulary
    ],
    ids=lambda s: f"{s.num_beams}-{s.length_penalty}-{s.early_stopping}",
)
def test_beam_search_finds_what_the_plain_search_finds(
    decoder: TransformerDecoder, features: Features, following: list[Next], strategy: Beam
) -> None:
    got = decode(decoder, features, strategy)
    for row in range(PICTURES):
        check(got, row, search(following[row], STEPS, strategy)[: strategy.num_return_sequences])


def test_greedy_takes_the_most_probable_token_each_time(
    decoder: TransformerDecoder, features: Features, following: list[Next]
) -> None:
    got = decode(decoder, features, Greedy())
    for row, each in enumerate(following):
        said: tuple[int, ...] = ()
        total = 0.0
        while len(said) < STEPS and said[-1:] != (EOS,):
            total += each[said].max()
            said = (*said, int(each[said].argmax()))
        check(got, row, [(total / len(said), said)])
    assert len(set(got.lengths[:, 0].tolist())) > 1


def test_one_beam_is_greedy(decoder: TransformerDecoder, features: Features) -> None:
    greedy = decode(decoder, features, Greedy())
    beam = decode(decoder, features, Beam(num_beams=1))
    np.testing.assert_array_equal(greedy.tokens, beam.tokens)
    np.testing.assert_array_equal(greedy.lengths, beam.lengths)
    np.testing.assert_allclose(greedy.scores, beam.scores, atol=1e-5)


@pytest.mark.parametrize(
    "strategy", [Greedy(), Beam(num_beams=3, num_return_sequences=3, length_penalty=2.0)]
)
def test_a_picture_alone_is_decoded_as_in_company(
    decoder: TransformerDecoder, features: Features, strategy: Strategy
) -> None:
    together = decode(decoder, features, strategy)
    for row in range(PICTURES):
        one = decode(decoder, Features(features.tokens[row : row + 1], features.grid), strategy)
        np.testing.assert_array_equal(one.tokens[0], together.tokens[row])
        np.testing.assert_allclose(one.scores[0], together.scores[row], atol=1e-5)


@pytest.mark.parametrize("strategy", [Greedy(), Beam(num_beams=2)])
def test_pad_may_be_eos_as_gpt2_has_it(
    decoder: TransformerDecoder, features: Features, strategy: Strategy
) -> None:
    apart, same = (decode(decoder, features, strategy, pad=pad) for pad in (PAD, EOS))
    np.testing.assert_array_equal(same.lengths, apart.lengths)
    np.testing.assert_allclose(same.scores, apart.scores, atol=1e-6)
    for row in np.ndindex(*same.lengths.shape):
        length = same.lengths[row]
        np.testing.assert_array_equal(same.tokens[row][:length], apart.tokens[row][:length])
        assert (same.tokens[row][length:] == EOS).all()


@pytest.mark.parametrize(
    "strategy", [Greedy(), Beam(num_beams=VOCAB + 3, num_return_sequences=VOCAB)]
)
def test_one_token_is_the_first_and_the_last(
    decoder: TransformerDecoder, features: Features, following: list[Next], strategy: Strategy
) -> None:
    """With more beams than there are captions, each caption is there once."""
    got = decode(decoder, features, strategy, steps=1)
    for row, each in enumerate(following):
        ranked = sorted(((p, (token,)) for token, p in enumerate(each[()])), reverse=True)
        check(got, row, ranked[: got.tokens.shape[1]])


def test_a_caption_may_be_eos_alone(decoder: TransformerDecoder, features: Features) -> None:
    eos = int(decode(decoder, features, Greedy(), steps=1).tokens[0, 0, 0])
    first = Features(features.tokens[:1], features.grid)
    for strategy in (Greedy(), Beam(num_beams=1)):
        got = decode(decoder, first, strategy, steps=2, eos=eos, pad=9)
        assert got.tokens.tolist() == [[[eos, 9]]]
        assert got.lengths.tolist() == [[1]] and got.scores[0, 0] < 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 0}, "`num_beams` is 0"),
        ({"num_beams": 2, "num_return_sequences": 3}, "`num_return_sequences` is 3"),
        ({"num_return_sequences": 0}, "`num_return_sequences` is 0"),
        ({"early_stopping": "sometimes"}, "`early_stopping` is 'sometimes'"),
    ],
)
def test_options_without_meaning_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        Beam(**options)


def test_captions_of_no_token_or_too_many_are_refused(
    decoder: TransformerDecoder, features: Features
) -> None:
    with pytest.raises(GenerationError, match="`max_new_tokens` is 0"):
        decode(decoder, features, Greedy(), steps=0)
    longest = program(decoder, Greedy(), 8, EOS, PAD)  # the eighth token is never read
    assert jax.eval_shape(longest, features).tokens.shape == (PICTURES, 1, 8)
    with pytest.raises(CaptaxError, match=r"has 8 positions and 9 are needed.*max_new_tokens"):
        decode(decoder, features, Greedy(), steps=9)
