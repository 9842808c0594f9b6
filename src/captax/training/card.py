"""The model card that goes with a trained model."""

from collections.abc import Mapping

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
# Scores that are no shares, and so are not multiplied by 100.
PLAIN = {"loss", "perplexity"}


def model_card(recipe: Recipe, scores: Mapping[str, float], *, metric: str) -> str:
    """A README.md for the checkpoint: what it is, what it was trained on, how it scores."""
    sources = "\n".join(f"- `{s.path}` ({s.split or 'all'})" for s in recipe.data.train)
    dev = ", ".join(f"`{s.path}` ({s.split or 'all'})" for s in recipe.data.dev)
    table = "\n".join(
        f"| {name} | {value:.3f} |" if name in PLAIN else f"| {name} x 100 | {100 * value:.1f} |"
        for name, value in scores.items()
    )
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

and chosen by {metric} on {dev}{how}:

| metric | value |
| --- | --- |
{table}

```python
import captax

captax.load("this-directory").{USES[recipe.task]}
```
"""
