"""Confidence in a caption: the chance that a person would accept it.

A score compares captions; it does not say how good one is. A calibration does: it is a logistic
model of a few signals of the finished caption, fitted to captions whose quality is known.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from captax.errors import CheckpointError, quoted
from captax.generation.loop import Sequences
from captax.models.encoders import Features
from captax.models.prompt import Prompt
from captax.models.transformer import padded_words

SIGNALS = {
    "mean_logprob": "mean log-probability of the caption's tokens under the model",
    "lowest_logprob": "log-probability of its least likely token",
    "length": "number of its tokens",
    "evidence": "log-probability that seeing the picture adds to the two tokens that gain most",
    "class_probability": "probability of the likeliest class, if the encoder also classifies",
    "class_entropy": "entropy of the classes, if the encoder also classifies",
    "class_named": "probability of the likely classes that the caption names, if names are known",
    "spread": "how much the cells of the picture differ to the encoder (log); low in noise",
    "flatness": "how few neighbouring pixels differ (negative log); high in graphics",
}
"""The signals that a calibration can weigh, and what each of them is."""

_READ = 10  # tokens that are searched for evidence; more cost time and tell no more
_GAINING = 2  # those of them that count
_CLASSES = 5  # that are likely
_IN_A_ROW = 8  # captions that are read in one row
_LOWEST = -100.0  # log-probability that counts
_STEP = 8  # one in so many lines and channels is looked at
_EQUAL = 0.01  # the most that equal neighbours differ by, in normalised pixels
_LARGEST = 1e9  # of a weight, so that sums stay finite


@runtime_checkable
class Reading(Protocol):
    """What measuring needs from a model."""

    @property
    def class_words(self) -> tuple[tuple[int, ...], ...]:
        """The tokens of the name of each class of the encoder, if they are known."""

    def read(
        self,
        features: Any,
        tokens: Int[Array, "batch time"],
        positions: Int[Array, "#batch time"] | None = None,
        segments: Int[Array, "batch time"] | None = None,
    ) -> Float[Array, "batch time vocab"]:
        """Logits after every token; several captions in a row are told apart by `segments`."""


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A logistic model that turns the signals of a caption into a confidence.

    Attributes:
        weights: the weight of each signal, by its name in `SIGNALS`.
        bias: the model's constant term.
        threshold: a caption with this confidence or more is called sure.
        fitted: what the model was fitted on, and how well it fits, for people to read.
    """

    weights: Mapping[str, float]
    bias: float
    threshold: float
    fitted: Mapping[str, str | float] = dataclasses.field(default_factory=dict)

    def confidence(self, signals: Mapping[str, float]) -> float:
        """The chance that a person would accept a caption with these signals, from 0 to 1."""
        odds = self.bias + sum(weight * signals[name] for name, weight in self.weights.items())
        if math.isnan(odds):
            return 0.0
        return 1 / (1 + math.exp(-max(-500.0, min(500.0, odds))))

    def unsure(self, confidence: float | None) -> bool:
        """Whether a confidence, if there is one, is below the threshold."""
        return confidence is not None and confidence < self.threshold

    def write(self) -> dict[str, Any]:
        """The calibration as a JSON object."""
        values = dataclasses.asdict(self)
        return {**values, "weights": dict(self.weights), "fitted": dict(self.fitted)}

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> "Calibration":
        """The calibration that `write` wrote. Raises `CheckpointError` for anything else."""
        weights, fitted = content.get("weights"), content.get("fitted", {})
        if not isinstance(weights, dict) or not weights:
            raise CheckpointError("weights must be an object with a number for each signal")
        if unknown := sorted(weights.keys() - SIGNALS):
            raise CheckpointError(f"weights: there is no signal {quoted(unknown[0])}")
        numbers = {f"weights: {name}": value for name, value in weights.items()}
        numbers |= {name: content.get(name) for name in ("bias", "threshold")}
        for name, value in numbers.items():
            if not _is_number(value):
                raise CheckpointError(
                    f"{name} must be a finite number of a usual size, not {quoted(value)}"
                )
        if not 0 <= content["threshold"] <= 1:
            raise CheckpointError(f"threshold is {content['threshold']}; it must be from 0 to 1")
        if not isinstance(fitted, dict) or not all(
            isinstance(value, str) or _is_number(value) for value in fitted.values()
        ):
            raise CheckpointError("fitted must be an object of texts and numbers")
        known = {name: float(value) for name, value in weights.items()}
        return cls(known, float(content["bias"]), float(content["threshold"]), fitted)


def _is_number(value: Any) -> bool:
    right = isinstance(value, int | float) and not isinstance(value, bool)
    return right and -_LARGEST <= value <= _LARGEST  # neither is true of NaN


