"""`captax train`: run a recipe."""

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, or a .yaml file.")],
    set: Annotated[
        list[str] | None,
        typer.Option(help="key.path=value, such as data.root=DIR or optimizer.batch_size=50."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; default: runs/NAME.")] = None,
) -> None:
    """Train a captioner. The same command goes on where a stopped run was.

    The folder gets log.jsonl, curves.png, checkpoints/ and best/, the captioner to use.
    """
    from captax.training.recipe import load_recipe

    plan = load_recipe(recipe, set or [])

    from captax.compilation import persist_compiled_programs
    from captax.training.loop import train as run

    persist_compiled_programs()
    best = run(plan, out or Path("runs") / plan.name)
    print(f"best captioner: {best}")
