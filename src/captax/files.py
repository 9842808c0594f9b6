"""Write files whole or not at all, and read files of bounded size, JSON among them."""

import contextlib
import dataclasses
import errno
import hashlib
import importlib
import io
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO, cast

from captax.errors import CaptaxError

if TYPE_CHECKING:
    from filelock import FileLock

_fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None
# The most bytes that are read of a file of each kind; honest files are far smaller.
CONFIG_LIMIT = 64 * 2**20  # a config, a recipe, a document, a text beside a picture
TOKENIZER_LIMIT = 256 * 2**20
PICTURE_LIMIT = 2**30
TABLE_LIMIT = 2**30  # captions, annotations, lists of pictures

_LONG = 180  # bytes of a name; it may have 255, and a partial file's name is longer
# Flags and calls that not every system has. Without `dir_fd`, a folder that somebody exchanges for
# a link while a file is being written is not noticed; links that were there before always are.
_AT = {os.open, os.rename, os.mkdir, os.stat, os.unlink} <= os.supports_dir_fd
_PLAIN = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | _PLAIN
# Without these, opening a pipe waits for its other end.
_NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
_FOLDER = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_PATH", 0) | getattr(os, "O_CLOEXEC", 0)


def cache_directory() -> Path:
    """The folder of files that captax can make again: `$CAPTAX_CACHE` or `~/.cache/captax`."""
    given = os.environ.get("CAPTAX_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "captax"


class OutputError(CaptaxError):
    """A file cannot be written; `errno` is the system's number for the reason."""

    def __init__(self, message: str, errno: int | None = None):
        super().__init__(message)
        self.errno = errno


def unwritable(path: Path, error: OSError) -> OutputError:
    """The error to raise if the disk or a permission does not allow `path` to be written."""
    return OutputError(
        f"{path}: cannot be written ({error.strerror or error}); free space, fix the permissions, "
        "or give another path",
        error.errno,
    )


@contextlib.contextmanager
def replacing(path: Path, *, inside: Path | None = None, own: bool = False) -> Iterator[BinaryIO]:
    """Give a new file to write to, which takes the place of `path` if the block succeeds.

    A reader sees the old file or the new one, and other names of the old file (hard links) keep its
    content. Missing folders are made. Raises `OutputError` if the disk or a permission does not
    allow it; then nothing is left behind.

    Where the user gave `path` himself, links are followed: a link stays and its target is replaced,
    and a device or a pipe, such as /dev/null, is written to. A path that captax derived from a
    folder that the user gave is written `inside` that folder: links that lead out of it are
    refused, and a device or a pipe is replaced. A file of captax's `own` takes the place of a link.

    Until it is complete, the file is called `.NAME.captax.partial`. It is always made and never
    opened, so a link of that name leads nowhere. What a killed process left there is removed.
    """
    done = False
    try:
        if inside is None and not own and is_special(path):
            with path.open("wb") as file:
                yield file
            return
        target = path if own else Path(os.path.realpath(path)) if path.is_symlink() else path
        if inside is not None:
            check_inside(target.parent, inside)
        with _opened(target.parent, inside) as folder:
            descriptor, partial = _new(target.name, folder)
            made = os.fstat(descriptor)
            try:
                with open(target.with_name(partial), "wb", opener=lambda *_: descriptor) as file:
                    yield file
                if not os.path.samestat(made, folder.status(partial)):
                    raise OutputError(f"{path}: another process wrote it at the same time")
                folder.rename(partial, target.name)
                done = True
            finally:
                if not done:
                    with contextlib.suppress(OSError):
                        if os.path.samestat(made, folder.status(partial)):
                            folder.unlink(partial)
    except OSError as error:
        raise unwritable(path, error) from None


def write_text(path: Path, text: str, *, inside: Path | None = None, own: bool = False) -> None:
    """Write `text` as UTF-8, whole or not at all; the options are those of `replacing`."""
    with replacing(path, inside=inside, own=own) as file:
        file.write(text.encode())


@contextlib.contextmanager
def text_file(file: BinaryIO, *, errors: str = "strict", newline: str = "\n") -> Iterator[TextIO]:
    """A UTF-8 text file over `file`, which stays open."""
    text = io.TextIOWrapper(file, encoding="utf-8", errors=errors, newline=newline)
    try:
        yield text
    finally:
        if not file.closed:
            text.detach()  # this also writes what it holds


def own_file(path: Path, mode: str, *, inside: Path | None = None) -> BinaryIO:
    """Open a file that captax keeps and changes in place: `mode` is "rb", "ab" or "r+b".

    The file is a regular one with no other name, so nothing else is ever changed by writing to it:
    if a backup shares it (a hard link), it gets a copy of its own first. `inside` is what it is for
    `replacing`. Raises `OutputError` for a link, a folder, a device or a pipe, and what `open`
    raises for anything else.
    """
    flags = {"rb": os.O_RDONLY, "r+b": os.O_RDWR, "ab": os.O_WRONLY | os.O_APPEND | os.O_CREAT}[
        mode
    ]
    if inside is not None:
        check_inside(path.parent, inside)
    with _opened(path.parent, inside, make=mode == "ab") as folder:
        try:
            descriptor = folder.open(path.name, flags | _NO_LINK | _NO_WAIT)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO):
                raise _not_own(path) from None
            raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or (not _NO_LINK and path.is_symlink()):
        os.close(descriptor)
        raise _not_own(path)
    file = cast(BinaryIO, os.fdopen(descriptor, mode, buffering=-1 if mode == "rb" else 0))
    if mode == "rb" or status.st_nlink == 1:
        return file
    file.close()
    with (
        own_file(path, "rb", inside=inside) as shared,
        replacing(path, inside=inside, own=True) as alone,
    ):
        shutil.copyfileobj(shared, alone)
    return own_file(path, mode, inside=inside)


