"""Small checkpoints of vision-language models, with all that captioning takes."""

import json
import shutil
from pathlib import Path

import tokenizers

from captax.images import ImageProcessor
from captax.text import Tokenizer
from golden.families import CASES

END = "<end_of_utterance>"
MARKERS = {
    "smolvlm": (
        *("<|im_start|>", END, "<fake_token_around_image>", "<global-img>"),
        *(f"<row_{row}_col_{column}>" for row in (1, 2, 3) for column in (1, 2)),
    ),
    "paligemma": ("<bos>", END),
}
LAST = {"smolvlm": tuple(f"<row_{row}_col_3>" for row in (1, 2, 3)), "paligemma": ()}
WORDS = ("User:", "System:", "Assistant:", "red", "blue", "square", "look", "Can", "you", "?")
TILES = {
    "image_processor_type": "SmolVLMImageProcessor",
    "size": {"longest_edge": 96},
    "max_image_size": {"longest_edge": 32},
}


def write(name: str, folder: Path) -> Path:
    """`name` is "smolvlm" (tiles of 32 pixels; longer sides of 96) or "paligemma"."""
    shutil.copytree(CASES[name].stored, folder, dirs_exist_ok=True)
    contents = json.loads((folder / "config.json").read_text())
    contents["text_config"]["max_position_embeddings"] = 256
    (folder / "config.json").write_text(json.dumps(contents))
    markers = MARKERS[name]
    said = ["<pad>", "<s>", "</s>", "<unk>", *markers, *WORDS, *LAST[name]]
    words = {word: index for index, word in enumerate(said)}
    words |= {f"w{index}": index for index in range(len(words), 39)} | {"<image>": 39}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens([*markers, *LAST[name], "<image>", "<pad>", "<s>", "</s>"])
    Tokenizer(backend, start="<s>", eos=END, pad="<pad>").save(folder)
    config = TILES if name == "smolvlm" else ImageProcessor(size=(32, 32)).to_config()
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    roles = {"eos_token_id": words[END], "pad_token_id": 0, "bos_token_id": 1}
    (folder / "generation_config.json").write_text(json.dumps(roles))
    return folder
