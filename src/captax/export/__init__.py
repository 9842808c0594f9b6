"""Captioners for other runtimes: ONNX and StableHLO programs, and a script that runs them."""

from captax.export.export import FORMATS, export, read_card
from captax.export.programs import ExportError

__all__ = ["FORMATS", "ExportError", "export", "read_card"]
