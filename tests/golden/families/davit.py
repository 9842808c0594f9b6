"""DaViT, the vision encoder of Florence-2."""

from typing import Any

from golden.case import Case, Inputs, Outputs, pixels, random_pixels

# Windows of 4 x 4 reach beyond the 3 x 5 and 6 x 10 tokens of a picture of 48 x 80.
SMALL = {
    "depths": (1, 2, 1),
    "patch_size": (7, 3, 3),
    "patch_stride": (4, 2, 2),
    "patch_padding": (3, 1, 1),
    "patch_prenorm": (False, True, True),
    "embed_dim": (8, 12, 16),
    "num_heads": (2, 3, 4),
    "num_groups": (4, 3, 2),
    "window_size": 4,
    "max_position_embeddings": 6,
    "max_temporal_embeddings": 5,
    "drop_path_rate": 0.0,
}


def _davit(full: bool) -> Any:
    from transformers import Florence2VisionBackbone, Florence2VisionConfig

    return Florence2VisionBackbone(Florence2VisionConfig(**({} if full else SMALL)))


def _inputs(full: bool) -> Inputs:
    return {"pixel_values": random_pixels(2, 3, *((224, 320) if full else (48, 80)))}


def _ask(model: Any, tensors: dict[str, Any]) -> Any:
    found = model(tensors["pixel_values"]).last_hidden_state
    return {"last_hidden_state": found.flatten(2).transpose(1, 2)}


def _run(model: Any, inputs: Inputs) -> Outputs:
    return {"last_hidden_state": model(pixels(inputs)).tokens}


CASES = [Case("davit", _davit, _inputs, _run, _ask, loss="last_hidden_state")]
