"""Attention rollout: how much of each patch is in each token of an encoder.

Abnar & Zuidema, *Quantifying Attention Flow in Transformers* (https://arxiv.org/abs/2005.00928).
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float


def rollout(
    attentions: Sequence[Float[Array, "_ places places"]],
) -> Float[Array, "places places"]:
    """Row `i`: the shares that the tokens before the first layer have in token `i` after the last.

    The attention of a layer is the mean over its heads. Half of every token comes through the
    residual connection. What values and MLPs do is left out.
    """
    places = attentions[0].shape[-1]
    flow = jnp.eye(places)
    for layer in attentions:
        mixed = (layer.astype(jnp.float32).mean(0) + jnp.eye(places)) / 2
        flow = mixed @ flow
    return flow
