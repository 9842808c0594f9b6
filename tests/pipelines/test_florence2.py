"""Florence-2 as a captioner that is asked, small and with random weights."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tokenizers
from PIL import Image
from typer.testing import CliRunner

import captax
from captax.cli.main import app
from captax.errors import CaptaxError
from captax.generation import Sequences
from captax.models.bart import BartEncoder
from captax.pipelines.captioner import Captioner
from captax.pipelines.florence2 import Florence2Captioner
from captax.text import Tokenizer
from captax.text.tasks import FLORENCE2_TOKENS
from vision_language_files import write


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write("florence2", tmp_path_factory.mktemp("florence2"))


@pytest.fixture(scope="module")
def captioner(folder: Path) -> Florence2Captioner:
    found = captax.load(folder)
    # Random weights say the same of every picture and prompt, unless what is read counts for more.
    for layer in found.model.decoder.layers:
        for part, factor in ((layer.cross_attention.query, 6), (layer.cross_attention.out, 12)):
            part.kernel[...] *= factor
    return found


@pytest.fixture(scope="module")
def pictures(examples: Path) -> list[Image.Image]:
    cat = Image.open(examples / "cat.jpg").convert("RGB")
    return [cat, cat.rotate(90).resize((40, 96)), Image.new("RGB", (64, 64), "red")]


PROMPTS = ["", "<OD>", "<CAPTION_TO_PHRASE_GROUNDING>red square look you"]


@pytest.mark.slow
def test_an_answer_does_not_depend_on_the_batch(
    captioner: Florence2Captioner, pictures: list[Image.Image]
) -> None:
    """Prompts of different lengths are filled up for BART's encoder."""
    for beams in (1, 3):
        # Without the last, random weights repeat what the decoder begins with.
        options = {"num_beams": beams, "max_new_tokens": 8, "no_repeat_ngram_size": 1}
        together = captioner.caption(pictures, prompt=PROMPTS, **options)
        for picture, prompt, found in zip(pictures, PROMPTS, together, strict=True):
            [alone] = captioner.caption(picture, prompt=prompt, **options)
            assert alone.tokens == found.tokens
            assert alone.score == pytest.approx(found.score, rel=1e-5)
            assert (found.regions is None) == (prompt == "")
    assert len({found.tokens for found in together}) > 1


def test_picture_and_prompt_are_encoded_once_whatever_the_beams(
    captioner: Florence2Captioner, pictures: list[Image.Image], monkeypatch: Any
) -> None:
    seen = []
    read = BartEncoder.read

    def counted(self: Any, words: Any, mask: Any) -> Any:
        seen.append(words.shape)
        return read(self, words, mask)

    monkeypatch.setattr(BartEncoder, "read", counted)
    captioner.caption(pictures, num_beams=5, max_new_tokens=3)
    [(rows, time, _)] = seen
    assert (rows, time) == (8, 32)  # three pictures, and 16 places with a prompt, filled up


@pytest.mark.slow
def test_scores_are_those_of_decoding(
    captioner: Florence2Captioner, pictures: list[Image.Image]
) -> None:
    asked: dict[str, Any] = {"prompt": "look red", "num_beams": 2, "max_new_tokens": 5}
    # Also where words of the prompt, which the decoder does not read, are said again.
    asked |= {"no_repeat_ngram_size": 1}
    found = captioner.caption(pictures, **asked)
    scores = captioner.score(pictures, found, **asked)
    np.testing.assert_allclose(scores, [each.score for each in found], atol=1e-4)


def test_a_text_is_scored_with_the_token_that_decoding_forces(
    captioner: Florence2Captioner, pictures: list[Image.Image]
) -> None:
    red = captioner.tokenizer.encode_plain(["red"])[0]
    forced: dict[str, Any] = {"forced_bos_token_id": 1, "max_new_tokens": 4}
    [found] = captioner.caption(pictures[0], **forced)
    assert found.tokens[0] == 1
    said = dataclasses.replace(found, tokens=(1, *red, captioner.tokenizer.eos_id))
    scores = captioner.score([pictures[0]] * 2, ["red", said], **forced)
    assert scores[0] == scores[1]


