"""A model reads a whole caption, and returns all that an explanation needs.

Programs are compiled once for each size of pictures and length of captions. In shapes, `time`
counts the tokens that are predicted, each from the prompt and the tokens before it, and `places`
what they attend to.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from captax.checkpoints.state import parameters
from captax.explain.rollout import rollout
from captax.explain.tiles import cells, paste, whole_grid
from captax.generation.programs import Programs
from captax.images.geometry import Size
from captax.models.arithmetic import map_pictures
from captax.models.encoder_decoder import EncoderDecoder
from captax.models.encoders import Features
from captax.models.observing import observe
from captax.models.prompt import Prompt
from captax.models.tracing import rematerialised

# How many versions of one picture a program reads at once.
VERSIONS = 16
# At most so many gradients are taken on the way from the hidden picture to the shown one.
STEPS = 16


@struct.dataclass
class Seen:
    """What a model computed from one picture and one caption.

    `cross_attentions` go to the encoder's output: `lead` tokens, then the grid. A decoder that
    reads picture and text under one softmax divides its attention between them and
    `self_attentions`. Where pictures are part of the prompt, both are the mean over the heads,
    because there may be thousands of places, and nothing is told of the encoder, which reads
    several views. `rollout` is None there and where the encoder has no attention.
    """

    logprobs: Float[Any, " time"]
    top: Int[Any, "time alternatives"]
    top_logprobs: Float[Any, "time alternatives"]
    cross_attentions: Any
    self_attentions: Float[Any, "layers heads time positions"]
    encoder_attentions: Float[Any, "depth encoder_heads places places"] | None
    rollout: Float[Any, "places places"] | None
    grid: tuple[int, int] = struct.field(pytree_node=False)
    lead: int = struct.field(pytree_node=False)


@dataclasses.dataclass(frozen=True)
class Given:
    """A picture as the model takes it, the same with everything hidden, and a caption.

    A picture that is read in views has an axis for them: its `tiles` (rows and columns), then all
    of it. The `tokens` follow the prompt, and the first `said` are explained; the rest is padding.
    """

    pixels: Float[np.ndarray, "*views height width 3"]
    hidden: Float[np.ndarray, "*views height width 3"]
    prompt: Prompt
    tokens: Int[np.ndarray, " padded"]
    said: int
    tiles: Size = (0, 0)


class Reader:
    """A model that reads whole captions, with the weights that it has at each call."""

    def __init__(
        self,
        model: EncoderDecoder,
        rebuild: Callable[..., EncoderDecoder],
        programs: Programs | None = None,
        weights: Callable[[], Mapping[str, Any]] | None = None,
    ):
        """Compiled programs are kept among `programs`, where there are others of the model.

        `weights` gives the model's present weights by name, if they are not those that it has.
        """
        self._model = model
        self._rebuild = rebuild
        self._programs = programs or Programs()
        self._present = weights or functools.partial(parameters, model)

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
                given.prompt,
                given.tokens,
                sayable,
            )
        )
        texts = seen.self_attentions[:, :, : given.said]
        pictures, words = self._columns(given, texts.shape[-1])
        crosses = texts[..., pictures] if seen.cross_attentions is None else seen.cross_attentions
        crosses = crosses[:, :, : given.said]
        return seen.replace(
            logprobs=seen.logprobs[: given.said],
            top=seen.top[: given.said],
            top_logprobs=seen.top_logprobs[: given.said],
            cross_attentions=paste(crosses, given.tiles, seen.grid),
            self_attentions=texts[..., words],
            grid=whole_grid(given.tiles, seen.grid),
        )

    def _columns(
        self, given: Given, count: int
    ) -> tuple[Bool[np.ndarray, " places"], Bool[np.ndarray, " places"]]:
        """Which of `count` places of self-attention are the picture's, and which are real tokens'.

        They are places of the picture before the prompt, if it has any there, those of the prompt,
        which may hold the picture, and those of the caption.
        """
        prompt = self._model.placed(given.prompt)
        real = np.ones(prompt.tokens.shape[1], bool)
        if prompt.lengths is not None:
            real = np.arange(len(real)) < int(prompt.lengths[0])
        inside = np.zeros_like(real) if prompt.pictures is None else np.asarray(prompt.pictures[0])
        later = len(given.tokens) - 1
        front = np.ones(count - len(real) - later, bool)
        written = np.arange(later) < given.said - 1
        pictures = np.concatenate([front, inside, np.zeros_like(written)])
        return pictures, np.concatenate([~front, real & ~inside, written])

    def logprobs(
        self, given: Given, shown: Bool[np.ndarray, "versions rows columns"]
    ) -> Float[np.ndarray, "versions said"]:
        """Log-probabilities of the explained tokens for several versions of the picture.

        In each version the cells of the grid that are not `shown` are hidden.
        """
        found = []
        views = given.pixels.shape[0] if given.pixels.ndim == 4 else 1
        at_once = max(1, VERSIONS // views)
        for first in range(0, len(shown), at_once):
            batch = shown[first : first + at_once]
            filled = np.ones((at_once, *batch.shape[1:]), bool)
            filled[: len(batch)] = batch
            read = self._programs.run(
                ("versions", given.tiles),
                lambda: self._versions(given.tiles),
                self._weights,
                given.pixels,
                given.hidden,
                filled,
                given.prompt,
                given.tokens,
            )
            found.append(read[: len(batch)])
        whole = np.concatenate([np.asarray(each) for each in found])
        return whole[:, : given.said]

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
            ("gradients", grid, given.tiles),
            lambda: self._gradients(grid, given.tiles),
            self._weights,
            given.pixels,
            given.hidden,
            given.prompt,
            given.tokens,
            way,
            max(steps, 1),
            given.said,
        )
        return np.asarray(found)[: given.said]

    @property
    def _weights(self) -> Mapping[str, Any]:
        return self._present()

    def _observe(self, alternatives: int) -> Callable[..., Seen]:
        def program(weights: Any, pixels: Any, prompt: Any, tokens: Any, sayable: Any) -> Seen:
            model = self._rebuild(weights)
            inside = model.placed(prompt).pictures is not None
            early = model.encode(pixels[None]) if inside else None

            def look_and_read() -> tuple[Features, Array]:
                features = model.encode(pixels[None]) if early is None else early
                return features, model.predict(features, prompt, tokens[None])

            (features, logits), seen = observe(look_and_read)
            logprobs = jax.nn.log_softmax(logits[0].astype(jnp.float32))
            best, which = jax.lax.top_k(jnp.where(sayable, logprobs, -jnp.inf), alternatives)

            def attentions(name: str) -> Float[Array, "layers heads time places"]:
                layers = zip(seen[f"decoder.prefix.{name}"], seen[f"decoder.{name}"], strict=True)
                return jnp.stack([_of_predictions(*layer, prompt, inside) for layer in layers])

            inner = seen.get("encoder.attentions")
            crossed = "decoder.cross_attentions" in seen
            flow = None
            if inner:
                # GIT's picture tokens go on attending to one another beside the text.
                later = [] if crossed else seen["decoder.prefix.attentions"]
                count = features.tokens.shape[1]
                flow = rollout([a[0, :, :count, :count] for a in (*inner, *later)])
            return Seen(
                logprobs=_of(logprobs, tokens),
                top=which,
                top_logprobs=best,
                cross_attentions=attentions("cross_attentions") if crossed else None,
                self_attentions=attentions("attentions"),
                encoder_attentions=jnp.stack([a[0] for a in inner]) if inner else None,
                rollout=flow,
                grid=features.grid,
                lead=features.lead,
            )

        return program

    def _versions(self, tiles: Size) -> Callable[..., Float[Array, "versions time"]]:
        def program(
            weights: Any, pixels: Any, hidden: Any, shown: Any, prompt: Any, tokens: Any
        ) -> Array:
            model = self._rebuild(weights)
            rows, columns = cells(pixels.shape, tiles, shown.shape[1:])
            visible = shown[:, rows[..., :, None], columns[..., None, :]][..., None]
            features = map_pictures(model.encode, jnp.where(visible, pixels, hidden))
            prompts, read = jax.tree.map(
                lambda x: jnp.broadcast_to(x, (len(shown), *x.shape[1:])), (prompt, tokens[None])
            )
            logits = model.predict(features, prompts, read)
            logprobs = jax.nn.log_softmax(logits.astype(jnp.float32))
            return jax.vmap(_of, (0, None))(logprobs, tokens)

        return program

    def _gradients(
        self, grid: Size, tiles: Size
    ) -> Callable[..., Float[Array, "time rows columns"]]:
        def program(
            weights: Any,
            pixels: Array,
            hidden: Array,
            prompt: Prompt,
            tokens: Array,
            way: Array,
            stops: Array,
            said: Array,
        ) -> Array:
            model = self._rebuild(weights)
            gather = [
                np.eye(count, dtype=np.float32)[places]
                for count, places in zip(grid, cells(pixels.shape, tiles, grid), strict=True)
            ]
            time = len(tokens)

            def read(pixels: Array) -> Float[Array, " time"]:
                # All views of a picture at once would need gigabytes to go back through.
                with rematerialised(pixels.ndim == 4):
                    features = model.encode(pixels[None])
                logits = model.predict(features, prompt, tokens[None])[0]
                return _of(jax.nn.log_softmax(logits.astype(jnp.float32)), tokens)

            def at(stop: Array, total: Array) -> Float[Array, "time rows columns"]:
                share = way[stop]
                _, back = jax.vjp(read, hidden + share * (pixels - hidden))

                def of(token: Array, found: Array) -> Array:
                    [gradient] = back(jax.nn.one_hot(token, time))
                    moved = (gradient * (pixels - hidden)).sum(-1)
                    by_cell = jnp.einsum("...yx,...yr,...xc->...rc", moved, *gather)
                    return found.at[token].set(by_cell.reshape(-1, *grid).sum(0))

                # Only the explained tokens take a backward pass, one each.
                return total + jax.lax.fori_loop(0, said, of, jnp.zeros((time, *grid)))

            return jax.lax.fori_loop(0, stops, at, jnp.zeros((time, *grid))) / stops

        return program


def _of(logprobs: Float[Array, "time vocab"], tokens: Int[Array, " padded"]) -> Array:
    """The log-probability of every token."""
    return jnp.take_along_axis(logprobs, tokens[:, None], -1)[:, 0]


def _of_predictions(
    read: Float[Array, "1 heads before _"],
    written: Float[Array, "1 heads later _"],
    prompt: Prompt,
    averaged: bool,
) -> Float[Array, "_ time places"]:
    """A layer's attention for each prediction: the first is made by the prompt's last token.

    A token that stands for the prompt was read in its stead; nothing sees it.
    """
    count = prompt.tokens.shape[1]
    length = count if prompt.lengths is None else prompt.lengths[0]
    first, later = read[0][:, read.shape[2] - count + length - 1][:, None], written[0][:, 1:]
    if written.shape[-1] > (places := first.shape[-1]):
        later = jnp.delete(later, places, axis=-1, assume_unique_indices=True)
        # The first prediction sees nothing that is written later.
        first = jnp.pad(first, ((0, 0), (0, 0), (0, later.shape[-1] - places)))
    found = jnp.concatenate([first, later], axis=1)
    return found.mean(0, keepdims=True) if averaged else found
