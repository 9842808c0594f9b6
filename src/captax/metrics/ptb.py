"""Penn Treebank tokenisation of captions, as the COCO caption evaluation does it.

The tokens are those of Stanford CoreNLP 3.4.1's `PTBTokenizer -preserveLines -lowerCase` without
the punctuation that the evaluation then drops. This module was written from that program's observed
behaviour. It covers the cases that English captions contain.
"""

import re

# Characters that are replaced in tokens. The evaluation is meant to drop brackets too, but lists
# them in upper case while tokens are in lower case: they stay, and published scores count them.
_WRITTEN = str.maketrans(
    {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
    | {"¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"}
    | {"¢": "cents", "£": "#", "€": "$", "¤": "$", " ": "\xa0"}
)
_ABBREVIATIONS = """
    adj adm adv al ala alex apr ariz assn assoc asst atty attys aug ave bancorp bhd bldg blvd brig
    bros calif capt cf cie cmdr co col colo comdr conn corp cos cpl ct dak dec dept det dr drs ed.d
    elec ens esq est etc ext feb fla fri ft ga gen gov govs hon inc ind insp intl invt jan jos jr
    jul jun kan kans ky lieut lt ltd maj mar md messrs mfg mich minn mlle mme mo mon mont mr mrs ms
    msgr mt mtg natl neb nev nov oct okla penn pfc ph ph.d plc ppte pptes ppty pptys pres prof profs
    pte ptes pty ptys pvt rd rep reps rev rt sen sens sep sept seq sfc sgt spc sq sr st ste supt
    supts sys tel tenn thu thurs treas tue tues univ va vs vt wed wis wisc wm wyo
"""
_CAPITALISED_ABBREVIATIONS = "Ark Az Del Ill La Mass Miss Ore Pa Tex Wash"
_ABBREVIATIONS_BEFORE_NUMBERS = "art ca fig figs no nos op pp prop"
_SENTENCE_STARTS = """
    a about according after an as at but earlier he her here however if in it last many more now
    once one other our she since so some such that the their then there these they this we what when
    while yet you
"""
# Letters, and the marks that belong to them, of the scripts in Unicode 6.
_L = (
    r"A-Za-zªµºÀ-ÖØ-öø-ͽΆΈ-\u0481\u0483-\u0487\u048a-\u0587\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4"
    r"\u05c5\u05c7-\u05f2\u0615-\u061a\u0620-\u0669\u066e-\u06d3\u06d5-\u06ff\u0710-\u0963"
    r"\u0966-\u1fff\u2c00-\u2dff\u3005\u3006\u3041-\u309a\u309d-\u309f\u30a1-\u30fa\u30fc-\u31ff"
    r"\u3400-\ud7ff\uf900-\ufdfb\ufe70-\ufefc"
)
# Punctuation of other scripts that forms tokens, such as the Arabic question mark.
_OTHER_MARKS = (
    r"\u037e\u0387\u05be\u05c0\u05c3\u05c6\u05f3\u05f4\u060c\u061b\u061f\u066a\u066d\u06d4\u0964\u0965"
    r"\u30fb\u3001\u3002"
)
_WORD = f"[{_L}0-9]+"
_APOSTROPHE = r"['\u2019]"
_DOTTED_WORD = rf"[{_L}][{_L}0-9]*(?:[.!?][{_L}][{_L}0-9]*)*"
# This matches in "don't" but not in "don'table".
_CLITIC = rf"(?i:s|m|d|ll|re|ve)(?![{_L}])"
_NOT = rf"[nN]{_APOSTROPHE}[tT](?![{_L}])"
# Text that is replaced first: entities, soft hyphens, the ’ of "dog’s" and "don’t".
_READ = re.compile(
    rf"&(?:amp|lt|gt|quot|apos|nbsp);|\xad|\u2019(?={_CLITIC})|(?<=[nN])\u2019(?=[tT](?![{_L}]))"
)
_READ_AS = {
    "&amp;": "&",
    "&lt;": "<",
    "&gt;": ">",
    "&quot;": '"',
    "&apos;": "'",
    "&nbsp;": " ",
    "\xad": "",
    "\u2019": "'",
}
_UP_TO_TWO_HYPHENS = "(?:-[A-Za-z]+){0,2}"
_URL = r"[^\s\"<>|()]*[^\s\"<>|().!?{},-]"
# A full stop stays with its word if another punctuation mark follows: "bat.,".
_STOP = r"(?:\.(?=[,;:]))?"


def _any(words: str) -> str:
    return "(?:" + "|".join(map(re.escape, words.split())) + ")"


# The first alternative that matches is taken, so a longer token stands before a shorter one that
# begins alike. Text that no alternative matches, such as emoji, is dropped, and so are the marks
# outside the group.
_TOKEN = re.compile(
    r"(?=\S)(?:''|-{2,4}(?!-)|\.{3,5}|("
    + "|".join(
        [
            # Most tokens: a word and a space. This is for speed; it must exclude the cases below.
            r"(?![cglwCGLW](?i:annot|onna|otta|anna|emme|imme))[A-Za-z]+(?=,?\s|$)",
            # Tags, addresses, @names, #tags, :-)
            r"<[/!?]?[A-Za-z][^<>]*>",
            rf"(?:https?://|(?:[A-Za-z0-9-]+\.)+(?:com|net|org|edu)/|www\.){_URL}",
            r"[A-Za-z0-9][\w.]*@[A-Za-z0-9.-]*[A-Za-z0-9]",
            r"@[A-Za-z_]\w*|#[A-Za-z]+",
            r"[<>]?[:;=][-o*']?[()DPdpO\\{@|[\]](?![A-Za-z])|[-^=~<>]_[-^=~<>]",
            # can|not, gon|na, 't|is, n't, 's, 'em, 'n', '90s, '05
            r"(?i:can(?=not)|(?:gon|wan)(?=na)|got(?=ta)|(?:lem|gim)(?=me))"
            r"(?=(?i:not|na|ta|me)(?!['\u2019\w]|[-/_.!?]\w))",
            rf"(?i:'t(?=(?:is|was)(?![{_L}])))|{_NOT}|{_APOSTROPHE}{_CLITIC}",
            rf"{_APOSTROPHE}(?:(?i:em|cause|till?)|[nN]{_APOSTROPHE}|[nN](?![{_L}.]))",
            rf"{_APOSTROPHE}(?:\d0s|\d\d(?=\s|$))",
            # d'Arnaud, O'Brien, o'clock, hawai'i; c'mon, y'|all
            rf"[A-HJ-XZdlno]{_APOSTROPHE}(?!{_CLITIC})[A-Za-z]{{2,}}(?:-{_WORD})*",
            rf"[A-Za-z]+[aeiouyAEIOUY]{_APOSTROPHE}(?!{_CLITIC})[aeiouA-Z][A-Za-z]*",
            rf"(?i:(?:ol|dunkin|somethin){_APOSTROPHE}|c{_APOSTROPHE}mon)",
            rf"[dljyDLJY]{_APOSTROPHE}(?=[A-Za-z])",
            # 123 456 7890, 1 1/2, and/or, 20-foot, u.s.-based, 1,000.5, -5
            r"(?:\(\d{2,3}\) ?|(?:\d{2,4}[- ])?\d{2,4}[- ])\d{3,4}[- ]?\d{3,5}(?![\dA-Za-z])",
            r"\d{1,4}[- ]\d{1,4}/\d{1,4}",
            rf"[A-Za-z0-9]+{_UP_TO_TWO_HYPHENS}(?:/[A-Za-z0-9]+{_UP_TO_TWO_HYPHENS}){{1,2}}",
            rf"[A-Za-z0-9][A-Za-z0-9.,]*(?:-(?:[A-Za-z](?:\.[A-Za-z])+\.|[A-Za-z0-9]+))+{_STOP}",
            rf"{_WORD}(?:[-_\u2010\u2011](?:[dDlLoO]{_APOSTROPHE}(?=\w))?{_WORD})+{_STOP}",
            r"[-+]?\d*(?:[.,:]\d+)+|[-+]\d+",
            # at&t only in capitals, us$
            r"[A-Z]+(?:&[A-Z]+)+|[A-Z]+\$",
            # An initial, but not at the end of a sentence; u.s., mr., no. 5
            rf"[A-Za-z](?=\.\s+(?=[A-Z])(?i:{_any(_SENTENCE_STARTS)})(?:\s|$))",
            r"(?:[A-Za-z]\.)+(?![A-Za-z])",
            rf"(?:(?i:{_any(_ABBREVIATIONS)})|{_any(_CAPITALISED_ABBREVIATIONS)})"
            r"\.(?![A-Za-z]|\.\.)",
            rf"(?i:{_any(_ABBREVIATIONS_BEFORE_NUMBERS)})\.(?=\s*\d)",
            rf"{_WORD}(?=[nN]{_APOSTROPHE}[tT])|{_DOTTED_WORD}{_STOP}|{_WORD}{_STOP}",
            r"-{5,}|[!?]{2,}|#+|\*+|_+|<<|>>",
            r"[#$%&()*+/<=>@\[\\\]^_{|}~¡-ª¬®-º¼-¿\xd7\xf7\u2016\u2017\u201a\u201e\u2020-\u2025]",
            rf"[{_OTHER_MARKS}\u2030-\u2038\u203b\u203e-\u2042\u2044\u2070-\u2092\u20a4\u20ac]",
            r"[\u2100-\u214f\u2153-\u215e\u2190-\u2bff\uff01-\uff65]",
        ]
    )
    + "))"
)


def ptb_tokenize(caption: str) -> list[str]:
    """The caption's lowercased tokens, without the punctuation that the evaluation drops.

    A mixed fraction is one token with a no-break space in it: "1\xa01/2". Each caption is tokenised
    by itself. The evaluation reads captions as lines of one file; there, a caption that ends in an
    initial ("by tree b.") loses its full stop if the next caption begins with "A" or "The".
    """
    caption = _READ.sub(lambda match: _READ_AS[match[0]], caption)
    return [token.lower().translate(_WRITTEN) for token in _TOKEN.findall(caption) if token]
