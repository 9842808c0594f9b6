"""Pieces of documents, and edits made in them, for the tests of this room."""

from collections.abc import Sequence

from captax.alt.found import ImageUse

ALT = 'A "dog" & <cat> [on] a_b `c` {{ x }} | *d* \\ é'


def fill(text: str, uses: Sequence[ImageUse], alt: str = ALT) -> str:
    """`text` with `alt` for every image that the markup does not leave alone."""
    for use in reversed(uses):
        if use.skip is None:
            text = text[: use.start] + use.write(alt) + text[use.stop :]
    return text


def kept(before: str, after: str, uses: Sequence[ImageUse], alt: str = ALT) -> bool:
    """Whether `after` is `before` but for what was written at the places of `uses`."""
    at = 0
    for use in uses:
        if use.skip is not None:
            continue
        written = use.write(alt)
        gap = before[at : use.start]
        if not after.startswith(gap + written):
            return False
        after, at = after[len(gap + written) :], use.stop
    return after == before[at:]
