"""The tokenizer of every captioner: a `tokenizers` pipeline and the roles of its special tokens."""

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from captax.errors import quoted
from captax.files import write_text
from captax.text.borders import Borders, borders_of, texts_after
from captax.text.pieces import pieces_of
from captax.text.pretrained import (
    CLIP,
    CONFIG,
    TOKENIZER,
    TextError,
    guarded,
    read_pretrained,
    token_of,
)

# How tokenizers that fall back to bytes spell them.
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
# The replacements of transformers' `clean_up_tokenization_spaces`, in its order.
_CLEAN = (
    *((f" {mark}", mark) for mark in (".", "?", "!", ",")),
    (" ' ", "'"),
    *((f" {end}", end) for end in ("n't", "'m", "'s", "'ve", "'re")),
)


class Tokenizer:
    """Turns text into token ids and back; one interface for word-level, BPE and WordPiece.

    A caption is always `[start, ..., eos]`, whatever the pipeline's own template does (GPT-2's adds
    neither). Special tokens written in a text are read as plain text: a caption that contains the
    characters `<eos>` does not end there.

    Args:
        backend: the pipeline. The tokenizer takes it over and switches off its stored padding and
            truncation, since `captax.data` makes the batches.
        start: the token every caption begins with.
        eos: the token every caption ends with; may equal `start`, as GPT-2's do.
        pad: the token that fills a batch; `None` (GPT-2 has none) means `eos`.
        settings: entries of `tokenizer_config.json` to keep; `tokenizer_class` and
            `clean_up_tokenization_spaces` say how text is decoded.
        path: the file it was read from, for errors to name.

    A tokenizer without a start or an eos token (`None`) encodes text, but no captions.

    Raises:
        TextError: one of these tokens is not in the vocabulary.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        start: str | None = "<start>",
        eos: str | None = "<eos>",
        pad: str | None = "<pad>",
        settings: Mapping[str, Any] | None = None,
        path: Path | None = None,
    ) -> None:
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = True
        self._where = f"{path}: " if path else ""
        self._backend = backend
        self._settings = dict(settings or {})
        self._roles = {"start": start, "eos": eos, "pad": pad or eos}
        self._ids = {role: self._special(role, token) for role, token in self._roles.items()}
        self._names_pad = pad is not None
        # None if every text can be written in tokens, as with byte-level BPE.
        unk = getattr(backend.model, "unk_token", None)
        self.unk_id: int | None = None if unk is None else backend.token_to_id(unk)
        bpe = isinstance(backend.model, tokenizers.models.BPE)
        # transformers does not clean BPE, whose spaces belong to the text.
        cleans = not bpe and bool(self._settings.get("clean_up_tokenization_spaces"))
        suffix = getattr(backend.model, "end_of_word_suffix", None)
        is_clip = self._settings.get("tokenizer_class") == CLIP
        ends = ((suffix, " "),) if is_clip and suffix else ()
        self._strips = bool(ends)
        # The replacements that `decode` makes in a text, in this order.
        self.replacements: tuple[tuple[str, str], ...] = (*ends, *(_CLEAN if cleans else ()))

    def _special(self, role: str, token: str | None) -> int | None:
        if token is None:
            return None
        index: int | None = self._backend.token_to_id(token)
        if index is None:
            raise TextError(
                f"{self._where}the tokenizer has no {quoted(token)}, its {role} token: name its "
                "special "
                f"tokens (bos_token, eos_token, pad_token) in {CONFIG} beside {TOKENIZER}"
            )
        return index

    def _id(self, role: str) -> int:
        if (index := self._ids[role]) is None:
            raise TextError(
                f"{self._where}the tokenizer names no {role} token: name its special tokens "
                f"(bos_token, eos_token, pad_token) in {CONFIG} beside {TOKENIZER}"
            )
        return index

    @property
    def start_id(self) -> int:
        """The token a caption begins with. Raises `TextError` if it is not set."""
        return self._id("start")

    @property
    def eos_id(self) -> int:
        """The token a caption ends with. Raises `TextError` if it is not set."""
        return self._id("eos")

    @property
    def pad_id(self) -> int:
        """The token that fills a batch. Raises `TextError` if it is not set."""
        return self._id("pad")

    @property
    def vocab_size(self) -> int:
        """How many tokens there are, special ones included."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    @property
    def chat_template(self) -> str | None:
        """The Jinja text by which the checkpoint's prompts are written, if it has one."""
        template = self._settings.get("chat_template")
        return template if isinstance(template, str) else None

    @property
    def vocabulary(self) -> dict[int, str]:
        """All tokens by their ids, in order."""
        tokens = self._backend.get_vocab(with_added_tokens=True)
        return {index: token for token, index in sorted(tokens.items(), key=lambda each: each[1])}

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each caption, `[start, ..., eos]`, without a limit on its length."""
        start, eos = self.start_id, self.eos_id
        return [[start, *ids, eos] for ids in self.encode_plain(texts)]

    def encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text without special tokens, as a prompt needs them."""
        _refuse_one(texts)
        encodings = self._encodings(texts)
        return [encoding.ids for encoding in encodings]

    def unknown_in(self, text: str) -> list[str]:
        """The parts of a text that the tokenizer lacks, each once, in the order of the text."""
        [encoding] = self._encodings([text])
        read = zip(encoding.ids, encoding.offsets, strict=True)
        parts = [text[slice(*place)] for token, place in read if token == self.unk_id]
        return list(dict.fromkeys(parts))

    def encode_special(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, in which special tokens are read as such.

        This is for the prompts of a model's own format. What a user wrote would end them early.
        """
        _refuse_one(texts)
        call = self._special_backend.encode_batch
        encodings = self._called(call, list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    @functools.cached_property
    def special_ids(self) -> frozenset[int]:
        """The tokens that mean something of their own, and are no text, known or unknown."""
        added = self._backend.get_added_tokens_decoder()
        return frozenset(i for i, token in added.items() if token.special) - {self.unk_id}

    @functools.cached_property
    def _special_backend(self) -> tokenizers.Tokenizer:
        backend = tokenizers.Tokenizer.from_str(self._backend.to_str())
        backend.encode_special_tokens = False
        return backend

    def encode_template(
        self, texts: Sequence[str], *, max_length: int | None = None
    ) -> list[list[int]]:
        """Token ids of each text as a text encoder takes it, in the pipeline's own template.

        That is `[CLS] ... [SEP]` for BERT, `<|startoftext|> ... <|endoftext|>` for CLIP, and the
        text alone for GPT-2. A text that is too long loses its end, but not the template.

        Raises:
            TextError: `max_length` leaves no room for text.
        """
        _refuse_one(texts)
        encodings = self._encodings(texts)
        if max_length is not None:
            room = max_length - self._backend.num_special_tokens_to_add(False)
            if room < 1:
                raise TextError(
                    f"max_length {max_length} leaves no room for text; give a larger one"
                )
            for encoding in encodings:
                encoding.truncate(room)
        return [self._called(self._backend.post_process, encoding).ids for encoding in encodings]

    def _encodings(self, texts: Sequence[str]) -> list[tokenizers.Encoding]:
        return self._called(self._backend.encode_batch, list(texts), add_special_tokens=False)

    def _called(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """What the library returns, or a `TextError` where it fails."""
        return guarded(
            lambda: call(*arguments, **options),
            lambda why: f"{self._where}the tokenizer cannot do its work ({why}); use another",
        )

    def decode(self, ids: Sequence[int]) -> str:
        """The text of one caption's ids: up to the first eos, special tokens skipped."""
        tokens = [int(index) for index in ids]
        # Dropped before eos is looked for, because the two may be the same token.
        if tokens[:1] == [self._ids["start"]]:
            tokens = tokens[1:]
        if self._ids["eos"] in tokens:
            tokens = tokens[: tokens.index(self.eos_id)]
        [text] = self._texts([tokens])
        return text.strip() if self._strips else text

    def decode_special(self, ids: Sequence[int]) -> str:
        """The text of these ids, special tokens included."""
        text: str = self._called(self._backend.decode, list(ids), skip_special_tokens=False)
        return text

    def _texts(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The texts of all tokens of each row, special ones skipped."""
        texts: list[str] = self._called(
            self._backend.decode_batch, [list(row) for row in rows], skip_special_tokens=True
        )
        for written, meant in self.replacements:
            texts = [text.replace(written, meant) for text in texts]
        return texts

    @functools.cached_property
    def borders(self) -> Borders:
        """Which tokens begin, continue and end words."""
        meant = [meant for written, meant in self.replacements if written.startswith(" ")]
        joined = [each for each in meant if each[:1].isalpha()]
        return borders_of(self._texts, self.vocab_size, joined)

    @functools.cached_property
    def joined_ids(self) -> frozenset[int]:
        """The tokens that are decoded together where they stand side by side.

        They are single bytes, in tokenizers that fall back to them, and what no text shows.
        """
        tokens = self._backend.get_vocab(with_added_tokens=False)
        found = frozenset(index for token, index in tokens.items() if _BYTE.fullmatch(token))
        added = self._backend.get_added_tokens_decoder()
        return found and found.union(index for index, token in added.items() if token.special)

    @property
    def margin(self) -> int:
        """How many characters at the end of a text its replacements may change, if more follows."""
        return sum(len(written) for written, _ in self.replacements)

    @functools.cached_property
    def pieces(self) -> tuple[bytes, ...]:
        """The bytes that each token adds to a text. Raises `TextError` where there are none."""
        return pieces_of(self._backend)

    @functools.cached_property
    def written(self) -> tuple[bytes, ...]:
        """The bytes by which each token makes a text longer, for special ones none.

        Where words are joined by rules, they are those that it adds to another word.
        """
        try:
            pieces = self.pieces
        except TextError:
            said = texts_after(self._texts, self.vocab_size)
            return tuple((" \ufffd" if text is None else text).encode() for text in said)
        added = self._backend.get_added_tokens_decoder()
        plain = [
            b"" if index in added and added[index].special else piece
            for index, piece in enumerate(pieces)
        ]
        for written, meant in self.replacements:
            if meant == " ":  # what some tokenizers end words with
                plain = [piece.replace(written.encode(), b" ") for piece in plain]
        return tuple(plain)

    def token(self, index: int) -> str:
        """The token with this id, as the vocabulary spells it.

        Raises:
            TextError: there is no such id.
        """
        token: str | None = self._backend.id_to_token(index) if index >= 0 else None
        if token is None:
            raise TextError(f"there is no token {index}: ids run from 0 to {self.vocab_size - 1}")
        return token

    def with_words(self, words: Sequence[str]) -> "Tokenizer":
        """This tokenizer with new words, which follow the others in the order given.

        Raises:
            TextError: it is not a word-level tokenizer, or already has one of the words.
        """
        pipeline = json.loads(self._backend.to_str())
        if pipeline["model"]["type"] != "WordLevel":
            raise TextError(
                "new words need a word-level tokenizer; this one can write any word without them"
            )
        vocabulary = pipeline["model"]["vocab"]
        for word in words:
            if word in vocabulary:
                raise TextError(f"the tokenizer already has {quoted(word)}; leave it out")
            vocabulary[word] = len(vocabulary)
        backend = tokenizers.Tokenizer.from_str(json.dumps(pipeline))
        pad = self._roles["pad"] if self._names_pad else None
        start, eos = self._roles["start"], self._roles["eos"]
        return Tokenizer(backend, start=start, eos=eos, pad=pad, settings=self._settings)

    def with_special(self, tokens: Sequence[str]) -> "Tokenizer":
        """This tokenizer with special tokens after the others; those that it has are left out."""
        backend = tokenizers.Tokenizer.from_str(self._backend.to_str())
        backend.add_special_tokens([t for t in tokens if backend.token_to_id(t) is None])
        pad = self._roles["pad"] if self._names_pad else None
        start, eos = self._roles["start"], self._roles["eos"]
        return Tokenizer(backend, start=start, eos=eos, pad=pad, settings=self._settings)

    def save(self, directory: str | Path) -> None:
        """Write `tokenizer.json` and the roles (`tokenizer_config.json`) into the directory.

        transformers' `AutoTokenizer` reads the pair too, as the tokenizer it was loaded from.
        """
        directory = Path(directory)
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **self._settings,
        }
        for role, names in {
            "start": ("bos_token", "cls_token"),
            "eos": ("eos_token", "sep_token"),
            "pad": ("pad_token",),
        }.items():
            token = self._roles[role]
            named = role != "pad" or self._names_pad
            if named and token is not None and token != token_of(config, *names):
                config[names[0]] = token
        if self.unk_id is not None:
            config.setdefault("unk_token", self.token(self.unk_id))
        write_text(directory / TOKENIZER, self._backend.to_str(pretty=True), own=True)
        contents = json.dumps(config, indent=2, ensure_ascii=False)
        write_text(directory / CONFIG, contents + "\n", own=True)

    @classmethod
    def load(cls, directory: str | Path) -> "Tokenizer":
        """Read a tokenizer from a checkpoint directory, Hugging Face's or our own.

        Its vocabulary is in `tokenizer.json`, in `vocab.json` and `merges.txt` (GPT-2, CLIP) or in
        `vocab.txt` (BERT). The roles are read as transformers reads them; where no file names them,
        they follow from the class, or from the names that GPT-2, BERT, RoBERTa, CLIP or captax use.

        Raises:
            TextError: a file is missing or cannot be read, or a special token is not in it.
        """
        found = read_pretrained(Path(directory))
        return cls(
            found.backend,
            start=token_of(found.settings, "bos_token", "cls_token"),
            eos=token_of(found.settings, "eos_token", "sep_token"),
            pad=token_of(found.settings, "pad_token"),
            settings=found.settings,
            path=found.path,
        )


def _refuse_one(texts: Sequence[str]) -> None:
    # A string is a sequence of strings too, with one letter each.
    if isinstance(texts, str):
        raise TextError("expected a sequence of texts, got one text; pass [text]")
