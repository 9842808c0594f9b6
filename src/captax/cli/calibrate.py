"""`captax calibrate`: fit the confidence of a captioner to pictures that people captioned."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from captax.cli.options import Loaded, Replace, load_captioner, wrote
from captax.errors import CaptaxError
from captax.files import NewFile, absent, check_new_files, unwritable, write_text

if TYPE_CHECKING:
    from captax.evaluation.calibrate import Fit


def calibrate(
    model: Annotated[
        str,
        typer.Argument(
            help="Checkpoint directory or hub name; `default` is the built-in captioner."
        ),
    ],
    data: Annotated[
        list[Path],
        typer.Option(
            help="Directory of a dataset that the model was not trained on, as evaluate takes it; "
            "may be repeated. There is no default."
        ),
    ],
    split: Annotated[
        str, typer.Option(help="Split to caption: train, dev or test, or `all` of them.")
    ] = "dev",
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Pictures of each dataset, spread over it. Default: all."),
    ] = None,
    acceptable: Annotated[
        float,
        typer.Option(
            min=0, max=1000, help="CIDEr-D (x 100) above which a caption counts as acceptable."
        ),
    ] = 50,
    sure: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Share of acceptable captions among those that are called sure."
        ),
    ] = 0.75,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of pictures in a batch.")] = 32,
    dtype: Loaded = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for confidence.json and confidence.png. Default: the checkpoint's own."
        ),
    ] = None,
    overwrite: Replace = False,
) -> None:
    """Fit the chance that a person would accept a caption, and keep it in the checkpoint.

    It captions the pictures, adds noise, blank pages and charts, whose captions are never
    acceptable, and writes confidence.json, with which every caption gets a confidence. AUROC and
    the diagram, confidence.png, are of captions that the fit has not seen (10 folds).
    """
    if out is None and not Path(model).exists():
        raise CaptaxError(
            f"{model}: {absent(model, 'directory')}; if it is a checkpoint of the hub or the "
            "built-in one, add --out FOLDER and put confidence.json into a copy of the checkpoint"
        )
    if out is None and not Path(model).is_dir():
        raise CaptaxError(
            f"{model}: is not a checkpoint directory of yours, so nothing is written into it; add "
            "--out FOLDER and put confidence.json into a copy of the checkpoint"
        )
    folder = Path(model) if out is None else out
    # Start-up time: these import JAX, for which `--help` should not wait.
    from captax import data as datasets
    from captax.evaluation.calibrate import DIAGRAM, plot_reliability
    from captax.evaluation.calibrate import calibrate as run
    from captax.pipelines.generator import CALIBRATION, CONFIDENCE, calibration_text

    file, plot = folder / CONFIDENCE, (folder / CONFIDENCE).with_suffix(".png")
    kinds = {file: CALIBRATION, plot: DIAGRAM}
    check_new_files([NewFile("--out", *each, overwrite) for each in kinds.items()], data)
    same_names = len({each.resolve().name for each in data}) < len(data)
    examples = {}
    for each in data:
        found = datasets.open(each, split=None if split == "all" else split)
        step = max(1, len(found) // (limit or len(found)))
        examples[str(each) if same_names else each.resolve().name] = found[::step][:limit]
    if len(examples) < len(data):
        raise CaptaxError("--data names a dataset twice; give each once")
    try:
        folder.mkdir(parents=True, exist_ok=True)  # captioning takes a while, and is for this
    except OSError as error:
        raise unwritable(folder, error) from None
    captioner = load_captioner(model, dtype=dtype)
    fit = run(
        captioner,
        examples,
        acceptable=acceptable / 100,
        sure=sure,
        batch_size=batch_size,
        progress=True,
    )
    write_text(file, calibration_text(fit.calibration), inside=folder)
    plot_reliability(plot, fit, inside=folder)
    for line in _report(fit, list(examples)):
        print(line)
    wrote(file)
    wrote(plot)


def _report(fit: "Fit", names: list[str]) -> list[str]:
    width = max(len(name) for name in [*names, "all"])
    lines = [f"{'data':{width}}  pictures  acceptable  AUROC"]
    for name in [*names, *(["all"] if len(names) > 1 else [])]:
        which = fit.of(name) if name in names else slice(None)
        right = fit.acceptable[which]
        value = fit.auroc(name if name in names else None)
        lines.append(f"{name:{width}}  {len(right):8}  {right.mean():10.1%}  {value:.3f}")
    weights = fit.calibration.weights.items()
    lines.append("weights: " + ", ".join(f"{name} {value:.3g}" for name, value in weights))
    if fit.sure.any():
        lines.append(
            f"sure from a confidence of {fit.calibration.threshold:.3f}: {fit.sure.mean():.1%} of "
            f"the captions, of which {fit.acceptable[fit.sure].mean():.1%} are acceptable"
        )
    else:
        lines.append(
            "no caption is called sure: at no confidence are enough acceptable, or synthetic "
            "pictures come too near; give more data, or a lower --sure"
        )
    lines.append(f"synthetic pictures reach a confidence of {fit.synthetic:.3f}")
    return lines
