"""The kind of picture, as its caption tells it."""

import re

# A caption names its subject before these words: "a map of a city", but "a man with a map".
_SUBJECT = re.compile(
    r"\b(?:of|with|on|in|at|by|from|near|for|under|over|above|behind|beside|next|is|"
    r"are|has|held|hangs?|fills?|shows?|\w+ing)\b|\s(?:an?|the)\b|[,.;:]"
)
_GRAPHIC = re.compile(
    r"\b(?:diagram|chart|flow\s?chart|graph|plot|map|screen\s?shot|infographic|blueprint|logo|"
    r"web\s?site|(?:web)?page|document|spreadsheet|handwriting|handbill|sheet music)s?\b",
    re.IGNORECASE,
)


def graphic_in(caption: str) -> str | None:
    """The word by which a caption calls its picture a graphic: a chart, a map, a page of text.

    None for a caption of anything else, also of one in which a graphic occurs: "a man with a map".
    """
    ends = _SUBJECT.search(caption)
    found = _GRAPHIC.search(caption[: ends.start()] if ends else caption)
    return found and found[0].lower()
