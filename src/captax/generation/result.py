"""The result of decoding: a text, its score, and the other texts that were found."""

import dataclasses
from html import escape


@dataclasses.dataclass(frozen=True)
class Alternative:
    """A text that was returned, with its score, its tokens and their log-probabilities."""

    text: str
    score: float
    tokens: tuple[int, ...] = dataclasses.field(default=(), compare=False, repr=False)
    logprobs: tuple[float, ...] = dataclasses.field(default=(), compare=False, repr=False)


@dataclasses.dataclass(frozen=True)
class Generated:
    """A text that a model wrote.

    `score` is the log-probability of `tokens` (eos included) divided by their number to the power
    of the length penalty; 0 is the highest. `alternatives` holds every text that was returned, and
    begins with this one. `logprobs` holds the log-probability of each token. `confidence` is the
    chance that a person would accept the text, if the checkpoint has a calibration. Where the text
    was `looped`, which says the same again and again, only the first copy is left of it. `removed`
    is the preamble that the model wrote before it, if it was asked for none.
    """

    text: str
    score: float
    tokens: tuple[int, ...]
    alternatives: tuple[Alternative, ...]
    logprobs: tuple[float, ...] = ()
    confidence: float | None = None
    looped: bool = False
    removed: str = ""

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        """What notebooks show: the text, its score and the alternatives."""
        others = "".join(
            f"<li>{escape(other.text)} <small>{other.score:.2f}</small></li>"
            for other in self.alternatives[1:]
        )
        listed = f"<ol start='2'>{others}</ol>" if others else ""
        sure = "" if self.confidence is None else f", confidence {self.confidence:.0%}"
        return f"<p>{escape(self.text)} <small>score {self.score:.2f}{sure}</small></p>{listed}"
