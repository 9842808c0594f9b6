"""What is written, as axe judges it in a browser."""

from typing import Any

import pytest

from alt.documents import fill
from captax.alt.html import find_html
from captax.alt.wording import alt_text

pytestmark = pytest.mark.browser

PAGE = """<!doctype html><html lang="en"><title>T</title><main><h1>Us</h1>
<img src="a.png"> <a href="x"><img src="b.png"></a> <img src="c.png" alt="">
<figure><img src=d.png/><figcaption>A dog</figcaption></figure></main></html>"""
RULES = {"image-alt", "link-name", "image-redundant-alt"}


def test_axe_has_nothing_to_say_of_images_any_more(browser: Any, axe: str) -> None:
    filled = fill(PAGE, find_html(PAGE), alt_text('a photo of a "dog" & a <cat>'))
    found = []
    for page in (PAGE, filled):
        tab = browser.new_page()
        tab.set_content(page)
        tab.evaluate(axe)
        told = tab.evaluate("axe.run()")["violations"]
        found.append(RULES & {each["id"] for each in told})
        tab.close()
    assert found == [{"image-alt", "link-name"}, set()]
