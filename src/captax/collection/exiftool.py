"""A picture's description in its own file, written by the program exiftool.

The description goes where the Metadata Working Group's guidelines (version 2.0) put it, and is read
in the order that they give: EXIF `ImageDescription`, IPTC `Caption-Abstract`, XMP `dc:description`.
Everything else in the file, the compressed picture first, is copied as it is.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO

from captax.collection.description import DescriptionError, checked, sidecar_path
from captax.collection.embedded import from_camera

_OLDEST = 12.38  # before it, names and some pictures could make exiftool run commands
_INSTALL = (
    "apt-get install libimage-exiftool-perl (Debian, Ubuntu), brew install exiftool (macOS), "
    "or https://exiftool.org; or use --format xmp"
)

# Formats with a standard place for IPTC; in others exiftool uses a place that few programs read.
_IPTC_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".tif", ".tiff", ".jp2"}
_IPTC_BYTES = 2000  # the standard's limit on a caption

# The digest says whether IPTC and XMP agree. It is renewed only if it was right before.
_IPTC_MARKS = [
    "-IPTC:CodedCharacterSet=UTF8",
    "-Photoshop:IPTCDigest-=old",
    "-Photoshop:IPTCDigest=new",
]

# Passes on whole commands, and ends exiftool when its input ends. Without this, exiftool would wait
# for more input and outlive a captax that was killed. It would also carry out half a command, whose
# path may be that of a folder.
_FEEDER = r"""
import sys
command = []
for line in sys.stdin.buffer:
    command.append(line)
    if line.startswith(b"-execute"):
        sys.stdout.buffer.write(b"".join(command))
        sys.stdout.buffer.flush()
        command.clear()
