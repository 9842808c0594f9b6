"""Uploads a run's best model to the Hugging Face hub while the run goes on."""

import os
import shlex
import shutil
import threading
from pathlib import Path

from captax.errors import CaptaxError
from captax.files import make_folder
from captax.pipelines.sharing import push
from captax.progress import tell

_SNAPSHOTS = ".pushing"


class Pusher:
    """Uploads the best model in a thread of its own, each time it is given one.

    What is uploaded is a snapshot, because a better model replaces the folder at any time. While
    one is on its way, only the newest of the others waits. The training is never stopped: a failure
    is told once, and `finish` tries again.
    """

    def __init__(self, name: str, folder: Path, *, private: bool = False):
        """`name` is the repository's; snapshots are kept in the run's `folder`."""
        self.name, self.private = name, private
        self._folder, self._snapshots = folder, folder / _SNAPSHOTS
        shutil.rmtree(self._snapshots, ignore_errors=True)  # what a killed run left
        self._lock = threading.Lock()
        self._waiting: tuple[int, Path, str] | None = None
        self._thread: threading.Thread | None = None
        self._count = 0
        self._pushed = self._told = False

    def push(self, directory: Path, message: str) -> None:
        """Upload a checkpoint directory as it is now, with a commit's message."""
        self._count += 1
        snapshot = self._snapshots / str(self._count)
        try:
            _link(directory, snapshot, inside=self._folder)
        except (OSError, CaptaxError) as error:
            self._failed(error)
            return
        with self._lock:
            if self._waiting is not None:
                shutil.rmtree(self._waiting[1], ignore_errors=True)
            self._waiting = self._count, snapshot, message
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="captax-push", daemon=True)
                self._thread.start()

    def finish(self, directory: Path) -> None:
        """Wait for what is on its way, and upload the directory if its last upload failed."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            tell(f"waiting for the upload to {self.name}")
            thread.join()
        if not self._pushed and directory.is_dir():
            self._told = False
            self._upload(self._count, directory, "Upload with captax")
        shutil.rmtree(self._snapshots, ignore_errors=True)
        if self._pushed:
            tell(f"the best model is on the hub as {self.name}")
        else:
            private = " --private" if self.private else ""
            tell(f"upload it later: captax push {shlex.quote(str(directory))} {self.name}{private}")

    def _work(self) -> None:
        while True:
            with self._lock:
                if self._waiting is None:
                    self._thread = None
                    return
                (number, snapshot, message), self._waiting = self._waiting, None
            self._upload(number, snapshot, message)
            shutil.rmtree(snapshot, ignore_errors=True)

    def _upload(self, number: int, directory: Path, message: str) -> None:
        # Start-up time: huggingface_hub takes 0.4 s.
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()  # they would break the run's own
        try:
            push(directory, self.name, private=self.private, message=message)
            self._pushed = number == self._count  # a newer one may have found no room on the disk
        except Exception as error:  # whatever it is, the training goes on
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self._pushed = False
        if not self._told:
            self._told = True
            tell(f"warning: the best model was not uploaded: {error}; it is tried again at the end")


def _link(directory: Path, snapshot: Path, *, inside: Path) -> None:
    """Make a folder with the same files, which take no room on the disk where that is possible."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            target = snapshot / path.relative_to(directory)
            make_folder(target.parent, inside=inside)
            try:
                os.link(path, target)
            except OSError:  # the file system has no hard links
                shutil.copyfile(path, target)
