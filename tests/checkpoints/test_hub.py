"""Fetching from, and pushing to, a hub that lives on the loopback and speaks the hub's HTTP."""

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from captax.checkpoints.hub import HubError, fetch, push
from captax.checkpoints.names import BUILT_IN, FORMER_NAMES
from captax.checkpoints.state import CheckpointError
from captax.checkpoints.weights import open_weights
from fake_hub import FakeHub, Repository

WEIGHTS = safetensors.numpy.save({"w": np.arange(6, dtype=np.float32)})
SMALL = {
    "config.json": b'{"model_type": "x"}',
    "tokenizer.json": b"{}",
    "merges.txt": b"a b\n",
    "spiece.model": b"\n\x07",
    "selected_tags.csv": b"tag_id,name\n",
}
UNREAD = {
    "metrics.csv": b"a,b\n",
    ".gitattributes": b"",
    "README.md": b"# x",
    "modeling_x.py": b"raise SystemExit",
    "tf_model.h5": b"tf",
    "flax_model.msgpack": b"flax",
    "model.onnx": b"onnx",
    "onnx/config.json": b"{}",
    "optimizer.pt": b"state",
    "training_args.bin": b"state",
    "trainer_state.json": b"{}",
}


@pytest.mark.parametrize("name", [BUILT_IN, *FORMER_NAMES])
def test_the_built_in_captioner_has_names_of_its_own(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fetch(name) == fetch("default")
    Path(name).mkdir()
    assert fetch(name) == Path(name)


def away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Point to a port where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_what_captax_reads_is_downloaded_once_and_nothing_else(hub: FakeHub) -> None:
    hub.repositories["org/x"] = Repository(
        {"main": {**SMALL, **UNREAD, "model.safetensors": WEIGHTS, "pytorch_model.bin": b"bin"}}
    )
    folder = fetch("org/x")
    assert names(folder) == {*SMALL, "model.safetensors"} == hub.downloaded()
    np.testing.assert_array_equal(open_weights(folder)["w"].read(), np.arange(6))
    assert (folder / "config.json").read_bytes() == SMALL["config.json"]
    hub.requests.clear()
    assert fetch("org/x") == folder
    assert not hub.downloaded()


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        (
            [
                *("model.safetensors.index.json", "model-1-of-2.safetensors"),
                *("model-2-of-2.safetensors", "pytorch_model-1-of-1.bin"),
            ],
            3,
        ),
        (["pytorch_model.bin", "training_args.bin", "scheduler.bin"], 1),
        (["pytorch_model.bin.index.json", "pytorch_model-1-of-1.bin", "training_args.bin"], 2),
        (["model.safetensors", "model.fp16.safetensors", "pytorch_model.bin"], 1),
    ],
    ids=["sharded", "bin", "sharded bin", "single"],
)
def test_weights_of_one_form_are_downloaded(hub: FakeHub, files: list[str], wanted: int) -> None:
    hub.repositories["org/x"] = Repository({"main": {**SMALL, **dict.fromkeys(files, b"{}")}})
    assert names(fetch("org/x")) == hub.downloaded() == {*SMALL, *files[:wanted]}


def test_a_revision_is_a_branch_or_a_commit(hub: FakeHub) -> None:
    old, new = ({"config.json": version, "model.safetensors": WEIGHTS} for version in (b"1", b"2"))
    hub.repositories["openai/gpt2"] = Repository({"main": new, "v1": old})
    assert (fetch("gpt2") / "config.json").read_bytes() == b"2"
    for revision in ("v1", Repository.commit(old)):
        assert (fetch("gpt2", revision=revision) / "config.json").read_bytes() == b"1"
    with pytest.raises(HubError, match=r"gpt2: has no revision 'v3'; give a branch"):
        fetch("gpt2", revision="v3")


def test_the_token_is_sent(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"config.json": b"{}", "model.safetensors": WEIGHTS}
    hub.repositories["org/secret"] = Repository({"main": files}, token="hf_mine")
    with pytest.raises(
        HubError, match=r"no such repository at .*/org/secret; if it is private, give a"
    ):
        fetch("org/secret")
    fetch("org/secret", token="hf_mine")
    assert {token for *_, token in hub.requests[1:]} == {"hf_mine"}
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(HubError, match="no such repository"):
        fetch("org/secret", revision="main")
    assert hub.requests[-1][2] == "hf_other"


@pytest.mark.parametrize("token", [None, "hf_reader"])
def test_a_gated_repository_says_where_its_terms_are(hub: FakeHub, token: str | None) -> None:
    files = {"config.json": b"{}", "model.safetensors": WEIGHTS}
    hub.repositories["org/x"] = Repository({"main": files}, gated=True, token="hf_mine")
    with pytest.raises(
        HubError, match=rf"org/x: is gated; accept its terms at {hub.url}/org/x and"
    ):
        fetch("org/x", token=token)
    assert names(fetch("org/x", token="hf_mine")) == {*files}


