"""The tokenizer in a GGUF file's metadata, as a pipeline of the `tokenizers` library."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from captax.errors import quoted
from captax.text.pretrained import MOST_TOKENS, TextError, guarded
from captax.text.tokenizer import Tokenizer

_KEY = "tokenizer.ggml."
# What llama.cpp says of a token.
_CONTROL, _ADDED = 3, 4
_SPACE = "\u2581"
# How texts are split before their bytes are joined, by the names that llama.cpp gives these ways.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])


def _digits() -> pre_tokenizers.PreTokenizer:
    digits = pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])


_SPLITS = {
    "default": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": _digits,
    "llama-bpe": lambda: _split(_LLAMA3),
    "qwen2": lambda: _split(_QWEN2),
}


def read_gguf_tokenizer(metadata: Mapping[str, Any], path: Path) -> Tokenizer:
    """The tokenizer that a file's metadata describes.

    Raises `TextError` if there is none, or if it is of a kind that captax does not have.
    """
    tokens = metadata.get(f"{_KEY}tokens")
    if not isinstance(tokens, list) or not 0 < len(tokens) <= MOST_TOKENS:
        raise TextError(f"{path}: has no vocabulary; give a model that comes with its tokenizer")
    kind = metadata.get(f"{_KEY}model")
    builders = {"gpt2": _of_bytes, "llama": _of_pieces}
    if not isinstance(kind, str) or kind not in builders:
        raise TextError(
            f"{path}: a tokenizer of the kind {quoted(kind)} is not supported; use one of "
            f"{', '.join(builders)}"
        )

    def role(name: str) -> str | None:
        index = metadata.get(f"{_KEY}{name}_token_id")
        return tokens[index] if type(index) is int and 0 <= index < len(tokens) else None

    start = role("bos")

    def build() -> tokenizers.Tokenizer:
        backend = builders[kind](metadata, tokens, path)
        _add_special(backend, metadata, tokens)
        if start is not None and metadata.get(f"{_KEY}add_bos_token", kind == "llama"):
            backend.post_processor = processors.TemplateProcessing(
                single=[start, "$A"], special_tokens=[(start, backend.token_to_id(start))]
            )
        return backend

    backend = guarded(build, lambda why: f"{path}: not a readable tokenizer ({why})")
    template = metadata.get("tokenizer.chat_template")
    settings = {"chat_template": template} if isinstance(template, str) else None
    roles = {"start": start, "eos": role("eos"), "pad": role("padding")}
    return Tokenizer(backend, **roles, settings=settings, path=path)


def _of_bytes(metadata: Mapping[str, Any], tokens: list[str], path: Path) -> tokenizers.Tokenizer:
    """GPT-2's kind: pairs of bytes are joined in the order of a list."""
    way = metadata.get(f"{_KEY}pre", "default")
    if not isinstance(way, str) or way not in _SPLITS:
        raise TextError(
            f"{path}: a text cannot be split in the way {quoted(way)}; captax knows "
            f"{', '.join(_SPLITS)}"
        )
    listed = metadata.get(f"{_KEY}merges")
    merges = [tuple(pair.split(" ", 1)) for pair in listed] if isinstance(listed, list) else []
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = _SPLITS[way]()
    backend.decoder = decoders.ByteLevel()
    return backend


def _of_pieces(metadata: Mapping[str, Any], tokens: list[str], path: Path) -> tokenizers.Tokenizer:
    """SentencePiece's kind: of all neighbours, those with the best score together are joined."""
    scores = metadata.get(f"{_KEY}scores")
    if not isinstance(scores, np.ndarray) or len(scores) != len(tokens):
        raise TextError(f"{path}: its vocabulary has no scores; convert it again")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    found = []
    for index, (token, score) in enumerate(zip(tokens, scores.tolist(), strict=True)):
        for cut in range(1, len(token)):
            first, second = vocabulary.get(token[:cut]), vocabulary.get(token[cut:])
            if first is not None and second is not None:
                found.append((-score, index, first, second))
    found.sort()
    merges = [(tokens[first], tokens[second]) for _, _, first, second in found]
    unknown = metadata.get(f"{_KEY}unknown_token_id", 0)
    backend = tokenizers.Tokenizer(
        models.BPE(vocabulary, merges, unk_token=tokens[unknown], fuse_unk=True, byte_fallback=True)
    )
    spaces: list[normalizers.Normalizer] = [normalizers.Replace(" ", _SPACE)]
    steps: list[decoders.Decoder] = [
        decoders.Replace(_SPACE, " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
    ]
    if metadata.get(f"{_KEY}add_space_prefix", True):
        spaces = [normalizers.Prepend(_SPACE), *spaces]
        steps.append(decoders.Strip(" ", 1, 0))
    backend.normalizer = normalizers.Sequence(spaces)
    backend.decoder = decoders.Sequence(steps)
    return backend


def _add_special(
    backend: tokenizers.Tokenizer, metadata: Mapping[str, Any], tokens: list[str]
) -> None:
    kinds = metadata.get(f"{_KEY}token_type")
    if not isinstance(kinds, np.ndarray) or len(kinds) != len(tokens):
        return
    added = [
        AddedToken(token, normalized=False, special=kind == _CONTROL)
        for token, kind in zip(tokens, kinds.tolist(), strict=True)
        if kind in (_CONTROL, _ADDED)
    ]
    backend.add_tokens(added)
