"""Connections: how many are open, how long each may be silent, and what is no HTTP.

uvicorn bounds neither the time of a request's head, nor the time of a client to read its answer,
nor the number of connections. When too many are open, one that waits for its client is closed for
the new one, so those who hold connections without using them keep nobody out. h11 makes an object
of every line of a head and of every chunk of a body, so their numbers are bounded too.
"""

import asyncio
import ipaddress
import logging
import time
import uuid
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from captax.serve.refusals import Refused
from captax.serve.settings import MIB, Settings

logger = logging.getLogger("captax.serve")

# Seconds that a closed connection may take to send what is left, and between two looks at all.
CLOSING = 5.0
LOOK = 1.0
# Bytes of answers that clients have not read yet, all together.
MOST_UNREAD = 128 * MIB
# Bytes and lines of the head of a request.
MOST_HEAD = 16 * 1024
MOST_HEADERS = 128
# Chunks of a body: so many, and beyond them one for so many bytes.
MOST_CHUNKS = 1000
LEAST_CHUNK = 128
# Bytes that are parsed in one go: of a head, and of a body with perhaps a head behind it.
_PIECE_OF_HEAD, _PIECE_OF_BODY = 4 * 1024, 16 * 1024


class Parser(h11.Connection):
    """The HTTP of a connection, refused as soon as it costs more than its bytes are worth."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MOST_HEAD)
        self.problem = Refused(400, "invalid_http", "the request is not valid HTTP; send another")
        self._waiting = bytearray()
        self._chunks = self._bytes = 0

    def receive_data(self, data: bytes) -> None:
        """Keep what arrived until it is asked for."""
        self._waiting += data

    def next_event(self) -> Any:
        """The next event, as of h11. Raises `RemoteProtocolError`, and sets `problem`."""
        try:
            event = super().next_event()
            while event is h11.NEED_DATA and self._waiting:
                in_body = self.their_state is h11.SEND_BODY
                size = _PIECE_OF_BODY if in_body else _PIECE_OF_HEAD
                super().receive_data(bytes(self._waiting[:size]))
                del self._waiting[:size]
                event = super().next_event()
        except h11.RemoteProtocolError as error:
            if error.error_status_hint == 431:
                self.problem = _too_large_head(f"more than {MOST_HEAD:,} bytes")
            raise
        if isinstance(event, h11.Request):
            self._chunks = self._bytes = 0
            if len(event.headers) > MOST_HEADERS:
                self.problem = _too_large_head(f"more than {MOST_HEADERS} lines")
                raise h11.RemoteProtocolError(self.problem.message)
        elif isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            self._bytes += len(event.data)
            if self._chunks > MOST_CHUNKS + self._bytes // LEAST_CHUNK:
                self.problem = Refused(
                    400,
                    "too_many_chunks",
                    f"the body has more than {MOST_CHUNKS:,} chunks, most of them very short; "
                    "send longer chunks, or a Content-Length",
                )
                raise h11.RemoteProtocolError(self.problem.message)
        return event


def _too_large_head(has: str) -> Refused:
    return Refused(431, "too_large_head", f"the head of the request has {has}; send fewer headers")


class Crowd:
    """All connections of a server, the one that has waited longest first."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.open: dict[Connection, None] = {}
        self.addresses: dict[str, dict[Connection, None]] = {}
        self.closed = 0  # since the last line of the log
        self._looking: asyncio.TimerHandle | None = None

    def enter(self, connection: "Connection") -> None:
        """Count a connection; one that waits is closed if there are too many."""
        most, each = self.settings.max_connections, self.settings.max_connections_per_address
        self.open[connection] = None
        same = self.addresses.setdefault(connection.address, {})
        same[connection] = None
        for group, limit in ((same, each or most), (self.open, most)):
            if len(group) > limit:
                self.closed += 1
                self._victim(group, connection).drop()
        if self._looking is None:
            self._look()

    def _victim(self, group: "dict[Connection, None]", new: "Connection") -> "Connection":
        worst, order = new, 3
        for connection in group:
            rank = connection.rank
            if rank < order and connection is not new:
                worst, order = connection, rank
            if order == 0:
                break
        return worst

    def leave(self, connection: "Connection") -> None:
        """Count a connection no longer."""
        self.open.pop(connection, None)
        same = self.addresses.get(connection.address, {})
        same.pop(connection, None)
        if not same:
            self.addresses.pop(connection.address, None)

    def used(self, connection: "Connection") -> None:
        """A connection had an answer, and waits from now on."""
        for group in (self.open, self.addresses.get(connection.address, {})):
            if connection in group:
                group[connection] = group.pop(connection)

    def _look(self) -> None:
        now = time.monotonic()
        for connection in list(self.open):
            connection.look(now)
        unread = {each: each.unread for each in self.open if each.unread}
        total = sum(unread.values())
        for connection in sorted(unread, key=lambda each: each.stuck or now):
            if total <= MOST_UNREAD:
                break
            total -= unread[connection]
            connection.drop()
        if self.closed:
            options = "; see --max-connections and --max-connections-per-address"
            logger.warning(
                "closed %d connections, because too many were open%s",
                self.closed,
                "" if self.settings.fixed else options,
            )
            self.closed = 0
        loop = asyncio.get_running_loop()
        self._looking = loop.call_later(LOOK, self._look) if self.open else None


