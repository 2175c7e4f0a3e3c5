"""`cryptometer equivocation`: evidence against who signed twice, in files that travel."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cryptometer.chain_records import ChainRecord
from cryptometer.community import encode_community
from cryptometer.records import Record
from tests.commands.outsider import called, process
from tests.core.community import Village, reseal, sign_head
from tests.core.test_distribution import agreed, create
from tests.core.test_share_file import Pieces


@pytest.fixture(name="village", scope="module")
def _village() -> Village:
    village = agreed()
    create(village, 15, 10)
    village.share()
    village.block()
    return village


@pytest.fixture(name="pub")
def _pub(village: Village, tmp_path: Path) -> Path:
    return put(tmp_path / "community.pub", encode_community(village.community()).encode())


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def newest(village: Village, kind: str) -> tuple[int, Record]:
    """The newest leaf of a kind, and its place in the ledger."""
    leaves = [record for block in village.blocks for record in block]
    return max((at, one) for at, one in enumerate(leaves) if kind == one.body.KIND)


def test_a_plant_s_two_stories_are_told_in_words(
    village: Village, pub: Path, tmp_path: Path
) -> None:
    _, first = newest(village, "distribution")
    second = reseal(first, village.vpp, fee_uwh=1)
    files = [put(tmp_path / "told-to-ana", first.raw), put(tmp_path / "told-to-bob", second.raw)]
    lines = process("equivocation", *files, "--community", pub).lines
    assert lines[0] == (
        "the virtual power plant vpp signed two different records for record 0 of its chain"
    )
    assert lines[1] == f"with key {village.vpp.public.thumbprint.hex()}:"
    assert lines[2].startswith(f"  {first.identity.hex()}  distribution")
    assert lines[3].startswith(f"  {second.identity.hex()}  distribution")
    assert lines[-1].startswith("This refutes neither of the two.")


def test_a_proof_stands_for_its_record_and_brings_the_meter_s_key(
    village: Village, pub: Path, tmp_path: Path
) -> None:
    at, first = newest(village, "step-close")
    assert isinstance(first.body, ChainRecord)
    device = next(one for one in village.devices if one.name == first.body.meter)
    second = reseal(first, device.signer, watched=())
    proven = put(tmp_path / "close.tlog-proof", village.prove(at).encode())
    other = put(tmp_path / "close", second.raw)
    for files in ((proven, other), (other, proven)):
        lines = called("equivocation", *files, "--community", pub).lines
        assert lines[0].startswith(f"the meter {device.name} signed two different records")


@pytest.mark.parametrize("damage", ["the same twice", "no record", "another key"])
def test_what_is_no_evidence_is_refused_and_the_file_or_the_cause_is_named(
    village: Village, pub: Path, tmp_path: Path, damage: str
) -> None:
    _, first = newest(village, "distribution")
    second, said = {
        "the same twice": (first.raw, "both say the same"),
        "no record": (b"nonsense", "second"),
        "another key": (reseal(first, village.gateway, fee_uwh=1).raw, "is not known as"),
    }[damage]
    files = [put(tmp_path / "first", first.raw), put(tmp_path / "second", second)]
    assert said in called("equivocation", *files, "--community", pub).refusal


# --- Two ledgers. --------------------------------------------------------------------------------


def share_of(village: Village) -> bytes:
    step = village.state.step
    return Pieces(village, step).encode()


@pytest.fixture(name="stories", scope="module")
def _stories(village: Village) -> tuple[Village, Village]:
    """The same community with two ledgers, which differ in the step before the newest."""
    told = []
    for pulses in (8, 16):
        one = agreed()
        create(one, 8, pulses)
        one.share()
        one.block()
        create(one, 8, 8)
        one.share()
        one.block()
        told.append(one)
    assert told[0].id == told[1].id == village.id
    assert len(told[0].leaves) == len(told[1].leaves)
    return told[0], told[1]


SIGNED: dict[str, Callable[[Village], bytes]] = {
    "checkpoint": lambda one: one.checkpoint().encode(),
    "proof": lambda one: one.prove(0).encode(),
    "share": share_of,
    "header": lambda one: newest(one, "header")[1].raw,
    "proof of a header": lambda one: one.prove(newest(one, "header")[0]).encode(),
}


@pytest.mark.parametrize("ours", SIGNED)
@pytest.mark.parametrize("theirs", SIGNED)
def test_two_ledgers_are_shown_by_whatever_somebody_was_given_of_each(
    stories: tuple[Village, Village], pub: Path, tmp_path: Path, ours: str, theirs: str
) -> None:
    first = put(tmp_path / "first", SIGNED[ours](stories[0]))
    second = put(tmp_path / "second", SIGNED[theirs](stories[1]))
    of_heads = {"checkpoint", "proof"}
    answer = called("equivocation", first, second, "--community", pub)
    if {ours, theirs} & of_heads and "header" in {ours, theirs}:
        assert "no evidence" in answer.refusal  # a header names the tree before it alone
        return
    lines = answer.lines
    if "header" in ours and "header" in theirs:
        assert lines[0].startswith("a gateway signed two different records for the block of step")
        return
    assert lines[0].startswith("gateways of this community signed two different ledgers of ")
    roots = {line.split()[-1] for line in lines[1:3]}
    assert len(roots) == 2


@pytest.mark.parametrize("kind", SIGNED)
def test_one_ledger_is_no_evidence(
    stories: tuple[Village, Village], pub: Path, tmp_path: Path, kind: str
) -> None:
    older = put(tmp_path / "older", SIGNED["checkpoint"](stories[0]))
    own = put(tmp_path / "own", SIGNED[kind](stories[0]))
    assert "no evidence" in called("equivocation", older, own, "--community", pub).refusal
    assert "no evidence" in called("equivocation", own, own, "--community", pub).refusal


def test_what_no_gateway_signed_is_no_evidence_and_the_file_is_named(
    stories: tuple[Village, Village], pub: Path, tmp_path: Path
) -> None:
    one, other = stories
    first = put(tmp_path / "first", SIGNED["checkpoint"](one))
    origin = one.community().origin
    second = put(tmp_path / "second", sign_head(other.leaves, origin, other.vpp).encode())
    assert "second: " in called("equivocation", first, second, "--community", pub).refusal
    header = reseal(newest(other, "header")[1], other.vpp)
    third = put(tmp_path / "third", header.raw)
    assert "third: " in called("equivocation", first, third, "--community", pub).refusal
