"""Named prompts, and those of one's own."""

from pathlib import Path
from typing import Any

import pytest

from captax.errors import OptionError
from captax.text import prompt_format
from captax.text.prompt_format import PromptFormat
from captax.text.styles import styles_of

FORMATS = {
    name: value for name, value in vars(prompt_format).items() if isinstance(value, PromptFormat)
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_knows_its_styles(name: str) -> None:
    known = styles_of(FORMATS[name].styles)
    assert {"short", "detailed"} <= known.styles.keys()
    for style in known.styles:
        text = known.prompt(style, extras=list(known.extras))
        assert "{" not in text and text == " ".join(text.split())


def test_a_style_has_forms_and_extras() -> None:
    known = styles_of("joycaption")
    plain = "Write a detailed description for this image."
    assert known.prompt("descriptive") == plain
    assert known.prompt("descriptive", words=40) == f"{plain[:-1]} in 40 words or less."
    assert known.prompt("descriptive", length="very long") == (
        "Write a very long detailed description for this image."
    )
    told = "Include information about lighting. Do NOT include anything sexual; keep it PG."
    assert known.prompt("descriptive", extras=["lighting", "pg"]) == f"{plain} {told}"


@pytest.mark.parametrize(
    ("kind", "name", "options", "message"),
    [
        ("general", "shorts", {}, "unknown style 'shorts'; did you mean short?"),
        ("general", "short", {"length": "long"}, "the style short has no form for `length`"),
        ("florence2", "long", {"words": 3}, "the style long has no form for `words`"),
        ("general", "alt", {"words": 3, "length": "long"}, "give one of them"),
        ("joycaption", "casual", {"extras": ["light"]}, "extra 'light'; did you mean lighting?"),
        ("general", "alt", {"extras": ["pg"]}, "unknown extra 'pg'; this model has none"),
    ],
)
def test_what_a_style_is_not_is_refused(
    kind: str, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError) as told:
        styles_of(kind).prompt(name, **options)
    assert message in str(told.value)


@pytest.mark.parametrize(
    "text",
    ["zoo: Name the animals.\n", "styles: {zoo: Name the animals.}\nextras: {loud: Shout!}\n"],
)
def test_styles_of_ones_own_come_first(tmp_path: Path, text: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text + ("short: Be brief.\n" if text.startswith("zoo") else ""))
    known = styles_of("general").with_own(path)
    assert known.prompt("zoo") == "Name the animals."
    assert known.prompt("alt") == styles_of("general").prompt("alt")
    if text.startswith("zoo"):
        assert known.prompt("short") == "Be brief."
    else:
        assert known.prompt("zoo", extras=["loud"]) == "Name the animals. Shout!"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", "cannot be read"),
        (b"\xff\xfe\xff", "cannot be read"),
        (b"short: 2020-13-45\n", "cannot be read"),
        (b"- a\n", "is no mapping of names to prompts"),
        (b"a: 3\n", "styles.a is no text"),
        (b"a: {words: '{words}'}\n", "styles.a has no prompt"),
        (b"a: {prompt: b, words: c}\n", "styles.a.words has no {words}"),
        (b"a: {prompt: b, size: c}\n", "styles.a has 'size'"),
        (b"extras: [a]\n", "extras is no mapping"),
        (b"a: !!python/object/apply:os.system [ls]\n", "cannot be read"),
    ],
)
def test_a_file_that_is_something_else_is_told(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "own.yaml"
    path.write_bytes(content)
    with pytest.raises(OptionError) as told:
        styles_of("general").with_own(path)
    assert message in str(told.value) and str(told.value).startswith(f"{path}: ")
