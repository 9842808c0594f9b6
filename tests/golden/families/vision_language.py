"""Language models that read pictures inside their prompts."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from captax.models.observing import observe
from captax.models.patches import Patches
from captax.models.prompt import Prompt
from golden.case import Case, Inputs, Outputs, random_pixels, random_tokens

LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 4}
VISION = {**LAYERS, "hidden_size": 16, "intermediate_size": 20, "image_size": 32, "patch_size": 8}
TEXT = {
    **LAYERS,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_key_value_heads": 2,
    "vocab_size": 40,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SAID, PICTURE = 5, 39


def _smolvlm(full: bool) -> Any:
    """At the real size, HuggingFaceTB/SmolVLM-256M-Instruct."""
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    vision = {"hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 12}
    vision |= {"intermediate_size": 3072, "image_size": 512, "patch_size": 16}
    text = {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9}
    text |= {"num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49280}
    text |= {"max_position_embeddings": 8192, "rope_theta": 100_000.0, "rms_norm_eps": 1e-5}
    config = SmolVLMConfig(
        vision_config=vision if full else VISION,
        text_config={**(text if full else TEXT), "model_type": "llama"},
        image_token_id=49190 if full else PICTURE,
        scale_factor=4 if full else 2,
        pad_token_id=0,
    )
    return SmolVLMForConditionalGeneration(config)


def _smolvlm_inputs(full: bool) -> Inputs:
    """A picture of two tiles and one whole view."""
    side, places = (512, 64) if full else (32, 4)
    before, after = random_tokens(PICTURE, 1, 2, seed=2), random_tokens(PICTURE, 1, 6)
    pictures = np.full((1, 3 * places), 49190 if full else PICTURE)
    return {
        "input_ids": np.concatenate([before, pictures, after], 1),
        "pixel_values": random_pixels(1, 3, 3, side, side),
    }


def _paligemma(kind: str) -> Any:
    """At the real size, of reduced depth."""

    def make(full: bool) -> Any:
        from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

        text = {**TEXT, "head_dim": 6, "model_type": kind}
        if kind == "gemma2":
            text |= {"sliding_window": 7, "query_pre_attn_scalar": 6}
        real = {"model_type": kind, "num_hidden_layers": 2, "num_attention_heads": 8}
        real |= {"hidden_size": 2048, "intermediate_size": 16_384, "num_key_value_heads": 1}
        real |= {"vocab_size": 257_216, "head_dim": 256}
        vision = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 2}
        vision |= {"num_attention_heads": 16, "image_size": 224, "patch_size": 14}
        config = PaliGemmaConfig(
            vision_config={**(vision if full else VISION), "vision_use_head": False},
            text_config=real if full else text,
            image_token_index=257_152 if full else PICTURE,
            projection_dim=2048 if full else 16,
        )
        return PaliGemmaForConditionalGeneration(config)

    return make


def _paligemma_inputs(full: bool) -> Inputs:
    side, places = (224, 256) if full else (32, 16)
    pictures = np.full((2, places), 257_152 if full else PICTURE)
    tokens = np.concatenate([pictures, random_tokens(PICTURE, 2, 9)], 1)
    kinds = np.zeros_like(tokens)
    kinds[:, -(SAID - 1) :] = 1  # what is said after picture and prompt
    return {
        "input_ids": tokens,
        "token_type_ids": kinds,
        "pixel_values": random_pixels(2, 3, side, side),
    }


def _llava(tower: str) -> Any:
    """At the real size, of reduced depth."""

    def make(full: bool) -> Any:
        from transformers import LlavaConfig, LlavaForConditionalGeneration

        text = {**TEXT, "model_type": "llama"}
        real = {"num_hidden_layers": 2, "num_attention_heads": 32, "hidden_size": 4096}
        real |= {"intermediate_size": 11_008, "vocab_size": 32_064, "model_type": "llama"}
        if tower == "clip":
            vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 3}
            vision |= {"num_attention_heads": 16, "image_size": 336, "patch_size": 14}
            chosen: dict[str, Any] = {}
        else:
            # JoyCaption's, and Llama 3.1's angles.
            vision = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 3}
            vision |= {"num_attention_heads": 16, "image_size": 384, "patch_size": 14}
            scaled = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0}
            scaled |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
            scaled |= {"original_max_position_embeddings": 16}
            text["rope_parameters"] = real["rope_parameters"] = scaled
            chosen = {"vision_feature_select_strategy": "full", "vision_feature_layer": -1}
        config = LlavaConfig(
            vision_config={
                **(vision if full else {**VISION, "num_hidden_layers": 3}),
                "model_type": f"{tower}_vision_model",
            },
            text_config=real if full else text,
            image_token_index=32_000 if full else PICTURE,
            **chosen,
        )
        return LlavaForConditionalGeneration(config)

    return make


def _gemma3(full: bool) -> Any:
    """At the real widths: with fewer layers, words and pixels, which would need 11 GB."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    kinds = {"layer_types": ["sliding_attention", "full_attention"], "num_hidden_layers": 2}
    text = {**TEXT, **kinds, "head_dim": 6, "sliding_window": 7, "query_pre_attn_scalar": 6}
    real = {**kinds, "hidden_size": 2560, "intermediate_size": 10_240, "vocab_size": 32_064}
    real |= {"num_attention_heads": 8, "num_key_value_heads": 4, "sliding_window": 1024}
    vision = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 16, "image_size": 448, "patch_size": 14}
    config = Gemma3Config(
        vision_config={**(vision if full else VISION), "vision_use_head": False},
        text_config=real if full else text,
        image_token_index=32_000 if full else PICTURE,
        mm_tokens_per_image=256 if full else 4,
    )
    return Gemma3ForConditionalGeneration(config)


