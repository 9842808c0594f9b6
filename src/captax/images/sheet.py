"""A contact sheet: pictures and their captions as one web page that needs no other file."""

import dataclasses
import os
import re
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from captax.errors import plural
from captax.files import Kind, replacing, text_file
from captax.images.decode import ImageError, ImageSource, IsVideo, decode
from captax.images.video import read_video
from captax.images.web_page import data_url, filled

_LONGEST_SIDE = 480
JPEG: dict[str, Any] = {"quality": 80, "optimize": True}
SHEET = Kind(
    "page",
    re.compile(rb'.{,200}<meta name="generator" content="captax: sheet">', re.DOTALL),
    (".html", ".htm"),
)


@dataclasses.dataclass(frozen=True)
class SheetRow:
    """One card.

    Attributes:
        image: the picture, or a video, of which a frame is shown; `None` for a card without one.
        title: the name of the picture, in small print.
        caption: the text that describes the picture.
        score: how good the caption is, if that is known.
        alternatives: other captions, each with its score if that is known.
        error: what went wrong, such as the reason why a caption is missing.
        score_name: the word for the scores.
        others: the heading of the alternatives.
        unfolded: whether the alternatives are shown without a click.
        note: another remark, in bold.
        regions: parts of the picture to draw, each with its label and its outlines; the corners of
            an outline are x, y, x, y and so on, as fractions of the picture.
    """

    image: ImageSource | None
    title: str
    caption: str
    score: float | None
    alternatives: tuple[tuple[str, float | None], ...] = ()
    error: str | None = None
    score_name: str = "score"
    others: str = "Alternatives"
    unfolded: bool = False
    note: str | None = None
    regions: tuple[tuple[str, tuple[tuple[float, ...], ...]], ...] = ()


def write_sheet(
    path: str | os.PathLike[str],
    rows: Iterable[SheetRow],
    *,
    title: str,
    inside: Path | None = None,
    own: bool = False,
) -> None:
    """Write `rows` to `path` as one HTML page that has the pictures in it as small JPEGs.

    `rows` are read one at a time. A picture that cannot be read becomes a card that says so.
    The file appears when it is complete. `inside` and `own` are those of
    `captax.files.replacing`. Raises `OutputError` if it cannot be written.
    """
    pictures = failed = 0
    # File names may have bytes that are not UTF-8; the page shows them as "?".
    with (
        replacing(Path(path), inside=inside, own=own) as new,
        text_file(new, errors="replace") as file,
    ):
        file.write(filled(_HEAD, {"TITLE": escape(title)}))
        for row in rows:
            card, good = _card(row)
            pictures, failed = pictures + 1, failed + (not good)
            file.write(card)
        file.write(filled(_FOOT, {"COUNT": _count(pictures, failed)}))


def _card(row: SheetRow) -> tuple[str, bool]:
    """The card of `row`, and whether it is free of errors."""
    error, picture = row.error, ""
    if row.image is not None:
        try:
            picture = _picture(row)
        except ImageError as unreadable:
            error = error or str(unreadable)
    parts = [picture or '<div class="missing" aria-hidden="true">no picture</div>', "<figcaption>"]
    if row.caption:
        parts.append(f'<p class="caption" dir="auto">{escape(row.caption)}</p>')
    if error:
        parts.append(f'<p class="error"><strong>Error</strong> {escape(error)}</p>')
    if row.note:
        parts.append(f"<p><strong>{escape(row.note)}</strong></p>")
    if row.alternatives:
        items = "".join(
            f'<li><span dir="auto">{escape(caption)}</span> {_score(row, score)}</li>'
            for caption, score in row.alternatives
        )
        opened = " open" if row.unfolded else ""
        summary = f"<summary>{escape(row.others)}</summary>"
        parts.append(f"<details{opened}>{summary}<ol>{items}</ol></details>")
    score = _score(row, row.score)
    parts.append(f'<p class="source"><span>{escape(row.title)}</span>{score}</p></figcaption>')
    failed = ' class="failed"' if error else ""
    return f"<li{failed}><figure>{''.join(parts)}</figure></li>\n", not error