class Connection(H11Protocol):
    """A connection with deadlines; a subclass has the crowd that it belongs to."""

    crowd: Crowd

    def connection_made(self, transport: Any) -> None:
        """Enter the crowd."""
        super().connection_made(transport)
        self.conn = self.parser = Parser()
        self.address = _address(self.client)
        self.head: float | None = time.monotonic()  # when the head that is awaited began
        self.stuck: float | None = None  # since when something is not read by the client
        self.closing: float | None = None
        self.crowd.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the crowd."""
        self.crowd.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Note when a head began, or that it is whole."""
        super().data_received(data)
        if not self._idle:
            self.head = None
        elif self.head is None:
            self.head = time.monotonic()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self.head = None
        self.crowd.used(self)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP as every error is answered, if it still can be, and close."""
        if not self._idle:
            # Whoever works on it is told that its client is gone.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            response = self.parser.problem.response(uuid.uuid4().hex)
            headers = [*response.raw_headers, (b"connection", b"close")]
            for event in (
                h11.Response(status_code=response.status_code, headers=headers),
                h11.Data(data=bytes(response.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event))
        self.transport.close()

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    @property
    def unread(self) -> int:
        """Bytes of answers that the client has not taken."""
        return self.transport.get_write_buffer_size()

    @property
    def rank(self) -> int:
        """0: waits for a request; 1: for its body; 2: for an answer to be read; 3: works."""
        if self._idle:
            return 2 if self.unread else 0
        return 1 if self.cycle.more_body else 3

    def look(self, now: float) -> None:
        """End what takes too long."""
        limits = self.crowd.settings
        self.stuck = (self.stuck or now) if self.unread else None
        self.closing = (self.closing or now) if self.transport.is_closing() else None
        if (
            (self.stuck and now - self.stuck > limits.answer_timeout)
            or (self.closing and now - self.closing > CLOSING)
            or (self._idle and self.head and now - self.head > limits.header_timeout)
        ):
            self.drop()

    def drop(self) -> None:
        """Close the connection at once."""
        self.crowd.leave(self)
        self.transport.abort()


def _address(client: tuple[str, int] | None) -> str:
    """What counts as one address: of IPv6, the network of one customer."""
    if client is None:
        return ""
    try:
        address = ipaddress.ip_address(client[0].partition("%")[0])
    except ValueError:
        return client[0]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def protocol(settings: Settings) -> type[Connection]:
    """The class of a server's connections, which share one crowd."""
    return type("Connection", (Connection,), {"crowd": Crowd(settings)})
