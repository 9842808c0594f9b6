"""Image captioning in JAX.

>>> import captax
>>> captioner = captax.load()
>>> captioner.caption(["picture.jpg"], num_beams=3)[0].text
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captax.captioner import Caption, Captioner
    from captax.errors import CaptaxError
    from captax.evaluation import evaluate
    from captax.generation import GenerationConfig
    from captax.generator import Generated
    from captax.loading import load, load_model
    from captax.text_generator import TextGenerator
    from captax.training.loop import train
    from captax.training.recipe import load_recipe

__all__ = [
    "CaptaxError",
    "Caption",
    "Captioner",
    "Generated",
    "GenerationConfig",
    "TextGenerator",
    "evaluate",
    "load",
    "load_model",
    "load_recipe",
    "train",
]

# Names are imported when first used: `captax --help` and data workers never wait for JAX.
_HOME = {
    "Caption": "captax.captioner",
    "Captioner": "captax.captioner",
    "CaptaxError": "captax.errors",
    "Generated": "captax.generator",
    "GenerationConfig": "captax.generation",
    "TextGenerator": "captax.text_generator",
    "evaluate": "captax.evaluation",
    "load": "captax.loading",
    "load_model": "captax.loading",
    "load_recipe": "captax.training.recipe",
    "train": "captax.training.loop",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'captax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
