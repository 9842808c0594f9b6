"""Captions as alt texts."""

import re

from captax.text.dangling import ENGLISH

LIMIT = 125
# Screen readers say "image" by themselves; linters refuse these words.
_SHOWN = r"(?:images?|photos?|photographs?|pictures?|pics?)"
_ADJECTIVE = (
    r"(?:black|white|and|black-and-white|close-?up|closeup|blurry|blurred|old|vintage|antique|"
    r"red|green|blue|yellow|orange|purple|pink|brown|gr[ae]y|colou?r(?:ed|ful)?|aerial|overhead|beautiful|nice|great|digital|stock|cropped|"
    r"large|small|big|little|grainy|sepia|dark|bright|panoramic|close|up|rendered|edited|another)"
)
_OPENING = re.compile(
    rf"""(?:(?:this|that|it|here|there|these|we|you)\s(?:is|are|see|can\ssee|shows?)\s)?
    (?:(?:an?|the|this|that|some|one)\s)?(?:{_ADJECTIVE}\s){{0,4}}{_SHOWN}\s
    (?:(?:that|which|is|are|was|taken)\s)*
    (?:of|showing|shows?|depicting|depicts?|featuring|features|contains|containing)\b[\s:]*""",
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)
_WORD = re.compile(rf"\b{_SHOWN}\b", re.IGNORECASE | re.ASCII)
_DANGLING = re.compile(rf"(?:[\s,;:-]+(?:{'|'.join(sorted(ENGLISH))}))+\Z", re.IGNORECASE)


def alt_text(caption: str, limit: int = LIMIT) -> str:
    """`caption` as an alt text: one plain line of at most `limit` characters, or "".

    Openings such as "a photo of" are removed. Inside a sentence the words image, photo and picture
    become "snapshot", because axe and eslint-plugin-jsx-a11y's `img-redundant-alt` refuse them.
    """
    text = " ".join("".join(each if each.isprintable() else " " for each in caption).split())
    while opening := _OPENING.match(text):
        text = text[opening.end() :]
    text = _WORD.sub(lambda found: "snapshots" if found[0][-1] in "sS" else "snapshot", text)
    text = _shortened(text.strip(" .,;:-"), limit).rstrip(" .,;:-")
    return text[:1].upper() + text[1:]


def _shortened(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    cut = text[: limit + 1].rpartition(" ")[0] or text[:limit]
    return _DANGLING.sub("", cut)
