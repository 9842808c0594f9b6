"""Modes of tracing, which belong to the thread that sets them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import jax
import jax.numpy as jnp
import pytest

from captax.models.arithmetic import project
from captax.models.layers import run_layer
from captax.models.tracing import portable, rematerialised


def product() -> str:
    return str(jax.make_jaxpr(lambda x: project(x, jnp.ones((3, 4))))(jnp.ones((2, 4))))


def layer() -> str:
    return str(jax.make_jaxpr(lambda x: run_layer(jnp.sin, x))(jnp.ones(2)))


@pytest.mark.parametrize(("mode", "trace"), [(portable, product), (rematerialised, layer)])
def test_a_mode_holds_in_its_block_and_in_no_other_thread(
    mode: Callable[[], AbstractContextManager[None]], trace: Callable[[], str]
) -> None:
    plain = trace()
    with ThreadPoolExecutor(1) as other, mode():
        assert other.submit(trace).result() == plain
        assert trace() != plain
    assert trace() == plain


def test_modes_add_up_and_the_inner_one_may_switch_off() -> None:
    first, second = product(), layer()
    with portable(), rematerialised():
        assert product() != first and layer() != second
        with rematerialised(False):
            assert product() != first and layer() == second
        assert layer() != second