JSON_TEXT = rb'"(?:[^"\\]|\\.)*"'  # the pattern of a text in JSON, for marks
_BEGINNING = 65_536  # bytes in which a mark is looked for


# Suffixes by which people and programs know what is in a file.
_TELLING = frozenset({
    *(".csv", ".tsv", ".parquet", ".json", ".jsonl", ".npz", ".npy", ".zip", ".tar"),
    *(".html", ".htm", ".md", ".yaml", ".patch", ".diff", ".safetensors"),
    *(".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".avif", ".heic"),
})  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of file that captax makes, and by what captax knows such a file again.

    Attributes:
        name: what messages call it.
        mark: how it begins, and nothing that somebody else makes does; None if it has no mark.
        suffixes: what its name may end in, the usual one first; () if somebody else looks at that.
    """

    name: str
    mark: re.Pattern[bytes] | None = None
    suffixes: tuple[str, ...] = ()

    def check_name(self, option: str, path: Path) -> None:
        """Raise `OutputError` if the name that an option gives says another kind of file."""
        suffix = path.suffix.lower()
        if self.suffixes and suffix in _TELLING and suffix not in self.suffixes:
            raise OutputError(
                f"{path}: {option} writes a {self.name}, and the name says something else; give "
                f"one that ends in {self.suffixes[0]}"
            )

    def made(self, path: Path) -> bool:
        """Whether captax made the file at `path`, and made it as one of this kind."""
        try:
            with open_regular(path) as file:
                return self.mark is not None and self.mark.match(file.read(_BEGINNING)) is not None
        except OSError:
            return False


NOT_REPLACED = "is an input of this command, so it is not replaced"


@dataclasses.dataclass(frozen=True)
class NewFile:
    """A file that a command is to write.

    Attributes:
        option: the option that names it.
        path: where; None if it is not asked for.
        kind: what it will be.
        overwrite: whether it may replace a file that is not captax's own of that kind.
    """

    option: str
    path: Path | None
    kind: Kind
    overwrite: bool = False


def check_new_files(
    files: Iterable[NewFile],
    inputs: Sequence[str | os.PathLike[str]] = (),
    *,
    reads: Callable[[Path], bool] = lambda path: True,
) -> None:
    """Raise `OutputError` if writing `files` would lose something that captax did not make.

    A name must not say that a file is of another kind.
    A file of captax's own of the same kind is replaced, and so is an empty one, a device or a pipe;
    another file only if its `NewFile` says `overwrite`. What is read is never replaced: neither one
    of the `inputs`, nor, in a folder among them, what captax did not make and `reads` is true of.
    An input that is no path of a file or a folder, such as a pattern, stands for the deepest folder
    above it; URLs are left out.
    """
    named = [(each, each.path) for each in files if each.path is not None]
    for place, (each, path) in enumerate(named):
        for earlier, other in named[:place]:
            if os.path.realpath(path) == os.path.realpath(other) and not is_special(path):
                raise OutputError(
                    f"{path}: {earlier.option} and {each.option} name the same file; give two names"
                )
        try:
            status = path.stat()
        except (OSError, ValueError):  # nothing is there; or writing will tell what is wrong
            continue
        if stat.S_ISDIR(status.st_mode):
            raise OutputError(f"{path}: is a folder; give {each.option} the name of a file")
        if not stat.S_ISREG(status.st_mode):
            continue
        made = each.kind.made(path)
        if any(_is_read(path, status, given, not made and reads(path)) for given in inputs):
            raise OutputError(f"{path}: {NOT_REPLACED}; give {each.option} another name")
        if status.st_size and not made and not each.overwrite:
            raise OutputError(
                f"{path}: is there already, and is no {each.kind.name} that captax made; give "
                f"{each.option} another name, or add --overwrite to replace it"
            )
    for each, path in named:
        each.kind.check_name(each.option, path)


def _is_read(
    path: Path, status: os.stat_result, given: str | os.PathLike[str], in_folders: bool
) -> bool:
    """Whether `path` is an input, or is in a folder that is one and is read there."""
    # A `Path` of hf://owner/name has one slash.
    if "://" in (text := os.fspath(given)) or text[:5].lower() == "data:" or text[:4] == "hf:/":
        return False
    source = Path(given)
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if stat.S_ISREG((found := source.stat()).st_mode):
                return os.path.samestat(found, status)
        folder = next(each for each in (source, *source.parents) if each.is_dir())
    except (OSError, ValueError, StopIteration):
        return False
    return in_folders and lies_in(path, folder)


def lies_in(path: Path, folder: Path) -> bool:
    """Whether `path`, which need not exist, is `folder` or below it, whatever links name them."""
    try:
        there = folder.stat()
        real = Path(os.path.realpath(path))
    except (OSError, ValueError):
        return False
    for each in (real, *real.parents):
        with contextlib.suppress(OSError):
            if os.path.samestat(each.stat(), there):
                return True
    return False


def copy_mode(path: Path, file: BinaryIO) -> None:
    """Give `file` the permissions of `path`."""
    os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))


def make_folder(path: Path, *, inside: Path | None = None) -> None:
    """Make a folder and those above it; `inside` is what it is for `replacing`."""
    if inside is not None:
        check_inside(path, inside)
    try:
        with _opened(path, inside):
            pass
    except OSError as error:
        raise unwritable(path, error) from None


def check_inside(path: Path, folder: Path) -> None:
    """Raise `OutputError` if a link on the way to `path` leads out of `folder`."""
    real = os.path.realpath(path)
    if not Path(real).is_relative_to(os.path.realpath(folder)):
        raise OutputError(
            f"{path}: a link leads out of its folder ({folder}) to {real}, so nothing is written; "
            "remove the link, or add --follow-links"
        )


def check_no_links(folder: Path) -> None:
    """Raise `OutputError` if anything below `folder` is a link, for libraries that follow them."""
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if os.path.islink(path := os.path.join(parent, name)):  # noqa: PTH114, PTH118 (fast)
                raise OutputError(
                    f"{path}: is a link in a folder of captax's own; remove it, or add "
                    "--follow-links"
                )


# What makes a spreadsheet run a cell, also in its wide form and behind apostrophes.
_FORMULA = re.compile("('*)[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
CSV_HEADER = ["path", "caption", "score", "error"]  # how the CSV files of `captax caption` begin


def csv_cell(text: str, *, safe: bool = True) -> str:
    """A cell of a CSV file, with an apostrophe before what a spreadsheet would run as a formula.

    `csv_text` takes it off again. So what begins with an apostrophe and would look like such a cell
    gets one too, also where `safe` is False.
    """
    found = _FORMULA.match(text)
    return f"'{text}" if found and (safe or found[1]) else text


def csv_text(cell: str) -> str:
    """The text that `csv_cell` made a cell of."""
    found = _FORMULA.match(cell)
    return cell[1:] if found and found[1] else cell


def is_file(path: Path) -> bool:
    """Whether `path` is a file; a name that is too long for any file is not."""
    return os.path.isfile(path)  # noqa: PTH113 (`Path.is_file` raises OSError for such names)


def is_special(path: Path) -> bool:
    """Whether `path` is a device, a pipe or a socket."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def hidden_name(name: str, end: str) -> str:
    """A hidden name for what belongs to `name`, which is hashed if it is long."""
    if len(os.fsencode(name)) > _LONG:
        name = hashlib.blake2b(os.fsencode(name), digest_size=16).hexdigest()
    return f".{name}.{end}"


def lock(descriptor: int) -> bool:
    """Lock an open file until it is closed. False if somebody has it, or files have no locks."""
    if _fcntl is None:
        return False
    try:
        _fcntl.flock(descriptor, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def hold(path: Path, *, inside: Path | None = None) -> "FileLock":
    """Lock a file of captax's own, which the system lets go of if the process is killed.

    Raises `filelock.Timeout` if another process holds it, and what `own_file` raises.
    """
    # Start-up time.
    from filelock import FileLock

    own_file(path, "ab", inside=inside).close()  # the library may follow a link and empty a file
    held = FileLock(path)
    held.acquire(timeout=0)
    return held


class _Folder:
    """An open folder: what is done in it is done there, whatever takes its place meanwhile."""

    def __init__(self, path: Path, descriptor: int | None):
        self._path = path
        self._descriptor = descriptor

    def _name(self, name: str) -> str | Path:
        return name if self._descriptor is not None else self._path / name

    def open(self, name: str, flags: int) -> int:
        return os.open(self._name(name), flags, 0o666, dir_fd=self._descriptor)

    def status(self, name: str) -> os.stat_result:
        return os.stat(self._name(name), dir_fd=self._descriptor, follow_symlinks=False)

    def unlink(self, name: str) -> None:
        os.unlink(self._name(name), dir_fd=self._descriptor)

    def rename(self, name: str, to: str) -> None:
        at = self._descriptor
        if at is None:
            Path(self._name(name)).replace(self._name(to))
        else:
            os.rename(name, to, src_dir_fd=at, dst_dir_fd=at)


@contextlib.contextmanager
def _opened(path: Path, inside: Path | None, *, make: bool = True) -> Iterator[_Folder]:
    """Open a folder, made if it is not there. Below `inside`, no link is followed any more."""
    if not _AT:
        if make:
            path.mkdir(parents=True, exist_ok=True)
        yield _Folder(path, None)
        return
    root, parts = path, tuple[str, ...]()
    if inside is not None:
        root = Path(os.path.realpath(inside))
        parts = Path(os.path.realpath(path)).relative_to(root).parts
    if make:
        root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root, os.O_RDONLY | _FOLDER)
    try:
        for part in parts:
            above = descriptor
            try:
                descriptor = os.open(part, os.O_RDONLY | _FOLDER | _NO_LINK, dir_fd=above)
            except FileNotFoundError:
                if not make:
                    raise
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=above)
                descriptor = os.open(part, os.O_RDONLY | _FOLDER | _NO_LINK, dir_fd=above)
            os.close(above)
        yield _Folder(path, descriptor)
    finally:
        os.close(descriptor)