def measure(
    model: Reading,
    features: Features,
    pixels: Float[Array, "batch height width 3"],
    prompt: Prompt,
    found: Sequences,
) -> dict[str, Float[Array, " batch"]]:
    """The signals of each picture's best caption, as far as the model gives them."""
    logprobs, length = found.logprobs[:, 0], found.lengths[:, 0]
    inside = jnp.arange(logprobs.shape[1]) < length[:, None]
    # A constraint can force a token that the model calls impossible.
    logprobs = jnp.where(inside, jnp.maximum(logprobs, _LOWEST), 0)
    count = jnp.maximum(1, length).astype(jnp.float32)
    begun = slice(0, min(_READ, logprobs.shape[1]))
    gains = logprobs[:, begun] - _blind(model, features, prompt, found.tokens[:, 0, begun])
    gains = jnp.where(inside[:, begun], gains, -jnp.inf)
    gains, _ = jax.lax.top_k(gains, min(_GAINING, gains.shape[1]))
    gains = jnp.where(jnp.isneginf(gains), gains[:, :1], gains)  # a caption of one token
    measured = {
        "mean_logprob": logprobs.sum(1) / count,
        "lowest_logprob": logprobs.min(1),
        "length": count,
        "evidence": gains.mean(1),
    }
    if features.labels is not None:
        shares = jax.nn.log_softmax(features.labels.astype(jnp.float32))
        measured["class_probability"] = jnp.exp(shares.max(-1))
        measured["class_entropy"] = -(jnp.exp(shares) * shares).sum(-1)
        if model.class_words:
            likely, which = jax.lax.top_k(shares, min(_CLASSES, shares.shape[1]))
            same = (
                jnp.asarray(padded_words(model.class_words))[which][..., None]
                == found.tokens[:, :1, None]
            )
            named = (same & inside[:, None, None]).any((2, 3))
            measured["class_named"] = (jnp.exp(likely) * named).sum(-1)
    cells = features.tokens[:, features.lead :, ::_STEP].astype(jnp.float32)
    measured["spread"] = jnp.log(cells.std(1).mean(-1) + 1e-6)
    measured["flatness"] = -jnp.log(1.01 - _flat(pixels))
    return measured


def _blind(
    model: Reading, features: Features, prompt: Prompt, said: Int[Array, "batch time"]
) -> Float[Array, "batch time"]:
    """The log-probability of each token that is said after the prompts, without the picture.

    The features are zeros and the classes unknown. They are the same for all captions, so several
    are read in one row, for which the decoder prepares the features once.
    """
    batch, longest = prompt.tokens.shape
    lengths = jnp.full(batch, longest) if prompt.lengths is None else prompt.lengths
    places, first = jnp.arange(longest + said.shape[1] - 1), lengths[:, None]
    given = jnp.pad(prompt.tokens, ((0, 0), (0, said.shape[1] - 1)))
    after = jnp.clip(places - first, 0, said.shape[1] - 1)
    tokens = jnp.where(places < first, given, jnp.take_along_axis(said, after, 1))

    several = _IN_A_ROW if batch % _IN_A_ROW == 0 else 1
    rows = batch // several
    nothing = jax.tree.map(lambda each: each[:rows], dataclasses.replace(features, labels=None))
    nothing = dataclasses.replace(nothing, tokens=jnp.zeros_like(nothing.tokens), deep=None)
    segments = jnp.broadcast_to(
        jnp.repeat(jnp.arange(several), len(places)), (rows, tokens.size // rows)
    )
    logits = model.read(
        nothing, tokens.reshape(rows, -1), jnp.tile(places, several)[None], segments
    )
    # The token at a place of the caption is predicted at the place before it.
    before = first - 1 + jnp.arange(said.shape[1])
    logits = logits.reshape(batch, len(places), -1).astype(jnp.float32)
    totals = jnp.take_along_axis(jax.nn.logsumexp(logits, axis=-1), before, 1)
    return logits[jnp.arange(batch)[:, None], before, said] - totals


def _flat(pixels: Float[Array, "batch height width 3"]) -> Float[Array, " batch"]:
    """The share of pixels that equal the next in their row, or column; some lines are enough."""
    rows, columns = pixels[:, ::_STEP], pixels[:, :, ::_STEP]
    across = jnp.abs(rows[:, :, 1:] - rows[:, :, :-1]).max(-1) < _EQUAL
    down = jnp.abs(columns[:, 1:] - columns[:, :-1]).max(-1) < _EQUAL
    return jnp.maximum(across.mean((1, 2)), down.mean((1, 2)))
