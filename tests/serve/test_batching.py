"""The thread that owns the model: who shares a batch, who is dropped, who waits."""

import threading
from concurrent.futures import Future, wait
from typing import Any

import pytest

from captax.generation.programs import NotCompiled
from captax.pipelines import replicas
from captax.serve.batching import Batcher, QueueFull
from captax.serve.compiling import WAITING, Busy
from serve.conftest import until


class Model:
    """Gives (work, input) for each input, once it may; remembers batches."""

    def __init__(self) -> None:
        self.batches: list[tuple[Any, list[Any]]] = []
        self.entered, self.open = threading.Event(), threading.Event()
        self.open.set()

    def __call__(self, work: Any, inputs: list[Any]) -> list[Any]:
        self.entered.set()
        assert self.open.wait(30)
        self.batches.append((work, list(inputs)))
        if "bad" in inputs:
            raise ValueError("bad")
        return [(work, each) for each in inputs]

    def hold(self) -> None:
        self.entered.clear()
        self.open.clear()


@pytest.fixture
def model() -> Model:
    return Model()


def made(model: Model, **options: Any) -> Batcher:
    batcher = Batcher(model, **{"limit": 100, "sizes": (1, 4), "wait": 0.0, **options})
    batcher.start()
    return batcher


def held(batcher: Batcher, model: Model) -> Future[Any]:
    """An entry that the model is busy with until it is opened."""
    model.hold()
    (future,) = batcher.submit("first", ["x"])
    assert model.entered.wait(30)
    return future


def test_waiting_entries_of_equal_work_share_batches_in_order(model: Model) -> None:
    batcher = made(model)
    held(batcher, model)
    futures = [batcher.submit("ab"[i % 2], [i])[0] for i in range(10)]
    model.open.set()
    batcher.stop()
    assert [future.result() for future in futures] == [("ab"[i % 2], i) for i in range(10)]
    assert model.batches[1:] == [("a", [0, 2, 4, 6]), ("b", [1, 3, 5, 7]), ("a", [8]), ("b", [9])]


def test_replicas_compute_at_once() -> None:
    both, used = threading.Barrier(2, timeout=30), []

    def compute(work: Any, inputs: list[Any]) -> list[Any]:
        both.wait()  # neither ends before the other has begun
        used.append(replicas._mine.get())
        return inputs

    batcher = made(compute, replicas=2)  # type: ignore[arg-type]
    futures = [*batcher.submit("a", [1]), *batcher.submit("b", [2])]
    assert [future.result(30) for future in futures] == [1, 2]
    batcher.stop()
    assert sorted(used) == [0, 1]


def test_several_replicas_take_a_part_of_the_time(model: Model) -> None:
    one, four = (
        Batcher(model, limit=100, sizes=(1,), wait=0.0, replicas=count) for count in (1, 4)
    )
    with one.room(80), four.room(80):
        assert one.retry_after() == 4 * four.retry_after() > 4


def test_work_for_one_at_a_time_is_done_so(model: Model) -> None:
    batcher = made(model, alone=lambda work: True)
    held(batcher, model)
    batcher.submit("a", [1, 2])
    model.open.set()
    batcher.stop()
    assert model.batches[1:] == [("a", [1]), ("a", [2])]


def test_the_size_that_answers_most_a_second_is_taken(model: Model) -> None:
    batcher = made(model, sizes=(1, 8, 32))
    batcher.seconds = {1: 1.0, 8: 4.0, 32: 12.0}  # 1, 2 and 2.67 a second when full
    taken = {count: batcher._best(count) for count in (1, 3, 4, 5, 8, 12, 23, 25, 32, 50)}
    assert taken == {1: 1, 3: 1, 4: 1, 5: 5, 8: 8, 12: 8, 23: 8, 25: 25, 32: 32, 50: 32}
    batcher.stop()


def test_the_first_waits_for_those_that_are_coming(model: Model) -> None:
    coming = [True]
    batcher = made(model, wait=30.0, coming=lambda: coming[0])
    (first,) = batcher.submit("a", [1])
    assert not first.done()
    rest = batcher.submit("a", [2, 3, 4])  # full: no reason to wait
    wait([first, *rest], 30)
    assert model.batches == [("a", [1, 2, 3, 4])]
    coming[0] = False
    (alone,) = batcher.submit("a", [5])
    assert alone.result(20) == ("a", 5)
    batcher.stop()


def test_cancelled_entries_never_reach_the_model(model: Model) -> None:
    dropped: list[int] = []
    batcher = made(model, dropped=dropped.append)
    running = held(batcher, model)
    gone = batcher.submit("a", [1, 2])
    (stays,) = batcher.submit("a", [3])
    assert all(future.cancel() for future in gone)
    assert not running.cancel()
    model.open.set()
    batcher.stop()
    assert stays.result() == ("a", 3)
    assert model.batches[1:] == [("a", [3])]
    assert sum(dropped) == 2


