"""Explanations as pictures.

A `share` is a map over the grid that sums to 1; a `level` is the same in multiples of the even
share, which every cell would have if all had the same.
"""

from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

from captax.explain.maps import ATTENTION, ExplainError, Maps, Per

VIEWS = ("strip", "overlay", "heat", "weighted", "grid", "sequence")
COLOURS = "inferno"  # perceptually uniform, and read the same without colour
DPI = 110
GAMMA = 2.2  # the power of a pixel's value that is its light
_COLUMNS = 6
_INK, _QUIET = "#1c1d1f", "#5c6066"
_BOLD: Any = {"fontsize": 10.5, "weight": "bold"}
_NOTE: Any = {"fontsize": 7.5, "color": _QUIET}
_STYLE: Any = {"font.family": ["DejaVu Sans"], "text.color": _INK, "text.parse_math": False}
# Pixels of a patch where the picture is cut up, and between patches.
_PATCH, _GAP = 44, 5
_NUMBER = 14  # and above those of a sequence


def draw(
    explanation: Maps,
    view: str = "strip",
    *,
    word: int | None = None,
    method: str = ATTENTION,
    layer: int | None = None,
    head: int | None = None,
    per: Per = "word",
) -> Image.Image:
    """Draw one of `VIEWS`.

    `strip` shows the map of every word over the picture, all on the same scale. Three views show
    the map of one word (its place from 0) or the mean of all: `overlay` draws it over the picture,
    `heat` alone, and `weighted` as patches as bright as their shares. `grid` shows the picture cut
    into the model's patches, `sequence` the patches in the order in which the model reads them.
    With `per="token"` maps are of tokens, including the end. Raises `ExplainError` for a view or a
    word that does not exist.
    """
    if view not in VIEWS:
        raise ExplainError(f"there is no view {view!r}; choose {', '.join(VIEWS)}")
    labels = _labels(explanation, per)
    if view in ("grid", "sequence"):
        return _render(_patches(explanation, view == "sequence"))
    if not labels:
        raise ExplainError(
            "the caption has no words, so there is no map to draw; explain another caption"
        )
    shares = explanation.maps(method, layer=layer, head=head, per=per)
    title = _title(explanation, method, layer, head)
    if view == "strip":
        return _render(_strip(explanation, shares, labels, title))
    if word is not None and not 0 <= word < len(labels):
        raise ExplainError(
            f"the caption has no {per} at place {word}; choose 0 to {len(labels) - 1}"
        )
    share = shares.mean(0) if word is None else shares[word]
    name = explanation.caption.text if word is None else labels[word][0]
    drawing = {"overlay": _overlay, "heat": _heat, "weighted": _weighted}[view]
    return _render(drawing(explanation, share, name, title))


def weigh(explanation: Maps, method: str = ATTENTION, word: int | None = None) -> Image.Image:
    """The picture times a map whose highest place is 1."""
    if not explanation.words:
        raise ExplainError(
            "the caption has no words, so there is no map to weigh the picture by; "
            "explain another caption"
        )
    shares = explanation.maps(method)
    share = shares.mean(0) if word is None else shares[word]
    smooth = upsample(share / share.max(), explanation.image.size)
    dark = np.asarray(explanation.image) * smooth.clip(0, 1)[..., None]
    return Image.fromarray(dark.round().astype(np.uint8))


def upsample(
    share: Float[np.ndarray, "rows columns"], size: tuple[int, int]
) -> Float[np.ndarray, "height width"]:
    """The map at (width, height) pixels, smooth from the middle of each cell to the next.

    It does not overshoot: no pixel is higher, or lower, than the cells around it.
    """
    across, down = (
        _between(count, side) for count, side in zip(share.shape[::-1], size, strict=True)
    )
    return np.einsum("yr,xc,rc->yx", down, across, share, optimize=True)


def _between(count: int, side: int) -> Float[np.ndarray, "side count"]:
    """The shares that the two cells nearest to each pixel have in it."""
    place = np.clip((np.arange(side) + 0.5) * count / side - 0.5, 0, count - 1)
    left = np.minimum(place.astype(int), max(count - 2, 0))
    part = place - left
    part = part * part * (3 - 2 * part)
    weights = np.zeros((side, count))
    weights[np.arange(side), left] = 1 - part
    weights[np.arange(side), np.minimum(left + 1, count - 1)] += part
    return weights


