"""Explanations of captioners of every family, and of one that knows where things are."""

import io
from collections.abc import Callable
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import captax
from captax.explain import METHODS, ExplainError, Explanation
from captax.explain.views import VIEWS, upsample
from captax.generation import GenerationError
from captax.generation.result import Alternative
from captax.images import ImageProcessor
from captax.models.observing import observe
from captax.pipelines.captioner import Caption, Captioner

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
FAMILIES = ("vit-gpt2-projected", "clip-gpt2", "git", "blip")


@pytest.fixture(scope="module")
def explanation(namer: Captioner, placed: list[Any]) -> Explanation:
    return namer.explain(placed[0].pixels, methods="all", faithfulness=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_explained(checkpoint: Callable[..., Path], name: str) -> None:
    captioner = captax.load(checkpoint(name))
    assert isinstance(captioner, Captioner)
    found = captioner.explain(PICTURE, "a red square", methods=("attention", "rollout"))
    rows, columns = found.grid
    assert len(found.words) == 3 and len(found.tokens) == len(found.steps) == 4
    time, places = len(found.tokens), found.lead + rows * columns
    assert found.cross_attentions.shape[2:] == (time, places)
    for method in found.methods:
        for per, count in (("word", 3), ("token", 4)):
            maps = found.maps(method, per=per)
            assert maps.shape == (count, rows, columns) and (maps >= 0).all()
            np.testing.assert_allclose(maps.sum((1, 2)), 1, atol=1e-5)
    # All that a token's prediction looked at: of one softmax in GIT, else of two.
    looked, read = found.cross_attentions.sum(-1), found.self_attentions.sum(-1)
    np.testing.assert_allclose(looked + read if name == "git" else looked, 1, atol=1e-5)
    np.testing.assert_allclose(
        found.picture_share, looked - found.cross_attentions[..., : found.lead].sum(-1), atol=1e-6
    )
    assert found.rollout is not None
    np.testing.assert_allclose(found.rollout.sum(-1), 1, atol=1e-5)
    [score] = captioner.score(PICTURE, "a red square", length_penalty=1.0)
    assert found.logprobs.mean() == pytest.approx(score, abs=1e-4)


def test_attention_is_what_the_model_computes(namer: Captioner, placed: list[Any]) -> None:
    """That of a token is the row of the token before it, from which it was predicted."""
    found = namer.explain(placed[0].pixels, "a red square")
    tokens = jnp.asarray(namer.tokenizer.encode(["a red square"]))
    pixels = jnp.asarray(namer.processor([placed[0].pixels]))
    _, seen = jax.jit(lambda *given: observe(namer.model, *given))(pixels, tokens)
    for name, ours in (
        ("decoder.cross_attentions", found.cross_attentions),
        ("encoder.attentions", found.encoder_attentions),
    ):
        [theirs] = seen[name]
        assert ours is not None
        np.testing.assert_allclose(ours[0], theirs[0][:, : ours.shape[2]], atol=1e-5)
    [theirs] = seen["decoder.attentions"]
    np.testing.assert_allclose(found.self_attentions[0], theirs[0][:, :4, :4], atol=1e-5)


def test_layers_and_heads_can_be_chosen(checkpoint: Callable[..., Path]) -> None:
    found = captax.load(checkpoint("vit-gpt2")).explain(PICTURE, "a red square")
    layers, heads = found.cross_attentions.shape[:2]
    assert layers > 1 and heads > 1
    on_grid = found.cross_attentions[..., found.lead :]
    for layer, head, picked in (
        (0, None, on_grid[0].mean(0)),
        (None, 1, on_grid[:, 1].mean(0)),
        (-1, 0, on_grid[-1, 0]),
        (None, None, on_grid.mean((0, 1))),
    ):
        want = (picked / picked.sum(-1, keepdims=True)).reshape(-1, *found.grid)
        got = found.maps(layer=layer, head=head, per="token")
        np.testing.assert_allclose(got, want, atol=1e-6)
    # A map that follows attention into the encoder starts from all tokens, CLS too.
    with pytest.raises(ExplainError, match=f"the decoder has no layer 9; choose 0 to {layers - 1}"):
        found.maps(layer=9)
    with pytest.raises(ExplainError, match=f"the decoder has no head -9; choose 0 to {heads - 1}"):
        found.maps(head=-9)


def test_a_caption_is_made_and_its_tokens_explained(tiny_captioner: Captioner) -> None:
    [caption] = tiny_captioner.caption(PICTURE)
    found = tiny_captioner.explain(PICTURE)
    assert found.caption == caption
    np.testing.assert_allclose(found.logprobs, caption.logprobs, atol=1e-4)
    assert " ".join(word.text for word in found.words) == caption.text
    again = tiny_captioner.explain(PICTURE, caption)
    np.testing.assert_allclose(again.logprobs, found.logprobs, atol=1e-5)
    for logprob, step, token in zip(found.logprobs, found.steps, found.tokens, strict=True):
        chances = [p for _, p in step]
        assert chances == sorted(chances, reverse=True) and len(step) == 5
        assert dict(step).get(token, np.exp(logprob)) == pytest.approx(np.exp(logprob), abs=1e-5)
    prompted = tiny_captioner.explain(PICTURE, prompt="a red", max_new_tokens=3)
    assert prompted.prompt == "a red" and len(prompted.tokens) <= 3
    assert prompted.caption.text.startswith("a red")


def test_what_is_never_said_is_no_alternative(tiny_captioner: Captioner) -> None:
    options = {"caption": "a red square", "alternatives": 100}
    found, whole = (
        tiny_captioner.explain(PICTURE, suppress_tokens=unsaid, **options) for unsaid in ([3], [])
    )
    assert len(found.steps[0]) == len(whole.steps[0]) - 1
    for some, every in zip(found.steps, whole.steps, strict=True):
        assert dict(some) == pytest.approx({t: p for t, p in every if t != "<unk>"})


def test_a_text_that_is_given_has_the_score_that_scoring_says(tiny_captioner: Captioner) -> None:
    found = tiny_captioner.explain(PICTURE, "three green stripes")
    assert found.caption.text == "three green stripes"
    [score] = tiny_captioner.score(PICTURE, "three green stripes")
    assert found.caption.score == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("method", ["attention", "integrated", "occlusion"])
def test_maps_lie_on_the_thing_that_a_word_names(
    namer: Captioner, placed: list[Any], method: str
) -> None:
    """One of sixteen cells has the colour; an even map would have 6% on it."""
    shares = []
    for each in placed:
        found = namer.explain(each.pixels, methods=method)
        assert each.colour in found.caption.text
        shares.append(found.maps(method)[found.find(each.colour)][each.row, each.column])
    assert np.mean(shares) > 0.6 and min(shares) > 0.3


def test_gradients_lie_on_it_while_the_model_is_in_doubt(
    namer: Captioner, placed: list[Any]
) -> None:
    """Where it is certain they are next to nothing, and a wrong word's tell more."""
    shares = []
    for each in placed:
        other = "red" if each.colour != "red" else "blue"
        found = namer.explain(each.pixels, f"a {other} square", methods="gradient")
        against = -found.weights("gradient")[1]
        shares.append(against.clip(0)[each.row, each.column] / against.clip(0).sum())
    assert np.mean(shares) > 3 / 16


def test_faithfulness_tells_right_maps_from_wrong(
    namer: Captioner, placed: list[Any], explanation: Explanation
) -> None:
    found = explanation.faithfulness
    spread = found["random"].spread
    assert found["random"].score == pytest.approx(0, abs=1e-6)
    assert set(found) == {*METHODS, "random"}
    scores = {method: [] for method in ("attention", "occlusion", "integrated")}
    for each in placed[:4]:
        measured = namer.explain(each.pixels, methods=tuple(scores), faithfulness=True)
        for method, values in scores.items():
            values.append(measured.faithfulness[method].score)
    for values in scores.values():
        assert np.mean(values) > spread > 0 and min(values) > 0


def test_fed_back_the_picture_is_dark_but_for_the_map(namer: Captioner, placed: list[Any]) -> None:
    each = placed[1]
    found = namer.explain(each.pixels, methods="occlusion")
    word = found.find(each.colour)
    dark = np.asarray(found.attended("occlusion", word=word)).astype(int)
    cells = dark.sum(-1).reshape(4, 8, 4, 8).sum((1, 3))
    assert cells.argmax() == 4 * each.row + each.column and np.median(cells) < cells.max() / 20
    again = namer.caption_again(found, method="occlusion", word=word)
    assert again == namer.caption(Image.fromarray(dark.astype(np.uint8)))[0]


def test_fed_back_a_cut_picture_is_not_cut_again(tiny_captioner: Captioner) -> None:
    cutting = ImageProcessor(size=(64, 64), resize="shortest_edge", resize_to=80)
    captioner = Captioner(
        tiny_captioner.model, cutting, tiny_captioner.tokenizer, tiny_captioner.generation
    )
    found = captioner.explain(PICTURE, "a red square")
    want = tiny_captioner.caption(found.attended())[0]
    assert captioner.caption_again(found) == want


def test_arrays_come_back_as_they_were(explanation: Explanation, tmp_path: Path) -> None:
    explanation.save(tmp_path / "all.npz")
    found = Explanation.load(tmp_path / "all.npz")
    for name in ("words", "tokens", "steps", "grid", "lead", "methods", "prompt"):
        assert getattr(found, name) == getattr(explanation, name)
    assert found.caption.text == explanation.caption.text
    assert found.caption.tokens == explanation.caption.tokens
    np.testing.assert_array_equal(np.asarray(found.image), np.asarray(explanation.image))
    for method in METHODS:
        np.testing.assert_array_equal(found.maps(method), explanation.maps(method))
        assert found.faithfulness[method].score == explanation.faithfulness[method].score
    with np.load(tmp_path / "all.npz") as arrays:  # for who has no captax
        np.testing.assert_array_equal(arrays["maps/occlusion"], explanation.maps("occlusion"))
    (tmp_path / "other.npz").write_bytes(b"PK")
    with pytest.raises(
        ExplainError, match=r"other\.npz: this is not a saved explanation .*give a \.npz"
    ):
        Explanation.load(tmp_path / "other.npz")


class Page(HTMLParser):
    """Elements with their attributes, and text by element."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(2)> %%DATA%% & \"'"


def nasty(explanation: Explanation) -> Explanation:
    """The same, said by somebody with ill will."""
    import dataclasses

    words = tuple(dataclasses.replace(word, text=NASTY) for word in explanation.words)
    caption = Caption(NASTY, -1.0, (1,), (Alternative(NASTY, -1.0), Alternative(NASTY, -2.0)))
    return dataclasses.replace(
        explanation,
        caption=caption,
        words=words,
        prompt=NASTY,
        tokens=(NASTY,) * len(explanation.tokens),
        steps=(((NASTY, 0.5),),) * len(explanation.tokens),
    )


def test_the_page_is_whole_and_escaped(explanation: Explanation, tmp_path: Path) -> None:
    plain = Path(tmp_path / "plain.html")
    explanation.save(plain)
    explanation = nasty(explanation)
    explanation.save(tmp_path / "nasty.html")
    page, other = (Page(path.read_text()) for path in (tmp_path / "nasty.html", plain))
    # Nothing that was said made an element.
    kinds = [tag for tag, _ in page.elements if tag != "li"]
    assert kinds == [tag for tag, _ in other.elements if tag != "li"]
    assert page.texts.count(NASTY) >= len(explanation.words)
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe") and not {"srcset", "onerror"} & set(attributes)
        if "src" in attributes:
            assert str(attributes["src"]).startswith("data:image/jpeg;base64,")
    [policy] = [a["content"] for t, a in page.elements if a.get("http-equiv")]
    assert policy is not None and "default-src 'none'" in policy and "sha256-" in policy
    assert "unsafe-inline'; script" in policy and "script-src 'unsafe" not in policy
    buttons = [a for t, a in page.elements if t == "button"]
    assert len(buttons) == len(explanation.words)
    methods = [a["value"] for t, a in page.elements if t == "option"]
    assert methods[: len(METHODS)] == list(METHODS)


def test_notebooks_show_escaped_text_and_a_picture(explanation: Explanation) -> None:
    shown = nasty(explanation)._repr_html_()
    assert "<script" not in shown and escape(NASTY) in shown
    assert "data:image/png;base64," in shown
    caption = nasty(explanation).caption._repr_html_()
    assert "<script" not in caption and caption.count(escape(NASTY)) == 2


@pytest.mark.parametrize("view", VIEWS)
def test_views_are_pictures(explanation: Explanation, view: str, tmp_path: Path) -> None:
    explanation.save(tmp_path / "view.png", view, word=None if view == "strip" else 1)
    with Image.open(tmp_path / "view.png") as image:
        assert image.format == "PNG" and min(image.size) > 100
        assert len(image.getcolors(1 << 24) or ()) > 100


def test_the_heat_of_a_map_is_over_its_place(namer: Captioner, placed: list[Any]) -> None:
    """The brightest place of the overlay's map is in the cell that has the highest share."""
    found = namer.explain(placed[1].pixels, methods="occlusion")
    share = found.maps("occlusion")[1]
    smooth = upsample(share, (80, 40))
    y, x = np.unravel_index(smooth.argmax(), smooth.shape)
    assert (int(y) // 10, int(x) // 20) == (placed[1].row, placed[1].column)
    assert smooth.shape == (40, 80) and (smooth >= 0).all()


def test_the_picture_is_the_part_that_the_model_sees() -> None:
    """Cut as the processor cuts, but neither shrunk nor stretched."""
    image = Image.fromarray(np.kron(PICTURE, np.ones((5, 5, 1), np.uint8)))  # 280 x 200
    stretched = ImageProcessor(size=(32, 32))
    assert stretched.view(image).size == (280, 200)
    cropped = ImageProcessor(size=(32, 32), resize="shortest_edge", resize_to=40)
    view = cropped.view(image)
    assert view.size == (160, 160)
    again = np.asarray(view.resize((32, 32), Image.Resampling.BICUBIC), float)
    seen = cropped.prepare(image).pixels.astype(float)
    assert np.abs(again - seen)[4:-4, 4:-4].mean() < 3
    padded = ImageProcessor(size=(48, 48), resize="shortest_edge", resize_to=32)
    assert not np.asarray(padded.view(image))[0].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": "magic"}, "there is no method 'magic'; choose attention, rollout, .* or all"),
        (
            {"methods": "rollout"},
            "rollout needs an encoder with attention, .* choose attention, grad",
        ),
        ({"hide": "black"}, "hide cannot be 'black'; choose mean or blur"),
        ({"caption": "a " * 20}, "has 21 tokens and the decoder reads 16"),
        ({"num_beam": 2}, "unknown option 'num_beam'"),
    ],
)
def test_what_cannot_be_explained_is_said_in_a_line(
    tiny_captioner: Captioner, options: dict[str, Any], message: str
) -> None:
    with pytest.raises((ExplainError, GenerationError), match=message) as error:
        tiny_captioner.explain(PICTURE, **options)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_of_all_methods_those_are_left_out_that_there_are_not(tiny_captioner: Captioner) -> None:
    found = tiny_captioner.explain(PICTURE, "a red square", methods="all", hide="blur")
    assert found.methods == ("attention", "gradient", "integrated", "occlusion")
    assert found.encoder_attentions is None and found.rollout is None
    with pytest.raises(
        ExplainError, match="occlusion has no layers or heads; give neither, or choose"
    ):
        found.maps("occlusion", layer=0)
    with pytest.raises(ExplainError, match="method 'rollout' was not computed; choose attention, "):
        found.maps("rollout")
    with pytest.raises(
        ExplainError, match=r"x\.jpg: the suffix does not say what to write; use \."
    ):
        found.save("x.jpg")
    with pytest.raises(ExplainError, match="there is no view 'map'; choose strip"):
        found.draw("map")


