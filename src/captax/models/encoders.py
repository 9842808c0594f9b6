"""What encoders of pictures and encoders of texts promise."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx, struct
from jaxtyping import Array, Bool, Float, Int

from captax.errors import CaptaxError, OptionError
from captax.models.arithmetic import project
from captax.models.layers import EncoderLayer, run_layer
from captax.models.modules import FinalNorm, LayerNorm
from captax.models.observing import record
from captax.models.patches import PatchEmbedding
from captax.models.shapes import PatchConfig


@struct.dataclass
class Features:
    """Encoder output, for pictures or for texts.

    The first `lead` tokens are special (such as CLS); the rest are the cells of `grid` (rows,
    columns) in row order. A text is a grid of one row. `mask` is false where a token is padding;
    without a mask, no token is. `labels` are the logits of the classes of an encoder that also
    classifies.

    Where pictures of several sizes are filled up to one number of tokens, `grids` has the rows and
    columns of each, and `grid` is a single row. If several are shown together, their tokens follow
    each other, padding comes last, `grids` has a second axis, and `times` are positions in time, if
    there is any. `deep` holds what earlier layers say of the same
    places, for the first layers of a decoder.
    """

    tokens: Float[Array, "*batch patches width"]
    grid: tuple[int, int] = struct.field(pytree_node=False)
    lead: int = struct.field(pytree_node=False, default=0)
    mask: Bool[Array, "*batch patches"] | None = None
    labels: Float[Array, "*batch labels"] | None = None
    grids: Int[Array, "*grids 2"] | None = None
    times: Int[Array, "batch pictures"] | None = None
    deep: Float[Array, "*batch levels patches width"] | None = None

    def stretched(self, grid: tuple[int, int]) -> "Features":
        """The same on a grid of other rows and columns, each the mean of the places it covers.

        PyTorch calls this adaptive average pooling. A larger grid repeats places.
        """
        tokens = self.tokens
        rows, columns = (_covering(*sizes) for sizes in zip(self.grid, grid, strict=True))
        weights = jnp.asarray(np.kron(rows, columns), tokens.dtype)
        places = project(tokens[:, self.lead :].swapaxes(1, 2), weights).swapaxes(1, 2)
        tokens = jnp.concatenate([tokens[:, : self.lead], places], axis=1)
        return dataclasses.replace(self, tokens=tokens, grid=grid)


def _covering(before: int, after: int) -> Float[np.ndarray, "after before"]:
    """How much each old place counts in each new one."""
    weights = np.zeros((after, before), np.float32)
    for place in range(after):
        first, end = place * before // after, -(-(place + 1) * before // after)
        weights[place, first:end] = 1 / (end - first)
    return weights


@struct.dataclass
class TextBatch:
    """Texts as an encoder takes them; `mask` is false where a token is padding.

    The arrays may be NumPy's; inside a compiled program they are JAX's.
    """

    tokens: Int[Any, "batch time"]
    mask: Bool[Any, "batch time"]


class LengthError(OptionError):
    """A text is longer than a model can read, or a caption would become so."""


def check_positions(needed: int, most: int) -> None:
    """Raise `LengthError` if a text and its prompt need more positions than a decoder has."""
    if needed > most:
        raise LengthError(
            f"the decoder has {most} positions and {needed} are needed; use a lower "
            "`max_new_tokens` or a shorter prompt"
        )


class ShapeError(CaptaxError):
    """An array does not have the shape that a model takes."""


def as_text_batch(text: TextBatch | Int[Array, "batch time"]) -> TextBatch:
    """The batch unchanged; tokens alone become a batch without padding."""
    return text if isinstance(text, TextBatch) else TextBatch(text, jnp.ones(text.shape, bool))


class VisionEncoder(nnx.Module):
    """A chain of parts from pixels to `Features`, which can be cut between any two.

    The parts before the first trainable one give the same in every epoch, so training computes
    `first_parts` once and keeps the result.
    """

    config: Any

    @property
    def image_size(self) -> tuple[int, int]:
        """The (height, width) that the encoder was made for."""
        raise NotImplementedError

    @property
    def features_width(self) -> int:
        """Width of the visual tokens."""
        raise NotImplementedError

    def parts(self) -> Sequence[Callable[[Array], Array]]:
        """The parts in order, each a module from an array to the next part's."""
        raise NotImplementedError

    def features(self, x: Array, image_size: tuple[int, int]) -> Features:
        """Make `Features` of the last part's output, for pictures of that (height, width).

        Here, the cells of a grid [batch rows columns width] become tokens, in row order.
        """
        batch, rows, columns, width = x.shape
        return Features(tokens=x.reshape(batch, rows * columns, width), grid=(rows, columns))

    def first_parts(self, pixels: Float[Array, "batch height width 3"], depth: int) -> Array:
        """Run the first `depth` parts."""
        x = pixels
        for part in self.parts()[:depth]:
            x = part(x)
        return x

    def last_parts(
        self, x: Array, depth: int, image_size: tuple[int, int] | None = None
    ) -> Features:
        """Run the parts from `depth` on what `first_parts` gave at the same depth.

        `image_size` is the size of the pictures, by default the encoder's own.
        """
        for part in self.parts()[depth:]:
            x = run_layer(part, x)
        return self.features(x, image_size or self.image_size)

    def __call__(self, pixels: Float[Array, "batch height width 3"]) -> Features:
        """Encode pictures."""
        if pixels.ndim != 4 or pixels.shape[3] != 3:
            raise ShapeError(
                f"pixels have shape {list(pixels.shape)}, but the encoder takes "
                "[batch height width 3], channels last; make them with an ImageProcessor"
            )
        _, height, width, _ = pixels.shape
        return self.last_parts(pixels, 0, (height, width))

    def label(self, features: Features) -> Float[Array, "batch labels"]:
        """Logits of the labels; only classifiers have them."""
        raise NotImplementedError

    def classify(
        self, pixels: Float[Array, "batch height width 3"]
    ) -> Float[Array, "batch labels"]:
        """Logits of the labels for pictures; only classifiers have them."""
        return self.label(self(pixels))


