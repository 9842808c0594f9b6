"""Greedy decoding and sampling: each row chooses its tokens independently of the others.

Option names and semantics are those of transformers' `generate`.

Legend: `batch` pictures, `beams` captions of each, `rows` = batch x beams, `time` all tokens.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from captax.generation import filters
from captax.generation.decoding import Decoding, GenerationError, Strategy, as_arguments

__all__ = ["GenerationError", "Greedy", "Sample", "Strategy"]


@struct.dataclass
class _Rows:
    """State of captions that do not depend on each other.

    `live` says which captions have not ended. The tokens cannot say it: pad may be eos itself.
    """

    tokens: Int[Array, "batch beams time"]
    logprobs: Float[Array, "batch beams time"]
    lengths: Int[Array, "batch beams"]
    live: Bool[Array, "batch beams"]


@as_arguments("length_penalty")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Greedy:
    """The most probable token at every step.

    Scores use the model's own log-probabilities, without the effect of constraints.
    """

    length_penalty: float = 1.0

    @property
    def beams(self) -> int:
        """One caption for each picture."""
        return 1

    def returning_all(self) -> "Greedy":
        """The strategy itself: there is one caption."""
        return self

    def start(self, tokens: Int[Array, "batch time"], alive: Bool[Array, " batch"]) -> _Rows:
        """The state before the first choice."""
        shape = (len(tokens), self.beams)
        rows = jnp.broadcast_to(tokens[:, None], (*shape, tokens.shape[1]))
        return _Rows(
            tokens=rows,
            logprobs=jnp.zeros(rows.shape),
            lengths=jnp.zeros(shape, jnp.int32),
            live=jnp.broadcast_to(alive[:, None], shape),
        )

    def choose(
        self,
        decoding: Decoding,
        state: _Rows,
        logits: Float[Array, "rows vocab"],
        position: Int[Array, ""],
    ) -> _Rows:
        """Add a token to every live row."""
        logits = logits.astype(jnp.float32).reshape(*state.live.shape, -1)
        scores = decoding.constrain(logits, state.tokens, position)
        chosen = self.pick(decoding, scores, position).astype(jnp.int32)
        logprobs = self.logprobs(decoding, logits, state.tokens, position)
        taken = jnp.take_along_axis(logprobs, chosen[..., None], -1)[..., 0]
        live, before = state.live, state.tokens[:, :, position]
        return _Rows(
            tokens=state.tokens.at[:, :, position].set(jnp.where(live, chosen, before)),
            logprobs=state.logprobs.at[:, :, position].set(jnp.where(live, taken, 0)),
            lengths=state.lengths + live,
            live=live & ~decoding.ends(chosen, position),
        )

    def pick(
        self,
        decoding: Decoding,
        scores: Float[Array, "batch beams vocab"],
        position: Int[Array, ""],
    ) -> Int[Array, "batch beams"]:
        """The next token of each row."""
        return scores.argmax(-1)

    def logprobs(
        self,
        decoding: Decoding,
        logits: Float[Array, "batch beams vocab"],
        tokens: Int[Array, "batch beams time"],
        position: Int[Array, ""] | int,
    ) -> Float[Array, "batch beams vocab"]:
        """The model's own log-probabilities."""
        return jax.nn.log_softmax(logits.astype(jnp.float32))

    def finish(
        self, state: _Rows
    ) -> tuple[
        Int[Array, "batch returned time"],
        Float[Array, "batch returned time"],
        Float[Array, "batch returned"],
    ]:
        """One caption for each picture, scored as `Beam` would score it."""
        length = jnp.maximum(state.lengths, 1).astype(jnp.float32)
        return state.tokens, state.logprobs, state.logprobs.sum(-1) / length**self.length_penalty


@as_arguments(
    *("length_penalty", "temperature", "top_k", "top_p", "min_p"),
    structure=("num_return_sequences", "best_of", "looked_at"),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample(Greedy):
    """Tokens drawn by their probabilities, after the filters of `generate` in its order.

    A draw depends on the two seeds of its picture, on which of its captions it is for, and on the
    number of tokens drawn before; on nothing else. With `best_of`, that many captions are drawn and
    the `num_return_sequences` with the highest scores are returned, best first. Without it, all
    drawn captions are returned in the order of drawing.
    """

    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float | None = None
    num_return_sequences: int = 1
    best_of: int | None = None

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise GenerationError(f"`temperature` is {self.temperature}; it must be more than 0")
        if self.top_k < 0:
            raise GenerationError(f"`top_k` is {self.top_k}; use 1 or more, or 0 for all tokens")
        if not 0 < self.top_p <= 1:
            raise GenerationError(f"`top_p` is {self.top_p}; it must be more than 0 and at most 1")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise GenerationError(f"`min_p` is {self.min_p}; it must be from 0 to 1")
        if self.num_return_sequences < 1:
            raise GenerationError(
                f"`num_return_sequences` is {self.num_return_sequences}; it must be 1 or more"
            )
        if self.best_of is not None and self.best_of < self.num_return_sequences:
            raise GenerationError(
                f"`best_of` is {self.best_of}; it must be at least `num_return_sequences`, which "
                f"is {self.num_return_sequences}"
            )

    @property
    def beams(self) -> int:
        """Captions that are drawn for each picture."""
        return self.best_of or self.num_return_sequences

    @functools.cached_property
    def looked_at(self) -> int:
        """How many tokens the filters must see; one program serves all values that agree on it."""
        return filters.looked_at(self.top_k, self.top_p, self.min_p)

    def returning_all(self) -> "Sample":
        """The same draws, all returned, and with `best_of` the best ones first."""
        return dataclasses.replace(self, num_return_sequences=self.beams, min_p=self.min_p or 0.0)

    def pick(
        self,
        decoding: Decoding,
        scores: Float[Array, "batch beams vocab"],
        position: Int[Array, ""],
    ) -> Int[Array, "batch beams"]:
        """Draw a token for each row by the Gumbel-max trick (https://arxiv.org/abs/1411.0030)."""
        assert decoding.seeds is not None
        batch, beams, vocab = scores.shape
        steps = jnp.broadcast_to(position - decoding.prompt, (batch, 1))[:, 0]

        def noise(seeds: Array, step: Array, beam: Array) -> Array:
            key = jax.random.key(seeds[0])
            for part in (seeds[1], beam, step):
                key = jax.random.fold_in(key, part)
            return jax.random.gumbel(key, (vocab,))

        of_picture = jax.vmap(noise, (None, None, 0))
        drawn = jax.vmap(of_picture, (0, 0, None))(decoding.seeds, steps, jnp.arange(beams))
        return (self.filter(scores) + drawn).argmax(-1)

    def filter(self, scores: Float[Array, "*rows vocab"]) -> Float[Array, "*rows vocab"]:
        """Scores with minus infinity for the tokens that are not drawn from."""
        share = 0.0 if self.min_p is None else self.min_p
        return filters.keep_probable(
            scores / self.temperature, self.top_k, self.top_p, share, self.looked_at
        )

    def finish(
        self, state: _Rows
    ) -> tuple[
        Int[Array, "batch returned time"],
        Float[Array, "batch returned time"],
        Float[Array, "batch returned"],
    ]:
        """`num_return_sequences` captions for each picture."""
        tokens, logprobs, scores = super().finish(state)
        if self.best_of is None:
            return tokens, logprobs, scores
        scores, best = jax.lax.top_k(scores, self.num_return_sequences)
        tokens, logprobs = (
            jnp.take_along_axis(x, best[..., None], axis=1) for x in (tokens, logprobs)
        )
        return tokens, logprobs, scores
