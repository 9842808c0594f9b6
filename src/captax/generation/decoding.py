"""What strategies and the loop tell each other."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
from jaxtyping import Array, Bool, Float, Int

from captax.errors import OptionError

# Takes the place of minus infinity, but is finite, so that sums and differences stay numbers.
NEVER = -1e9

Kind = TypeVar("Kind")

Constrain = Callable[
    [Float[Array, "batch beams vocab"], Int[Array, "batch beams time"], Int[Array, ""]],
    Float[Array, "batch beams vocab"],
]


class GenerationError(OptionError):
    """Decoding options, prompts or captions that the model cannot follow."""


def as_arguments(
    *numbers: str, structure: tuple[str, ...] = ()
) -> Callable[[type[Kind]], type[Kind]]:
    """Let programs take a frozen dataclass as an argument.

    The `numbers` are arrays there, so one program serves all their values. What is in `structure`
    decides which program is needed: these fields and cached properties have their values when the
    program is traced.
    """

    def register(kind: type[Kind]) -> type[Kind]:
        def flatten(given: Any) -> tuple[list[Any], tuple[Any, ...]]:
            return [getattr(given, name) for name in numbers], tuple(
                getattr(given, name) for name in structure
            )

        def unflatten(known: tuple[Any, ...], values: Any) -> Any:
            # Not by `__init__`, which looks at the numbers.
            made = object.__new__(kind)
            for name, value in zip((*structure, *numbers), (*known, *values), strict=True):
                made.__dict__[name] = value
            return made

        jax.tree_util.register_pytree_node(kind, flatten, unflatten)
        return kind

    return register


@dataclasses.dataclass(frozen=True)
class Decoding:
    """One batch to decode, as a strategy sees it.

    In the tokens of a picture, the prompt ends at the place `prompt`, and captions at `limit` at
    the latest: one number for all pictures, or a column with one for each.
    `constrain` changes the scores of the next tokens, given the tokens so far and their number.
    Random draws for a picture depend on its row of `seeds` alone.
    """

    prompt: Int[Array, "batch 1"] | int
    limit: Int[Array, "batch 1"] | int
    eos: tuple[int, ...]
    constrain: Constrain
    seeds: Int[Array, "batch 2"] | None = None

    def ends(
        self, chosen: Int[Array, "batch some"], position: Int[Array, ""] | int
    ) -> Bool[Array, "batch some"]:
        """Whether the token at `position` is the last of its caption."""
        return is_any(chosen, self.eos) | (position + 1 >= self.limit)


def is_any(tokens: Int[Array, "*shape"], ids: tuple[int, ...]) -> Bool[Array, "*shape"]:
    """Whether each token is one of `ids`."""
    found = tokens == ids[0]
    for index in ids[1:]:
        found |= tokens == index
    return found


@runtime_checkable
class Strategy(Protocol):
    """A way to choose tokens.

    Its state is a struct of arrays with a row for each picture. Among them are `tokens` [batch
    beams time], which include the prompt, and `live` [batch ...], which is true until nothing more
    is to be chosen. Where hypotheses branch, `parents` [batch beams] says which row each
    continues.
    """

    @property
    def beams(self) -> int:
        """Hypotheses for each picture."""

    @property
    def length_penalty(self) -> float:
        """A score is the sum of log-probabilities divided by the length to this power."""

    def returning_all(self) -> "Strategy":
        """The same choices, with all hypotheses returned: the first of them are the same."""

    def start(self, tokens: Int[Array, "batch time"], alive: Bool[Array, " batch"]) -> Any:
        """The state before the first choice; `tokens` holds prompts alone."""

    def choose(
        self,
        decoding: Decoding,
        state: Any,
        logits: Float[Array, "rows vocab"],
        position: Int[Array, ""],
    ) -> Any:
        """The state after the token at `position` was chosen by the model's logits."""

    def logprobs(
        self,
        decoding: Decoding,
        logits: Float[Array, "batch beams vocab"],
        tokens: Int[Array, "batch beams time"],
        position: Int[Array, ""] | int,
    ) -> Float[Array, "batch beams vocab"]:
        """The log-probabilities of next tokens whose sums become scores."""

    def finish(self, state: Any) -> tuple[Array, Array, Array]:
        """Tokens and their log-probabilities [batch returned time], and scores [batch returned]."""


def parents_of(state: Any) -> jax.Array | None:
    """The row that each row continues, or None if every row continues itself."""
    parents = getattr(state, "parents", None)
    return None if parents is None else parents.reshape(-1)
