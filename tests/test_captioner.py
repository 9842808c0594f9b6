"""What a user holds: pictures of any kind in, captions in order out."""

import io
import json
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import captax
from captax.captioner import Caption, Captioner
from captax.checkpoints.directory import save_model
from captax.checkpoints.state import CheckpointError
from captax.errors import CaptaxError
from captax.generation import Beam, GenerationConfig, generate
from captax.images import ImageError


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """Eleven pictures of coloured tiles, of several sizes."""
    rng = np.random.default_rng(0)
    tiles = [rng.integers(0, 256, (3, 4, 3), np.uint8) for _ in range(11)]
    return [np.kron(each, np.ones((20 + i, 20, 1), np.uint8)) for i, each in enumerate(tiles)]


@pytest.fixture(scope="module")
def captions(tiny_captioner: Captioner, pictures: list[np.ndarray]) -> list[Caption]:
    return tiny_captioner.caption(pictures, batch_size=8)


def same(got: Caption, want: Caption) -> bool:
    return got.tokens == want.tokens and abs(got.score - want.score) < 1e-4


def test_a_caption_is_what_beam_search_finds_for_the_picture(
    tiny_captioner: Captioner, pictures: list[np.ndarray], captions: list[Caption]
) -> None:
    model, tokenizer = tiny_captioner.model, tiny_captioner.tokenizer
    pixels = tiny_captioner.processor(pictures)

    @jax.jit
    def decode(pixels: jax.Array) -> Any:
        return generate(
            model,
            model.encode(pixels),
            jnp.full((11, 1), tokenizer.start_id),
            Beam(num_beams=3),
            max_new_tokens=8,
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
        )

    want = jax.device_get(decode(pixels))
    inputs = np.concatenate([np.full((11, 1), tokenizer.start_id), want.tokens[:, 0, :-1]], 1)
    logits = jax.jit(lambda pixels, tokens: model(pixels, tokens))(pixels, inputs.astype(np.int32))
    logprobs = np.asarray(jax.nn.log_softmax(logits))
    for row, caption in enumerate(captions):
        length = want.lengths[row, 0]
        assert caption.tokens == tuple(want.tokens[row, 0, :length].tolist())
        said = [tokenizer.token(token) for token in caption.tokens]
        words = [word for word in said if word not in ("<pad>", "<start>", "<eos>", "<unk>")]
        assert caption.text == str(caption) == " ".join(words)
        # The score is the mean log-probability of the tokens, eos included, read all at once.
        taken = logprobs[row, np.arange(length), list(caption.tokens)]
        assert caption.score == pytest.approx(taken.mean(), abs=1e-4)
        assert [(a.text, a.score) for a in caption.alternatives] == [(caption.text, caption.score)]
    assert len({caption.text for caption in captions}) >= 5
    assert len({len(caption.tokens) for caption in captions}) >= 2


def test_every_kind_of_source_gives_the_same_caption(
    tiny_captioner: Captioner,
    pictures: list[np.ndarray],
    captions: list[Caption],
    tmp_path: Path,
) -> None:
    image, file = Image.fromarray(pictures[0]), io.BytesIO()
    image.save(file, "PNG")
    path = tmp_path / "picture.png"
    path.write_bytes(file.getvalue())
    sources = [path, str(path), file.getvalue(), image, pictures[0], pictures[0] / 255]
    for got in tiny_captioner.caption(sources, batch_size=8):
        assert same(got, captions[0])
    for source in sources:  # alone, without a list
        [got] = tiny_captioner.caption(source)
        assert same(got, captions[0])
    assert tiny_captioner.caption([]) == []


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_batch_size_changes_nothing(
    tiny_captioner: Captioner,
    pictures: list[np.ndarray],
    captions: list[Caption],
    batch_size: int,
) -> None:
    got = tiny_captioner.caption(pictures, batch_size=batch_size)
    assert len(got) == 11 and all(map(same, got, captions))


def test_errors_come_in_the_place_of_their_pictures(
    tiny_captioner: Captioner, pictures: list[np.ndarray], captions: list[Caption]
) -> None:
    sources: list[Any] = list(pictures)
    bad = (0, 4, 8, 9, 10)  # with batches of 8, a whole batch is bad
    for row in bad:
        sources[row] = b"no picture"
    found = list(tiny_captioner.stream(sources, batch_size=8))
    assert len(found) == 11
    for row, got in enumerate(found):
        if row in bad:
            assert isinstance(got, ImageError)
        else:
            assert isinstance(got, Caption) and same(got, captions[row])
    with pytest.raises(ImageError):
        tiny_captioner.caption(sources, batch_size=8)


