"""Decoding against transformers' `generate`, with random weights whose logits are not flat."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from captax.checkpoints.directory import load_model
from captax.generation import Constraints, GenerationConfig, Sample, Sequences, generate
from captax.generation.loop import Prompts
from captax.models.prompt import Prompt
from golden.case import Inputs, pixels, random_pixels
from golden.families import CASES, bert, florence2

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
torch_side = pytest.importorskip("golden.torch_side")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::UserWarning")]

FAMILIES = ("vit-gpt2", "git", "blip", "bart", "florence2")
# Those whose decoder begins with a token alone, as `generate` is told.
REWRITE = ("bart", "florence2")
PICTURES = 64
PAD = 0
large = pytest.mark.skipif(os.environ.get("CAPTAX_LARGE") != "1", reason="needs CAPTAX_LARGE=1")


@dataclasses.dataclass(frozen=True)
class Pair:
    """A model on both sides, its inputs, and the tokens that captions begin and end with."""

    name: str
    theirs: Any
    ours: Any
    inputs: Inputs
    start: int
    eos: int

    def reference(self, **options: Any) -> Any:
        """What transformers' `generate` gives: an object with sequences, scores and so on."""
        options = {"output_scores": True, "output_logits": True, **options}
        if self.name == "blip":  # which lets nobody say how captions begin and end
            self.theirs.config.text_config.sep_token_id = self.eos
        else:
            options = {"eos_token_id": self.eos, "pad_token_id": PAD, **options}
        if self.name in ("vit-gpt2", *REWRITE):
            options.setdefault("decoder_start_token_id", self.start)
        if self.name in REWRITE:  # whose configs of transformers force the token that ends
            options = {"forced_eos_token_id": None, **options}
        given = {name: torch.from_numpy(value) for name, value in self.inputs.items()}
        with torch.no_grad():
            return self.theirs.generate(**given, return_dict_in_generate=True, **options)

    def decode(
        self, config: GenerationConfig, *, room: int, eos: int | tuple[int, ...] | None = None
    ) -> Sequences:
        """What ours gives."""

        def run(given: Inputs) -> Sequences:
            read = bert.text(given) if self.name == "bart" else pixels(given)
            begin = jnp.full((PICTURES, 1), self.start)[: len(next(iter(given.values())))]
            prompt = florence2.asked(given, begin) if self.name == "florence2" else Prompt(begin)
            return generate(
                self.ours,
                self.ours.encode(read),
                Prompts(prompt, jnp.full(len(begin), room), room),
                config.strategy,
                eos_id=self.eos if eos is None else eos,
                pad_id=PAD,
                constraints=config.constraints,
            )

        return jax.device_get(jax.jit(run)(jax.tree.map(jnp.asarray, self.inputs)))

    def log_likelihood(self, row: int, tokens: list[int]) -> float:
        """The reference's own score of a caption of one picture."""
        given = {k: torch.from_numpy(value[row : row + 1]) for k, value in self.inputs.items()}
        said = torch.tensor([[self.start, *tokens[:-1]]])
        name = "decoder_input_ids" if self.name in ("vit-gpt2", *REWRITE) else "input_ids"
        with torch.no_grad():
            logits = self.theirs(**given, **{name: said}).logits[0, -len(tokens) :]
        logprobs = torch.log_softmax(logits.double(), -1)
        return float(logprobs[range(len(tokens)), tokens].sum())


# Random weights say the same of every picture, and one word only: by so much are some larger than
# the reference makes them, so that pictures, places and words tell.
REWRITING = {
    "shared": 0.3,
    "decoder.embed_positions": 4,
    "encoder.layers": 2,
    "encoder_attn.q_proj": 6,
    "encoder_attn.out_proj": 12,
}
STEEPER = {
    "vit-gpt2": {"wpe": 8, "wte": 0.3, "crossattention.c_proj": 4, "ln_f.weight": 4},
    "git": {
        "position_emb": 3,
        "visual_projection.0.weight": 3,
        "git.encoder": 1.6,
        "word_emb": 2,
        "output.weight": 4,
    },
    "blip": {"position_emb": 2, "crossattention.output.dense": 4},
    "bart": REWRITING,
    "florence2": REWRITING,
}


INPUTS = {"bart": bert.texts, "florence2": florence2.inputs}


