"""Collections that are captioned by a server elsewhere."""

import base64
import contextlib
import hashlib
import io
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captax.pipelines import endpoint
from captax.pipelines.captioner import Captioner
from serve.conftest import address, listening

KEY = "sk-secret-key"
# What runs the tests may ignore Ctrl-C, and then so would what it starts.
HEARING = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from captax.cli.main import main; sys.exit(main())"
)


class Fake:
    """A server with OpenAI's interface, whose captions are the digests of the pictures.

    `trouble(count, body)` gives a status and an answer in the place of a caption.
    """

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.at_once = self.most = 0
        self.trouble: Callable[[int, dict[str, Any]], tuple[int, Any] | None] = lambda n, body: None
        self.models = ["a-model"]
        self.pause = 0.0
        self._lock = threading.Lock()

    def answer(self, path: str, body: dict[str, Any] | None) -> tuple[int, Any]:
        if body is None:
            return 200, {"data": [{"id": name} for name in self.models]}
        with self._lock:
            self.bodies.append(body)
            count = len(self.bodies)
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        time.sleep(self.pause)
        with self._lock:
            self.at_once -= 1
        if (trouble := self.trouble(count, body)) is not None:
            return trouble
        told = [f"picture {digest(shown(body))} {n}" for n in range(body.get("n", 1))]
        return 200, {"choices": [{"message": {"content": f" {text}\n"}} for text in told]}


def shown(body: dict[str, Any]) -> bytes:
    [part] = [p for p in body["messages"][-1]["content"] if p["type"] == "image_url"]
    head, _, content = part["image_url"]["url"].partition(",")
    assert head == "data:image/jpeg;base64"
    return base64.b64decode(content, validate=True)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:8]


