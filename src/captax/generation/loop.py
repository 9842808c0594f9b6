"""The decoding loop: encode once, then one token a step for all rows until all have ended.

It knows only `begin`, `advance` and the cache's `reorder`, so it decodes every family alike.
Everything here runs inside jitted programs.
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from captax.generation.constraints import NONE, Constraints, Rules, force
from captax.generation.decoding import (
    Constrain,
    Decoding,
    GenerationError,
    Strategy,
    is_any,
    parents_of,
)
from captax.generation.loops import LEAST, in_loop
from captax.models.cache import Cache
from captax.models.encoders import Features
from captax.models.prompt import Prompt


@struct.dataclass
class Sequences:
    """Decoded captions, best first.

    `tokens` exclude the prompt. Each caption ends with eos, unless it reached its limit, and is
    padded. `scores` are log-probabilities summed over `lengths` tokens and divided by
    `lengths ** length_penalty`; `logprobs` are those of each token, and 0 for padding. `signals`
    hold what `captax.generation.confidence` measured of the best caption, if that was asked for.
    The arrays are JAX's, or NumPy's after they were fetched from the device.
    """

    tokens: Int[Any, "*batch beams time"]
    lengths: Int[Any, "*batch beams"]
    scores: Float[Any, "*batch beams"]
    logprobs: Float[Any, "*batch beams time"]
    signals: dict[str, Float[Any, "*batch"]] = struct.field(default_factory=dict)


@struct.dataclass
class Prompts:
    """Prompts of any lengths, and the largest number of tokens that may follow each of them.

    There is room for `new_tokens` tokens after every prompt, the largest of `limits` or more.
    """

    prompt: Prompt
    limits: Int[Any, " batch"]
    new_tokens: int = struct.field(pytree_node=False)


@runtime_checkable
class Captioning(Protocol):
    """What the loop asks of a model."""

    def begin(
        self, features: Any, prompt: Prompt, new_tokens: int, beams: int
    ) -> tuple[Float[Array, "batch vocab"], Cache]:
        """Logits after the prompts, and a cache for `beams` texts of `new_tokens` after each."""

    def advance(
        self, tokens: Int[Array, " rows"], cache: Cache
    ) -> tuple[Float[Array, "rows vocab"], Cache]:
        """Logits after one more token."""


@struct.dataclass
class Running:
    """Texts that are being written: the place of the next token, and what is known up to there.

    Their cache has room until `room` new tokens have been chosen.
    """

    position: Int[Array, ""]
    state: Any
    cache: Any
    room: int = struct.field(pytree_node=False)

    @property
    def live(self) -> Bool[Array, ""]:
        """Whether any text goes on."""
        return self.state.live.any()


@dataclasses.dataclass(frozen=True)
class Loop:
    """How one batch is decoded: `begin`, `proceed` until no text goes on, and `finish`.

    Each may be a program of its own, so that the cache of long texts grows as they do. A `step` may
    be one too, for texts that are told while they are written.
    """

    model: Captioning
    strategy: Strategy
    decoding: Decoding
    prompt: Prompt
    new_tokens: int
    pad_id: int
    alive: Bool[Any, " batch"]

    def begin(self, features: Features | None, room: int | None = None) -> Running:
        """Read the prompts and choose the first token of each text.

        There is `room` for so many new tokens, by default for all.
        """
        room, read, beams = room or self.new_tokens, self.prompt, self.strategy.beams
        # The last token is never fed back, so the cache needs no place for it.
        logits, cache = self.model.begin(features, read, max(1, room - 1), beams)
        tokens = jnp.pad(
            at_the_end(read), ((0, 0), (0, self.new_tokens)), constant_values=self.pad_id
        )
        state = self.strategy.start(tokens, self.alive)
        position = jnp.asarray(read.tokens.shape[1], jnp.int32)
        logits = jnp.repeat(logits, beams, axis=0)
        state = self.strategy.choose(self.decoding, state, logits, position)
        return Running(position + 1, state, cache, room)

    def proceed(self, running: Running, room: int | None = None) -> Running:
        """Choose tokens until no text goes on, or until there is no room.

        With `room`, the cache grows first. To be in steps, `begin` must have had room for 2.
        """
        room = room or running.room
        cache = running.cache
        if room > running.room:
            cache = cache.with_more(room - running.room)
        end = self.prompt.tokens.shape[1] + room

        def unfinished(running: Running) -> Array:
            return running.live & (running.position < end)

        begun = Running(running.position, running.state, cache, room)
        return jax.lax.while_loop(unfinished, self.step, begun)

    def step(self, running: Running) -> Running:
        """Choose one more token of each text, for which there is room."""
        position, state, cache = running.position, running.state, running.cache
        parents = parents_of(state)
        cache = cache if parents is None else cache.reorder(parents)
        last = state.tokens[:, :, position - 1].reshape(-1)
        logits, cache = self.model.advance(last, cache)
        state = self.strategy.choose(self.decoding, state, logits, position)
        return Running(position + 1, state, cache, running.room)

    def finish(self, running: Running) -> Sequences:
        """The texts without their prompts."""
        return _sequences(self.decoding, *self.strategy.finish(running.state))


def looping(
    model: Captioning,
    prompt: Int[Array, "batch time"] | Prompts,
    strategy: Strategy,
    *,
    eos_id: int | tuple[int, ...],
    pad_id: int,
    max_new_tokens: int | None = None,
    constraints: Constraints | Rules | None = None,
    alive: Bool[Array, " batch"] | None = None,
    seeds: Int[Array, "batch 2"] | None = None,
    end_loops: bool = False,
) -> Loop:
    """How to decode at most `max_new_tokens` tokens (eos included) after each prompt.

    `Prompts` carry their own limits instead. A row where `alive` is false is padding of the batch:
    the loop does not wait for it. Sampling draws by `seeds`, by default the number of the row.
    With `end_loops`, eos follows where a text says the same again and again (`loops.py`). Raises
    `GenerationError` if no token may be decoded.
    """
    limit: Any
    if isinstance(prompt, Prompts):
        read, new_tokens = prompt.prompt, prompt.new_tokens
        limit = read.tokens.shape[1] + prompt.limits[:, None]
    else:
        if max_new_tokens is None or max_new_tokens < 1:
            raise GenerationError(f"`max_new_tokens` is {max_new_tokens}; it must be 1 or more")
        read, new_tokens = Prompt(prompt), max_new_tokens
        limit = prompt.shape[1] + new_tokens
    batch, first = read.tokens.shape
    if alive is None:
        alive = jnp.ones(batch, bool)
    if seeds is None:
        seeds = jnp.stack([jnp.zeros(batch, jnp.int32), jnp.arange(batch, dtype=jnp.int32)], 1)
    eos = (eos_id,) if isinstance(eos_id, int) else eos_id
    constrain = constrainer(constraints, read.filled, first, limit, eos)
    if end_loops and new_tokens > LEAST:
        constrain = _ending_loops(constrain, first, eos)
    decoding = Decoding(first, limit, eos, constrain, seeds)
    return Loop(model, strategy, decoding, read, new_tokens, pad_id, alive)


def generate(
    model: Captioning,
    features: Features | None,
    prompt: Int[Array, "batch time"] | Prompts,
    strategy: Strategy,
    **how: Any,
) -> Sequences:
    """Decode at most `max_new_tokens` tokens after each prompt, whole; `how` as in `looping`."""
    loop = looping(model, prompt, strategy, **how)
    return loop.finish(loop.proceed(loop.begin(features)))


def at_the_end(prompt: Prompt) -> Int[Array, "batch time"]:
    """Tokens of prompts that all end at the last place, so that what follows has one place too."""
    tokens = jnp.asarray(prompt.tokens)
    if prompt.lengths is None:
        return tokens
    time = tokens.shape[1]
    places = jnp.arange(time) - prompt.filled
    return jnp.where(places >= 0, jnp.take_along_axis(tokens, places % time, 1), NONE)


def constrainer(
    constraints: Constraints | Rules | None,
    start: Any,
    first: Any,
    limit: Any,
    eos: tuple[int, ...],
) -> Constrain:
    """`constraints` for pictures that have several captions each: [batch beams vocab].

    Rows begin at `start`, their prompts end at `first`, and they end at `limit` at the latest.
    """
    if constraints is None or constraints == Constraints():
        return lambda scores, tokens, position: scores

    def constrain(scores: Array, tokens: Array, position: Array) -> Array:
        _, beams, vocab = scores.shape
        given = constraints
        rules = given.rules(vocab, eos) if isinstance(given, Constraints) else given

        def of_rows(place: Any) -> Any:
            return place if isinstance(place, int) else jnp.repeat(place, beams, axis=0)

        found = rules(
            scores.reshape(-1, vocab),
            tokens.reshape(-1, tokens.shape[-1]),
            position,
            start=of_rows(start),
            prompt=of_rows(first),
            limit=of_rows(limit),
        )
        return found.reshape(scores.shape)

    return constrain


def _ending_loops(constrain: Constrain, first: int, eos: tuple[int, ...]) -> Constrain:
    """The same constraints, and only eos where a caption, which begins at `first`, is in a loop."""

    def ending(scores: Array, tokens: Array, position: Array) -> Array:
        vocab = scores.shape[-1]
        found = constrain(scores, tokens, position).reshape(-1, vocab)
        looped = in_loop(tokens.reshape(-1, tokens.shape[-1]), position, first)
        ends = jnp.zeros(vocab, bool).at[jnp.array(eos)].set(True)
        return force(found, ends, looped[:, None]).reshape(scores.shape)

    return ending


def _sequences(decoding: Decoding, tokens: Array, logprobs: Array, scores: Array) -> Sequences:
    """The decoded captions without their prompts."""
    tokens, logprobs = (each[:, :, decoding.prompt :] for each in (tokens, logprobs))
    ends = is_any(tokens, decoding.eos)
    lengths = ((ends.cumsum(-1) - ends) == 0).sum(-1)
    lengths = jnp.minimum(lengths, decoding.limit - decoding.prompt)
    return Sequences(tokens=tokens, lengths=lengths, scores=scores, logprobs=logprobs)
