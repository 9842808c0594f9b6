"""Maps over a picture for every word of its caption, as arrays: what all views are made of."""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float
from PIL import Image

from captax.errors import CaptaxError
from captax.explain.evidence import EVIDENCE
from captax.explain.faithfulness import Faithfulness
from captax.explain.words import Word
from captax.generation.result import Generated

ATTENTION, ROLLOUT = ("attention", "rollout")
METHODS = (ATTENTION, ROLLOUT, *EVIDENCE)
Per = Literal["word", "token"]


class ExplainError(CaptaxError):
    """An explanation was asked for that a captioner, or a caption, does not have."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Maps:
    """A caption, and for each of its words where in the picture it came from.

    Attributes:
        caption: the caption that is explained.
        prompt: the text that the caption began with, before the model said anything.
        image: the part of the picture that the model saw, undistorted.
        words: the words that the model said.
        tokens: the text of every token that was chosen, including the end if it was chosen.
        logprobs: the log-probabilities of those tokens by the model itself, whatever constrained
            the choice.
        steps: the likeliest tokens in the place of each token, best first, each with its
            probability.
        grid: (rows, columns) of the places that the model's visual tokens stand for.
        lead: how many visual tokens come before those and stand for no place, such as CLS.
        cross_attentions: the attention of each token's prediction to the visual tokens, and after
            them to the hints that a decoder takes from the encoder's classes, or to the question
            that an encoder reads with the picture. Where a model has one softmax for picture and
            text (GIT, vision-language models), this and `self_attentions` sum to 1 together.
        self_attentions: the attention of each token's prediction to the prompt and the tokens
            before it.
        encoder_attentions: the attention among the visual tokens, if the encoder has attention.
        rollout: the share of each patch in each visual token (see `captax.explain.rollout`), if
            the encoder has attention.
        evidence: for each method, what each cell adds to the log-probability of each token, in
            nats.
        methods: the methods that `maps` can show.
        faithfulness: the result for each method and for `random` order, if it was measured.
    """

    caption: Generated
    prompt: str
    image: Image.Image
    words: tuple[Word, ...]
    tokens: tuple[str, ...]
    logprobs: Float[np.ndarray, " time"]
    steps: tuple[tuple[tuple[str, float], ...], ...]
    grid: tuple[int, int]
    lead: int
    cross_attentions: Float[np.ndarray, "layers heads time places"]
    self_attentions: Float[np.ndarray, "layers heads time positions"]
    encoder_attentions: Float[np.ndarray, "depth encoder_heads places places"] | None
    rollout: Float[np.ndarray, "places places"] | None
    evidence: dict[str, Float[np.ndarray, "time rows columns"]]
    methods: tuple[str, ...]
    faithfulness: dict[str, Faithfulness]

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}({self.caption.text!r}, methods={self.methods}, grid={self.grid})"

    @property
    def picture_share(self) -> Float[np.ndarray, "layers heads time"]:
        """The share of each token's attention that lay on the grid.

        The rest lay on lead tokens, on hints and, in a model with one softmax for both, on the
        text.
        """
        return self.cross_attentions[..., self._cells].sum(-1)

    @property
    def _cells(self) -> slice:
        """The grid among the places that are attended to: after lead tokens, before hints."""
        return slice(self.lead, self.lead + self.grid[0] * self.grid[1])

    def maps(
        self,
        method: str = ATTENTION,
        *,
        layer: int | None = None,
        head: int | None = None,
        per: Per = "word",
    ) -> Float[np.ndarray, "words rows columns"]:
        """Where each word, or each token, came from by a method, as shares that sum to 1.

        Attention is the mean over layers and heads, unless one is chosen (counted from 0; -1 is the
        last). The attention of a word is the mean over its tokens. The evidence of a word is the
        sum over its tokens, and the map shows its positive part: what spoke for the word. A map
        with nothing to share is even. Raises `ExplainError` for a method that was not computed, or
        a layer or head that does not exist.
        """
        found = self.weights(method, layer=layer, head=head, per=per)
        found = np.maximum(found, 0)
        sums = found.sum((1, 2), keepdims=True)
        even = np.full(self.grid, 1 / (self.grid[0] * self.grid[1]), np.float32)
        return np.where(sums > 0, found / np.where(sums > 0, sums, 1), even)

    def weights(
        self,
        method: str = ATTENTION,
        *,
        layer: int | None = None,
        head: int | None = None,
        per: Per = "word",
    ) -> Float[np.ndarray, "words rows columns"]:
        """The values that `maps` turns into shares: attention, or signed evidence in nats."""
        if method not in self.methods:
            raise ExplainError(
                f"method {method!r} was not computed; choose {', '.join(self.methods)}, "
                "or explain again with it"
            )
        check_layers(method, layer, head)
        if method in self.evidence:
            found = self.evidence[method]
        else:
            chosen = _chosen(_chosen(self.cross_attentions, layer, "layer"), head, "head")
            found = chosen @ self.rollout if method == ROLLOUT else chosen
            found = found[:, self._cells]
            found = found / np.maximum(found.sum(1, keepdims=True), np.finfo(np.float32).tiny)
            found = found.reshape(-1, *self.grid)
        if per == "token":
            return found
        if not self.words:
            return np.zeros((0, *self.grid), np.float32)
        merge = np.sum if method in self.evidence else np.mean
        return np.stack([merge(found[list(word.tokens)], axis=0) for word in self.words])

    def named(self, per: Per = "word") -> list[tuple[str, float]]:
        """The text and the log-probability of each word, or of each token."""
        if per == "token":
            return list(zip(self.tokens, map(float, self.logprobs), strict=True))
        return [(word.text, word.logprob) for word in self.words]

    def find(self, word: str | int, per: Per = "word") -> int:
        """The place, from 0, of a word that is given by its text or its number from 1.

        With `per="token"` it is the place of a token, given by its number. Raises `ExplainError`
        if there is none.
        """
        said = str(word).strip()
        count = len(self.named(per))
        if said.isdecimal() and 1 <= int(said) <= count:
            return int(said) - 1
        if per == "token":
            raise ExplainError(f"there is no token {said!r}; give a number from 1 to {count}")
        for same in (str, _bare):
            for place, each in enumerate(self.words):
                if same(each.text) == same(said):
                    return place
        listed = ", ".join(f"{i} {each.text}" for i, each in enumerate(self.words, 1))
        raise ExplainError(f"word {said!r} is not in the caption; its words are {listed or 'none'}")


def check_layers(method: str, layer: int | None, head: int | None) -> None:
    """Raise `ExplainError` where a layer or a head is chosen and the method has none."""
    if method in EVIDENCE and (layer, head) != (None, None):
        raise ExplainError(
            f"{method} has no layers or heads; give neither, or choose {ATTENTION} or {ROLLOUT}"
        )


def _chosen(
    attentions: Float[np.ndarray, "some *rest"], which: int | None, name: str
) -> Float[np.ndarray, "*rest"]:
    """The attention of one layer, or of one head, or the mean of all."""
    if which is None:
        return attentions.mean(0)
    count = len(attentions)
    if not -count <= which < count:
        raise ExplainError(f"the decoder has no {name} {which}; choose 0 to {count - 1}")
    return attentions[which]


def _bare(text: str) -> str:
    """A word without its capitals and the punctuation around it."""
    return text.lower().strip(".,;:!?\"'()")