def thumbnail(source: ImageSource) -> Image.Image:
    """A picture, or a frame of a video, as pages show it. Raises `ImageError`."""
    size = (_LONGEST_SIDE, _LONGEST_SIDE)
    try:
        image = decode(source, at_least=size)
    except IsVideo:
        video: Any = source
        image = read_video(video, 1, at_least=size).frames[0]
    image.thumbnail(size)
    return image


def _picture(row: SheetRow) -> str:
    assert row.image is not None
    image = thumbnail(row.image)
    url = data_url(image, "JPEG", **JPEG)
    shown = (
        f'<img src="{url}" alt="{escape(row.caption or row.title)}" '
        f'width="{image.width}" height="{image.height}" loading="lazy" decoding="async">'
    )
    return shown if not row.regions else _outlined(shown, row, image.size)


def _outlined(shown: str, row: SheetRow, size: tuple[int, int]) -> str:
    """The picture with its regions drawn over it, in the same place and at the same size."""
    width, height = size
    drawn = []
    for i, (label, outlines) in enumerate(row.regions):
        colour = f"hsl({i * 137 % 360} 85% 55%)"  # of neighbours far apart
        for points in outlines:
            corners = [(x * width, y * height) for x, y in zip(*[iter(points)] * 2, strict=True)]
            told = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
            drawn.append(f'<polygon points="{told}" stroke="{colour}"/>')
        if label and outlines and outlines[0]:
            x, y = outlines[0][0] * width + 4, outlines[0][1] * height + 15
            drawn.append(f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}">{escape(label)}</text>')
    return (
        f'<div class="shown">{shown}<svg viewBox="0 0 {width} {height}" aria-hidden="true">'
        f"{''.join(drawn)}</svg></div>"
    )


def _score(row: SheetRow, score: float | None) -> str:
    if score is None:
        return ""
    return f'<span class="score">{escape(row.score_name)} {score:.2f}</span>'


def _count(pictures: int, failed: int) -> str:
    count = plural(pictures, "picture")
    return f"{count}, {failed:,} with an error" if failed else count


_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="captax: sheet">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>%%TITLE%%</title>
<style>
%%THEME%%
main, footer { max-width: 90rem; margin-inline: auto; }
h1 { font-size: clamp(1.4rem, 3vw, 2rem); line-height: 1.2; margin-bottom: 1.5rem;
  overflow-wrap: anywhere; }
.cards { list-style: none; padding: 0; display: grid; gap: 1.25rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); }
.cards > li { background: var(--card); border: 1px solid var(--line); border-radius: .75rem;
  overflow: hidden; }
.cards > li.failed { border-color: var(--error); }
figure { display: flex; flex-direction: column; height: 100%; }
img, .missing { display: block; width: 100%; height: auto; aspect-ratio: 4 / 3;
  object-fit: contain; background: var(--mat); }
.missing { display: grid; place-items: center; color: var(--quiet); font-size: .875rem; }
.shown { position: relative; }
.shown svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.shown polygon { fill: none; stroke-width: 2.5; }
.shown text { font-size: 14px; font-weight: 600; paint-order: stroke; stroke: #000;
  stroke-width: 3px; }
figcaption { display: flex; flex-direction: column; gap: .6rem; flex: 1;
  padding: .9rem 1rem 1rem; overflow-wrap: anywhere; }
.caption { font-size: 1.0625rem; line-height: 1.4; }
.error { color: var(--error); font-size: .9rem; }
details, .source { font-size: .8125rem; color: var(--quiet); }
summary { cursor: pointer; width: fit-content; }
ol { padding-left: 1.5rem; margin-top: .4rem; color: var(--ink); }
.source { margin-top: auto; display: flex; justify-content: space-between; gap: 1rem; }
.score { color: var(--quiet); font-variant-numeric: tabular-nums; white-space: nowrap; }
footer { margin-top: 1.5rem; font-size: .8125rem; color: var(--quiet); }
@media print { body { padding: 0; } .cards > li { break-inside: avoid; } }
</style>
</head>
<body>
<main>
<h1>%%TITLE%%</h1>
<ul class="cards" role="list">
"""

_FOOT = """</ul>
</main>
<footer>%%COUNT%%</footer>
</body>
</html>
"""
