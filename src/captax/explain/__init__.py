"""Why a captioner said what it said: a map over the picture for every word, and what it is worth.

>>> explanation = captioner.explain("photo.jpg", methods=("attention", "occlusion"))
>>> explanation.maps("occlusion").shape
(words, rows, columns)
>>> explanation.save("photo.html")

Knows models, not captioners: `Captioner.explain` is how it is used.
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
