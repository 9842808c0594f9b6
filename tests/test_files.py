"""JSON as others wrote it."""

import json
from pathlib import Path
from typing import Any

import pytest

from captax.errors import CaptaxError
from captax.files import is_file, parse_json


@pytest.mark.parametrize("value", [None, 1.5, {"a": ["b", {}]}, "caf\u00e9 \U0001f600 \\ud800"])
def test_json_is_what_it_says(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value, ensure_ascii=False)) == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('["fine", "\\uD83D\\uDE00 \\udc00"]', "half a character"),
        ('{"\\ud800": 1}', "half a character"),
        ("1" * 5000, "digits"),
        ("{", "Expecting"),
    ],
)
def test_json_that_is_none_is_a_value_error(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_json(text)


def test_objects_are_made_of_their_pairs() -> None:
    assert parse_json('{"a": 1, "a": 2}', pairs=list) == [("a", 1), ("a", 2)]


def test_no_file_has_a_name_that_none_can_have(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    assert is_file(tmp_path / "there")
    for name in ("gone", "x" * 300, "a\0b", "half \ud800", "there/x", "."):
        assert not is_file(tmp_path / name)


@pytest.mark.parametrize(
    ("quoted", "shown"),
    [
        ("a\nb\r\u2028\x85", r"a\nb\r\u2028\x85"),
        ("\x1b[31mred\0", r"\x1b[31mred\x00"),
        ("half \ud800, \udcff", r"half \ud800, \udcff"),
        (
            "caf\u00e9  \u00a0\U0001f468\u200d\U0001f469",
            "caf\u00e9  \u00a0\U0001f468\u200d\U0001f469",
        ),
    ],
)
def test_an_error_is_one_line_that_can_be_printed(quoted: str, shown: str) -> None:
    message = str(CaptaxError(f"{quoted}: no such file"))
    assert message == f"{shown}: no such file"
    assert message.splitlines() == [message] and message.encode()
