"""Which compiled programs are kept, and which requests share one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from captax.generation import Beam, Sample
from captax.generation.programs import NotCompiled, Programs, compiling_elsewhere


def test_programs_used_longest_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captax.generation.programs.KEPT_PROGRAMS", 2)
    programs = Programs()
    made = []

    def run(key: int) -> int:
        def make() -> Callable[..., jax.Array]:
            made.append(key)
            return lambda x: x + key

        return int(programs.run(key, make, np.ones((), np.int32)))

    for key in (1, 2, 1, 3, 1, 2):
        assert run(key) == key + 1
    assert made == [1, 2, 3, 2]
    programs.pin()
    for key in (4, 5, 6, 1, 2):
        run(key)
    assert made == [1, 2, 3, 2, 4, 5, 6]


def test_numbers_of_strategies_are_arguments() -> None:
    programs = Programs()
    made = []

    def run(strategy: Any) -> jax.Array:
        def make() -> Callable[..., jax.Array]:
            made.append(strategy)
            return lambda given: given.length_penalty + jnp.zeros(given.beams)

        return programs.run("name", make, strategy)

    for penalty in (0.5, 1.0, 2.0):
        assert (run(Beam(num_beams=2, length_penalty=penalty)) == penalty).all()
    run(Beam(num_beams=2, early_stopping="never"))
    assert len(made) == 1
    for count, temperature in ((50, 0.5), (7, 1.5), (64, 3.0)):
        run(Sample(top_k=count, temperature=temperature))
    assert len(made) == 2
    run(Sample(top_k=9, top_p=0.5).returning_all())
    run(Sample(top_k=900, min_p=0.5).returning_all())
    assert len(made) == 3


def test_what_is_compiled_elsewhere_is_kept() -> None:
    programs = Programs()
    given = "name", lambda: lambda x: 2 * x, np.ones(3)
    with compiling_elsewhere():
        with pytest.raises(NotCompiled) as missing:
            programs.run(*given)
        missing.value.compile()
        assert (programs.run(*given) == 2).all()
