"""The settings of a server."""

import dataclasses
import re

from captax.errors import CaptaxError, plural
from captax.images.decode import DECODE_SECONDS

MIB = 1 << 20
_ORIGIN = re.compile(r"https?://[^/\s@]+|null|\*")
_HOST = re.compile(r"[^/\s@:]+|[0-9a-f:]*:[0-9a-f:.]*|\*")


class SettingsError(CaptaxError):
    """Settings of a server cannot be used, or not together."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Limits and permissions.

    Attributes:
        name: the model's name in answers.
        api_key: the key that requests must send; with `None` everyone may use the server.
        max_batch: most pictures that go through the model at once.
        queue: most pictures that may wait for it.
        wait: seconds that a picture waits for others to share its batch, while some are coming.
        max_bytes: most bytes of a request's body, and of a picture fetched by URL.
        max_pixels: most pixels of a picture, checked before any are decoded.
        max_images: most pictures in a request.
        decode_seconds: a picture that takes longer to decode is given up.
        allow_urls: whether pictures may be given as http(s) URLs of public hosts.
        header_timeout: seconds that the head of a request may take, and that a body may be silent.
        body_timeout: seconds that a body may take.
        answer_timeout: seconds that a client may take to read an answer.
        max_connections: most connections that are open at once.
        max_connections_per_address: most of them from one address; 0 is no limit.
        local: whether the server listens to this machine only, so that it knows its own names.
        allow_hosts: names beside its own that the server may be asked by.
        allow_origins: origins of other sites, such as https://example.org, whose pages may use it.
        grace: seconds that requests have to finish when the server is told to stop.
        fixed: whether no option of a command changes them; then no message names one.
    """

    name: str = "built-in"
    api_key: str | None = None
    max_batch: int = 32
    queue: int = 256
    wait: float = 0.005
    max_bytes: int = 32 * MIB
    max_pixels: int = 50_000_000
    max_images: int = 32
    decode_seconds: float = DECODE_SECONDS
    allow_urls: bool = False
    header_timeout: float = 10.0
    body_timeout: float = 300.0
    answer_timeout: float = 120.0
    max_connections: int = 1000
    max_connections_per_address: int = 256
    local: bool = False
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    grace: float = 30.0
    fixed: bool = False

    def __post_init__(self) -> None:
        # Browsers write them in lower case.
        for name in ("allow_hosts", "allow_origins"):
            object.__setattr__(self, name, tuple(map(str.lower, getattr(self, name))))
        for name in (
            "max_batch",
            "queue",
            "max_bytes",
            "max_pixels",
            "max_images",
            "max_connections",
        ):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; give 1 or more")
        for name in ("header_timeout", "body_timeout", "answer_timeout"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name} is {getattr(self, name)}; give more than 0 seconds")
        if self.max_connections_per_address < 0:
            raise SettingsError(
                f"max_connections_per_address is {self.max_connections_per_address}; give 0 for no "
                "limit, or more"
            )
        for origin in self.allow_origins:
            if not _ORIGIN.fullmatch(origin):
                raise SettingsError(
                    f"{origin}: is not an origin; give one such as https://example.org, "
                    "without a path, or * for all"
                )
        for host in self.allow_hosts:
            if not _HOST.fullmatch(host):
                raise SettingsError(
                    f"{host}: is not a host; give a name such as example.org, without a port, "
                    "or * for all"
                )
        if not self.decode_seconds > 0:
            raise SettingsError(f"decode_seconds is {self.decode_seconds:g}; give more than 0")
        if self.queue < self.max_images:
            raise SettingsError(
                f"a queue of {plural(self.queue, 'picture')} never has room for a request of "
                f"{self.max_images}; give a longer queue or a smaller max_images"
            )
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.strip()):
            raise SettingsError("the API key is empty or not ASCII; give another key, or none")
