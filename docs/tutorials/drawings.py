"""Made-up pictures and texts for the tutorials, in the layouts of the real datasets.

They take seconds to draw and little training, so every page runs anywhere. There are pairs of
coloured shapes in Flickr8k's layout, dishes in Food-101's layout, a folder of monsters as an
example of your own pictures, and pairs of long and short sentences.
"""

import json
import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZE = 96  # pixels a side
COLOURS = {
    "red": "#d8352a",
    "green": "#3fa34d",
    "blue": "#2f5fd0",
    "yellow": "#f2c81b",
}
SHAPES = ("circle", "cross", "triangle")
THINGS = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
DISHES = ("doughnut", "fried egg", "ice cream", "pizza", "sushi", "watermelon")
MONSTERS = {"green": "#5fae57", "purple": "#8a5bb5", "orange": "#ee8c3a", "blue": "#4a7fd4"}

Draw = Callable[..., None]


def _ground(rng: np.random.Generator) -> Image.Image:
    """A sheet of paper, slightly different each time."""
    grain = rng.normal(0, 6, (SIZE, SIZE, 1)) + rng.uniform(215, 250, 3)
    return Image.fromarray(grain.clip(0, 255).astype(np.uint8))


def _box(x: float, y: float, radius: float) -> list[float]:
    return [x - radius, y - radius, x + radius, y + radius]


def _polygon(x: float, y: float, radius: float, corners: int) -> list[tuple[float, float]]:
    angles = [2 * math.pi * i / corners - math.pi / 2 for i in range(corners)]
    return [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]


def _draw_shape(pen: ImageDraw.ImageDraw, thing: str, x: float, y: float, radius: float) -> None:
    colour, shape = thing.split()
    if shape == "circle":
        pen.ellipse(_box(x, y, radius), COLOURS[colour])
    elif shape == "cross":
        thin = 0.3 * radius
        pen.rectangle([x - radius, y - thin, x + radius, y + thin], COLOURS[colour])
        pen.rectangle([x - thin, y - radius, x + thin, y + radius], COLOURS[colour])
    else:
        pen.polygon(_polygon(x, y, 1.15 * radius, 3), COLOURS[colour])


# Pairs of shapes with five captions each, as in Flickr8k.


