"""GGUF files: headers, narrow weights, models and their tokenizers."""

import random
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from flax import nnx

from captax.checkpoints.gguf import open_gguf
from captax.checkpoints.gguf_models import load_gguf
from captax.models import registry
from captax.text.gguf import read_gguf_tokenizer

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests"))
from checkpoints import gguf_files  # noqa: E402

KINDS = ("header.gguf", "model.gguf", "tokenizer.gguf")
SECONDS = 6.0  # of a model, which is built however small the file is
_GPT2 = {**gguf_files.GPT2, "add_bos_token": True}
_KEYS = (
    *("general.architecture", "general.alignment", "rope_freqs.weight", "token_embd.weight"),
    *("output.weight", "blk.0.attn_q.weight", "blk.0.attn_q.bias", "blk.99.ffn_up.weight"),
    *(
        f"llama.{key}"
        for key in (
            *("embedding_length", "feed_forward_length", "block_count", "context_length"),
            *("attention.head_count", "attention.head_count_kv", "attention.key_length"),
            *("attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.dimension_count"),
            *("rope.scaling.type", "rope.scaling.factor"),
        )
    ),
    *("gemma3.attention.sliding_window", "gemma2.attn_logit_softcapping", "linear", "yarn"),
    *(
        f"tokenizer.ggml.{key}"
        for key in (
            *("model", "pre", "tokens", "scores", "merges", "token_type", "bos_token_id"),
            *("eos_token_id", "unknown_token_id", "padding_token_id", "add_bos_token"),
            "add_space_prefix",
        )
    ),
    *("default", "gpt-2", "smollm", "llama-bpe", "qwen2", "gpt2", *gguf_files.MODELS, "<0x0A>"),
)
WORDS = (
    b"GGUF",
    *(struct.pack("<Q", len(key)) + key.encode() for key in _KEYS),
    *(struct.pack("<I", kind) for kind in range(15)),
    *(struct.pack("<IIQ", 9, kind, 3) for kind in (4, 5, 6, 8, 9)),
    *(struct.pack("<Q", size) for size in (0, 1, 31, 32, 256, 2**31, 2**32, 2**62, 2**64 - 1)),
    *(struct.pack("<f", number) for number in (float("nan"), float("inf"), -1.0, 1e38, 0.0)),
    b"\xe2\x96\x81",
    b"\xff\xfe",
)


def seeds() -> Iterator[tuple[str, bytes]]:
    """A small model of each architecture and in each narrow form, and tokenizers of each kind."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.gguf"
        for name, config in gguf_files.MODELS.items():
            model = registry.build({**config, "num_hidden_layers": 1}, rngs=nnx.Rngs(0))
            tensors = gguf_files.theirs(model)
            numbers = gguf_files.numbers({**config, "num_hidden_layers": 1})
            gguf_files.write(path, name, numbers, tensors)
            yield "model.gguf", path.read_bytes()
            yield "header.gguf", path.read_bytes()
        scaled = {**numbers, "rope.freq_base": 500_000.0}
        divisors = {"rope_freqs.weight": np.array([1, 1, 8, 32], np.float32)}
        gguf_files.write(path, "llama", scaled, {**tensors, **divisors})
        yield "model.gguf", path.read_bytes()
        for kind in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"):
            weights = {"x.weight": np.ones((2, 64), np.float32)}
            gguf_files.write(path, "none", {}, weights, gguf_files.Kind[kind])
            yield "header.gguf", path.read_bytes()
        for tokens in (None, _GPT2, {**_GPT2, "pre": "llama-bpe"}):
            gguf_files.write(path, "none", {}, {"x": np.ones(2, np.float32)}, tokens=tokens)
            yield "tokenizer.gguf", path.read_bytes()
    yield "header.gguf", b"GGUF\x03\0\0\0" + bytes(16)


def mutate(content: bytes, rng: random.Random) -> bytes:
    """A number, a length or a type changed, or something put in: bytes alone would seldom fit."""
    end = min(len(content), 4000)  # the header
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(max(1, end - 8))
        word = rng.choice(WORDS)
        match rng.randrange(4):
            case 0:
                changed[at : at + len(word)] = word
            case 1:
                changed[at:at] = word
            case 2:
                changed[at : at + rng.choice((1, 4, 8))] = b""
            case _:
                changed[at : at + 1] = bytes([rng.choice((0, 1, 8, 9, 127, 128, 255))])
    return bytes(changed)


def read(path: Path) -> None:
    """Read every tensor, or build the model, or write and read a text."""
    gguf = open_gguf(path)
    if path.name == "model.gguf":
        load_gguf(gguf)
    elif path.name == "tokenizer.gguf":
        tokenizer = read_gguf_tokenizer(gguf.metadata, path)
        for ids in tokenizer.encode_plain(["A dog's <s> ab12 \u00e9", ""]):
            assert tokenizer.decode(ids) is not None
    else:
        for tensor in gguf.tensors.values():
            value = tensor.read()
            assert value.shape == tensor.shape and value.dtype == tensor.dtype