def _new(name: str, folder: _Folder) -> tuple[int, str]:
    """Make the partial file of `name`, and give its descriptor and its name."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK
    partial = hidden_name(name, "captax.partial")
    try:
        descriptor = folder.open(partial, flags)
    except FileExistsError:
        if not _left(partial, folder):  # another process is writing it, or it is not ours
            partial = hidden_name(name, f"captax-{secrets.token_hex(8)}.partial")
        descriptor = folder.open(partial, flags)
    lock(descriptor)
    return descriptor, partial


def _left(partial: str, folder: _Folder) -> bool:
    """Remove a partial file that a killed process left; False if it was not that."""
    with contextlib.suppress(OSError):
        descriptor = folder.open(partial, os.O_RDONLY | _NO_LINK | _NO_WAIT)
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode) and lock(descriptor):
                folder.unlink(partial)
                return True
        finally:
            os.close(descriptor)
    return False


def _not_own(path: Path) -> OutputError:
    return OutputError(
        f"{path}: is a link, a folder, a device or a pipe, where captax keeps a file of its own; "
        "remove it"
    )


def absent(path: str | os.PathLike[str], what: str = "file") -> str:
    """Why there is nothing at a path, as a message says it; a link may lead nowhere."""
    try:
        target = Path(path).readlink()
    except (OSError, ValueError):
        return f"no such {what}"
    return f"no such {what}; it is a link to {target}, and nothing is there"


def open_regular(path: str | os.PathLike[str], *, limit: int | None = None) -> io.BufferedReader:
    """Open a regular file to read; pipes, devices and files of more than `limit` bytes are refused.

    Nothing is waited for: a pipe without a writer is refused at once too. Raises `OSError`, whose
    `strerror` says why.
    """
    return os.fdopen(_descriptor(path, limit, pipes=False), "rb")


def read_bytes(path: str | os.PathLike[str], *, limit: int, pipes: bool = False) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    With `pipes`, a pipe or a terminal that the user named, such as the shell's `<(...)`, is read to
    its end too, unless it has no writer. Raises `OSError`, whose `strerror` says why.
    """
    with os.fdopen(_descriptor(path, limit, pipes=pipes), "rb") as file:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            content = file.read(limit + 1) or b""  # some files of /proc hold more than their size
        else:
            content = _piped(file.fileno(), limit, path)
    if len(content) > limit:
        raise _too_large(path, limit)
    return content