sys.stdout.buffer.write(b"-stay_open\nFalse\n")
"""


class ExifTool:
    """Descriptions in the pictures' own files, through one exiftool process.

    A context manager: the process starts on entering and ends on leaving. If this program is
    killed, the process finishes its picture and ends. If the process dies, or takes more than
    `seconds` for a picture, this picture gets an error and the process is started again. Threads
    take turns.

    Entering raises `DescriptionError` when the program is missing or too old.
    """

    def __init__(self, program: str = "exiftool", seconds: float = 120.0) -> None:
        self._program = program
        self._seconds = seconds
        self._turn = threading.Lock()
        self._feeder: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "ExifTool":
        try:
            version = self._ask(["-ver"])[0].decode().strip()
        except _Ended:
            raise DescriptionError(
                f"{self._program} does not run; install it: {_INSTALL}"
            ) from None
        if float(version) < _OLDEST:
            self._stop()
            raise DescriptionError(
                f"exiftool {version} is older than {_OLDEST}; install a newer one: {_INSTALL}"
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def read(self, picture: str | os.PathLike[str]) -> str:
        """The description in the picture's file, "" if there is none.

        What cameras write by themselves ("OLYMPUS DIGITAL CAMERA") counts as none. Raises
        `DescriptionError` for a file that is missing, empty or unreadable.
        """
        path = _file(picture)
        text = self._text(path, ["-MWG:Description"])
        if not from_camera(text):
            return text
        return self._text(path, ["-XMP-dc:Description"]) or self._text(
            path, ["-IPTC:Caption-Abstract"]
        )

    def write(self, picture: str | os.PathLike[str], description: str) -> None:
        """Set the description in the picture's file, which is replaced by a new one, whole.

        The file keeps its mode, and links stay links. Its modification time is set to now, so that
        other programs see the change. IPTC allows 2,000 bytes, so only the text in IPTC is cut.
        Raises `DescriptionError` for text that `checked` refuses, and if the file cannot hold a
        description, is damaged or cannot be replaced; then it is not changed.
        """
        path = _file(picture)
        text = _escaped(description)
        # XMP with a language: without it, exiftool would remove the other languages.
        changes = ["-E", f"-EXIF:ImageDescription={text}", f"-XMP-dc:Description-x-default={text}"]
        if path.suffix.lower() in _IPTC_SUFFIXES:
            self._make_iptc_utf8(path)
            short = description.strip().encode()[:_IPTC_BYTES].decode(errors="ignore")
            changes += [f"-IPTC:Caption-Abstract={_escaped(short)}", *_IPTC_MARKS]
        self._change(path, changes)

    def _make_iptc_utf8(self, path: Path) -> None:
        """Convert the file's other IPTC texts to UTF-8, because one mark counts for all of them.

        Texts without a mark are read as UTF-8 if they are valid UTF-8, else as Windows Latin 1.
        """
        # Without -a, tags of MWG would hide IPTC tags of the same name.
        raw = self._answer(path, ["-a", "-b", "-charset", "iptc=UTF8", "-IPTC:all"])
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError:
            # A separate change, because -E would escape the copied texts.
            copied = ["-charset", "iptc=Latin", "-tagsFromFile", "@", "-IPTC:all"]
            self._change(path, [*copied, *_IPTC_MARKS])

    def _change(self, path: Path, changes: list[str]) -> None:
        rest = Path(f"{path}_exiftool_tmp")
        try:
            # Left by a killed exiftool; the next one would refuse to overwrite it.
            rest.unlink(missing_ok=True)
        except OSError as error:
            raise _failed(path, f"{rest.name}: {error.strerror}") from None
        try:
            answer, complaints = self._ask(["-overwrite_original", *changes], path)
        except _Ended as ended:
            with contextlib.suppress(OSError):
                rest.unlink(missing_ok=True)
            raise _failed(path, str(ended)) from None
        if b"1 image files updated" in answer:
            return
        why = _first(complaints) or "files of this kind cannot hold a description"
        if why == "Error writing output file":  # for a full disk and for half a PNG
            full = shutil.disk_usage(path.parent).free < path.stat().st_size
            why = "No space left on device" if full else "damaged, or its disk cannot be written"
        raise _failed(path, why)

    def _text(self, path: Path, tags: list[str]) -> str:
        return self._answer(path, ["-b", *tags]).decode("utf-8", errors="replace").strip()

    def _answer(self, path: Path, arguments: list[str]) -> bytes:
        try:
            answer, complaints = self._ask(arguments, path)
        except _Ended as ended:
            raise _failed(path, str(ended)) from None
        if error := _first(complaints):
            raise _failed(path, error)
        return answer

    def _ask(self, arguments: list[str], path: Path | None = None) -> tuple[bytes, bytes]:
        """What exiftool prints, and its complaints. Raises `_Ended` if it dies or is too slow."""
        with self._turn:
            if self._process is None:
                self._start()
            process, feeder = self._process, self._feeder
            assert process and process.stdout and process.stderr and feeder and feeder.stdin
            number = str(secrets.randbelow(10**15))  # not in any description
            lines = [argument.encode() for argument in arguments]
            lines += [] if path is None else [_line(path)]
            lines += [b"-echo4", number.encode(), b"-execute" + number.encode()]
            started = time.monotonic()
            too_long = threading.Timer(self._seconds, process.kill)
            too_long.daemon = True
            too_long.start()
            try:
                feeder.stdin.write(b"\n".join(lines) + b"\n")
                feeder.stdin.flush()
                answer = _until(process.stdout, b"{ready" + number.encode() + b"}")
                return answer, _until(process.stderr, number.encode())
            except (OSError, EOFError):
                took_long = time.monotonic() - started >= self._seconds
                self._stop()
                why = f"took more than {self._seconds:g} s" if took_long else "ended unexpectedly"
                raise _Ended(f"exiftool {why}") from None
            except BaseException:  # Ctrl-C: the rest of this answer must not be read as the next
                self._stop()
                raise
            finally:
                too_long.cancel()

    def _start(self) -> None:
        # A user's own configuration could change what tags mean.
        exiftool = [self._program, "-config", "", "-stay_open", "True", "-@", "-"]
        exiftool += ["-common_args", "-use", "MWG", "-charset", "exif=UTF8"]
        pipe = subprocess.PIPE
        # In sessions of their own, so that Ctrl-C reaches only captax.
        self._feeder = feeder = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _FEEDER],
            stdin=pipe,
            stdout=pipe,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self._process = subprocess.Popen(
                exiftool, stdin=feeder.stdout, stdout=pipe, stderr=pipe, start_new_session=True
            )
        except OSError as error:
            self._stop()
            missing = isinstance(error, FileNotFoundError)
            why = "is not installed" if missing else f"does not run ({error.strerror})"
            raise DescriptionError(f"{self._program} {why}; install it: {_INSTALL}") from None
        finally:
            assert feeder.stdout
            feeder.stdout.close()

    def _stop(self) -> None:
        for process in (self._feeder, self._process):
            if process is None:
                continue
            if process.stdin:
                with contextlib.suppress(OSError):
                    process.stdin.close()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for stream in (process.stdout, process.stderr):
                if stream:
                    stream.close()
        self._feeder = self._process = None


class _Ended(Exception):
    """The process ended before it answered."""


def _file(picture: str | os.PathLike[str]) -> Path:
    if not Path(picture).is_file():  # a folder would mean everything in it
        raise DescriptionError(f"{picture}: no such file; correct the path")
    return Path(picture).resolve()  # absolute, so that no name looks like an option


def _line(path: Path) -> bytes:
    """`path` as a line of exiftool's input."""
    name = os.fsencode(path)
    if b"\n" not in name and b"\r" not in name:
        return name
    if b"$" in name or b"@" in name:  # exiftool would put backslashes before them
        raise _failed(path, "exiftool takes no name with both a line break and $ or @; rename it")
    for character, escaped in ((b"\\", rb"\\"), (b"\n", rb"\n"), (b"\r", rb"\r")):
        name = name.replace(character, escaped)
    return b"#[CSTR]" + name


def _escaped(description: str) -> str:
    """`description` on one line, escaped for exiftool's `-E`."""
    text = checked(description).strip().replace("&", "&amp;")
    return text.replace("\n", "&#10;").replace("\r", "&#13;")


def _until(stream: IO[bytes], end: bytes) -> bytes:
    answer = bytearray()
    while not answer.rstrip(b"\r\n").endswith(end):
        line = stream.readline()
        if not line:
            raise EOFError
        answer += line
    return bytes(answer.rstrip(b"\r\n").removesuffix(end))


def _first(complaints: bytes) -> str | None:
    """The first error in exiftool's output, without the name of the file."""
    for line in complaints.decode("utf-8", errors="replace").splitlines():
        if line.startswith("Error"):
            return line.removeprefix("Error: ").split(" - /")[0]
    return None


def _failed(path: Path, why: str) -> DescriptionError:
    return DescriptionError(
        f"{path}: its description cannot be read or written ({why}); the file is as it was; "
        f"--format xmp writes to {sidecar_path(path).name} instead"
    )
