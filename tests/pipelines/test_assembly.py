"""Captioners made of halves."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

import captax
from captax.checkpoints.state import CheckpointError, parameters
from captax.models.config import ConfigError
from captax.models.transformer import TransformerDecoderConfig
from captax.pipelines.assembly import from_pretrained_halves
from captax.pipelines.captioner import Captioner
from captax.text import Tokenizer

Checkpoint = Callable[[str], Path]


@pytest.fixture(scope="module")
def assembled(checkpoint: Checkpoint) -> Captioner:
    captioner = from_pretrained_halves(checkpoint("vit-classifier"), checkpoint("gpt2"), seed=3)
    assert isinstance(captioner, Captioner)
    return captioner


def test_what_was_pretrained_is_kept(assembled: Captioner, checkpoint: Checkpoint) -> None:
    whole = parameters(assembled.model)
    for half, name in (("encoder", "vit-classifier"), ("decoder", "gpt2")):
        for path, value in parameters(captax.load_model(checkpoint(name))).items():
            if "classifier" not in path:
                np.testing.assert_array_equal(whole[f"{half}.{path}"], value, err_msg=path)


def test_cross_attention_is_new_and_begins_as_the_reference_begins_it(
    assembled: Captioner, checkpoint: Checkpoint
) -> None:
    """Normal with GPT-2's 0.02, what writes to the residual stream smaller with depth; biases 0."""
    new = {n: np.asarray(v) for n, v in parameters(assembled.model).items() if "cross" in n}
    assert len(new) == 2 * (2 + 4 * 2)  # two layers: norm, and query, key, value, out
    for name, value in new.items():
        if name.endswith("kernel"):
            want = 0.02 / 2 if ".out." in name else 0.02  # sqrt of 2 x 2 layers
            assert abs(value.std() / want - 1) < 0.2, name
            assert abs(value.mean()) < 0.2 * want
        else:
            np.testing.assert_array_equal(value, 1.0 if name.endswith("scale") else 0.0)
    other = from_pretrained_halves(checkpoint("vit-classifier"), checkpoint("gpt2"), seed=4)
    name = "decoder.layers.0.cross_attention.query.kernel"
    assert (np.asarray(parameters(other.model)[name]) != new[name]).mean() > 0.9


