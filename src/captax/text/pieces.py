"""What each token adds to a text, in bytes."""

import json
from typing import Any

import tokenizers
from tokenizers import models

from captax.text.pretrained import TextError

# Characters by which byte-level tokenizers spell bytes: those that can be printed stand for
# themselves, and the others follow from 256 on (GPT-2).
_PRINTED = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_SPELT = {chr(byte): byte for byte in _PRINTED} | {
    chr(256 + i): byte for i, byte in enumerate(b for b in range(256) if b not in _PRINTED)
}
_SPACE = "\u2581"  # what sentencepiece writes for a space


def pieces_of(backend: tokenizers.Tokenizer) -> tuple[bytes, ...]:
    """The bytes of each token, by its id; `b""` for one that no text holds.

    Raises:
        TextError: texts are no plain sequence of tokens, as where words are joined by rules.
    """
    kinds = _kinds(json.loads(backend.to_str())["decoder"])
    bytewise, spaced = "ByteLevel" in kinds, bool(kinds & {"Metaspace", "Replace", "ByteFallback"})
    if not isinstance(backend.model, models.BPE | models.Unigram) or not (bytewise or spaced):
        raise TextError(
            "this tokenizer joins words by rules, so its texts cannot be held to a schema or ended "
            "at a text; use a model whose tokenizer is byte-level BPE or sentencepiece"
        )
    added = {i: token.content for i, token in backend.get_added_tokens_decoder().items()}
    pieces = [b""] * (1 + max([*backend.get_vocab().values(), *added]))
    for token, index in backend.get_vocab().items():
        if index in added:
            pieces[index] = added[index].encode()
        elif bytewise:
            pieces[index] = bytes(_SPELT[letter] for letter in token if letter in _SPELT)
        elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            pieces[index] = bytes.fromhex(token[3:5])
        else:
            pieces[index] = token.replace(_SPACE, " ").encode()
    return tuple(pieces)


def _kinds(part: Any) -> set[str]:
    """The types of a pipeline's part and of all that is in it."""
    if isinstance(part, list):
        return set().union(*map(_kinds, part))
    if not isinstance(part, dict):
        return set()
    own = {part["type"]} if isinstance(part.get("type"), str) else set()
    return own.union(*map(_kinds, part.values()))
