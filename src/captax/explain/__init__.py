"""Explanations: for every word of a caption, a map over the picture and a measure of its worth.

>>> explanation = captioner.explain("photo.jpg", methods=("attention", "occlusion"))
>>> explanation.maps("occlusion").shape
(words, rows, columns)
>>> explanation.save("photo.html")

This package knows models, not captioners; call it through `Captioner.explain`.
"""

from captax.explain.explain import explain, known_methods
from captax.explain.explanation import Explanation
from captax.explain.faithfulness import Faithfulness
from captax.explain.maps import METHODS, ExplainError
from captax.explain.reading import Reader
from captax.explain.words import Word

__all__ = [
    "METHODS",
    "ExplainError",
    "Explanation",
    "Faithfulness",
    "Reader",
    "Word",
    "explain",
    "known_methods",
]
