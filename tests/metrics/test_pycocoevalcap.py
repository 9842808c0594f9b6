# ruff: noqa: RUF001
"""Held to the reference program itself, its Java tokeniser included, number for number."""

import contextlib
import io
import itertools
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

import flickr8k_captions
from captax.metrics import ptb_tokenize, score

pytestmark = [pytest.mark.parity, pytest.mark.data]
pytest.importorskip("pycocoevalcap.bleu.bleu", reason="needs pycocoevalcap")
if shutil.which("java") is None:
    pytest.skip("needs Java", allow_module_level=True)

SCRIPTS = [
    "Ein Mädchen läuft über die Straße",
    "Un niño salta ; ¿verdad ? ¡Sí !",
    "собака бежит по траве.",
    "一只狗在草地上奔跑。 一只 狗",
    "犬が・走る。",
    "هل هذا كلب؟ نعم، كلب",
    "כלב רץ על הדשא",
    "कुत्ता घास पर दौड़ता है। हाँ",
    "a dog 😀 runs “fast” – it’s 5€ … ½ naïve café, 🐕‍🦺 👍🏽",
    "Œuvre Łódź İstanbul ﬁsh «le chien» ‹x› „x“ ´ ^ Ⅳ ẞ",
    "100℃ 5° ±3 ×2 a•b ★ ♥ ✓ ₹5 ‽",
    "cafe\u0301 a\xa0b\u3000c\u200bd\ufeffe \u202af\u202c g\th",
]

Captions = dict[str, list[str]]


def tokenize(captions: Captions) -> Captions:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    records = {image: [{"caption": text} for text in texts] for image, texts in captions.items()}
    return PTBTokenizer().tokenize(records)


@pytest.fixture(scope="module")
def captions(shared_data: Path) -> Captions:
    """Those of 300 pictures; the first of each may be its hypothesis."""
    return dict(itertools.islice(flickr8k_captions.read_dev(shared_data).items(), 300))


@pytest.fixture(scope="module")
def hypotheses(captions: Captions) -> dict[str, dict[str, str]]:
    """Kind -> picture -> hypothesis."""
    draw = random.Random(0)
    return {
        **flickr8k_captions.hypotheses(captions),
        "other scripts": {i: f"{draw.choice(SCRIPTS)} {t[1]}" for i, t in captions.items()},
        "of another picture": {i: draw.choice([*captions.values()])[0] for i in captions},
        "one word": {i: draw.choice(t[0].split()) for i, t in captions.items()},
    }


@pytest.fixture(scope="module")
def references(captions: Captions) -> tuple[Captions, Captions]:
    """As they are, and as the reference tokenises them."""
    raw = {image: texts[1:] for image, texts in captions.items()}
    return raw, tokenize(raw)


@pytest.mark.parametrize(
    "kind",
    [
        "held out",
        "shuffled",
        "empty",
        "unicode",
        "long",
        "mixed",
        "other scripts",
        "of another picture",
        "one word",
    ],
)
def test_equals_the_reference(
    kind: str,
    hypotheses: dict[str, dict[str, str]],
    references: tuple[Captions, Captions],
) -> None:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    raw, theirs = references
    ours = tokenize({image: [text] for image, text in hypotheses[kind].items()})
    tokens = {image: [" ".join(ptb_tokenize(text))] for image, text in hypotheses[kind].items()}
    assert tokens == ours
    found = score(hypotheses[kind], raw)
    expected: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        values, images = Bleu(4).compute_score(theirs, ours)
    for order in range(4):
        expected[f"BLEU-{order + 1}"] = values[order], images[order]
    expected["ROUGE-L"] = Rouge().compute_score(theirs, ours)
    expected["CIDEr-D"] = Cider().compute_score(theirs, ours)
    for name, (corpus, images) in expected.items():
        assert found.corpus[name] == pytest.approx(corpus, rel=1e-9, abs=1e-12), name
        assert [image[name] for image in found.per_image.values()] == pytest.approx(
            [*images], rel=1e-9, abs=1e-12
        )


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x0b", "\x0c", "\r"])
def test_the_reference_gives_all_captions_after_a_separator_to_the_wrong_image(mark: str) -> None:
    captions = {"x": [f"a red{mark}dog"], "y": ["a cat"], "z": ["a bus"]}
    assert tokenize(captions) == {"x": ["a red"], "y": ["dog"], "z": ["a cat"]}
    assert ptb_tokenize(captions["x"][0]) == ["a", "red", "dog"]


def test_the_reference_reads_captions_as_lines_of_one_text() -> None:
    # An initial keeps its full stop, unless the next caption looks like a new sentence.
    alone, followed = {"x": ["by tree B."]}, {"x": ["by tree B."], "y": ["A dog"]}
    assert tokenize(alone)["x"] == ["by tree b."]
    assert tokenize(followed)["x"] == ["by tree b"]
    assert ptb_tokenize("by tree B.") == ["by", "tree", "b."]
