"""`captax evaluate`: run a model on a dataset and measure it."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from captax.cli.options import (
    Devices,
    Loaded,
    Replace,
    TensorParallel,
    checkpoint_files,
    on_devices,
    refuse_idle,
    wrote,
)
from captax.cli.score import names, warn_of_one
from captax.errors import CaptaxError, plural
from captax.files import NewFile, check_new_files


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="Checkpoint directory or hub name of a captioner, classifier or text-to-text "
            "model; `default` is the built-in captioner."
        ),
    ],
    data: Annotated[
        str,
        typer.Argument(
            help="Directory of a dataset (Flickr8k, COCO, a captioned folder, pictures with "
            "labels, or pairs of texts), or hf://owner/name for one of the Hugging Face hub."
        ),
    ],
    split: Annotated[
        str | None, typer.Option(help="Split to measure on: train, dev or test. Default: all.")
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(help="Use only these examples, as a Python slice: :100, -300:. Default: all."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use only this many examples. Default: all.")
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Metrics of captions and texts, with commas between: bleu, rouge-l, cider-d, "
            "cider, meteor, spice, wer, cer, rouge-score, diversity. Default: bleu,rouge-l,cider-d "
            "for captions, rouge-score,bleu for texts."
        ),
    ] = None,
    num_beams: Annotated[
        int | None, typer.Option(min=1, help="Number of beams. Default: the checkpoint's.")
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Largest number of tokens in a caption or text. Default: the checkpoint's."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of examples in a batch.")] = 32,
    dtype: Loaded = None,
    devices: Devices = None,
    tensor_parallel: TensorParallel = 1,
    json_out: Annotated[
        Path | None,
        typer.Option(
            "--json", help="Write scores and captions, or labels, as JSON. Default: not written."
        ),
    ] = None,
    confusion: Annotated[
        Path | None,
        typer.Option(
            help="Draw which labels a classifier takes for which, as a PNG. Default: not drawn."
        ),
    ] = None,
    overwrite: Replace = False,
) -> None:
    """Run a model on a dataset and print how good it is (x 100).

    A captioner and a text-to-text model write, and what they write is scored against the
    references. A classifier labels pictures: accuracy, and precision, recall and F1 of each class.
    """
    # Start-up time.
    from captax import data as datasets
    from captax.compilation import persist_compiled_programs
    from captax.evaluation.evaluate import evaluate as run
    from captax.evaluation.labels import known
    from captax.evaluation.score_files import SCORES, write_scores
    from captax.metrics import COUNTS
    from captax.metrics.classification import CONFUSION, plot_confusion
    from captax.pipelines.captioner import Captioner
    from captax.pipelines.classifier import Classifier
    from captax.pipelines.loading import load
    from captax.pipelines.text_generator import TextGenerator
    from captax.progress import tell

    new = [
        NewFile("--json", json_out, SCORES, overwrite),
        NewFile("--confusion", confusion, CONFUSION, overwrite),
    ]
    check_new_files(new, [data, *checkpoint_files(model)])
    # What is wrong with the data is told before the model is loaded.
    datasets.check_place(data, split=split, rows=rows)
    persist_compiled_programs()
    loaded: Any = load(model, dtype=dtype, **on_devices(devices, tensor_parallel))
    if not isinstance(loaded, Captioner | Classifier | TextGenerator):
        raise CaptaxError(
            f"{model}: holds a {type(loaded).__name__}, which cannot be evaluated; give a "
            "captioner, a classifier or a text-to-text model"
        )
    writes = not isinstance(loaded, Classifier)
    others = "models that write", "a captioner or a text-to-text model"
    refuse_idle(
        ("--metrics", metrics is not None and not writes, *others),
        ("--num-beams", num_beams is not None and not writes, *others),
        ("--max-new-tokens", max_new_tokens is not None and not writes, *others),
        ("--confusion", confusion is not None and writes, "classifiers", "one as the model"),
    )
    opens: dict[type, Any] = {
        Captioner: datasets.open,
        Classifier: datasets.open_labelled,
        TextGenerator: datasets.open_pairs,
    }
    opened = next(each for kind, each in opens.items() if isinstance(loaded, kind))
    examples = list(datasets.take_rows(opened(data, split=split), rows))[:limit]
    if not examples:
        raise CaptaxError(f"{data}: has no examples in --rows {rows}; give other rows")
    if not isinstance(loaded, Classifier):
        options: dict[str, Any] = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
        options = {name: value for name, value in options.items() if value is not None}
        if metrics is not None:
            options["metrics"] = names(metrics)
        found = run(loaded, examples, batch_size=batch_size, progress=True, **options)
        for name, value in found.scores.corpus.items():
            print(f"{name:12} {value:7.0f}" if name in COUNTS else f"{name:12} {100 * value:7.2f}")
        warn_of_one(found.scores.corpus, len(examples))
        content: dict[str, Any] = {
            "scores": found.scores.corpus,
            "captions": found.captions,
            "per_image": found.scores.per_image,
        }
        speed = found.pictures_per_second
    else:
        every = len(examples)
        examples, unknown = known(loaded.labels, examples, data)
        if unknown:
            few = f"{', '.join(unknown[:5])}{', ...' if len(unknown) > 5 else ''}"
            tell(
                f"captax: left out {plural(every - len(examples), 'picture')} of "
                f"{plural(len(unknown), 'class', 'classes')} that the model does not have ({few})",
                sys.stderr,
            )
        labelled = run(loaded, examples, batch_size=batch_size, progress=True)
        for line in labelled.lines():
            tell(line)
        content, speed = labelled.content(), labelled.pictures_per_second
        if confusion is not None:
            plot_confusion(confusion, labelled.confusion, labelled.labels)
            wrote(confusion)
    noun = "text" if isinstance(loaded, TextGenerator) else "picture"
    if split is None:
        print(
            f"captax: scored the {noun}s of all splits; --split dev scores only those of dev",
            file=sys.stderr,
        )
    print(f"{plural(len(examples), noun)}, {speed:.1f} a second")
    if json_out is not None:
        write_scores(json_out, content)
        wrote(json_out)
