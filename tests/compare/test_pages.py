"""The pages as people use them, in a real browser."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from captax.compare.comparison import Comparison
from captax.compare.votes import Booth, Choice, read_votes
from captax.compare.voting import make_server
from serve.conftest import address, until

playwright = pytest.importorskip("playwright.sync_api", reason="needs the browser extra")
expect = playwright.expect

pytestmark = pytest.mark.browser

WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """`open_page(url, **options)`; the page must not fail by itself, nor ask anybody else."""
    failures: list[str] = []
    contexts = []

    def open_page(url: str, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": WIDE, "reduced_motion": "reduce", **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.on("console", lambda said: failures.append(said.text) if said.type == "error" else 0)
        page.on("requestfailed", lambda request: failures.append(request.url))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not failures


def shown(page: Any) -> list[str]:
    cards = page.locator(".cards > li:not([hidden]) h3")
    return cards.all_text_contents()


def check(page: Any, axe: str) -> None:
    """No finding of axe, and nothing that is wider than the screen."""
    page.evaluate(axe)
    told = page.evaluate("axe.run()")["violations"]
    assert [(each["id"], [n["html"] for n in each["nodes"]]) for each in told] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_pictures_are_ordered_and_found(open_page: Any, compared: tuple[Path, Comparison]) -> None:
    page = open_page((compared[0] / "index.html").as_uri())
    names = [each.name for each in compared[1].pictures]
    assert shown(page) == names
    expect(page.locator("#shown")).to_have_text("4 of 4 pictures are shown.")
    loaded = "images => images.every((image) => image.complete && image.naturalWidth > 0)"
    until(lambda: page.locator(".picture img").evaluate_all(loaded))
    page.select_option("#order", "disagreement")
    far = sorted(compared[1].pictures, key=lambda each: -(each.disagreement or 0))
    assert shown(page) == [each.name for each in far]
    page.fill("#find", "bird")
    expect(page.locator("#shown")).to_have_text("3 of 4 pictures are shown.")
    page.fill("#find", "BLACK DOG")
    assert shown(page) == ["2.png"]
    page.fill("#find", "")
    page.check("#differs")
    assert sorted(shown(page)) == names
    page.check("#failed")
    assert shown(page) == []
    assert page.locator(".said mark").all_text_contents()[0]
    bold = "mark => getComputedStyle(mark).textDecorationLine"
    assert page.locator(".said mark").first.evaluate(bold) == "underline"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_the_page_is_for_everybody(
    open_page: Any, compared: tuple[Path, Comparison], axe: str, scheme: str, size: dict[str, int]
) -> None:
    page = open_page(
        (compared[0] / "index.html").as_uri(), color_scheme=scheme, viewport=size, bypass_csp=True
    )
    check(page, axe)


@pytest.fixture
def voting(compared: tuple[Path, Comparison]) -> Iterator[Callable[[], tuple[Any, str]]]:
    """`voting()`: a booth whose server listens, and its address; the one before it ends."""
    running: list[tuple[Any, threading.Thread, Booth]] = []

    def end() -> None:
        while running:
            server, thread, booth = running.pop()
            server.should_exit = True
            thread.join(30)
            booth.close()

    def start() -> tuple[Any, str]:
        end()
        booth = Booth(*compared, "me")
        server = make_server(booth, compared[0], port=0)
        thread = threading.Thread(target=server.run)
        thread.start()
        running.append((server, thread, booth))
        until(lambda: server.started)
        host, port = address(server)
        return booth, f"http://{host}:{port}/"

    yield start
    end()


def test_a_person_votes_by_keyboard(
    open_page: Any, voting: Callable[[], tuple[Any, str]], compared: tuple[Path, Comparison]
) -> None:
    booth, url = voting()
    page = open_page(url)
    count = page.locator("#count")
    expect(count).to_have_text("0 of 11 answered")
    expect(page.locator("#undo")).to_be_disabled()
    asked = []
    for done, key in enumerate(("1", "2", "0"), start=1):
        number = booth.next()
        asked.append(booth.ballot(number))
        said = compared[1].pictures[asked[-1].picture].said
        left = said[asked[-1].left].caption
        expect(page.locator("#left")).to_have_text(left or "(an empty caption)")
        page.keyboard.press(key)
        expect(count).to_have_text(f"{done} of 11 answered")
    page.keyboard.press("u")
    expect(count).to_have_text("2 of 11 answered")
    votes = read_votes(compared[0] / "votes.jsonl")
    chosen = [vote.choice for vote in votes if vote.choice is not Choice.same]
    assert chosen == [Choice.left, Choice.right]
    page.keyboard.press("x")
    page.keyboard.press("Control+1")
    page.get_by_role("button", name="Equally good").click()
    expect(count).to_have_text("3 of 11 answered")
    page.close()

    _, url = voting()  # the program was started again
    page = open_page(url)
    count = page.locator("#count")
    expect(count).to_have_text("3 of 11 answered")
    for done in range(4, 12):
        page.keyboard.press("2")
        expect(count).to_have_text(f"{done} of 11 answered")
    expect(page.locator("#end")).to_be_visible()
    expect(page.locator("#same")).to_contain_text("1 pair of equal captions was passed over")
    expect(page.locator("#question")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_the_questions_are_for_everybody(
    open_page: Any,
    voting: Callable[[], tuple[Any, str]],
    axe: str,
    scheme: str,
    size: dict[str, int],
) -> None:
    page = open_page(voting()[1], color_scheme=scheme, viewport=size, bypass_csp=True)
    expect(page.locator("#question")).to_be_visible()
    check(page, axe)


def test_another_page_cannot_vote(
    browser: Any, voting: Callable[[], tuple[Any, str]], compared: tuple[Path, Comparison]
) -> None:
    """As a browser sends it: a form, a script, a picture, and a frame of another site."""
    booth, url = voting()
    context = browser.new_context()
    page = context.new_page()
    page.route("http://evil.example/**", lambda route: route.fulfill(
        body="<title>evil</title>", content_type="text/html"))  # fmt: skip
    page.goto("http://evil.example/")
    number = booth.next()
    sent = page.evaluate(
        """async ([url, question]) => {
            const body = JSON.stringify({question, choice: "left"});
            const tries = [
              {mode: "no-cors", body}, {body},
              {body, headers: {"content-type": "application/json"}},
            ].map((how) => fetch(url + "votes", {method: "POST", ...how}).then(
              (answer) => answer.type, (error) => "refused"));
            return Promise.all(tries);
        }""",
        [url, number],
    )
    assert sent[1:] == ["refused", "refused"]
    assert booth.done == 0 and read_votes(compared[0] / "votes.jsonl") == []
    context.close()
