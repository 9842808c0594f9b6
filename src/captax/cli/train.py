"""`captax train`: run a recipe."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from captax.cli.options import FollowLinks

SEVERAL = "Several processes"


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(help="The recipe: a name or a .yaml file. Required without --resume."),
    ] = None,
    set: Annotated[
        list[str] | None,
        typer.Option(
            help="Set a field of the recipe, such as data.root=DIR or optimizer.batch_size=50. "
            "Default: the recipe as it is."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The run's folder. Default: runs/NAME, by the recipe's name."),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Continue the run in this folder with its own recipe. Default: the run in --out."
        ),
    ] = None,
    init_from: Annotated[
        Path | None,
        typer.Option(
            help="Begin with the weights of this run's best/, or of this checkpoint. Default: the "
            "recipe's model."
        ),
    ] = None,
    skip_broken: Annotated[
        bool,
        typer.Option(
            "--skip-broken",
            help="Leave out examples that cannot be used, such as pictures that cannot be read. "
            "skipped.json in the run's folder names them.",
        ),
    ] = False,
    follow_links: FollowLinks = False,
    coordinator: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT of the first process. Default: this process trains alone.",
            rich_help_panel=SEVERAL,
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many processes there are. Default: as the cluster says.",
            rich_help_panel=SEVERAL,
        ),
    ] = None,
    process: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="The number of this process, from 0. Default: as the cluster says.",
            rich_help_panel=SEVERAL,
        ),
    ] = None,
) -> None:
    """Train a model. If the run was stopped, run the same command again to continue.

    The run's folder holds log.jsonl, curves.png, samples/, checkpoints/ and best/, the model.
    """
    # Start-up time.
    from captax.errors import CaptaxError, quoted
    from captax.training.folder import OWN_RECIPE, run_recipe
    from captax.training.recipe import RecipeError, load_recipe

    if resume is not None:
        if recipe or set or out or init_from:
            raise RecipeError("--resume uses the run's own recipe; give nothing else with it")
        if run_recipe(resume) is None:
            raise RecipeError(
                f"{resume}: there is no run in this folder; give --resume the folder of a run"
            )
        recipe, out = str(resume / OWN_RECIPE), resume
    if recipe is None:
        raise RecipeError("there is no recipe; give a recipe's name or file, or --resume FOLDER")
    plan = load_recipe(recipe, set or [])
    name = plan.name
    if out is None and (Path(name).name != name or name in ("", "..") or not name.isprintable()):
        raise RecipeError(
            f"recipe {recipe}: its name {quoted(name)} cannot name the run's folder; give "
            "--out FOLDER"
        )

    # Start-up time: these import JAX, which is not needed to report mistakes in a recipe.
    from captax.compilation import persist_compiled_programs
    from captax.training.examples import SHOWN, BrokenData
    from captax.training.loop import train as run

    if coordinator is not None:
        import jax  # start-up time

        jax.distributed.initialize(coordinator, processes, process)
    persist_compiled_programs()
    try:
        best = run(
            plan,
            out or Path("runs") / name,
            init_from=init_from,
            follow_links=follow_links,
            skip_broken=skip_broken,
        )
    except BrokenData as error:
        if len(error.faults) == 1:
            raise
        for fault in error.faults[:SHOWN]:
            print(f"captax: {CaptaxError(fault.told)}", file=sys.stderr)
        raise CaptaxError(f"{error.counts}. {error.remedy}") from None
    except KeyboardInterrupt:
        print("captax: stopped; run the same command again to continue", file=sys.stderr)
        raise
    print(f"best model: {best}")
