"""Tokenizers as Hugging Face checkpoints hold them, built as transformers 5 builds them.

A GPT-2, BERT or CLIP checkpoint holds its vocabulary in `tokenizer.json`, or in the older
`vocab.json` + `merges.txt` or `vocab.txt`, and its class determines the rest. Any other tokenizer
is built from its `tokenizer.json` alone, but SigLIP's class also changes texts before that.
"""

import dataclasses
import re
import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from captax.errors import CaptaxError, quoted
from captax.files import TOKENIZER_LIMIT, open_regular, parse_json, read_text
from captax.text import trial

TOKENIZER, CONFIG, ROLES = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
ADDED = "added_tokens.json"
TEMPLATE = "chat_template.jinja"

GPT2, BERT, CLIP = "GPT2Tokenizer", "BertTokenizer", "CLIPTokenizer"
SIGLIP = "SiglipTokenizer"
_OF_MODEL = {
    "gpt2": GPT2,
    "bert": BERT,
    "blip": BERT,
    "blip_text_model": BERT,
    "git": BERT,
    "clip": CLIP,
    "clip_text_model": CLIP,
}
# Class names that do not tell the kind.
_ANY = {"PreTrainedTokenizer", "TokenizersBackend", "PythonBackend", None}
# The special tokens of a class, for checkpoints that do not name them.
_DEFAULTS = {
    GPT2: dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>"),
    BERT: {
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    },
    CLIP: {
        "unk_token": "<|endoftext|>",
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    },
}
_SIGLIP_ROLES = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "</s>"}
# Used if neither files nor class name the roles: the first entry whose tokens all exist.
_CONVENTIONS: tuple[dict[str, str], ...] = (
    {"bos_token": "<start>", "eos_token": "<eos>", "pad_token": "<pad>"},
    {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"},
    {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
    {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
)
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
_CLIP_WORD = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


# The largest vocabularies have 260,000 tokens, and as many merges, in 10 MB.
MOST_TOKENS, MOST_BYTES = 600_000, 64 * 2**20
# Each added token is searched for in every text.
MOST_ADDED = 100_000  # characters


class TextError(CaptaxError):
    """A tokenizer that is missing, unreadable or unusable, or a token that it does not have."""


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A pipeline, the file it was read from, and its entries for `tokenizer_config.json`."""

    backend: tokenizers.Tokenizer
    path: Path
    settings: dict[str, Any]


def token_of(settings: Mapping[str, Any], *roles: str) -> str | None:
    """The token of the first of these roles that the settings name, or None."""
    for role in roles:
        value = settings.get(role)
        # A token is a string, or an object that also says how it is stripped.
        token = value.get("content") if isinstance(value, Mapping) else value
        if isinstance(token, str):
            return token
    return None


def read_pretrained(directory: Path) -> Pretrained:
    """Read whichever tokenizer files the directory has.

    Raises:
        TextError: files are missing or cannot be read, or contradict one another.
    """
    settings = _settings(directory)
    kind = _kind(directory, settings)
    if (path := directory / TOKENIZER).is_file():
        if not _parse(path, lambda: trial.passes(path)):
            raise TextError(
                f"{path}: the tokenizer crashed, or took too long or too much memory, when it was "
                "tried in a process of its own; use another"
            )
        backend = _parse(path, lambda: tokenizers.Tokenizer.from_file(str(path)))
        if _class_of(settings, {}) == SIGLIP:
            settings = _SIGLIP_ROLES | settings
            _normalize_as_siglip(backend, settings)
        # A class that does not fit the model in the file is ignored.
        if isinstance(backend.model, models.WordPiece if kind == BERT else models.BPE):
            settings = _DEFAULTS.get(kind or "", {}) | settings
        else:
            kind = None
    else:
        kind, path = _vocabulary_file(directory, kind)
        settings = _DEFAULTS[kind] | settings
        backend = tokenizers.Tokenizer(_model(kind, path, settings))
    settings["tokenizer_class"] = kind or "PreTrainedTokenizerFast"
    if kind is None:
        _name_roles(backend, settings)
    _add_tokens(backend, directory, settings)
    if kind is not None:
        _build(backend, kind, settings, path)
    return Pretrained(backend, path, settings)


def _settings(directory: Path) -> dict[str, Any]:
    """The entries of `tokenizer_config.json`, without those that hold on one machine only.

    The older `special_tokens_map.json` overrides them, unless the config lists the added tokens.
    A chat template may lie in a file of its own.
    """
    settings = _object(directory / CONFIG)
    if "added_tokens_decoder" not in settings:
        settings |= _object(directory / ROLES)
    settings = {key: value for key, value in settings.items() if not key.endswith("_file")}
    for key in ("auto_map", "name_or_path", "init_inputs"):
        settings.pop(key, None)
    if (path := directory / TEMPLATE).is_file():
        try:
            settings["chat_template"] = read_text(path, limit=TOKENIZER_LIMIT)
        except (OSError, ValueError) as error:
            raise TextError(f"{path}: not a text ({error}); fetch it again") from error
    return settings


def _kind(directory: Path, settings: Mapping[str, Any]) -> str | None:
    """The class that `tokenizer_config.json` or `config.json` names, if it is a known one."""
    config = _object(directory / "config.json")
    name = _class_of(settings, config)
    if name not in _ANY:
        if name not in _DEFAULTS and not (directory / TOKENIZER).is_file():
            raise TextError(
                f"{directory}: {name} can only be read from a tokenizer.json; "
                "copy it from the original checkpoint, or save it with transformers' AutoTokenizer"
            )
        return name if name in _DEFAULTS else None
    if name is not None and (directory / TOKENIZER).is_file():
        return None
    for part in (config, config.get("encoder"), config.get("decoder")):
        if isinstance(part, Mapping) and part.get("model_type") in _OF_MODEL:
            return _OF_MODEL[part["model_type"]]
    return None


def _class_of(settings: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """The class that the tokenizer's or else the model's config names, without `Fast`."""
    name = settings.get("tokenizer_class") or config.get("tokenizer_class")
    return name.removesuffix("Fast") if isinstance(name, str) else None


def _normalize_as_siglip(backend: tokenizers.Tokenizer, settings: Mapping[str, Any]) -> None:
    """Remove ASCII's punctuation and needless spaces, and capitals, before all else.

    transformers' class does this in Python. A `tokenizer.json` may do it too, or leave it out;
    twice has no other effect than once.
    """
    steps: list[normalizers.Normalizer] = []
    if settings.get("do_lower_case", True):
        steps.append(normalizers.Lowercase())
    steps += [
        normalizers.Replace(Regex(f"[{re.escape(string.punctuation)}]"), ""),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]
    if backend.normalizer is not None:
        steps.append(backend.normalizer)
    backend.normalizer = normalizers.Sequence(steps)


def _vocabulary_file(directory: Path, kind: str | None) -> tuple[str, Path]:
    """The kind and the vocabulary of a checkpoint without `tokenizer.json`."""
    words, letters, merges = (
        directory / name for name in ("vocab.txt", "vocab.json", "merges.txt")
    )
    if kind == BERT or (kind is None and words.is_file() and not letters.is_file()):
        needed = [words]
    else:
        needed = [letters, merges]
    missing = [path.name for path in needed if not path.is_file()]
    if len(missing) == len(needed):
        raise TextError(
            f"{directory / TOKENIZER}: no such file, and no {' or '.join(missing)} beside it; "
            "add the checkpoint's tokenizer files"
        )
    if missing:
        there = merges if missing == [letters.name] else letters
        raise TextError(f"{there}: cannot be used without {missing[0]}; fetch that file too")
    if needed == [words]:
        return BERT, words
    if kind is None:
        kind = CLIP if any(token.endswith("</w>") for token in _object(letters)) else GPT2
    return kind, letters


def _model(kind: str, path: Path, settings: Mapping[str, Any]) -> models.Model:
    unk = token_of(settings, "unk_token") or token_of(_DEFAULTS[kind], "unk_token")
    _check_size(path)
    if kind == BERT:
        words = _parse(path, lambda: models.WordPiece.read_file(str(path)))
        return models.WordPiece(words, unk_token=unk)
    merges = path.with_name("merges.txt")
    _check_size(merges)
    extra = {"unk_token": unk, "end_of_word_suffix": "</w>"} if kind == CLIP else {}

    def read() -> models.Model:
        return models.BPE(*models.BPE.read_file(str(path), str(merges)), **extra)

    # It raises an error of its own: the library does not say which file is broken.
    if len(_object(path)) > MOST_TOKENS:
        raise _too_large(path)
    return _parse(merges, read)


def _check_size(path: Path) -> None:
    """Refuse what takes the library minutes to read."""
    try:
        if path.stat().st_size > MOST_BYTES or path.read_bytes().count(b"\n") > MOST_TOKENS:
            raise _too_large(path)
    except OSError as error:
        raise TextError(f"{path}: cannot be read ({error.strerror or error})") from None


def _too_large(path: Path) -> TextError:
    return TextError(
        f"{path}: has more than {MOST_TOKENS:,} entries or {MOST_BYTES:,} bytes, and no tokenizer "
        "has so many; fetch it again"
    )


def _build(
    backend: tokenizers.Tokenizer, kind: str, settings: Mapping[str, Any], path: Path
) -> None:
    """Set the stages that belong to a class, from its settings."""
    if kind == GPT2:
        space = bool(settings.get("add_prefix_space", False))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
        backend.decoder = decoders.ByteLevel()
        return
    first, last = token_of(settings, "cls_token"), token_of(settings, "sep_token")
    if kind == BERT:
        backend.normalizer = normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=bool(settings.get("tokenize_chinese_chars", True)),
            strip_accents=settings.get("strip_accents"),
            lowercase=bool(settings.get("do_lower_case", True)),
        )
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece(prefix="##")
    else:
        first, last = token_of(settings, "bos_token"), token_of(settings, "eos_token")
        backend.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        split = pre_tokenizers.Split(Regex(_CLIP_WORD), behavior="removed", invert=True)
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
        backend.decoder = decoders.ByteLevel()
    ends = [(token, backend.token_to_id(token)) for token in (first, last) if token is not None]
    if len(ends) < 2:
        raise TextError(
            f"{path}: {CONFIG} does not name the tokens that begin and end a text; name them there"
        )
    for token, index in ends:
        if index is None:
            raise TextError(
                f"{path}: the vocabulary lacks {quoted(token)}, which is to begin or end a text; "
                "name "
                f"its special tokens in {CONFIG} beside it"
            )
    pair = f"{first} $A {last} $B:1 {last}:1"
    # The library refuses a template whose token is empty or has a space in it.
    backend.post_processor = _parse(
        path,
        lambda: processors.TemplateProcessing(
            single=f"{first} $A {last}",
            pair=pair if kind == BERT else f"{first} $A {last} {last} $B {last}",
            special_tokens=list(dict(ends).items()),
        ),
    )


def _add_tokens(backend: tokenizers.Tokenizer, directory: Path, settings: dict[str, Any]) -> None:
    """Add the tokens that files other than the vocabulary name, and mark the special ones."""
    extra = settings.get("extra_special_tokens", settings.get("additional_special_tokens")) or ()
    roles = [role for role in settings if role.endswith("_token") and token_of(settings, role)]
    special = {content: settings[role] for role in roles if (content := token_of(settings, role))}
    extras = extra.values() if isinstance(extra, Mapping) else extra
    if not isinstance(extra, Mapping | list | tuple):
        raise TextError(
            f"{directory / CONFIG}: extra_special_tokens={quoted(extra)} must be a list"
        )
    extras = {content: value for value in extras if (content := token_of({"": value}, ""))}
    path, listed = directory / CONFIG, settings.get("added_tokens_decoder")
    added: list[tuple[int, AddedToken]] = []
    try:
        if listed is not None:
            added = [(int(index), AddedToken(**token)) for index, token in listed.items()]
        else:
            path = directory / ADDED
            for content, index in _object(path).items():
                is_special = content in special or content in extras
                flags = {"normalized": not is_special, "special": is_special}
                added.append((int(index), AddedToken(content, **flags)))
    except (AttributeError, TypeError, ValueError) as error:
        raise TextError(
            f"{path}: its list of added tokens is malformed ({error}); fetch it again"
        ) from None
    if sum(len(token.content) + 10 for _, token in added) > MOST_ADDED or (
        sum(len(content) + 10 for content in extras) > MOST_ADDED
    ):
        raise TextError(
            f"{path}: adds tokens of more than {MOST_ADDED:,} characters, which would take minutes "
            "to read; add fewer"
        )
    added.sort(key=lambda pair: pair[0])
    backend.add_tokens([token for _, token in added])  # at once: each call takes time for all
    for index, token in added:
        if (got := backend.token_to_id(token.content)) != index:
            raise TextError(
                f"{path}: {quoted(token.content)} should be token {index}, but the vocabulary "
                "makes it "
                f"{got}; fetch both files again"
            )
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    # A token that the vocabulary lacks is not added: it has no row in the embedding.
    special = {c: value for c, value in special.items() if backend.token_to_id(c) is not None}
    marked = []
    for content, value in (special | extras).items():
        if content not in known:
            given = value if isinstance(value, Mapping) else {}
            stated = {key: bool(given[key]) for key in _FLAGS if key in given}
            marked.append(AddedToken(content, special=True, **stated))
    backend.add_tokens(marked)
    for role in roles:  # tokenizer.json has the flags from here on
        settings[role] = token_of(settings, role)


def _name_roles(backend: tokenizers.Tokenizer, settings: dict[str, Any]) -> None:
    """Fill in, by convention, the roles that a plain `tokenizer.json` does not name."""
    start = token_of(settings, "bos_token", "cls_token")
    if start is not None and token_of(settings, "eos_token", "sep_token") is not None:
        return
    for convention in _CONVENTIONS:
        if all(backend.token_to_id(token) is not None for token in convention.values()):
            settings.update({k: v for k, v in convention.items() if token_of(settings, k) is None})
            return


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one if the file does not exist."""
    if not path.is_file():
        return {}
    try:
        content = parse_json(read_text(path, limit=TOKENIZER_LIMIT))
    except (OSError, ValueError) as error:
        raise TextError(f"{path}: not JSON ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise TextError(
            f"{path}: expected a JSON object, got {type(content).__name__}; fetch it again"
        )
    return content


def _parse(path: Path, read: Callable[[], Any]) -> Any:
    def opened() -> Any:
        open_regular(path, limit=TOKENIZER_LIMIT).close()  # the library would wait for a pipe
        return read()

    return guarded(opened, lambda why: f"{path}: not a readable tokenizer ({why}); fetch it again")


def guarded(call: Callable[[], Any], message: Callable[[str], str]) -> Any:
    """The result of `call`, which calls the library; its errors become `TextError`s.

    The library raises bare `Exception`, and a panic in it is not even one.
    """
    try:
        return call()
    except (CaptaxError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise TextError(message(" ".join(str(error).split())[:300])) from error
