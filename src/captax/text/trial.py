"""A stranger's tokenizer is tried in a process of its own before it is read in ours.

Its file holds patterns and replacements that the library follows. They can take very long, take all
memory, or end the process. A file that has only what is known to be harmless needs no trial.
"""

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from captax.files import parse_json

SECONDS = 20.0
MEMORY = 8 * 2**30  # addresses; the largest vocabularies need one
# All but `Precompiled` and `FixedLength`.
_STAGES = frozenset(
    (
        *("BPE", "WordPiece", "WordLevel", "Unigram", "Sequence", "ByteLevel", "Metaspace"),
        *("Split", "Replace", "Prepend", "Strip", "NFC", "NFD", "NFKC", "NFKD", "Lowercase"),
        *("StripAccents", "Nmt", "BertNormalizer", "BertPreTokenizer", "Whitespace"),
        *("WhitespaceSplit", "Punctuation", "Digits", "CharDelimiterSplit", "UnicodeScripts"),
        *("TemplateProcessing", "BertProcessing", "RobertaProcessing", "ByteFallback", "Fuse"),
        *("BPEDecoder", "CTC"),
    )
)
_CONTRACTIONS = r"'s|'t|'re|'ve|'m|'ll|'d"
_LETTERS = r"[\p{L}\p{M}\p{N}]+"
# The patterns of captax, GPT-2 and CLIP.
_PATTERNS = frozenset(
    {
        r"\s+",
        rf"{_LETTERS}(?:['-]{_LETTERS})*",
        rf"<\|startoftext\|>|<\|endoftext\|>|{_CONTRACTIONS}|[\p{{L}}]+|[\p{{N}}]|"
        r"[^\s\p{L}\p{N}]+",
        rf"{_CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+",
    }
)
_MOST_STAGES, _MOST_GROWTH = 32, 64
_TEXTS = ["A dog's 2 balls, \u00e9\u4e2d.", ""]
_TEXTS += [each * 1000 for each in ("a", " ", "ab ", ".", "1", "\u00e9")]
_TEXTS += [text + "!\n" for text in _TEXTS]
_PROGRAM = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
from captax.text.trial import use
use(sys.argv[1])
"""


def is_harmless(pipeline: Any) -> bool:
    """Whether the content of a `tokenizer.json` has only stages and patterns that are known."""
    if not isinstance(pipeline, dict):
        return False
    stages = growth = 1
    waiting = [pipeline.get(part) for part in ("normalizer", "pre_tokenizer", "decoder")]
    waiting.append(pipeline.get("post_processor"))
    model = pipeline.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") not in _STAGES:
        return False
    templated: list[Any] = []
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            waiting += part.values()
            if isinstance(special := part.get("SpecialToken"), dict):
                templated.append(special.get("id"))
            kind, pattern = part.get("type"), part.get("Regex")
            stages += kind is not None
            growth *= 2 if kind == "ByteLevel" else 1
            if kind == "Replace":
                growth *= max(1, len(str(part.get("content"))))
            if not (kind is None or (isinstance(kind, str) and kind in _STAGES)):
                return False
            if not (pattern is None or (isinstance(pattern, str) and pattern in _PATTERNS)):
                return False
    processor = pipeline.get("post_processor") or {}
    # The library panics at a token of a template that its list lacks; stages in a `Sequence` too.
    listed = processor.get("special_tokens", {}) if isinstance(processor, dict) else {}
    if not isinstance(listed, dict) or any(each not in list(listed) for each in templated):
        return False
    return stages <= _MOST_STAGES and growth <= _MOST_GROWTH


def passes(path: Path) -> bool:
    """Whether the `tokenizer.json` at `path` is harmless, or did its work when it was tried."""
    content = path.read_bytes()
    try:
        if is_harmless(parse_json(content.decode())):
            return True
    except ValueError:
        return True  # it is no JSON, and reading it says so
    return _tried(str(path), content)


@functools.lru_cache(16)
def _tried(path: str, content: bytes) -> bool:
    command = [sys.executable, "-c", _PROGRAM, path, str(MEMORY)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment["TOKENIZERS_PARALLELISM"] = "false"
    try:
        done = subprocess.run(
            command, env=environment, timeout=SECONDS, capture_output=True, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def use(path: str) -> None:
    """Read a `tokenizer.json`, and write and read texts with it; what is refused passes too."""
    # Start-up time: a harmless file is not tried.
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_file(path)
    except Exception:  # the library raises bare Exception, as it will when it is read again
        return
    tokenizer.no_padding()
    tokenizer.no_truncation()
    for text in _TEXTS:
        tokenizer.decode(tokenizer.encode(text).ids)
