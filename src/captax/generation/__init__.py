"""Decoding: from features to captions, whatever the family of the model."""

from captax.generation.config import GenerationConfig
from captax.generation.loop import Sequences, generate
from captax.generation.strategies import Beam, GenerationError, Greedy, Strategy

__all__ = [
    "Beam",
    "GenerationConfig",
    "GenerationError",
    "Greedy",
    "Sequences",
    "Strategy",
    "generate",
]
