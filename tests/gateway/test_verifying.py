"""A round's signatures on several cores: the same verdicts, in the same order."""

import threading
from collections.abc import Iterator, Sequence

import pytest

from cryptometer.chain import open_envelope
from cryptometer.errors import Reason, Rejected
from gateway import verifying
from gateway.door import Opened, verify_each
from gateway.verifying import WORTHWHILE, Verifiers
from tests.core.community import Village

PATIENCE_S = 20.0
CORES = 3


@pytest.fixture
def verifiers() -> Iterator[Verifiers]:
    made = Verifiers(CORES)
    yield made
    made.close()


def opened(count: int) -> list[Opened]:
    """So many records of a meter; each fifth refused already, each seventh under a signature that
    is another's."""
    village = Village()
    step, device = village.next_step, village.device
    records = [device.run_start(step), *(device.batch(step, 1) for _ in range(count - 1))]
    items: list[Opened] = []
    for number, record in enumerate(records):
        raw = record.raw if number % 7 else record.raw[:-64] + records[number - 1].raw[-64:]
        if number % 5:
            items.append(open_envelope(village.state, raw))
        else:
            items.append(Rejected(Reason.MALFORMED, f"message {number}"))
    return items


def said(verified: Sequence[Opened]) -> list[object]:
    return [
        (one.reason, one.detail) if isinstance(one, Rejected) else one[0].raw for one in verified
    ]


@pytest.mark.parametrize(
    "count", [1, WORTHWHILE, 2 * WORTHWHILE - 1, 2 * WORTHWHILE, 3 * WORTHWHILE + 1, 200]
)
def test_several_cores_say_what_one_says(verifiers: Verifiers, count: int) -> None:
    items = opened(count)
    told = said(verifiers(items))
    assert told == said(verify_each(items))
    bad = [number for number in range(count) if number % 7 == 0 and number % 5]
    assert all(told[number][0] is Reason.BAD_SIGNATURE for number in bad)  # type: ignore[index]


def test_all_cores_are_at_work_at_the_same_time(
    verifiers: Verifiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(CORES)

    def each(some: Sequence[Opened]) -> list[Opened]:
        together.wait(PATIENCE_S)
        return verify_each(some)

    items = opened(CORES * WORTHWHILE)
    monkeypatch.setattr(verifying, "verify_each", each)
    assert said(verifiers(items)) == said(verify_each(items))
    assert together.n_waiting == 0


def test_no_thread_is_begun_for_a_few_nor_on_one_core() -> None:
    threads = threading.active_count()
    few, alone = Verifiers(CORES), Verifiers(1)
    few(opened(2 * WORTHWHILE - 1))
    alone(opened(10 * WORTHWHILE))
    assert threading.active_count() == threads
    few(opened(2 * WORTHWHILE))
    assert threading.active_count() > threads
    few.close()
    alone.close()
    assert threading.active_count() == threads
