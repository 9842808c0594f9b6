"""Fetching from, and pushing to, a hub that lives on the loopback and speaks the hub's HTTP."""

import base64
import dataclasses
import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import safetensors.numpy

from captax.checkpoints.hub import HubError, fetch, push
from captax.checkpoints.state import CheckpointError
from captax.checkpoints.weights import open_weights

WEIGHTS = safetensors.numpy.save({"w": np.arange(6, dtype=np.float32)})
SMALL = {
    "config.json": b'{"model_type": "x"}',
    "tokenizer.json": b"{}",
    "merges.txt": b"a b\n",
    "spiece.model": b"\n\x07",
}
UNREAD = {
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


@dataclasses.dataclass
class Repository:
    revisions: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)
    gated: bool = False
    token: str | None = None  # who may read it

    @staticmethod
    def commit(files: dict[str, bytes]) -> str:
        return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()

    def find(self, revision: str) -> dict[str, bytes] | None:
        commits = {self.commit(files): files for files in self.revisions.values()}
        return self.revisions.get(revision) or commits.get(revision)


class FakeHub:
    """Repositories by name, and every request as (method, path, token)."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.blobs: dict[str, bytes] = {}
        self.commits: list[tuple[str, str, dict[str, bytes]]] = []
        self.created: list[dict[str, Any]] = []
        self.writer = "hf_writer"
        self.down = False
        self.portal = False
        self.url = ""

    def downloaded(self) -> set[str]:
        return {path.rsplit("/", 1)[1] for method, path, _ in self.requests if "/resolve/" in path}


class Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, *_: Any) -> None: ...

    def answer(self, content: Any, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def fail(self, status: int, code: str = "", message: str = "no") -> None:
        headers = {"X_Error_Code": code} if code else {}
        self.answer({"error": message}, status, X_Error_Message=message, **headers)

    def handle_any(self) -> None:
        path = unquote(urlsplit(self.path).path)
        bearer = self.headers.get("Authorization")
        token = bearer.removeprefix("Bearer ") if bearer else None
        self.hub.requests.append((self.command, path, token))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
        if self.hub.down:
            self.fail(503)
        elif self.hub.portal:
            self.answer(b"<html>Log in to the wireless network</html>")
        elif self.command in ("GET", "HEAD"):
            self.read(path, token)
        else:
            self.write(path, token, body)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def read(self, path: str, token: str | None) -> None:
        if "gpt2" in path and "openai" not in path:  # a name from before they had owners
            moved = self.path.replace("/gpt2", "/openai/gpt2", 1)
            return self.answer({}, 307, Location=moved)
        ask = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        name, revision = (
            (ask.group(1), ask.group(3)) if ask else file.groups()[:2] if file else ("", "")
        )
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.token not in (None, token) and not repository.gated):
            return self.fail(404 if token else 401, "RepoNotFound", "Repository not found")
        files = repository.find(revision or "main")
        if files is None:
            return self.fail(404, "RevisionNotFound", "Invalid rev id")
        commit = repository.commit(files)
        if ask and ask.group(2) == "tree":
            rows = [
                {"type": "file", "path": x, "size": len(y), "oid": hashlib.sha1(y).hexdigest()}
                for x, y in files.items()
            ]
            return self.answer(rows)
        if ask:
            siblings = [{"rfilename": x} for x in files]
            return self.answer({"id": name, "sha": commit, "siblings": siblings})
        if repository.gated and repository.token != token:
            return self.fail(403 if token else 401, "GatedRepo", "Access is restricted")
        content = files[file.group(3)]
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        return self.answer(content, X_Repo_Commit=commit, ETag=etag)

    def write(self, path: str, token: str | None, body: bytes) -> None:
        hub = self.hub
        if path.startswith("/upload/"):
            hub.blobs[path.removeprefix("/upload/")] = body
            return self.answer({})
        if token is None:
            return self.fail(401, message="Invalid username or password.")
        if token != hub.writer:
            return self.fail(403, message="You have read access only")
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            ask = json.loads(body)
            hub.created.append(ask)
            name = f"{ask['organization'] or 'me'}/{ask['name']}"
            if name in hub.repositories:
                return self.answer({"url": f"{hub.url}/{name}", "error": "exists"}, 409)
            hub.repositories[name] = Repository({"main": {}})
            return self.answer({"url": f"{hub.url}/{name}"})
        if path.endswith("/preupload/main"):
            rows = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self.answer({"files": rows})
        if path.endswith("/info/lfs/objects/batch"):
            rows = [
                {**blob, "actions": {"upload": {"href": f"{hub.url}/upload/{blob['oid']}"}}}
                for blob in json.loads(body)["objects"]
            ]
            return self.answer({"transfer": "basic", "objects": rows})
        name = re.fullmatch(r"/api/models/(.+)/commit/main", path).group(1)
        lines = [json.loads(line) for line in body.splitlines()]
        files = {}
        for line in lines[1:]:
            value = line["value"]
            large = line["key"] == "lfsFile"
            content = hub.blobs[value["oid"]] if large else base64.b64decode(value["content"])
            files[value["path"]] = content
        hub.commits.append((name, lines[0]["value"]["summary"], files))
        hub.repositories[name].revisions["main"] = files
        commit = hub.repositories[name].commit(files)
        return self.answer({"commitUrl": f"{hub.url}/{name}/commit/{commit}", "commitOid": commit})


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    from huggingface_hub import constants

    fake = FakeHub()
    handler = type("Bound", (Handler,), {"hub": fake})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        fake.url = f"http://127.0.0.1:{server.server_port}"
        for variable in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("HF_ENDPOINT", fake.url)
        # Read by the library when it was imported: the token of whoever runs the tests.
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "home" / "token"))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield fake
        server.shutdown()
        thread.join()


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
    with pytest.raises(HubError, match=r"no such repository at .*/org/secret; if private, give a"):
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
        with pytest.raises(HubError, match=r"not looking on the hub, .* and no copy is cached"):
            fetch(name, revision=revision)
    assert not hub.requests
    monkeypatch.delenv("HF_HUB_OFFLINE")
    away(monkeypatch)
    assert fetch("org/x") == folder
    with pytest.raises(HubError, match=r"cannot be reached, and no copy of it is cached") as caught:
        fetch("org/y")
    assert "\n" not in str(caught.value)
    (folder / "model.safetensors").unlink()  # as a download that broke off leaves it
    with pytest.raises(HubError, match="no copy is cached"):
        fetch("org/x")


def test_a_repository_without_weights_says_so(hub: FakeHub) -> None:
    hub.repositories["org/none"] = Repository({"main": SMALL})
    with pytest.raises(HubError, match=r"org/none: has no weights .*pytorch_model.bin.*json\)$"):
        fetch("org/none")
    hub.repositories["org/tf"] = Repository({"main": {**SMALL, **UNREAD}})
    with pytest.raises(HubError, match=r"only Flax and ONNX and TensorFlow, which is not supp"):
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
        with pytest.raises(HubError, match=r"no such directory$"):
            fetch(name)
    for name in ("", "a b", "org/x--y", "none/", "x.git"):
        with pytest.raises(HubError, match="neither a directory nor a name on the hub"):
            fetch(name)
    assert not hub.requests


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    # Uploads go by the hub's own store, which the fake has not, wherever hf_xet is installed.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_bytes(SMALL["config.json"])
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "README.md").write_text("---\ntags: [x]\n---\n# A captioner\n")
    (folder / ".README.md.12.partial").write_text("left over")
    return folder


# The library's own way of putting a file, without its store.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_a_checkpoint_is_pushed_in_one_commit_and_comes_back(
    hub: FakeHub, checkpoint: Path
) -> None:
    url = push(checkpoint, "org/new", token=hub.writer, private=True, message="First")
    assert url == f"{hub.url}/org/new"
    (created,) = hub.created
    assert (created["organization"], created["name"]) == ("org", "new")
    assert created["visibility"] == "private"
    ((name, message, files),) = hub.commits
    assert (name, message) == ("org/new", "First")
    assert files == {
        file: (checkpoint / file).read_bytes()
        for file in ("README.md", "config.json", "model.safetensors")
    }
    assert list(hub.blobs.values()) == [WEIGHTS]
    np.testing.assert_array_equal(open_weights(fetch("org/new"))["w"].read(), np.arange(6))
    (checkpoint / "config.json").write_text('{"again": 1}')
    assert push(checkpoint, "new", token=hub.writer) == f"{hub.url}/me/new"
    assert push(checkpoint, "org/new", token=hub.writer) == url  # is there already
    assert hub.repositories["org/new"].revisions["main"]["config.json"] == b'{"again": 1}'


def test_what_cannot_be_pushed_is_said_in_one_line(
    hub: FakeHub, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(match: str, *args: Any, **options: Any) -> None:
        with pytest.raises(HubError, match=match) as caught:
            push(*args, **options)
        assert "\n" not in str(caught.value)

    refused(
        r"org/x: the hub does not let you write to it \(401\); give a token", checkpoint, "org/x"
    )
    refused(r"not let you write to it \(403\); give", checkpoint, "org/x", token="hf_reader")
    refused("not a name for a repository; give org/name", checkpoint, "a/b/c", token=hub.writer)
    (checkpoint / "config.json").rename(checkpoint / "other.json")
    refused("not a checkpoint; one has config.json and model.safe", checkpoint, "org/x")
    refused("not a checkpoint", tmp_path / "nowhere", "org/x")
    (checkpoint / "other.json").rename(checkpoint / "config.json")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused("while HF_HUB_OFFLINE is set", checkpoint, "org/x", token=hub.writer)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    away(monkeypatch)
    refused(r"upload broke off \(ConnectError", checkpoint, "org/x", token=hub.writer)
    assert not hub.commits and issubclass(HubError, CheckpointError)
