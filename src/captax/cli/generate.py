"""`captax generate`: write texts from texts."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from captax.cli.options import (
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
    decoding,
    on_devices,
    output,
)
from captax.errors import CaptaxError
from captax.files import TABLE_LIMIT, NewFile, check_new_files, read_text


@decoding
def generate(
    model: Annotated[
        str, typer.Argument(help="Checkpoint directory or hub name of a text generator.")
    ],
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts. Default: the lines of standard input.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="Also read the lines of this file as texts. Default: none.")
    ] = None,
    system: Annotated[
        str,
        typer.Option(
            help="What a language model with a prompt format is told before each text. Default: "
            "what its makers tell it.",
            show_default=False,
        ),
    ] = "",
    raw: Annotated[
        bool,
        typer.Option(
            "--raw",
            help="Let a language model continue the texts as they are, without its prompt format. "
            "Default: no.",
        ),
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of texts in a batch.")] = 32,
    format: Formatted = None,
    out: Out = None,
    overwrite: Replace = False,
    dtype: Loaded = None,
    devices: Devices = None,
    tensor_parallel: TensorParallel = 1,
    revision: Revision = None,
    offline: Offline = False,
    *,
    options: dict[str, Any],
) -> None:
    """Rewrite texts with an encoder-decoder, or let a language model answer or continue them.

    A language model whose prompt format captax knows answers; others, and all with --raw, continue
    the texts. Each answer is printed on a line.
    """
    # Start-up time.
    from captax.compilation import persist_compiled_programs
    from captax.pipelines.loading import load
    from captax.pipelines.records import TEXT_LINES, TEXT_RECORDS, text_line, text_record
    from captax.pipelines.text_generator import TextGenerator

    new = NewFile("--out", out, TEXT_RECORDS if as_json(format, out) else TEXT_LINES, overwrite)
    given = [] if file is None else [file]
    check_new_files([new], [*given, *checkpoint_files(model)])
    lines = list(texts or ())
    if file is not None:
        try:
            lines += read_text(file, limit=TABLE_LIMIT, pipes=True).splitlines()
        except (OSError, ValueError) as error:
            raise CaptaxError(
                f"{file}: cannot be read as text ({error}); give a text file in UTF-8"
            ) from None
    elif not lines:
        lines = sys.stdin.read().splitlines()
    persist_compiled_programs()
    generator = load(
        model,
        revision=revision,
        offline=offline,
        dtype=dtype,
        **on_devices(devices, tensor_parallel),
    )
    if not isinstance(generator, TextGenerator):
        raise CaptaxError(
            f"{model}: holds a {type(generator).__name__}, which does not take texts; "
            "give a text generator"
        )
    options |= {"system": system, "raw": raw, "batch_size": batch_size}
    answers = generator.generate(lines, **options)
    with output(out) as writer:
        for line, answer in zip(lines, answers, strict=True):
            if as_json(format, out):
                print(json.dumps(text_record(line, answer), ensure_ascii=False), file=writer)
            else:
                print(text_line(answer), file=writer)
