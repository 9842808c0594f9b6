"""How arrays lie on devices: batches are split, weights are split or copied.

A mesh has two axes: each of `fsdp` devices holds a part of every weight, and of these groups there
are `data` copies; both split the batch. Several processes see one mesh; each reads its own part of
every batch.
"""

from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh as DeviceMesh
from jax.sharding import NamedSharding, PartitionSpec

from captax.training.recipe import Mesh, RecipeError

Tree = TypeVar("Tree")
AXES = ("data", "fsdp")


class Placement:
    """Where the arrays of a run lie."""

    def __init__(self, options: Mesh, batch_size: int):
        """Raises `RecipeError` when the devices do not fit the options."""
        devices = jax.devices()
        data = options.data or len(devices) // options.fsdp
        count = data * options.fsdp
        if not 0 < count <= len(devices):
            raise RecipeError(
                f"mesh: data {options.data} x fsdp {options.fsdp} needs {max(count, options.fsdp)} "
                f"devices, and there are {len(devices)}; lower one of them"
            )
        if jax.process_count() > 1 and count != len(devices):
            raise RecipeError(
                f"mesh: several processes must use all {len(devices)} devices, not {count}; change "
                "data or fsdp"
            )
        if batch_size % count:
            raise RecipeError(
                f"optimizer.batch_size / accumulation is {batch_size}, which the {count} devices "
                f"of mesh cannot share evenly; give a multiple of {count}"
            )
        grid = np.array(devices[:count]).reshape(data, options.fsdp)
        self.mesh = DeviceMesh(grid, AXES)
        self.count = count
        self.fsdp = options.fsdp

    def rows(self, size: int) -> slice:
        """Which rows of a batch this process reads."""
        share = size // jax.process_count()
        return slice(jax.process_index() * share, (jax.process_index() + 1) * share)

    def batch(self, local: Tree) -> Tree:
        """This process's rows of a batch, as an array over all devices."""
        sharding = NamedSharding(self.mesh, PartitionSpec(AXES))
        if self.count == 1:
            return jax.tree.map(jax.numpy.asarray, local)
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), local
        )

    def weights(self, tree: Tree) -> Tree:
        """Arrays that all processes hold, split along the longest axis that `fsdp` divides."""
        if self.count == 1:
            return tree
        return jax.tree.map(lambda x: jax.device_put(x, self._sharding(x)), tree)

    def whole(self, tree: Tree) -> Tree:
        """Arrays that every process can read whole."""
        if jax.process_count() == 1:
            return tree
        return multihost_utils.process_allgather(tree, tiled=True)

    def _sharding(self, x: Any) -> NamedSharding:
        axes: list[str | None] = [None] * x.ndim
        even = [axis for axis in range(x.ndim) if x.shape[axis] % self.fsdp == 0]
        if self.fsdp > 1 and even:
            axes[max(even, key=lambda axis: x.shape[axis])] = "fsdp"
        return NamedSharding(self.mesh, PartitionSpec(*axes))
