"""What models say before they describe a picture: words about the picture itself, in English.

"This image shows a dog" is about a dog, and "A photo of a cat hangs on a wall" about a photo. Where
it is not sure that the words are a preamble, they stay.
"""

import itertools
import re

_NOUNS = ("image", "picture", "photograph", "photo", "pic")
_VERBS = (
    *("shows", "depicts", "displays", "features", "captures", "contains", "presents", "portrays"),
    *("showcases", "illustrates", "is showing", "is depicting", "is displaying"),
    *("appears to show", "appears to depict", "seems to show", "seems to depict"),
)
_OF = ("of", "showing", "depicting", "featuring", "capturing", "that shows", "which shows")
_TALK = ("sure", "certainly", "of course", "absolutely")
_LABELS = ("caption", "image caption", "description", "image description", "alt text", "answer")

# What a text must not begin with, to have no preamble.
BEGINNINGS: tuple[str, ...] = (
    *(f"in {which} {noun}" for which in ("this", "the") for noun in _NOUNS),
    *(f"this {noun}" for noun in _NOUNS),
    "the image",
    *(
        f"{begin} {noun} {verb}"
        for begin, noun, verb in itertools.product(
            ("the",), _NOUNS[1:], (*_VERBS, "is", "appears", "seems")
        )
    ),
    *(f"{begin}{noun} {of}" for begin in ("", "a ", "an ") for noun in _NOUNS for of in _OF),
    *(f"{this} {article} {noun}" for this in ("this is", "it is", "it's")
      for article in ("a", "an", "the") for noun in _NOUNS),
    *(f"here{are}" for are in (" is a", " is the", " is your", " are", "'s a", "'s the")),
    *(f"{talk}{mark}" for talk in _TALK for mark in "!,.:"),
    *(f"{label}:" for label in _LABELS),
)  # fmt: skip


def _any(words: tuple[str, ...]) -> str:
    """A pattern of any of these words, of which the longer ones are looked for first."""
    spelt = (re.escape(each).replace(r"\ ", r"\s") for each in sorted(words, key=len, reverse=True))
    return f"(?:{'|'.join(spelt)})"


_NOUN, _MARKS = _any(_NOUNS), r"[*_\"'\u201c\s]*"
# Not "the photo shows up", "the image shows how" or "the picture shows nothing".
_OBJECT = (
    r"(?!(?:up|off|how|that|what|why|where|when|who|whether|us|you|me|it|itself|no|nothing|none|"
    r"little|of|to|and|or|but)\b)(?=\w|[\"\u201c(])"
)
_SUBJECT = r"(?=(?:an?|the|there|we|you|i|one|two|three|four|some|several|many|people|men|women)\b)"
_SEEN = r"(?:(?:we|you|i|one)\s(?:can\s)?(?:see|observe)\s|(?:it\s)?shows\s)?"
_PREAMBLES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{_any(_TALK)}\s*[!,.:]\s*",
        # "Here is a short caption for this image:"
        r"here(?:['\u2019]s|\s(?:is|are))\s[^:.!?\n]{0,80}?\b(?:captions?|descriptions?|alt\stext|"
        r"summary|answer|response|sentence|keywords|tags)\b[^:.!?\n]{0,80}(?::|\n)\s*",
        rf"{_MARKS}{_any(_LABELS)}\s?[*_]*:[*_]*\s*",
        rf"in\s(?:this|the)\s{_NOUN}(?:,\s*|\s{_SUBJECT}){_SEEN}",
        rf"(?:this|the)\s{_NOUN}\s{_any(_VERBS)}(?:\s?:\s*|\s){_OBJECT}",
        rf"(?:this|it)(?:\sis|['\u2019]s)\s(?:an?|the)\s{_NOUN}\s{_any(_OF)}\s{_OBJECT}",
        rf"(?:an?\s|the\s)?{_NOUN}\s{_any(_OF)}\s{_OBJECT}",
    )
)
# The last one is about the picture only if the rest does not go on about it: "A photo of a cat
# hangs on a wall", "A picture of a dog in a frame".
_ABOUT_A_PICTURE = re.compile(
    r"\b(?:hangs?|hanging|hung|framed|taped|pinned|mounted|displayed|printed|projected)\b"
    r"|(?<!\bthat )(?<!\bwho )(?<!\bwhich )\b(?:is|are|was|were|has|have|sits|stands|lies|rests)\b"
    r"|(?<!ing )\b(?:on|in|inside|against)\s(?:an?|the|its|his|her|their|my|your)\s(?:\w+\s)?"
    r"(?:wall|frame|fridge|refrigerator|screen|monitor|billboard|page|album|magazine|newspaper|"
    r"bulletin\sboard|notice\sboard|locket|easel|wallet)\b",
    re.IGNORECASE,
)
_QUOTES = {'"': '"', "\u201c": "\u201d", "'": "'"}


def without_preamble(text: str) -> tuple[str, str]:
    """A text without its preamble, and what was removed: "" if there is none.

    What follows begins with a capital letter if the text did. Nothing is removed if nothing would
    be left, nor from texts in other languages than English.
    """
    rest = text.strip()
    while (shorter := _shortened(rest)) != rest:
        rest = shorter
    if rest == text.strip():
        return text, ""
    removed = text.strip()
    removed = removed[: removed.rindex(rest)].rstrip(" \t\r\n\"'\u201c*_")
    first = next((letter for letter in text if letter.isalpha()), "")
    return (rest[:1].upper() + rest[1:] if first.isupper() else rest), removed


def _shortened(text: str) -> str:
    """The text without its first preamble."""
    for pattern in _PREAMBLES:
        found = pattern.match(text)
        if found is None:
            continue
        rest = text[found.end() :]
        if pattern is _PREAMBLES[-1] and _ABOUT_A_PICTURE.search(_sentence(rest)):
            continue
        # An answer after "Here is a caption:" is often quoted.
        end = _QUOTES.get(rest[:1])
        if end is not None and rest.endswith(end) and rest.count(end) == 1 + (end == rest[:1]):
            rest = rest[1:-1].strip()
        shorter = rest.lstrip(" \t\r\n*")
        # So is one in bold, or in bold with what was before it.
        opened = found[0] + rest[: len(rest) - len(shorter)]
        rest = shorter
        if opened.count("**") % 2 and rest.endswith("**") and rest.count("**") == 1:
            rest = rest[:-2].rstrip()
        if any(letter.isalnum() for letter in rest):
            return rest
    return text


def _sentence(text: str) -> str:
    return re.split(r"(?<=[.!?])\s", text, maxsplit=1)[0]
