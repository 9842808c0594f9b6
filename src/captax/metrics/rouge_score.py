"""ROUGE-1, ROUGE-2 and ROUGE-L as the package rouge_score computes them, for summaries.

Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, with its own way to find words,
and an F-measure in which precision and recall weigh the same: in both unlike the ROUGE-L of the
COCO caption evaluation (`captax.metrics.rouge`).
"""

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Callable, Sequence

from captax.errors import CaptaxError
from captax.metrics.rouge import longest_common_subsequence


@dataclasses.dataclass(frozen=True)
class RougeScore:
    """How much of the hypothesis is in the reference, of the reference in it, and their mean."""

    precision: float
    recall: float

    @property
    def f(self) -> float:
        """The harmonic mean of both: what papers report."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def rouge_score(
    hypothesis: str, references: Sequence[str], *, stem: bool = False
) -> dict[str, RougeScore]:
    """The scores "ROUGE-1", "ROUGE-2" and "ROUGE-L" of a text, each against its best reference.

    `stem` compares words without their endings ("runs" and "running" as "run"), as summaries are
    scored for the most part. A corpus' scores are means over its texts.

    Raises:
        CaptaxError: there is no reference.
    """
    if not references:
        raise CaptaxError("ROUGE needs a reference: give at least one")
    words = rouge_words(hypothesis, stem=stem)
    scores = [_scores(words, rouge_words(reference, stem=stem)) for reference in references]
    return {
        name: max((score[name] for score in scores), key=lambda score: score.f)
        for name in scores[0]
    }


def rouge_words(text: str, *, stem: bool = False) -> list[str]:
    """The words that are compared: runs of lowercase ASCII letters and digits."""
    words = re.findall("[a-z0-9]+", text.lower())
    # Short words are left as they are, as in ROUGE 1.5.5.
    return [porter_stem(word) if len(word) > 3 else word for word in words] if stem else words


def _scores(hypothesis: list[str], reference: list[str]) -> dict[str, RougeScore]:
    scores = {}
    for order in (1, 2):
        ours, theirs = _ngrams(hypothesis, order), _ngrams(reference, order)
        scores[f"ROUGE-{order}"] = _score((ours & theirs).total(), ours.total(), theirs.total())
    common = longest_common_subsequence(hypothesis, reference)
    scores["ROUGE-L"] = _score(common, len(hypothesis), len(reference))
    return scores


def _ngrams(words: list[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(order)), strict=False))


def _score(common: int, hypothesis: int, reference: int) -> RougeScore:
    return RougeScore(common / max(hypothesis, 1), common / max(reference, 1))


# The stemmer is that of Porter, "An algorithm for suffix stripping", 1980, with the changes that
# NLTK made to it, which rouge_score uses. A rule is an ending, what comes in its place, and what
# must hold of what is before it; of the rules of a step the first whose ending fits decides.

_Rule = tuple[str, str, Callable[[str], bool]]

_IRREGULAR = {
    "skies": "sky",
    "sky": "sky",
    "dying": "die",
    "lying": "lie",
    "tying": "tie",
    "news": "news",
    "innings": "inning",
    "inning": "inning",
    "outings": "outing",
    "outing": "outing",
    "cannings": "canning",
    "canning": "canning",
    "howe": "howe",
    "proceed": "proceed",
    "exceed": "exceed",
    "succeed": "succeed",
}


@functools.lru_cache(maxsize=100_000)
def porter_stem(word: str) -> str:
    """A lowercase word without its endings, as NLTK's Porter stemmer leaves it."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) <= 2:
        return word
    word = _plural(word)
    word = _past(word)
    word = _apply(_Y, word)
    word = _double_suffix(word)
    word = _apply(_STEP_3, word)
    word = _apply(_STEP_4, word)
    return _tidy(word)


def _kinds(stem: str) -> str:
    """A letter for each: "c" for a consonant, "v" for a vowel; y after a consonant is a vowel."""
    kinds = ""
    for letter in stem:
        vowel = letter in "aeiou" or (letter == "y" and kinds[-1:] == "c")
        kinds += "v" if vowel else "c"
    return kinds


