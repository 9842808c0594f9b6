"""Texts that language models continue, against transformers' `generate`."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import tokenizers

import captax
from captax.pipelines.text_generator import TextGenerator
from captax.text import Tokenizer
from golden.families import CASES

pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
torch_side = pytest.importorskip("golden.torch_side")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::UserWarning")]

FAMILIES = ("llama", "llama3", "gemma", "gemma2", "gemma3", "qwen2", "qwen3")
VOCAB, PAD, ROOM = 40, 0, 10
# Prompts of many lengths, longer than the window of 5 too.
PROMPTS = [
    np.random.default_rng(length).integers(5, VOCAB, length).tolist()
    for length in (1, 2, 3, 5, 6, 9, 13, 17, 3, 6, 11, 17)
]


@dataclasses.dataclass(frozen=True)
class Pair:
    """A model on both sides, and the token that texts end with."""

    theirs: Any
    ours: TextGenerator
    eos: int

    def reference(self, prompt: list[int], **options: Any) -> Any:
        """What transformers' `generate` gives for one prompt, alone."""
        options = {"eos_token_id": self.eos, "pad_token_id": PAD, **options}
        with torch.no_grad():
            return self.theirs.generate(
                torch.tensor([prompt]),
                do_sample=False,
                return_dict_in_generate=True,
                output_scores=True,
                **{"max_new_tokens": ROOM, **options},
            )

    def score(self, prompt: list[int], tokens: list[int], penalty: float) -> float:
        """The reference's own score of a text."""
        with torch.no_grad():
            logits = self.theirs(torch.tensor([[*prompt, *tokens[:-1]]])).logits
        logprobs = torch.log_softmax(logits[0, -len(tokens) :].double(), -1)
        return float(logprobs[range(len(tokens)), tokens].sum()) / len(tokens) ** penalty


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    directory = tmp_path_factory.mktemp(request.param)
    theirs = torch_side.make_reference(CASES[request.param], full=False)
    for name, value in theirs.named_parameters():  # larger, so that places and words tell
        if "k_proj.weight" in name or "q_proj.weight" in name:
            value.data.mul_(4)
        elif "norm" in name:
            value.data.add_(torch.randn(value.shape, generator=torch.manual_seed(1)))
    theirs.save_pretrained(directory)
    words = {f"w{index}": index for index in range(VOCAB)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w3"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    Tokenizer(backend, start="w1", eos="w2", pad="w0").save(directory)
    pair = Pair(theirs, captax.load(directory), 2)
    # A token that is often said, so that texts end at every length.
    said = [
        token
        for prompt in PROMPTS
        for token in pair.reference(prompt, min_new_tokens=ROOM).sequences[0, len(prompt) + 2 :]
    ]
    counts = np.bincount(said, minlength=VOCAB)
    counts[:3] = 0
    return dataclasses.replace(pair, eos=int(counts.argmax()))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"min_new_tokens": ROOM},
        {"repetition_penalty": 1.5},
        {"num_beams": 3},
        {"num_beams": 5, "length_penalty": 2.0},
        {"num_beams": 4, "no_repeat_ngram_size": 2, "min_new_tokens": 4},
    ],
    ids=lambda options: "-".join(f"{key}={value}" for key, value in options.items()) or "greedy",
)
def test_texts_are_continued_token_for_token(pair: Pair, options: dict[str, Any]) -> None:
    texts = [" ".join(f"w{token}" for token in prompt) for prompt in PROMPTS]
    found = pair.ours.generate(
        texts, eos_token_id=pair.eos, **{"num_beams": 1, "max_new_tokens": ROOM, **options}
    )
    same = 0
    for prompt, generated in zip(PROMPTS, found, strict=True):
        theirs = pair.reference(prompt, **options)
        want = theirs.sequences[0, len(prompt) :].tolist()
        want = want[: want.index(pair.eos) + 1] if pair.eos in want else want
        got = list(generated.tokens)
        if got == want:
            same += 1
            if (score := theirs.get("sequences_scores")) is not None:
                assert generated.score == pytest.approx(float(score[0]), abs=1e-4)
        else:  # rounding may decide only where the reference itself cannot tell
            penalty = options.get("length_penalty", 1.0)
            scores = [pair.score(prompt, tokens, penalty) for tokens in (got, want)]
            assert abs(scores[0] - scores[1]) < 1e-6, (prompt, got, want)
    assert same >= len(PROMPTS) - 1
    assert len({generated.tokens for generated in found}) > len(PROMPTS) / 3
