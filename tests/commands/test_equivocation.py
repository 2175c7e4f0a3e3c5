"""`cryptometer equivocation`: evidence against who signed twice, in files that travel."""

from pathlib import Path

import pytest

from cryptometer.community import encode_community
from cryptometer.records import ChainRecord, Record
from tests.commands.outsider import called, process
from tests.core.community import Village, reseal
from tests.core.test_distribution import agreed, create


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
