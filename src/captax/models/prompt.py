"""What a text decoder reads before it writes."""

from typing import Any

from flax import struct
from jaxtyping import Int


@struct.dataclass
class Prompt:
    """Prompts of any lengths, filled up on the right with any token.

    The first `lengths[i]` tokens of row `i` count, one or more; without `lengths`, all do. The
    arrays may be NumPy's; inside a compiled program they are JAX's.
    """

    tokens: Int[Any, "batch time"]
    lengths: Int[Any, " batch"] | None = None
