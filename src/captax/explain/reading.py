"""A model reads a whole caption, and returns all that an explanation needs.

Programs are compiled once for each size of pictures and length of captions. In shapes, `time`
counts the tokens that are predicted, each from those before it, and `places` what they attend to.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from captax.checkpoints.state import parameters
from captax.explain.rollout import rollout
from captax.generation.programs import Programs
from captax.models.arithmetic import map_pictures
from captax.models.encoder_decoder import EncoderDecoder
from captax.models.encoders import Features
from captax.models.observing import observe

# How many versions of one picture a program reads at once.
VERSIONS = 16
# At most so many gradients are taken on the way from the hidden picture to the shown one.
STEPS = 16


@struct.dataclass
class Seen:
    """What a model computed from one picture and one caption.

    `cross_attentions` go to the encoder's output: `lead` tokens, then the grid. A decoder that
    reads picture and text under one softmax (GIT) divides its attention between them and
    `self_attentions`. `rollout` is None where the encoder has no attention.
    """

    logprobs: Float[Any, " time"]
    top: Int[Any, "time alternatives"]
    top_logprobs: Float[Any, "time alternatives"]
    cross_attentions: Float[Any, "layers heads time places"]
    self_attentions: Float[Any, "layers heads time positions"]
    encoder_attentions: Float[Any, "depth encoder_heads places places"] | None
    rollout: Float[Any, "places places"] | None
    grid: tuple[int, int] = struct.field(pytree_node=False)
    lead: int = struct.field(pytree_node=False)


@dataclasses.dataclass(frozen=True)
class Given:
    """A picture as the model takes it, the same with everything hidden, and a caption.

    `tokens` begin with the start token and the prompt, and are padded after the first `length`. The
    last `said` tokens before the padding are explained.
    """

    pixels: Float[np.ndarray, "height width 3"]
    hidden: Float[np.ndarray, "height width 3"]
    tokens: Int[np.ndarray, " padded"]
    length: int
    said: int

    @property
    def predicted(self) -> slice:
        """Where the explained tokens are among the predictions, which begin with the second."""
        return slice(self.length - 1 - self.said, self.length - 1)


class Reader:
    """A model that reads whole captions, with the weights that it has at each call."""

    def __init__(
        self,
        model: EncoderDecoder,
        rebuild: Callable[..., EncoderDecoder],
        programs: Programs | None = None,
    ):
        """Compiled programs are kept among `programs`, where there are others of the model."""
        self._model = model
        self._rebuild = rebuild
        self._programs = programs or Programs()

    def observe(self, given: Given, alternatives: int, unsaid: Sequence[int] = ()) -> Seen:
        """What the model computes for the explained tokens of the caption.

        Tokens that are `unsaid`, because decoding never chooses them, are no alternatives.
        """
        size = self._model.decoder.config.vocab_size
        sayable = np.ones(size, bool)
        sayable[[token for token in unsaid if 0 <= token < size]] = False
        count = min(alternatives, int(sayable.sum()))
        seen = jax.device_get(
            self._programs.run(
                ("observe", count),
                lambda: self._observe(count),
                self._weights,
                given.pixels,
                given.tokens,
                sayable,
            )
        )
        time = given.predicted
        return seen.replace(
            logprobs=seen.logprobs[time],
            top=seen.top[time],
            top_logprobs=seen.top_logprobs[time],
            cross_attentions=seen.cross_attentions[:, :, time],
            self_attentions=seen.self_attentions[:, :, time, : given.length - 1],
        )

    def logprobs(
        self, given: Given, shown: Bool[np.ndarray, "versions rows columns"]
    ) -> Float[np.ndarray, "versions said"]:
        """Log-probabilities of the explained tokens for several versions of the picture.

        In each version the cells of the grid that are not `shown` are hidden.
        """
        found = []
        for first in range(0, len(shown), VERSIONS):
            batch = shown[first : first + VERSIONS]
            filled = np.ones((VERSIONS, *batch.shape[1:]), bool)
            filled[: len(batch)] = batch
            shown_here = self._weights, given.pixels, given.hidden, filled, given.tokens
            read = self._programs.run("versions", self._versions, *shown_here)
            found.append(read[: len(batch)])
        whole = np.concatenate([np.asarray(each) for each in found])
        return whole[:, given.predicted]

    def gradients(
        self, given: Given, grid: tuple[int, int], steps: int
    ) -> Float[np.ndarray, "said rows columns"]:
        """What each cell's pixels, measured from the hidden picture, add to log-probabilities.

        The gradient is the mean over the middles of `steps` equal parts of the way from the hidden
        picture to the shown one, at most `STEPS`. With 0 steps it is the one at the picture itself.
        """
        if not 0 <= steps <= STEPS:
            raise ValueError(f"the gradient cannot take {steps} steps; give 0 to {STEPS}")
        way = np.ones(STEPS, np.float32)
        way[:steps] = (np.arange(steps) + 0.5) / max(steps, 1)
        found = self._programs.run(
            ("gradients", grid),
            lambda: self._gradients(grid),
            self._weights,
            given.pixels,
            given.hidden,
            given.tokens,
            way,
            max(steps, 1),
            given.predicted.start,
            given.predicted.stop,
        )
        return np.asarray(found)[given.predicted]

    @property
    def _weights(self) -> Mapping[str, jax.Array]:
        return parameters(self._model)

    def _observe(self, alternatives: int) -> Callable[..., Seen]:
        def program(weights: Any, pixels: Any, tokens: Any, sayable: Any) -> Seen:
            model = self._rebuild(weights)

            def look_and_read() -> tuple[Features, Array]:
                features = model.encode(pixels[None])
                return features, model.read(features, tokens[None, :-1])

            (features, logits), seen = observe(look_and_read)
            logprobs = jax.nn.log_softmax(logits[0].astype(jnp.float32))
            best, which = jax.lax.top_k(jnp.where(sayable, logprobs, -jnp.inf), alternatives)
            places = features.tokens.shape[1]
            texts = _stacked(seen["decoder.attentions"])
            if "decoder.cross_attentions" in seen:
                crosses = _stacked(seen["decoder.cross_attentions"])
            else:
                crosses, texts = texts[..., :places], texts[..., places:]
            inner = seen.get("encoder.attentions")
            flow = None
            if inner:
                # GIT's picture tokens go on attending to one another beside the text.
                flow = rollout([a[0] for a in (*inner, *seen.get("decoder.prefix.attentions", []))])
            return Seen(
                logprobs=_of(logprobs, tokens),
                top=which,
                top_logprobs=best,
                cross_attentions=crosses,
                self_attentions=texts,
                encoder_attentions=_stacked(inner) if inner else None,
                rollout=flow,
                grid=features.grid,
                lead=features.lead,
            )

        return program

    def _versions(self) -> Callable[..., Float[Array, "versions time"]]:
        def program(weights: Any, pixels: Any, hidden: Any, shown: Any, tokens: Any) -> Array:
            model = self._rebuild(weights)
            rows, columns = (
                _cells(side, count)
                for side, count in zip(pixels.shape, shown.shape[1:], strict=False)
            )
            visible = shown[:, rows[:, None], columns][..., None]
            features = map_pictures(model.encode, jnp.where(visible, pixels, hidden))
            read = jnp.broadcast_to(tokens[:-1], (len(shown), len(tokens) - 1))
            logprobs = jax.nn.log_softmax(model.read(features, read).astype(jnp.float32))
            return jax.vmap(_of, (0, None))(logprobs, tokens)

        return program

    def _gradients(self, grid: tuple[int, int]) -> Callable[..., Float[Array, "time rows columns"]]:
        def program(
            weights: Any,
            pixels: Array,
            hidden: Array,
            tokens: Array,
            way: Array,
            stops: Array,
            first: Array,
            last: Array,
        ) -> Array:
            model = self._rebuild(weights)
            gather = [
                np.eye(count, dtype=np.float32)[_cells(side, count)]
                for side, count in zip(pixels.shape, grid, strict=False)
            ]
            time = len(tokens) - 1

            def read(pixels: Array) -> Float[Array, " time"]:
                logits = model.read(model.encode(pixels[None]), tokens[None, :-1])[0]
                return _of(jax.nn.log_softmax(logits.astype(jnp.float32)), tokens)

            def at(stop: Array, total: Array) -> Float[Array, "time rows columns"]:
                share = way[stop]
                _, back = jax.vjp(read, hidden + share * (pixels - hidden))

                def of(token: Array, found: Array) -> Array:
                    [gradient] = back(jax.nn.one_hot(token, time))
                    moved = (gradient * (pixels - hidden)).sum(-1)
                    return found.at[token].set(jnp.einsum("yx,yr,xc->rc", moved, *gather))

                # Only the explained tokens take a backward pass, one each.
                return total + jax.lax.fori_loop(first, last, of, jnp.zeros((time, *grid)))

            return jax.lax.fori_loop(0, stops, at, jnp.zeros((time, *grid))) / stops

        return program


def _of(logprobs: Float[Array, "time vocab"], tokens: Int[Array, " padded"]) -> Array:
    """The log-probability of every token but the first."""
    return jnp.take_along_axis(logprobs, tokens[1:, None], -1)[:, 0]


def _stacked(layers: list[Array]) -> Float[Array, "layers heads time places"]:
    return jnp.stack([layer[0] for layer in layers])


def _cells(side: int, count: int) -> Int[np.ndarray, " side"]:
    """Which of `count` cells each of so many pixels lies in."""
    return np.arange(side) * count // side
