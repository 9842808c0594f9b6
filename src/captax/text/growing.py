"""A text that is told while its tokens come: what is told is never taken back.

The end of such a text may still change. A character of several bytes can be half there, white space
at the end is cut from captions, some decoders change what they wrote when more follows, and a text
ends before a stop that has only begun.
"""

from collections.abc import Sequence

from captax.text.tokenizer import Tokenizer

_BROKEN = "\N{REPLACEMENT CHARACTER}"


def steady(tokenizer: Tokenizer, tokens: Sequence[int]) -> int:
    """How many of the first tokens are decoded the same, whatever follows.

    Bytes that stand side by side are decoded together, and all of them fail if one does.
    """
    count = len(tokens)
    while count and tokens[count - 1] in tokenizer.joined_ids:
        count -= 1
    return count


def told(tokenizer: Tokenizer, text: str, stops: Sequence[str] = ()) -> str:
    """The beginning of a text that stays, whatever follows."""
    if margin := tokenizer.margin:
        text = text[:-margin]
    for stop in stops:
        begun = (n for n in range(min(len(stop), len(text)), 0, -1) if text.endswith(stop[:n]))
        text = text[: len(text) - next(begun, 0)]
    return text.rstrip(_BROKEN).rstrip()


class Growing:
    """What has been told of a text, and what is new when it has grown."""

    def __init__(self) -> None:
        self.text = ""

    def more(self, text: str) -> str:
        """What is new in the beginning of the text, which may be shorter than what was told."""
        if self.text.startswith(text):
            return ""
        return self.rest(text)

    def rest(self, text: str) -> str:
        """What is new in the whole text. Raises `ValueError` if it begins otherwise."""
        if not text.startswith(self.text):
            raise ValueError(f"the text became {text!r} after {self.text!r} was told")
        new, self.text = text[len(self.text) :], text
        return new
