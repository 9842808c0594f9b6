"""Text: captions to token ids and back, and the word vocabulary trained from captions."""

from captax.text.tokenizer import TextError, Tokenizer
from captax.text.vocabulary import train_word_tokenizer

__all__ = ["TextError", "Tokenizer", "train_word_tokenizer"]
