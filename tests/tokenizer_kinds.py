"""Tokenizers of the kinds that can spell any text."""

import functools

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from captax.text import Tokenizer

SPECIAL = ["<start>", "<eos>", "<pad>"]
TEXTS = ['{"a": "b", "number": 12}', "a dog, 犬 é", "two\nlines  \t end"]


@functools.cache
def byte_level() -> Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(
        [*TEXTS, '{"tag": ["dog", "cat"], "caption": "a dog"}'] * 3, trainer
    )
    backend.add_special_tokens(SPECIAL)
    backend.add_tokens(["dog park"])
    return Tokenizer(backend)


@functools.cache
def llama() -> Tokenizer:
    """As Llama 2 has it: spaces are written, and letters that are not known are bytes."""
    vocabulary = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    vocabulary += [*'abcdefghijklmnopqrstuvwxyz{}[]",:0123456789', '{"', '":', "\u2581do"]
    numbers = {piece: index for index, piece in enumerate(vocabulary)}
    merges = [("{", '"'), ('"', ":")]
    backend = tokenizers.Tokenizer(
        models.BPE(numbers, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens(["<unk>", *SPECIAL])
    return Tokenizer(backend)
