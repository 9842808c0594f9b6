"""A small tagger with made-up weights, in the files of the published ones."""

import json
from pathlib import Path
from typing import Any

from flax import nnx

from captax.checkpoints.directory import save_model
from captax.models.registry import build

SIDE = 32
TAGS = {
    "general": 9,
    "sensitive": 9,
    "1girl": 0,
    "long_hair": 0,
    ">_<": 0,
    "cup_(object)": 0,
    "reimu_(touhou)": 4,
    "nobody": 4,
}
VIT = {
    "architecture": "vit_base_patch16_224",
    "num_classes": len(TAGS),
    "num_features": 24,
    "global_pool": "avg",
    "model_args": {
        "embed_dim": 24,
        "depth": 2,
        "num_heads": 3,
        "patch_size": 8,
        "img_size": SIDE,
        "class_token": False,
        "global_pool": "avg",
        "fc_norm": False,
        "act_layer": "gelu_tanh",
    },
    "pretrained_cfg": {
        "input_size": [3, SIDE, SIDE],
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "num_classes": len(TAGS),
    },
}


def table(tags: dict[str, int]) -> str:
    """The contents of a `selected_tags.csv`."""
    rows = [f"{number},{name},{kind},100" for number, (name, kind) in enumerate(tags.items())]
    return "\n".join(["tag_id,name,category,count", *rows, ""])


def write(directory: Path, config: dict[str, Any] = VIT, tags: dict[str, int] = TAGS) -> Path:
    """Write the tagger's files; its probabilities are around a half."""
    directory.mkdir(parents=True)
    save_model(directory, build(config, rngs=nnx.Rngs(0)))
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "selected_tags.csv").write_text(table(tags), encoding="utf-8")
    return directory
