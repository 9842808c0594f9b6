"""The page as people use it, in a real browser."""

import base64
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from captax.generation import Calibration
from captax.pipelines.captioner import Caption, Captioner
from captax.serve.work import Worker
from serve.conftest import address, listening, png

playwright = pytest.importorskip("playwright.sync_api", reason="needs the browser extra")
expect = playwright.expect

pytestmark = pytest.mark.browser

WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def server(tiny_captioner: Captioner) -> Iterator[Any]:
    with listening(tiny_captioner) as server:
        yield server


def url_of(server: Any) -> str:
    host, port = address(server)
    return f"http://{host}:{port}/"


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """`open_page(server, **options)`: the page, once it is ready; it must not fail by itself."""
    failures: list[str] = []
    contexts = []

    def open_page(server: Any, ready: bool = True, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": WIDE, "reduced_motion": "reduce", **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.goto(url_of(server))
        if ready:
            expect(page.locator("#status[data-kind=ready]")).to_be_visible()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not failures


def as_files(*contents: bytes, name: str = "{}.png") -> list[dict[str, Any]]:
    return [
        {"name": name.format(i), "mimeType": "image/png", "buffer": each}
        for i, each in enumerate(contents)
    ]


def done(page: Any, count: int) -> None:
    # New options are compiled first, with little priority.
    expect(page.locator(".card[data-state=done]")).to_have_count(count, timeout=60_000)


@pytest.fixture(scope="module")
def speaking(tiny_captioner: Captioner) -> list[tuple[bytes, Caption]]:
    """Pictures of which the captioner has something to say, and what, as the page asks for it."""
    pictures = [png(i, (96, 64)) for i in range(20)]
    options = {"num_return_sequences": 3, "num_beams": 3, "max_new_tokens": 8}
    found = tiny_captioner.caption(pictures, batch_size=4, **options)  # type: ignore[arg-type]
    pairs = list(zip(pictures, found, strict=True))
    return [(picture, each) for picture, each in pairs if len(each.text.split()) > 2][:3]


def test_captions_arrive_with_alternatives(
    open_page: Any, server: Any, speaking: list[tuple[bytes, Caption]]
) -> None:
    page = open_page(server)
    expect(page.get_by_text("See what is in a picture")).to_be_visible()
    page.set_input_files("#pick", as_files(*(picture for picture, _ in speaking)))
    done(page, 3)
    for i, (_, caption) in enumerate(speaking):
        card = page.locator(".card").nth(i)
        expect(card.locator(".name")).to_have_text(f"{i}.png")
        expect(card.locator(".caption")).to_have_text(caption.text)
        texts = [other.text or "(empty caption)" for other in caption.alternatives]
        assert card.locator(".other > span:first-child").all_text_contents() == texts
    expect(page.locator("#count-text")).to_have_text("3 of 3 captioned")
    expect(page.locator("#live")).not_to_be_empty()


def test_a_caption_says_when_the_model_is_not_sure(
    open_page: Any, tiny_captioner: Captioner, speaking: list[tuple[bytes, Caption]]
) -> None:
    # The chance is 0.27, whatever the signals, and the threshold above it.
    tiny, calibration = tiny_captioner, Calibration({"length": 0.0}, -1.0, 0.5)
    unsure = Captioner(tiny.model, tiny.processor, tiny.tokenizer, tiny.generation, calibration)
    with listening(unsure) as server:
        page = open_page(server)
        page.set_input_files("#pick", as_files(speaking[0][0]))
        done(page, 1)
        told = page.locator(".unsure")
        expect(told).to_have_text("Not sure: 27% likely to be right")
        expect(page.locator("#live")).to_contain_text("not sure")
        with page.expect_download() as saved:
            page.get_by_role("button", name="JSONL").click()
        record = json.loads(Path(saved.value.path()).read_text())
        assert record["confidence"] == pytest.approx(0.2689, abs=1e-3)
        # It is the confidence in the best caption, and not in another.
        page.locator(".other").nth(1).click()
        expect(told).to_be_hidden()
        page.locator(".other").nth(0).click()
        expect(told).to_be_visible()


def shown_map(card: Any) -> tuple[int, ...]:
    """How red the map is, and so how bright, at points of the picture."""
    return tuple(
        card.locator("canvas").evaluate(
            """canvas => Array.from({length: 16}, (_, i) => canvas.getContext("2d").getImageData(
                 (i % 4 + 0.5) * canvas.width / 4, (Math.floor(i / 4) + 0.5) * canvas.height / 4,
                 1, 1).data[0])"""
        )
    )


def test_a_word_shows_its_map_by_pointer(
    open_page: Any, server: Any, speaking: list[tuple[bytes, Caption]]
) -> None:
    page = open_page(server)
    page.set_input_files("#pick", as_files(speaking[0][0]))
    done(page, 1)
    card = page.locator(".card")
    words = card.locator("button.word")
    canvas = card.locator("canvas")
    expect(canvas).not_to_have_class(re.compile("on"))
    maps = []
    for i in (0, 1):
        words.nth(i).hover()
        expect(canvas).to_have_class(re.compile("on"))
        text = words.nth(i).text_content()
        expect(card.locator(".note")).to_contain_text(f"{text}: ")
        expect(card.locator(".note")).to_contain_text("% likely; the model looked at the ")
        maps.append(shown_map(card))
    assert all(len(set(each)) > 1 for each in maps)
    assert maps[0] != maps[1]
    page.mouse.move(2, 2)
    expect(canvas).not_to_have_class(re.compile("on"))
    # A click keeps it, another lets go.
    words.nth(1).click()
    page.mouse.move(2, 2)
    expect(words.nth(1)).to_have_attribute("aria-pressed", "true")
    expect(canvas).to_have_class(re.compile("on"))
    words.nth(1).click()
    page.mouse.move(2, 2)
    expect(canvas).not_to_have_class(re.compile("on"))


def test_a_tap_shows_the_map_on_a_phone(
    open_page: Any, server: Any, speaking: list[tuple[bytes, Caption]]
) -> None:
    page = open_page(server, viewport=NARROW, has_touch=True, is_mobile=True)
    page.set_input_files("#pick", as_files(speaking[0][0]))
    done(page, 1)
    page.locator("button.word").nth(1).tap()
    expect(page.locator("canvas")).to_have_class(re.compile("on"))
    page.locator("button.word").nth(1).tap()
    expect(page.locator("canvas")).not_to_have_class(re.compile("on"))


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_sticks_out(
    open_page: Any, server: Any, speaking: list[tuple[bytes, Caption]], width: int
) -> None:
    page = open_page(server, viewport={"width": width, "height": 700})
    page.locator("#options summary").click()
    page.set_input_files("#pick", as_files(speaking[0][0], b"", name="a-name-without-end-" * 9))
    done(page, 1)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_by_keyboard_alone(
    open_page: Any, server: Any, speaking: list[tuple[bytes, Caption]]
) -> None:
    page = open_page(server)
    picture, caption = speaking[0]

    def tab_to(selector: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.locator(":focus").count() and page.evaluate(
                "selector => document.activeElement.matches(selector)", selector
            ):
                return
        raise AssertionError(f"no way to {selector}")

    tab_to("#pick")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files(as_files(picture))
    done(page, 1)
    tab_to("button.word")
    note, canvas = page.locator(".note"), page.locator("canvas")
    words = caption.text.split()
    expect(canvas).to_have_class(re.compile("on"))
    expect(note).to_contain_text(f"{words[0]}: ")
    page.keyboard.press("ArrowRight")
    expect(note).to_contain_text(f"{words[1]}: ")
    page.keyboard.press("End")
    expect(note).to_contain_text(f"{words[-1]}: ")
    page.keyboard.press("Escape")
    expect(canvas).not_to_have_class(re.compile("on"))
    tab_to(".other[aria-pressed=false]")
    page.keyboard.press("Enter")
    expect(page.locator(".other").nth(1)).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".other").nth(1)).to_be_focused()
    expect(page.locator(".caption")).to_have_text(caption.alternatives[1].text)
    for _ in range(40):  # and back up, to take it away
        page.keyboard.press("Shift+Tab")
        if page.evaluate("document.activeElement.matches('.remove')"):
            break
    page.keyboard.press("Enter")
    expect(page.locator(".card")).to_have_count(0)
    expect(page.locator("#pick")).to_be_focused()


