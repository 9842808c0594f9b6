"""Templates in documents: what they make is left alone, and what they only show too."""

import time

import pytest

from captax.alt.html import find_html
from captax.alt.markdown import find_markdown
from captax.alt.templates import MASK, mask_templates

IMAGE = '<img src="a.jpg">'


@pytest.mark.parametrize(
    "block",
    [
        "{% highlight markdown %}\nBODY\n{% endhighlight %}",
        "{%- raw -%}\nBODY {{ x }}\n{%- endraw -%}",
        "{% comment %}\nBODY {% if x %} BODY {% endif %}\n{% endcomment %}",
        "{% verbatim %}\nBODY\n{% endverbatim %}",
        "{{< highlight html >}}\nBODY\n{{< /highlight >}}",
    ],
)
@pytest.mark.parametrize("body", [IMAGE, "![](a.jpg)"])
def test_bodies_of_code_literals_and_comments_are_left_alone(block: str, body: str) -> None:
    text = f"{block.replace('BODY', body)}\n\n{body}\n"
    find = find_markdown if body.startswith("!") else find_html
    uses = [use for use in find(text) if use.skip is None]
    assert [use.src for use in uses] == ["a.jpg"]
    assert uses[0].start > text.index("end" if "end" in block else "/highlight")


@pytest.mark.parametrize("text", ["{% raw %} x", "{% endraw %} x", "{% raw %}{% endcomment %} x"])
def test_a_block_that_nothing_closes_hides_only_its_tags(text: str) -> None:
    assert mask_templates(f"{text} {IMAGE}").endswith(f" x {IMAGE}")


def test_an_address_that_is_an_expression_is_kept_as_one() -> None:
    for text in (
        '![]({{ "/img/a.jpg" | relative_url }})',
        '![](x/{{ page.image }}.png "T")',
        "[![]({{ a }})](b)",
    ):
        [use] = find_markdown(text)
        assert MASK in use.src and "%EE" not in use.src


def test_what_looks_like_a_tag_in_a_target_is_no_image() -> None:
    for text in ("| ![](<img/a b.jpg>) |", "![x](<img/a b.jpg>)", "[x](<img/a.jpg>)"):
        assert "unclear" not in [use.skip for use in find_markdown(text)]
    [use] = [use for use in find_markdown("| ![](<img/a b.jpg>) |") if use.skip is None]
    assert use.src == "img/a%20b.jpg"


def test_very_many_blocks_take_no_longer_than_others() -> None:
    started = time.perf_counter()
    mask_templates("{% raw %}" * 20_000 + "{% endcomment %}" * 20_000)
    assert time.perf_counter() - started < 5
