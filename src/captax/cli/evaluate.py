"""`captax evaluate`: caption a dataset and score the captions."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[str, typer.Argument(help="Checkpoint directory, or `default`.")],
    data: Annotated[Path, typer.Argument(help="Dataset: Flickr8k, COCO, or captioned folder.")],
    split: Annotated[str | None, typer.Option(help="train, dev or test.")] = None,
    num_beams: Annotated[int | None, typer.Option(min=1)] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    json_out: Annotated[
        Path | None, typer.Option("--json", help="Also write scores and captions as JSON.")
    ] = None,
) -> None:
    """Caption a dataset's pictures and print the field's scores (x 100)."""
    from tqdm import tqdm

    from captax import data as datasets
    from captax import metrics
    from captax.captioner import load
    from captax.compilation import persist_compiled_programs
    from captax.files import write_text
    from captax.images import ImageError

    examples = datasets.open(data, split=split)
    persist_compiled_programs()
    captioner = load(None if model == "default" else model)
    options = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
    given = {name: value for name, value in options.items() if value is not None}

    started = time.perf_counter()
    stream = captioner.stream([e.image for e in examples], batch_size=batch_size, **given)
    captions: dict[str, str] = {}
    for example, caption in zip(
        examples,
        tqdm(stream, total=len(examples), unit="picture", disable=not sys.stderr.isatty()),
        strict=True,
    ):
        if isinstance(caption, ImageError):
            raise caption
        captions[example.id] = caption.text
    seconds = time.perf_counter() - started

    references = {example.id: example.captions for example in examples}
    scores = metrics.score(captions, references, meteor=metrics.meteor_available())
    for name, value in scores.corpus.items():
        print(f"{name:8} {100 * value:6.2f}")
    print(f"{len(examples)} pictures, {len(examples) / seconds:.1f} a second")
    if json_out is not None:
        content = {"scores": scores.corpus, "captions": captions, "per_image": scores.per_image}
        write_text(json_out, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
