"""A hub on the loopback that speaks the hub's HTTP, as far as fetching and pushing need it."""

import base64
import contextlib
import dataclasses
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclasses.dataclass
class Repository:
    """Files by revision; `card` is the metadata of a dataset's README.md."""

    revisions: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)
    card: dict[str, Any] = dataclasses.field(default_factory=dict)
    gated: bool = False
    token: str | None = None  # who may read it

    @staticmethod
    def commit(files: dict[str, bytes]) -> str:
        return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()

    def find(self, revision: str) -> dict[str, bytes] | None:
        commits = {self.commit(files): files for files in self.revisions.values()}
        return self.revisions.get(revision) or commits.get(revision)


class FakeHub:
    """Repositories by name, those of datasets as `datasets/owner/name`.

    `requests` has every request as (method, path, token). `garbled` is added to what is downloaded.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.blobs: dict[str, bytes] = {}
        self.commits: list[tuple[str, str, dict[str, bytes]]] = []
        self.created: list[dict[str, Any]] = []
        self.writer = "hf_writer"
        self.down = False
        self.portal = False
        self.garbled = b""
        self.url = ""

    def downloaded(self) -> set[str]:
        return {path.rsplit("/", 1)[1] for method, path, _ in self.requests if "/resolve/" in path}


def described(path: str, content: bytes) -> dict[str, Any]:
    """A file as the hub's API lists it: what is in LFS has the SHA-256 of its content."""
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    found: dict[str, Any] = {"size": len(content), "blobId": oid}
    if path.endswith((".parquet", ".safetensors", ".tar", ".png")):
        sha256 = hashlib.sha256(content).hexdigest()
        found |= {"lfs": {"sha256": sha256, "size": len(content), "pointerSize": 131}}
    return found


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
        ref = r"(refs/convert/parquet|[^/]+)"
        ask = re.fullmatch(
            rf"/api/(?:models/)?((?:datasets/)?[^/]+/[^/]+)(?:/(revision|tree)/{ref})?", path
        )
        file = re.fullmatch(rf"/((?:datasets/)?[^/]+/[^/]+)/resolve/{ref}/(.+)", path)
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
            rows = [{"type": "file", "path": x, **described(x, y)} for x, y in files.items()]
            for row in rows:
                row["oid"] = row.pop("blobId")
                if "lfs" in row:
                    row["lfs"]["oid"] = row["lfs"].pop("sha256")
            return self.answer(rows)
        if ask:
            blobs = "blobs=" in self.path
            siblings = [
                {"rfilename": x, **(described(x, y) if blobs else {})} for x, y in files.items()
            ]
            info = {"id": name.removeprefix("datasets/"), "sha": commit, "siblings": siblings}
            return self.answer({**info, "cardData": repository.card} if repository.card else info)
        if repository.gated and repository.token != token:
            return self.fail(403 if token else 401, "GatedRepo", "Access is restricted")
        content = files[file.group(3)]
        lfs = described(file.group(3), content).get("lfs")
        etag = f'"{lfs["sha256"] if lfs else hashlib.sha1(content).hexdigest()}"'
        if garbled := self.hub.garbled:  # as long, and other bytes
            content = (garbled + content)[: len(content)]
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


@contextlib.contextmanager
def serve() -> Iterator[FakeHub]:
    """A fake hub that answers at `url` inside the block."""
    fake = FakeHub()
    handler = type("Bound", (Handler,), {"hub": fake})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        fake.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield fake
        server.shutdown()
        thread.join()
