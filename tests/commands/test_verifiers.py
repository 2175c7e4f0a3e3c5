"""Signatures verified by other processes, ahead of an audit: its verdict is the same, whatever they
say and however they end."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from cryptometer import records
from cryptometer.audit import Verify, audit, verify_none
from cryptometer.chain_records import ChainRecord
from cryptometer.commands import verifiers
from cryptometer.commands.verifiers import Named, Verifiers
from cryptometer.errors import Reason, Rejected
from tests.commands.outsider import VECTORS, called
from tests.core.community import Village, flip, lay_out, sign_head
from tests.keys import p256_signer


def make() -> Village:
    """Two meters, one of them with a P-256 key, and two steps."""
    village = Village()
    village.add_meter("barn", p256_signer(3))
    village.block()
    village.run((8, 3), (4,))
    return village


VILLAGE = make()
COMMUNITY = VILLAGE.community()
LEAVES = VILLAGE.leaves
KEYS = {device.signer.public.thumbprint: device.signer.public for device in VILLAGE.devices}
SENT = [raw for raw in LEAVES if isinstance(records.decode(raw).body, ChainRecord)]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every ledger is worth other processes, which get three records at a time."""
    monkeypatch.setattr(verifiers, "WORTHWHILE", 0)
    monkeypatch.setattr(verifiers, "CHUNK", 3)


@pytest.fixture(scope="module")
def two() -> Iterator[Verifiers]:
    with Verifiers(2) as verify:
        yield verify


@pytest.fixture(scope="module", params=[1, 2])
def any_number(request: pytest.FixtureRequest) -> Iterator[Verifiers]:
    with Verifiers(request.param) as verify:
        yield verify


def broken(raw: bytes) -> bytes:
    """The record with a false signature."""
    return flip(raw, 8 * len(raw) - 1)


def named(raws: Sequence[bytes]) -> Iterator[Named]:
    for record in map(records.decode, raws):
        yield record, KEYS.get(record.key_id)


def by_gateway(leaves: Sequence[bytes]) -> dict[str, bytes]:
    """A ledger's files, whatever is in it, under the true gateway's signature."""
    return lay_out(leaves, sign_head(leaves, COMMUNITY.origin, VILLAGE.gateway))


def test_each_record_comes_in_its_order_with_what_its_signature_is_worth(
    any_number: Verifiers,
) -> None:
    raws = [LEAVES[0], *SENT[:4], broken(SENT[4]), *SENT[5:]]
    given = list(any_number(named(raws)))
    assert [record.raw for record, _ in given] == raws
    assert [verdict for _, verdict in given] == [at not in (0, 5) for at in range(len(raws))]


@pytest.mark.parametrize("error", [Rejected(Reason.MALFORMED, "cut off"), OSError("cut off")])
def test_what_the_stream_raises_comes_behind_all_that_came_before_it(
    two: Verifiers, error: Exception
) -> None:
    def cut_off() -> Iterator[Named]:
        yield from named(SENT[:5])
        raise error

    given = two(cut_off())
    came = [next(given) for _ in range(5)]
    assert [(record.raw, verdict) for record, verdict in came] == [(raw, True) for raw in SENT[:5]]
    with pytest.raises(type(error), match="cut off"):
        next(given)


def test_a_ledger_that_holds_is_found_the_same_by_many(any_number: Verifiers) -> None:
    files = VILLAGE.files()
    assert audit(files.get, COMMUNITY, verify=any_number) == audit(files.get, COMMUNITY)


@pytest.mark.parametrize("at", range(len(LEAVES)))
def test_a_breach_is_the_same_one_whoever_verifies(any_number: Verifiers, at: int) -> None:
    raw = LEAVES[at]
    for changed in (broken(raw), flip(raw, 8 * (len(raw) - 70)), LEAVES[at - 1]):
        files = by_gateway([*LEAVES[:at], changed, *LEAVES[at + 1 :]])
        assert _breach(files, any_number) == _breach(files, verify_none)


def _breach(files: dict[str, bytes], verify: Verify) -> tuple[Reason, str]:
    with pytest.raises(Rejected) as refused:
        audit(files.get, COMMUNITY, verify=verify)
    return refused.value.reason, refused.value.detail


