"""Put a new folder in the place of another: whole, or not at all, whenever the process is killed.

The new folder is made in a hidden one beside its place, `.NAME.captax-RANDOM`, which is the only
thing that is ever removed. It holds a marker file, locked while its process lives, and:

    new    the new folder; after an exchange in one step, the one that was there before
    old    the one that was there before, where the system cannot exchange two folders in one step
    done   what is of no more use

So at every moment the place holds the old folder or the new one, whole; on systems other than Linux
there is a moment between two renamings at which both are in the hidden folder. The next call for
the same place finds what a killed process left and completes it or undoes it.
"""

import contextlib
import ctypes
import errno
import json
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from captax.files import OutputError, hidden_name, lock

_MARK = "made by captax"
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
# What says that the kernel or the file system cannot exchange two folders in one step.
_CANNOT = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}
# How often it is tried again when other processes save to the same place.
_TRIES = 20
_PATIENCE = 0.05  # seconds in which another process has removed what it took for a leftover


def replace_folder(
    place: Path,
    write: Callable[[Path], None],
    *,
    check: Callable[[Path], None],
    kept: Callable[[str], bool],
) -> None:
    """Have `write` fill a new folder, and put it in the place of `place`.

    What is in the old folder, is not written by `write` and has a name that is `kept` is in the new
    folder too, also if it comes while `write` runs. `check` raises for a folder that must not be
    replaced. A failure leaves nothing behind. If several processes save to `place` at once, one of
    them wins whole.
    """
    recover(place, kept)
    check(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    with _hidden(place) as hidden:
        new = hidden / "new"
        write(new)
        written = {path.name for path in new.iterdir()}
        if place.is_dir():
            _carry(place, new, lambda name: name not in written and kept(name), move=False)
        before = _exchange(hidden, place, check)
        if before is not None:
            _carry(before, place, lambda name: name not in written and kept(name), move=True)


def recover(place: Path, kept: Callable[[str], bool]) -> None:
    """Complete or undo what processes were killed at that saved to `place`."""
    if not place.parent.is_dir():
        return
    pattern = re.compile(re.escape(hidden_name(place.name, "captax-")) + "[0-9a-f]{16}")
    for name in os.listdir(place.parent):  # noqa: PTH208 (names alone)
        hidden = place.parent / name
        if not pattern.fullmatch(name) or not _is_folder(hidden):
            continue
        with contextlib.suppress(OSError), _locked(hidden) as made:
            if made is None:
                _remove_empty(hidden)
            else:
                _finish(hidden, place, made, kept)
                _remove(hidden)


def _finish(hidden: Path, place: Path, made: int, kept: Callable[[str], bool]) -> None:
    """Take what is good out of the hidden folder of a killed process."""
    new, old = hidden / "new", hidden / "old"
    exchanged = _is_folder(new) and new.stat().st_ino != made
    before = old if _is_folder(old) else new if exchanged else None
    if before is None:  # killed before the exchange, so the old folder is in its place
        return
    if not os.path.lexists(place):
        # Both are whole: the old one was taken away when the new one was complete.
        (before if exchanged or not _is_folder(new) else new).rename(place)
    if _is_folder(before) and _is_folder(place):
        _carry(before, place, kept, move=True)


@contextlib.contextmanager
def _hidden(place: Path) -> Iterator[Path]:
    """A hidden folder beside `place`, with a folder `new`; removed at the end."""
    for _ in range(_TRIES):
        hidden = place.with_name(hidden_name(place.name, f"captax-{secrets.token_hex(8)}"))
        hidden.mkdir(mode=0o700)  # nobody else can plant anything in it
        try:
            descriptor = os.open(hidden / _MARK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except FileNotFoundError:  # another process, which recovers, took it for a leftover
            continue
        except BaseException:
            _remove_empty(hidden)
            raise
        try:
            if not lock(descriptor):  # who recovers has it; or there are no locks, and nobody does
                time.sleep(_PATIENCE)
                lock(descriptor)
            if not _in_place(descriptor, hidden / _MARK):
                continue
            (hidden / "new").mkdir()
            made = {"captax": _MARK, "new": (hidden / "new").stat().st_ino}
            try:
                os.write(descriptor, json.dumps(made).encode())
                yield hidden
            finally:
                if os.path.lexists(place) or not os.path.lexists(hidden / "old"):
                    _remove(hidden)
            return
        finally:
            os.close(descriptor)
    raise OutputError(f"{place}: other processes save to it all the time; run again")


@contextlib.contextmanager
def _locked(hidden: Path) -> Iterator[int | None]:
    """Lock a hidden folder, and give the number (inode) of the `new` that it was made with.

    None if its process was killed before it wrote the marker. Raises `OSError` if the folder is in
    use, or captax did not make it.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(hidden / _MARK, flags)
    except FileNotFoundError:
        hidden.rmdir()  # killed before it had a marker; if one came meanwhile, this raises
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not lock(descriptor):
            raise BlockingIOError
        content = os.read(descriptor, 1000)
        if not content:
            yield None
            return
        try:
            marker = json.loads(content)
            if marker["captax"] != _MARK:
                raise KeyError
            made = int(marker["new"])
        except (ValueError, KeyError, TypeError):
            raise FileNotFoundError from None
        yield made
    finally:
        os.close(descriptor)


def _remove(hidden: Path) -> None:
    """Remove a hidden folder, its marker last, so that a killed removal can be completed."""
    with contextlib.suppress(OSError):
        for name in ("new", "old"):
            if os.path.lexists(hidden / name):
                # Renamed first: half a folder must not be taken for a whole one.
                (hidden / name).rename(hidden / f"done-{secrets.token_hex(4)}")
        for path in hidden.iterdir():
            if _is_folder(path):
                shutil.rmtree(path, ignore_errors=True)
        (hidden / _MARK).unlink()
        hidden.rmdir()


def _remove_empty(hidden: Path) -> None:
    """Remove a hidden folder that has nothing in it yet; its marker, if any, is locked by us."""
    with contextlib.suppress(OSError):
        if (mark := hidden / _MARK).exists() and not mark.stat().st_size:
            with contextlib.suppress(FileNotFoundError):
                (hidden / "new").rmdir()
            mark.unlink()
        hidden.rmdir()


def _in_place(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _exchange(hidden: Path, place: Path, check: Callable[[Path], None]) -> Path | None:
    """Put `hidden/new` in its place; give the folder that was there, if there was one."""
    new, old = hidden / "new", hidden / "old"
    for _ in range(_TRIES):
        try:
            if not os.path.lexists(place):
                new.rename(place)
                return None
            if _exchanged(new, place):
                try:
                    check(new)
                except BaseException:  # it is another one than that which was checked before
                    _exchanged(new, place)
                    raise
                return new
            check(place)
            place.rename(old)
            try:
                new.rename(place)
            except OSError:
                with contextlib.suppress(OSError):
                    old.rename(place)
                    raise
                if not os.path.lexists(place):
                    raise
            return old  # and if another process was faster, it wins
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
                raise
    raise OutputError(f"{place}: other processes save to it all the time; run again")


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False if the system cannot."""
    if sys.platform != "linux":
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    names = os.fsencode(one), os.fsencode(other)
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(other))


def _carry(source: Path, target: Path, kept: Callable[[str], bool], *, move: bool) -> None:
    """Give `target` what is `kept` of `source`: as a second name of each file, or moved there.

    What `target` has already is left, except that in moving a file that was exchanged for another
    since it got its second name takes the place of the older one.
    """
    try:
        paths = list(source.iterdir())
    except FileNotFoundError:  # another process exchanges it, and carries what it holds
        return
    for path in paths:
        if not kept(path.name):
            continue
        there = target / path.name
        with contextlib.suppress(FileNotFoundError):  # its owner removed it meanwhile
            if _is_folder(path):
                if not os.path.lexists(there):
                    there.mkdir()
                    shutil.copystat(path, there)
                if _is_folder(there):
                    _carry(path, there, lambda _: True, move=move)
            elif not move:
                _second_name(path, there)
            elif not _is_folder(there) and not _same(path, there):
                path.replace(there)


def _second_name(path: Path, there: Path) -> None:
    try:
        os.link(path, there, follow_symlinks=False)
    except FileNotFoundError:
        raise
    except OSError:  # the file system has no hard links, or not for such files
        shutil.copy2(path, there, follow_symlinks=False)


def _same(path: Path, there: Path) -> bool:
    """Whether `there` is the same file, or a later copy of it."""
    if not os.path.lexists(there):
        return False
    one, other = path.lstat(), there.lstat()
    return os.path.samestat(one, other) or one.st_ctime_ns <= other.st_ctime_ns


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
