"""Uploading the best model while a run goes on."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from captax.checkpoints.hub import HubError
from captax.training import pushing
from captax.training.loop import train
from captax.training.pushing import Pusher
from captax.training.recipe import Recipe
from fake_hub import FakeHub


class Uploads:
    """Stands in for the upload: what was uploaded, as texts; `open` lets one through."""

    def __init__(self) -> None:
        self.done: list[tuple[str, str]] = []
        self.open = threading.Event()
        self.begun = threading.Event()
        self.error: Exception | None = None
        self.open.set()

    def push(self, directory: Path, name: str, *, private: bool, message: str) -> str:
        self.begun.set()
        assert self.open.wait(10)
        if self.error is not None:
            raise self.error
        self.done.append((message, (directory / "model.safetensors").read_text()))
        return name


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> Uploads:
    made = Uploads()
    monkeypatch.setattr(pushing, "push", made.push)
    return made


def save(directory: Path, text: str) -> Path:
    """A model in place of another one, as captax saves it: in a new file."""
    directory.mkdir(exist_ok=True)
    (directory / "model.safetensors").unlink(missing_ok=True)
    (directory / "model.safetensors").write_text(text)
    return directory


def test_what_is_uploaded_is_the_model_of_its_time(uploads: Uploads, tmp_path: Path) -> None:
    uploads.open.clear()
    pusher, best = Pusher("me/dogs", tmp_path), tmp_path / "best"
    pusher.push(save(best, "first"), "Step 1")
    assert uploads.begun.wait(10)
    pusher.push(save(best, "second"), "Step 2")
    pusher.push(save(best, "third"), "Step 3")
    save(best, "fourth")
    uploads.open.set()
    pusher.finish(best)
    # While one is on its way, only the newest of the others waits.
    assert uploads.done == [("Step 1", "first"), ("Step 3", "third")]
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_failure_is_told_once_and_tried_again_at_the_end(
    uploads: Uploads, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uploads.error = HubError("me/dogs: no token")
    pusher, best = Pusher("me/dogs", tmp_path), save(tmp_path / "best", "model")
    for step in range(3):
        uploads.begun.clear()
        pusher.push(best, f"Step {step}")
        assert uploads.begun.wait(10)
    uploads.error = None
    pusher.finish(best)
    assert [text for _, text in uploads.done] == ["model"]
    told = capsys.readouterr().out
    assert told.count("warning: the best model was not uploaded: me/dogs: no token; it") == 1
    assert told.endswith("the best model is on the hub as me/dogs\n")


def test_the_newest_is_tried_again_if_the_one_before_it_arrived(
    uploads: Uploads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    uploads.open.clear()
    pusher, best = Pusher("me/dogs", tmp_path), tmp_path / "best"
    pusher.push(save(best, "first"), "Step 1")
    assert uploads.begun.wait(10)
    with monkeypatch.context() as patch:
        patch.setattr(pushing, "_link", full)
        pusher.push(save(best, "second"), "Step 2")
    uploads.open.set()
    pusher.finish(best)
    assert [text for _, text in uploads.done] == ["first", "second"]


def test_snapshots_are_not_made_through_a_link(
    uploads: Uploads, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run := tmp_path / "run").mkdir()
    (other := tmp_path / "other").mkdir()
    (run / ".pushing").symlink_to(other)
    pusher, best = Pusher("me/dogs", run), save(run / "best", "model")
    pusher.push(best, "Step 1")
    assert not list(other.iterdir())
    assert "warning: the best model was not uploaded" in capsys.readouterr().out
    pusher.finish(best)
    assert [text for _, text in uploads.done] == ["model"]


def test_what_cannot_be_uploaded_says_how_to_do_it_later(
    uploads: Uploads, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uploads.error = OSError("unplugged")
    best = save(tmp_path / "best", "model")
    Pusher("me/dogs", tmp_path).finish(best)  # as a run that goes on has nothing better
    assert f"upload it later: captax push {best} me/dogs\n" in capsys.readouterr().out
    best = save(tmp_path / "the best", "model")
    Pusher("me/dogs", tmp_path, private=True).finish(best)
    assert f"captax push '{best}' me/dogs --private\n" in capsys.readouterr().out


# The library's own way of putting a file, without its store.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_a_run_uploads_its_best_model(
    finetune: Callable[[int], Recipe],
    hub: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.writer)
    pushed: dict[str, Any] = {"push": "me/shapes", "push_private": True}
    best = train(finetune(4).model_copy(update=pushed), tmp_path / "run")
    name, message, files = hub.commits[-1]
    assert name == "me/shapes" and message.startswith("Step ") and "loss " in message
    assert files["model.safetensors"] == (best / "model.safetensors").read_bytes()
    assert files["README.md"] == (best / "README.md").read_bytes()
    assert hub.created[0]["visibility"] == "private"
    assert not (tmp_path / "run" / ".pushing").exists()
