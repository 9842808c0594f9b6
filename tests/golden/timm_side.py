"""Small models of timm, with what timm computes with them; stored in `golden/taggers`.

`python tests/golden/timm_side.py` makes them again. It needs timm, of which the tests have no need.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

STORED = Path(__file__).parent / "taggers"
LABELS = 7
_VIT = {"embed_dim": 24, "depth": 2, "num_heads": 3, "patch_size": 8, "img_size": 32}
# By name: the architecture, and what is changed of it.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit_base_patch16_224", _VIT),
    # As the WD taggers are.
    "vit-tagger": (
        "vit_base_patch16_224",
        _VIT
        | {"class_token": False, "global_pool": "avg", "fc_norm": False, "act_layer": "gelu_tanh"},
    ),
    "vit-pooled-norm": (
        "vit_large_patch16_384",
        _VIT | {"global_pool": "avg", "qkv_bias": False, "mlp_ratio": 3},
    ),
    "convnext": (
        "convnext_base",
        {"dims": [8, 12, 16, 20], "depths": [1, 2, 1, 1], "act_layer": "gelu_tanh"},
    ),
    # Moved windows in grids of 16 x 16 and 8 x 8, and one window in one of 4 x 4.
    "swinv2": (
        "swinv2_base_window8_256",
        {
            "embed_dim": 8,
            "depths": [2, 2, 2],
            "num_heads": [1, 2, 4],
            "img_size": 64,
            "window_size": 4,
            "act_layer": "gelu_tanh",
            "pretrained_window_sizes": [0, 3, 2],
        },
    ),
}
# The published taggers, at their real size.
FULL: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": (
        "vit_base_patch16_224",
        {
            "img_size": 448,
            "class_token": False,
            "global_pool": "avg",
            "fc_norm": False,
            "act_layer": "gelu_tanh",
        },
    ),
    "convnext": ("convnext_base", {"act_layer": "gelu_tanh"}),
    "swinv2": (
        "swinv2_base_window8_256",
        {"img_size": 448, "window_size": 14, "act_layer": "gelu_tanh"},
    ),
}


def write(
    directory: Path, architecture: str, arguments: dict[str, Any], side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Write a model with random weights as timm publishes it; give pixels and its logits."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    sizes = {
        key: tuple(each) if isinstance(each, list) else each for key, each in arguments.items()
    }
    model = timm.create_model(architecture, num_classes=LABELS, **sizes).eval()
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        parameter.data += noise * (0.3 if parameter.ndim == 1 else 0.05)
    directory.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        directory / "model.safetensors",
    )
    config = {
        "architecture": architecture,
        "num_classes": LABELS,
        "model_args": arguments,
        "pretrained_cfg": {"input_size": [3, side, side]},
    }
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    pixels = np.random.default_rng(0).standard_normal((2, 3, side, side)).astype(np.float32)
    with torch.no_grad():
        return pixels, model(torch.tensor(pixels)).numpy()


if __name__ == "__main__":
    for name, (architecture, arguments) in CASES.items():
        pixels, logits = write(
            STORED / name, architecture, arguments, arguments.get("img_size", 64)
        )
        np.savez_compressed(STORED / name / "golden.npz", pixels=pixels, logits=logits)
