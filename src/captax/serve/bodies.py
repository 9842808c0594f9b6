"""Bodies of requests to JSON and forms, at a cost that is bounded by their size.

All of it is for a thread beside the event loop; how many run at once is for the caller to bound.
"""

import dataclasses
import re
import time
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from captax.serve.refusals import Refused, repeated

# Values of a request beside its pictures and captions: all fields, with all lists at their longest.
MOST_VALUES = 1000
# Bytes of the head of a part, and of a field that is text.
MOST_HEAD = 8192
MOST_TEXT = 65_536
# Seconds of computing that a form may take; the largest of an honest client takes a tenth of one.
MOST_SECONDS = 3.0
_SLICE = 65_536


def check_json(body: bytearray, most: int) -> None:
    """Refuse JSON of more than `most` values, before a parser makes an object of each.

    A member of a list counts as one value, or as two if it is text. Nothing is said of whether it
    is JSON: only the parser does.
    """
    values, start = 0, 0
    while True:
        quote = body.find(b'"', start)
        end = quote if quote >= 0 else len(body)
        while start < end and values <= most:  # piece by piece, so that other threads go on
            piece = body[start : min(end, start + _SLICE)]
            values += sum(map(piece.count, (b",", b"[", b"{")))
            start += len(piece)
        if quote >= 0:
            start, escaped = _after_text(body, quote, most)
            values += 1 + escaped
        if values > most:
            raise Refused(
                413,
                "too_many_values",
                f"the body has more than {most:,} values; send fewer pictures, or shorter lists",
            )
        if quote < 0 or start < 0:
            return


def _after_text(body: bytearray, quote: int, most: int) -> tuple[int, int]:
    """Where the text that begins at `quote` ends, or -1, and how many quotes it escapes."""
    start, escaped = quote + 1, 0
    while escaped <= most:
        end = body.find(b'"', start)
        if end < 0:
            return -1, escaped
        within = body[start:end]
        if (len(within) - len(within.rstrip(b"\\"))) % 2 == 0:
            return end + 1, escaped
        start, escaped = end + 1, escaped + 1
    return -1, escaped


@dataclasses.dataclass
class Part:
    """A part of a form: a file if it has a file name, which may be empty, or else text."""

    name: str
    filename: str | None
    data: bytearray = dataclasses.field(default_factory=bytearray)


class _Form:
    """What a parser finds in a form, refused as soon as it is more than it may be."""

    def __init__(self, files: int, fields: int):
        self.files, self.fields = files, fields
        self._left = {True: files + 1, False: fields}  # one file more, so that it can be told of
        self.parts: list[Part] = []
        self.ended = False
        self.on_part_begin()

    def on_part_begin(self) -> None:
        self._head, self._name, self._value, self._disposition = 0, b"", b"", b""

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += self._more(data, start, end)

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += self._more(data, start, end)

    def _more(self, data: bytes, start: int, end: int) -> bytes:
        self._head += end - start
        if self._head > MOST_HEAD:
            raise broken_form(f"the head of a part has more than {MOST_HEAD:,} bytes")
        return data[start:end]

    def on_header_end(self) -> None:
        self._head += 4  # the colon, a space and the end of the line
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name = self._value = b""

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise broken_form("a part has no name in its Content-Disposition")
        filename = options.get(b"filename", _extended_name(self._disposition))
        self._left[filename is not None] -= 1
        if self._left[True] < 0:
            raise too_many_images(f"more than {self.files}", self.files)
        if self._left[False] < 0:
            raise Refused(
                413,
                "too_many_values",
                f"the form has more than {self.fields:,} fields; send shorter lists",
            )
        text = None if filename is None else _text(filename)
        self.parts.append(Part(_text(options[b"name"]), text))

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = self.parts[-1]
        if part.filename is None and len(part.data) + end - start > MOST_TEXT:
            raise broken_form(f"{repeated(part.name)}: has more than {MOST_TEXT:,} bytes of text")
        part.data += data[start:end]

    def on_end(self) -> None:
        self.ended = True


def read_form(content_type: str, body: bytearray, *, files: int, fields: int) -> list[Part]:
    """The parts of a form, which has at most so many files and fields. Raises `Refused`."""
    _, options = parse_options_header(content_type)
    if not options.get(b"boundary"):
        raise broken_form("its content type names no boundary")
    form = _Form(files, fields)
    events = ("part_begin", "header_field", "header_value", "header_end", "headers_finished",
              "part_data", "end")  # fmt: skip
    started = time.thread_time()
    try:
        parser = MultipartParser(
            options[b"boundary"],
            {f"on_{event}": getattr(form, f"on_{event}") for event in events},  # type: ignore[arg-type]
        )
        for start in range(0, len(body), _SLICE):
            parser.write(bytes(body[start : start + _SLICE]))
            if time.thread_time() - started > MOST_SECONDS:
                raise broken_form("it takes too long, for it is cut into very many pieces")
            if form.ended:
                break
    except FormParserError:
        raise broken_form("it is not multipart/form-data as its boundary says") from None
    if not form.ended:
        raise broken_form("it ends before its last boundary")
    return form.parts


def broken_form(why: str) -> Refused:
    """The refusal of a form that cannot be read."""
    return Refused(422, "invalid_request", f"the form cannot be read: {why}; send another form")


def too_many_images(found: int | str, most: int) -> Refused:
    """The refusal of a request with so many pictures."""
    return Refused(413, "too_many_images", f"the request has {found} pictures; send at most {most}")


_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"')
_EXTENDED = re.compile(rb";\s*filename\*\s*=\s*[^;\s']*'[^;\s']*'([^;\s]*)", re.IGNORECASE)


def _extended_name(disposition: bytes) -> bytes | None:
    """The name in `filename*` (RFC 8187), which some clients send alone for one beyond ASCII.

    The parser leaves it out, as RFC 7578 forbids it in forms.
    """
    found = _EXTENDED.search(_QUOTED.sub(b'""', disposition))
    return None if found is None else unquote_to_bytes(found[1])


def _text(data: bytes) -> str:
    # Names of files may be in any encoding, and are only ever shown.
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
