"""Named prompts for models that are asked: those in `styles.yaml`, and a user's own."""

import dataclasses
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from captax.errors import OptionError, nearest, quoted
from captax.files import read_text

_LARGEST = 2**20
WORDS, LENGTH = "{words}", "{length}"


@dataclasses.dataclass(frozen=True)
class Style:
    """A prompt, and its forms for an answer of so many words and of such a length."""

    prompt: str
    words: str | None = None
    length: str | None = None


@dataclasses.dataclass(frozen=True)
class Styles:
    """Styles by name, and the sentences that can be added to any of them, by name."""

    styles: dict[str, Style]
    extras: dict[str, str]

    def prompt(
        self,
        name: str,
        *,
        words: int | None = None,
        length: str | None = None,
        extras: Sequence[str] = (),
    ) -> str:
        """The prompt of a style, for an answer of at most `words` words or of a `length`.

        A model was told so, and may write more. `length` is a word such as "short". Raises
        `OptionError` for names that are not known, and for a form that the style does not have.
        """
        if name not in self.styles:
            raise OptionError(f"unknown style {quoted(name)}{nearest(name, list(self.styles))}")
        if words is not None and length is not None:
            raise OptionError("`words` and `length` both say how long; give one of them")
        style = self.styles[name]
        text: str | None = style.prompt
        if words is not None:
            text = style.words and style.words.replace(WORDS, str(words))
        elif length is not None:
            text = style.length and style.length.replace(LENGTH, length)
        if text is None:
            option = "words" if words is not None else "length"
            raise OptionError(f"the style {name} has no form for `{option}`; leave that out")
        for extra in extras:
            if extra not in self.extras:
                known = list(self.extras)
                hint = nearest(extra, known) if known else "; this model has none"
                raise OptionError(f"unknown extra {quoted(extra)}{hint}")
            text += f" {self.extras[extra]}"
        return text

    def with_own(self, path: Path) -> "Styles":
        """These and those in a file, which has `styles` and `extras` or is a mapping of styles.

        A style in the file takes the place of one that has its name. Raises `OptionError` for a
        file that cannot be read or is something else.
        """
        try:
            own = yaml.safe_load(read_text(path, limit=_LARGEST))
        except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
            why = getattr(error, "strerror", None) or getattr(error, "problem", None) or "no YAML"
            raise OptionError(f"{path}: cannot be read ({why}); give a YAML file") from None
        if isinstance(own, dict) and not own.keys() & {"styles", "extras"}:
            own = {"styles": own}
        try:
            added = _read(own)
        except ValueError as error:
            raise OptionError(f"{path}: {error}") from None
        return Styles(self.styles | added.styles, self.extras | added.extras)


def styles_of(kind: str) -> Styles:
    """The styles for models whose prompts are of this kind, a key of `styles.yaml`."""
    text = (resources.files("captax.text") / "styles.yaml").read_text(encoding="utf-8")
    return _read(yaml.safe_load(text)[kind])


def _read(content: Any) -> Styles:
    if not isinstance(content, dict) or not content.keys() <= {"styles", "extras"}:
        raise ValueError("is no mapping of names to prompts; write `name: the prompt`")
    styles, extras = content.get("styles") or {}, content.get("extras") or {}
    for what, named in (("styles", styles), ("extras", extras)):
        if not isinstance(named, dict):
            raise ValueError(f"{what} is no mapping of names to texts; write `name: the text`")
    return Styles(
        {str(name): _style(f"styles.{name}", given) for name, given in styles.items()},
        {str(name): _text(f"extras.{name}", given) for name, given in extras.items()},
    )


def _style(where: str, given: Any) -> Style:
    if not isinstance(given, dict):
        return Style(_text(where, given))
    if strange := given.keys() - {"prompt", "words", "length"}:
        raise ValueError(
            f"{where} has {quoted(str(min(map(str, strange))))}; a style has prompt, "
            "words and length"
        )
    forms = {name: _text(f"{where}.{name}", text) for name, text in given.items()}
    for name, place in (("words", WORDS), ("length", LENGTH)):
        if name in forms and place not in forms[name]:
            raise ValueError(f"{where}.{name} has no {place}; write it where the value goes")
    if "prompt" not in forms:
        raise ValueError(f"{where} has no prompt; add one")
    return Style(**forms)


def _text(where: str, given: Any) -> str:
    if not isinstance(given, str) or not given.strip():
        raise ValueError(f"{where} is no text; write one")
    return given.strip()
