"""What is written, as axe judges it in a browser."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from alt.documents import fill
from captax.alt.html import find_html
from captax.alt.wording import alt_text

playwright = pytest.importorskip("playwright.sync_api", reason="needs the browser extra")

pytestmark = pytest.mark.browser

PAGE = """<!doctype html><html lang="en"><title>T</title><main><h1>Us</h1>
<img src="a.png"> <a href="x"><img src="b.png"></a> <img src="c.png" alt="">
<figure><img src=d.png/><figcaption>A dog</figcaption></figure>
<input type="text" aria-label="x"></main></html>"""


def violations(browser: Any, page: str, axe: str) -> set[str]:
    tab = browser.new_page()
    tab.set_content(page)
    tab.evaluate(axe)
    found = tab.evaluate("axe.run()")
    tab.close()
    return {each["id"] for each in found["violations"]}


def test_axe_has_nothing_to_say_of_images_any_more() -> None:
    path = os.environ.get("CAPTAX_CHROMIUM") or shutil.which("chromium")
    axe = Path(sys.prefix) / "node_modules/axe-core/axe.min.js"
    if not path or not axe.exists():
        pytest.skip("needs chromium and axe-core: make browser")
    filled = fill(PAGE, find_html(PAGE), alt_text('a photo of a "dog" & a <cat>'))
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=path, args=["--no-sandbox"])
        script = axe.read_text(encoding="utf-8")
        before, after = (violations(browser, page, script) for page in (PAGE, filled))
        browser.close()
    assert {"image-alt", "link-name"} <= before
    assert not {"image-alt", "link-name", "image-redundant-alt"} & after