def _inputs(side: int, real_side: int, places: int, real_places: int, token: int) -> Any:
    """Words, a picture, a prompt and what is said, for two pictures."""

    def make(full: bool) -> Inputs:
        count, size = (real_places, real_side) if full else (places, side)
        before, after = random_tokens(PICTURE, 2, 2, seed=2), random_tokens(PICTURE, 2, 9)
        pictures = np.full((2, count), token if full else PICTURE)
        return {
            "input_ids": np.concatenate([before, pictures, after], 1),
            "pixel_values": random_pixels(2, 3, size, size),
        }

    return make


def _gemma3_inputs(full: bool) -> Inputs:
    inputs = _inputs(32, 448, 4, 256, 32_000)(full)
    pictures = inputs["input_ids"] == (32_000 if full else PICTURE)
    return {**inputs, "token_type_ids": pictures.astype(np.int64)}


def _ask(model: Any, tensors: dict[str, Any]) -> Any:
    """The logits that predict what is said."""
    mask = tensors["input_ids"] >= 0
    found = model(
        **tensors,
        attention_mask=mask.long(),
        output_hidden_states=True,
        output_attentions=True,
        use_cache=False,
    )
    return {
        "logits": found.logits[:, -SAID:],
        # The last is normalised, and ours are read twice.
        "hidden_states": found.hidden_states[:-1],
        "attentions": found.attentions,
    }


# What a processor that keeps aspect ratios makes of two pictures with as many tokens each.
GRIDS = ((4, 6), (2, 12))
QWEN_TEXT = {**TEXT, "head_dim": 16, "num_hidden_layers": 3}
QWEN_SECTIONS = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 2, 2]}


