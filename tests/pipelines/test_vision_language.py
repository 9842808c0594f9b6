"""Captioners that are asked, on a small SmolVLM and a small PaliGemma with random weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import captax
from captax.cli.main import app
from captax.cli.options import spelt
from captax.errors import CaptaxError, CheckpointError, OptionError
from captax.export import export
from captax.generation import GenerationError
from captax.images import ImageError
from captax.models.decoders import TextDecoder
from captax.pipelines.vision_language import VisionLanguageCaptioner
from vision_language_files import write


@pytest.fixture(scope="module")
def smolvlm(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageCaptioner:
    return captax.load(write("smolvlm", tmp_path_factory.mktemp("smolvlm")))


@pytest.fixture(scope="module")
def pictures(examples: Path) -> list[Image.Image]:
    """Of several shapes: wide, tall, square, and small enough for one view."""
    cat = Image.open(examples / "cat.jpg").convert("RGB")
    return [cat.resize(size) for size in ((90, 50), (40, 96), (64, 64), (20, 20))]


def test_an_answer_does_not_depend_on_the_batch(
    smolvlm: VisionLanguageCaptioner, pictures: list[Image.Image]
) -> None:
    """Pictures of different shapes have prompts of different lengths."""
    lengths = {smolvlm.places(smolvlm.prepare(picture)) for picture in pictures}
    assert lengths == {4 * 7, 4 * 10}  # of 2 x 3, 3 x 2 and 3 x 3 tiles and a whole view
    for options in ({"max_new_tokens": 6}, {"num_beams": 3, "max_new_tokens": 6}):
        together = smolvlm.caption(pictures, **options)
        for picture, found in zip(pictures, together, strict=True):
            [alone] = smolvlm.caption(picture, **options)
            assert alone.tokens == found.tokens
            assert alone.score == pytest.approx(found.score, abs=1e-5)
    assert len({found.tokens for found in together}) > 1


def test_the_prefix_is_read_once_whatever_the_beams(
    smolvlm: VisionLanguageCaptioner, pictures: list[Image.Image], monkeypatch: Any
) -> None:
    seen = []
    prefill = TextDecoder.prefill

    def counted(self: Any, features: Any, prompt: Any = None) -> Any:
        seen.append(prompt.tokens.shape)
        return prefill(self, features, prompt)

    monkeypatch.setattr(TextDecoder, "prefill", counted)
    smolvlm.caption(pictures[:2], num_beams=5, max_new_tokens=3)
    [(rows, _)] = seen
    assert rows == 8  # two pictures, filled up; not five times as many


def test_scores_are_those_of_decoding(
    smolvlm: VisionLanguageCaptioner, pictures: list[Image.Image]
) -> None:
    found = smolvlm.caption(pictures, prompt="look red", num_beams=2, max_new_tokens=5)
    scores = smolvlm.score(pictures, found, prompt="look red", num_beams=2, max_new_tokens=5)
    np.testing.assert_allclose(scores, [each.score for each in found], atol=1e-4)


def test_prompts_change_answers_and_are_not_part_of_them(
    smolvlm: VisionLanguageCaptioner, pictures: list[Image.Image]
) -> None:
    asked: list[dict[str, Any]] = [
        {},
        {"prompt": "look"},
        {"prompt": "look", "system": "red"},
        {"prompt": "look", "raw": True},
    ]
    length = {"min_new_tokens": 8, "max_new_tokens": 8}
    found = [smolvlm.caption(pictures[0], **length, **each)[0] for each in asked]
    assert len({each.tokens for each in found}) == len(asked)
    assert not any(each.text.startswith("look") for each in found)
    assert smolvlm.generation.max_new_tokens == 128  # sentences, where a checkpoint does not say


@pytest.mark.parametrize("text", ["a <image> here", "<|im_start|>System: red"])
def test_a_prompt_holds_no_tokens_with_a_meaning(
    smolvlm: VisionLanguageCaptioner, pictures: list[Image.Image], text: str
) -> None:
    for asked in ({"prompt": text}, {"prompt": text, "raw": True}, {"system": text}):
        with pytest.raises(CaptaxError, match="meaning of its own"):
            smolvlm.caption(pictures[0], **asked)


def test_other_captioners_have_no_system_turn(
    tiny_captioner: Any, pictures: list[Image.Image]
) -> None:
    for name, said in (("system", "look"), ("raw", True)):
        with pytest.raises(GenerationError, match=f"`{name}` is for models that are asked"):
            tiny_captioner.caption(pictures[0], **{name: said})


def test_a_prepared_picture_keeps_its_views(
    smolvlm: VisionLanguageCaptioner, pictures: list[Image.Image]
) -> None:
    """The command and the server prepare pictures before they give them to the captioner."""
    for picture in pictures:
        prepared = smolvlm.processor.prepare(picture)
        assert smolvlm.prepare(prepared) is prepared
        [own] = smolvlm.caption(picture, max_new_tokens=6)
        assert smolvlm.caption(prepared, max_new_tokens=6) == [own]


def test_a_broken_picture_costs_its_own_caption(
    smolvlm: VisionLanguageCaptioner, pictures: list[Image.Image]
) -> None:
    found = list(smolvlm.stream([pictures[0], b"no picture", pictures[1]], max_new_tokens=2))
    assert [isinstance(each, ImageError) for each in found] == [False, True, False]


def test_a_saved_captioner_is_the_same(
    smolvlm: VisionLanguageCaptioner, pictures: list[Image.Image], tmp_path: Path
) -> None:
    smolvlm.save(tmp_path / "saved")
    again = captax.load(tmp_path / "saved")
    assert again.caption(pictures[0], max_new_tokens=5) == smolvlm.caption(
        pictures[0], max_new_tokens=5
    )


@pytest.mark.slow
def test_the_command_captions_with_it(
    smolvlm: VisionLanguageCaptioner, examples: Path, tmp_path: Path
) -> None:
    smolvlm.save(tmp_path / "saved")
    options = ("--model", tmp_path / "saved", "--max-new-tokens", 8, "--min-new-tokens", 8)
    options = (*options, "--format", "jsonl")  # the scores too
    asked = ("--prompt", "look", "--system", "red")
    plain, answer = (
        CliRunner().invoke(app, ["caption", *map(str, (examples / "cat.jpg", *options, *more))])
        for more in ((), asked)
    )
    assert plain.exit_code == answer.exit_code == 0, plain.output + answer.output
    assert plain.stdout != answer.stdout
    cost = "captax: a picture takes up to 40 tokens of the prompt (10 views of 4); "
    assert plain.stderr == f"{cost}--no-image-splitting makes it 4\n"
    whole = CliRunner().invoke(
        app, ["caption", *map(str, (examples / "cat.jpg", *options)), "--no-image-splitting"]
    )
    assert whole.stderr == "captax: a picture takes 4 tokens of the prompt\n"
    assert whole.stdout != plain.stdout


def test_a_confidence_is_refused_in_a_line(
    smolvlm: VisionLanguageCaptioner, pictures: list[Image.Image]
) -> None:
    with pytest.raises(GenerationError, match="signals of a confidence cannot be measured"):
        list(smolvlm.stream(pictures, signals=True))


def test_the_command_asks_in_a_style(
    smolvlm: VisionLanguageCaptioner, examples: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    asked: list[str] = []
    encode = smolvlm._encode_prompt

    def watched(prompt: str, *rest: Any) -> Any:
        asked.append(prompt)
        return encode(prompt, *rest)

    captioner = smolvlm.with_model(smolvlm.model)
    monkeypatch.setattr(captioner, "_encoded", watched)
    monkeypatch.setattr("captax.cli.caption.load_captioner", lambda **loaded: captioner)
    own = tmp_path / "own.yaml"
    own.write_text("zoo: {prompt: Name it., words: 'Name it in {words} words.'}")

    def run(*options: Any) -> Any:
        said = ("caption", examples / "cat.jpg", "--max-new-tokens", 2, *options)
        return CliRunner().invoke(app, [*map(str, said)])

    assert run("--style", "short").exit_code == 0
    assert run("--style", "zoo", "--styles", own, "--words", 3).exit_code == 0
    assert set(asked) == {"Describe this image in one short sentence.", "Name it in 3 words."}
    assert "unknown style 'zo'" in str(run("--style", "zo").exception)


@pytest.mark.parametrize(
    ("family", "places"),
    [("paligemma", 16), ("llava", 16), ("joycaption", 16), ("gemma3-vision", 4)],
)
def test_pictures_of_one_view_are_asked(
    family: str, places: int, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    """Answers do not depend on other pictures, or on the lengths of their prompts."""
    captioner = captax.load(write(family, tmp_path))
    assert {captioner.places(captioner.prepare(each)) for each in pictures} == {places}
    found = captioner.caption(pictures, max_new_tokens=5)
    prompts = ["look red", "look", "look red red square", "blue"]
    other = captioner.caption(pictures, prompt=prompts, max_new_tokens=5)
    assert all(a.score != b.score for a, b in zip(found, other, strict=True))
    [alone] = captioner.caption(pictures[1], prompt="look", max_new_tokens=5)
    assert alone.tokens == other[1].tokens
    assert alone.score == pytest.approx(other[1].score, abs=1e-5)


def test_a_format_without_a_system_turn_says_so(
    tmp_path: Path, pictures: list[Image.Image]
) -> None:
    paligemma = captax.load(write("paligemma", tmp_path))
    with pytest.raises(CaptaxError, match="no system"):
        paligemma.caption(pictures[0], system="look")


def test_a_checkpoint_of_an_unknown_prompt_format_is_refused(tmp_path: Path) -> None:
    folder = write("llava", tmp_path)
    contents = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**contents, "image_token_index": 5}))
    with pytest.raises(CaptaxError, match="does not know the prompt format of this llava"):
        captax.load(folder)


def test_what_cannot_be_done_is_said(
    smolvlm: VisionLanguageCaptioner, pictures: list[Image.Image], tmp_path: Path
) -> None:
    with pytest.raises(CaptaxError, match="cannot be exported yet"):
        export(smolvlm, tmp_path / "out", format="stablehlo")


@pytest.mark.slow
def test_fewer_views_take_fewer_tokens(
    smolvlm: VisionLanguageCaptioner, pictures: list[Image.Image], tmp_path: Path
) -> None:
    smolvlm.save(tmp_path)
    options = {"min_new_tokens": 8, "max_new_tokens": 8}
    assert smolvlm.cost.startswith("a picture takes up to 40 tokens of the prompt (10 views of 4)")
    whole = captax.load(tmp_path, image_splitting=False)
    smaller = captax.load(tmp_path, image_size=64)
    assert whole.cost == "a picture takes 4 tokens of the prompt"
    assert "up to 20 tokens" in smaller.cost
    assert {whole.places(whole.prepare(each)) for each in pictures} == {4}
    assert {smaller.places(smaller.prepare(each)) for each in pictures} == {4 * 3, 4 * 5}
    found = [each.caption(pictures, **options) for each in (smolvlm, whole, smaller)]
    assert len({tuple(caption.tokens for caption in each) for each in found}) == 3
    # The same captioner, once programs are compiled.
    for other, want in ((whole, found[1]), (smaller, found[2]), (smolvlm, found[0])):
        whole.processor = other.processor if other is not whole else whole.processor
        again = whole.caption(pictures, **options)
        assert [each.tokens for each in again] == [each.tokens for each in want]


def test_a_job_is_not_resumed_with_other_views(
    smolvlm: VisionLanguageCaptioner, examples: Path, tmp_path: Path
) -> None:
    smolvlm.save(tmp_path / "saved")
    options = ("--model", tmp_path / "saved", "--max-new-tokens", 2, "--out", tmp_path / "c.jsonl")
    said = ["caption", *map(str, (examples / "cat.jpg", *options))]
    assert CliRunner().invoke(app, said).exit_code == 0
    with pytest.raises(CaptaxError, match="image_splitting"):
        CliRunner().invoke(app, [*said, "--no-image-splitting"], catch_exceptions=False)


def test_options_of_tiles_are_refused_where_there_are_none(
    tiny_captioner: Any, tmp_path: Path
) -> None:
    tiny_captioner.save(tmp_path / "tiny")
    for name in ("tiny", "paligemma"):
        folder = tmp_path / name if name == "tiny" else write(name, tmp_path / name)
        for given, flag in (
            ({"image_size": 64}, "--image-size"),
            ({"image_splitting": False}, "--no-image-splitting"),
        ):
            with pytest.raises(
                OptionError, match="for models that see a picture as tiles"
            ) as error:
                captax.load(folder, **given)
            assert spelt(str(error.value)).startswith(f"{flag} is for")


def test_tiles_that_the_tokenizer_cannot_name_are_refused(
    smolvlm: VisionLanguageCaptioner, pictures: list[Image.Image], tmp_path: Path
) -> None:
    smolvlm.save(tmp_path)
    larger = captax.load(tmp_path, image_size=160)
    with pytest.raises(OptionError, match=r"no <row_5_col_5>; give a smaller `image_size`"):
        larger.caption(pictures[2])


def test_the_number_of_tokens_of_a_view_is_compared(
    smolvlm: VisionLanguageCaptioner, tmp_path: Path
) -> None:
    smolvlm.save(tmp_path)
    file = tmp_path / "processor_config.json"
    assert json.loads(file.read_text()) == {"image_seq_len": 4}
    file.write_text('{"image_seq_len": 64}')
    with pytest.raises(CheckpointError, match=r"image_seq_len=64, and .* makes 4 tokens") as error:
        captax.load(tmp_path)
    assert str(file) in str(error.value)
    file.write_text("{}")
    captax.load(tmp_path)
