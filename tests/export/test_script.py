"""The exported script says what captax says, and needs none of it."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import captax
from captax.export import export
from captax.generation.constraints import Constraints
from captax.images import ImageProcessor
from captax.pipelines.captioner import Captioner

Captioners = Callable[[str], Captioner]
Exported = Callable[..., Path]
RunScript = Callable[..., list[dict[str, Any]]]

OTHERS = ("vit-gpt2", "vit-gpt2-projected", "vit-bert", "clip-gpt2", "resnet-gpt2", "git", "blip")
LONG = [pytest.mark.slow, pytest.mark.nightly("exported scripts")]
CASES = [
    ("tiny", "onnx"),
    *(pytest.param(family, "onnx", marks=LONG) for family in OTHERS),
    pytest.param("tiny", "stablehlo", marks=LONG),
    pytest.param("git", "stablehlo", marks=LONG),
]


def _assert_same(found: list[dict[str, Any]], wanted: list[captax.Caption]) -> None:
    assert [each["tokens"] for each in found] == [list(each.tokens) for each in wanted]
    assert [each["caption"] for each in found] == [each.text for each in wanted]
    scores = [each.score for each in wanted]
    np.testing.assert_allclose([each["score"] for each in found], scores, atol=1e-4)


@pytest.mark.parametrize(("family", "format"), CASES)
@pytest.mark.parametrize("beams", [3, 1])
def test_it_says_what_the_captioner_says(
    family: str,
    format: str,
    beams: int,
    captioners: Captioners,
    exported: Exported,
    pictures: list[Path],
    run_script: RunScript,
) -> None:
    wanted = captioners(family).caption(pictures, num_beams=beams)
    # Batches that the pictures do not fill.
    options = ("--num-beams", beams, "--batch-size", 3)
    found = run_script(exported(family, format), *options, *pictures)
    assert [each["path"] for each in found] == list(map(str, pictures))
    _assert_same(found, wanted)
    if family == "tiny":
        assert len({each.text for each in wanted}) > 1


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [None, 4])
def test_captions_go_on_from_a_prompt(
    batch_size: int | None,
    captioners: Captioners,
    exported: Exported,
    pictures: list[Path],
    run_script: RunScript,
) -> None:
    prompt = "two blue squares"
    wanted = captioners("tiny").caption(pictures, prompt=prompt, max_new_tokens=6)
    folder = exported("tiny", batch_size=batch_size)
    found = run_script(folder, "--prompt", prompt, "--max-new-tokens", 6, *pictures)
    _assert_same(found, wanted)
    assert all(each["caption"].startswith(prompt) for each in found)


def test_a_picture_that_cannot_be_read_is_named_and_the_others_captioned(
    exported: Exported, pictures: list[Path], run_script: RunScript, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(pictures[0].read_bytes()[:9])
    found = run_script(exported("tiny"), pictures[0], broken, pictures[1], fails=True)
    assert [each["path"] for each in found] == [str(pictures[0]), str(pictures[1])]


@pytest.mark.parametrize(
    "processor",
    [
        ImageProcessor((48, 32), resample="bilinear", mean=(0.4, 0.5, 0.6)),
        ImageProcessor((32, 32), resize_to=(40, 36), std=(0.2, 0.3, 0.4)),
        ImageProcessor((50, 50), resize_to=(40, 37), resample="box", rescale=1 / 127.5),
        ImageProcessor((32, 32), resize="shortest_edge", resize_to=37, resample="lanczos"),
        ImageProcessor((40, 30), resize="shortest_edge", resize_to=31),
    ],
    ids=["stretch", "crop", "pad", "shortest edge", "shortest edge, pad"],
)
def test_pictures_are_prepared_to_the_last_bit(
    processor: ImageProcessor, pictures: list[Path], script: ModuleType
) -> None:
    how = json.loads(json.dumps(dataclasses.asdict(processor)))
    for path in pictures:
        found = script.prepare(path, how)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, processor([path])[0])


OPTIONS: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.7},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2, "suppress_tokens": (3, 5)},
    {"no_repeat_ngram_size": 3},
    {"min_length": 5},
    {"min_new_tokens": 3, "renormalize_logits": True},
    {"forced_bos_token_id": 4},
    {"forced_bos_token_id": 0, "begin_suppress_tokens": (2, 6)},
    {"forced_eos_token_id": (2, 3), "begin_suppress_tokens": (1,)},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_constraints_are_those_of_captax(options: dict[str, Any], script: ModuleType) -> None:
    rng = np.random.default_rng(0)
    constraints = Constraints(**options)
    said = dataclasses.asdict(constraints)
    forced = said["forced_bos_token_id"]
    said["forced_bos_token_id"] = [] if forced is None else [forced]
    said = json.loads(json.dumps(said))
    limit, eos = 9, (2, 7)
    for prompt in (1, 3):
        for position in range(prompt, limit):
            tokens = rng.integers(0, 8, (6, limit)).astype(np.int32)
            scores = rng.standard_normal((6, 8)).astype(np.float32)
            wanted = constraints(
                jnp.asarray(scores),
                jnp.asarray(tokens),
                jnp.asarray(position),
                prompt=prompt,
                limit=limit,
                eos=eos,
            )
            found = script.constrain(scores, tokens[:, :position], prompt, limit, list(eos), said)
            np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"eos_token_id": (2, 5), "num_beams": 5, "no_repeat_ngram_size": 2, "length_penalty": 0.0},
        {"early_stopping": True, "length_penalty": 2.0},
        {"early_stopping": "never", "min_new_tokens": 4},
        {"max_new_tokens": None, "max_length": 7, "repetition_penalty": 1.3, "num_beams": 1},
        {"max_new_tokens": None, "forced_eos_token_id": (2,)},
    ],
    ids=str,
)
def test_what_the_captioner_is_set_to_is_what_the_script_does(
    options: dict[str, Any],
    captioners: Captioners,
    pictures: list[Path],
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = captioners("tiny")
    generation = dataclasses.replace(plain.generation, **options)
    captioner = Captioner(plain.model, plain.processor, plain.tokenizer, generation)
    export(captioner, tmp_path / "out", format="onnx")
    monkeypatch.setattr(script, "HERE", tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "export.json").read_text())
    tokenizer = script.tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    prepared = [script.prepare(path, manifest["pictures"]) for path in pictures]
    programs = script.load_programs(manifest)
    found = script.caption(programs, manifest, tokenizer, prepared)
    _assert_same(found, captioner.caption(pictures))


@pytest.mark.data
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("format", ["onnx", "stablehlo"])
def test_the_built_in_captioner_on_photographs(
    format: str, beams: int, shared_data: Path, run_script: RunScript, tmp_path: Path
) -> None:
    captioner = captax.load()
    photographs = sorted((shared_data / "flickr8k" / "images").glob("*.jpg"))[:32]
    export(captioner, tmp_path / "out", format=format)
    found = run_script(tmp_path / "out", "--num-beams", beams, *photographs)
    _assert_same(found, captioner.caption(photographs, num_beams=beams))
