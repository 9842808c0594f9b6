"""Which web pages may ask: those of this server, and those that were allowed.

A browser sends a page's requests to any server that it can reach, also to one on the reader's own
machine, and a name of another site can be made to point there. So what a browser says of a request
is believed: the name that the server was asked by (`Host`), and whose page asks (`Origin`,
`Sec-Fetch-Site`). Programs that are no browser send none of these but `Host`.
"""

import ipaddress
import re
import uuid

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Scope

from captax.serve.refusals import Refused, repeated
from captax.serve.settings import Settings

ANY = "*"
# What a page can show of another site without reading it: nothing is done, and nothing told.
_PAGE = re.compile(r"/|/page/.*", re.DOTALL)
_ALLOW = "start the server with --allow-origin ORIGIN to allow it"
_OPEN = "open the address that it printed"


class OtherPages(CORSMiddleware):
    """Middleware that tells browsers which pages of other sites may use the server, and how."""

    def __init__(self, app: ASGIApp, settings: Settings):
        super().__init__(
            app,
            allow_origins=settings.allow_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "x-request-id"],
            expose_headers=["retry-after", "x-request-id"],
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to a browser that asks before it sends a page's request."""
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        if not self.is_allowed_origin(request_headers["origin"]):
            return _foreign(request_headers["origin"], _ALLOW).response(uuid.uuid4().hex)
        return Refused(
            400,
            "invalid_request",
            "pages of other sites may only send GET and POST, with the headers Authorization, "
            "Content-Type and X-Request-Id",
        ).response(uuid.uuid4().hex)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on that address."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    if not _is_number(name):
        return False
    address = ipaddress.ip_address(name)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def check(scope: Scope, settings: Settings) -> None:
    """Refuse a request that a foreign page sends, or that calls the server by a foreign name."""
    method, path = scope["method"], scope["path"]
    headers = {name: value.decode("latin-1").strip().lower() for name, value in scope["headers"]}
    host = headers.get(b"host")
    if host is not None:
        _check_host(host, settings)
    if _PAGE.fullmatch(path):
        return
    site = headers.get(b"sec-fetch-site")
    origin = headers.get(b"origin")
    if site in ("same-origin", "none") or {origin, ANY} & set(settings.allow_origins):
        return
    if site is None:
        # Browsers that do not say so, among them all that ask over HTTP beyond this machine.
        behind = headers.get(b"x-forwarded-host")  # no foreign page can send it
        if origin is None or origin.partition("://")[2] in (host, behind):
            return
    elif (origin, method, headers.get(b"sec-fetch-mode")) == (None, "GET", "navigate"):
        return  # a link was followed: the reader sees the answer, and the other site does not
    raise _foreign(origin, _OPEN if settings.fixed else _ALLOW)


def _foreign(origin: str | None, advice: str) -> Refused:
    shown = repeated(origin or "another site")
    return Refused(
        403,
        "foreign_origin",
        f"the request comes from a page of {shown}, which may not use this server; {advice}",
    )


def _check_host(host: str, settings: Settings) -> None:
    name = re.sub(r":\d*$", "", host).strip("[]").rstrip(".")
    known = set(settings.allow_hosts)
    if ANY in known or name in known or is_loopback(name):
        return
    # A server for a network has names there that it does not know. A number is no name, so nobody
    # can make it point elsewhere; probes ask by it.
    if not settings.local and (not known or _is_number(name)):
        return
    raise Refused(
        421,
        "foreign_host",
        f"the request calls this server {repeated(name)}, which is not a name of it; "
        + (_OPEN if settings.fixed else "start the server with --allow-host NAME to allow it"),
    )
