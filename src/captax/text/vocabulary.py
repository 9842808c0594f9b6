"""The word vocabulary: a word-level tokenizer trained from captions."""

from collections.abc import Iterable

import tokenizers
from tokenizers import Regex, models, normalizers, pre_tokenizers, processors, trainers

from captax.text.pretrained import TextError
from captax.text.tokenizer import Tokenizer

PAD, START, EOS, UNK = SPECIAL_TOKENS = ("<pad>", "<start>", "<eos>", "<unk>")

# Letters and digits, which apostrophes and hyphens may join: man's, tri-colored. Combining marks
# count as letters, because NFC cannot compose every letter with its marks.
_LETTERS = r"[\p{L}\p{M}\p{N}]+"
WORD = rf"{_LETTERS}(?:['-]{_LETTERS})*"


def train_word_tokenizer(captions: Iterable[str], *, min_count: int = 5) -> Tokenizer:
    """A tokenizer whose tokens are the captions' words, in lower case and without punctuation.

    Ids 0 to 3 are `<pad> <start> <eos> <unk>`; the words follow, by falling count and then
    alphabetically, so the same captions in any order give the same ids. The whole pipeline is in
    `tokenizer.json`: any binding of the `tokenizers` library reproduces it.

    Args:
        captions: the training captions.
        min_count: a word seen fewer times than this becomes `<unk>`.

    Raises:
        TextError: `min_count` is below 1, or no word is that frequent.
    """
    if min_count < 1:
        raise TextError(
            f"min_count is {min_count}; give 1 or more, since every word is seen at least once"
        )
    if isinstance(captions, str):
        raise TextError("captions is one string; give a list of captions")
    backend = tokenizers.Tokenizer(models.WordLevel(unk_token=UNK))
    # NFC comes last because lower-casing can leave a letter and its accent apart. Apostrophes are
    # typed both straight and curly.
    backend.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace("\u2019", "'"), normalizers.NFC()]
    )
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True)
    # No decoder: the library then joins tokens with single spaces.
    trainer = trainers.WordLevelTrainer(
        vocab_size=2**31,  # min_count alone limits it
        min_frequency=min_count,
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    backend.train_from_iterator(captions, trainer)
    if backend.get_vocab_size() == len(SPECIAL_TOKENS):
        raise TextError(
            f"no word occurs {min_count} times; give more captions or a lower min_count"
        )
    backend.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {EOS}",
        special_tokens=[(token, backend.token_to_id(token)) for token in (START, EOS)],
    )
    return Tokenizer(backend, start=START, eos=EOS, pad=PAD)


def add_words(tokenizer: Tokenizer, captions: Iterable[str], *, min_count: int = 1) -> Tokenizer:
    """The tokenizer with the captions' words that it lacks, in the order of `train_word_tokenizer`.

    Raises:
        TextError: the tokenizer is not a word-level one.
    """
    found = train_word_tokenizer(captions, min_count=min_count)
    words = [found.token(index) for index in range(len(SPECIAL_TOKENS), found.vocab_size)]
    known = tokenizer.encode_plain(words)
    return tokenizer.with_words(
        [word for word, ids in zip(words, known, strict=True) if tokenizer.unk_id in ids]
    )
