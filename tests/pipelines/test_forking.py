"""A process that is forked after a model was loaded: JAX would hang in it."""

import os
import signal
import warnings
from collections.abc import Callable

import pytest

import captax
from captax.errors import CaptaxError
from captax.pipelines.captioner import Captioner
from serve.conftest import png

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def said_by_child(use: Callable[[], object]) -> str:
    """The error of `use` in a child process; the child is killed if it hangs."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that JAX does not like what is done here
        child = os.fork()
    if child == 0:
        signal.alarm(60)
        message = "nothing"
        try:
            use()
        except CaptaxError as error:
            message = str(error)
        finally:
            os.write(writing, message.encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        message = pipe.read()
    os.waitpid(child, 0)
    return message


def test_every_use_in_a_forked_child_is_refused(tiny_captioner: Captioner) -> None:
    picture = png(0)
    uses: list[Callable[[], object]] = [
        lambda: tiny_captioner.caption(picture),
        lambda: tiny_captioner.score(picture, "a red square"),
        lambda: tiny_captioner.explain(picture, "a red square"),
        captax.load,
    ]
    for use in uses:
        message = said_by_child(use)
        assert "get_context('spawn')" in message and "\n" not in message