@pytest.mark.slow
def test_it_captions_and_comes_back_as_the_family_that_transformers_has(
    assembled: Captioner, examples: Path, tmp_path: Path
) -> None:
    image = examples / "cat.jpg"
    want = assembled.caption(image, max_new_tokens=5)
    assembled.save(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["model_type"] == "vision-encoder-decoder"
    assert config["decoder"]["add_cross_attention"] and config["decoder"]["is_decoder"]
    # GPT-2's own ids, as its config names them; it has no pad token, so the tokenizer's.
    assert (config["decoder_start_token_id"], config["eos_token_id"]) == (1, 2)
    assert config["pad_token_id"] == assembled.tokenizer.pad_id
    names = safetensors.numpy.load_file(tmp_path / "saved" / "model.safetensors").keys()
    assert {name.split(".")[0] for name in names} == {"encoder", "decoder"}
    assert "encoder.pooler.dense.weight" in names  # nothing reads it, but transformers misses it
    again = captax.load(tmp_path / "saved")
    assert again.caption(image, max_new_tokens=5) == want
    assert again.generation == assembled.generation and again.generation.num_beams == 4


@pytest.mark.slow
def test_a_new_decoder_takes_the_place_of_a_pretrained_one(
    checkpoint: Checkpoint, tiny_tokenizer: Tokenizer, examples: Path, tmp_path: Path
) -> None:
    config = TransformerDecoderConfig(
        vocab_size=tiny_tokenizer.vocab_size,
        width=16,
        layers=1,
        heads=2,
        mlp_width=16,
        features_width=24,
        grid=(4, 4),
    )
    captioner = from_pretrained_halves(checkpoint("vit"), config, tokenizer=tiny_tokenizer)
    want = captioner.caption(examples / "cat.jpg", max_new_tokens=4)
    captioner.save(tmp_path / "saved")
    written = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert written["model_type"] == "captax-encoder-decoder"
    assert written["encoder"]["model_type"] == "vit"
    assert captax.load(tmp_path / "saved").caption(examples / "cat.jpg", max_new_tokens=4) == want
    with pytest.raises(CheckpointError, match="give its tokenizer"):
        from_pretrained_halves(checkpoint("vit"), config)


def test_halves_of_different_widths_get_a_projection(
    checkpoint: Checkpoint, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    config = captax.load_model(checkpoint("gpt2")).config
    wider = type(config)(**{**vars(config), "n_embd": 30, "add_cross_attention": True})
    captioner = from_pretrained_halves(checkpoint("vit"), wider, tokenizer=tiny_tokenizer)
    assert captioner.model.project.kernel.shape == (30, 24)
    captioner.save(tmp_path / "saved")
    names = safetensors.numpy.load_file(tmp_path / "saved" / "model.safetensors")
    assert names["enc_to_dec_proj.weight"].shape == (30, 24)


def test_what_is_no_such_half_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    encoders = (
        "bert, clip, clip_vision_model, convnext, deit, efficientnet-lite, florence_vision, "
        "git_vision_model, idefics3_vision, resnet, siglip, siglip_vision_model, "
        "smolvlm_vision, swinv2, vit"
    )
    refused = rf"config\.json: gpt2 cannot be the encoder; use one of {encoders}, vit_msn$"
    with pytest.raises(ConfigError, match=refused):
        from_pretrained_halves(checkpoint("gpt2"), checkpoint("gpt2"))
    refused = r"config\.json: vit cannot be the decoder; use one of bert, gpt2$"
    with pytest.raises(ConfigError, match=refused):
        from_pretrained_halves(checkpoint("vit"), checkpoint("vit"))
    path = shutil.copytree(checkpoint("vit-gpt2"), tmp_path / "vit-gpt2")
    config = json.loads((path / "config.json").read_text())
    config["decoder"] = config["encoder"]
    (path / "config.json").write_text(json.dumps(config))
    refused = r"vit cannot be the decoder; give the config of a text decoder, such as gpt2$"
    with pytest.raises(ConfigError, match=rf"config\.json: {refused}"):
        captax.load_model(path)


def test_a_half_that_does_not_fit_is_named_tensor_by_tensor(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """One missing, one unexpected and one misshapen, all in one error."""
    path = tmp_path / "gpt2"
    path.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (path / name).write_bytes((checkpoint("gpt2") / name).read_bytes())
    tensors = safetensors.numpy.load_file(checkpoint("gpt2") / "model.safetensors")
    del tensors["transformer.h.1.ln_2.bias"]
    tensors["transformer.h.1.ln_3.bias"] = np.zeros(3, np.float32)
    tensors["transformer.wpe.weight"] = np.zeros((7, 24), np.float32)
    safetensors.numpy.save_file(tensors, path / "model.safetensors")
    for load in (
        captax.load_model,
        lambda path: from_pretrained_halves(checkpoint("vit"), path),
    ):
        with pytest.raises(CheckpointError) as error:
            load(path)
        for part in (
            str(path),
            "missing transformer.h.1.ln_2.bias",
            "unexpected transformer.h.1.ln_3.bias",
            r"transformer.wpe.weight is (7, 24), expected (20, 24)",
        ):
            assert part in str(error.value)


def test_no_values_are_drawn_for_sizes_that_the_checkpoint_does_not_have(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    path = shutil.copytree(checkpoint("gpt2"), tmp_path / "gpt2")
    config = json.loads((path / "config.json").read_text())
    # Of which one matrix of floats would be three million gigabytes.
    (path / "config.json").write_text(
        json.dumps(config | {"vocab_size": 2**30, "n_embd": 3 * 2**18})
    )
    with pytest.raises(
        CheckpointError, match=r"wte.weight is \(.*\), expected \(1073741824, 786432"
    ):
        from_pretrained_halves(checkpoint("vit"), path)


@pytest.mark.slow
def test_halves_can_be_cast(checkpoint: Checkpoint, examples: Path) -> None:
    captioner = from_pretrained_halves(checkpoint("vit"), checkpoint("gpt2"), dtype="bfloat16")
    kinds = {value.dtype.name for value in jax.tree.leaves(parameters(captioner.model))}
    assert kinds == {"bfloat16"}
    assert captioner.caption(examples / "cat.jpg", max_new_tokens=3)[0].text is not None
