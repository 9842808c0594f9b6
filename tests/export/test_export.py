import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from captax.captioner import Captioner
from captax.images import ImageProcessor

FAMILIES = (
    "tiny",
    "vit-gpt2",
    "vit-gpt2-projected",
    "vit-bert",
    "clip-gpt2",
    "resnet-gpt2",
    "git",
    "blip",
)


def _run(
    folder: Path, module: ModuleType, pixels: np.ndarray, said: np.ndarray, prompt: int
) -> list[np.ndarray]:
    """Logits after a prompt and after each of the other tokens."""
    programs = module.load_programs(json.loads((folder / "export.json").read_text()))
    writer = module.Writer(programs, pixels, said[0, :1], 99, None)
    features = programs["encoder"]({"pixels": pixels})["features"]
    found = programs["prefill"]({"tokens": said[:, :prompt], "features": features})
    writer.tokens, writer.cache = said[:, :prompt], writer._as_past(found)
    logits = [writer.cache.pop("logits")]
    for i in range(prompt, said.shape[1]):
        writer.go_on(said[:, i])
        logits.append(writer.logits)
    return logits


@pytest.mark.parametrize("format", ["onnx", "stablehlo"])
@pytest.mark.parametrize("family", FAMILIES)
def test_programs_compute_what_the_model_does(
    family: str,
    format: str,
    captioners: Callable[[str], Captioner],
    exported: Callable[..., Path],
    script: Callable[[Path], ModuleType],
) -> None:
    captioner = captioners(family)
    rng = np.random.default_rng(0)
    pixels = rng.standard_normal((3, *captioner.processor.size, 3)).astype(np.float32)
    said = rng.integers(3, captioner.tokenizer.vocab_size, (3, 5)).astype(np.int32)
    model = captioner.model
    features = model.encode(jnp.asarray(pixels))
    expected, cache = model.begin(features, jnp.asarray(said[:, :2]), 12)
    expected = [expected]
    for i in range(2, 5):
        logits, cache = model.advance(jnp.asarray(said[:, i]), cache)
        expected.append(logits)

    folder = exported(family, format)
    found = _run(folder, script(folder), pixels, said, prompt=2)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_script_says_what_the_captioner_says(
    family: str,
    captioners: Callable[[str], Captioner],
    exported: Callable[..., Path],
    pictures: list[Path],
    run_script: Callable[..., list[dict[str, Any]]],
) -> None:
    captioner = captioners(family)
    for beams in (1, 3):
        found = run_script(exported(family), "--num-beams", beams, *pictures)
        for said, want in zip(found, captioner.caption(pictures, num_beams=beams), strict=True):
            assert (said["caption"], said["tokens"]) == (want.text, list(want.tokens))
            assert said["score"] == pytest.approx(want.score, abs=1e-4)