@contextlib.contextmanager
def serving(fake: Fake, port: int = 0) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.told(None)

        def do_POST(self) -> None:
            size = int(self.headers["content-length"])
            self.told(json.loads(self.rfile.read(size)))

        def told(self, body: Any) -> None:
            fake.keys.add(self.headers["authorization"])
            status, content = fake.answer(self.path, body)
            if status == 0:  # hangs up
                self.connection.close()
                return
            sent = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            if status == 302:
                self.send_header("location", "http://127.0.0.1:1/")
            self.send_header("content-length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *given: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *given: Any) -> None:
            pass

    server = Server(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.setattr(endpoint, "PAUSE", 0.001)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return Fake()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for n in range(12):
        pixels = np.kron(rng.integers(0, 256, (2, 3, 3)), np.ones((20, 20, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{n:02}.png")
    (folder / "05.png").write_bytes(b"broken")
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_picture_gets_the_caption_of_its_own(
    run: Callable[..., Any], fake: Fake, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    fake.pause = 0.02
    with serving(fake) as url:
        asked = ("--endpoint", url, "--concurrency", 3, "--max-side", 30, "--out", out)
        done = run("caption", pictures, *asked, "--max-new-tokens", 9, "--temperature", 0.5,
                   "--prompt", "What?", "--system", "Be brief.", "--seed", 7,
                   "--num-return-sequences", 2)  # fmt: skip
    assert done.code == 1 and "05.png" in done.err
    records = lines(out)
    assert [Path(each["path"]).name for each in records] == [f"{n:02}.png" for n in range(12)]
    by_picture = {digest(shown(body)): body for body in fake.bodies}
    assert len(by_picture) == 11 and 1 < fake.most <= 3
    for place, record in enumerate(records):
        if "error" in record:
            assert record["path"].endswith("05.png")
            continue
        body = by_picture[record["caption"].split()[1]]
        assert record["score"] is None and len(record["alternatives"]) == 1
        image = Image.open(io.BytesIO(shown(body)))
        assert image.format == "JPEG" and image.size == (30, 20)
        original = np.asarray(Image.open(record["path"]).resize((30, 20), Image.Resampling.LANCZOS))
        assert np.abs(np.asarray(image).astype(int) - original).mean() < 12
        assert body["messages"][0] == {"role": "system", "content": "Be brief."}
        assert body["messages"][1]["content"][0]["text"] == "What?"
        fields = ("model", "max_tokens", "temperature", "seed", "n")
        told = {name: body[name] for name in fields}
        assert told == {"model": "a-model", "max_tokens": 9, "temperature": 0.5, "n": 2,
                        "seed": 7 + place}  # fmt: skip
    assert fake.keys == {f"Bearer {KEY}"}
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in kept if KEY.encode() in path.read_bytes()]
    assert KEY not in done.out + done.err


def test_a_server_that_fails_now_and_then(
    run: Callable[..., Any], fake: Fake, pictures: Path, tmp_path: Path
) -> None:
    answers = [(500, b"oh"), None, (503, {"error": {"message": "busy"}}), (0, b""), (429, {}), None]
    fake.trouble = lambda count, body: answers[count % 6]
    with serving(fake) as url:
        asked = ("--endpoint", url, "--concurrency", 1, "--out", tmp_path / "out.jsonl")
        done = run("caption", pictures, *asked)
        records = lines(tmp_path / "out.jsonl")
        failed = [each for each in records if "error" in each and "05.png" not in each["path"]]
        # What is no passing trouble costs the picture, and no other.
        assert failed and all("status 500" in each["error"] for each in failed)
        assert len(records) == 12 and done.code == 1
        fake.trouble = lambda count, body: None
        again = run("caption", pictures, *asked, "--retry-errors")
    records = lines(tmp_path / "out.jsonl")
    assert [Path(each["path"]).name for each in records if "error" in each] == ["05.png"]
    assert "11 captioned before" in again.err or "captioned" in again.err


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        ((200, b"<html>"), "no JSON"),
        ((200, {"choices": []}), "no text"),
        ((200, {"choices": [{"message": {"content": None}}]}), "no text"),
        ((200, {"answer": 1}), "no chat completion"),
        ((400, {"error": {"message": f"bad {KEY}"}}), "'bad ...'"),
        ((413, {"error": "too large"}), "too large"),
        ((400, {"error": {"message": None}}), "status 400"),
        ((400, {"error": {"message": {"a": 1}}}), "status 400"),
        ((200, {"choices": [{"message": {"content": "a" * 200_000}}]}), "100,000 characters"),
    ],
)
def test_one_bad_answer_costs_one_record(
    run: Callable[..., Any], fake: Fake, pictures: Path, answer: Any, word: str, tmp_path: Path
) -> None:
    fake.trouble = lambda count, body: answer if count == 3 else None
    with serving(fake) as url:
        run(
            "caption",
            pictures,
            "--endpoint",
            url,
            "--concurrency",
            1,
            "--out",
            tmp_path / "o.jsonl",
        )
    errors = [each for each in lines(tmp_path / "o.jsonl") if "error" in each]
    assert [Path(each["path"]).name for each in errors] == ["02.png", "05.png"]
    assert word in errors[0]["error"] and KEY not in errors[0]["error"]


def test_what_no_terminal_or_file_should_get_is_left_out(
    run: Callable[..., Any], fake: Fake, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    told = {"choices": [{"message": {"content": f"a\x1b[2J\0cat {KEY}\ufffe"}}]}
    fake.trouble = lambda count, body: (200, told)
    with serving(fake) as url:
        done = run("caption", pictures / "02.png", "--endpoint", url)
    assert done.out.endswith("02.png: a [2J cat ...\n")


@pytest.mark.parametrize("url", ["localhost:1/v1?key=hush", "http://me:hush@localhost:1/v1"])
def test_a_secret_in_an_address_is_not_repeated(url: str) -> None:
    with pytest.raises(endpoint.EndpointError, match="environment variable") as refused:
        endpoint.Endpoint(url)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(
    ("status", "word"),
    [(0, "no server answers"), (401, "API key"), (404, "--model"), (302, "redirects"),
     (429, "stays busy")],
)  # fmt: skip
def test_a_job_stops_when_the_server_is_away_and_goes_on_later(
    run: Callable[..., Any], fake: Fake, pictures: Path, status: int, word: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    fake.trouble = lambda count, body: (status, {}) if count > 6 else None
    with serving(fake) as url:
        asked = ("caption", pictures, "--endpoint", url, "--concurrency", 2, "--out", out)
        stopped = run(*asked)
        assert stopped.code not in (0, 1) and not out.exists()
        *others, last = stopped.err.strip().splitlines()
        assert word in last and all("05.png" in line for line in others)
        asked_before = {digest(shown(body)) for body in fake.bodies[:4]}
        fake.trouble = lambda count, body: None
        del fake.bodies[:]
        done = run(*asked)
    assert done.code == 1
    assert len([each for each in lines(out) if "caption" in each]) == 11
    # What is in the journal is not asked again.
    assert not asked_before & {digest(shown(body)) for body in fake.bodies}


def test_what_is_wrong_is_told_before_any_picture(
    run: Callable[..., Any], fake: Fake, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = run("caption", pictures, "--endpoint", "http://127.0.0.1:1/v1", "--model", "a")
    assert away.code != 0 and "http://127.0.0.1:1/v1: no server answers" in away.err
    fake.models = ["one", "two"]
    with serving(fake) as url:
        for options, word in (
            ((), "'one', 'two'"),
            (("--model", "one", "--num-beams", 2), "--num-beams is nothing"),
            (("--model", "one", "--min-score", "-1"), "--min-score is for captioners"),
            (("--model", "one", "--image-size", 9), "--image-size"),
            (("--model", "one", "--api-key-env", "NO_KEY"), "NO_KEY"),
        ):
            refused = run("caption", pictures, "--endpoint", url, *options)
            assert refused.code != 0 and word in refused.err, refused.err
    for url in ("ftp://a", "http://u:p@a/v1", "localhost:11434"):
        assert "address" in run("caption", pictures, "--endpoint", url).err
    assert "add --endpoint" in run("caption", pictures, "--concurrency", 2).err
    assert fake.bodies == []


def test_copies_are_asked_about_once_and_share_an_error(
    run: Callable[..., Any], fake: Fake, pictures: Path, tmp_path: Path
) -> None:
    for copy in ("06", "07"):
        (pictures / f"{copy}.png").write_bytes((pictures / "01.png").read_bytes())
    first = digest(endpoint.JpegProcessor().prepare(Image.open(pictures / "01.png")))
    fake.trouble = lambda count, body: (400, {}) if digest(shown(body)) == first else None
    with serving(fake) as url:
        asked = ("--endpoint", url, "--out", tmp_path / "o.jsonl", "--dedupe", 1)
        run("caption", pictures, *asked)
        failed = [Path(e["path"]).name for e in lines(tmp_path / "o.jsonl") if "error" in e]
        assert failed == ["01.png", "05.png", "06.png", "07.png"]
        fake.trouble = lambda count, body: None
        run("caption", pictures, *asked, "--retry-errors")
    records = {Path(e["path"]).name: e for e in lines(tmp_path / "o.jsonl")}
    assert records["06.png"]["caption"] == records["01.png"]["caption"]
    assert records["07.png"]["copy_of"].endswith("01.png")


def test_styles_sidecars_and_resuming_with_another_server_are_as_ever(
    run: Callable[..., Any], fake: Fake, pictures: Path
) -> None:
    with serving(fake) as url, serving(Fake()) as other:
        asked = ("caption", pictures, "--style", "alt", "--words", 12, "--format", "sidecar")
        run(*asked, "--endpoint", url)
        assert (pictures / "03.txt").read_text().startswith("picture ")
        text = fake.bodies[0]["messages"][0]["content"][0]["text"]
        assert "alt text" in text and "12 words" in text
        assert "endpoint" in run(*asked, "--endpoint", other).err


@pytest.mark.slow
def test_a_killed_job_loses_nothing(fake: Fake, pictures: Path, tmp_path: Path) -> None:
    fake.pause = 0.15
    out = tmp_path / "out.jsonl"
    with serving(fake) as url:
        command = [sys.executable, "-m", "captax", "caption", str(pictures), "--endpoint", url,
                   "--concurrency", "2", "--out", str(out)]  # fmt: skip
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        end = time.monotonic() + 60
        while len(fake.bodies) < 7 and time.monotonic() < end:
            time.sleep(0.01)
        process.kill()
        process.communicate()
        assert not out.exists()
        first = len(fake.bodies)
        subprocess.run(command, capture_output=True, check=False)
    assert len([each for each in lines(out) if "caption" in each]) == 11
    assert first >= 7 and len(fake.bodies) < 11 + 8  # at most what was under way is asked again


@pytest.mark.slow
def test_a_job_can_be_ended_while_the_server_says_nothing(
    fake: Fake, pictures: Path, tmp_path: Path
) -> None:
    fake.pause = 300.0
    with serving(fake) as url:
        command = [sys.executable, "-c", HEARING, "caption", str(pictures), "--endpoint", url,
                   "--concurrency", "2", "--out", str(tmp_path / "out.jsonl")]  # fmt: skip
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while len(fake.bodies) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(1)
        try:
            process.wait(60)  # the server would answer in five minutes
        finally:
            process.kill()
            process.wait()
    assert process.returncode not in (0, 1)


@pytest.mark.slow
def test_captaxs_own_server(
    run: Callable[..., Any], pictures: Path, tiny_captioner: Captioner, tmp_path: Path
) -> None:
    with listening(tiny_captioner) as server:
        url = "http://{}:{}/v1".format(*address(server))
        done = run("caption", pictures, "--endpoint", url, "--out", tmp_path / "out.jsonl")
    assert done.code == 1
    found = {
        Path(e["path"]).name: e["caption"] for e in lines(tmp_path / "out.jsonl") if "caption" in e
    }
    processor = endpoint.JpegProcessor()
    for name, caption in found.items():
        sent = processor.prepare(processor.decode(pictures / name))
        assert tiny_captioner.caption([sent])[0].text == caption
