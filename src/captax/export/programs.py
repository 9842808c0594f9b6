"""A captioner as three programs of flat, named arrays: encoder, prefill and step.

Legend: `batch` captions, `time` tokens of a prompt, `capacity` places for tokens in a cache. The
cache of captax is a pytree; here its arrays are inputs and outputs. The output `present_key.0` of
one step is the input `past_key.0` of the next.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
from jax import export as jax_export

from captax.checkpoints.state import parameters, rebuilder
from captax.errors import CaptaxError
from captax.models.cache import Cache, KeysValues, Prefix
from captax.models.encoders import Features
from captax.models.prompt import Prompt
from captax.models.tracing import portable
from captax.pipelines.captioner import Captioner

WEIGHTS = "weights.safetensors"  # the file of all programs' weights
Shape = jax.ShapeDtypeStruct
Weights = Mapping[str, Any]


class ExportError(CaptaxError):
    """A captioner cannot be exported as requested."""


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A pure function of weights and named arrays, and the shapes of its inputs and outputs.

    `traced` is its closed jaxpr. Its arguments are all weights of the captioner (`slots`), then the
    inputs in order. `weights` are the weights that it reads. Sizes may be symbolic.
    """

    name: str
    traced: Any
    slots: dict[str, Shape]
    weights: dict[str, Shape]
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]

    def __call__(self, weights: Weights, *inputs: jax.Array) -> list[jax.Array]:
        """Its outputs. Call it inside a JAX transformation, with arrays of the shapes above."""
        unread = {n: jnp.zeros(s.shape, s.dtype) for n, s in self.slots.items() if n not in weights}
        given = {**unread, **weights}
        return jax.extend.core.jaxpr_as_fun(self.traced)(*map(given.get, self.slots), *inputs)


def make_programs(
    captioner: Captioner, capacity: int, batch_size: int | None = None
) -> list[Program]:
    """Make encoder, prefill and step of a captioner, with room for `capacity` tokens a caption.

    Without a `batch_size`, batches may have any size, and the prompts of prefill any length. With a
    `batch_size`, every batch has this size, and prefill takes one token a caption, so that every
    size is known.
    """
    model, (height, width) = captioner.model, captioner.processor.size
    rebuild = rebuilder(model)
    names = parameters(model)
    # Sorted, because JAX sorts the keys of a dictionary.
    shapes = {name: Shape(names[name].shape, jnp.float32) for name in sorted(names)}
    batch: Any = batch_size
    prompted: Any = batch_size
    time: Any = 1
    if batch_size is None:
        # JAX requires that every size in a constraint occurs in the inputs of the program.
        (batch,) = jax_export.symbolic_shape("batch")
        limits = [f"time <= {capacity}"]
        prompted, time = jax_export.symbolic_shape("batch, time", constraints=limits)

    def encoder(weights: Weights, pixels: jax.Array) -> Features:
        found = rebuild(weights).encode(pixels)
        return found if hinted else dataclasses.replace(found, labels=None)

    # Whether the decoder reads the picture as part of its text.
    fronted = model.decoder.layers[0].cross_attention is None
    # The classes of the encoder, if the decoder takes hints from them.
    hinted = bool(model.decoder.classes)
    written = ["features", *(["labels"] if hinted else [])]
    pixels = {"pixels": Shape((batch, height, width, 3), jnp.float32)}
    looking, seen = _program("encoder", encoder, shapes, pixels, written)

    def prefill(weights: Weights, tokens: jax.Array, *arrays: jax.Array) -> tuple[jax.Array, Any]:
        given = jax.tree.unflatten(seen, arrays)
        prefix, logits = rebuild(weights).prefill(given, Prompt(tokens))
        return logits, _parts(prefix, capacity, given.tokens.shape[1] if fronted else 0)

    features = _of(prompted, looking.outputs)
    given = {"tokens": Shape((prompted, time), jnp.int32), **features}
    layers = range(len(model.decoder.layers))
    past, present, context = (
        [f"{name}_{kind}.{i}" for i in layers for kind in ("key", "value")]
        for name in ("past", "present", "context")
    )
    written = ["logits", *present, *context]
    beginning, begun = _program("prefill", prefill, shapes, given, written)

    def step(
        weights: Weights, tokens: jax.Array, position: jax.Array, *arrays: jax.Array
    ) -> tuple[jax.Array, Any]:
        _, (past, context) = jax.tree.unflatten(begun, (tokens, *arrays))
        ancestry = jnp.zeros((tokens.shape[0], 1, capacity), jnp.int32)
        prefix = Prefix(places=context) if fronted else Prefix(memory=context)
        cache = Cache(prefix, past, length=position, ancestry=ancestry)
        logits, cache = rebuild(weights).advance(tokens, cache)
        return logits, cache.past

    cache = dict(zip([*past, *context], list(beginning.outputs.values())[1:], strict=True))
    cache = _of(batch, cache)
    last = {"tokens": Shape((batch,), jnp.int32), "position": Shape((), jnp.int32)}
    going_on, _ = _program("step", step, shapes, {**last, **cache}, ["logits", *present])
    return [looking, beginning, going_on]


def _parts(
    prefix: Prefix, capacity: int, picture: int
) -> tuple[tuple[KeysValues, ...], tuple[KeysValues, ...] | None]:
    """The prefix as a past that begins with the prompt, and the context, which is the picture.

    All prompts are of one length, so their next tokens can follow them in the past. The first
    `picture` places of the prefix are the picture's.
    """
    assert prefix.places is not None

    def begun(places: jax.Array) -> jax.Array:
        batch, heads, _, head = places.shape
        empty = jnp.zeros((batch, heads, capacity, head), places.dtype)
        return jax.lax.dynamic_update_slice_in_dim(empty, places[:, :, picture:], 0, axis=2)

    past = jax.tree.map(begun, prefix.places)
    if not picture:
        return past, prefix.memory
    return past, jax.tree.map(lambda places: places[:, :, :picture], prefix.places)


def _of(batch: Any, arrays: Mapping[str, Shape]) -> dict[str, Shape]:
    """The same arrays with another batch size."""
    return {name: Shape((batch, *x.shape[1:]), x.dtype) for name, x in arrays.items()}


def _program(
    name: str,
    function: Callable[..., Any],
    weights: dict[str, Shape],
    inputs: dict[str, Shape],
    outputs: list[str],
) -> tuple[Program, jax.tree_util.PyTreeDef]:
    """The program of a function, and the pytree structure whose leaves are its outputs."""
    with portable():
        trace = jax.jit(function).trace(weights, *inputs.values())
    traced = trace.jaxpr
    read = {
        variable
        for equation in traced.eqns
        for variable in equation.invars
        if not isinstance(variable, jax.extend.core.Literal)
    }
    variables = dict(zip(weights, traced.jaxpr.invars, strict=False))
    kept = {weight: shape for weight, shape in weights.items() if variables[weight] in read}
    shapes = [Shape(value.shape, value.dtype) for value in traced.out_avals]
    named = dict(zip(outputs, shapes, strict=True))
    return Program(name, traced, weights, kept, inputs, named), trace.out_tree
