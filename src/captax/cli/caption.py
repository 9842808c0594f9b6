"""`captax caption`: captions of files, folders and patterns."""

import contextlib
import json
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from captax.files import replacing

SOME_FAILED = 1


class Format(StrEnum):
    """How captions are written."""

    text = "text"
    jsonl = "jsonl"


def caption(
    paths: Annotated[list[str], typer.Argument(help="Pictures, folders (searched), patterns.")],
    model: Annotated[
        str | None, typer.Option(help="Checkpoint directory; default: the built-in captioner.")
    ] = None,
    num_beams: Annotated[int | None, typer.Option(min=1, help="1 is greedy.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    length_penalty: Annotated[float | None, typer.Option(help="Above 0 favours length.")] = None,
    num_return_sequences: Annotated[
        int | None, typer.Option(min=1, help="Captions a picture, best first.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    format: Annotated[Format, typer.Option(help="text: `path: caption`.")] = Format.text,
    out: Annotated[Path | None, typer.Option(help="Write here instead of to the screen.")] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Also write an HTML page of pictures and captions.")
    ] = None,
) -> None:
    """Caption pictures. Those that cannot be read are named on stderr; then the exit code is 1."""
    from tqdm import tqdm

    from captax.compilation import persist_compiled_programs
    from captax.images import ImageError, SheetRow, find_images, write_sheet
    from captax.loading import load

    files = find_images(paths)
    persist_compiled_programs()
    captioner = load(model)
    options: dict[str, Any] = {
        "num_beams": num_beams,
        "max_new_tokens": max_new_tokens,
        "length_penalty": length_penalty,
        "num_return_sequences": num_return_sequences,
    }
    given = {name: value for name, value in options.items() if value is not None}
    captions = captioner.stream(files, batch_size=batch_size, **given)

    rows: list[SheetRow] = []
    failed = 0
    with _writer(out) as output:
        bar = tqdm(total=len(files), unit="picture", disable=not _watched(out), leave=False)
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
            if format is Format.jsonl:
                print(json.dumps(record, ensure_ascii=False), file=output, flush=True)
            elif "caption" in record:
                print(f"{path}: {record['caption']}", file=output, flush=True)
        bar.close()
    if sheet is not None:
        write_sheet(sheet, rows, title="Captions")
    if failed:
        print(f"captax: {failed} of {len(files)} pictures could not be read", file=sys.stderr)
        raise typer.Exit(SOME_FAILED)


def _watched(out: Path | None) -> bool:
    """Whether a progress bar would be seen, and would not mix with the captions."""
    return sys.stderr.isatty() and (out is not None or not sys.stdout.isatty())


@contextlib.contextmanager
def _writer(out: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that appears whole once all is written."""
    if out is None:
        yield sys.stdout
        return
    with replacing(out) as partial, partial.open("w", encoding="utf-8") as file:
        yield file
