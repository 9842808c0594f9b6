"""Decoding: from features to captions, whatever the family of the model."""

from captax.generation.beam import Beam, DiverseBeam
from captax.generation.confidence import Calibration
from captax.generation.config import GenerationConfig
from captax.generation.constraints import Constraints
from captax.generation.decoding import GenerationError, Strategy
from captax.generation.loop import Loop, Prompts, Running, Sequences, generate, looping
from captax.generation.scoring import score
from captax.generation.strategies import Greedy, Sample

__all__ = [
    "Beam",
    "Calibration",
    "Constraints",
    "DiverseBeam",
    "GenerationConfig",
    "GenerationError",
    "Greedy",
    "Loop",
    "Prompts",
    "Running",
    "Sample",
    "Sequences",
    "Strategy",
    "generate",
    "looping",
    "score",
]