def _strip(
    explanation: Maps, shares: np.ndarray, labels: list[tuple[str, str]], title: str
) -> Figure:
    levels = shares * shares[0].size
    norm = Normalize(0, max(float(levels.max()), 1.0))
    image = explanation.image
    panels = len(labels) + 1
    columns = min(_COLUMNS, panels)
    rows = -(-panels // columns)
    # In inches, from the top left. A layout engine would take as long as all the rest.
    width, gap, head, note, bar = 1.7 if columns > 3 else 2.4, 0.1, 0.42, 0.42, 0.75
    height = width * image.height / image.width
    wide = gap + columns * (width + gap) + bar
    tall = head + rows * (height + note) + gap
    figure = _figure((wide, tall), None)
    figure.text(gap / wide, 1 - 0.26 / tall, f"{title}: where each word came from", fontsize=11)

    def place(left: float, top: float, across: float, down: float) -> Axes:
        return figure.add_axes((left / wide, 1 - (top + down) / tall, across / wide, down / tall))

    small = image.copy()
    small.thumbnail((2 * round(width * DPI), max(1, 2 * round(height * DPI))))
    for panel in range(panels):
        left = gap + panel % columns * (width + gap)
        top = head + panel // columns * (height + note) + note - 0.04
        axes = place(left, top, width, height)
        axes.axis("off")
        if panel == 0:
            _show(axes, small)
            name, detail = "picture", "as the model saw it"
        else:
            _blend(axes, small, levels[panel - 1], norm)
            name, detail = labels[panel - 1]
        for text, above, look in ((name, 0.17, _BOLD), (detail, 0.05, _NOTE)):
            figure.text(left / wide, 1 - (top - above) / tall, _short(text, 22), **look)
    down = tall - head - note - gap
    axes = place(wide - bar + 0.1, head + note - 0.04, 0.12, min(down, 2 * height + note))
    _bar(figure, norm, axes)
    return figure


def _overlay(explanation: Maps, share: np.ndarray, name: str, title: str) -> Figure:
    figure, axes = _single(explanation, name, title)
    level = share * share.size
    norm = Normalize(0, max(float(level.max()), 1.0))
    _blend(axes, explanation.image, level, norm)
    _bar(figure, norm, axes.inset_axes((1.02, 0, 0.025, 1)))
    return figure


def _heat(explanation: Maps, share: np.ndarray, name: str, title: str) -> Figure:
    figure, axes = _single(explanation, name, title)
    level = share * share.size
    norm = Normalize(0, max(float(level.max()), 1.0))
    rows, columns = share.shape
    image = explanation.image
    extent = (0, image.width, image.height, 0)
    axes.imshow(level, cmap=COLOURS, norm=norm, extent=extent, interpolation="nearest")
    axes.set_xticks(
        (np.arange(columns) + 0.5) * image.width / columns, list(map(str, range(1, columns + 1)))
    )
    axes.set_yticks(
        (np.arange(rows) + 0.5) * image.height / rows, list(map(str, range(1, rows + 1)))
    )
    axes.tick_params(length=0, labelsize=7 if max(rows, columns) < 20 else 5, colors=_QUIET)
    axes.axis("on")
    for spine in axes.spines.values():
        spine.set_visible(False)
    _bar(figure, norm, axes.inset_axes((1.02, 0, 0.025, 1)))
    return figure


def _weighted(explanation: Maps, share: np.ndarray, name: str, title: str) -> Figure:
    figure, axes = _single(explanation, name, title)
    patches = cut(explanation.image, explanation.grid)
    bright = patches * ((share / share.max()) ** (1 / GAMMA))[..., None, None, None]
    axes.imshow(_tile(bright.round().astype(np.uint8), ground=0))
    axes.set_xlabel("light in proportion to the share of the map", color=_QUIET)
    return figure


def _patches(explanation: Maps, sequence: bool) -> Figure:
    rows, columns = explanation.grid
    patches = cut(explanation.image, explanation.grid)
    if not sequence:
        canvas = _tile(patches)
        figure = _figure(_inches(canvas), f"{rows} x {columns} patches")
        axes = figure.subplots()
        axes.axis("off")
        axes.imshow(canvas)
        return figure
    return _sequence(patches.reshape(-1, *patches.shape[2:]), min(rows * columns, 2 * columns))


def _sequence(patches: np.ndarray, across: int) -> Figure:
    """Numbered patches in lines, `across` to a line."""
    count, height, width, _ = patches.shape
    lines = -(-count // across)
    line = np.full((lines * across, height + _NUMBER, width, 3), 255, np.uint8)
    line[:count, _NUMBER:] = patches
    canvas = _tile(line.reshape(lines, across, *line.shape[1:]))
    figure = _figure(_inches(canvas), f"the sequence of {count} patches")
    axes = figure.subplots()
    axes.axis("off")
    axes.imshow(canvas)
    for place in range(count):
        top = place // across * (height + _NUMBER + _GAP) + _NUMBER - 3
        middle = place % across * (width + _GAP) + width / 2
        axes.text(middle, top, str(place + 1), fontsize=6, color=_QUIET, ha="center", va="bottom")
    return figure


def cut(
    image: Image.Image, grid: tuple[int, int]
) -> UInt8[np.ndarray, "rows columns height width 3"]:
    """The picture cut into patches, one for each cell of the model's grid."""
    rows, columns = grid
    shape = image.width / columns, image.height / rows
    scale = _PATCH / max(shape)
    width, height = (max(4, round(side * scale)) for side in shape)
    whole = image.resize((columns * width, rows * height), Image.Resampling.LANCZOS)
    pixels = np.asarray(whole.convert("RGB"))
    return pixels.reshape(rows, height, columns, width, 3).swapaxes(1, 2)


def _tile(patches: np.ndarray, ground: int = 255) -> UInt8[np.ndarray, "height width 3"]:
    """Patches side by side with gaps between."""
    rows, columns, height, width, _ = patches.shape
    canvas = np.full(
        (rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3), ground, np.uint8
    )
    for row in range(rows):
        for column in range(columns):
            top, left = row * (height + _GAP), column * (width + _GAP)
            canvas[top : top + height, left : left + width] = patches[row, column]
    return canvas


def _blend(axes: Axes, image: Image.Image, level: np.ndarray, norm: Normalize) -> None:
    """The picture in faint colour, under a map that is more transparent where it is lower."""
    grey = np.asarray(image.convert("L"), np.float32)[..., None]
    faint = 0.35 * np.asarray(image, np.float32) + 0.65 * grey
    height = norm(upsample(level, image.size)).filled(0).clip(0, 1)
    colour = matplotlib.colormaps[COLOURS](0.15 + 0.85 * height)[..., :3] * 255
    opacity = 0.8 * height[..., None] ** 0.7
    mixed = (1 - opacity) * faint * 0.9 + opacity * colour
    _show(axes, Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8)))


