"""GGUF files, which llama.cpp's own package writes here: metadata, narrow weights, whole models."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from gguf.quants import dequantize

import captax
from captax.checkpoints.gguf import open_gguf
from captax.checkpoints.gguf_models import load_gguf
from captax.errors import CaptaxError, CheckpointError
from captax.pipelines.text_generator import TextGenerator
from captax.text.gguf import read_gguf_tokenizer
from checkpoints.gguf_files import GEMMA2, GPT2, LLAMA, MODELS, PIECES, Kind, numbers, theirs, write

# Bytes of a block at which its half-precision numbers begin.
HALVES = {
    Kind.Q4_0: (0,),
    Kind.Q4_1: (0, 2),
    Kind.Q5_0: (0,),
    Kind.Q5_1: (0, 2),
    Kind.Q8_0: (0,),
    Kind.Q4_K: (0, 2),
    Kind.Q5_K: (0, 2),
    Kind.Q6_K: (208,),
}


@pytest.fixture(params=MODELS)
def pair(
    request: pytest.FixtureRequest, make_model: Callable[..., Any], tmp_path: Path
) -> tuple[Any, Path]:
    """A model with random weights, and the file of it."""
    config = MODELS[request.param]
    model = make_model(config)
    path = tmp_path / "model.gguf"
    return model, write(path, request.param, numbers(config), theirs(model))


@pytest.mark.parametrize("kind", HALVES, ids=lambda kind: kind.name)
def test_narrow_weights_are_those_of_the_reference(kind: Kind, tmp_path: Path) -> None:
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (15, size), np.uint8)
    for at in HALVES[kind]:
        halves = rng.normal(size=15).astype("<f2")
        blocks[:, at : at + 2] = halves.view(np.uint8).reshape(15, 2)
    rows = blocks.reshape(5, 3 * size)
    writer = gguf.GGUFWriter(tmp_path / "w.gguf", "none")
    writer.add_tensor("x", rows, raw_dtype=kind)
    for write_part in ("header", "kv_data", "tensors"):
        getattr(writer, f"write_{write_part}_to_file")()
    writer.close()
    tensor = open_gguf(tmp_path / "w.gguf").tensors["x"]
    assert tensor.shape == (5, 3 * weights)
    np.testing.assert_array_equal(tensor.read(), dequantize(rows, kind))


def test_a_model_computes_what_it_did_before_it_was_converted(pair: tuple[Any, Path]) -> None:
    model, path = pair
    again = load_gguf(open_gguf(path))
    ours, theirs = again.config.write(), model.config.write()
    for name in ("rms_norm_eps", "rope_parameters", "bos_token_id", "eos_token_id"):
        assert ours[name] == theirs[name]
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 12, (2, 12)), jnp.int32)
    want = jax.jit(lambda: model(None, tokens))()
    np.testing.assert_allclose(jax.jit(lambda: again(None, tokens))(), want, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        (Kind.F32, "float32"),
        (Kind.F16, "float16"),
        (Kind.BF16, "bfloat16"),
        (Kind.Q8_0, "bfloat16"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_auto_is_the_type_of_the_file(
    kind: Kind, kept: str, make_model: Callable[..., Any], tmp_path: Path
) -> None:
    path = write(tmp_path / "a.gguf", "llama", numbers(LLAMA), theirs(make_model(LLAMA)), kind)
    again = load_gguf(open_gguf(path), dtype="auto")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(nnx.state(again))} == {kept}


def test_a_file_continues_texts(pair: tuple[Any, Path]) -> None:
    model, path = pair
    generator = captax.load(path)
    assert isinstance(generator, TextGenerator)
    [answer] = generator.generate("abc", max_new_tokens=5)
    # Every text begins with <s>, as the file's tokenizer says.
    read = [1, *generator.tokenizer.encode_plain(["abc"])[0]]
    for _ in range(len(answer.tokens)):
        logits = model(None, jnp.array([read]))
        read.append(int(logits[0, -1].argmax()))
    assert tuple(read[-len(answer.tokens) :]) == answer.tokens


def test_llama_3s_stretched_angles_are_told_from_their_divisors(
    make_model: Callable[..., Any], tmp_path: Path
) -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = {**LLAMA, "rope_theta": 500_000.0, "rope_scaling": scaling}
    model = make_model(config)
    rotary = model.layers[0].rotary
    plain = rotary.theta ** -(np.arange(4) / 4)
    divisors = (plain / rotary.frequencies()).astype(np.float32)
    assert divisors.max() == 32 and divisors.min() == 1
    tensors = {**theirs(model), "rope_freqs.weight": divisors}
    path = write(tmp_path / "a.gguf", "llama", numbers(config), tensors)
    assert load_gguf(open_gguf(path)).layers[0].rotary == rotary
    tensors["rope_freqs.weight"] = divisors + np.array([0, 0, 1, 0], np.float32)
    path = write(tmp_path / "b.gguf", "llama", numbers(config), tensors)
    with pytest.raises(CheckpointError, match=r"rope_freqs.weight are not those of Llama 3"):
        load_gguf(open_gguf(path))


def test_the_largest_gemma_2_divides_queries_by_another_width(
    make_model: Callable[..., Any], tmp_path: Path
) -> None:
    """As llama.cpp does, which writes no such number into the file; nor the usual limits."""
    config = {**GEMMA2, "num_hidden_layers": 46, "query_pre_attn_scalar": 32 // 4}
    said = numbers(config)
    for key in ("attn_logit_softcapping", "final_logit_softcapping", "attention.sliding_window"):
        del said[key]
    model = make_model(config)
    again = load_gguf(open_gguf(write(tmp_path / "a.gguf", "gemma2", said, theirs(model))))
    assert again.config == dataclasses.replace(
        model.config,
        sliding_window=4096,
        attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0,
        pad_token_id=None,
        rms_norm_eps=again.config.rms_norm_eps,
    )
    assert again.layers[1].self_attention.scale == 8**-0.5


@pytest.mark.parametrize("cap", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["attn_logit_softcapping", "final_logit_softcapping"])
def test_limits_that_are_none_are_refused(tmp_path: Path, key: str, cap: float) -> None:
    tensors = {"token_embd.weight": np.ones((12, 32), np.float32)}
    said = {**numbers(GEMMA2), key: cap}
    with pytest.raises(CheckpointError, match=rf"a\.gguf: gemma2: {key}="):
        load_gguf(open_gguf(write(tmp_path / "a.gguf", "gemma2", said, tensors)))


def test_a_file_cut_short_anywhere_is_told_of(pair: tuple[Any, Path], tmp_path: Path) -> None:
    content = pair[1].read_bytes()
    header = content.index(b"output_norm") + 100
    broken = tmp_path / "broken.gguf"
    for end in itertools.chain(range(0, 200, 3), range(200, header, 97), [len(content) - 1]):
        broken.write_bytes(content[:end])
        with pytest.raises(CheckpointError, match=r"broken\.gguf: "):
            open_gguf(broken)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b"GGUF\x03", b"GGUF\x01", "GGUF version 1 is not supported"),
        (b"GGUF\x03\0\0\0", b"GGUF\x03\0\0\0" + b"\xff" * 7 + b"\x7f", "claims"),
        (b"blk.0.attn_q.weight", b"blk.0.attn_k.weight", "has the tensor 'blk.0.attn_k.weight' t"),
        (b"tokenizer.ggml.tokens\x09\0\0\0\x08", b"tokenizer.ggml.tokens\x09\0\0\0\x63", "type 99"),
        (
            b"tokens\x09\0\0\0\x08\0\0\0\x0c\0\0\0\0",
            b"tokens\x09\0\0\0\x08\0\0\0\x0c\0\0\0\x7f",
            "short",
        ),
    ],
)
def test_a_file_that_describes_itself_wrongly_is_refused(
    make_model: Callable[..., Any], tmp_path: Path, old: bytes, new: bytes, told: str
) -> None:
    path = write(tmp_path / "a.gguf", "llama", numbers(LLAMA), theirs(make_model(LLAMA)))
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new + b"" if len(new) == len(old) else new))
    with pytest.raises(CheckpointError, match=told):
        open_gguf(path)


def test_what_captax_does_not_have_is_told_in_a_line(
    make_model: Callable[..., Any], tmp_path: Path
) -> None:
    tensors, said = theirs(make_model(LLAMA)), numbers(LLAMA)
    with pytest.raises(CheckpointError, match="the architecture 'mamba' is not supported; use one"):
        load_gguf(open_gguf(write(tmp_path / "a.gguf", "mamba", said, tensors)))
    del said["block_count"]
    with pytest.raises(CheckpointError, match=r"has no llama\.block_count in its metadata"):
        load_gguf(open_gguf(write(tmp_path / "b.gguf", "llama", said, tensors)))
    more = {**tensors, "blk.0.strange.weight": np.ones(3, np.float32)}
    with pytest.raises(CheckpointError, match=r"blk\.0\.strange\.weight"):
        load_gguf(open_gguf(write(tmp_path / "c.gguf", "llama", numbers(LLAMA), more)))
    (tmp_path / "folder").mkdir()
    path = write(tmp_path / "folder" / "d.gguf", "llama", numbers(LLAMA), tensors)
    with pytest.raises(CaptaxError, match="holds GGUF files; give the path of one of them"):
        (path.parent / "config.json").write_text('{"model_type": "llama"}')
        captax.load(path.parent)


@pytest.mark.parametrize("key", ["model", "pre", "add_bos_token", "bos_token_id"])
def test_arrays_in_the_place_of_one_value_are_refused(tmp_path: Path, key: str) -> None:
    tokens = {"model": "gpt2", "tokens": ["<s>", "a"], "merges": [], "bos_token_id": 0}
    # Of texts, which no test is made of, and of numbers, which are neither true nor false.
    for value in (["a", "b"], [1.0, 2.0]):
        said = metadata(tmp_path / "a.gguf", {**tokens, key: value})
        try:
            read_gguf_tokenizer(said, tmp_path)
        except CaptaxError as error:
            assert str(tmp_path) in str(error)
        config = {**numbers(LLAMA), "block_count": 1}
        path = write(tmp_path / "b.gguf", "llama", config, {}, tokens={**tokens, key: value})
        with pytest.raises(CheckpointError, match=r"b\.gguf: has no embedding of tokens"):
            load_gguf(open_gguf(path))


@pytest.mark.parametrize("divisors", [np.zeros((0,)), np.ones((2, 2)), np.full(4, np.nan), [0.5]])
def test_divisors_of_nothing_are_refused(
    make_model: Callable[..., Any], tmp_path: Path, divisors: Any
) -> None:
    tensors = {**theirs(make_model(LLAMA)), "rope_freqs.weight": np.asarray(divisors, np.float32)}
    path = write(tmp_path / "a.gguf", "llama", numbers(LLAMA), tensors)
    with pytest.raises(CheckpointError, match=r"a\.gguf: "):
        load_gguf(open_gguf(path))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention.head_count", 0),
        ("block_count", 2**31),
        ("embedding_length", 1.5),
        ("rope.freq_base", float("nan")),
        ("attention.layer_norm_rms_epsilon", float("inf")),
        ("attention.key_length", 0),
    ],
)
@pytest.mark.parametrize("architecture", MODELS)
def test_hostile_numbers_are_refused(
    tmp_path: Path, architecture: str, key: str, value: float
) -> None:
    count = 46 if architecture == "gemma2" else 62
    said = {**numbers(MODELS[architecture]), "block_count": count, key: value}
    tensors = {"token_embd.weight": np.ones((12, 32), np.float32)}
    with pytest.raises(CheckpointError, match=r"a\.gguf: "):
        load_gguf(open_gguf(write(tmp_path / "a.gguf", architecture, said, tensors)))


def metadata(path: Path, tokens: dict[str, Any]) -> dict[str, Any]:
    return dict(open_gguf(write(path, "none", {}, {"x": np.ones(2, "f4")}, tokens=tokens)).metadata)


def test_pieces_are_joined_by_their_scores(tmp_path: Path) -> None:
    tokens = {
        "model": "llama",
        "tokens": PIECES,
        "scores": [0.0] * 7 + [-1.0, -2.0, -9.0, -3.0, 0.0],
        "token_type": [3, 3, 3, 2, 1, 1, 1, 1, 1, 1, 1, 1],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 3,
        "add_space_prefix": False,
    }
    tokenizer = read_gguf_tokenizer(metadata(tmp_path / "a.gguf", tokens), tmp_path)
    [ids] = tokenizer.encode_plain(["abc abcx"])
    # The space joins "a" last, for the pair "ab" has a better score.
    assert [PIECES[i] for i in ids] == ["abc", "\u2581", "abc", "x"]
    assert tokenizer.decode(ids) == "abc abcx"
    assert tokenizer.encode_template(["ab"]) == [[1, 7]]
    assert tokenizer.encode_plain(["<s>"])[0][0] != 1  # written in a text it is no special token


def test_bytes_are_joined_in_the_order_of_the_merges(tmp_path: Path) -> None:
    tokenizer = read_gguf_tokenizer(metadata(tmp_path / "a.gguf", GPT2), tmp_path)
    assert tokenizer.encode_plain(["ab ab12"]) == [[6, 7, 4, 5]]  # digits stay apart
    assert tokenizer.decode([6, 7, 4, 5]) == "ab ab12"
    assert tokenizer.encode_template(["ab"]) == [[6]]
    plain = metadata(tmp_path / "b.gguf", {**GPT2, "pre": "gpt-2"})
    assert read_gguf_tokenizer(plain, tmp_path).encode_plain(["ab12"]) == [[6, 8]]
    for change, told in (
        ({"pre": "tekken"}, "in the way 'tekken'"),
        ({"model": "bert"}, "of the kind 'bert'"),
        ({"merges": ["a"]}, "not a readable tokenizer"),
        ({"merges": ["a z"]}, "not a readable tokenizer"),
    ):
        changed = metadata(tmp_path / "c.gguf", {**GPT2, **change})
        with pytest.raises(CaptaxError, match=told):
            read_gguf_tokenizer(changed, tmp_path)
