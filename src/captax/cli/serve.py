"""`captax serve`: captions over HTTP, and a web page."""

from typing import Annotated

import typer

from captax.cli.options import (
    Devices,
    ImageSize,
    ImageSplitting,
    Loaded,
    Model,
    Offline,
    Revision,
    TensorParallel,
    on_devices,
)
from captax.errors import CaptaxError

_LIMITS = "Limits"


def serve(
    model: Model = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is every one, :: also of IPv6.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free port.")
    ] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="CAPTAX_API_KEY",
            help="Key that every request must send; the page asks for it. Default: no key.",
        ),
    ] = None,
    allow_urls: Annotated[
        bool,
        typer.Option(
            "--allow-urls", help="Accept URLs of pictures, and fetch them from public hosts only."
        ),
    ] = False,
    max_batch: Annotated[
        int,
        typer.Option(
            min=1,
            max=1024,
            help="Most pictures that go through the model at once.",
            rich_help_panel=_LIMITS,
        ),
    ] = 32,
    queue: Annotated[
        int, typer.Option(min=1, help="Most pictures that may wait.", rich_help_panel=_LIMITS)
    ] = 256,
    max_bytes: Annotated[
        int, typer.Option(min=1, help="Most bytes of a request's body.", rich_help_panel=_LIMITS)
    ] = 32 << 20,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Most pixels of a picture.", rich_help_panel=_LIMITS)
    ] = 50_000_000,
    max_images: Annotated[
        int, typer.Option(min=1, help="Most pictures in a request.", rich_help_panel=_LIMITS)
    ] = 32,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Origin of another site whose pages may use the API, "
            "such as https://example.org. Default: none.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Name that the server may be asked by. "
            "Default: on loopback its own, elsewhere any.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    header_timeout: Annotated[
        float,
        typer.Option(
            min=0.1,
            help="Seconds that a request's head may take, or its body be silent.",
            rich_help_panel=_LIMITS,
        ),
    ] = 10,
    body_timeout: Annotated[
        float,
        typer.Option(
            min=0.1, help="Seconds that a request's body may take.", rich_help_panel=_LIMITS
        ),
    ] = 300,
    answer_timeout: Annotated[
        float,
        typer.Option(
            min=0.1,
            help="Seconds that a client may take to read an answer.",
            rich_help_panel=_LIMITS,
        ),
    ] = 120,
    max_connections: Annotated[
        int,
        typer.Option(min=1, help="Most connections open at once.", rich_help_panel=_LIMITS),
    ] = 1000,
    max_connections_per_address: Annotated[
        int,
        typer.Option(
            min=0,
            help="Most of them from one address; 0 is no limit, for a proxy.",
            rich_help_panel=_LIMITS,
        ),
    ] = 256,
    decode_seconds: Annotated[
        float,
        typer.Option(
            min=0.1,
            help="Seconds after which a picture that is still being decoded is given up.",
            rich_help_panel=_LIMITS,
        ),
    ] = 20,
    grace: Annotated[
        float,
        typer.Option(
            min=0,
            help="Seconds to finish requests after the server is told to stop.",
            rich_help_panel=_LIMITS,
        ),
    ] = 30,
    image_size: ImageSize = None,
    image_splitting: ImageSplitting = None,
    dtype: Loaded = None,
    devices: Devices = None,
    tensor_parallel: TensorParallel = 1,
    revision: Revision = None,
    offline: Offline = False,
) -> None:
    """Serve a captioner or a classifier over HTTP, with an API and a web page."""
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
        decode_seconds=decode_seconds,
        allow_urls=allow_urls,
        allow_origins=tuple(allow_origin or ()),
        allow_hosts=tuple(allow_host or ()),
        header_timeout=header_timeout,
        body_timeout=body_timeout,
        answer_timeout=answer_timeout,
        max_connections=max_connections,
        max_connections_per_address=max_connections_per_address,
        grace=grace,
    )
    server.serve(
        model,
        settings,
        host=host,
        port=port,
        revision=revision,
        offline=offline,
        dtype=dtype,
        **on_devices(devices, tensor_parallel),
        image_size=image_size,
        image_splitting=image_splitting,
    )
