"""Image captioning in JAX.

>>> import captax
>>> captioner = captax.load()
>>> captioner.caption(["picture.jpg"], num_beams=3)[0].text
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captax.captioner import Caption, Captioner, GenerationConfig, load
    from captax.errors import CaptaxError
    from captax.evaluation import evaluate
    from captax.training.loop import train
    from captax.training.recipe import load_recipe

__all__ = [
    "CaptaxError",
    "Caption",
    "Captioner",
    "GenerationConfig",
    "evaluate",
    "load",
    "load_recipe",
    "train",
]

# Names are imported when first used: `captax --help` and data workers never wait for JAX.
_HOME = {
    "Caption": "captax.captioner",
    "Captioner": "captax.captioner",
    "CaptaxError": "captax.errors",
    "GenerationConfig": "captax.captioner",
    "evaluate": "captax.evaluation",
    "load": "captax.captioner",
    "load_recipe": "captax.training.recipe",
    "train": "captax.training.loop",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'captax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