def test_each_fails_by_its_own_fault(model: Model) -> None:
    batcher = made(model)
    held(batcher, model)
    good, bad, fine = batcher.submit("a", [1, "bad", 2])
    model.open.set()
    batcher.stop()
    assert (good.result(), fine.result()) == (("a", 1), ("a", 2))
    with pytest.raises(ValueError, match="bad"):
        bad.result()


def test_stopping_finishes_what_was_submitted(model: Model) -> None:
    coming = [False]
    batcher = made(model, wait=30.0, coming=lambda: coming[0])
    running = held(batcher, model)
    coming[0] = True  # a reason to wait, were it not for the end
    futures = batcher.submit("a", list(range(9)))
    stopping = threading.Thread(target=batcher.stop)
    stopping.start()
    model.open.set()
    stopping.join(20)
    assert not stopping.is_alive()
    assert running.done()
    assert [future.result(0) for future in futures] == [("a", i) for i in range(9)]
    with pytest.raises(RuntimeError, match="stopped"):
        batcher.submit("a", [1])


def test_room_is_bounded_and_given_back(model: Model) -> None:
    batcher = Batcher(model, limit=3, sizes=(1,), wait=0.0)
    with batcher.room(2):
        with pytest.raises(QueueFull) as full, batcher.room(2):
            pass
        assert full.value.retry_after >= 1
        with batcher.room(1):
            assert batcher.full
        assert batcher.depth == 2
    assert batcher.depth == 0


class Uncompiled(Model):
    """Has programs for the work "known" alone; compiles others once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.known: set[Any] = {("known", 1), ("known", 4)}
        self.compiled: list[Any] = []
        self.may = threading.Event()

    def __call__(self, work: Any, inputs: list[Any]) -> list[Any]:
        key = (work, 1 if len(inputs) == 1 else 4)
        if key not in self.known:

            def compile(options: Any) -> None:
                assert self.may.wait(30)
                self.compiled.append(key)
                self.known.add(key)

            raise NotCompiled(key, compile)
        return super().__call__(work, inputs)


def test_known_work_goes_on_while_other_work_is_compiled() -> None:
    model = Uncompiled()
    batcher = made(model)
    (new,) = batcher.submit("new", [1])
    assert batcher.submit("known", [2])[0].result(20) == ("known", 2)
    assert not new.done()
    model.may.set()
    assert new.result(20) == ("new", 1)
    # A program for many is compiled too, but nobody waits for it.
    many = batcher.submit("new", [1, 2, 3])
    assert [each.result(20) for each in many] == [("new", i) for i in (1, 2, 3)]
    until(lambda: ("new", 4) in model.known)
    batcher.stop()
    assert sorted(model.compiled) == [("new", 1), ("new", 4)]


def test_too_much_that_is_new_is_refused_and_who_hangs_up_leaves_the_place() -> None:
    model = Uncompiled()
    batcher = made(model)
    waiting = [batcher.submit(i, [0])[0] for i in range(WAITING)]
    with pytest.raises(Busy, match="try again in"):
        batcher.submit("more", [0])[0].result(20)
    # They are in the compiler, where a future can be cancelled no more, but they are unwanted.
    for each in waiting[1:]:
        each.cancel()
    (last,) = batcher.submit("last", [0])
    assert batcher.submit("known", [2])[0].result(20) == ("known", 2)
    assert not last.done()
    model.may.set()
    assert last.result(20) == ("last", 0)
    batcher.stop()
    assert model.compiled == [(0, 1), ("last", 1)]


def test_the_inputs_that_wait_for_programs_are_bounded() -> None:
    model = Uncompiled()
    batcher = made(model, limit=16)
    waiting = [batcher.submit("new", [i])[0] for i in range(4)]
    with pytest.raises(Busy):
        batcher.submit("new", [5])[0].result(20)
    stopping = threading.Thread(target=batcher.stop)
    stopping.start()
    model.may.set()
    stopping.join(20)
    assert [each.result(0) for each in waiting] == [("new", i) for i in range(4)]


def test_who_waits_for_a_program_that_cannot_be_compiled_gets_the_error() -> None:
    def compute(work: Any, inputs: Any) -> Any:
        def compile(options: Any) -> None:
            raise ValueError("bad")

        raise NotCompiled(work, compile)

    batcher = Batcher(compute, limit=16, sizes=(1,), wait=0.0)
    batcher.start()
    with pytest.raises(ValueError, match="bad"):
        batcher.submit("new", [1])[0].result(20)
    batcher.stop()
