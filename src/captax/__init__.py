"""Image captioning in JAX.

>>> import captax
>>> captioner = captax.load()
>>> captioner.caption(["picture.jpg"], num_beams=3)[0].text
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captax.errors import CaptaxError
    from captax.evaluation.evaluate import evaluate
    from captax.explain import Explanation
    from captax.generation import GenerationConfig
    from captax.generation.result import Generated
    from captax.pipelines.assembly import classifier_for, from_pretrained_halves
    from captax.pipelines.captioner import Caption, Captioner
    from captax.pipelines.classifier import Classification, Classifier
    from captax.pipelines.loading import load, load_model
    from captax.pipelines.matcher import Matcher
    from captax.pipelines.sharing import push
    from captax.pipelines.tagger import Tagger, Tagging
    from captax.pipelines.text_generator import TextGenerator
    from captax.training.loop import train
    from captax.training.recipe import load_recipe

__all__ = [
    "CaptaxError",
    "Caption",
    "Captioner",
    "Classification",
    "Classifier",
    "Explanation",
    "Generated",
    "GenerationConfig",
    "Matcher",
    "Tagger",
    "Tagging",
    "TextGenerator",
    "classifier_for",
    "evaluate",
    "from_pretrained_halves",
    "load",
    "load_model",
    "load_recipe",
    "push",
    "train",
]

# Names are imported when first used: `captax --help` and data workers never wait for JAX.
_HOME = {
    "Caption": "captax.pipelines.captioner",
    "Captioner": "captax.pipelines.captioner",
    "CaptaxError": "captax.errors",
    "Classification": "captax.pipelines.classifier",
    "Classifier": "captax.pipelines.classifier",
    "Explanation": "captax.explain",
    "Generated": "captax.generation.result",
    "GenerationConfig": "captax.generation",
    "Matcher": "captax.pipelines.matcher",
    "Tagger": "captax.pipelines.tagger",
    "Tagging": "captax.pipelines.tagger",
    "TextGenerator": "captax.pipelines.text_generator",
    "evaluate": "captax.evaluation.evaluate",
    "classifier_for": "captax.pipelines.assembly",
    "from_pretrained_halves": "captax.pipelines.assembly",
    "push": "captax.pipelines.sharing",
    "load": "captax.pipelines.loading",
    "load_model": "captax.pipelines.loading",
    "load_recipe": "captax.training.recipe",
    "train": "captax.training.loop",
}


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("captax")
    if name not in _HOME:
        raise AttributeError(f"module 'captax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
