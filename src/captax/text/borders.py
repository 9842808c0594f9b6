"""Where words begin and end in a text of tokens, as the tokenizer's decoder joins them."""

import dataclasses
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool

# Scripts that write no spaces: there, no letter tells whether a word goes on.
_WITHOUT_SPACES = (
    ("\u0e00", "\u0eff"),
    ("\u1000", "\u109f"),
    ("\u1780", "\u17ff"),
    ("\u3040", "\u30ff"),
    ("\u3400", "\u9fff"),
    ("\uf900", "\ufaff"),
    ("\U00020000", "\U0003ffff"),
)
# What a decoder makes of some of the bytes of a letter.
_PART = "\ufffd"


@dataclasses.dataclass(frozen=True, eq=False)
class Borders:
    """What each token does to the word before it, when it follows other tokens.

    Two neighbours are within one word if the first has `ends_inside` and the second `joins`. A
    token that holds only a part of a letter does both, because no border can be seen there.
    """

    joins: Bool[np.ndarray, " vocab"]  # its text begins with a letter, with no space before
    ends_inside: Bool[np.ndarray, " vocab"]  # its text ends with a letter, with no space behind
    silent: Bool[np.ndarray, " vocab"]  # it has no text, as special tokens


def in_word(letter: str) -> bool:
    """Whether a word goes on with this character: a letter, an accent, a digit or `_`.

    The empty text is none.
    """
    if not letter or any(first <= letter <= last for first, last in _WITHOUT_SPACES):
        return False
    return letter in ("_", _PART) or letter.isalnum() or unicodedata.category(letter)[0] == "M"


def borders_of(
    decode: Callable[[Sequence[Sequence[int]]], list[str]], count: int, joined: Sequence[str] = ()
) -> Borders:
    """The borders of `count` tokens, of which `decode` gives the texts.

    `joined` are texts that are joined to the word before although their tokens may begin with a
    space, such as `n't`.
    """
    found = Borders(*(np.zeros(count, bool) for _ in range(3)))
    for index, text in enumerate(texts_after(decode, count)):
        # A decoder that changes what is before may do anything, so no border is sure.
        said = _PART if text is None else text
        bare = said.strip()
        found.silent[index] = not said
        found.joins[index] = in_word(said[:1]) or any(
            bare and each.startswith(bare) for each in joined
        )
        found.ends_inside[index] = in_word(said[-1:])
    return found


def texts_after(
    decode: Callable[[Sequence[Sequence[int]]], list[str]], count: int
) -> list[str | None]:
    """What each of `count` tokens adds to a text that is a word; None where that is not known."""
    anchor = next((i for i in range(count) if _is_plain(decode([[i]])[0])), None)
    if anchor is None:
        anchor = next((i for i in range(count) if decode([[i]])[0].strip().isalpha()), None)
    if anchor is None:
        return [None] * count
    [before] = decode([[anchor]])
    texts = decode([[anchor, index] for index in range(count)])
    return [text.removeprefix(before) if text.startswith(before) else None for text in texts]


def _is_plain(text: str) -> bool:
    text = text.strip()
    return text.isascii() and text.isalpha()
