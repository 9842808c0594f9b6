"""A terminal shows bars; a log gets plain lines, now and then."""

import io
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from captax import progress
from captax.progress import Progress, no_bars_in_logs, tell


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands at `now`."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    return clock


def run(clock: SimpleNamespace, *, shown: bool = True) -> None:
    work = Progress(2000, unit="step", label="decoder", initial=1000, shown=shown, leave=True)
    for _ in range(500):
        clock.now += 1
        work.detail = "loss 2.345"
        work.update()
    work.close()


def test_a_log_holds_lines_and_no_bar(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    run(clock)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "captax: decoder: 1,030 of 2,000 steps, about 16:10 left, loss 2.345"
    assert len(lines) == 16  # one each 30 seconds
    assert not any(mark in line for line in lines for mark in ("\r", "%|", "it/s"))


def test_a_terminal_shows_a_bar(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    run(clock)
    written = screen.getvalue()
    assert "\rdecoder: " in written and "1500/2000" in written and "loss 2.345" in written
    assert "captax:" not in written


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_what_is_not_shown_writes_nothing(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO]
) -> None:
    screen = stream()
    monkeypatch.setattr(sys, "stderr", screen)
    run(clock, shown=False)
    assert screen.getvalue() == ""


def test_items_are_counted_when_they_are_done(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    def items() -> Iterator[int]:
        for number in range(3):
            clock.now += 20
            yield number

    assert list(Progress(3, unit="picture").over(items())) == [0, 1, 2]
    assert capsys.readouterr().err == "captax: 2 of 3 pictures, about 00:20 left\n"


def test_the_first_part_does_not_count_in_the_time_that_is_left(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    """It waits for a program to be compiled."""
    work = Progress(10, unit="step")
    for seconds in (100, 5, 30):
        clock.now += seconds
        work.update()
    work.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["captax: 1 of 10 steps", "captax: 3 of 10 steps, about 02:02 left"]


def test_a_line_stays_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    tell("a\nb\x1b[2J")
    assert capsys.readouterr().out == "a\\nb\\x1b[2J\n"


def test_bars_of_other_libraries_stay_out_of_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import utils

    with no_bars_in_logs(utils):
        assert utils.are_progress_bars_disabled()
    assert not utils.are_progress_bars_disabled()
    monkeypatch.setattr(sys, "stderr", Terminal())
    with no_bars_in_logs(utils):
        assert not utils.are_progress_bars_disabled()