def _measure(stem: str) -> int:
    """How often consonants follow vowels: about the number of syllables that end."""
    return _kinds(stem).count("vc")


def _one(stem: str) -> bool:
    return _measure(stem) > 0


def _two(stem: str) -> bool:
    return _measure(stem) > 1


def _short(stem: str) -> bool:
    """Ends as "hop" does, or is as short as "at"."""
    kinds = _kinds(stem)
    return kinds == "vc" or (kinds.endswith("cvc") and stem[-1] not in "wxy")


def _apply(rules: Sequence[_Rule], word: str) -> str:
    for ending, instead, allowed in rules:
        if word.endswith(ending):
            stem = word.removesuffix(ending)
            return stem + instead if allowed(stem) else word
    return word


def _plural(word: str) -> str:
    if word.endswith("ies"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("sses"):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _past(word: str) -> str:
    if word.endswith("ied"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("eed"):
        return word[:-1] if _one(word[:-3]) else word
    for ending in ("ed", "ing"):
        stem = word.removesuffix(ending)
        if stem != word and "v" in _kinds(stem):
            break
    else:
        return word
    if stem.endswith(("at", "bl", "iz")):
        return stem + "e"
    if stem[-1:] == stem[-2:-1] and _kinds(stem).endswith("c"):
        return stem if stem[-1] in "lsz" else stem[:-1]
    return stem + "e" if _measure(stem) == 1 and _short(stem) else stem


def _double_suffix(word: str) -> str:
    if word.endswith("alli") and _one(word[:-4]):
        return _double_suffix(word[:-2])
    if word.endswith("logi"):
        # The l counts as what comes before, so that short stems like "geo" are enough.
        return word[:-1] if _one(word[:-3]) else word
    return _apply(_STEP_2, word)


def _tidy(word: str) -> str:
    if word.endswith("e"):
        stem = word[:-1]
        if _two(stem) or (_one(stem) and not _short(stem)):
            word = stem
    return word[:-1] if word.endswith("ll") and _two(word[:-1]) else word


_Y: list[_Rule] = [("y", "i", lambda stem: len(stem) > 1 and _kinds(stem).endswith("c"))]
_STEP_2: list[_Rule] = [
    ("ational", "ate", _one),
    ("tional", "tion", _one),
    ("enci", "ence", _one),
    ("anci", "ance", _one),
    ("izer", "ize", _one),
    ("bli", "ble", _one),
    ("alli", "al", _one),
    ("entli", "ent", _one),
    ("eli", "e", _one),
    ("ousli", "ous", _one),
    ("ization", "ize", _one),
    ("ation", "ate", _one),
    ("ator", "ate", _one),
    ("alism", "al", _one),
    ("iveness", "ive", _one),
    ("fulness", "ful", _one),
    ("ousness", "ous", _one),
    ("aliti", "al", _one),
    ("iviti", "ive", _one),
    ("biliti", "ble", _one),
    ("fulli", "ful", _one),
]
_STEP_3: list[_Rule] = [
    ("icate", "ic", _one),
    ("ative", "", _one),
    ("alize", "al", _one),
    ("iciti", "ic", _one),
    ("ical", "ic", _one),
    ("ful", "", _one),
    ("ness", "", _one),
]
_STEP_4: list[_Rule] = [
    ("al", "", _two),
    ("ance", "", _two),
    ("ence", "", _two),
    ("er", "", _two),
    ("ic", "", _two),
    ("able", "", _two),
    ("ible", "", _two),
    ("ant", "", _two),
    ("ement", "", _two),
    ("ment", "", _two),
    ("ent", "", _two),
    ("ion", "", lambda stem: _two(stem) and stem[-1] in "st"),
    ("ou", "", _two),
    ("ism", "", _two),
    ("ate", "", _two),
    ("iti", "", _two),
    ("ous", "", _two),
    ("ive", "", _two),
    ("ize", "", _two),
]
