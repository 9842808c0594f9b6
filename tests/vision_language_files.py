"""Small checkpoints of vision-language models, with all that captioning takes."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from captax.images import Group, ImageProcessor
from captax.models.patches import in_squares
from captax.pipelines.vision_language import pictures_of
from captax.text import Tokenizer
from golden.families import CASES

# Families that are shown pictures at their own size.
NATIVE = ("qwen2.5-vl", "qwen3-vl")
END = "<end_of_utterance>"
MARKERS = {
    "smolvlm": (
        *("<|im_start|>", END, "<fake_token_around_image>", "<global-img>"),
        *(f"<row_{row}_col_{column}>" for row in (1, 2, 3) for column in (1, 2)),
    ),
    "paligemma": ("<bos>", END),
    "llava": (END,),
    "joycaption": (
        *("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", END, "<|eot_id|>"),
        *("<|reserved_special_token_70|>", "<|reserved_special_token_71|>"),
    ),
    "gemma3-vision": (
        *("<bos>", "<start_of_turn>", "<end_of_turn>", END),
        *("<start_of_image>", "<end_of_image>"),
    ),
    **dict.fromkeys(
        NATIVE,
        ("<|im_start|>", END, "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    ),
    "florence2": (END, "<poly>", "</poly>", "<sep>", *(f"<loc_{part}>" for part in range(5))),
}
# What keeps the places of a picture, where it is not `<image>`.
PICTURES = {
    "joycaption": "<|reserved_special_token_69|>",
    "gemma3-vision": "<image_soft_token>",
    "qwen2.5-vl": "<|image_pad|>",
    "qwen3-vl": "<|image_pad|>",
}
# Markers after the words.
LAST = {"smolvlm": tuple(f"<row_{row}_col_3>" for row in (1, 2, 3))}
SIZES = {"florence2": (48, 80)}
WORDS = ("User:", "System:", "Assistant:", "red", "blue", "square", "look", "Can", "you", "?")
TILES = {
    "image_processor_type": "SmolVLMImageProcessor",
    "size": {"longest_edge": 96},
    "max_image_size": {"longest_edge": 32},
}
# Of the families whose processors differ.
OWN = {
    "smolvlm": TILES,
    "qwen2.5-vl": {
        "image_processor_type": "Qwen2VLImageProcessor",
        "min_pixels": 1024,
        "max_pixels": 8192,
        "patch_size": 8,
    },
    "qwen3-vl": {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "size": {"shortest_edge": 1024, "longest_edge": 8192},
        "patch_size": 8,
    },
}


def write(name: str, folder: Path) -> Path:
    """`name` is one of `MARKERS`.

    "smolvlm" has tiles of 32 pixels, and longer sides of 96. Qwen's have a token for 16 x 16
    pixels, and from 4 to 32 of them.
    """
    shutil.copytree(CASES[name].stored, folder, dirs_exist_ok=True)
    contents = json.loads((folder / "config.json").read_text())
    if name != "florence2":  # whose positions are a table
        contents["text_config"]["max_position_embeddings"] = 512
    if name in NATIVE:
        contents["video_token_id"] = 38
    (folder / "config.json").write_text(json.dumps(contents))
    markers, picture = MARKERS[name], PICTURES.get(name, "<image>")
    last = LAST.get(name, ())
    said = ["<pad>", "<s>", "</s>", "<unk>", *markers, *WORDS, *last]
    words = {word: index for index, word in enumerate(said)}
    words |= {f"w{index}": index for index in range(len(words), 39)} | {picture: 39}
    if name in NATIVE:
        words["<|video_pad|>"] = words.pop("w38")
        markers = (*markers, "<|video_pad|>")
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    if name == "florence2":
        backend.decoder = tokenizers.decoders.Fuse()  # nothing stands between location tokens
    backend.add_special_tokens([*markers, *last, picture, "<pad>", "<s>", "</s>"])
    Tokenizer(backend, start="<s>", eos=END, pad="<pad>").save(folder)
    processor = ImageProcessor(size=SIZES.get(name, (32, 32)))
    config = OWN.get(name) or processor.to_config()
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    roles = {"eos_token_id": words[END], "pad_token_id": 0, "bos_token_id": 1}
    if name == "florence2":
        roles |= {"decoder_start_token_id": 2, "max_length": 20}
    (folder / "generation_config.json").write_text(json.dumps(roles))
    return folder


def seen_by_theirs(name: str, ours: Any, shown: Any, tokens: Any) -> dict[str, Any]:
    """What was prepared as transformers' models take it, and what they are told of its tokens."""
    import torch

    pictures = pictures_of(shown)
    video = isinstance(shown, Group) and shown.is_video
    if name not in NATIVE:
        views = [view for each in pictures for view in each.views]
        pixels = ours.processor.normalize(np.stack(views)).transpose(0, 3, 1, 2)
        pixels = torch.from_numpy(np.ascontiguousarray(pixels))
        if name == "smolvlm":
            return {"pixel_values": pixels[None]}
        if name not in ("paligemma", "gemma3-vision"):
            return {"pixel_values": pixels}
        marked = (tokens == ours.model.config.image_token_id).long()
        return {"pixel_values": pixels, "token_type_ids": marked * (name != "paligemma")}
    patch, merge = ours.processor.patch, ours.processor.merge
    cuts = [
        in_squares(ours.processor.normalize(each.pixels[None])[0], patch, merge)
        for each in pictures
    ]
    grids = [[1, *(side // patch for side in each.pixels.shape[:2])] for each in pictures]
    config = ours.model.config
    given: dict[str, Any] = {}
    if video:
        cuts += cuts[-1:] * (len(cuts) % 2)
        parts = [np.stack(cuts[i : i + 2], 1) for i in range(0, len(cuts), 2)]
        grid = torch.tensor([[len(parts), *grids[0][1:]]])
        given = {"video_grid_thw": grid}
        if name == "qwen2.5-vl":
            between = (shown.times[-1] - shown.times[0]) / (len(shown.times) - 1)
            given["second_per_grid_ts"] = torch.tensor([2 * between])
    else:
        parts = [np.stack([cut, cut], 1) for cut in cuts]
        given = {"image_grid_thw": torch.tensor(grids)}
    flat = [each.reshape(len(each), 2, patch**2, 3).transpose(0, 3, 1, 2) for each in parts]
    pixels = torch.from_numpy(np.concatenate([each.reshape(len(each), -1) for each in flat]))
    given["pixel_values_videos" if video else "pixel_values"] = pixels
    marked = (tokens == config.image_token_id).long() + 2 * (tokens == config.video_token_id).long()
    return {**given, "mm_token_type_ids": marked}


def answer_of_theirs(
    theirs: Any, name: str, ours: Any, shown: Any, tokens: Any, **options: Any
) -> Any:
    """What transformers' model writes after a whole prompt and what `ours` prepared."""
    import torch

    return theirs.generate(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        **seen_by_theirs(name, ours, shown, tokens),
        **options,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
    )
