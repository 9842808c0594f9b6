"""What a family is compared by. Nothing here needs PyTorch but `reference`, when it is called."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from captax.checkpoints.state import parameters, rebuilder

# By the names of transformers' arguments and outputs.
Inputs = dict[str, Any]
Outputs = dict[str, Any]  # an array, or a list of one a layer

CHECKPOINTS = Path(__file__).parent / "checkpoints"
OUTPUTS = "golden.npz"


@dataclasses.dataclass(frozen=True)
class Case:
    """One model of transformers and how ours is asked the same.

    `reference(full)` makes transformers' model, small or at the real size; `inputs(full)` what
    it is called with; `run(model, inputs)` calls ours and names what it gave as transformers does.
    `ask` replaces the plain call of the reference where that does not do.
    """

    name: str
    reference: Callable[[bool], Any]
    inputs: Callable[[bool], Inputs]
    run: Callable[[Any, Inputs], Outputs]
    ask: Callable[..., Any] | None = None
    # Too large for every day: no small checkpoint, and compared only when asked for.
    large: bool = False
    # The output whose gradient is compared; None where the model has no head to train.
    loss: str | None = "logits"

    @property
    def stored(self) -> Path:
        """Where its small checkpoint and what the reference gave lie."""
        return CHECKPOINTS / self.name

    def outputs(self, model: nnx.Module, inputs: Inputs) -> Outputs:
        """What ours gives, compiled."""
        rebuild = rebuilder(model)
        program = jax.jit(lambda weights, inputs: self.run(rebuild(weights), inputs))
        return program(parameters(model), inputs)

    def golden(self) -> tuple[Inputs, Outputs]:
        """Stored inputs and the outputs that transformers gave."""
        inputs: Inputs = {}
        outputs: Outputs = {}
        with np.load(self.stored / OUTPUTS) as arrays:
            for key, value in arrays.items():
                kind, name, *index = key.split("/")
                if kind == "inputs":
                    inputs[name] = value
                elif index:
                    outputs.setdefault(name, []).append(value)
                else:
                    outputs[name] = value
        return inputs, outputs


def assert_same(got: Outputs, want: Outputs, *, tolerance: float = 1e-4) -> None:
    """Everything ours gave is what theirs gave, layer by layer, shapes included.

    Logits to `tolerance`; states, which may be large, to that share of their largest value.
    """
    for name, value in got.items():
        ours, theirs = _layers(value), _layers(want[name])
        assert len(ours) == len(theirs), f"{name}: {len(ours)} layers, not {len(theirs)}"
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert a.shape == b.shape, f"{name} {i}: {a.shape}, not {b.shape}"
            scale = 1.0 if name == "logits" else max(1.0, float(np.abs(b).max()))
            np.testing.assert_allclose(a, b, atol=tolerance * scale, rtol=0, err_msg=f"{name} {i}")


def _layers(value: Any) -> list[np.ndarray]:
    return [np.asarray(v) for v in (value if isinstance(value, Sequence) else [value])]


def pixels(inputs: Inputs) -> jax.Array:
    """Pictures channels-last."""
    return inputs["pixel_values"].transpose(0, 2, 3, 1)


def random_pixels(*shape: int, seed: int = 0) -> np.ndarray:
    """Noise as `[batch 3 height width]`, as transformers takes it."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def random_tokens(vocab: int, *shape: int, seed: int = 1) -> np.ndarray:
    """Any tokens but the first few, which mean something."""
    return np.random.default_rng(seed).integers(min(5, vocab - 1), vocab, shape)
