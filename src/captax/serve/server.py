"""The process: it loads a checkpoint, serves it with uvicorn and finishes what it accepted."""

import contextlib
import dataclasses
import logging
import logging.config
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn

from captax.checkpoints.names import BUILT_IN, DEFAULT
from captax.compilation import persist_compiled_programs, persist_no_more
from captax.errors import CaptaxError, quoted
from captax.pipelines.captioner import Captioner
from captax.pipelines.classifier import Classifier
from captax.pipelines.loading import load
from captax.serve.app import create_app
from captax.serve.connections import protocol
from captax.serve.origins import is_loopback
from captax.serve.service import Service
from captax.serve.settings import Settings
from captax.serve.work import Model

if sys.platform != "win32":
    import resource

logger = logging.getLogger("captax.serve")

# Connections that asyncio takes in one go, before any of them is counted.
BACKLOG = 128
# Connections that the system keeps until they are taken. One too many is tried again by its client
# only after a second.
WAITING = 4096
# Files, pipes and fetched URLs that are open beside the connections.
FILES = 128
# For a process that serves and does nothing else.
LOG: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {
        "captax.serve": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        "python_multipart": {"level": "ERROR"},  # it warns of every broken form
        "uvicorn": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
    },
}


class Server(uvicorn.Server):
    """On SIGTERM or Ctrl-C it refuses new work and finishes the rest; a second one stops it.

    `service` is what does work that takes long, if anything does.
    """

    def __init__(self, config: uvicorn.Config, service: Service | None = None):
        super().__init__(config)
        self.service: Any = service
        self._everywhere: list[socket.socket] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and log the address."""
        host, port = self.config.host, self.config.port
        if sockets is None and _is_everywhere(host):
            with _taken(host, port):
                sockets = self._everywhere = [_everywhere(port)]
        await super().startup(sockets)
        if self.started:
            for each in self.servers[0].sockets:
                with each.dup() as same:  # asyncio takes as many in one go as it lets wait
                    same.listen(WAITING)
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            logger.info("listening on http://%s:%d", shown, port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain while still listening, so that new requests get an answer; then close."""
        logger.info("stopping; requests that were accepted are finished first")
        if self.service is not None:
            await self.service.drain(lambda: self.force_exit)
        await super().shutdown(sockets or self._everywhere)
        logger.info("stopped")


def _is_everywhere(host: str) -> bool:
    """Whether it is IPv6's address for all interfaces."""
    return ":" in host and host.replace("0", "").strip(":") == ""


def _everywhere(port: int) -> socket.socket:
    """Listens on all interfaces for IPv6 and IPv4; asyncio would leave IPv4 out."""
    return socket.create_server(
        ("::", port),
        family=socket.AF_INET6,
        backlog=BACKLOG,
        dualstack_ipv6=socket.has_dualstack_ipv6(),
    )


@contextlib.contextmanager
def _taken(host: str, port: int) -> Iterator[None]:
    """Within the block, an `OSError` says that the address cannot be listened on."""
    try:
        yield
    except OSError as error:
        raise CaptaxError(
            f"{host}, port {port}: cannot be listened on ({error.strerror}); give another --port "
            "or --host"
        ) from None


def refuse_taken(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on, before a model is loaded for nothing.

    Raises:
        CaptaxError: it cannot be listened on.
    """
    with _taken(host, port):
        if _is_everywhere(host):
            _everywhere(port).close()
            return
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with socket.socket(family, kind, protocol) as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:  # as asyncio does
                    tried.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                tried.bind(address)


def with_descriptors(settings: Settings) -> Settings:
    """The settings, with only as many connections as this process may have descriptors for.

    It raises the limit of descriptors as far as its user may.
    """
    if sys.platform == "win32":
        return settings
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS names a hard limit that it refuses
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    fit = max(1, limit - BACKLOG - FILES)
    if limit == resource.RLIM_INFINITY or fit >= settings.max_connections:
        return settings
    logger.warning(
        "at most %d connections will be open instead of %d, because this process may only have %d "
        "open files; raise that limit (ulimit -n)",
        fit,
        settings.max_connections,
        limit,
    )
    return dataclasses.replace(settings, max_connections=fit)


def make_server(
    model: Model,
    settings: Settings,
    *,
    host: str,
    port: int,
    when_warm: Callable[[], None] = lambda: None,
) -> Server:
    """A server that does not run yet; `run()` runs it until it is told to stop."""
    settings = dataclasses.replace(settings, local=is_loopback(host))
    app = create_app(model, settings, when_warm)
    return Server(config_of(app, settings, host=host, port=port), app.state.service)


def config_of(app: Any, settings: Settings, *, host: str, port: int) -> uvicorn.Config:
    """How an application is served: its connections have the limits of `settings`."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        http=protocol(settings),
        ws="none",
        backlog=BACKLOG,
        timeout_graceful_shutdown=max(1, round(settings.grace)),
    )


def serve(
    name: str | None,
    settings: Settings,
    *,
    host: str,
    port: int,
    **loading: Any,
) -> None:
    """Load the checkpoint of that name and serve it until told to stop.

    `loading` are arguments of `captax.load`.

    It is for a process that does nothing else: it configures the log, and where compiled programs
    are kept. Answers call the model by `name`, a directory by its last part.

    Raises:
        CaptaxError: the address cannot be listened on, or there is no checkpoint to serve.
    """
    refuse_taken(host, port)
    persist_compiled_programs()
    if name is None or name == DEFAULT:
        shown = BUILT_IN
    else:
        shown = Path(name).name if Path(name).exists() else name
    logging.config.dictConfig(LOG)
    logger.info("loading %s", quoted(shown))
    model = load(name, **loading)
    if not isinstance(model, Captioner | Classifier):
        raise CaptaxError(
            f"{name}: holds a {type(model).__name__}; give a captioner or a classifier"
        )
    settings = with_descriptors(dataclasses.replace(settings, name=shown))
    make_server(model, settings, host=host, port=port, when_warm=persist_no_more).run()
