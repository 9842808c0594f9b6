"""`captax mcp`: captions as tools of programs that speak the Model Context Protocol."""

from pathlib import Path
from typing import Annotated, Any

import typer

from captax.cli.options import Loaded, Model, Offline, Revision
from captax.errors import CaptaxError


def mcp(
    model: Model = None,
    allow: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder whose pictures may be read, with its subfolders; may be repeated. "
            "Default: the working directory."
        ),
    ] = None,
    tagger: Annotated[
        str | None,
        typer.Option(
            help="A WD tagger for the tool `tag`, such as SmilingWolf/wd-vit-tagger-v3. Default: "
            "a vision-language model is asked for tags, and others have no such tool."
        ),
    ] = None,
    dtype: Loaded = None,
    revision: Revision = None,
    offline: Offline = False,
) -> None:
    """Offer caption, alt, explain and tag as tools, over standard input and output.

    This is for assistants that start it themselves, by the command `captax mcp --allow FOLDER`.
    Pictures are given by their path, below the folders allowed, or in base64.
    """
    try:
        # An extra.
        from captax.mcp.server import make_server
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("captax"):
            raise
        raise CaptaxError(
            f"captax mcp needs {missing.name}, which is not installed: pip install 'captax[mcp]'"
        ) from None
    # Start-up time: these import JAX, for which `--help` should not wait.
    from captax.compilation import persist_compiled_programs
    from captax.mcp.pictures import folders_of
    from captax.pipelines.captioner import Captioner
    from captax.pipelines.loading import load
    from captax.pipelines.tagger import Tagger

    folders = folders_of(allow or [Path.cwd()])
    persist_compiled_programs()
    loading: dict[str, Any] = {"offline": offline, "dtype": dtype}
    captioner: Any = load(model, revision=revision, **loading)
    if not isinstance(captioner, Captioner):
        raise CaptaxError(f"{model}: holds a {type(captioner).__name__}; give a captioner")
    tags = None if tagger is None else load(tagger, **loading)
    if tags is not None and not isinstance(tags, Tagger):
        raise CaptaxError(f"{tagger}: holds a {type(tags).__name__}; give a tagger")
    make_server(captioner, tags, folders).run()