def _show(axes: Axes, image: Image.Image) -> None:
    axes.imshow(np.asarray(image), interpolation="antialiased")


def _bar(figure: Figure, norm: Normalize, place: Axes) -> None:
    """The scale of colours."""
    mappable = ScalarMappable(norm, COLOURS)
    bar = figure.colorbar(mappable, cax=place)
    bar.set_label("x the even share", color=_QUIET, fontsize=8)
    bar.ax.tick_params(labelsize=8, colors=_QUIET, length=2)
    bar.outline.set_visible(False)


def _single(explanation: Maps, name: str, title: str) -> tuple[Figure, Axes]:
    image = explanation.image
    longest = max(image.size)
    size = (5.5 * image.width / longest + 1.1, 5.5 * image.height / longest + 0.7)
    figure = _figure(size, f"{_short(name, 60)}  ({title.lower()})")
    axes = figure.subplots()
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure, axes


def _figure(size: tuple[float, float], title: str | None) -> Figure:
    """A figure with a title; one without a title is laid out by hand."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)
        if title is not None:
            figure.set_layout_engine("constrained")
            figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def _render(figure: Figure) -> Image.Image:
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    with matplotlib.rc_context(_STYLE):
        canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _inches(canvas: np.ndarray) -> tuple[float, float]:
    height, width = canvas.shape[:2]
    return width / DPI + 0.2, height / DPI + 0.5


def _labels(explanation: Maps, per: Per) -> list[tuple[str, str]]:
    """The name of each map, and the probability of its word."""
    return [
        (text.strip() or repr(text), f"probability {np.exp(p):.2f}")
        for text, p in explanation.named(per)
    ]


def _title(explanation: Maps, method: str, layer: int | None, head: int | None) -> str:
    layers, heads = explanation.cross_attentions.shape[:2]
    parts = [method.capitalize()]
    parts += [f"layer {layer % layers}"] if layer is not None else []
    parts += [f"head {head % heads}"] if head is not None else []
    return ", ".join(parts)


def _short(text: str, limit: int = 16) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
