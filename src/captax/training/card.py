"""The model card that goes with a trained captioner."""

from collections.abc import Mapping

from captax.training.recipe import Recipe


def model_card(recipe: Recipe, scores: Mapping[str, float]) -> str:
    """A README.md for the checkpoint: what it is, what it was trained on, how it scores."""
    sources = "\n".join(f"- `{s.path}` ({s.split or 'all'})" for s in recipe.data.train)
    dev = ", ".join(f"`{s.path}` ({s.split or 'all'})" for s in recipe.data.dev)
    table = "\n".join(f"| {name} | {100 * value:.1f} |" for name, value in scores.items())
    return f"""---
library_name: captax
pipeline_tag: image-to-text
tags: [image-captioning, jax]
---
# {recipe.name}

{recipe.description.strip() or "An image captioner."}

Trained with `captax train {recipe.name}` on

{sources}

and chosen by CIDEr-D on {dev}, beam {recipe.evaluation.num_beams}:

| metric | x 100 |
| --- | --- |
{table}

```python
import captax

captax.load("this-directory").caption(["picture.jpg"])
```
"""
