"""The files of tokenizers, in each of the layouts that checkpoints have."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tokenizers import pre_tokenizers

from captax.text import Tokenizer, train_word_tokenizer, trial

BUILT_IN = Path(__file__).parents[2] / "src" / "captax" / "assets" / "captax-lite"
TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"
KINDS = (
    *(f"words/{TOKENIZER}", f"words/{SETTINGS}", "words/special_tokens_map.json"),
    *(f"bert/{TOKENIZER}", "bert/vocab.txt", f"bert/{SETTINGS}", "bert/added_tokens.json"),
    *("gpt2/vocab.json", "gpt2/merges.txt", f"gpt2/{SETTINGS}", f"clip/{SETTINGS}"),
    *("clip/vocab.json", "clip/config.json"),
)
WORDS = (
    *(b"version", b"truncation", b"padding", b"added_tokens", b"normalizer", b"pre_tokenizer"),
    *(b"post_processor", b"decoder", b"model", b"type", b"BPE", b"WordPiece", b"WordLevel"),
    *(b"Unigram", b"vocab", b"merges", b"unk_token", b"continuing_subword_prefix", b"dropout"),
    *(b"byte_fallback", b"fuse_unk", b"ignore_merges", b"end_of_word_suffix", b"##", b"</w>"),
    *(b"max_input_chars_per_word", b"Sequence", b"ByteLevel", b"Metaspace", b"Split", b"Regex"),
    *(b"pattern", b"behavior", b"invert", b"Replace", b"Prepend", b"Precompiled", b"Strip", b"NFC"),
    *(b"precompiled_charsmap", b"TemplateProcessing", b"special_tokens", b"RobertaProcessing"),
    *(b"single", b"pair", b"BertNormalizer", b"WhitespaceSplit", b"FixedLength", b"(a+)+$", b"(?<"),
    *(b"content", b"special", b"lstrip", b"single_word", b"id", b"bos_token", b"eos_token"),
    *(b"cls_token", b"sep_token", b"pad_token", b"mask_token", b"tokenizer_class", b"[UNK]"),
    *(b"added_tokens_decoder", b"extra_special_tokens", b"additional_special_tokens", b"[CLS]"),
    *(b"BertTokenizer", b"GPT2Tokenizer", b"CLIPTokenizer", b"LlamaTokenizer", b"model_type"),
    *(b"add_prefix_space", b"do_lower_case", b"strip_accents", b"<|endoftext|>", b"bert", b"0"),
    *(b"#version: 0.2\n", b" ", b"\n", b"\r\n", b"\xff", b"\xc4\xa0", b"<eos>", b"<start>"),
)


def _word_tokenizer() -> str:
    with tempfile.TemporaryDirectory() as folder:
        train_word_tokenizer(["a dog runs", "two dogs", "a red ball"], min_count=1).save(folder)
        return (Path(folder) / TOKENIZER).read_text(encoding="utf-8")


def _files() -> dict[str, bytes]:
    role = {"content": "[CLS]", "lstrip": False, "special": True}
    bert = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "##s", "cafe", "."]
    ends = ["<|startoftext|>", "<|endoftext|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = "#version: 0.2\nd o\ndo g"
    suffixed = [letter + "</w>" for letter in letters]
    listed = {"3": {"content": "[SEP]", "special": True}}
    files = {
        f"words/{TOKENIZER}": _word_tokenizer(),
        f"words/{SETTINGS}": {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>"},
        "words/special_tokens_map.json": {
            "eos_token": "<eos>",
            "bos_token": {"content": "<start>"},
        },
        "bert/vocab.txt": "\n".join(bert) + "\n",
        f"bert/{SETTINGS}": {"cls_token": role, "added_tokens_decoder": listed},
        "gpt2/vocab.json": {t: n for n, t in enumerate([*letters, "do", "dog", *ends])},
        "gpt2/merges.txt": merges,
        f"gpt2/{SETTINGS}": {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True},
        "clip/vocab.json": {t: n for n, t in enumerate([*letters, *suffixed, "do", *ends])},
        "clip/merges.txt": "#version: 0.2\nd o",
        f"clip/{SETTINGS}": {"tokenizer_class": "CLIPTokenizer"},
        "clip/config.json": {"model_type": "clip"},
    }
    return {k: (v if isinstance(v, str) else json.dumps(v)).encode() for k, v in files.items()}


FILES = _files()
# Inputs are read in this process alone, which has a limit of its own.
trial.passes = lambda path: True


def prepare(inputs: Path) -> None:
    """Whole tokenizers; an input takes the place of one file."""
    for name, content in FILES.items():
        (inputs / name).parent.mkdir(exist_ok=True)
        (inputs / name).write_bytes(content)


def seeds() -> Iterator[tuple[str, bytes]]:
    """Small ones of each kind."""
    for name, content in FILES.items():
        if name in KINDS:
            yield name, content
    yield f"words/{TOKENIZER}", (BUILT_IN / TOKENIZER).read_bytes()[:4000]
    yield "bert/added_tokens.json", b'{"[NEW]": 10}'
    yield f"words/{SETTINGS}", b"[" * 20_000


def read(path: Path) -> None:
    """Load, and write and read a text."""
    tokenizer = Tokenizer.load(path.parent)
    for ids in tokenizer.encode(["A dog's <eos> \u00e9", ""]):
        assert tokenizer.decode(ids) is not None


def restore(path: Path) -> None:
    """Put back what the input was in the place of."""
    kept = FILES.get(f"{path.parent.name}/{path.name}")
    path.unlink() if kept is None else path.write_bytes(kept)
