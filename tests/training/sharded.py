"""Runs of one recipe in a process of its own, which sees as many devices as it was started with.

`python sharded.py ROOT MODEL OUT DATAxFSDP ...` makes a run in `OUT/DATAxFSDP` for each mesh; with
`--processes ADDRESS NUMBER` in front, as one of two processes.
"""

import sys
from pathlib import Path

import jax

from captax.training.loop import train
from captax.training.recipe import Recipe


def recipe(root: Path, model: str, data: int, fsdp: int) -> Recipe:
    """Three steps of eight pictures."""
    return Recipe.model_validate(
        {
            "name": "sharded",
            "data": {
                "root": root,
                "train": [{"path": "shapes", "split": "train"}],
                "dev": [{"path": "shapes", "split": "dev"}],
                "max_tokens": 10,
            },
            "model": {"checkpoint": model},
            "stages": [{"name": "s", "epochs": 3, "lr": 0.2, "schedule": "constant"}],
            "optimizer": {"name": "sgd", "batch_size": 8, "ema_decay": 0.9},
            "evaluation": {"epochs": 3, "num_beams": 2, "max_new_tokens": 4, "limit": 2},
            "mesh": {"data": data, "fsdp": fsdp},
        }
    )


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[0] == "--processes":
        jax.distributed.initialize(arguments[1], 2, int(arguments[2]))
        arguments = arguments[3:]
    root, model, out, *meshes = arguments
    for mesh in meshes:
        data, fsdp = map(int, mesh.split("x"))
        train(recipe(Path(root), model, data, fsdp), Path(out) / mesh)
