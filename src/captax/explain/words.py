"""The words of a caption, and which tokens spell each."""

import dataclasses
from collections.abc import Sequence

from captax.text import TextError, Tokenizer


@dataclasses.dataclass(frozen=True)
class Word:
    """A word as it stands between spaces, with its punctuation.

    `tokens` holds the positions of the tokens that spell it; `logprob` is the sum of their
    log-probabilities, each given the picture and all tokens before it.
    """

    text: str
    tokens: tuple[int, ...]
    logprob: float

    def __str__(self) -> str:
        return self.text


def merge_tokens(
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    tokens: Sequence[int],
    logprobs: Sequence[float],
) -> tuple[Word, ...]:
    """The words that `tokens`, without eos, add to `prompt`.

    This works with any tokenizer: texts are decoded with and without a token to find where its text
    begins. A token that has no text, such as that of unknown words, is a word by its own name; a
    token that continues the prompt's last word is the rest of that word.
    """
    if not tokens:
        return ()
    whole = tokenizer.decode([*prompt, *tokens])
    words: list[tuple[str, list[int]]] = []
    end_of_last = -1  # where in the text the last word ends
    for position, token in enumerate(tokens):
        if not tokenizer.decode([token]):
            words.append((_name(tokenizer, token), [position]))
            end_of_last = -1
            continue
        before = tokenizer.decode([*prompt, *tokens[:position]])
        start = _common(before, whole)
        start += len(whole[start:]) - len(whole[start:].lstrip())
        if start < end_of_last or (start == len(whole) and words):
            words[-1][1].append(position)
            continue
        text = whole[start:].split(maxsplit=1)[0] if start < len(whole) else ""
        words.append((text, [position]))
        end_of_last = start + len(text)
    return tuple(
        Word(text, tuple(spelt), float(sum(logprobs[i] for i in spelt))) for text, spelt in words
    )


def token_texts(tokenizer: Tokenizer, tokens: Sequence[int]) -> tuple[str, ...]:
    """Each token as a reader would see it: its text, or its name if it has no text."""
    return tuple(tokenizer.decode([token]) or _name(tokenizer, token) for token in tokens)


def _name(tokenizer: Tokenizer, token: int) -> str:
    try:
        return tokenizer.token(token)
    except TextError:
        # Models may have more tokens than their tokenizer, for the sake of round numbers.
        return f"<{token}>"


def _common(text: str, other: str) -> int:
    """The length of the beginning that two texts share; half a letter does not count."""
    count = 0
    for a, b in zip(text, other, strict=False):
        if a != b:
            break
        count += 1
    return count
