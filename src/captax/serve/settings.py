"""The settings of a server."""

import dataclasses

from captax.errors import CaptaxError
from captax.images.decode import DECODE_SECONDS

MIB = 1 << 20


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
        grace: seconds that requests have to finish when the server is told to stop.
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
    grace: float = 30.0

    def __post_init__(self) -> None:
        for name in ("max_batch", "queue", "max_bytes", "max_pixels", "max_images"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; give 1 or more")
        if not self.decode_seconds > 0:
            raise SettingsError(f"decode_seconds is {self.decode_seconds:g}; give more than 0")
        if self.queue < self.max_images:
            raise SettingsError(
                f"a queue of {self.queue} pictures never has room for a request of "
                f"{self.max_images}; give a longer queue or a smaller max_images"
            )
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.strip()):
            raise SettingsError("the API key is empty or not ASCII; give another key, or none")