def test_pictures_are_taken_as_they_come(
    tiny_captioner: Captioner, pictures: list[np.ndarray], captions: list[Caption]
) -> None:
    taken = []

    def endless() -> Iterator[np.ndarray]:
        while True:
            taken.append(1)
            yield pictures[len(taken) % 11 - 1]

    stream = tiny_captioner.stream(endless(), batch_size=8)
    for want in (*captions, *captions):
        got = next(stream)
        assert isinstance(got, Caption) and same(got, want)
    assert len(taken) < 100
    stream.close()  # type: ignore[attr-defined]


def test_alternatives_come_best_first(
    tiny_captioner: Captioner, pictures: list[np.ndarray], captions: list[Caption]
) -> None:
    found = tiny_captioner.caption(pictures[:8], batch_size=8, num_return_sequences=3)
    for got, want in zip(found, captions, strict=False):
        assert same(got, want) and len(got.alternatives) == 3
        scores = [alternative.score for alternative in got.alternatives]
        assert scores == sorted(scores, reverse=True) and got.score == scores[0]
        assert got.alternatives[0].text == got.text
    assert any(a.text != found[0].text for a in found[0].alternatives)


def test_more_alternatives_than_beams_widen_the_beam(tiny_captioner: Captioner) -> None:
    assert tiny_captioner.generation.replace(num_return_sequences=5).num_beams == 5
    assert tiny_captioner.generation.replace(num_return_sequences=2).num_beams == 3
    assert tiny_captioner.generation.replace(num_return_sequences=2, num_beams=1).num_beams == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beam": 2}, r"num_beam.*known are num_beams,"),
        ({"num_beams": 0}, "num_beams is 0"),
        ({"num_return_sequences": 0}, "num_return_sequences is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": 17}, "16 positions and 17 are needed"),
        ({"early_stopping": "soon"}, "early_stopping is 'soon'"),
    ],
)
def test_bad_options_are_refused(
    tiny_captioner: Captioner,
    pictures: list[np.ndarray],
    options: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(CaptaxError, match=message):
        tiny_captioner.caption(pictures[:1], **options)


@pytest.fixture(scope="module")
def saved(tiny_captioner: Captioner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("saved") / "captioner"
    tiny_captioner.save(directory, card="# A card\n")
    return directory


def test_saved_and_loaded_it_says_the_same(
    tiny_captioner: Captioner, saved: Path, pictures: list[np.ndarray], captions: list[Caption]
) -> None:
    loaded = captax.load(saved)
    assert loaded.caption(pictures, batch_size=8) == captions
    assert loaded.generation == tiny_captioner.generation
    assert loaded.processor == tiny_captioner.processor
    assert (saved / "README.md").read_text() == "# A card\n"
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    loaded.save(saved, card="# A card\n")  # over itself
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_half_precision_weights_are_half_the_size(
    tiny_captioner: Captioner, saved: Path, tmp_path: Path
) -> None:
    tiny_captioner.save(tmp_path / "half", dtype="float16")
    whole, half = (d / "model.safetensors" for d in (saved, tmp_path / "half"))
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    loaded = captax.load(tmp_path / "half").model.decoder.embedding[...]
    np.testing.assert_allclose(loaded, tiny_captioner.model.decoder.embedding[...], rtol=1e-3)


def test_generation_settings_are_those_saved(saved: Path, tmp_path: Path) -> None:
    path = shutil.copytree(saved, tmp_path / "captioner")
    config = path / "generation_config.json"
    # Hugging Face writes more into this file than concerns us.
    config.write_text(json.dumps({"num_beams": 5, "max_new_tokens": 7, "transformers": "5"}))
    tokens = {"decoder_start_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    want = GenerationConfig(num_beams=5, max_new_tokens=7, **tokens)
    assert captax.load(path).generation == want
    config.unlink()  # as transformers: greedy, and 20 tokens with the one it starts with
    want = GenerationConfig(num_beams=1, max_new_tokens=19, **tokens)
    assert captax.load(path).generation == want


def test_what_is_no_captioner_is_refused(
    tiny_captioner: Captioner, saved: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="nowhere: no such directory"):
        captax.load(tmp_path / "nowhere")
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    save_model(encoder, tiny_captioner.model.encoder)
    with pytest.raises(CheckpointError, match="holds a bare EfficientNetLite"):
        captax.load(encoder)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"):
        path = shutil.copytree(saved, tmp_path / name.replace(".", "-"))
        (path / name).unlink()
        with pytest.raises(CaptaxError, match=name.replace(".", r"\.")):
            captax.load(path)


def test_the_built_in_captioner_captions_the_examples(examples: Path) -> None:
    if not (resources.files("captax") / "assets" / "flickr8k-lite" / "config.json").is_file():
        pytest.skip("the built-in captioner is not in this source tree")
    captions = captax.load().caption(sorted(examples.glob("*.jpg")), num_beams=1, batch_size=1)
    assert len(captions) == 7
    for caption in captions:
        assert len(caption.text.split()) >= 3 and caption.text == caption.text.lower()
        assert "<" not in caption.text and -5 < caption.score < 0
    assert len({caption.text for caption in captions}) >= 5