def test_without_a_network_the_cached_copy_is_used(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"config.json": b"{}", "model.safetensors": WEIGHTS}
    hub.repositories["org/x"] = Repository({"main": files})
    folder = fetch("org/x")
    hub.down = True
    assert fetch("org/x") == folder
    with pytest.raises(HubError, match=r"org/y: .* cannot be reached, and no copy of it is cached"):
        fetch("org/y")
    hub.down, hub.portal = False, True
    assert fetch("org/x") == folder
    hub.requests.clear()
    assert fetch("org/x", offline=True) == folder
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch("org/x") == folder
    for name, revision in (("org/y", None), ("org/x", "v1")):
        with pytest.raises(HubError, match=r"the hub is switched off, and no copy of it is"):
            fetch(name, revision=revision)
    assert not hub.requests
    monkeypatch.delenv("HF_HUB_OFFLINE")
    away(monkeypatch)
    assert fetch("org/x") == folder
    with pytest.raises(HubError, match=r"cannot be reached, and no copy of it is cached") as caught:
        fetch("org/y")
    assert "\n" not in str(caught.value)
    (folder / "model.safetensors").unlink()  # as a download that failed leaves it
    with pytest.raises(HubError, match="no copy of it is cached"):
        fetch("org/x")


def test_a_repository_without_weights_says_so(hub: FakeHub) -> None:
    hub.repositories["org/none"] = Repository({"main": SMALL})
    with pytest.raises(HubError, match=r"org/none: has no weights .*pytorch_model.bin.*json\)$"):
        fetch("org/none")
    hub.repositories["org/tf"] = Repository({"main": {**SMALL, **UNREAD}})
    with pytest.raises(
        HubError, match=r"it only has Flax and ONNX and TensorFlow weights, which are not supp"
    ):
        fetch("org/tf")
    assert not hub.downloaded()


def test_a_directory_is_itself_and_other_paths_are_refused(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fetch(tmp_path) == tmp_path
    monkeypatch.chdir(tmp_path)
    Path("org/x").mkdir(parents=True)
    assert fetch("org/x") == Path("org/x")
    Path("file").touch()
    with pytest.raises(HubError, match="file: is a file; give the directory"):
        fetch("file")
    for name in ("./x/y", "../x", "~/x", "a/b/c", "/no/where", "a\\b", tmp_path / "x", Path("a/b")):
        with pytest.raises(
            HubError, match=r"no such directory; give a directory or a name on the hub$"
        ):
            fetch(name)
    for name in ("", "a b", "org/x--y", "none/", "x.git"):
        with pytest.raises(HubError, match="neither a directory nor a name on the hub"):
            fetch(name)
    assert not hub.requests


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_bytes(SMALL["config.json"])
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "README.md").write_text("---\ntags: [x]\n---\n# A captioner\n")
    (folder / ".README.md.12.partial").write_text("left over")
    return folder


# The library's own way of putting a file, without its store.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_a_checkpoint_is_pushed_in_one_commit_and_comes_back(hub: FakeHub, folder: Path) -> None:
    url = push(folder, "org/new", token=hub.writer, private=True, message="First")
    assert url == f"{hub.url}/org/new"
    (created,) = hub.created
    assert (created["organization"], created["name"]) == ("org", "new")
    assert created["visibility"] == "private"
    ((name, message, files),) = hub.commits
    assert (name, message) == ("org/new", "First")
    assert files == {
        file: (folder / file).read_bytes()
        for file in ("README.md", "config.json", "model.safetensors")
    }
    assert list(hub.blobs.values()) == [WEIGHTS]
    np.testing.assert_array_equal(open_weights(fetch("org/new"))["w"].read(), np.arange(6))
    (folder / "config.json").write_text('{"again": 1}')
    assert push(folder, "new", token=hub.writer) == f"{hub.url}/me/new"
    assert push(folder, "org/new", token=hub.writer) == url  # is there already
    assert hub.repositories["org/new"].revisions["main"]["config.json"] == b'{"again": 1}'


def test_what_cannot_be_pushed_is_said_in_one_line(
    hub: FakeHub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(match: str, *args: Any, **options: Any) -> None:
        with pytest.raises(HubError, match=match) as caught:
            push(*args, **options)
        assert "\n" not in str(caught.value)

    refused(r"org/x: the hub does not let you write to it \(401\); give a token", folder, "org/x")
    refused(r"not let you write to it \(403\); give", folder, "org/x", token="hf_reader")
    refused("not a name for a repository; give org/name", folder, "a/b/c", token=hub.writer)
    (folder / "config.json").rename(folder / "other.json")
    refused("not a checkpoint; it needs config.json and model.safe", folder, "org/x")
    refused("not a checkpoint", tmp_path / "nowhere", "org/x")
    (folder / "other.json").rename(folder / "config.json")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused("while HF_HUB_OFFLINE is set", folder, "org/x", token=hub.writer)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    away(monkeypatch)
    refused(r"upload failed \(ConnectError", folder, "org/x", token=hub.writer)
    assert not hub.commits and issubclass(HubError, CheckpointError)


def test_files_outside_of_the_directory_are_not_published(
    hub: FakeHub, folder: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("dear")
    (folder / "notes.txt").symlink_to(secret)
    with pytest.raises(HubError, match=r"notes\.txt: is a link to .*secret, outside"):
        push(folder, "org/leak", token=hub.writer)