def draw_pair(left: str, right: str, rng: np.random.Generator) -> Image.Image:
    """Two things of `THINGS` side by side."""
    image = _ground(rng)
    pen = ImageDraw.Draw(image)
    for thing, middle in ((left, SIZE // 4), (right, 3 * SIZE // 4)):
        x, y = middle + rng.integers(-3, 4), rng.integers(30, SIZE - 30)
        _draw_shape(pen, thing, x, y, rng.integers(16, 21))
    return image


def captions_of_pair(left: str, right: str) -> list[str]:
    """Five captions, as five people might write them."""
    return [
        f"A {left} is left of a {right} .",
        f"A {right} is right of a {left} .",
        f"A {left} and a {right} .",
        f"There is a {left} beside a {right} .",
        f"On the left a {left} , on the right a {right} .",
    ]


def write_flickr8k(root: Path, *, train: int = 480, dev: int = 40, seed: int = 0) -> Path:
    """Write pairs of shapes to `root/flickr8k` in Flickr8k's layout; no dev pair is in train."""
    rng = np.random.default_rng(seed)
    pairs = [(left, right) for left in THINGS for right in THINGS]
    pairs = [pairs[i] for i in rng.permutation(len(pairs))]
    held_out, learned = pairs[: len(pairs) // 6], pairs[len(pairs) // 6 :]
    folder = root / "flickr8k"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "text").mkdir(exist_ok=True)
    lines = []
    for split, count, chosen in (("train", train, learned), ("dev", dev, held_out)):
        names = []
        for number in range(count):
            left, right = chosen[number % len(chosen)]
            name = f"{split}-{number:03}.jpg"
            draw_pair(left, right, rng).save(folder / "images" / name, quality=92)
            captions = captions_of_pair(left, right)
            lines += [f"{name}#{i}\t{caption}\n" for i, caption in enumerate(captions)]
            names.append(f"{name}\n")
        (folder / "text" / f"Flickr_8k.{split}Images.txt").write_text("".join(names))
    (folder / "text" / "Flickr8k.token.txt").write_text("".join(lines))
    return folder


# Dishes for classification.


def draw_dish(name: str, rng: np.random.Generator) -> Image.Image:
    """A dish from `DISHES` on a table of a random colour."""
    image = _ground(rng)
    pen = ImageDraw.Draw(image)
    table = tuple(int(v) for v in rng.uniform(90, 200, 3))
    pen.rectangle([0, 0, SIZE, SIZE], table)
    x, y = rng.integers(42, SIZE - 42, 2)
    r = rng.uniform(24, 34)
    pen.ellipse(_box(x, y, r + 7), "#f4f4f0")

    def spots(count: int, size: float, *colours: str, inner: float = 0.0) -> None:
        for i in range(count):
            angle, far = rng.uniform(0, 2 * math.pi), r * rng.uniform(inner, 0.75)
            where = (x + far * math.cos(angle), y + far * math.sin(angle))
            pen.ellipse(_box(*where, size), colours[i % len(colours)])

    if name == "doughnut":
        pen.ellipse(_box(x, y, r), "#c98d4e")
        pen.ellipse(_box(x, y, 0.86 * r), "#f08bb4")
        spots(14, 1.5, "#ffffff", "#6fc3ff", "#ffe066", inner=0.5)
        pen.ellipse(_box(x, y, 0.34 * r), "#f4f4f0")
    elif name == "fried egg":
        edge = [(a, r * rng.uniform(0.8, 1.0)) for a in np.linspace(0, 2 * math.pi, 12)[:-1]]
        pen.ellipse(_box(x, y, r + 7), "#4a4a52")
        pen.polygon([(x + d * math.cos(a), y + d * math.sin(a)) for a, d in edge], "#fffdf5")
        pen.ellipse(_box(x + 2, y, 0.4 * r), "#f6a81c")
    elif name == "ice cream":
        pen.polygon([(x - 0.6 * r, y), (x + 0.6 * r, y), (x, y + r)], "#d9a25f")
        for dx, dy, colour in (
            (-0.4, -0.2, "#f7c6d9"),
            (0.4, -0.2, "#8b5a3c"),
            (0, -0.6, "#fff1c9"),
        ):
            pen.ellipse(_box(x + dx * r, y + dy * r, 0.42 * r), colour)
    elif name == "pizza":
        pen.ellipse(_box(x, y, r), "#cf8a3b")
        pen.ellipse(_box(x, y, 0.86 * r), "#f4cf62")
        spots(7, 4.0, "#b8322a")
        spots(6, 2.0, "#3c7a3a")
    elif name == "sushi":
        for dx in (-0.55, 0.55):
            pen.ellipse(_box(x + dx * r, y, 0.48 * r), "#1d2a22")
            pen.ellipse(_box(x + dx * r, y, 0.38 * r), "#fbfaf4")
            pen.ellipse(_box(x + dx * r, y, 0.17 * r), "#f5825c")
    else:
        pen.pieslice(_box(x, y - 0.4 * r, 1.1 * r), 0, 180, "#2f7d3b")
        pen.pieslice(_box(x, y - 0.4 * r, 0.95 * r), 0, 180, "#e8454a")
        for i in range(5):
            pen.ellipse(_box(x + (i - 2) * 0.32 * r, y - 0.1 * r + i % 2 * 6, 1.8), "#222222")
    return image


def draw_thing(name: str, rng: np.random.Generator) -> Image.Image:
    """One of `THINGS`, large, on a background of a random colour."""
    image = Image.new("RGB", (SIZE, SIZE), tuple(int(v) for v in rng.uniform(90, 200, 3)))
    x, y = rng.integers(36, SIZE - 36, 2)
    _draw_shape(ImageDraw.Draw(image), name, x, y, rng.uniform(20, 32))
    return image


def write_food101(
    root: Path,
    names: Sequence[str] = DISHES,
    draw: Draw = draw_dish,
    *,
    train: int = 40,
    test: int = 10,
    seed: int = 0,
) -> Path:
    """Write `train` and `test` pictures of each name to `root/food-101` in Food-101's layout."""
    rng = np.random.default_rng(seed)
    folder = root / "food-101"
    (folder / "meta").mkdir(parents=True, exist_ok=True)
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for name in names:
        label = name.replace(" ", "_")
        (folder / "images" / label).mkdir(parents=True, exist_ok=True)
        for number in range(train + test):
            id = f"{label}/{number:04}"
            draw(name, rng).save(folder / "images" / f"{id}.jpg", quality=92)
            lists["train" if number < train else "test"].append(id)
    for split, ids in lists.items():
        (folder / "meta" / f"{split}.txt").write_text("\n".join(ids) + "\n")
    return folder


# Your own pictures: monsters with one caption each.


def draw_monster(
    colour: str, eyes: int, horns: bool, happy: bool, rng: np.random.Generator
) -> Image.Image:
    """A portrait of a monster."""
    image = _ground(rng)
    pen = ImageDraw.Draw(image)
    x, y = SIZE / 2 + rng.integers(-8, 9), SIZE / 2 + rng.integers(2, 9)
    r = rng.uniform(25, 31)
    if horns:
        for side in (-1, 1):
            at = [(side * 0.85, -0.5), (side * 0.35, -0.85), (side * 0.85, -1.35)]
            pen.polygon([(x + dx * r, y + dy * r) for dx, dy in at], "#5a4632")
    pen.ellipse(_box(x, y, r), MONSTERS[colour])
    for i in range(eyes):
        middle = x + (i - (eyes - 1) / 2) * 0.62 * r
        pen.ellipse(_box(middle, y - 0.25 * r, 0.27 * r), "white")
        pen.ellipse(_box(middle, y - 0.25 * r, 0.12 * r), "black")
    mouth = [x - 0.5 * r, y + 0.1 * r, x + 0.5 * r, y + 0.7 * r]
    if happy:
        pen.chord(mouth, 0, 180, "#3a1418")
    else:
        pen.arc(
            [mouth[0], mouth[1] + 0.35 * r, mouth[2], mouth[3] + 0.35 * r], 180, 360, "#3a1418", 4
        )
    return image


def caption_of_monster(colour: str, eyes: int, horns: bool, happy: bool) -> str:
    """The caption of a monster."""
    article = "an" if colour[0] in "aeiou" else "a"
    mood = "happy" if happy else "sad"
    count = ("one eye", "two eyes", "three eyes")[eyes - 1]
    return f"a drawing of {article} {colour} {mood} monster with {count}{' and horns' * horns}"


def write_monsters(root: Path, *, train: int = 160, dev: int = 24, seed: int = 0) -> Path:
    """Write monsters to `root/train` and `root/dev`, each folder with a `metadata.jsonl`."""
    rng = np.random.default_rng(seed)
    kinds = [
        (colour, eyes, horns, happy)
        for colour in MONSTERS
        for eyes in (1, 2, 3)
        for horns in (False, True)
        for happy in (False, True)
    ]
    kinds = [kinds[i] for i in rng.permutation(len(kinds))]
    held_out, learned = kinds[: len(kinds) // 6], kinds[len(kinds) // 6 :]
    for split, count, chosen in (("train", train, learned), ("dev", dev, held_out)):
        folder = root / split
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for number in range(count):
            kind = chosen[number % len(chosen)]
            name = f"{number:03}.png"
            draw_monster(*kind, rng).save(folder / name)
            rows.append(json.dumps({"file_name": name, "text": caption_of_monster(*kind)}))
        (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    return root


# Texts: a wordy sentence and a short sentence that says the same.


def write_sentences(root: Path, *, train: int = 480, dev: int = 40, seed: int = 0) -> Path:
    """Write pairs of a wordy and a short sentence to `train.jsonl` and `dev.jsonl`."""
    rng = np.random.default_rng(seed)
    wordy = (
        "if you look closely you will notice a {} and , somewhat to the right of it , a {}",
        "somebody has put a {} on the left side of the paper and a {} on the other side",
        "to the left there seems to be a {} , whereas what we see on the right is a {}",
    )
    root.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("dev", dev)):
        rows = []
        for _ in range(count):
            left, right = (THINGS[i] for i in rng.choice(len(THINGS), 2, replace=False))
            source = wordy[rng.integers(0, len(wordy))].format(left, right)
            rows.append(json.dumps({"source": source, "target": f"{left} then {right}"}))
        (root / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    return root


# Showing pictures.


def gallery(
    path: str | Path,
    images: Sequence[Path | Image.Image],
    titles: Sequence[str],
    *,
    columns: int = 4,
) -> None:
    """Save pictures in one picture, each with its title above it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2.4 * columns, 2.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (image, title) in enumerate(zip(images, titles, strict=True), 1):
        axes = figure.add_subplot(rows, columns, place)
        axes.imshow(image if isinstance(image, Image.Image) else Image.open(image))
        lines = [textwrap.fill(line, 34) for line in title.split("\n")]
        axes.set_title("\n".join(lines), fontsize=8)
        axes.axis("off")
    figure.savefig(path, dpi=80)
