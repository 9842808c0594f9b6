"""A captioner's loss and cache against transformers'."""

import json
import warnings
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from captax.checkpoints.directory import load_model
from captax.data import pack_captions
from captax.generation.config import GenerationConfig
from captax.training.step import token_losses
from golden.case import Case, pixels
from golden.families import CASES

torch = pytest.importorskip("torch")
torch_side = pytest.importorskip("golden.torch_side")
pytestmark = pytest.mark.parity

START, EOS, PAD = 1, 2, 0


def pair(case: Case, tmp_path: Path) -> tuple[Any, Any]:
    reference = torch_side.make_reference(case, full=False)
    reference.save_pretrained(tmp_path)
    return reference, load_model(tmp_path)


def test_labels_are_shifted_right_and_weighed_as_the_reference_does(tmp_path: Path) -> None:
    """Captions of several lengths: padding counts nothing, neither here nor there."""
    case = CASES["vit-gpt2"]
    reference, model = pair(case, tmp_path)
    reference.config.decoder_start_token_id, reference.config.pad_token_id = START, PAD
    captions = [[7, 9, 11, 8, EOS], [12, EOS]]
    labels = np.full((2, 5), -100)
    for row, caption in enumerate(captions):
        labels[row, : len(caption)] = caption
    inputs = case.inputs(False)
    with torch.no_grad():
        want = reference(
            pixel_values=torch.from_numpy(inputs["pixel_values"]), labels=torch.from_numpy(labels)
        ).loss.item()
    rows = [[[START, *caption]] for caption in captions]
    packed = pack_captions(rows, capacity=6, max_tokens=6, pad_id=PAD)
    features = model.encode(jnp.asarray(pixels(inputs)))
    logits = model.read(features, *map(jnp.asarray, (packed.inputs, packed.positions)))
    got = token_losses(logits, jnp.asarray(packed.targets), jnp.asarray(packed.segments > 0))
    assert float(got.total / got.weight) == pytest.approx(want, abs=1e-5)


def test_the_cache_holds_what_the_reference_keeps(tmp_path: Path) -> None:
    """Keys and values of the tokens before, and of the picture."""
    case = CASES["vit-gpt2"]
    reference, model = pair(case, tmp_path)
    inputs = case.inputs(False)
    tokens = inputs["decoder_input_ids"]
    with torch.no_grad():
        want = torch_side.ask(case, reference, inputs).past_key_values
    features = model.encode(jnp.asarray(pixels(inputs)))
    _, cache = model.begin(features, jnp.asarray(tokens), new_tokens=5)
    kept = (
        (cache.prefix.places, want.self_attention_cache),
        (cache.prefix.memory, want.cross_attention_cache),
    )
    for ours, theirs in kept:
        assert len(ours) == len(theirs.layers)
        for (keys, values), layer in zip(ours, theirs.layers, strict=True):
            np.testing.assert_allclose(keys, layer.keys, atol=1e-4)
            np.testing.assert_allclose(values, layer.values, atol=1e-4)


def test_a_saved_checkpoint_obeys_the_reference_s_own_call(tmp_path: Path) -> None:
    """A limit in the file must not stand above one in the call, nor be warned of."""
    reference, _ = pair(CASES["vit-gpt2"], tmp_path)
    for most in (7, 20):
        config = GenerationConfig(num_beams=1, max_new_tokens=most, decoder_start_token_id=START)
        (tmp_path / "generation_config.json").write_text(json.dumps(config.write()))
        again = type(reference).from_pretrained(tmp_path)
        pixel_values = torch.from_numpy(CASES["vit-gpt2"].inputs(False)["pixel_values"])
        for asked, length in (({}, 1 + most), ({"max_length": 5}, 5), ({"max_new_tokens": 3}, 4)):
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("error")
                assert again.generate(pixel_values, **asked).shape[1] == length
