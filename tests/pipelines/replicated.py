"""What models say on one device and on several, in a process that sees eight.

`python replicated.py OUT NAME=CHECKPOINT=DEVICESxPARTS,... ...` writes as JSON what each checkpoint
says on one device, and then on so many devices in groups of so many.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

import captax
from captax.checkpoints.state import parameters
from captax.pipelines.classifier import Classifier
from captax.pipelines.matcher import Matcher
from captax.pipelines.text_generator import TextGenerator

PICTURES = list(np.random.default_rng(0).integers(0, 256, (8, 40, 30, 3), dtype=np.uint8))
TEXTS = ["a dog", "a red dog runs", "a", "dog dog"] * 2


def said(loaded: Any) -> dict[str, Any]:
    """What is said of eight pictures or texts, two at a time: tokens or the like, and a number."""
    if isinstance(loaded, Classifier):
        classes = loaded.classify(PICTURES, batch_size=2)
        return {"classes": [[each.label, each.probability] for each in classes]}
    if isinstance(loaded, Matcher):
        vectors = loaded.embed_images(PICTURES, batch_size=2)
        return {"vectors": [[i, float(x)] for i, x in enumerate(vectors.ravel())]}
    if isinstance(loaded, TextGenerator):
        texts = loaded.generate(TEXTS, batch_size=2, num_beams=2, max_new_tokens=4)
        return {"beams": [[list(each.tokens), each.score] for each in texts]}
    captions = loaded.caption(PICTURES, batch_size=2, do_sample=True, seed=3, max_new_tokens=4)
    return {"samples": [[list(each.tokens), each.score] for each in captions]}


def held(loaded: Any) -> dict[int, int]:
    """Bytes of the weights on each device."""
    sizes: dict[int, int] = {}
    for copy in loaded._replicas._held if loaded.at_once > 1 else [parameters(loaded.model)]:
        for value in copy.values():
            for shard in value.addressable_shards:
                sizes[shard.device.id] = sizes.get(shard.device.id, 0) + shard.data.nbytes
    return sizes


def gathered(loaded: Any) -> int:
    """The most values that a program collects from the devices of a model at once."""
    texts = [program.as_text() for program in loaded._programs._kept.values()]
    shapes = [
        shape
        for text in texts
        for shape in re.findall(r"= \(?\w+\[([\d,]*)\]\S* (?:all-gather|all-to-all)", text)
    ]
    return max((int(np.prod([int(n) for n in each.split(",") if n])) for each in shapes), default=0)


def report(path: str, places: list[str]) -> dict[str, Any]:
    """What is said in each place, and how the model lies there."""
    found: dict[str, Any] = {"1x1": {"said": said(captax.load(path))}}
    for place in places:
        devices, parts = map(int, place.split("x"))
        loaded = captax.load(path, devices=devices, tensor_parallel=parts)
        found[place] = {"said": said(loaded), "held": held(loaded), "gathered": gathered(loaded)}
    return found


if __name__ == "__main__":
    models = [each.split("=") for each in sys.argv[2:]]
    reports = {name: report(path, places.split(",")) for name, path, places in models}
    Path(sys.argv[1]).write_text(json.dumps(reports))
