"""What the log-probability of each token owes to each cell of the picture.

Three methods answer one question: how far does it fall when the cell is hidden?

- `occlusion` hides cells and measures (Zeiler & Fergus, https://arxiv.org/abs/1311.2901).
- `gradient` treats the model as linear near the picture: gradient x input, where the input is
  measured from the hidden picture (Shrikumar et al., https://arxiv.org/abs/1605.01713).
- `integrated` sums gradients along the way from the hidden picture to the shown one, so that cells
  sum to the whole difference (Sundararajan et al., https://arxiv.org/abs/1703.01365).

Evidence is signed: what speaks against a word is negative.
"""

import numpy as np
from jaxtyping import Bool, Float

from captax.explain.reading import STEPS, Given, Reader

EVIDENCE = ("gradient", "integrated", "occlusion")


def evidence(
    method: str, reader: Reader, given: Given, grid: tuple[int, int]
) -> Float[np.ndarray, "said rows columns"]:
    """The evidence by one of the methods `EVIDENCE`, in nats."""
    if method == "occlusion":
        return occlusion(reader, given, grid)
    return reader.gradients(given, grid, STEPS if method == "integrated" else 0)


def occlusion(
    reader: Reader, given: Given, grid: tuple[int, int], window: int | None = None
) -> Float[np.ndarray, "said rows columns"]:
    """The fall of log-probabilities when a square of `window` cells slides over the picture.

    The fall at a cell is the mean over the squares that cover it. By default a square is a fifth
    of the grid wide, because single cells of a fine grid show too little to be missed.
    """
    window = window or max(1, round(min(grid) / 5))
    hides = _windows(grid, min(window, *grid), max(1, window // 2))
    shown = np.concatenate([np.ones((1, *grid), bool), ~hides])
    logprobs = reader.logprobs(given, shown)
    falls = logprobs[0] - logprobs[1:]
    covered = np.einsum("ws,wrc->src", falls, hides.astype(np.float32))
    return covered / hides.sum(0)


def _windows(
    grid: tuple[int, int], side: int, stride: int
) -> Bool[np.ndarray, "some rows columns"]:
    """Squares that cover the whole grid, including its far edges."""
    tops, lefts = (sorted({*range(0, count - side, stride), count - side}) for count in grid)
    hides = np.zeros((len(tops) * len(lefts), *grid), bool)
    for i, (top, left) in enumerate((top, left) for top in tops for left in lefts):
        hides[i, top : top + side, left : left + side] = True
    return hides
