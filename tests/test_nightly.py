"""Every test is run: by some target of the Makefile, and where CI takes one of a kind, by turns."""

import itertools
import re
from pathlib import Path

import pytest

from nightly import others

ROOT = Path(__file__).resolve().parents[1]
MARKS = ("slow", "data", "browser", "parity", "large", "alone")


def test_each_has_its_turn_and_its_kind_waits() -> None:
    kinds = [None, "a", "b", "a", None, "a", "b", "alone"]
    ran = [set(range(len(kinds))) - set(others(kinds, turn)) for turn in range(6)]
    assert [sorted(each) for each in ran[:3]] == [
        [0, 1, 2, 4, 7],
        [0, 3, 4, 6, 7],
        [0, 2, 4, 5, 7],
    ]
    assert set.union(*ran) == set(range(len(kinds)))


def test_the_option_takes_one_of_a_kind(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmarkers = nightly(kind): by turns")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.nightly("pages")
        @pytest.mark.parametrize("page", "abc")
        def test_page(page): pass

        @pytest.mark.nightly("pages")
        def test_book(): pass

        def test_always(): pass
        """
    )
    seen = set()
    for commit in ("10", "11", "12", "a3"):
        result = pytester.runpytest_inprocess("-p", "nightly", "-v", "--sample", commit)
        result.assert_outcomes(passed=2, deselected=3)
        [line] = [line for line in result.outlines if line.startswith("pages: ")]
        assert line.endswith(", 1 of 4")
        seen.add(line.split()[1].rstrip(","))
    assert len(seen) == 4
    pytester.runpytest_inprocess("-p", "nightly").assert_outcomes(passed=5)


def test_whatever_its_marks_some_target_runs_it_and_nightly_runs_that_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "--sample $(SAMPLE)" in makefile
    targets = dict(re.findall(r'^(\S+): .*\n(?:\t.*\n)*?\t.* -m "(.+)"$', makefile, re.M))
    [nightly] = re.findall(r"^nightly: (.*?)  ##", makefile, re.M)
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for given in itertools.product((False, True), repeat=len(MARKS)):
        marks = dict(zip(MARKS, given, strict=True))
        running = {name for name, where in targets.items() if eval(where, {}, marks)}
        assert running & set(nightly.split()), marks
        if not marks["large"]:
            assert any(f"\nmake {name}" in ci for name in running), marks