def make(name: str, directory: Path, *, full: bool, pictures: int, eos: int) -> Pair:
    theirs = torch_side.make_reference(CASES[name], full=full)
    for key, value in theirs.named_parameters():
        of_vision = key.startswith("encoder") or "vision" in key or "image_encoder" in key
        for part, factor in STEEPER[name].items():
            if part in key and not key.endswith("bias") and not of_vision:
                value.data.mul_(factor)
    theirs.save_pretrained(directory)
    ours = load_model(directory)
    start = ours.config.roles().start
    if name in REWRITE:
        return Pair(name, theirs, ours, INPUTS[name](full, pictures), start, eos)
    side = (384 if name == "blip" else 224) if full else 32
    given = random_pixels(pictures, 3, side, side, seed=5)
    # Pictures of noise are alike: their means are what tells them apart.
    given += 2 * np.random.default_rng(6).standard_normal((pictures, 3, 1, 1)).astype(np.float32)
    return Pair(name, theirs, ours, {"pixel_values": given}, start, eos)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    made = {}
    for name in FAMILIES:
        pair = make(name, tmp_path_factory.mktemp(name), full=False, pictures=PICTURES, eos=2)
        # A token that is often said, so that captions end at every length.
        said = pair.reference(max_new_tokens=8, min_new_tokens=8).sequences[:, -6:].flatten()
        counts = torch.bincount(said, minlength=40)
        counts[[PAD, pair.start]] = 0
        made[name] = dataclasses.replace(pair, eos=int(counts.argmax()))
    return made


@pytest.fixture(params=FAMILIES)
def pair(request: pytest.FixtureRequest, pairs: dict[str, Pair]) -> Pair:
    return pairs[request.param]


def check(
    pair: Pair, theirs: Any, ours: Sequences, *, penalty: float, eos: tuple[int, ...] = ()
) -> None:
    """Token for token the same captions, with the same scores."""
    eos = eos or (pair.eos,)
    want = theirs.sequences[:, 1:].numpy().reshape(*ours.lengths.shape, -1)
    for row, rank in np.ndindex(*ours.lengths.shape):
        got = ours.tokens[row, rank, : ours.lengths[row, rank]].tolist()
        other = want[row, rank].tolist()
        length = next((i for i, token in enumerate(other, 1) if token in eos), len(other))
        if got == other[:length]:
            continue
        # Rounding may decide only between captions that the reference itself cannot tell apart.
        scores = [
            pair.log_likelihood(row, tokens) / len(tokens) ** penalty
            for tokens in (got, other[:length])
        ]
        assert abs(scores[0] - scores[1]) < 1e-6, (row, rank, got, other)
    if theirs.get("sequences_scores") is not None:
        scores = theirs.sequences_scores.numpy().reshape(ours.scores.shape)
    else:
        chosen = torch.stack(theirs.logits, 1).log_softmax(-1)
        chosen = chosen.gather(-1, theirs.sequences[:, 1:, None])[..., 0].numpy()
        inside = np.arange(chosen.shape[1]) < ours.lengths
        scores = (chosen * inside).sum(-1, keepdims=True) / ours.lengths**penalty
    np.testing.assert_allclose(ours.scores, scores, atol=1e-4)
    summed = ours.logprobs.sum(-1) / ours.lengths**penalty
    np.testing.assert_allclose(ours.scores, summed, atol=1e-4)


@pytest.mark.parametrize("penalty", [0.6, 1.0, 2.0])
@pytest.mark.parametrize(
    "constraint",
    [{}, {"no_repeat_ngram_size": 3}, {"min_length": 6}],
    ids=["plain", "no-repeat", "min-length"],
)
@pytest.mark.parametrize("beams", [3, 5])
def test_beam_search(pair: Pair, beams: int, penalty: float, constraint: dict[str, Any]) -> None:
    config = GenerationConfig(num_beams=beams, length_penalty=penalty, **constraint)
    theirs = pair.reference(
        num_beams=beams, length_penalty=penalty, max_new_tokens=10, **constraint
    )
    check(pair, theirs, pair.decode(config, room=10), penalty=penalty)


@pytest.mark.parametrize(
    "constraint", [{}, {"no_repeat_ngram_size": 3}, {"min_length": 6}, {"repetition_penalty": 1.5}]
)
def test_greedy(pair: Pair, constraint: dict[str, Any]) -> None:
    config = GenerationConfig(num_beams=1, **constraint)
    theirs = pair.reference(max_new_tokens=10, **constraint)
    ours = pair.decode(config, room=10)
    check(pair, theirs, ours, penalty=1.0)
    assert len({tuple(row) for row in ours.tokens[:, 0].tolist()}) > PICTURES / 8
    assert len(np.unique(ours.lengths)) >= 2


