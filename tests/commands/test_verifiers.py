"""Signatures verified by other processes, ahead of an audit: its verdict is the same, whatever they
say and however they end."""

import os
import signal
from collections.abc import Iterator, Sequence

import pytest

from cryptometer import records
from cryptometer.audit import Verify, audit, verify_none
from cryptometer.commands import verifiers
from cryptometer.commands.verifiers import Named, Verifiers
from cryptometer.errors import Reason, Rejected
from cryptometer.records import ChainRecord
from tests.commands.outsider import VECTORS, called
from tests.core.community import Village, flip, lay_out, sign_head
from tests.core.refusing import refusing
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


def broken(raw: bytes) -> bytes:
    """The record with a false signature."""
    return flip(raw, 8 * len(raw) - 1)


def named(raws: Sequence[bytes]) -> Iterator[Named]:
    for record in map(records.decode, raws):
        yield record, KEYS.get(record.key_id)


def by_gateway(leaves: Sequence[bytes]) -> dict[str, bytes]:
    """A ledger's files, whatever is in it, under the true gateway's signature."""
    return lay_out(leaves, sign_head(leaves, COMMUNITY.origin, VILLAGE.gateway))


def test_each_record_comes_in_its_order_with_what_its_signature_is_worth(two: Verifiers) -> None:
    raws = [LEAVES[0], *SENT[:4], broken(SENT[4]), *SENT[5:]]
    given = list(two(named(raws)))
    assert [record.raw for record, _ in given] == raws
    assert [verdict for _, verdict in given] == [at not in (0, 5) for at in range(len(raws))]


def test_what_the_stream_raises_comes_behind_all_that_came_before_it(two: Verifiers) -> None:
    def cut_off() -> Iterator[Named]:
        yield from named(SENT[:5])
        raise Rejected(Reason.MALFORMED, "cut off")

    given = []
    with refusing(Reason.MALFORMED, "cut off"):
        for record, verdict in two(cut_off()):
            given.append((record.raw, verdict))
    assert given == [(raw, True) for raw in SENT[:5]]


def test_a_ledger_that_holds_is_found_the_same_by_many(two: Verifiers) -> None:
    files = VILLAGE.files()
    assert audit(files.get, COMMUNITY, verify=two) == audit(files.get, COMMUNITY)


@pytest.mark.parametrize("at", range(len(LEAVES)))
def test_a_breach_is_the_same_one_whoever_verifies(two: Verifiers, at: int) -> None:
    raw = LEAVES[at]
    for changed in (broken(raw), flip(raw, 8 * (len(raw) - 70)), LEAVES[at - 1]):
        files = by_gateway([*LEAVES[:at], changed, *LEAVES[at + 1 :]])
        assert _breach(files, two) == _breach(files, verify_none)


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


def test_a_small_ledger_is_not_worth_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifiers, "WORTHWHILE", len(SENT))
    with Verifiers(2) as verify:
        assert [verdict for _, verdict in verify(named(SENT))] == [False] * len(SENT)
        assert verify._pool is None


def test_the_command_says_the_same_with_one_process_and_with_two() -> None:
    words = ("audit", VECTORS / "ledger", "--community", VECTORS / "community.pub", "--jobs")
    assert called(*words, "2") == called(*words, "1")
    for jobs in ("0", "-1", "1000"):
        assert called(*words, jobs).refusal.startswith("--jobs is from 1 to")