def _qwen3_vl(full: bool) -> Any:
    """At the real size, Qwen/Qwen3-VL-2B-Instruct with fewer layers and words."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    vision = {"hidden_size": 16, "num_heads": 2, "depth": 3, "intermediate_size": 20}
    vision |= {"patch_size": 8, "out_hidden_size": 16, "num_position_embeddings": 25}
    vision |= {"deepstack_visual_indexes": [0, 2]}
    sections = {**QWEN_SECTIONS, "mrope_interleaved": True}
    real_vision = {"hidden_size": 1024, "depth": 4, "intermediate_size": 4096}
    real_vision |= {"out_hidden_size": 2048, "deepstack_visual_indexes": [1, 2, 3]}
    real = {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 4}
    real |= {"num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 32_064}
    real_sections = {**sections, "rope_theta": 5_000_000, "mrope_section": [24, 20, 20]}
    config = Qwen3VLConfig(
        vision_config=real_vision if full else vision,
        text_config={
            **(real if full else QWEN_TEXT),
            "rope_parameters": real_sections if full else sections,
        },
        image_token_id=32_000 if full else PICTURE,
        tie_word_embeddings=full,
    )
    return Qwen3VLForConditionalGeneration(config)


def _qwen25_vl(full: bool) -> Any:
    """At the real size, Qwen/Qwen2.5-VL-3B-Instruct with fewer layers and words."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    vision = {"hidden_size": 16, "num_heads": 2, "depth": 3, "intermediate_size": 20}
    vision |= {"patch_size": 8, "out_hidden_size": 64, "window_size": 32}
    vision |= {"fullatt_block_indexes": [1]}
    real_vision = {"hidden_size": 1280, "depth": 3, "intermediate_size": 3420}
    real_vision |= {"out_hidden_size": 2048, "fullatt_block_indexes": [2]}
    real = {"hidden_size": 2048, "intermediate_size": 11_008, "num_hidden_layers": 2}
    real |= {"num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": 32_064}
    sections = {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1_000_000.0}
    small = {key: value for key, value in QWEN_TEXT.items() if key != "head_dim"}
    config = Qwen2_5_VLConfig(
        vision_config=real_vision if full else vision,
        text_config={
            **(real if full else {**small, "hidden_size": 64}),
            "rope_parameters": sections if full else QWEN_SECTIONS,
        },
        image_token_id=32_000 if full else PICTURE,
        tie_word_embeddings=full,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def _qwen_inputs(patch: int, real_patch: int) -> Any:
    """Words, a picture of any shape, a prompt and what is said, for two pictures."""

    def make(full: bool) -> Inputs:
        side, token = (real_patch, 32_000) if full else (patch, PICTURE)
        count = GRIDS[0][0] * GRIDS[0][1]
        before, after = random_tokens(PICTURE, 2, 2, seed=2), random_tokens(PICTURE, 2, 9)
        tokens = np.concatenate([before, np.full((2, count // 4), token), after], 1)
        # Still pictures are the same at both times.
        still = random_pixels(2 * count, 3, 1, side, side)
        return {
            "input_ids": tokens,
            "mm_token_type_ids": (tokens == token).astype(np.int64),
            "pixel_values": still.repeat(2, axis=2).reshape(2 * count, -1),
            "image_grid_thw": np.array([(1, *grid) for grid in GRIDS]),
        }

    return make


def _shown(inputs: Inputs) -> Any:
    """Pictures as ours takes them."""
    shown = jnp.asarray(inputs["pixel_values"])
    if "image_grid_thw" not in inputs:
        return jnp.moveaxis(shown, -3, -1)
    grids = jnp.asarray(inputs["image_grid_thw"])[:, 1:]
    side = round((shown.shape[1] / 6) ** 0.5)
    still = shown.reshape(len(grids), -1, 3, 2, side, side)[:, :, :, 0]
    return Patches(jnp.moveaxis(still, 2, -1).reshape(*still.shape[:2], -1), grids)


def _run(model: Any, inputs: Inputs) -> Outputs:
    tokens = inputs["input_ids"]
    first = tokens.shape[1] - SAID + 1
    views = _shown(inputs)
    # What the last token of the text would be predicts nothing.
    said = jnp.pad(tokens[:, first:], ((0, 0), (0, 1)))

    def look_and_read() -> Any:
        return model.predict(model.encode(views), Prompt(tokens[:, :first]), said)

    logits, seen = observe(look_and_read)
    hidden_states, attentions = (
        [*zip(seen[f"decoder.prefix.{name}"], seen[f"decoder.{name}"], strict=False)]
        for name in ("hidden_states", "attentions")
    )
    # The first token that is read stands for the prompt, and nothing sees it.
    unseen = ((0, 0), (0, 0), (0, 0), (0, SAID - 1))
    seen_later = [(a, jnp.delete(b[:, :, 1:], first, axis=-1)) for a, b in attentions]
    return {
        "logits": logits,
        "hidden_states": [jnp.concatenate([a, b[:, 1:]], 1) for a, b in hidden_states][:-1],
        "attentions": [jnp.concatenate([jnp.pad(a, unseen), b], 2) for a, b in seen_later],
    }


def _run_deep(model: Any, inputs: Inputs) -> Outputs:
    """Without hidden states: theirs are those from before the picture's earlier layers join."""
    return {name: each for name, each in _run(model, inputs).items() if name != "hidden_states"}


CASES = [
    Case("smolvlm", _smolvlm, _smolvlm_inputs, _run, _ask),
    Case("paligemma", _paligemma("gemma"), _paligemma_inputs, _run, _ask),
    Case("paligemma2", _paligemma("gemma2"), _paligemma_inputs, _run, _ask),
    Case("llava", _llava("clip"), _inputs(32, 336, 16, 576, 32_000), _run, _ask),
    Case("joycaption", _llava("siglip"), _inputs(32, 384, 16, 729, 32_000), _run, _ask),
    Case("gemma3-vision", _gemma3, _gemma3_inputs, _run, _ask),
    Case("qwen2.5-vl", _qwen25_vl, _qwen_inputs(8, 14), _run, _ask),
    Case("qwen3-vl", _qwen3_vl, _qwen_inputs(8, 16), _run_deep, _ask),
]
