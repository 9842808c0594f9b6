"""Shapes are enforced in every test: the hook must come before captax is first imported."""

import contextlib
import gc
import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jaxtyping
import numpy as np
import pytest
from hypothesis import settings

# No test is judged by its time.
settings.register_profile("captax", deadline=None)
settings.load_profile("captax")
jaxtyping.install_import_hook("captax", "beartype.beartype")
# Most of what these tests would wait for is XLA optimising programs that run once. XLA aborts on a
# flag that it does not know, so these are given only to the versions that are known to have them;
# the second compiles a program in one thread, for there are workers enough.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if version("jaxlib").startswith("0.10."):
    flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ.setdefault("XLA_FLAGS", flags)
# As many workers as cores: threads of BLAS and PyTorch besides would only wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def processor() -> str:
    """The kind of this processor: a program that XLA compiled for one may not run on another."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.is_file() else [platform.processor()]
    kinds = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    return hashlib.sha256("\n".join(kinds or lines).encode()).hexdigest()[:8]


# What one process compiles, the others find, those of the next run and of commands too.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "captax-tests"
os.environ["CAPTAX_CACHE"] = str(CACHE / processor())

pytest_plugins = ("nightly", "pytester")

if TYPE_CHECKING:
    from captax.pipelines.captioner import Captioner
    from captax.text import Tokenizer

# Less than Lite0 has: a block a stage, and a 2x2 grid.
TINY_ENCODER: dict[str, Any] = {
    "model_type": "efficientnet-lite",
    "width_scale": 0.25,
    "depth_scale": 0.1,
    "image_size": 64,
    "num_labels": 0,
}
TINY_DECODER: dict[str, Any] = {
    "model_type": "captax-transformer",
    "vocab_size": 12,
    "width": 16,
    "layers": 2,
    "heads": 2,
    "mlp_width": 32,
    "max_positions": 16,
    "features_width": 1280,
    "grid": [2, 2],
}
CAPTIONS = (
    "A red square beside two blue squares.",
    "Three green stripes on a black wall",
    "The yellow tile is under a white one",
)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Throw away programs of long ago, and those that a killed process did not finish."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        for program in CACHE.glob("*/xla/*"):
            with contextlib.suppress(FileNotFoundError):  # another session was quicker
                about = program.stat()
                if about.st_size == 0 or time.time() - about.st_mtime > 14 * 24 * 3600:
                    program.unlink()


def pytest_collection_finish() -> None:
    """Look for garbage more seldom, and not in all that was imported: it stays."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="session", autouse=True)
def programs() -> Path:
    """Where what is compiled is kept, by this process as by the commands."""
    from jax.experimental.compilation_cache import compilation_cache

    from captax.compilation import persist_compiled_programs

    persist_compiled_programs()
    compilation_cache.reset_cache()  # JAX looks once, when it first compiles, whether there is one
    return Path(os.environ["CAPTAX_CACHE"])


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The development datasets, which are not part of the project."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"needs the development datasets in {path}")
    return path


@pytest.fixture(scope="session")
def examples() -> Path:
    """The folder of example pictures."""
    return Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    """`make_model(config, seed)`: a model with made-up weights under which captions vary.

    With initial weights a decoder says the same word again and again, whatever the picture: here
    the picture and the position weigh more, and no word is louder than the others.
    """
    from flax import nnx

    from captax.checkpoints.state import fill
    from captax.models import registry

    def make(config: dict[str, Any], seed: int = 0) -> nnx.Module:
        model = registry.build(config)
        rng = np.random.default_rng(seed)
        tensors = {}
        for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param)):
            name = ".".join(map(str, path))
            if name.endswith("kernel"):
                # Matrices are [out in], other kernels end with their outputs.
                shape = leaf.shape[::-1] if len(leaf.shape) == 2 else leaf.shape
                value = rng.standard_normal(shape) * np.sqrt(1.5 / np.prod(shape[:-1]))
                value = value.T if len(shape) == 2 else value
                value *= 12 if "bridge" in name else 2 if "decoder" in name else 1
            else:
                value = rng.standard_normal(leaf.shape)
            if name.endswith("scale"):
                value = 1 + 0.1 * value
            elif name.endswith("bias"):
                value *= 0.1
            elif name.endswith("embedding"):
                value *= 2 / np.linalg.norm(value, axis=1, keepdims=True)
            elif name.endswith("positions"):
                value *= 2
            tensors[name] = value.astype(np.float32)
        return fill(model, tensors, where="made-up weights")

    return make