class PatchEncoder(VisionEncoder):
    """A vision transformer over the special tokens and square patches of a picture."""

    config: PatchConfig

    def __init__(self, config: PatchConfig, embeddings: PatchEmbedding, *, rngs: nnx.Rngs | None):
        self.config = config
        self.embeddings = embeddings
        layer = config.layer()
        self.layers = nnx.List(
            [EncoderLayer(layer, rngs=rngs) for _ in range(config.num_hidden_layers)]
        )
        self.norm: LayerNorm = FinalNorm(
            config.hidden_size, rngs=rngs, epsilon=config.layer_norm_eps
        )

    def parts(self) -> Sequence[Callable[[Array], Array]]:
        """Embeddings, layers, norm."""
        return [self.embeddings, *self.layers, self.norm]

    @property
    def image_size(self) -> tuple[int, int]:
        return self.config.picture

    @property
    def features_width(self) -> int:
        return self.config.hidden_size

    def features(
        self, x: Float[Array, "batch patches width"], image_size: tuple[int, int]
    ) -> Features:
        rows, columns = (side // self.config.patch_size for side in image_size)
        return Features(tokens=x, grid=(rows, columns), lead=x.shape[1] - rows * columns)


class TextEncoder(nnx.Module):
    """An encoder that reads whole texts."""

    config: Any
    layers: nnx.List[EncoderLayer]

    @property
    def max_positions(self) -> int:
        """How many tokens the encoder can read."""
        return self.config.max_position_embeddings

    @property
    def features_width(self) -> int:
        """Width of the tokens."""
        return self.config.hidden_size

    def checked(self, text: TextBatch | Int[Array, "batch time"]) -> TextBatch:
        """Texts as the encoder reads them: tokens alone are texts without padding.

        Raises `LengthError` when they are longer than `max_positions`.
        """
        text = as_text_batch(text)
        time = text.tokens.shape[1]
        if time > self.max_positions:
            raise LengthError(
                f"the encoder reads {self.max_positions} tokens and was given {time}; shorten the "
                "texts"
            )
        return text

    def run_layers(
        self, x: Float[Array, "batch time width"], mask: Bool[Array, "batch time"]
    ) -> Features:
        """Run `layers` on embedded texts whose tokens see each other where `mask` is true."""
        for layer in self.layers:
            x = layer(x, mask[:, None])
        return Features(tokens=record("hidden_states", x), grid=(1, x.shape[1]), mask=mask)

    def __call__(self, text: TextBatch | Int[Array, "batch time"]) -> Features:
        """Encode texts, after `checked`, which may raise `LengthError`."""
        raise NotImplementedError
