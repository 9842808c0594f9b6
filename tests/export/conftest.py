"""Small captioners of every family, and pictures of every kind."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from flax import nnx
from PIL import Image

import captax
from captax.export import export
from captax.models.encoder_decoder import EncoderDecoderConfig
from captax.models.transformer import TransformerDecoderConfig
from captax.pipelines.captioner import Captioner


@pytest.fixture(scope="session")
def captioners(
    tiny_captioner: Captioner, checkpoint: Callable[[str], Path]
) -> Callable[[str], Captioner]:
    """`captioners(family)`: one with random weights, whose captions have at most 8 tokens."""
    made: dict[str, Captioner] = {}

    def make(family: str) -> Captioner:
        if family not in made:
            if family == "tiny":
                found = tiny_captioner
            elif family == "resnet-gpt2":
                halves = (checkpoint("resnet"), checkpoint("gpt2"))
                found = captax.from_pretrained_halves(*halves, seed=3)
            elif family == "stretched":
                found = _stretched(captax.load(checkpoint("resnet-classifier")), tiny_captioner)
            else:
                found = captax.load(checkpoint(family))
            generation = dataclasses.replace(
                found.generation, num_beams=3, max_new_tokens=8, max_length=None
            )
            parts = found.model, found.processor, found.tokenizer
            made[family] = Captioner(*parts, generation)
        return made[family]

    return make


def _stretched(resnet: Any, captioner: Captioner) -> Captioner:
    """A network whose grid is stretched, and a post-norm decoder with its own output layer."""
    encoder, tokenizer = resnet.model.config.as_encoder(), captioner.tokenizer
    decoder = TransformerDecoderConfig(
        vocab_size=tokenizer.vocab_size,
        width=16,
        layers=2,
        heads=2,
        mlp_width=32,
        max_positions=16,
        features_width=encoder.hidden_sizes[-1],
        grid=(3, 2),
        order="post",
        tie_word_embeddings=False,
    )
    model = EncoderDecoderConfig(encoder, decoder, grid=(3, 2)).build(rngs=nnx.Rngs(0))
    return Captioner(model, resnet.processor, tokenizer, captioner.generation)


@pytest.fixture(scope="session")
def exported(
    captioners: Callable[[str], Captioner], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """`exported(family, format, **options)`: the folder."""
    made: dict[Any, Path] = {}

    def make(family: str, format: str = "onnx", **options: Any) -> Path:
        key = (family, format, *sorted(options.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp("export") / "out"
            export(captioners(family), folder, format=format, **options)
            made[key] = folder
        return made[key]

    return make


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of several sizes, modes and orientations."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(5)

    def noise(height: int, width: int, channels: int) -> Image.Image:
        small = rng.integers(0, 256, (height // 8, width // 8, channels), np.uint8)
        return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)

    exif = Image.Exif()
    exif[0x0112] = 6
    noise(400, 640, 3).save(folder / "large.jpg")
    noise(640, 320, 3).save(folder / "turned.jpg", exif=exif)
    noise(40, 56, 4).save(folder / "transparent.png")
    noise(96, 80, 3).convert("P").save(folder / "palette.gif")
    Image.fromarray(rng.integers(0, 65536, (72, 48), np.uint16)).save(folder / "deep.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="session")
def run_script(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[dict[str, Any]]]:
    """`run_script(folder, *arguments)`: what its caption.py says where captax cannot be had."""
    blocked = tmp_path_factory.mktemp("blocked")
    (blocked / "captax.py").write_text("raise ImportError('the script is to do without captax')")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}

    def run(folder: Path, *arguments: object, fails: bool = False) -> list[dict[str, Any]]:
        command = [sys.executable, folder / "caption.py", "--json", *arguments]
        found = subprocess.run(
            list(map(str, command)),
            env={**kept, "PYTHONPATH": str(blocked)},
            capture_output=True,
            text=True,
        )
        assert found.returncode == fails, found.stderr
        return [json.loads(line) for line in found.stdout.splitlines()]

    return run


@pytest.fixture(scope="session")
def script() -> ModuleType:
    """What every export has as caption.py."""
    path = Path(captax.__file__).parent / "export" / "bundle" / "caption.py"
    spec = importlib.util.spec_from_file_location("exported_caption", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
