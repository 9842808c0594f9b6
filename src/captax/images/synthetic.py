"""Pictures that no caption fits: noise, blank pages and simple charts, drawn by a seed."""

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]


def synthetic_pictures(count: int, *, seed: int = 0) -> Iterator[Image.Image]:
    """`count` pictures: noise, a blank page and a chart by turns."""
    kinds: tuple[Callable[[np.random.Generator], Image.Image], ...] = (noise, blank, chart)
    for place in range(count):
        yield kinds[place % len(kinds)](np.random.default_rng((seed, place)))


def noise(rng: np.random.Generator) -> Image.Image:
    """Random pixels or larger grains, even or bell-shaped, in colour or grey."""
    width, height = _size(rng)
    grain, channels = int(rng.integers(1, 9)), int(rng.choice([1, 3]))
    shape = (-(-height // grain), -(-width // grain), channels)
    if rng.random() < 0.5:
        values = rng.uniform(0, 255, shape)
    else:
        values = rng.normal(rng.uniform(64, 192), rng.uniform(10, 80), shape)
    pixels = np.broadcast_to(np.clip(values, 0, 255).astype(np.uint8), (*shape[:2], 3))
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    return picture.resize((width, height), Image.Resampling.NEAREST)


def blank(rng: np.random.Generator) -> Image.Image:
    """A page of one colour, in every other case with the faint grain of a scan."""
    page = Image.new("RGB", _size(rng), _paper(rng))
    if rng.random() < 0.5:
        return page
    pixels = np.asarray(page) + rng.normal(0, rng.uniform(0.5, 3), (page.height, page.width, 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def chart(rng: np.random.Generator) -> Image.Image:
    """Bars, lines, points or a pie, with axes, ticks and labels."""
    page = Image.new("RGB", _size(rng), _paper(rng))
    draw = ImageDraw.Draw(page)
    left, top = 0.12 * page.width, 0.1 * page.height
    right, bottom = 0.95 * page.width, 0.88 * page.height
    many = int(rng.integers(3, 10))
    kind = rng.choice(["bars", "lines", "points", "pie"])
    draw.text((left, 2), "Total by year", fill=(0, 0, 0))
    if kind == "pie":
        side = min(right - left, bottom - top)
        ends = np.cumsum(rng.uniform(0.3, 1, many))
        ends = 360 * ends / ends[-1]
        for start, end in zip([0.0, *ends[:-1]], ends, strict=True):
            box = (left, top, left + side, top + side)
            draw.pieslice(box, float(start), float(end), fill=_ink(rng))
        return page
    draw.line([(left, top), (left, bottom), (right, bottom)], fill=(0, 0, 0), width=2)
    step = (right - left) / many
    for place in range(many):
        draw.text((left + step * place, bottom + 3), str(2000 + place), fill=(0, 0, 0))
        draw.text((2, bottom - (bottom - top) * place / many), str(10 * place), fill=(0, 0, 0))
    for _ in range(1 if kind == "bars" else int(rng.integers(1, 4))):
        colour = _ink(rng)
        heights = bottom - (bottom - top) * rng.uniform(0.05, 1, many)
        points = [(left + step * (place + 0.5), float(y)) for place, y in enumerate(heights)]
        if kind == "lines":
            draw.line(points, fill=colour, width=int(rng.integers(1, 5)))
        for x, y in points if kind == "bars" else ():
            draw.rectangle((x - 0.35 * step, y, x + 0.35 * step, bottom), fill=colour)
        for _ in range(20 if kind == "points" else 0):
            x, y = rng.uniform(left, right), rng.uniform(top, bottom)
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour)
    return page


def _size(rng: np.random.Generator) -> tuple[int, int]:
    width, height = rng.integers(200, 640, 2)
    return int(width), int(height)


def _paper(rng: np.random.Generator) -> Colour:
    """Mostly white or nearly so, else any colour."""
    red, green, blue = rng.integers(*((225, 256) if rng.random() < 0.75 else (0, 256)), 3)
    return int(red), int(green), int(blue)


def _ink(rng: np.random.Generator) -> Colour:
    red, green, blue = rng.integers(0, 220, 3)
    return int(red), int(green), int(blue)
