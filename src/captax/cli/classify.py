"""`captax classify`: label the pictures in files, folders and patterns."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from captax.cli.options import (
    SOME_FAILED,
    Devices,
    Formatted,
    Loaded,
    Offline,
    Out,
    Replace,
    Revision,
    TensorParallel,
    as_json,
    checkpoint_files,
    named_pictures,
    on_devices,
    output,
    watched,
)
from captax.errors import CaptaxError, plural
from captax.files import NewFile, check_new_files


def classify(
    paths: Annotated[
        list[str], typer.Argument(help="Pictures, folders to search, patterns, or URLs.")
    ],
    model: Annotated[str, typer.Option(help="Checkpoint directory or hub name of a classifier.")],
    top: Annotated[int, typer.Option(min=1, help="Number of labels for each picture.")] = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of pictures in a batch.")] = 32,
    format: Formatted = None,
    out: Out = None,
    overwrite: Replace = False,
    dtype: Loaded = None,
    devices: Devices = None,
    tensor_parallel: TensorParallel = 1,
    revision: Revision = None,
    offline: Offline = False,
) -> None:
    """Label pictures, the most probable label first.

    Pictures that cannot be read are named on stderr; the exit code is then 1.
    """
    # Start-up time.
    from tqdm import tqdm

    from captax.compilation import persist_compiled_programs
    from captax.images import ImageError, is_image_path
    from captax.pipelines.classifier import Classifier
    from captax.pipelines.loading import load
    from captax.pipelines.records import (
        CLASSIFICATION_LINES,
        CLASSIFICATION_RECORDS,
        classification_line,
        classification_record,
    )

    kind = CLASSIFICATION_RECORDS if as_json(format, out) else CLASSIFICATION_LINES
    new = NewFile("--out", out, kind, overwrite)
    check_new_files([new], [*paths, *checkpoint_files(model)], reads=is_image_path)
    files = named_pictures(paths)
    persist_compiled_programs()
    classifier = load(
        model,
        revision=revision,
        offline=offline,
        dtype=dtype,
        **on_devices(devices, tensor_parallel),
    )
    if not isinstance(classifier, Classifier):
        raise CaptaxError(
            f"{model}: holds a {type(classifier).__name__}, which cannot classify; "
            "give a classifier"
        )
    failed = 0
    with output(out) as writer:
        bar = tqdm(total=len(files), unit="picture", disable=not watched(out), leave=False)
        stream = classifier.stream(files.values(), top=top, batch_size=batch_size)
        for path, found in zip(files, stream, strict=True):
            bar.update()
            if isinstance(found, ImageError):
                failed += 1
                told = str(found) if isinstance(path, Path) else f"{path}: {found}"
                tqdm.write(str(CaptaxError(f"captax: {told}")), file=sys.stderr)
            if as_json(format, out):
                record = classification_record(path, found)
                print(json.dumps(record, ensure_ascii=False), file=writer, flush=True)
            elif not isinstance(found, ImageError):
                print(classification_line(path, found), file=writer, flush=True)
        bar.close()
    if failed:
        print(
            f"captax: {failed} of {plural(len(files), 'picture')} could not be read",
            file=sys.stderr,
        )
        raise typer.Exit(SOME_FAILED)
