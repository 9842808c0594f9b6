"""One tokenizer for every captioner: a `tokenizers` pipeline and its special tokens' roles."""

import json
from collections.abc import Sequence
from pathlib import Path

import tokenizers

from captax.errors import CaptaxError
from captax.files import write_text

# Where a Hugging Face checkpoint says which token plays which part, the first that does winning.
# BERT-style tokenizers name no bos or eos: their captions begin with CLS and end with SEP.
ROLE_FILES = ("tokenizer_config.json", "special_tokens_map.json")
# Where it says nothing, as GPT-2's and BERT's own do, the tokens themselves tell: start, eos, pad.
CONVENTIONS: tuple[tuple[str, str, str | None], ...] = (
    ("<start>", "<eos>", "<pad>"),
    ("[CLS]", "[SEP]", "[PAD]"),
    ("<s>", "</s>", "<pad>"),
    ("<|endoftext|>", "<|endoftext|>", None),
)


class TextError(CaptaxError):
    """A tokenizer that is missing, unreadable or unusable, or a token that it does not have."""


class Tokenizer:
    """Captions to token ids and back; the same surface over word-level, BPE and WordPiece.

    A caption is always `[start, ..., eos]`, whatever the pipeline's own post-processor does
    (GPT-2's adds neither). Text is only ever text: a caption that contains the characters `<eos>`
    does not end there.

    Args:
        backend: the pipeline, which belongs to this object from here on: its stored padding and
            truncation are switched off, since batching is the data room's work.
        start: the token every caption begins with.
        eos: the token every caption ends with; may equal `start`, as GPT-2's do.
        pad: the token that fills a batch; `None` (GPT-2 has none) means `eos`.

    Raises:
        TextError: one of these tokens is not in the vocabulary.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        start: str = "<start>",
        eos: str = "<eos>",
        pad: str | None = "<pad>",
    ) -> None:
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = True
        self._backend = backend
        self.start_id = self._special("start", start)
        self.eos_id = self._special("eos", eos)
        self.pad_id = self.eos_id if pad is None else self._special("pad", pad)
        # None where every text has tokens, as in byte-level BPE.
        unk = getattr(backend.model, "unk_token", None)
        self.unk_id: int | None = None if unk is None else backend.token_to_id(unk)

    def _special(self, role: str, token: str) -> int:
        index: int | None = self._backend.token_to_id(token)
        if index is None:
            raise TextError(
                f"the tokenizer has no {token!r}, its {role} token: name its special tokens "
                f"(bos_token, eos_token, pad_token) in {ROLE_FILES[0]} beside tokenizer.json"
            )
        return index

    @property
    def vocab_size(self) -> int:
        """How many tokens there are, special ones included."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, `[start, ..., eos]`, of whatever length it has."""
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return [[self.start_id, *encoding.ids, self.eos_id] for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of one caption's ids: up to the first eos, special tokens skipped."""
        tokens = [int(index) for index in ids]
        # Dropped before eos is looked for, because the two may be the same token.
        if tokens[:1] == [self.start_id]:
            tokens = tokens[1:]
        if self.eos_id in tokens:
            tokens = tokens[: tokens.index(self.eos_id)]
        return self._backend.decode(tokens, skip_special_tokens=True)

    def token(self, index: int) -> str:
        """The token with this id, as the vocabulary spells it.

        Raises:
            TextError: there is no such id.
        """
        token: str | None = self._backend.id_to_token(index) if index >= 0 else None
        if token is None:
            raise TextError(f"there is no token {index}: ids run from 0 to {self.vocab_size - 1}")
        return token

    def save(self, directory: str | Path) -> None:
        """Write `tokenizer.json` and the roles (`tokenizer_config.json`) into the directory.

        transformers' `AutoTokenizer` reads the pair too.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "bos_token": self.token(self.start_id),
            "eos_token": self.token(self.eos_id),
            "pad_token": self.token(self.pad_id),
        }
        if self.unk_id is not None:
            config["unk_token"] = self.token(self.unk_id)
        write_text(directory / "tokenizer.json", self._backend.to_str(pretty=True))
        write_text(directory / ROLE_FILES[0], json.dumps(config, indent=2) + "\n")

    @classmethod
    def load(cls, directory: str | Path) -> "Tokenizer":
        """Read a tokenizer from a checkpoint directory, Hugging Face's or our own.

        The roles come from `tokenizer_config.json` or `special_tokens_map.json`; without them, from
        the names that GPT-2, BERT, RoBERTa and captax use.

        Raises:
            TextError: a file is missing or cannot be read, or a special token is not in it.
        """
        directory = Path(directory)
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise TextError(
                f"{path}: no such file; a checkpoint directory holds its tokenizer there"
            )
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            reason = " ".join(str(error).split())
            raise TextError(
                f"{path}: not a readable tokenizer ({reason}); fetch it again"
            ) from error
        start, eos, pad = _roles(directory, backend)
        try:
            return cls(backend, start=start, eos=eos, pad=pad)
        except TextError as error:
            raise TextError(f"{path}: {error}") from None


def _roles(directory: Path, backend: tokenizers.Tokenizer) -> tuple[str, str, str | None]:
    """The start, eos and pad tokens of a checkpoint."""
    named: dict[str, str] = {}
    for name in ROLE_FILES:
        path = directory / name
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise TextError(f"{path}: not JSON ({error}); fetch it again") from error
        if not isinstance(content, dict):
            raise TextError(f"{path}: expected a JSON object, got {type(content).__name__}")
        for key, value in content.items():
            # A token is a string, or an object that also says how it is stripped.
            token = value.get("content") if isinstance(value, dict) else value
            if isinstance(token, str):
                named.setdefault(key, token)
    # BERT-style tokenizers name no bos or eos: their captions begin with CLS and end with SEP.
    start = named.get("bos_token", named.get("cls_token"))
    eos = named.get("eos_token", named.get("sep_token"))
    if start is not None and eos is not None:
        return start, eos, named.get("pad_token")
    for convention in CONVENTIONS:
        if all(token is None or backend.token_to_id(token) is not None for token in convention):
            return convention
    return CONVENTIONS[0]
