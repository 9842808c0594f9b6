"""What strategies and the loop tell each other."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Bool, Float, Int

from captax.errors import OptionError

# Stands for minus infinity, but finite, so that sums and differences stay numbers.
NEVER = -1e9

Constrain = Callable[
    [Float[Array, "batch beams vocab"], Int[Array, "batch beams time"], Int[Array, ""]],
    Float[Array, "batch beams vocab"],
]


class GenerationError(OptionError):
    """Decoding options, prompts or captions that the model cannot follow."""


@dataclasses.dataclass(frozen=True)
class Decoding:
    """What is to be decoded, for a strategy.

    `prompt` and `limit` are how many tokens the prompt has and the caption may have with it: one
    number, or a column of one a picture. `constrain` maps scores of next tokens, given the tokens
    so far and their number. `seeds` is what random draws for a picture depend on.
    """

    prompt: Int[Array, "batch 1"] | int
    limit: Int[Array, "batch 1"] | int
    eos: tuple[int, ...]
    constrain: Constrain
    seeds: Int[Array, "batch 2"] | None = None

    def ends(
        self, chosen: Int[Array, "batch some"], position: Int[Array, ""] | int
    ) -> Bool[Array, "batch some"]:
        """Where the token at `position` is the last."""
        return is_any(chosen, self.eos) | (position + 1 >= self.limit)


def is_any(tokens: Int[Array, "*shape"], ids: tuple[int, ...]) -> Bool[Array, "*shape"]:
    """Where a token is one of those."""
    found = tokens == ids[0]
    for index in ids[1:]:
        found |= tokens == index
    return found


@runtime_checkable
class Strategy(Protocol):
    """A way to choose tokens.

    Its state is a struct of arrays with a row a picture, among them `tokens` [batch beams time],
    prompt included, and `live` [batch ...], true while more is to be chosen. If hypotheses change
    places, `parents` [batch beams] tells of which row each goes on.
    """

    @property
    def beams(self) -> int:
        """Rows a picture."""

    @property
    def length_penalty(self) -> float:
        """The power of its length by which a caption's summed log-probability is divided."""

    def start(self, tokens: Int[Array, "batch time"], alive: Bool[Array, " batch"]) -> Any:
        """The state before the first choice; of the tokens, those of prompts are there."""

    def choose(
        self,
        decoding: Decoding,
        state: Any,
        logits: Float[Array, "rows vocab"],
        position: Int[Array, ""],
    ) -> Any:
        """The state with the token at `position` chosen, given how the model scores it."""

    def logprobs(
        self,
        decoding: Decoding,
        logits: Float[Array, "batch beams vocab"],
        tokens: Int[Array, "batch beams time"],
        position: Int[Array, ""] | int,
    ) -> Float[Array, "batch beams vocab"]:
        """What scores are sums of."""

    def finish(self, state: Any) -> tuple[Array, Array, Array]:
        """Tokens and their log-probabilities [batch returned time], and scores [batch returned]."""


def parents_of(state: Any) -> jax.Array | None:
    """The row that each row goes on, or None where all stay."""
    parents = getattr(state, "parents", None)
    return None if parents is None else parents.reshape(-1)
