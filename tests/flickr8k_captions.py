"""Flickr8k's dev captions, and hypotheses of several kinds for them."""

import random
from pathlib import Path


def read_dev(shared_data: Path) -> dict[str, list[str]]:
    """Picture -> its five captions, as they are in the file."""
    folder = shared_data / "flickr8k/text"
    names = (folder / "Flickr_8k.devImages.txt").read_text().split()
    captions: dict[str, list[str]] = {image: [] for image in names}
    for line in (folder / "Flickr8k.token.txt").read_text(encoding="utf-8").splitlines():
        name, caption = line.split("\t")
        image = name.partition("#")[0]
        if image in captions:
            captions[image].append(caption)
    return captions


def hypotheses(captions: dict[str, list[str]]) -> dict[str, dict[str, str]]:
    """Kind -> picture -> hypothesis, to score against all captions but the first."""
    draw = random.Random(0)
    words = [word for texts in captions.values() for text in texts for word in text.split()]
    other = ["café", "ñandú", "漢字", "naïve", "😀", "½", "ﬁne", "ÉTÉ", "İstanbul", "x\xa0y"]
    kinds: dict[str, dict[str, str]] = {}
    for image, (held_out, *_) in captions.items():
        made = {
            "held out": held_out,
            "shuffled": " ".join(draw.sample(held_out.split(), k=len(held_out.split()))),
            "empty": "",
            "unicode": " ".join(draw.sample([*other, *held_out.split()], k=8)),
            "long": " ".join(draw.choices(words, k=200)),
        }
        for kind, text in made.items():
            kinds.setdefault(kind, {})[image] = text
    # Some of each, so that what one caption does to the next would show.
    order = list(kinds)
    kinds["mixed"] = {image: kinds[draw.choice(order)][image] for image in captions}
    return kinds