def test_words_are_found_by_number_and_by_text(explanation: Explanation) -> None:
    assert [explanation.find(word) for word in (1, "2", "square", "Square!")] == [0, 1, 2, 2]
    for word in ("0", "4", "zebra"):
        with pytest.raises(ExplainError, match=f"word '{word}' is not in the caption; .* 3 square"):
            explanation.find(word)
    assert explanation.find("4", per="token") == 3
    for word in ("0", "5", "square"):
        with pytest.raises(ExplainError, match=f"there is no token '{word}'; give a number from 1"):
            explanation.find(word, per="token")


def test_a_caption_of_no_words_has_no_maps(tiny_captioner: Captioner, tmp_path: Path) -> None:
    found = tiny_captioner.explain(PICTURE, "", faithfulness=True)
    assert found.words == () and found.maps().shape == (0, *found.grid)
    assert found.maps(per="token").shape == (1, *found.grid)
    assert found.faithfulness == {} and "<p>" in found._repr_html_()
    found.save(tmp_path / "page.html")
    found.save(tmp_path / "all.npz")
    for draw in (found.draw, found.attended):
        with pytest.raises(ExplainError, match="the caption has no words"):
            draw()


def test_pictures_of_any_kind_are_explained_alike(tiny_captioner: Captioner) -> None:
    file = io.BytesIO()
    Image.fromarray(PICTURE).save(file, "PNG")
    first, second = (
        tiny_captioner.explain(each, "a red square") for each in (PICTURE, file.getvalue())
    )
    np.testing.assert_array_equal(first.maps(), second.maps())


@pytest.mark.parametrize("size", [(3000, 6), (6, 3000), (40_000, 1), (1, 1)])
def test_a_very_wide_or_tall_picture_can_be_drawn(
    namer: Captioner, size: tuple[int, int], tmp_path: Path
) -> None:
    found = namer.explain(Image.new("RGB", size, "red"), "a red square")
    assert max(found.image.size) <= 8 * min(found.image.size)
    for view in VIEWS:
        assert max(found.draw(view).size) < 12_000
    found.save(tmp_path / "page.html")