@pytest.mark.slow
def test_a_saved_captioner_is_the_same(
    captioner: Florence2Captioner, pictures: list[Image.Image], tmp_path: Path
) -> None:
    captioner.save(tmp_path / "saved")
    again = captax.load(tmp_path / "saved")
    assert isinstance(again, Florence2Captioner)
    assert again.caption(pictures[0]) == captioner.caption(pictures[0])


def test_prompts_ask_for_tasks(captioner: Florence2Captioner) -> None:
    def asked(prompt: str, **options: Any) -> str:
        [found] = captioner._asked([prompt], "", False)
        return captioner._question(*found)

    assert asked("") == "<s>What does the image describe?</s>"
    assert asked("Is it red?") == "<s>Is it red?</s>"
    assert asked(captioner.prompt_for("od")) == (
        "<s>Locate the objects with category name in the image.</s>"
    )
    phrase = captioner.prompt_for("referring-expression-segmentation", " a {red} car ")
    assert asked(phrase) == "<s>Locate a {red} car in the image with mask</s>"
    for region in ("0.1 0.2 0.5 1", "0.1,0.2, 0.5,1.0", "<loc_100><loc_200><loc_500><loc_999>"):
        told = asked(captioner.prompt_for("region-to-category", region))
        assert told == "<s>What is the region <loc_100><loc_200><loc_500><loc_999>?</s>"


@pytest.mark.parametrize(
    ("task", "prompt", "message"),
    [
        ("odd", "", "unknown task 'odd'; did you mean od"),
        ("od", "cars", "the task od takes no prompt; leave it out"),
        ("open-vocabulary-detection", " ", "is about a text; give it as the prompt"),
        ("region-to-ocr", "", "is about a region; give it as the prompt"),
        ("region-to-ocr", "0.5 0.2 0.1 0.9", "is no region; give left, top, right and bottom"),
        ("region-to-ocr", "1 2 3", "is no region"),
        ("region-to-ocr", "nan 0 1 1", "is no region"),
    ],
)
def test_tasks_that_cannot_be_done_are_refused(
    captioner: Florence2Captioner, task: str, prompt: str, message: str
) -> None:
    with pytest.raises(CaptaxError, match=message):
        captioner.prompt_for(task, prompt)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("find <OD>", "<OD> names a task; put it at the beginning"),
        ("<OD><CAPTION>", "<CAPTION> names a task"),
        ("a </s> b", "meaning of its own"),
        ("a <poly> b", "meaning of its own"),
        ("look " * 30, "the encoder reads 40 tokens and picture and prompt have 48"),
    ],
)
def test_prompts_that_cannot_be_asked_are_refused(
    captioner: Florence2Captioner, pictures: list[Image.Image], prompt: str, message: str
) -> None:
    with pytest.raises(CaptaxError, match=message):
        captioner.caption(pictures[0], prompt=prompt)


def test_others_were_taught_no_tasks(tiny_captioner: Captioner) -> None:
    with pytest.raises(CaptaxError, match="tasks are for models that were taught them"):
        tiny_captioner.prompt_for("od")


