"""Texts that say the same again and again: noticed, ended and cut.

A text is in a loop when its last tokens repeat with a period of at most `LONGEST` tokens, for
`LEAST` tokens or for `COPIES` periods, whichever is more. Texts of fewer than `LEAST` tokens are
never in one.

    period 2:   a dog on the grass the grass the grass the grass ...
                        |first copy|------- the rest is cut ------|
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

LEAST = 64
LONGEST = 64
COPIES = 3
# Tokens at the end that decide.
_SEEN = max(LEAST, COPIES * LONGEST)


def in_loop(
    tokens: Int[Array, "rows time"],
    position: Int[Array, ""] | int,
    begin: Int[Array, "rows 1"] | int,
) -> Bool[Array, " rows"]:
    """Which rows are in a loop, among their tokens from `begin` to before `position`."""
    back = jnp.arange(_SEEN)
    places = position - 1 - back  # the last token first
    # Where there is none, there is a number of its own, so that nothing repeats it.
    last = jnp.where(places >= begin, tokens[:, jnp.maximum(places, 0)], -2 - back)
    periods = np.arange(1, LONGEST + 1)[:, None]
    counts = np.arange(_SEEN) < np.maximum(LEAST, COPIES * periods) - periods
    before = np.minimum(np.arange(_SEEN) + periods, _SEEN - 1)
    same = last[:, None, :] == last[:, before]
    return (same | ~counts).all(-1).any(-1)


def first_copy_end(tokens: Sequence[int]) -> int | None:
    """Where the first copy of what a text repeats ends, or None if it is in no loop."""
    text = np.asarray(tokens, np.int64)
    for period in range(1, min(LONGEST, len(text) // COPIES) + 1):
        differ = np.flatnonzero(text[period:] != text[:-period])
        begin = int(differ[-1]) + 1 if len(differ) else 0
        if len(text) - begin >= max(LEAST, COPIES * period):
            return begin + period
    return None


def settled(tokens: Sequence[int]) -> int:
    """How many of a text's first tokens stay, whatever follows: no loop is cut before them."""
    text = np.asarray(tokens, np.int64)
    keep = len(text)
    for period in range(1, min(LONGEST, len(text) - 1) + 1):
        differ = np.flatnonzero(text[period:] != text[:-period])
        begin = int(differ[-1]) + 1 if len(differ) else 0
        keep = min(keep, begin + period)  # where the cut would be, if this period went on
    return keep
