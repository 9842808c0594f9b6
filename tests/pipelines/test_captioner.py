"""What a user holds: pictures of any kind in, captions in order out."""

import inspect
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
from captax.checkpoints.directory import save_model
from captax.checkpoints.state import CheckpointError
from captax.errors import CaptaxError
from captax.generation import Beam, GenerationConfig, GenerationError, generate
from captax.generation.programs import Programs
from captax.images import ImageError
from captax.pipelines.captioner import Caption, Captioner
from captax.pipelines.streaming import several


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


def test_bytes_and_floats_make_the_same_captions(
    tiny_captioner: Captioner, pictures: list[np.ndarray], captions: list[Caption]
) -> None:
    prepared = [tiny_captioner.prepare(picture) for picture in pictures]
    assert {each.dtype for each in prepared} == {np.dtype(np.uint8)}
    floats = tiny_captioner.processor(pictures)
    seen = jax.jit(tiny_captioner.normalized)(np.stack(prepared))
    np.testing.assert_allclose(seen, floats, rtol=0, atol=1e-6)
    # By turns, so that they meet in a batch.
    mixed = [floats[i] if i % 2 else each for i, each in enumerate(prepared)]
    found = list(tiny_captioner.stream_pixels(mixed, batch_size=8))
    assert all(map(same, found, captions))


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


def test_what_is_neither_a_picture_nor_several_is_read_as_one() -> None:
    """Reading then says what it is, and what it must be."""
    assert inspect.unwrap(several)(None) == [None]


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


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 1},
        pytest.param({"num_beams": 3}, marks=pytest.mark.slow),
        pytest.param(
            {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
            marks=pytest.mark.slow,
        ),
        pytest.param({"do_sample": True, "seed": 3, "num_beams": 1}, marks=pytest.mark.slow),
    ],
    ids=["greedy", "beams", "groups", "samples"],
)
def test_the_cache_of_long_captions_grows_as_they_do(
    tiny_captioner: Captioner,
    pictures: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
) -> None:
    options = {"max_new_tokens": 14, "no_repeat_ngram_size": 2, "end_loops": False, **options}
    whole = tiny_captioner.caption(pictures[:8], min_new_tokens=14, **options)
    monkeypatch.setattr("captax.generation.programs.FIRST_ROOM", 4)
    ran: list[tuple[str, int]] = []
    run = Programs.run

    def watched(programs: Programs, name: Any, *arguments: Any, **how: Any) -> Any:
        found = run(programs, name, *arguments, **how)
        room = found.cache.ancestry.shape[-1] if name[0] == "proceed" else 0
        return ran.append((name[0], room)) or found

    monkeypatch.setattr(Programs, "run", watched)
    parts = tiny_captioner.caption(pictures[:8], min_new_tokens=14, **options)
    assert [len(each.tokens) for each in parts] == [14] * 8
    assert all(same(got, want) for got, want in zip(parts, whole, strict=True))
    # The last token is never read, and the prompt of one token lies among those that are written.
    assert ran == [("begin", 0), ("proceed", 8), ("proceed", 16), ("finish", 0)]
    if options["num_beams"] == 1:
        ran.clear()
        others = set(range(tiny_captioner.tokenizer.vocab_size)) - {tiny_captioner.tokenizer.eos_id}
        tiny_captioner.caption(pictures[:8], suppress_tokens=sorted(others), **options)
        assert ran == [("begin", 0), ("finish", 0)]


def test_more_alternatives_than_beams_widen_the_beam(tiny_captioner: Captioner) -> None:
    assert tiny_captioner.generation.replace(num_return_sequences=5).num_beams == 5
    assert tiny_captioner.generation.replace(num_return_sequences=2).num_beams == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beam": 2}, r"'num_beam'; did you mean num_beams\?"),
        ({"num_beams": 0}, "`num_beams` is 0"),
        ({"num_return_sequences": 0}, "`num_return_sequences` is 0"),
        ({"max_new_tokens": 0}, "`max_new_tokens` is 0"),
        ({"max_new_tokens": 17}, "16 positions and 17 are needed"),
        ({"early_stopping": "soon"}, "`early_stopping` is 'soon'"),
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


PROMPTS = ("", "a red", "the yellow tile is", "a", "", "a", "three green", "", "a", "a", "a red")


