"""The model card that goes with a trained model."""

import json
from collections.abc import Mapping

from captax.training.examples import Examples
from captax.training.recipe import Recipe

PIPELINES = {
    "caption": "image-to-text",
    "classify": "image-classification",
    "rewrite": "text2text-generation",
}
USES = {
    "caption": 'caption(["picture.jpg"])',
    "classify": 'classify(["picture.jpg"])',
    "rewrite": 'generate(["a text"])',
}
_PICTURES = "picture", "pictures"
NOUNS = {
    "caption": _PICTURES,
    "classify": _PICTURES,
    "rewrite": ("pair of texts", "pairs of texts"),
}
# Fewer examples than these teach a model, and tell about it, only what holds for themselves.
FEW = 100
# Scores that are no shares, and so are not multiplied by 100.
PLAIN = {"loss", "perplexity"}


def number_of(count: int, recipe: Recipe) -> str:
    """So many examples, in words."""
    return f"{count:,} {NOUNS[recipe.task][count != 1]}"


def model_card(
    recipe: Recipe, examples: Examples, scores: Mapping[str, float], *, metric: str
) -> str:
    """A README.md for the checkpoint: what it is, what it was trained on, how it scores."""
    sources = "\n".join(
        f"- `{source.path}` ({source.split or 'all'}): {number_of(count, recipe)}"
        for source, (count, _) in zip(recipe.data.train, examples.parts, strict=True)
    )
    if examples.skipped:
        left_out = number_of(len(examples.skipped), recipe)
        sources += f"\n\nLeft out because they could not be used: {left_out}."
    dev = ", ".join(f"`{s.path}` ({s.split or 'all'})" for s in recipe.data.dev)
    table = "\n".join(
        f"| {name} | {value:.3f} |" if name in PLAIN else f"| {name} x 100 | {100 * value:.1f} |"
        for name, value in scores.items()
    )
    few = ":"
    if len(examples.dev) < FEW:
        few = ". These are too few to say how good the model is on others:"
    use = USES[recipe.task]
    if prompt := recipe.model.prompts[0]:
        use = f"{use[:-1]}, prompt={json.dumps(prompt, ensure_ascii=False)})"
    how = "" if recipe.task == "classify" else f", beam {recipe.evaluation.num_beams}"
    return f"""---
library_name: captax
pipeline_tag: {PIPELINES[recipe.task]}
tags: [captax, jax]
---
# {recipe.name}

{recipe.description.strip() or "Trained with captax."}

Trained with `captax train {recipe.name}` on

{sources}

and chosen by {metric} on {number_of(len(examples.dev), recipe)} of {dev}{how}{few}

| metric | value |
| --- | --- |
{table}

```python
import captax

captax.load("this-directory").{use}
```
"""
