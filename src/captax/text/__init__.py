"""Text: captions to token ids and back, and the word vocabulary trained from captions."""

from captax.text.borders import Borders
from captax.text.kinds import graphic_in
from captax.text.pretrained import TextError
from captax.text.tokenizer import Tokenizer
from captax.text.vocabulary import add_words, train_word_tokenizer

__all__ = [
    "Borders",
    "TextError",
    "Tokenizer",
    "add_words",
    "graphic_in",
    "train_word_tokenizer",
]
