"""The backbones of the published taggers against timm itself, at their real size."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from captax.checkpoints.directory import load_model
from golden.timm_side import FULL, write

pytest.importorskip("timm")
pytestmark = pytest.mark.parity


@pytest.mark.parametrize("name", FULL)
def test_at_the_real_size_both_compute_the_same(name: str, tmp_path: Path) -> None:
    pixels, want = write(tmp_path, *FULL[name], 448)
    model: Any = load_model(tmp_path)
    got = jax.jit(model.classify)(jnp.asarray(pixels.transpose(0, 2, 3, 1)))
    np.testing.assert_allclose(got, want, atol=1e-4, rtol=0)
