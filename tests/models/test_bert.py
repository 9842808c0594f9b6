"""BERT's decoder token by token, and checkpoints of other spellings and for other ends."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from captax.checkpoints.directory import load_half, load_model, save_model
from captax.checkpoints.state import parameters
from captax.errors import CheckpointError
from captax.models.bert import BertConfig
from captax.models.config import ConfigError, Roles, read_config
from captax.models.encoders import LengthError, TextBatch
from golden.case import assert_same
from golden.families import CASES

ENCODER, DECODER, UNTIED = CASES["bert"], CASES["bert-decoder"], CASES["bert-decoder-untied"]
BERT2BERT = CASES["bert2bert"]
WORDS, HEAD = "bert.embeddings.word_embeddings.weight", "cls.predictions"

Tensors = dict[str, np.ndarray]


def stored(case: Any) -> Tensors:
    return safetensors.numpy.load_file(case.stored / "model.safetensors")


def checkpoint(directory: Path, tensors: Tensors, config: Mapping[str, Any]) -> Path:
    """Tensors with the config of the encoder, changed by `config`."""
    described = json.loads((ENCODER.stored / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(described | config))
    safetensors.numpy.save_file(tensors, directory / "model.safetensors")
    return directory


def pretraining(model: Tensors, head: Tensors) -> Tensors:
    """A checkpoint as BERT's authors' were converted: both heads, old names, copies, a buffer."""
    rng = np.random.default_rng(0)
    tensors = {
        **{name if name in head else f"bert.{name}": value for name, value in model.items()},
        **{name: value for name, value in head.items() if name.startswith("cls.")},
        "bert.pooler.dense.weight": rng.standard_normal((24, 24), np.float32),
        "bert.pooler.dense.bias": rng.standard_normal(24, np.float32),
        "cls.seq_relationship.weight": rng.standard_normal((2, 24), np.float32),
        "cls.seq_relationship.bias": rng.standard_normal(2, np.float32),
        "bert.embeddings.position_ids": np.arange(14)[None],
    }
    tensors[f"{HEAD}.decoder.weight"] = tensors[WORDS].copy()
    tensors[f"{HEAD}.decoder.bias"] = tensors[f"{HEAD}.bias"].copy()
    return {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for name, value in tensors.items()
    }


def assert_golden(case: Any, model: nnx.Module) -> None:
    inputs, want = case.golden()
    assert_same(case.outputs(model, inputs), want)


@pytest.mark.parametrize("prompt", [1, 3])
def test_decoding_with_a_cache_gives_the_logits_of_the_whole_text(prompt: int) -> None:
    """Texts of different lengths are read, and two beams of each are written."""
    model = load_model(BERT2BERT.stored)
    inputs, _ = BERT2BERT.golden()
    text = TextBatch(inputs["input_ids"], inputs["attention_mask"] == 1)
    tokens = np.random.default_rng(1).integers(0, 40, (4, 7)).astype(np.int32)
    tokens[1::2, :prompt] = tokens[::2, :prompt]  # beams have their prompt in common
    features = jax.jit(model.encode)(text)
    repeated = jax.tree.map(lambda each: jnp.repeat(each, 2, axis=0), features)
    whole = jax.jit(model.read)(repeated, tokens)
    begin, advance = jax.jit(model.begin, static_argnums=(2, 3)), jax.jit(model.advance)
    logits, cache = begin(features, tokens[::2, :prompt], 7 - prompt, 2)
    np.testing.assert_allclose(logits, whole[::2, prompt - 1], atol=1e-4)
    for t in range(prompt, 7):
        logits, cache = advance(tokens[:, t], cache)
        np.testing.assert_allclose(logits, whole[:, t], atol=1e-4)


def test_what_pads_a_text_changes_nothing_that_is_said() -> None:
    model = load_model(BERT2BERT.stored)
    inputs, want = BERT2BERT.golden()
    other = np.where(inputs["attention_mask"], inputs["input_ids"], 3)
    assert (other != inputs["input_ids"]).any()
    got = BERT2BERT.outputs(model, inputs | {"input_ids": other})
    assert_same({"logits": got["logits"]}, want)


def test_a_pretraining_checkpoint_is_an_encoder(tmp_path: Path) -> None:
    tensors = pretraining(stored(ENCODER), stored(DECODER))
    model = load_model(checkpoint(tmp_path, tensors, {}))
    assert_golden(ENCODER, model)
    pooler = tensors["bert.pooler.dense.weight"]
    np.testing.assert_array_equal(parameters(model)["pooler.kernel"], pooler)


def test_a_pretraining_checkpoint_is_a_decoder(tmp_path: Path) -> None:
    tensors = pretraining(stored(DECODER), stored(DECODER))
    assert_golden(DECODER, load_model(checkpoint(tmp_path, tensors, {"is_decoder": True})))


def test_either_name_of_what_is_tied_will_do(tmp_path: Path) -> None:
    renamed = {WORDS: f"{HEAD}.decoder.weight", f"{HEAD}.bias": f"{HEAD}.decoder.bias"}
    other = {renamed.get(name, name): value for name, value in stored(DECODER).items()}
    assert_golden(DECODER, load_model(checkpoint(tmp_path, other, {"is_decoder": True})))


def test_a_masked_language_model_becomes_a_decoder_with_new_cross_attention(
    tmp_path: Path,
) -> None:
    tensors = pretraining(stored(DECODER), stored(DECODER))
    model = load_half(checkpoint(tmp_path, tensors, {}), "decoder", rngs=nnx.Rngs(0))
    assert model.context_width == 24
    assert_golden(DECODER, model)  # without features, it is the language model that it was
    new = {name: np.asarray(value) for name, value in parameters(model).items() if "cross" in name}
    assert new["layers.1.cross_attention.value.kernel"].std() == pytest.approx(0.02, rel=0.2)
    saved = tmp_path / "saved"
    saved.mkdir()
    save_model(saved, model)
    assert load_model(saved).config == model.config


def test_any_bert_becomes_an_encoder(tmp_path: Path) -> None:
    """Of a decoder, what it has besides is left behind."""
    crossing = {
        name.removeprefix("decoder."): value
        for name, value in stored(BERT2BERT).items()
        if "crossattention" in name
    }
    bare = {name: value for name, value in stored(ENCODER).items() if "pooler" not in name}
    tensors = {f"bert.{name}": value for name, value in bare.items()} | crossing
    head = {name: value for name, value in stored(DECODER).items() if name.startswith("cls.")}
    config = {"is_decoder": True, "add_cross_attention": True}
    directory = checkpoint(tmp_path, tensors | head, config)
    model = load_half(directory, "encoder", rngs=nnx.Rngs(0))
    assert_golden(ENCODER, model)
    assert model.config.pooler  # a new one: nothing reads it, but transformers misses it


def test_an_untied_head_that_transformers_4_wrote_has_one_bias(tmp_path: Path) -> None:
    tensors = stored(UNTIED)
    tensors[f"{HEAD}.bias"] = tensors.pop(f"{HEAD}.decoder.bias")
    config = {"is_decoder": True, "tie_word_embeddings": False}
    model = load_model(checkpoint(tmp_path, tensors, config))
    assert_golden(UNTIED, model)
    saved = tmp_path / "saved"
    saved.mkdir()
    save_model(saved, model)
    assert safetensors.numpy.load_file(saved / "model.safetensors").keys() == tensors.keys()
    assert_golden(UNTIED, load_model(saved))


@pytest.mark.parametrize("case", [ENCODER, DECODER, UNTIED, BERT2BERT], ids=lambda case: case.name)
def test_a_written_config_says_all(case: Any) -> None:
    """Without a look at the tensors."""
    config = load_model(case.stored).config
    assert read_config(json.loads(json.dumps(config.write()))) == config


def test_another_tasks_head_is_reported(tmp_path: Path) -> None:
    tensors = {**stored(ENCODER), "classifier.weight": np.zeros((2, 24), np.float32)}
    with pytest.raises(CheckpointError, match=r"unexpected classifier\.weight"):
        load_model(checkpoint(tmp_path, tensors, {}))


def test_a_config_is_turned_into_a_decoders() -> None:
    config = BertConfig(pooler=True, bos_token_id=5)
    turned = dataclasses.replace(config, is_decoder=True, add_cross_attention=True)
    assert turned == config.as_decoder() == BertConfig(add_cross_attention=True, bos_token_id=5)
    assert turned.roles() == Roles(start=5, eos=None, pad=0)
    assert turned.write()["architectures"] == ["BertLMHeadModel"]
    assert turned.as_encoder() == BertConfig(pooler=True, bos_token_id=5)


def test_a_text_that_is_too_long_is_refused() -> None:
    model = load_model(ENCODER.stored)
    text = TextBatch(np.ones((1, 15), np.int32), np.ones((1, 15), bool))
    with pytest.raises(
        LengthError, match="encoder reads 14 tokens and was given 15; shorten the texts"
    ):
        model(text)


@pytest.mark.parametrize(
    ("key", "value"),
    [("position_embedding_type", "relative_key"), ("cross_attention_hidden_size", 32)],
)
def test_what_is_not_supported_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"bert: {key}={value!r}"):
        read_config({"model_type": "bert", key: value})


def test_tokens_alone_are_texts_without_padding() -> None:
    model = load_model(ENCODER.stored)
    tokens = np.array([[5, 6, 7], [8, 9, 10]])
    whole = TextBatch(tokens, np.ones((2, 3), bool))
    np.testing.assert_array_equal(model(jnp.asarray(tokens)).tokens, model(whole).tokens)
