"""Languages by their names and codes (ISO 639), for prompts that ask for one."""

import dataclasses
import re

from captax.errors import OptionError, nearest, quoted

# A prompt of PaliGemma: what is to be written, and the code of its language.
_CODED = re.compile(r"(caption|describe) \w+")


@dataclasses.dataclass(frozen=True)
class Language:
    """A language, by its code and its English name."""

    code: str
    name: str


LANGUAGES = {
    code: Language(code, name)
    for code, name in (
        each.split(" ", 1)
        for each in (
            *("af Afrikaans", "sq Albanian", "am Amharic", "ar Arabic", "hy Armenian"),
            *("az Azerbaijani", "eu Basque", "be Belarusian", "bn Bengali", "bs Bosnian"),
            *("bg Bulgarian", "my Burmese", "ca Catalan", "zh Chinese", "hr Croatian", "cs Czech"),
            *("da Danish", "nl Dutch", "en English", "eo Esperanto", "et Estonian", "fil Filipino"),
            *("fi Finnish", "fr French", "gl Galician", "ka Georgian", "de German", "el Greek"),
            *("gu Gujarati", "ht Haitian Creole", "ha Hausa", "he Hebrew", "hi Hindi"),
            *("hu Hungarian", "is Icelandic", "ig Igbo", "id Indonesian", "ga Irish", "it Italian"),
            *("ja Japanese", "jv Javanese", "kn Kannada", "kk Kazakh", "km Khmer", "ko Korean"),
            *("ku Kurdish", "ky Kyrgyz", "lo Lao", "la Latin", "lv Latvian", "lt Lithuanian"),
            *("lb Luxembourgish", "mk Macedonian", "mg Malagasy", "ms Malay", "ml Malayalam"),
            *("mt Maltese", "mi Maori", "mr Marathi", "mn Mongolian", "ne Nepali", "no Norwegian"),
            *("or Odia", "ps Pashto", "fa Persian", "pl Polish", "pt Portuguese", "pa Punjabi"),
            *("ro Romanian", "ru Russian", "sr Serbian", "sd Sindhi", "si Sinhala", "sk Slovak"),
            *(
                "sl Slovenian",
                "so Somali",
                "es Spanish",
                "su Sundanese",
                "sw Swahili",
                "sv Swedish",
            ),
            *(
                "tg Tajik",
                "ta Tamil",
                "tt Tatar",
                "te Telugu",
                "th Thai",
                "bo Tibetan",
                "tr Turkish",
            ),
            *("tk Turkmen", "uk Ukrainian", "ur Urdu", "ug Uyghur", "uz Uzbek", "vi Vietnamese"),
            *("cy Welsh", "fy Western Frisian", "xh Xhosa", "yi Yiddish", "yo Yoruba", "zu Zulu"),
            *("pt-br Brazilian Portuguese", "zh-hans Simplified Chinese"),
            "zh-hant Traditional Chinese",
        )
    )
}
# Other codes and names that people give.
_OTHERS = {
    "iw": "he",
    "nb": "no",
    "nn": "no",
    "tl": "fil",
    "tagalog": "fil",
    "mandarin": "zh",
    "zh-cn": "zh-hans",
    "zh-tw": "zh-hant",
    "farsi": "fa",
    "castilian": "es",
    "flemish": "nl",
    "deutsch": "de",
    "fran\u00e7ais": "fr",
    "espa\u00f1ol": "es",
    "italiano": "it",
    "portugu\u00eas": "pt",
    "nederlands": "nl",
    "polski": "pl",
    "svenska": "sv",
    "\u65e5\u672c\u8a9e": "ja",
    "\u4e2d\u6587": "zh",
    "\ud55c\uad6d\uc5b4": "ko",
    "\u0440\u0443\u0441\u0441\u043a\u0438\u0439": "ru",
}


def language_of(given: str) -> Language:
    """The language of a name or a code, such as `French`, `fr` or `fr-CA`.

    Raises `OptionError` for one that is not known.
    """
    said = given.strip().lower().replace("_", "-")
    code = _OTHERS.get(said, said)
    if found := LANGUAGES.get(code):
        return found
    names = {each.name.lower(): each for each in LANGUAGES.values()}
    if said in names:
        return names[said]
    if re.fullmatch(r"[a-z]{2,3}-([a-z]{2}|[0-9]{3})", said):  # a language as a country has it
        main = said.partition("-")[0]
        if found := LANGUAGES.get(_OTHERS.get(main, main)):
            return found
    hint = nearest(said, list(names)).partition("; known")[0]
    raise OptionError(
        f"`language` is {quoted(given)}, which is not known{hint}; give an English name such as "
        "French, or a code such as fr"
    )


def in_sentence(prompt: str, language: Language) -> str:
    """A request in words, with one more sentence that asks for a language."""
    asked = prompt.rstrip()
    end = "" if asked.endswith((".", "!", "?", ":")) else "."
    return f"{asked}{end} Answer in {language.name}."


def in_code(prompt: str, language: Language) -> str:
    """A prompt that names its language by a code, such as `caption en`, with another one.

    Raises `OptionError` for any other prompt.
    """
    if (found := _CODED.fullmatch(prompt.strip())) is None:
        raise OptionError(
            f"`language`: the prompt {quoted(prompt)} of this model names its language itself, as "
            "in 'caption fr'; leave out one of them"
        )
    return f"{found[1]} {language.code.partition('-')[0]}"