@pytest.fixture(scope="session")
def tiny_encoder() -> dict[str, Any]:
    """The config of an encoder of 64x64 pictures."""
    return TINY_ENCODER


@pytest.fixture(scope="session")
def tiny_tokenizer() -> "Tokenizer":
    """A word vocabulary of a few captions."""
    from captax.text import train_word_tokenizer

    return train_word_tokenizer(CAPTIONS, min_count=1)


@pytest.fixture(scope="session")
def tiny_captioner(make_model: Callable[..., Any], tiny_tokenizer: "Tokenizer") -> "Captioner":
    """A whole captioner, of 64x64 pictures, that runs in milliseconds."""
    from captax.generation import GenerationConfig
    from captax.images import ImageProcessor
    from captax.pipelines.captioner import Captioner

    config = {
        "model_type": "captax-encoder-decoder",
        "encoder": TINY_ENCODER,
        "decoder": {**TINY_DECODER, "vocab_size": tiny_tokenizer.vocab_size},
    }
    return Captioner(
        make_model(config, 24),
        ImageProcessor(size=(64, 64)),
        tiny_tokenizer,
        GenerationConfig(num_beams=3, max_new_tokens=8),
    )


@pytest.fixture(scope="session")
def checkpoint(
    tiny_tokenizer: "Tokenizer", tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """`checkpoint(name)`: a golden checkpoint, with a tokenizer and a processor beside it."""
    import tagger_files
    import vision_language_files
    from captax.images import ImageProcessor
    from golden.families import CASES

    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            directory = tmp_path_factory.mktemp(name) / name
            if name in vision_language_files.MARKERS:
                made[name] = vision_language_files.write(name, directory)
                return made[name]
            if name == "tagger":
                made[name] = tagger_files.write(directory)
                return made[name]
            shutil.copytree(CASES[name].stored, directory)
            tiny_tokenizer.save(directory)
            config = ImageProcessor(size=(32, 32)).to_config()
            (directory / "preprocessor_config.json").write_text(json.dumps(config))
            made[name] = directory
        return made[name]

    return make


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A fake Hugging Face hub, which the library talks to instead of the real one."""
    from huggingface_hub import constants

    from fake_hub import serve

    with serve() as fake:
        for variable in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("HF_ENDPOINT", fake.url)
        # Read by the library when it was imported, perhaps in a test that was offline, and the
        # token of whoever runs the tests.
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "home" / "token"))
        # Uploads go by the hub's own store, which the fake has not, wherever hf_xet is installed.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield fake


CHROMIUM_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    path = os.environ.get("CAPTAX_CHROMIUM") or shutil.which("chromium")
    if not path:
        pytest.skip("needs chromium: apt-get install chromium, or its path in CAPTAX_CHROMIUM")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the browser extra")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The script of axe-core, which judges accessibility."""
    here = Path(__file__).resolve().parents[1]
    given = os.environ.get("CAPTAX_AXE")
    places = [Path(given)] if given else []
    places += [root / "node_modules/axe-core/axe.min.js" for root in (here / ".venv", here)]
    for place in places:
        if place.is_file():
            return place.read_text(encoding="utf-8")
    pytest.skip("needs axe-core: make browser, or the path of axe.min.js in CAPTAX_AXE")
