"""Pictures that are written as text: base64, and `data:` URLs (RFC 2397)."""

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

_SPACE = b" \t\n\r\f"
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_BASE64 = re.compile(r";\s*base64\s*\Z", re.IGNORECASE)
_SHOWN = 40  # characters of a URL in its name


def is_data_url(text: str) -> bool:
    """Whether a text is a `data:` URL; schemes may be in any letter case."""
    return text[:5].lower() == "data:"


def data_url_name(url: str) -> str:
    """A name for the picture in a `data:` URL: the beginning of the URL."""
    return url if len(url) <= _SHOWN else f"{url[:_SHOWN]}..."


def from_data_url(url: str) -> bytes:
    """The content of a `data:` URL, as the WHATWG's standard of fetching defines it.

    Raises `ValueError` for one without a comma, or whose base64 is damaged.
    """
    head, comma, body = url[5:].partition(",")
    if not comma:
        raise ValueError("it has no comma before its content")
    content = body.partition("#")[0].encode("utf-8", errors="surrogatepass")
    content = unquote_to_bytes(content) if b"%" in content else content
    return from_base64(content) if _BASE64.search(head) else content


def from_base64(text: str | bytes) -> bytes:
    """The bytes that base64 stands for: white space and missing padding are fine, as is URL-safe.

    Raises `ValueError` for anything else.
    """
    if isinstance(text, str):
        text = text.encode("ascii", errors="replace")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        text = text.translate(_URL_SAFE, delete=_SPACE)
        text = text[:-2] + text[-2:].rstrip(b"=")
    return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
