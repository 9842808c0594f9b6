"""Which compiled programs are kept."""

from collections.abc import Callable

import pytest

from captax.generation.programs import Programs


def test_programs_used_longest_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captax.generation.programs.KEPT_PROGRAMS", 2)
    programs = Programs()
    made = []

    def get(key: int) -> Callable[[], int]:
        def make() -> Callable[[], int]:
            made.append(key)
            return lambda: key

        return programs.get(key, make)

    for key in (1, 2, 1, 3, 1, 2):
        assert get(key)() == key
    assert made == [1, 2, 3, 2]
