"""GIT, whose picture and text are one sequence."""

from typing import Any

import jax.numpy as jnp

from captax.models.observing import observe
from golden.case import Case, Inputs, Outputs, pixels, random_pixels, random_tokens
from golden.families import clip

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SMALL = {
    "hidden_size": 18,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 36,
    "vocab_size": 40,
    "max_position_embeddings": 20,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "vision_config": {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "image_size": 32,
        "patch_size": 8,
    },
}


def _git(full: bool) -> Any:
    from transformers import GitConfig, GitForCausalLM

    return GitForCausalLM(GitConfig(**NO_DROPOUT, **({} if full else SMALL)))


def _tied(full: bool) -> Any:
    """Its output layer is the word embedding."""
    from transformers import GitConfig, GitForCausalLM

    config = GitConfig(**NO_DROPOUT, **({} if full else SMALL), tie_word_embeddings=True)
    return GitForCausalLM(config)


def _large(full: bool) -> Any:
    """microsoft/git-large-coco's picture tower."""
    from transformers import GitConfig, GitForCausalLM

    tower = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
    vision = {**tower, "intermediate_size": 4096, "patch_size": 14}
    return GitForCausalLM(GitConfig(**NO_DROPOUT, vision_config=vision))


def _video(full: bool) -> Any:
    """microsoft/git-base-vatex, which reads six frames."""
    from transformers import GitConfig, GitForCausalLM

    frames = 6 if full else 3
    config = GitConfig(**NO_DROPOUT, **({} if full else SMALL), num_image_with_embedding=frames)
    return GitForCausalLM(config)


def _inputs(full: bool) -> Inputs:
    side = 224 if full else 32
    return {"input_ids": _tokens(full), "pixel_values": random_pixels(2, 3, side, side)}


def _frames(full: bool) -> Inputs:
    count, side = (6, 224) if full else (3, 32)
    return {"input_ids": _tokens(full), "pixel_values": random_pixels(2, count, 3, side, side)}


def _other_size(full: bool) -> Inputs:
    height, width = (320, 160) if full else (44, 24)  # rows and columns, more and fewer
    return {"input_ids": _tokens(full), "pixel_values": random_pixels(2, 3, height, width)}


def _tokens(full: bool) -> Any:
    return random_tokens(30522 if full else 40, 2, 7)


def _ask(model: Any, tensors: dict[str, Any]) -> Any:
    """The logits after each token of the text; those after picture tokens mean nothing."""
    output = model(**tensors, **clip.STATES, interpolate_pos_encoding=True)
    encoder = model.git.image_encoder(
        tensors["pixel_values"], **clip.STATES, interpolate_pos_encoding=True
    )
    return {
        "logits": output.logits[:, -tensors["input_ids"].shape[1] :],
        "hidden_states": output.hidden_states,
        "attentions": output.attentions,
        "encoder_hidden_states": encoder.hidden_states,
        "encoder_attentions": encoder.attentions,
    }


def _run(model: Any, inputs: Inputs) -> Outputs:
    tokens = inputs["input_ids"]
    logits, seen = observe(model, pixels(inputs), tokens)
    hidden_states, attentions = (
        zip(seen[f"decoder.prefix.{name}"], seen[f"decoder.{name}"], strict=True)
        for name in ("hidden_states", "attentions")
    )
    unseen = ((0, 0), (0, 0), (0, 0), (0, tokens.shape[1]))  # by the picture: the text
    return {
        "logits": logits,
        "hidden_states": [jnp.concatenate(pair, 1) for pair in hidden_states],
        "attentions": [jnp.concatenate([jnp.pad(a, unseen), b], 2) for a, b in attentions],
        "encoder_hidden_states": seen["encoder.hidden_states"],
        "encoder_attentions": seen["encoder.attentions"],
    }


def _ask_of_video(model: Any, tensors: dict[str, Any]) -> Any:
    return {"logits": model(**tensors).logits[:, -tensors["input_ids"].shape[1] :]}


def _run_video(model: Any, inputs: Inputs) -> Outputs:
    frames = inputs["pixel_values"].transpose(0, 1, 3, 4, 2)
    return {"logits": model.read(model.encode(frames), inputs["input_ids"])}


CASES = [
    Case("git", _git, _inputs, _run, _ask),
    Case("git-large", _large, _inputs, _run, _ask, large=True),
    Case("git-other-size", _tied, _other_size, _run, _ask),
    Case("git-video", _video, _frames, _run_video, _ask_of_video),
]