def test_a_broken_file_says_so_and_the_others_go_on(
    open_page: Any, server: Any, speaking: list[tuple[bytes, Caption]]
) -> None:
    page = open_page(server)
    large = png(0, (300, 300))
    page.set_input_files("#pick", as_files(b"no picture", speaking[0][0], large))
    done(page, 1)
    broken, _, heavy = (page.locator(".card").nth(i) for i in range(3))
    expect(broken.locator(".state")).to_contain_text("Not a picture that can be read")
    expect(broken.locator(".retry")).to_be_hidden()
    expect(heavy.locator(".state")).to_contain_text(
        "The file is too large: it has 0.3 MB, and this server accepts at most 0.2"
    )
    expect(page.locator("#count-text")).to_have_text("1 of 3 captioned, 2 failed")


def test_pictures_wait_while_the_server_is_away(
    open_page: Any, tiny_captioner: Captioner, speaking: list[tuple[bytes, Caption]]
) -> None:
    with listening(tiny_captioner) as first:
        _, port = address(first)
        page = open_page(first)
    page.set_input_files("#pick", as_files(speaking[0][0]))
    banner = page.locator("#banner")
    expect(banner).to_contain_text("cannot be reached")
    expect(page.locator(".card .state")).to_have_text("Waiting for the server")
    with listening(tiny_captioner, port):
        page.get_by_role("button", name="Try now").click()
        done(page, 1)
        expect(banner).to_be_hidden()
        expect(page.locator(".caption")).to_have_text(speaking[0][1].text)


