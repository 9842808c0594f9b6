"""Languages by the names and the codes that people give."""

import pytest

from captax.errors import OptionError
from captax.text.languages import LANGUAGES, in_code, in_sentence, language_of


@pytest.mark.parametrize(
    ("given", "code"),
    [
        *[("French", "fr"), ("fr", "fr"), (" FR ", "fr"), ("fr-CA", "fr"), ("es_419", "es")],
        *[("pt-BR", "pt-br"), ("zh_TW", "zh-hant"), ("zh-Hans", "zh-hans"), ("iw", "he")],
        *[("Deutsch", "de"), ("日本語", "ja"), ("haitian creole", "ht"), ("nb-NO", "no")],
    ],
)
def test_names_and_codes(given: str, code: str) -> None:
    assert language_of(given) == LANGUAGES[code]


@pytest.mark.parametrize("given", ["Klingon", "xx", "", "fr-Latn-x", "a dog"])
def test_what_is_no_language_is_refused(given: str) -> None:
    with pytest.raises(OptionError, match=r"`language` is .* give an English name such as French"):
        language_of(given)
    with pytest.raises(OptionError, match="did you mean german"):
        language_of("germann")


def test_prompts_ask_for_a_language() -> None:
    french, brazilian = language_of("fr"), language_of("pt-br")
    assert in_sentence("Describe it.", french) == "Describe it. Answer in French."
    assert in_sentence("What is it? ", french) == "What is it? Answer in French."
    assert in_sentence("Tags", brazilian) == "Tags. Answer in Brazilian Portuguese."
    assert in_code("caption en", french) == "caption fr"
    assert in_code("describe de ", brazilian) == "describe pt"
    with pytest.raises(OptionError, match="names its language itself"):
        in_code("What is it?", french)