@pytest.mark.slow
def test_each_picture_may_have_its_own_prompt(
    tiny_captioner: Captioner, pictures: list[np.ndarray], captions: list[Caption]
) -> None:
    """Captions are those of each picture alone with its prompt."""
    options = {"batch_size": 8, "max_new_tokens": 5}
    found = tiny_captioner.caption(pictures, prompt=PROMPTS, **options)
    for row in (0, 1, 2, 10):
        [alone] = tiny_captioner.caption(pictures[row], prompt=PROMPTS[row], **options)
        assert same(found[row], alone) and found[row].text == alone.text
    for caption, prompt in zip(found, PROMPTS, strict=True):
        assert caption.text.startswith(prompt)
    broken: list[Any] = [b"no picture", *pictures[1:]]
    after = list(tiny_captioner.stream(broken, prompt=PROMPTS, **options))[1:]
    assert all(isinstance(a, Caption) and same(a, b) for a, b in zip(after, found[1:], strict=True))
    with pytest.raises(
        GenerationError, match="2 prompts are given for more pictures: give one prompt for each"
    ):
        tiny_captioner.caption(pictures[:3], prompt=["a", "a red"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 1, "length_penalty": 2.0},
        {"repetition_penalty": 1.5, "length_penalty": 0.5},
        {"no_repeat_ngram_size": 1, "prompt": "a red"},
        {"do_sample": True, "temperature": 1.5},
    ],
    ids=lambda options: "-".join(options) or "default",
)
def test_a_caption_scores_as_decoding_says(
    tiny_captioner: Captioner, pictures: list[np.ndarray], options: dict[str, Any]
) -> None:
    found = tiny_captioner.caption(pictures, batch_size=8, **options)
    scores = tiny_captioner.score(pictures, found, batch_size=8, **options)
    assert scores == pytest.approx([caption.score for caption in found], abs=1e-4)
    for caption in found:
        penalty = options.get("length_penalty", 1.0)
        total = sum(caption.logprobs) / len(caption.tokens) ** penalty
        assert len(caption.logprobs) == len(caption.tokens)
        assert caption.score == pytest.approx(total, abs=1e-4)


@pytest.mark.slow
def test_any_text_can_be_scored(tiny_captioner: Captioner, pictures: list[np.ndarray]) -> None:
    """By the log-probabilities of its tokens and eos, read all at once."""
    texts = ["a red square", "three green stripes on a black wall", "a", ""]
    scores = tiny_captioner.score(pictures[:4], texts, batch_size=3)
    said = tiny_captioner.tokenizer.encode(texts)
    tokens = np.array([[*each, *[0] * (9 - len(each))] for each in said])
    read = jax.jit(lambda *given: jax.nn.log_softmax(tiny_captioner.model(*given)))
    logprobs = np.asarray(read(tiny_captioner.processor(pictures[:4]), tokens[:, :-1]))
    for row, each in enumerate(said):
        want = logprobs[row, np.arange(len(each) - 1), each[1:]].mean()
        assert scores[row] == pytest.approx(want, abs=1e-4)
    assert tiny_captioner.score(pictures[0], texts[0]) == pytest.approx(scores[:1], abs=1e-4)
    # What constraints forbid scores as if they did not.
    forbidden = tiny_captioner.score(pictures[0], texts[0], bad_words="red", min_length=9)
    assert forbidden == pytest.approx(scores[:1], abs=1e-4)
    with pytest.raises(GenerationError, match="1 caption for 2 pictures"):
        tiny_captioner.score(pictures[:2], ["a"])
    with pytest.raises(GenerationError, match="has 21 tokens and the decoder reads 16"):
        tiny_captioner.score(pictures[0], "a " * 20)
    with pytest.raises(ImageError):
        tiny_captioner.score([b"no picture"], ["a"])


def test_words_that_the_tokenizer_lacks_are_named(tiny_captioner, pictures):
    told = r"lacks \('zebras', 'zoo'\)"
    for read in (
        lambda: tiny_captioner.score(pictures[0], "a zebras red zoo zebras"),
        lambda: tiny_captioner.explain(pictures[0], "a zebras red zoo zebras"),
    ):
        with pytest.warns(UserWarning, match=told):
            read()
    with pytest.raises(GenerationError, match=told):
        tiny_captioner.caption(pictures[0], prompt="a zebras red zoo zebras")


