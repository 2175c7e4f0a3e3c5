"""The loop that waits for many devices: who is woken, when, and what one's end means to others."""

import contextlib
import os
import time
from collections.abc import Iterator

import pytest

from cryptometer.steps import NS_PER_MS, NS_PER_S
from firmware.device import Wake
from firmware.loop import Loop


class Worker:
    """A device that writes down what it is asked, on a line that is an eventfd."""

    def __init__(self, name: str, diary: list[str]) -> None:
        self.name = name
        self.diary = diary
        self.line = os.eventfd(0, os.EFD_NONBLOCK)
        self.broker = os.eventfd(0, os.EFD_NONBLOCK)
        self.taken = 0
        self.rest_ns = 0
        self.due_in_ns = 10 * NS_PER_S
        self.fails_in: str | None = None

    def put(self) -> None:
        os.eventfd_write(self.line, 1)

    def look(self) -> None:
        self._write("look")
        with contextlib.suppress(BlockingIOError):
            self.taken += os.eventfd_read(self.line)

    def carry_on(self) -> None:
        self._write("carry on")
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.broker)

    def wake(self) -> Wake:
        if self.fails_in == "wake":
            raise OSError("wake")
        now_ns = time.monotonic_ns()
        return Wake(now_ns + self.due_in_ns, self.line, now_ns + self.rest_ns, self.broker)

    def close(self) -> None:
        os.close(self.line)
        os.close(self.broker)

    def _write(self, what: str) -> None:
        self.diary.append(f"{self.name}: {what}")
        if what == self.fails_in:
            raise OSError(what)


class Case:
    def __init__(self) -> None:
        self.diary: list[str] = []
        self.ends: list[tuple[str, str]] = []
        self.loop: Loop[Worker] = Loop(
            time.monotonic_ns, lambda one, error: self.ends.append((one.name, str(error)))
        )
        self.workers = [Worker(name, self.diary) for name in "abc"]
        for worker in self.workers:
            self.loop.add(worker)
        self.loop.turn()  # each works once when it comes
        assert len(self.diary) == 6
        self.diary.clear()


@pytest.fixture
def case() -> Iterator[Case]:
    case = Case()
    yield case
    for worker in case.workers:
        worker.close()


def test_only_the_device_whose_line_brings_something_works(case: Case) -> None:
    case.workers[1].put()
    assert case.loop.turn() == [case.workers[1]]
    assert case.diary == ["b: look", "b: carry on"]
    assert [worker.taken for worker in case.workers] == [0, 1, 0]


def test_a_word_from_the_broker_wakes_its_device(case: Case) -> None:
    os.eventfd_write(case.workers[2].broker, 1)
    assert case.loop.turn() == [case.workers[2]]


def test_every_line_that_is_due_is_looked_at_before_anything_slower(case: Case) -> None:
    for worker in case.workers:
        worker.put()
    case.loop.turn()
    assert sorted(case.diary[:3]) == ["a: look", "b: look", "c: look"]
    assert sorted(case.diary[3:]) == ["a: carry on", "b: carry on", "c: carry on"]


def test_a_device_works_when_it_is_due_whatever_happens(case: Case) -> None:
    worker = case.workers[0]
    worker.due_in_ns = 20 * NS_PER_MS
    worker.put()
    case.loop.turn()
    begin_ns = time.monotonic_ns()
    assert case.loop.turn() == [worker]
    assert time.monotonic_ns() - begin_ns >= 15 * NS_PER_MS


def test_a_resting_line_wakes_nobody_before_its_rest_is_over(case: Case) -> None:
    worker = case.workers[0]
    worker.rest_ns = 50 * NS_PER_MS
    worker.put()
    assert case.loop.turn() == [worker]
    begin_ns = time.monotonic_ns()
    worker.put()
    while worker.taken < 2:
        case.loop.turn()
        worker.put()  # more comes, and is taken with it
    assert time.monotonic_ns() - begin_ns >= 45 * NS_PER_MS
    assert case.diary.count("a: look") == 2


def test_a_resting_line_keeps_no_other_device_waiting(case: Case) -> None:
    resting, other = case.workers[:2]
    resting.rest_ns = 10 * NS_PER_S
    resting.put()
    case.loop.turn()
    resting.put()
    other.put()
    assert case.loop.turn() == [other]
    os.eventfd_write(resting.broker, 1)  # and a word from the broker takes the pulses along
    assert case.loop.turn() == [resting]
    assert resting.taken == 2


@pytest.mark.parametrize("where", ["look", "carry on", "wake"])
def test_one_that_fails_leaves_the_loop_and_the_others_go_on(case: Case, where: str) -> None:
    worker = case.workers[1]
    worker.fails_in = where
    for each in case.workers:
        each.put()
    worked = case.loop.turn()
    assert {each.name for each in worked} == {"a", "c"}
    assert case.ends == [("b", where)]
    assert {each.name for each in case.loop.workers} == {"a", "c"}
    case.diary.clear()
    for each in case.workers:
        each.put()
    case.loop.turn()
    assert not any(line.startswith("b") for line in case.diary)


def test_one_that_was_removed_is_not_woken_any_more(case: Case) -> None:
    case.loop.remove(case.workers[0])
    case.workers[0].put()
    case.workers[1].put()
    assert case.loop.turn() == [case.workers[1]]


def test_a_descriptor_of_the_programs_own_ends_the_wait(case: Case) -> None:
    wake = os.eventfd(1, os.EFD_NONBLOCK)
    case.loop.interrupt_by(wake)
    assert case.loop.turn() == []
    assert case.diary == []
    os.close(wake)


def test_an_empty_loop_comes_by_after_a_second() -> None:
    loop: Loop[Worker] = Loop(time.monotonic_ns, lambda _one, _error: None)
    assert loop.turn() == []