def test_an_audit_goes_on_with_the_keys_it_knew_before(two: Verifiers) -> None:
    earlier = len(LEAVES) - len(VILLAGE.blocks[-1])
    before = audit(by_gateway(LEAVES[:earlier]).get, COMMUNITY)
    found: list[bool] = []

    def note(stream: Iterator[Named]) -> Iterator[tuple[records.Record, bool]]:
        for record, verdict in two(stream):
            found.append(verdict)
            yield record, verdict

    files = VILLAGE.files()
    after = audit(files.get, COMMUNITY, resume=before, verify=note)
    assert after == audit(files.get, COMMUNITY)
    # All but the header, whose key is no meter's.
    assert found == [True] * (len(VILLAGE.blocks[-1]) - 1) + [False]


def test_processes_that_are_killed_leave_the_work_to_the_audit() -> None:
    files = VILLAGE.files()
    with Verifiers(2) as verify:
        list(verify(named(SENT)))
        assert verify._pool is not None
        for pid in list(verify._pool._processes):
            os.kill(pid, signal.SIGKILL)
        assert audit(files.get, COMMUNITY, verify=verify) == audit(files.get, COMMUNITY)


def test_a_task_that_a_pool_loses_as_it_breaks_is_waited_for_by_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verifiers, "LOOK_EVERY_S", 0.05)
    files = VILLAGE.files()
    with Verifiers(2) as verify:
        list(verify(named(SENT)))
        pool = verify._pool
        assert pool is not None
        submit = pool.submit

        def lose(*task: object) -> "Future[bytes]":
            monkeypatch.setattr(pool, "submit", submit)
            for pid in list(pool._processes):
                os.kill(pid, signal.SIGKILL)
            return Future()

        monkeypatch.setattr(pool, "submit", lose)
        assert audit(files.get, COMMUNITY, verify=verify) == audit(files.get, COMMUNITY)


def test_a_command_that_is_killed_leaves_no_process_behind() -> None:
    here, there = multiprocessing.Pipe()
    command = multiprocessing.get_context("spawn").Process(target=_verify_for_ever, args=(there,))
    command.start()
    there.close()  # so that one that fails is told
    started: list[int] = here.recv()
    assert all(map(_lives, started))
    command.kill()
    command.join()
    until = time.monotonic() + 30
    while any(map(_lives, started)):
        assert time.monotonic() < until
        time.sleep(0.05)


def _verify_for_ever(told: Connection) -> None:
    verifiers.WORTHWHILE = 0
    with Verifiers(2) as verify:
        list(verify(named(SENT)))
        assert verify._pool is not None
        told.send(list(verify._pool._processes))
        signal.pause()


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_few_records_of_many_bytes_are_a_task_of_their_own(
    two: Verifiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifiers, "CHUNK", 10**6)
    monkeypatch.setattr(verifiers, "CHUNK_BYTES", 1)
    read = 0

    def counted() -> Iterator[Named]:
        nonlocal read
        for one in named(LEAVES * 2):
            read += 1
            yield one

    given = two(counted())
    next(given)
    assert read == 2 * verifiers.AHEAD + 1
    assert len(list(given)) == 2 * len(LEAVES) - 1


def test_a_small_ledger_is_not_worth_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifiers, "WORTHWHILE", len(SENT))
    with Verifiers(2) as verify:
        assert [verdict for _, verdict in verify(named(SENT))] == [True] * len(SENT)
        assert verify._pool is None


def test_one_process_verifies_task_by_task_and_reads_nothing_ahead() -> None:
    read = 0

    def counted() -> Iterator[Named]:
        nonlocal read
        for one in named([LEAVES[0], SENT[0], broken(SENT[1]), *SENT[2:]]):
            read += 1
            yield one

    with Verifiers(1) as verify:
        given = verify(counted())
        assert [next(given)[1] for _ in range(3)] == [False, True, False]
        assert read == 3
        assert [verdict for _, verdict in given] == [True] * (len(SENT) - 2)
        assert verify._pool is None


def test_the_command_says_the_same_with_one_process_and_with_two() -> None:
    words = ("audit", VECTORS / "ledger", "--community", VECTORS / "community.pub", "--jobs")
    assert called(*words, "2") == called(*words, "1")
    for jobs in ("0", "-1", "1000"):
        assert called(*words, jobs).refusal.startswith("--jobs is from 1 to")