@pytest.mark.slow
def test_words_can_be_banned_and_required(
    tiny_captioner: Captioner, pictures: list[np.ndarray], captions: list[Caption]
) -> None:
    said = captions[0].text.split()[0]
    assert any(said in caption.text.split() for caption in captions)
    found = tiny_captioner.caption(pictures, batch_size=8, bad_words=[said, "zebra"])
    assert not any(said in caption.text.split() for caption in found)
    required = ["black wall", "three"]
    assert not all(word in caption.text for caption in captions for word in required)
    found = tiny_captioner.caption(pictures, batch_size=8, force_words=required)
    assert all(word in caption.text for caption in found for word in required)
    with pytest.raises(GenerationError, match="'zebra' cannot be required"):
        tiny_captioner.caption(pictures[0], force_words="zebra")


@pytest.mark.slow
def test_samples_are_of_the_picture_and_the_seed_alone(
    tiny_captioner: Captioner, pictures: list[np.ndarray]
) -> None:
    options: dict[str, Any] = {"do_sample": True, "num_return_sequences": 2}
    found = tiny_captioner.caption(pictures, seed=3, batch_size=8, **options)
    for batch_size in (1, 3):
        again = tiny_captioner.caption(pictures, seed=3, batch_size=batch_size, **options)
        assert [c.alternatives[1].text for c in again] == [c.alternatives[1].text for c in found]
        assert all(map(same, again, found))
    broken: list[Any] = [b"no picture", *pictures[1:]]
    after = list(tiny_captioner.stream(broken, seed=3, batch_size=8, **options))[1:]
    assert all(isinstance(a, Caption) and same(a, b) for a, b in zip(after, found[1:], strict=True))
    other = tiny_captioner.caption(pictures, seed=4, batch_size=8, **options)
    assert [c.tokens for c in other] != [c.tokens for c in found]

    own = tiny_captioner.caption([pictures[0]] * 3, seed=[7, 8, 7], **options)
    assert same(own[0], own[2]) and own[0].tokens != own[1].tokens
    best = tiny_captioner.caption(pictures, seed=3, batch_size=8, do_sample=True, best_of=2)
    for one, two in zip(best, found, strict=True):
        assert one.score == pytest.approx(max(a.score for a in two.alternatives), abs=1e-4)


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


@pytest.mark.slow
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
    config.write_text(json.dumps({"num_beams": [5]}))
    with pytest.raises(CaptaxError, match=r"generation_config\.json: num_beams=\[5\] must be"):
        captax.load(path)
    config.unlink()  # as transformers: greedy, and 20 new tokens, or as many as can be read
    want = GenerationConfig(num_beams=1, max_new_tokens=None, **tokens)
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
    if not (resources.files("captax") / "assets" / "captax-lite" / "config.json").is_file():
        pytest.skip("the built-in captioner is not in this source tree")
    captions = captax.load().caption(sorted(examples.glob("*.jpg")), num_beams=1, batch_size=1)
    assert len(captions) == 7
    for caption in captions:
        assert len(caption.text.split()) >= 3 and caption.text == caption.text.lower()
        assert "<" not in caption.text and -5 < caption.score < 0
    assert len({caption.text for caption in captions}) >= 5


def test_it_answers_with_the_weights_its_model_has_now(saved: Path) -> None:
    """As after a step of training on `captioner.model`."""
    captioner = captax.load(saved)
    image = np.zeros((64, 64, 3), np.uint8)
    eos = captioner.generation.eos_token_id
    assert len(captioner.caption(image)[0].tokens) > 1
    norm = captioner.model.decoder.norm
    embedding = captioner.model.decoder.embedding[...]
    norm.scale[...], norm.bias[...] = jnp.zeros_like(norm.scale), 50 * embedding[eos]
    assert captioner.caption(image)[0].tokens == (eos,)
    with pytest.raises(AttributeError):
        captioner.model = captioner.model


def test_a_prompt_of_unknown_words_is_refused(tiny_captioner: Captioner) -> None:
    with pytest.raises(CaptaxError, match="prompt 'a zebra': holds words"):
        tiny_captioner.caption(np.zeros((64, 64, 3), np.uint8), prompt="a zebra")
