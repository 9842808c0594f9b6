"""The parts of vision-language models against transformers, with random weights."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import captax
from captax.checkpoints.state import export, fill, parameters, rebuilder
from captax.data import pack_captions
from captax.models.config import FAMILIES
from captax.models.gemma3_vision import Gemma3Config
from captax.models.llava import LlavaConfig
from captax.models.paligemma import PaliGemmaConfig
from captax.models.patches import in_squares
from captax.models.prompt import Prompt
from captax.models.qwen2_5_vl import Qwen2_5_VLConfig
from captax.models.qwen3_vl import Qwen3VLConfig
from captax.models.smolvlm import Idefics3Config, SmolVLMConfig, buckets
from captax.models.vision_language import VisionLanguageConfig
from captax.text.prompt_format import FORMATS, IDEFICS3, PALIGEMMA, SMOLVLM, PromptFormat
from captax.training.step import token_losses
from vision_language_files import MARKERS, answer_of_theirs, write

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

LAYERS = {"num_hidden_layers": 2, "intermediate_size": 20}
VISION = {
    **LAYERS,
    "hidden_size": 24,
    "num_attention_heads": 3,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    **LAYERS,
    "hidden_size": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "vocab_size": 40,
}
GEMMA2 = {**TEXT, "model_type": "gemma2", "sliding_window": 5, "query_pre_attn_scalar": 6}
SIGLIP = {**VISION, "model_type": "siglip_vision_model", "vision_use_head": False}
SMOLVLM_MODEL = {"vision_config": VISION, "text_config": {**TEXT, "model_type": "llama"}}
# (class, our config, the arguments of theirs)
MODELS: list[tuple[str, type[VisionLanguageConfig], dict[str, Any]]] = [
    ("SmolVLM", SmolVLMConfig, {**SMOLVLM_MODEL, "image_token_id": 39}),
    ("Idefics3", Idefics3Config, {**SMOLVLM_MODEL, "image_token_id": 39, "scale_factor": 4}),
    (
        "SmolVLM",
        SmolVLMConfig,
        {
            "vision_config": VISION,
            "text_config": {**TEXT, "model_type": "llama", "tie_word_embeddings": True},
            "tie_word_embeddings": True,
        },
    ),
    (
        "PaliGemma",
        PaliGemmaConfig,
        {
            "vision_config": SIGLIP,
            "text_config": {**TEXT, "model_type": "gemma"},
            "image_token_index": 39,
            "projection_dim": 16,
        },
    ),
    (
        "PaliGemma",
        PaliGemmaConfig,
        {"vision_config": SIGLIP, "text_config": GEMMA2, "projection_dim": 16},
    ),
    (
        "Llava",
        LlavaConfig,
        {
            "vision_config": {**VISION, "model_type": "clip_vision_model"},
            "text_config": {**TEXT, "model_type": "llama"},
            "image_token_index": 39,
        },
    ),
    (
        "Llava",
        LlavaConfig,
        {
            "vision_config": {**VISION, "model_type": "clip_vision_model"},
            "text_config": {**TEXT, "model_type": "llama", "tie_word_embeddings": True},
            "vision_feature_select_strategy": "full",
            "vision_feature_layer": 1,
            "projector_hidden_act": "relu",
            "multimodal_projector_bias": False,
        },
    ),
    (
        "Llava",
        LlavaConfig,
        {
            "vision_config": {**SIGLIP, "vision_use_head": True},
            "text_config": {**TEXT, "model_type": "llama"},
            "vision_feature_select_strategy": "full",
            "vision_feature_layer": -1,
        },
    ),
    (
        "Gemma3",
        Gemma3Config,
        {
            "vision_config": SIGLIP,
            "text_config": {**TEXT, "sliding_window": 5, "query_pre_attn_scalar": 6},
            "image_token_index": 39,
            "mm_tokens_per_image": 4,
        },
    ),
    (
        "PaliGemma",
        PaliGemmaConfig,
        {
            "vision_config": {**SIGLIP, "vision_use_head": True},
            "text_config": {**GEMMA2, "tie_word_embeddings": False},
            "tie_word_embeddings": False,
            "projection_dim": 16,
        },
    ),
]


QWEN_TEXT = {**TEXT, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
QWEN_TEXT["rope_parameters"] = {"rope_type": "default", "mrope_section": [4, 2, 2]}
QWEN_TEXT["rope_parameters"]["rope_theta"] = 10_000.0
QWEN_VISION = {"hidden_size": 24, "num_heads": 3, "depth": 3, "intermediate_size": 20}
QWEN_VISION |= {"patch_size": 8, "out_hidden_size": 16}
MODELS += [
    (
        "Qwen3VL",
        Qwen3VLConfig,
        {
            "vision_config": {
                **QWEN_VISION,
                "num_position_embeddings": 16,
                "deepstack_visual_indexes": [0],
            },
            "text_config": {
                **QWEN_TEXT,
                "rope_parameters": {**QWEN_TEXT["rope_parameters"], "mrope_interleaved": True},
            },
            "image_token_id": 39,
        },
    ),
    (
        "Qwen2_5_VL",
        Qwen2_5_VLConfig,
        {
            "vision_config": {
                **QWEN_VISION,
                "out_hidden_size": 32,
                "window_size": 16,
                "fullatt_block_indexes": [2],
            },
            "text_config": {**QWEN_TEXT, "hidden_size": 32},
            "image_token_id": 39,
        },
    ),
]


def patches_of(pixels: np.ndarray) -> dict[str, Any]:
    """Pictures [batch 3 height width] as Qwen's models take them."""
    cut = in_squares(pixels.transpose(0, 2, 3, 1), 8, 2).reshape(-1, 64, 1, 3).repeat(2, axis=2)
    grid = [1, pixels.shape[2] // 8, pixels.shape[3] // 8]
    return {
        "pixel_values": torch.from_numpy(cut.transpose(0, 3, 2, 1).reshape(len(cut), -1)),
        "image_grid_thw": torch.tensor([grid] * len(pixels)),
    }


def reference(name: str, arguments: dict[str, Any]) -> Any:
    """A model of transformers with random weights, biases and scales included."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**arguments)
    model = getattr(transformers, f"{name}ForConditionalGeneration")(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return model


def differences(got: dict[str, Any], want: dict[str, Any]) -> list[str]:
    """The settings of `want` that `got` has otherwise; it may have fields that theirs has not."""
    left_out = ("architectures", "transformers_version", "dtype", "_name_or_path")
    found = []
    for key in want.keys() - set(left_out):
        value = got.get(key)
        if isinstance(want[key], dict) and isinstance(value, dict):
            found += [f"{key}.{each}" for each in differences(value, want[key])]
        elif key not in got or value != want[key]:
            found.append(f"{key}={value!r}, not {want[key]!r}")
    return found


@pytest.mark.parametrize(("name", "kind", "arguments"), MODELS)
def test_configs_tensors_and_features_of_pictures(
    name: str, kind: type[VisionLanguageConfig], arguments: dict[str, Any], tmp_path: Path
) -> None:
    theirs = reference(name, arguments)
    theirs.save_pretrained(tmp_path / "theirs")
    said = json.loads((tmp_path / "theirs" / "config.json").read_text())
    config = kind.read(theirs.config.to_dict())
    assert kind.read(said) == config
    # Configs, both ways.
    written = json.loads(json.dumps(config.write()))
    assert kind.read(written) == config
    again = type(theirs.config).from_dict(written)
    assert differences(again.to_dict(), theirs.config.to_dict()) == []
    # Tensors, both ways, and as transformers has them in memory.
    saved = safetensors.numpy.load_file(tmp_path / "theirs" / "model.safetensors")
    layout = config.layout()
    ours = fill(config.build(), saved, where="theirs", layout=layout)
    exported = export(ours, layout)
    assert exported.keys() == saved.keys()
    for tensor, value in saved.items():
        assert (exported[tensor] == value).all(), tensor
    memory = {key: value.numpy() for key, value in theirs.state_dict().items()}
    fill(config.build(), memory, where="memory", layout=layout)
    old = {
        key.replace("vision_tower.", "vision_tower.vision_model."): value
        for key, value in saved.items()
    }
    fill(config.build(), old, where="old", layout=layout)
    # What takes the place of a picture's tokens.
    pixels = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    views = torch.from_numpy(pixels)
    with torch.no_grad():
        shown: dict[str, Any] = {"pixel_values": views}
        if name in ("SmolVLM", "Idefics3"):
            shown = {"pixel_values": views[:, None]}
        elif name.startswith("Qwen"):
            shown = patches_of(pixels)
        want = torch.stack(list(theirs.model.get_image_features(**shown).pooler_output))
    features = jax.jit(lambda pixels: ours.encode(pixels))(pixels.transpose(0, 2, 3, 1))
    places = 4 if name.startswith("Qwen") else config.places
    assert features.tokens.shape == (2, places, config.text_config.hidden_size)
    assert features.lead + features.grid[0] * features.grid[1] == places
    np.testing.assert_allclose(features.tokens, want.numpy(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("name", sorted(MARKERS))
def test_a_batch_is_answered_as_the_reference_answers_each(
    name: str, beams: int, tmp_path: Path
) -> None:
    """Pictures of many shapes and prompts of many lengths, token for token."""
    folder = write(name, tmp_path / "model")
    theirs = transformers.AutoModelForImageTextToText.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    ).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        # As they are, weights choose one token for ever.
        for key, value in theirs.named_parameters():
            value.add_(0.3 * torch.randn_like(value))
            if "encoder_attn" in key and key.endswith("proj.weight"):
                value.mul_(4)  # all that Florence-2's decoder has of picture and prompt
    theirs.save_pretrained(folder)
    ours = captax.load(folder)
    noise = np.random.default_rng(0)
    shapes, prompts = ((50, 90), (96, 40), (64, 64)), ["look red", "look", "red blue red square"]
    pictures = [noise.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]
    options = {"num_beams": beams, "max_new_tokens": 12, "length_penalty": 1.0}
    if name == "florence2":  # whose decoder reads no prompt, so words of it may be said
        options["no_repeat_ngram_size"] = 1
    found = ours.caption(pictures, prompt=prompts, **options)
    assert len({each.tokens for each in found}) > 1
    for picture, prompt, got in zip(pictures, prompts, found, strict=True):
        shown = ours.prepare(picture)
        [asked] = ours._asked([prompt], "", False)
        read = ours._whole_prompt(asked, shown, ours.generation)
        begun = 1 if name == "florence2" else len(read)  # which the encoder's prompt is no part of
        tokens = torch.tensor([getattr(read, "question", read)])
        want = answer_of_theirs(theirs, name, ours, shown, tokens, **options)
        assert list(got.tokens) == want.sequences[0, begun:].tolist()
        if beams > 1:
            assert got.score == pytest.approx(want.sequences_scores[0].item(), abs=1e-4)


@pytest.mark.parametrize("name", ["SmolVLM", "Idefics3"])
def test_the_tower_alone_and_pictures_of_other_sizes(name: str) -> None:
    theirs = reference(name, SMOLVLM_MODEL).model.vision_model
    config = FAMILIES[theirs.config.model_type].read(theirs.config.to_dict())
    saved = {key: value.numpy() for key, value in theirs.state_dict().items()}
    ours = fill(config.build(), saved, where="theirs", layout=config.layout())
    for size in ((32, 32), (24, 48), (16, 8)):
        pixels = np.random.default_rng(1).standard_normal((2, 3, *size)).astype(np.float32)
        with torch.no_grad():
            want = theirs(torch.from_numpy(pixels)).last_hidden_state.numpy()
        got = jax.jit(lambda pixels: ours(pixels))(pixels.transpose(0, 2, 3, 1))
        assert got.grid == (size[0] // 8, size[1] // 8) and got.lead == 0
        np.testing.assert_allclose(got.tokens, want, atol=1e-4, rtol=0)


@pytest.mark.parametrize("learned", [*range(1, 33), 40, 41, 47, 64, 73, 100])
def test_positions_are_rounded_as_transformers_rounds_them(learned: int) -> None:
    from transformers.models.idefics3.modeling_idefics3 import Idefics3VisionEmbeddings

    config = transformers.Idefics3VisionConfig(hidden_size=1, image_size=learned, patch_size=1)
    embeddings = Idefics3VisionEmbeddings(config)
    with torch.no_grad():
        for value in embeddings.parameters():
            value.zero_()
        embeddings.position_embedding.weight[:, 0] = torch.arange(learned**2)
        for rows, columns in ((learned, learned), (learned + 3, 5)):
            seen = torch.ones((1, rows, columns), dtype=torch.bool)
            want = embeddings(torch.zeros((1, 3, rows, columns)), seen)[0, :, 0].numpy()
            places = buckets(rows, learned)[:, None] * learned + buckets(columns, learned)
            assert (want == places.reshape(-1)).all()


@pytest.mark.parametrize(("name", "format"), [("SmolVLM", SMOLVLM), ("Idefics3", IDEFICS3)])
@pytest.mark.parametrize("grid", [(0, 0), (1, 4), (3, 2), (4, 4)])
def test_pictures_as_text(name: str, format: PromptFormat, grid: tuple[int, int]) -> None:
    processor = getattr(transformers, f"{name}Processor")
    markers = {
        "fake_image_token": "<fake_token_around_image>",
        "image_token": "<image>",
        "image_seq_len": 7,
    }
    whole = {"global_image_tag": "<global-img>", "global_image_token": "<global-img>"}
    seen = {"rows": [[grid[0]]], "cols": [[grid[1]]]}
    want = processor.replace_image_token(SimpleNamespace(**markers, **whole), seen, 0)
    assert format.picture_text(7, grid) == want


@pytest.mark.parametrize("system", [None, "You look closely."])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_the_chat_template_that_comes_with_transformers(count: int, system: str | None) -> None:
    from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

    jinja2 = pytest.importorskip("jinja2")
    asked = {"type": "text", "text": SMOLVLM.prompt}
    turns = [{"role": "user", "content": [{"type": "image"}] * count + [asked]}]
    if system is not None:
        turns.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(
        DEFAULT_CHAT_TEMPLATE
    )
    want = template.render(messages=turns, add_generation_prompt=True)
    assert SMOLVLM.text(pictures=["<image>"] * count, system=system) == want


def test_answers_follow_the_prompt_as_the_chat_template_writes_them() -> None:
    from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

    jinja2 = pytest.importorskip("jinja2")
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(
        DEFAULT_CHAT_TEMPLATE
    )
    shown, asked, said = ({"type": "image"}, {"type": "text", "text": SMOLVLM.prompt}, "A cat.")
    turns = [
        {"role": "user", "content": [shown, asked]},
        {"role": "assistant", "content": [{"type": "text", "text": said}]},
    ]
    whole = SMOLVLM.text(pictures=["<image>"]) + SMOLVLM.reply + said + SMOLVLM.user_end
    assert template.render(messages=turns, add_generation_prompt=False) == whole


def test_paligemma_prompts() -> None:
    processor = transformers.PaliGemmaProcessor
    tokens = SimpleNamespace(bos_token="<bos>")
    this = object.__new__(processor)
    this.tokenizer, this.image_token, this.image_seq_length = tokens, "<image>", 5
    picture = processor.replace_image_token(this, {}, 0)
    assert PALIGEMMA.picture_text(5) == picture
    image = np.zeros((4, 4, 3), np.uint8)
    _, texts, *_ = processor.prepare_inputs_layout(this, images=[[image]], text=["<image>say"])
    assert PALIGEMMA.text("say", pictures=["<image>"]) == texts[0]


def test_formats_have_the_model_types_of_configs() -> None:
    assert {kind.model_type for _, kind, _ in MODELS} <= FORMATS.keys()


CAPTIONS = ([[5, 9, 2], [7, 2]], [[30, 11, 12, 2], [8, 2]])


@pytest.mark.parametrize(("name", "kind", "arguments"), [MODELS[i] for i in (0, 3, 4, -2, -1)])
def test_the_loss_is_that_of_labels_without_the_prompt(
    name: str, kind: type[VisionLanguageConfig], arguments: dict[str, Any]
) -> None:
    """And so are its gradients, although the captions of a picture share a row and a prefix."""
    picture = 39
    key = "image_token_index" if name == "PaliGemma" else "image_token_id"
    theirs = reference(name, {**arguments, key: picture})
    config = kind.read(theirs.config.to_dict())
    saved = {key: value.numpy() for key, value in theirs.state_dict().items()}
    ours = fill(config.build(), saved, where="theirs", layout=config.layout())
    pixels = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    shown = [picture] * (4 if name.startswith("Qwen") else config.places)
    prompts = [[6, *shown, 20, 21], [6, *shown, 22, 23, 24, 25]]

    # Theirs: each caption in a sequence of its own, the prompt's labels are -100.
    total, count = torch.zeros(()), 0
    for row, (prompt, captions) in enumerate(zip(prompts, CAPTIONS, strict=True)):
        for caption in captions:
            tokens = torch.tensor([[*prompt, *caption]])
            labels = torch.tensor([[*[-100] * len(prompt), *caption]])
            views = torch.from_numpy(pixels[row : row + 1])
            given: dict[str, Any] = {"pixel_values": views if name == "PaliGemma" else views[None]}
            if name.startswith("Qwen"):
                given = patches_of(pixels[row : row + 1])
                given["mm_token_type_ids"] = (tokens == picture).long()
            if name == "PaliGemma":
                given["token_type_ids"] = (labels != -100).long()
            loss = theirs(input_ids=tokens, labels=labels, use_cache=False, **given).loss
            total, count = total + loss * len(caption), count + len(caption)
    mean = total / count
    mean.backward()
    want = {name: value.grad.numpy() for name, value in theirs.named_parameters()}

    # Ours: one row for each picture.
    start = 1
    packed = pack_captions(
        [[[start, *caption] for caption in captions] for captions in CAPTIONS],
        capacity=8,
        pad_id=0,
    )
    assert packed.dropped == 0
    filled = np.zeros((2, 24), np.int32)
    for row, prompt in enumerate(prompts):
        filled[row, : len(prompt)] = prompt
    asked = Prompt(jnp.array(filled), jnp.array([len(prompt) for prompt in prompts]))
    rebuild = rebuilder(ours)

    def loss_of(weights: dict[str, jax.Array]) -> jax.Array:
        model: Any = rebuild(weights)
        features = model.encode(jnp.asarray(pixels.transpose(0, 2, 3, 1)))
        inputs, targets, positions, segments = map(
            jnp.asarray, (packed.inputs, packed.targets, packed.positions, packed.segments)
        )
        logits = model.read(features, inputs, positions, segments, asked)
        found = token_losses(logits, targets, segments > 0)
        return found.total / found.weight

    value, gradient = jax.jit(jax.value_and_grad(loss_of))(parameters(ours))
    np.testing.assert_allclose(value, mean.item(), rtol=1e-5)
    layout = config.layout()
    got = export(rebuild(gradient), layout)
    spelt = {layout.canonical(name): value for name, value in want.items()}
    largest = max(np.abs(value).max() for value in spelt.values())
    assert spelt.keys() >= got.keys()
    for tensor, value in got.items():
        np.testing.assert_allclose(value, spelt[tensor], atol=1e-4 * largest, err_msg=tensor)


# The parts of Qwen's published chat templates that speak of turns and pictures.
QWEN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ first if loop.first and message['role'] != 'system' else '' }}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("system", [None, "You look closely."])
@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_qwen_is_asked_as_its_chat_template_asks(name: str, system: str | None) -> None:
    jinja2 = pytest.importorskip("jinja2")
    [format] = FORMATS[name]
    told = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    first = told if name == "qwen2_5_vl" else ""
    asked = {"type": "text", "text": format.prompt}
    turns: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "image"}, asked]}]
    if system is not None:
        turns.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    template = jinja2.Environment(keep_trailing_newline=True).from_string(QWEN_TEMPLATE)
    want = template.render(messages=turns, add_generation_prompt=True, first=first)
    assert format.text(pictures=[format.picture_text(1)], system=system) == want
