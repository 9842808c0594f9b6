"""`captax serve`: captions over HTTP, and a web page."""

from typing import Annotated

import typer

from captax.cli.options import Dtype, Loaded, Model, Offline, Revision
from captax.errors import CaptaxError

_LIMITS = "Limits"


def serve(
    model: Model = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="CAPTAX_API_KEY", help="Requests must bear it; the page asks for it."),
    ] = None,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Fetch pictures by URL, from public hosts only.")
    ] = False,
    max_batch: Annotated[
        int, typer.Option(min=1, max=1024, help="Pictures at once.", rich_help_panel=_LIMITS)
    ] = 32,
    queue: Annotated[
        int, typer.Option(min=1, help="Pictures that may wait.", rich_help_panel=_LIMITS)
    ] = 256,
    max_bytes: Annotated[
        int, typer.Option(min=1, help="Of a request's body.", rich_help_panel=_LIMITS)
    ] = 32 << 20,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Of a picture.", rich_help_panel=_LIMITS)
    ] = 50_000_000,
    max_images: Annotated[
        int, typer.Option(min=1, help="Pictures in a request.", rich_help_panel=_LIMITS)
    ] = 32,
    grace: Annotated[
        float,
        typer.Option(min=0, help="Seconds to finish in when stopped.", rich_help_panel=_LIMITS),
    ] = 30,
    dtype: Loaded = Dtype.float32,
    revision: Revision = None,
    offline: Offline = False,
) -> None:
    """Serve a captioner, or a classifier, over HTTP: an API, and a page for people."""
    try:
        # An extra.
        from captax.serve import server
        from captax.serve.settings import Settings
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("captax"):
            raise
        raise CaptaxError(
            f"serving needs {missing.name}, which is not installed: pip install 'captax[serve]'"
        ) from None

    settings = Settings(
        api_key=api_key,
        max_batch=max_batch,
        queue=queue,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        max_images=max_images,
        allow_urls=allow_urls,
        grace=grace,
    )
    server.serve(
        model,
        settings,
        host=host,
        port=port,
        revision=revision,
        offline=offline,
        dtype=dtype.value,
    )
