"""`captax serve` before it serves: what it refuses, in one line."""

import logging.config
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from captax.serve import server


@pytest.fixture(autouse=True)
def _logging_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's log would keep the standard error of a test, which is closed after it."""
    monkeypatch.setattr(logging.config, "dictConfig", lambda config: None)


def test_a_missing_extra_is_named(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("captax.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = run("serve")
    assert result.code == 2
    assert "uvicorn" in result.err
    assert "pip install 'captax[serve]'" in result.err
    assert result.err.count("\n") == 1


def test_settings_that_do_not_go_together_are_refused(run: Callable[..., Any]) -> None:
    result = run("serve", "--queue", 2, "--max-images", 3)
    assert result.code == 2
    assert "max_images" in result.err


def test_what_cannot_be_served_is_refused(
    run: Callable[..., Any], checkpoint: Callable[[str], Path]
) -> None:
    result = run("serve", "--port", 0, "--model", checkpoint("gpt2"))
    assert result.code == 2
    assert "TextGenerator" in result.err


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "load", lambda *_, **__: pytest.fail("loaded"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("serve", "--port", port)
    assert result.code == 2 and result.err.count("\n") == 1
    assert f"127.0.0.1, port {port}: cannot be listened on" in result.err
