"""A captioner that has learned to name what it sees, and pictures of which the place is known."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from captax.checkpoints.state import parameters, rebuilder
from captax.generation import GenerationConfig
from captax.images import ImageProcessor
from captax.models import registry
from captax.pipelines.captioner import Captioner
from captax.text import train_word_tokenizer

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 40), "blue": (40, 60, 220)}
SIDE, CELLS = 32, 4


@dataclasses.dataclass(frozen=True)
class Placed:
    """A picture of one coloured cell on grey noise, and where the cell is."""

    pixels: np.ndarray
    colour: str
    row: int
    column: int


def place(rng: np.random.Generator) -> Placed:
    colour = str(rng.choice(list(COLOURS)))
    row, column = map(int, rng.integers(0, CELLS, 2))
    pixels = rng.normal(128, 12, (SIDE, SIDE, 3)).clip(0, 255).astype(np.uint8)
    cell = SIDE // CELLS
    pixels[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] = COLOURS[colour]
    return Placed(pixels, colour, row, column)


@pytest.fixture(scope="session")
def placed() -> list[Placed]:
    """Pictures that the captioner has not seen."""
    rng = np.random.default_rng(1)
    return [place(rng) for _ in range(8)]


@pytest.fixture(scope="session")
def namer() -> Captioner:
    """A ViT and a decoder, trained here to say "a red square" of a red square."""
    tokenizer = train_word_tokenizer([f"a {c} square" for c in COLOURS], min_count=1)
    config: dict[str, Any] = {
        "model_type": "captax-encoder-decoder",
        "encoder": {
            "model_type": "vit",
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "image_size": SIDE,
            "patch_size": SIDE // CELLS,
        },
        "decoder": {
            "model_type": "captax-transformer",
            "vocab_size": tokenizer.vocab_size,
            "width": 32,
            "layers": 1,
            "heads": 2,
            "mlp_width": 64,
            "max_positions": 8,
            "features_width": 32,
            "grid": [CELLS, CELLS],
        },
    }
    model = registry.build(config, rngs=nnx.Rngs(0))
    processor = ImageProcessor(size=(SIDE, SIDE))
    rng = np.random.default_rng(0)
    examples = [place(rng) for _ in range(512)]
    pixels = jnp.asarray(processor([each.pixels for each in examples]))
    said = jnp.asarray(tokenizer.encode([f"a {each.colour} square" for each in examples]))
    rebuild, optimizer = rebuilder(model), optax.adam(3e-3)

    def loss(weights: Any, rows: jax.Array) -> jax.Array:
        logits = rebuild(weights)(pixels[rows], said[rows, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, said[rows, 1:]).mean()

    @jax.jit
    def train(weights: Any, batches: jax.Array) -> tuple[Any, jax.Array]:
        def step(carry: Any, rows: jax.Array) -> tuple[Any, jax.Array]:
            weights, state = carry
            value, gradients = jax.value_and_grad(loss)(weights, rows)
            updates, state = optimizer.update(gradients, state)
            return (optax.apply_updates(weights, updates), state), value

        (weights, _), losses = jax.lax.scan(step, (weights, optimizer.init(weights)), batches)
        return weights, losses

    batches = jnp.asarray(rng.integers(0, len(examples), (200, 32)))
    weights, losses = train(dict(parameters(model)), batches)
    assert losses[-1] < 0.05
    return Captioner(
        rebuild(weights), processor, tokenizer, GenerationConfig(num_beams=1, max_new_tokens=6)
    )