@pytest.mark.parametrize(
    "options",
    [
        {"early_stopping": True, "num_return_sequences": 4},
        {"early_stopping": "never", "num_return_sequences": 2, "length_penalty": 2.0},
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 1, "min_new_tokens": 3},
        {"bad_words_ids": [[7], [9, 11], [12, 13, 5]], "suppress_tokens": [20, 21, 22]},
        {"begin_suppress_tokens": list(range(10, 30)), "forced_eos_token_id": 3},
        {"forced_bos_token_id": 17, "begin_suppress_tokens": list(range(10, 30))},
        {"renormalize_logits": True, "suppress_tokens": list(range(10, 20))},
        # As bert2bert-cnn_daily_mail has it, but for the size.
        {
            "length_penalty": 2.0,
            "no_repeat_ngram_size": 3,
            "min_length": 5,
            "max_length": 9,
            "early_stopping": True,
        },
    ],
    ids=lambda options: "-".join(options),
)
def test_every_option(pairs: dict[str, Pair], options: dict[str, Any]) -> None:
    pair = pairs["vit-gpt2"]
    limits = {} if "max_length" in options else {"max_new_tokens": 10}
    config = GenerationConfig().replace(num_beams=4, **limits, **options)
    theirs = pair.reference(num_beams=4, **limits, **options)
    ours = pair.decode(config, room=options.get("max_length", 11) - 1)
    check(pair, theirs, ours, penalty=options.get("length_penalty", 1.0))


@pytest.mark.parametrize("beams", [1, 4])
def test_captions_end_with_any_eos(pairs: dict[str, Pair], beams: int) -> None:
    pair = pairs["vit-gpt2"]
    several = (pair.eos, 9, 11)
    theirs = pair.reference(num_beams=beams, max_new_tokens=10, eos_token_id=list(several))
    ours = pair.decode(GenerationConfig(num_beams=beams), room=10, eos=several)
    check(pair, theirs, ours, penalty=1.0, eos=several)
    ends = ours.tokens[np.arange(PICTURES), 0, ours.lengths[:, 0] - 1]
    assert set(ends) & {9, 11} and pair.eos in ends


def reference_processors(**options: Any) -> list[Any]:
    """Of transformers, by our names."""
    known: dict[str, Callable[[Any], Any]] = {
        "temperature": transformers.TemperatureLogitsWarper,
        "top_k": transformers.TopKLogitsWarper,
        "top_p": transformers.TopPLogitsWarper,
        "min_p": transformers.MinPLogitsWarper,
    }
    return [known[name](value) for name, value in options.items()]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.6},
        {"top_k": 3},
        {"top_k": 500},
        {"top_p": 0.6},
        {"top_p": 0.01},
        {"min_p": 0.2},
        {"temperature": 1.7, "top_k": 20, "top_p": 0.8, "min_p": 0.05},
    ],
    ids=lambda options: "-".join(options),
)
def test_filters_are_the_reference_s(options: dict[str, Any]) -> None:
    logits = 3 * np.random.default_rng(0).standard_normal((32, 100)).astype(np.float32)
    logits[:, 90:] = -np.inf  # as constraints leave them
    want = torch.from_numpy(logits)
    for processor in reference_processors(**options):
        want = processor(None, want)
    got = Sample(**{"top_k": 0, **options}).filter(jnp.asarray(logits))
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-6)
    assert np.isneginf(got).sum() >= np.isneginf(logits).sum()


def test_constraints_are_the_reference_s() -> None:
    """Each alone, on random scores and tokens with many repeats."""
    rng = np.random.default_rng(1)
    scores = rng.standard_normal((40, 12)).astype(np.float32)
    tokens = rng.integers(0, 4, (40, 9))
    processors = {
        "repetition_penalty": (1.4, transformers.RepetitionPenaltyLogitsProcessor),
        "no_repeat_ngram_size": (2, transformers.NoRepeatNGramLogitsProcessor),
        "bad_words_ids": (
            ((1, 2), (3,), (2, 1, 0), (0, 0, 5)),
            lambda phrases: transformers.NoBadWordsLogitsProcessor(list(map(list, phrases)), [7]),
        ),
        "suppress_tokens": ((4, 5), transformers.SuppressTokensLogitsProcessor),
    }
    for name, (value, make_processor) in processors.items():
        for position in range(1, 9):
            want = make_processor(value)(
                torch.from_numpy(tokens[:, :position]), torch.from_numpy(scores.copy())
            )
            got = Constraints(**{name: value})(
                jnp.asarray(scores), jnp.asarray(tokens), position, prompt=1, limit=20, eos=(7,)
            )
            np.testing.assert_allclose(got, want.numpy(), rtol=1e-6, err_msg=f"{name} {position}")


@pytest.mark.nightly("captions at the real size")
@pytest.mark.parametrize(
    "name", ["vit-gpt2", pytest.param("git", marks=large), pytest.param("blip", marks=large)]
)
def test_at_the_real_size(name: str, tmp_path: Path) -> None:
    pair = make(name, tmp_path, full=True, pictures=3, eos=2)
    for beams in (1, 4):
        config = GenerationConfig(num_beams=beams)
        theirs = pair.reference(num_beams=beams, max_new_tokens=20)
        check(pair, theirs, pair.decode(config, room=20), penalty=1.0)
