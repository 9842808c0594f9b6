"""What decoding gives its caller: a text, its score, and the texts that were considered."""

import dataclasses
from html import escape


@dataclasses.dataclass(frozen=True)
class Alternative:
    """Another text that was considered."""

    text: str
    score: float


@dataclasses.dataclass(frozen=True)
class Generated:
    """A text that a model wrote.

    `score` is the log-probability of `tokens` (eos included) divided by their number to the power
    of the length penalty: 0 is certainty. `alternatives` holds every text returned, the chosen
    one first. `logprobs` are the log-probabilities of the tokens, one by one.
    """

    text: str
    score: float
    tokens: tuple[int, ...]
    alternatives: tuple[Alternative, ...]
    logprobs: tuple[float, ...] = ()

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        """What notebooks show: the text, its score, and what else was considered."""
        others = "".join(
            f"<li>{escape(other.text)} <small>{other.score:.2f}</small></li>"
            for other in self.alternatives[1:]
        )
        listed = f"<ol start='2'>{others}</ol>" if others else ""
        return f"<p>{escape(self.text)} <small>score {self.score:.2f}</small></p>{listed}"
