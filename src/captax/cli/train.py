"""`captax train`: run a recipe."""

import sys
from pathlib import Path
from typing import Annotated

import typer

SEVERAL = "Several processes"


def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe's name, or a .yaml file; none with --resume.")
    ] = None,
    set: Annotated[
        list[str] | None,
        typer.Option(help="key.path=value, such as data.root=DIR or optimizer.batch_size=50."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; default: runs/NAME.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the run in this folder, by its own recipe.")
    ] = None,
    init_from: Annotated[
        Path | None,
        typer.Option(help="Begin with the weights of this run's best, or of this checkpoint."),
    ] = None,
    coordinator: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of the first process.", rich_help_panel=SEVERAL),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="How many there are.", rich_help_panel=SEVERAL)
    ] = None,
    process: Annotated[
        int | None,
        typer.Option(min=0, help="Which of them this is, from 0.", rich_help_panel=SEVERAL),
    ] = None,
) -> None:
    """Train a model. The same command goes on where a stopped run was.

    The folder gets log.jsonl, curves.png, samples/, checkpoints/ and best/, the model to use.
    """
    from captax.training.recipe import RecipeError, load_recipe

    if resume is not None:
        if recipe or set or out or init_from:
            raise RecipeError("--resume goes on by the run's own recipe: give nothing else with it")
        recipe, out = str(resume / "recipe.yaml"), resume
    if recipe is None:
        raise RecipeError("give a recipe's name or file, or --resume FOLDER")
    plan = load_recipe(recipe, set or [])

    from captax.compilation import persist_compiled_programs
    from captax.training.loop import train as run

    if coordinator is not None:
        import jax

        jax.distributed.initialize(coordinator, processes, process)
    persist_compiled_programs()
    try:
        best = run(plan, out or Path("runs") / plan.name, init_from=init_from)
    except KeyboardInterrupt:
        print("captax: stopped; the same command goes on", file=sys.stderr)
        raise
    print(f"best model: {best}")