def test_a_busy_server_is_asked_again_when_it_says(
    open_page: Any, server: Any, speaking: list[tuple[bytes, Caption]]
) -> None:
    page = open_page(server)
    asked = []

    def busy(route: Any) -> None:
        asked.append(route)
        if len(asked) > 1:
            route.fallback()
            return
        error = {"type": "queue_full", "message": "too many pictures are waiting: try later"}
        body = json.dumps({"error": {**error, "request_id": "x"}})
        route.fulfill(status=429, headers={"Retry-After": "2"}, body=body)

    page.route("**/v1/caption", busy)
    page.set_input_files("#pick", as_files(speaking[0][0]))
    expect(page.locator("#banner")).to_contain_text("The page goes on in 2 s")
    done(page, 1)
    assert len(asked) == 2
    expect(page.locator("#banner")).to_be_hidden()


def test_the_options_are_what_is_asked(
    open_page: Any,
    server: Any,
    speaking: list[tuple[bytes, Caption]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, seeds = [], []
    run = Worker.__call__

    def watched(self: Worker, work: Any, inputs: Any) -> Any:
        found = run(self, work, inputs)  # raises where a program is to be compiled first
        asked.append(work)
        seeds.extend(each.seed for each in inputs)
        return found

    monkeypatch.setattr(Worker, "__call__", watched)
    page = open_page(server)
    page.locator("#options summary").click()
    page.get_by_text("Sample", exact=True).click()
    expect(page.get_by_label("Beams")).to_be_hidden()
    page.get_by_label("Temperature").fill("1.5")
    page.get_by_label("Seed").fill("7")
    page.get_by_label("Captions per picture").fill("2")
    page.set_input_files("#pick", as_files(speaking[0][0]))
    done(page, 1)
    assert dict(asked[0].options) == {
        "num_return_sequences": 2,
        "max_new_tokens": 8,
        "do_sample": True,
        "temperature": 1.5,
        "top_p": 0.9,
        "top_k": 50,
    }
    assert seeds == [7]
    page.get_by_label("Captions per picture").fill("99")
    page.get_by_role("button", name="Caption again").click()
    expect(page.locator("#count")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#complaint")).to_contain_text("Captions per picture: ")
    assert len(asked) == 1


def test_captions_are_taken_away(
    open_page: Any, server: Any, speaking: list[tuple[bytes, Caption]]
) -> None:
    page = open_page(server, permissions=["clipboard-read", "clipboard-write"])
    page.set_input_files("#pick", as_files(*(picture for picture, _ in speaking)))
    done(page, 3)
    lines = "".join(f"{i}.png\t{each.text}\n" for i, (_, each) in enumerate(speaking))
    page.get_by_role("button", name="Copy all").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == lines
    with page.expect_download() as saved:
        page.get_by_role("button", name="Text").click()
    assert Path(saved.value.path()).read_text() == lines
    with page.expect_download() as saved:
        page.get_by_role("button", name="JSONL").click()
    assert saved.value.suggested_filename == "captions.jsonl"
    records = [json.loads(line) for line in Path(saved.value.path()).read_text().splitlines()]
    assert [each["caption"] for each in records] == [each.text for _, each in speaking]
    assert records[0]["score"] == pytest.approx(speaking[0][1].score, abs=1e-4)
    assert len(records[0]["alternatives"]) == 3
    page.get_by_role("button", name="Copy the caption of 1.png").click()
    assert page.evaluate("navigator.clipboard.readText()") == speaking[1][1].text


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_pictures_are_pasted_and_dropped(
    open_page: Any, server: Any, speaking: list[tuple[bytes, Caption]], kind: str
) -> None:
    page = open_page(server)
    page.evaluate(
        """([kind, data]) => {
          const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
          const carried = new DataTransfer();
          carried.items.add(new File([bytes], "carried.png", {type: "image/png"}));
          const event = kind === "paste"
            ? new ClipboardEvent("paste", {clipboardData: carried, bubbles: true})
            : new DragEvent("drop", {dataTransfer: carried, bubbles: true});
          document.body.dispatchEvent(event);
        }""",
        [kind, base64.b64encode(speaking[0][0]).decode()],
    )
    done(page, 1)
    expect(page.locator(".name")).to_have_text("carried.png")
    expect(page.locator(".caption")).to_have_text(speaking[0][1].text)


def test_the_key_is_asked_for_once(
    open_page: Any, tiny_captioner: Captioner, speaking: list[tuple[bytes, Caption]]
) -> None:
    with listening(tiny_captioner, api_key="s3cret") as guarded:
        page = open_page(guarded, ready=False)
        dialog = page.get_by_role("dialog")
        page.get_by_label("API key").fill("wrong")
        page.get_by_role("button", name="Continue").click()
        expect(dialog).to_contain_text("This is not the key of this server.")
        page.get_by_label("API key").fill("s3cret")
        page.keyboard.press("Enter")
        expect(dialog).to_be_hidden()
        page.set_input_files("#pick", as_files(speaking[0][0]))
        done(page, 1)
        page.reload()
        expect(page.locator("#status[data-kind=ready]")).to_be_visible()
        expect(dialog).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_a_checker_of_accessibility_finds_nothing(
    open_page: Any,
    server: Any,
    tiny_captioner: Captioner,
    speaking: list[tuple[bytes, Caption]],
    scheme: str,
    viewport: dict[str, int],
    axe: str,
) -> None:
    def check(page: Any) -> None:
        page.evaluate(axe)
        found = page.evaluate("axe.run()")
        told = [
            f"{each['impact']} {each['id']}: {node['html']} {node['failureSummary']}"
            for each in found["violations"]
            for node in each["nodes"]
        ]
        assert not told
        assert len(found["passes"]) > 10

    page = open_page(server, viewport=viewport, color_scheme=scheme, bypass_csp=True)
    check(page)
    page.locator("#options summary").click()
    page.set_input_files("#pick", as_files(speaking[0][0], b"no picture", speaking[1][0]))
    done(page, 2)
    page.locator("button.word").nth(1).click()
    expect(page.locator("canvas").first).to_have_class(re.compile("on"))
    check(page)
    with listening(tiny_captioner, api_key="s3cret") as guarded:
        page = open_page(
            guarded, ready=False, viewport=viewport, color_scheme=scheme, bypass_csp=True
        )
        expect(page.get_by_role("dialog")).to_be_visible()
        check(page)


@pytest.mark.skipif("CAPTAX_SCREENSHOTS" not in os.environ, reason="only to make docs/images")
def test_screenshots(open_page: Any, examples: Path, tmp_path: Path) -> None:
    """`make screenshots`: the page as the built-in captioner fills it, wide and on a phone."""
    from PIL import Image

    import captax

    pictures = [examples / f"{name}.jpg" for name in ("cameraman", "coffee", "stairs")]
    with listening(captax.load(), name="captax-lite", max_batch=8) as server:
        shots = []
        for viewport, scheme in ((WIDE, "light"), (NARROW, "dark")):
            page = open_page(server, viewport=viewport, color_scheme=scheme)
            page.set_default_timeout(120_000)
            if viewport is WIDE:
                page.locator("#options summary").click()
            page.set_input_files("#pick", pictures)
            expect(page.locator(".card[data-state=done]")).to_have_count(3, timeout=120_000)
            page.locator(".card").first.locator("button.word", has_text="man").click()
            expect(page.locator("canvas").first).to_have_class(re.compile("on"))
            if viewport is NARROW:
                page.locator("#toolbar").scroll_into_view_if_needed()
                page.evaluate("scrollTo(0, document.querySelector('.card').offsetTop - 76)")
            shot = tmp_path / f"{scheme}.png"
            page.screenshot(path=shot)
            shots.append(Image.open(shot).convert("RGB"))
    gap = 40
    width = sum(shot.width for shot in shots) + gap * 3
    sheet = Image.new("RGB", (width, max(shot.height for shot in shots) + 2 * gap), "#cfcac0")
    left = gap
    for shot in shots:
        sheet.paste(shot, (left, (sheet.height - shot.height) // 2))
        left += shot.width + gap
    folder = Path(os.environ["CAPTAX_SCREENSHOTS"])
    sheet.quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(
        folder / "serve.png", optimize=True
    )
