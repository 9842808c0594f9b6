"""Bodies of requests as they arrive: how long they may take, and the room for all of them."""

import asyncio
import time
from typing import Any

from starlette.types import Message, Receive

from captax.serve.refusals import Refused
from captax.serve.settings import Settings

# Bytes a second that a body must have arrived with, after the seconds that it may be silent for.
LEAST_RATE = 16 * 1024


class Room:
    """Room for the bytes of bodies that are here, counted as they arrive.

    When it is full, the body that has been arriving for longest gives way: who sends nothing, or
    little by little, keeps nobody else out.
    """

    def __init__(self, most: int):
        self.most, self.taken = most, 0
        self._arriving: dict[Body, None] = {}  # the oldest first

    def enter(self, body: "Body") -> None:
        """Count what arrives of a body from now on."""
        self._arriving[body] = None

    def arrived(self, body: "Body") -> None:
        """The body is whole, and gives way to no other."""
        self._arriving.pop(body, None)

    def leave(self, body: "Body") -> None:
        """Give back what the body took."""
        self.arrived(body)
        self.taken -= body.held
        body.held = 0

    def take(self, body: "Body", size: int) -> None:
        """Count bytes of a body that arrived. Raises `Refused` when no other can give way."""
        self.taken += size
        body.held += size
        while self.taken > self.most:
            other = next((each for each in self._arriving if each is not body and each.held), None)
            if other is None:
                self.leave(body)
                raise Crowded
            self.leave(other)
            other.give_way()

    @property
    def arriving(self) -> int:
        """The number of bodies that are still arriving."""
        return len(self._arriving)


class Crowded(Exception):
    """There is no room for the rest of a body."""


class Body:
    """A request's body: its bytes, its rate and its time are bounded."""

    def __init__(self, receive: Receive, settings: Settings):
        self._receive, self._settings = receive, settings
        self.most = settings.max_bytes
        self.held = 0  # bytes that are counted in the room
        self.room: Room | None = None
        self.ended = False
        self._taken, self._started = 0, time.monotonic()
        self._gives_way = False
        self._waiting: asyncio.Timeout | None = None

    async def receive(self) -> Message:
        """The next message of the request. Raises `Refused`, and `Crowded` without room."""
        message = await self._next()
        if self._taken > self.most:
            raise self.too_large()
        if self.room is not None:
            if self._gives_way:
                raise Crowded
            self.room.take(self, len(message.get("body", b"")))
            if self.ended:
                self.room.arrived(self)
        return message

    async def _next(self) -> Message:
        if self.ended:
            return await self._receive()
        limits = self._settings
        rate = self._started + limits.header_timeout + self._taken / LEAST_RATE
        end = min(rate, self._started + limits.body_timeout)
        try:
            async with asyncio.timeout(max(0, end - time.monotonic())) as self._waiting:
                message: dict[str, Any] = dict(await self._receive())
        except TimeoutError:
            if self._gives_way:
                raise Crowded from None
            raise Refused(
                408,
                "too_slow",
                f"the body arrives too slowly; send at least {LEAST_RATE:,} bytes a second, "
                f"and all of it within {limits.body_timeout:g} s",
                {"Connection": "close"},
            ) from None
        finally:
            self._waiting = None
        if message["type"] == "http.request":
            self._taken += len(message.get("body", b""))
            self.ended = not message.get("more_body", False)
        else:
            self.ended = True
        return message

    def give_way(self) -> None:
        """Stop to wait for the body: its room went to another."""
        self._gives_way = True
        if self._waiting is not None:
            self._waiting.reschedule(0)

    async def discard(self) -> None:
        """Read to the end, within limits: many clients read no answer until they have sent all."""
        self.room, self._gives_way = None, False
        try:
            while not self.ended and self._taken <= 2 * self.most:
                await self._next()
        except Refused:
            pass

    def too_large(self) -> Refused:
        """The refusal of a body that has, or says that it has, too many bytes."""
        return Refused(413, "too_large", f"the body is too large; send at most {self.most:,} bytes")