@pytest.fixture
def answering(captioner: Florence2Captioner, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`answering(text)`: from here on, the captioner answers so."""

    def answer(*texts: str) -> None:
        rows = captioner.tokenizer.encode_special([f"{text} <end_of_utterance>" for text in texts])
        length = max(map(len, rows))

        def dispatch(inputs: Any, prompts: Any, rows_: int, *args: Any) -> Sequences:
            tokens = np.zeros((rows_, len(texts), length), np.int32)
            for rank, row in enumerate(rows):
                tokens[:, rank, : len(row)] = row
            lengths = np.broadcast_to([len(row) for row in rows], tokens.shape[:2])
            scores = np.zeros(tokens.shape[:2], np.float32)
            return jax.tree.map(
                jax.numpy.asarray,
                Sequences(tokens, lengths, scores, np.zeros(tokens.shape, np.float32)),
            )

        monkeypatch.setattr(captioner, "_dispatch", dispatch)

    return answer


def test_regions_of_an_answer(
    captioner: Florence2Captioner, pictures: list[Image.Image], answering: Any
) -> None:
    box = "<loc_1> <loc_2> <loc_3> <loc_4>"
    answering(f"red square {box} {box} blue {box}", "blue")
    [found] = captioner.caption(pictures[0], prompt="<OD>", num_return_sequences=2)
    assert found.text == "redsquare, blue"
    assert [other.text for other in found.alternatives] == ["redsquare, blue", "no regions"]
    assert found.regions is not None
    assert [region.label for region in found.regions] == ["redsquare", "redsquare", "blue"]
    assert found.regions[0].box == (0.0015, 0.0025, 0.0035, 0.0045)
    [plain] = captioner.caption(pictures[0], num_return_sequences=2)
    assert plain.regions is None and plain.text.startswith("redsquare")


def test_microsofts_tokenizers_get_the_tokens_that_its_processor_adds() -> None:
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}
    words |= {f"w{i}": i for i in range(4, 50265)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    tokenizer = Tokenizer(backend, start="<s>", eos="</s>", pad="<pad>")
    full = tokenizer.with_special(FLORENCE2_TOKENS)
    assert full.vocab_size == 51289  # as many as words have embeddings
    assert full.token(50269) == "<loc_0>" and full.token(51288) == "<and>"
    assert full.with_special(FLORENCE2_TOKENS).vocab_size == 51289


def test_answers_are_explained_on_the_grid_of_the_picture(
    captioner: Florence2Captioner, pictures: list[Image.Image]
) -> None:
    """Cross-attention also goes to the picture's mean, to the prompt, and not to what fills it."""
    [found] = captioner.caption(pictures[0], prompt="look red", max_new_tokens=5)
    told = captioner.explain(
        pictures[0], found, prompt="look red", methods=("attention", "occlusion")
    )
    np.testing.assert_allclose(told.logprobs, found.logprobs, atol=1e-4)
    assert told.grid == (3, 5) and told.lead == 1
    attended = told.cross_attentions
    places = 1 + 3 * 5 + 4  # <s> look red </s>
    np.testing.assert_allclose(attended[..., :places].sum(-1), 1, atol=1e-5)
    assert attended[..., 1:16].max() > 0.01


def test_the_command_does_tasks(
    captioner: Florence2Captioner,
    folder: Path,
    examples: Path,
    tmp_path: Path,
    answering: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(*options: Any) -> Any:
        told = ["caption", examples / "cat.jpg", "--model", folder, *options]
        return CliRunner().invoke(app, list(map(str, told)))

    monkeypatch.setattr("captax.cli.caption.load_captioner", lambda **loaded: captioner)
    answering("red <loc_1> <loc_2> <loc_3> <loc_4>")
    out, sheet = tmp_path / "found.jsonl", tmp_path / "sheet.html"
    phrase = ("--task", "caption-to-phrase-grounding", "--prompt", "red square")
    done = run(*phrase, "--out", out, "--sheet", sheet)
    assert done.exit_code == 0, done.output
    [record] = map(json.loads, out.read_text().splitlines())
    assert record["caption"] == "red"
    assert record["regions"] == [{"label": "red", "box": [0.0015, 0.0025, 0.0035, 0.0045]}]
    assert sheet.read_text().count("<polygon") == 1
    plain = run("--format", "jsonl")
    assert plain.exit_code == 0 and "regions" not in json.loads(plain.stdout)
    for options, message in (
        (("--task", "od", "--prompt", "cars"), "the task od takes no prompt"),
        (("--task", "find"), "unknown task 'find'"),
        (("--task", "od", "--raw"), "without a task; leave out one"),
    ):
        refused = run(*options)
        assert message in str(refused.exception)


def test_the_command_refuses_a_task_for_others(
    tiny_captioner: Captioner, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captax.cli.caption.load_captioner", lambda **loaded: tiny_captioner)
    told = CliRunner().invoke(app, ["caption", str(examples / "cat.jpg"), "--task", "od"])
    assert "tasks are for models that were taught them" in str(told.exception)


@pytest.mark.slow
def test_an_answer_is_explained(captioner: Florence2Captioner, pictures: list[Image.Image]) -> None:
    """The decoder attends to what the encoder made of the picture's places and the question."""
    found = captioner.explain(pictures[0], "red square", methods=("attention", "gradient"))
    places = found.lead + found.grid[0] * found.grid[1]
    assert found.lead == 1 and found.cross_attentions.shape[3] > places
    np.testing.assert_allclose(found.cross_attentions.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(found.maps().sum((1, 2)), 1, atol=1e-5)
    [score] = captioner.score(pictures[0], "red square", length_penalty=1.0)
    assert found.logprobs.mean() == pytest.approx(score, rel=1e-5)
