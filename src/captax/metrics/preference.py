"""Which of several systems people prefer: win rates, strengths, and how far they can be trusted."""

import math

import numpy as np
from jaxtyping import Float, Int

Z = 1.959964  # of an interval of 95%
_STEPS, _CLOSE = 2000, 1e-9
# Half a win for each side of every pair of systems, so that one which never lost has a strength.
PRIOR = 0.5


def wilson(wins: float, votes: float, *, z: float = Z) -> tuple[float, float]:
    """Wilson's interval of a share, `wins` of so many `votes`; 0 to 1 without any vote.

    A tie may count as half a win; the interval is then wider than it need be. Wilson, "Probable
    Inference, the Law of Succession, and Statistical Inference", 1927.
    """
    if not votes:
        return 0.0, 1.0
    share, square = wins / votes, z * z / votes
    middle = (share + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(share * (1 - share) / votes + square / (4 * votes))
    # Rounding would leave a share of 0 or 1 a little outside.
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def bradley_terry(
    wins: Float[np.ndarray, "*sets systems systems"], *, prior: float = PRIOR
) -> Float[np.ndarray, "*sets systems"]:
    """Strengths, of which the model says that i beats j with the chance s_i / (s_i + s_j).

    Found by the minorisation of Hunter, "MM Algorithms for Generalized Bradley-Terry Models", 2004.
    The geometric mean of the strengths is 1.

    Args:
        wins: how often each system (row) beat each other one (column); a tie is half a win of both.
        prior: so many wins are added to both sides of each pair. With 0, strengths grow without end
            unless every system can be reached from every other by wins.
    """
    systems = wins.shape[-1]
    wins = (wins + prior) * (1 - np.eye(systems))
    games, won = wins + np.swapaxes(wins, -1, -2), wins.sum(-1)
    found = np.ones(wins.shape[:-1])
    for _ in range(_STEPS):
        new = won / (games / (found[..., :, None] + found[..., None, :])).sum(-1)
        new /= np.exp(np.log(new).mean(-1, keepdims=True))
        done = np.abs(new - found).max() < _CLOSE
        found = new
        if done:
            break
    return found


def chances(
    strengths: Float[np.ndarray, "*sets systems"],
) -> Float[np.ndarray, "*sets systems"]:
    """The chance of each system to be preferred to another one, on average over the others."""
    systems = strengths.shape[-1]
    each = strengths[..., :, None] / (strengths[..., :, None] + strengths[..., None, :])
    return (each.sum(-1) - 0.5) / (systems - 1)


def bootstrap_chances(
    wins: Float[np.ndarray, "pictures systems systems"],
    *,
    confidence: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> tuple[Float[np.ndarray, " systems"], Float[np.ndarray, " systems"]]:
    """The lower and upper ends of the percentile bootstrap intervals of `chances`.

    A sample is as many pictures as there are, drawn with replacement with all their votes, since
    votes on the same picture depend on each other.
    """
    pictures = len(wins)
    rng = np.random.default_rng(seed)
    times: Int[np.ndarray, "samples pictures"] = rng.multinomial(
        pictures, np.full(pictures, 1 / pictures), samples
    )
    drawn = np.einsum("sp,pij->sij", times, wins)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(chances(bradley_terry(drawn)), tails, axis=0)
    return low, high
