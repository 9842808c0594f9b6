"""Explanations' attentions against those that transformers hands out of the same caption."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import captax
from captax.checkpoints.directory import load_model
from captax.generation import GenerationConfig
from captax.images import ImageProcessor, Prepared
from captax.pipelines.captioner import Caption, Captioner
from captax.text import Tokenizer
from golden.families import CASES
from vision_language_files import NATIVE, seen_by_theirs, write

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
torch_side = pytest.importorskip("golden.torch_side")
pytestmark = pytest.mark.parity

START, EOS = 1, 2
SAID = (7, 9, 11, 8, 30, EOS)


@pytest.mark.parametrize("name", ["vit-gpt2", "vit-gpt2-projected", "git"])
@pytest.mark.parametrize(
    "full",
    [False, pytest.param(True, marks=pytest.mark.nightly("captions at the real size"))],
    ids=["small", "full"],
)
def test_attentions_of_a_caption_are_the_reference_s(
    name: str, full: bool, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Cross-attentions, and the encoder's; GIT's one softmax cut in two."""
    case = CASES[name]
    reference = torch_side.make_reference(case, full=full)
    reference.save_pretrained(tmp_path)
    side = 224 if full else 32
    captioner = Captioner(
        load_model(tmp_path),
        ImageProcessor(size=(side, side)),
        tiny_tokenizer,
        GenerationConfig(decoder_start_token_id=START, eos_token_id=EOS, pad_token_id=0),
    )
    picture = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    found = captioner.explain(picture, Caption("", 0.0, SAID, ()))

    pixels = torch.from_numpy(captioner.processor([picture]).transpose(0, 3, 1, 2).copy())
    tokens = torch.tensor([[START, *SAID[:-1]]])
    with torch.no_grad():
        if name == "git":
            want = reference(input_ids=tokens, pixel_values=pixels, output_attentions=True)
        else:
            want = reference(pixel_values=pixels, decoder_input_ids=tokens, output_attentions=True)
    if name == "git":
        places = found.cross_attentions.shape[-1]
        joint = stacked(want.attentions)[:, :, places:]
        crosses, texts = joint[..., :places], joint[..., places:]
        logits = want.logits[0, places:]
    else:
        crosses, texts = stacked(want.cross_attentions), stacked(want.decoder_attentions)
        logits = want.logits[0]
        np.testing.assert_allclose(
            found.encoder_attentions, stacked(want.encoder_attentions), atol=1e-4
        )
    np.testing.assert_allclose(found.cross_attentions, crosses, atol=1e-4)
    np.testing.assert_allclose(found.self_attentions, texts, atol=1e-4)
    logprobs = torch.log_softmax(logits, -1).numpy()[range(len(SAID)), SAID]
    np.testing.assert_allclose(found.logprobs, logprobs, atol=1e-3)


@pytest.mark.parametrize("name", ["smolvlm", "paligemma", *NATIVE])
def test_attentions_to_a_picture_in_the_prompt_are_the_reference_s(
    name: str, tmp_path: Path
) -> None:
    """The mean over heads, cut in the picture and the text, in the order of the prompt."""
    captioner = captax.load(write(name, tmp_path))
    picture = Prepared(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    found = captioner.explain(picture, Caption("", 0.0, SAID, ()), prompt="look")

    reference = transformers.AutoModelForImageTextToText.from_pretrained(
        tmp_path, attn_implementation="eager", dtype=torch.float32
    ).eval()
    prompt = captioner._encode_prompt("look", "", False, captioner.arrangement(picture))
    tokens = torch.tensor([[*prompt, *SAID[:-1]]])
    given = seen_by_theirs(name, captioner, picture, tokens)
    if name == "paligemma":
        # Without these it takes the prompt for a caption that it learns.
        given["token_type_ids"] = torch.tensor([[0] * len(prompt) + [1] * (len(SAID) - 1)])
    with torch.no_grad():
        want = reference(input_ids=tokens, **given, output_attentions=True)
    joint = stacked(want.attentions)[:, :, len(prompt) - 1 :].mean(1, keepdims=True)
    pictured = tokens[0].numpy() == captioner.model.config.image_token_id
    np.testing.assert_allclose(found.cross_attentions, joint[..., pictured], atol=1e-4)
    np.testing.assert_allclose(found.self_attentions, joint[..., ~pictured], atol=1e-4)
    logprobs = torch.log_softmax(want.logits[0, len(prompt) - 1 :], -1).numpy()
    np.testing.assert_allclose(found.logprobs, logprobs[range(len(SAID)), SAID], atol=1e-3)


def stacked(layers: Any) -> np.ndarray:
    return np.stack([layer[0].numpy() for layer in layers])
