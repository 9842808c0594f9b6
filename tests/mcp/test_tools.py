"""The tools, asked by the protocol's own client."""

import asyncio
import base64
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from captax.errors import CaptaxError
from captax.mcp import pictures
from captax.pipelines.captioner import Captioner
from captax.pipelines.loading import load
from serve.conftest import png
from vision_language_files import write

mcp = pytest.importorskip("mcp")
from captax.mcp.server import make_server  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")  # what the protocol's library warns of


def finished(work: Any) -> Any:
    """The result of a coroutine, also where a loop runs in this thread already."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def call(server: Any, tool: str, **arguments: Any) -> Any:
    """What a tool answers; a text is an error."""

    async def ask() -> Any:
        async with mcp.Client(server) as client:
            return await client.call_tool(tool, arguments)

    found = finished(ask())
    [content] = found.content
    return content.text if found.is_error else json.loads(content.text)


def names(server: Any) -> list[str]:
    async def ask() -> Any:
        async with mcp.Client(server) as client:
            return await client.list_tools()

    return [tool.name for tool in finished(ask()).tools]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "allowed" / "deep").mkdir(parents=True)
    (tmp_path / "allowed" / "deep" / "a.png").write_bytes(png(1))
    (tmp_path / "secret.png").write_bytes(png(2))
    return tmp_path


@pytest.fixture
def server(tiny_captioner: Captioner, folder: Path) -> Any:
    return make_server(tiny_captioner, None, pictures.folders_of([folder / "allowed"]))


def test_a_caption_by_path_and_in_base64(
    server: Any, tiny_captioner: Captioner, folder: Path
) -> None:
    [want] = tiny_captioner.caption([png(1)])
    by_path = call(server, "caption", path="deep/a.png")
    assert by_path["caption"] == want.text
    assert by_path["score"] == pytest.approx(want.score, abs=1e-5)
    assert call(server, "caption", path=str(folder / "allowed" / "deep" / "a.png")) == by_path
    image = base64.b64encode(png(1)).decode()
    assert call(server, "caption", image=image) == by_path
    assert call(server, "caption", image=f"data:image/png;base64,{image}") == by_path


def test_alt_and_explain(server: Any, tiny_captioner: Captioner) -> None:
    assert call(server, "alt", path="deep/a.png")["alt"][:1].isupper()
    found = call(server, "explain", path="deep/a.png", caption="a red zebra")
    assert [each["word"] for each in found["words"]][:2] == ["a", "red"]
    assert found["unknown_words"] == ["zebra"]
    want = tiny_captioner.explain(png(1), "a red zebra", quiet=True)
    for each, word in zip(found["words"], want.words, strict=True):
        assert 0 <= each["probability"] <= 1 and len(each["position"]) == 2
        assert all(0 < part < 1 for part in each["position"]), word


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({}, "either by"),
        ({"path": "a", "image": "b"}, "either by"),
        ({"image": "%%"}, "base64"),
        ({"image": base64.b64encode(b"no picture").decode()}, "picture"),
        ({"path": "../secret.png"}, "may be read"),
        ({"path": "/etc/passwd"}, "may be read"),
        ({"path": "none.png"}, "may be read"),
        ({"path": "deep"}, "may be read"),
        ({"path": "link.png"}, "may be read"),
        ({"path": "linked/secret.png"}, "may be read"),
        ({"path": "pipe"}, "may be read"),
        ({"path": "a\0b"}, "may be read"),
        ({"path": "../loop"}, "may be read"),
    ],
)
def test_what_may_not_be_read(
    server: Any, folder: Path, arguments: dict[str, Any], word: str
) -> None:
    (folder / "allowed" / "link.png").symlink_to(folder / "secret.png")
    (folder / "allowed" / "linked").symlink_to(folder)
    os.mkfifo(folder / "allowed" / "pipe")
    (folder / "loop").symlink_to(folder / "loop")
    assert word in call(server, "caption", **arguments)


def test_budgets_hold(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captax.mcp.server.MAX_PIXELS", 1000)
    assert "pixels" in call(server, "caption", path="deep/a.png")
    monkeypatch.setattr(pictures, "MOST_BYTES", 1000)
    assert "more than 1,000 bytes" in call(server, "caption", path="deep/a.png")


def test_links_inside_the_folder_are_read(server: Any, folder: Path) -> None:
    (folder / "allowed" / "same.png").symlink_to(folder / "allowed" / "deep" / "a.png")
    assert "caption" in call(server, "caption", path="same.png")


def test_folders_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(CaptaxError, match="no such folder"):
        pictures.folders_of([tmp_path / "none"])


def test_tags_need_a_model_that_writes_them(
    server: Any, tiny_captioner: Captioner, checkpoint: Callable[..., Path], folder: Path
) -> None:
    assert names(server) == ["caption", "alt", "explain"]
    tagger = load(checkpoint("tagger"))
    tagging = make_server(tiny_captioner, tagger, pictures.folders_of([folder / "allowed"]))
    assert names(tagging)[-1] == "tag"
    [want] = tagger.tag([png(1)])
    found = call(tagging, "tag", path="deep/a.png")
    assert [each["tag"] for each in found["tags"]] == [each.tag for each in want.tags]


@pytest.mark.slow
def test_a_vision_language_model_is_asked(folder: Path, tmp_path: Path) -> None:
    captioner = load(write("smolvlm", tmp_path / "smolvlm"), image_splitting=False)
    server = make_server(captioner, None, pictures.folders_of([folder / "allowed"]))
    assert "tag" in names(server)
    [want] = captioner.caption([png(1)], prompt="look red")
    assert call(server, "caption", path="deep/a.png", prompt="look red")["caption"] == want.text
    assert "meaning of its own" in call(server, "caption", path="deep/a.png", prompt="<image>")
    assert isinstance(call(server, "tag", path="deep/a.png")["tags"], list)


@pytest.mark.slow
def test_the_command(tiny_captioner: Captioner, folder: Path) -> None:
    tiny_captioner.save(folder / "model")
    command = ["-m", "captax", "mcp", "--model", str(folder / "model"), "--allow", "allowed"]

    async def ask() -> Any:
        from mcp import StdioServerParameters

        started = StdioServerParameters(
            command=sys.executable, args=command, cwd=folder, env=dict(os.environ)
        )
        async with mcp.Client(started) as client:
            listed = await client.list_tools()
            good = await client.call_tool("caption", {"path": "deep/a.png"})
            bad = await client.call_tool("caption", {"path": "../secret.png"})
            return listed, good, bad

    listed, good, bad = finished(ask())
    by_name = {tool.name: tool for tool in listed.tools}
    assert set(by_name["caption"].input_schema["properties"]) == {"path", "image", "prompt"}
    assert "alt text" in by_name["alt"].description
    [want] = tiny_captioner.caption([png(1)])
    assert json.loads(good.content[0].text)["caption"] == want.text and not good.is_error
    assert bad.is_error
