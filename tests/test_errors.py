"""What messages quote."""

from typing import Any

import pytest

from captax.errors import CaptaxError, plain, plural, quoted


@pytest.mark.parametrize(
    "value",
    [
        *("a", "it's", "", b"x", 1, True, None, 2.5, [1, None], (1,), (1, 2), (), [], {}, set()),
        *({1}, {"a": ["b", {"c": (1, [2])}], 1: "d"}, frozenset({1}), "x" * 290, list(range(70))),
    ],
)
def test_what_is_short_is_quoted_as_python_writes_it(value: Any) -> None:
    assert quoted(value) == repr(value)


def test_what_is_long_or_multiplies_is_cut() -> None:
    laughs: Any = "ha"
    for _ in range(100):
        laughs = [laughs, {"again": laughs}]
    deep: Any = ()
    for _ in range(100_000):
        deep = (deep,)
    for value in (laughs, deep, "x" * 10**7, [0] * 10**6, 2**100_000, {"x" * 10**6: 1}):
        assert len(quoted(value)) < 310


def test_one_thing_is_not_several() -> None:
    assert [plural(n, "picture") for n in (0, 1, 2000)] == [
        "0 pictures",
        "1 picture",
        "2,000 pictures",
    ]
    assert plural(1, "class", "classes") == "1 class" and plural(2, "is", "are") == "2 are"


def test_a_message_keeps_its_beginning_and_its_end() -> None:
    said = str(CaptaxError(f"a.pth: {'x' * 10**6}; download it again"))
    assert len(said) < 51_000
    assert said.startswith("a.pth: xxx") and said.endswith("xxx; download it again")


def test_words_of_pydantic_are_ours() -> None:
    assert plain("Input should be a valid integer, unable to parse string as an integer") == (
        "must be an integer"
    )
    assert plain("Input should be less than or equal to 65535") == (
        "must be less than or equal to 65535"
    )
    assert plain("Value error, give 1 or more") == "give 1 or more"
    assert plain("Input should have at least 2 items") == "must have at least 2 items"
