"""Share checkpoints: write a model card and upload to the hub."""

from os import PathLike
from pathlib import Path
from typing import Any

from captax.checkpoints import hub
from captax.checkpoints.directory import CARD, CONFIG, read_json
from captax.files import write_text

TASKS = {
    "vision-encoder-decoder": "image-to-text",
    "captax-encoder-decoder": "image-to-text",
    "git": "image-to-text",
    "blip": "image-to-text",
    "florence2": "image-to-text",
    "encoder-decoder": "text-generation",
    "bart": "text-generation",
    "gpt2": "text-generation",
    "clip": "zero-shot-image-classification",
    "siglip": "zero-shot-image-classification",
}
USES = {
    "image-to-text": 'captax.load("{name}").caption("photo.jpg")',
    "image-classification": 'captax.load("{name}").classify("photo.jpg")',
    "zero-shot-image-classification": 'captax.load("{name}").match("x.jpg", ["a dog", "a cat"])',
    "text-generation": 'captax.load("{name}").generate("Some text.")',
}


def push(
    directory: str | PathLike[str],
    name: str,
    *,
    token: str | None = None,
    private: bool = False,
    message: str = "Upload with captax",
) -> str:
    """Upload a checkpoint directory to the hub as `name` (`org/name`) in one commit.

    A directory without a model card first gets a short one, to be filled in. Returns the URL.
    Raises `HubError` as `checkpoints.hub.push` does.
    """
    directory = Path(directory)
    if (directory / CONFIG).is_file() and not (directory / CARD).is_file():
        card = model_card(read_json(directory / CONFIG), name)
        write_text(directory / CARD, card, own=True)
    return hub.push(directory, name, token=token, private=private, message=message)


def model_card(config: dict[str, Any], name: str) -> str:
    """A card that says what the model is and how to use it; people fill in the rest."""
    kind = str(config.get("model_type", ""))
    task = "image-classification" if config.get("id2label") else TASKS.get(kind)
    halves = [config[half].get("model_type") for half in ("encoder", "decoder") if half in config]
    made_of = f" ({' + '.join(halves)})" if halves else ""
    head = [
        "library_name: transformers" if not kind.startswith("captax") else "library_name: captax"
    ]
    head += [f"pipeline_tag: {task}"] if task else []
    use = USES.get(task or "", 'captax.load_model("{name}")').format(name=name)
    return f"""---
{chr(10).join(head)}
tags: [captax, jax]
---

# {name.split("/")[-1]}

A `{kind}` model{made_of}, saved by [captax](https://pypi.org/project/captax/).

## Use

```python
import captax

print({use})
```

## Training data, scores and limits

Please fill in: what was it trained on, what are its scores, and what should it not be used for?
"""