def read_text(path: str | os.PathLike[str], *, limit: int, pipes: bool = False) -> str:
    """The content of a file as `read_bytes` reads it, in UTF-8 with or without a byte order mark.

    Its line ends become line feeds. Raises `OSError`, or `UnicodeDecodeError`.
    """
    text = read_bytes(path, limit=limit, pipes=pipes).decode("utf-8-sig")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


_PATIENCE = 5  # seconds in which a pipe must have got a writer


def _descriptor(path: str | os.PathLike[str], limit: int | None, *, pipes: bool) -> int:
    """A file descriptor of what `open_regular` and `read_bytes` accept."""
    try:
        descriptor = os.open(path, os.O_RDONLY | _PLAIN | _NO_WAIT)
    except ValueError:  # a name with a null character
        reason = "its name has a null character"
        raise OSError(errno.EINVAL, reason, os.fspath(path)) from None
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if pipes and (stat.S_ISFIFO(status.st_mode) or os.isatty(descriptor)):
            return descriptor
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", os.fspath(path))
        if limit is not None and status.st_size > limit:
            raise _too_large(path, limit)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _piped(descriptor: int, limit: int, path: str | os.PathLike[str]) -> bytes:
    """At most `limit` bytes and one more of a pipe, which must get a writer before long."""
    until = time.monotonic() + _PATIENCE
    content = bytearray()
    while len(content) <= limit:
        try:
            part = os.read(descriptor, 2**16)
        except BlockingIOError:  # it has a writer, which has nothing to say as yet
            os.set_blocking(descriptor, True)
            continue
        if part:
            content += part
        elif content or os.get_blocking(descriptor):
            break
        elif time.monotonic() > until:
            raise OSError(errno.EPIPE, "it is a pipe that nothing writes to", os.fspath(path))
        else:
            time.sleep(0.05)
    return bytes(content[: limit + 1])


def _too_large(path: str | os.PathLike[str], limit: int) -> OSError:
    size = f"{limit / 2**20:,.0f} MiB" if limit >= 2**20 else f"{limit:,} bytes"
    return OSError(errno.EFBIG, f"it has more than {size}", os.fspath(path))


def parse_json(text: str, *, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Parse JSON; `pairs` makes an object from its keys and values.

    Raises only `ValueError`: the text is not JSON, is nested too deeply for the parser, or contains
    half of a surrogate pair, which no file can hold.
    """
    try:
        content = json.loads(text, object_pairs_hook=pairs)
        if re.search(r"\\u[dD][89a-fA-F]", text):
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        raise ValueError(f"{half} is half a character") from None
    return content
