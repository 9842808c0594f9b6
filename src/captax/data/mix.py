"""Joins several sources into one."""

from collections.abc import Sequence

from captax.data.example import Example, refuse_repeats


def mix(*sources: Sequence[Example]) -> list[Example]:
    """The sources' examples one after the other; each id begins with its source's name.

    `1000268201_693b08cb0e` of a folder named `flickr8k` becomes `flickr8k/1000268201_693b08cb0e`.
    Examples without a source, such as those already mixed, keep their ids.

    Raises:
        DataError: an id comes twice.
    """
    mixed: list[Example] = []
    for source in sources:
        for example in source:
            id = f"{example.source}/{example.id}" if example.source else example.id
            mixed.append(example.renamed(id, ""))
    refuse_repeats(
        (example.id for example in mixed),
        "mix",
        "comes twice; give each source once, from folders with different names",
    )
    return mixed
