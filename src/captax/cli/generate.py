"""`captax generate`: text from text."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from captax.cli.options import (
    Dtype,
    Formatted,
    Loaded,
    Offline,
    Out,
    Revision,
    as_json,
    decoding,
    output,
)
from captax.errors import CaptaxError


@decoding
def generate(
    model: Annotated[str, typer.Argument(help="Checkpoint directory or hub name.")],
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; default: the lines of standard input.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Take the lines of this file as texts.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    format: Formatted = None,
    out: Out = None,
    dtype: Loaded = Dtype.float32,
    revision: Revision = None,
    offline: Offline = False,
    *,
    options: dict[str, Any],
) -> None:
    """Rewrite texts (encoder-decoders) or continue them (language models), one answer a line."""
    # Start-up time.
    from captax.compilation import persist_compiled_programs
    from captax.pipelines.loading import load
    from captax.pipelines.records import text_line, text_record
    from captax.pipelines.text_generator import TextGenerator

    lines = list(texts or ())
    if file is not None:
        try:
            lines += file.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise CaptaxError(f"{file}: cannot be read as text ({error})") from None
    elif not lines:
        lines = sys.stdin.read().splitlines()
    persist_compiled_programs()
    generator = load(model, revision=revision, offline=offline, dtype=dtype.value)
    if not isinstance(generator, TextGenerator):
        raise CaptaxError(f"{model}: holds a {type(generator).__name__}, which takes no text")
    answers = generator.generate(lines, batch_size=batch_size, **options)
    with output(out) as writer:
        for line, answer in zip(lines, answers, strict=True):
            if as_json(format, out):
                print(json.dumps(text_record(line, answer), ensure_ascii=False), file=writer)
            else:
                print(text_line(answer), file=writer)
