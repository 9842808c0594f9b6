"""`captax caption`: captions of files, folders and patterns."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from captax.cli.options import (
    SOME_FAILED,
    Dtype,
    Formatted,
    Loaded,
    Model,
    Offline,
    Out,
    Revision,
    as_json,
    decoding,
    output,
    watched,
)

HINT = "`captax classify` is for classifiers, `captax generate` for text generators"


@decoding
def caption(
    paths: Annotated[list[str], typer.Argument(help="Pictures, folders (searched), patterns.")],
    model: Model = None,
    prompt: Annotated[str, typer.Option(help="Captions begin with it.")] = "",
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    format: Formatted = None,
    out: Out = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Also write an HTML page of pictures and captions.")
    ] = None,
    dtype: Loaded = Dtype.float32,
    revision: Revision = None,
    offline: Offline = False,
    *,
    options: dict[str, Any],
) -> None:
    """Caption pictures. Those that cannot be read are named on stderr; then the exit code is 1."""
    from tqdm import tqdm

    from captax.captioner import Captioner
    from captax.compilation import persist_compiled_programs
    from captax.errors import CaptaxError
    from captax.images import ImageError, SheetRow, find_images, write_sheet
    from captax.loading import load

    files = find_images(paths)
    persist_compiled_programs()
    captioner = load(model, revision=revision, offline=offline, dtype=dtype.value)
    if not isinstance(captioner, Captioner):
        raise CaptaxError(
            f"{model}: holds a {type(captioner).__name__}, which cannot caption; {HINT}"
        )
    captions = captioner.stream(files, prompt=prompt, batch_size=batch_size, **options)

    rows: list[SheetRow] = []
    failed = 0
    with output(out) as writer:
        bar = tqdm(total=len(files), unit="picture", disable=not watched(out), leave=False)
        for path, found in zip(files, captions, strict=True):
            bar.update()
            if isinstance(found, ImageError):
                failed += 1
                tqdm.write(f"captax: {found}", file=sys.stderr)
                record: dict[str, object] = {"path": str(path), "error": str(found)}
                row = SheetRow(None, str(path), "", None, error=str(found))
            else:
                record = {"path": str(path), "caption": found.text, "score": found.score}
                others = tuple((a.text, a.score) for a in found.alternatives[1:])
                if others:
                    record["alternatives"] = [
                        {"caption": text, "score": score} for text, score in others
                    ]
                row = SheetRow(path, str(path), found.text, found.score, others)
            if sheet is not None:
                rows.append(row)
            if as_json(format, out):
                print(json.dumps(record, ensure_ascii=False), file=writer, flush=True)
            elif not isinstance(found, ImageError):
                for text in (found.text, *(text for text, _ in others)):
                    print(f"{path}: {text}", file=writer, flush=True)
        bar.close()
    if sheet is not None:
        write_sheet(sheet, rows, title="Captions")
    if failed:
        print(f"captax: {failed} of {len(files)} pictures could not be read", file=sys.stderr)
        raise typer.Exit(SOME_FAILED)
