"""`cryptometer inspect`: shows what any file of ours says, also what the others would refuse."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryptometer import cbor, records
from cryptometer.authority_records import Genesis
from cryptometer.chain_records import RunStart
from cryptometer.commands.demo.processes import COMMON, program
from cryptometer.community import encode_community
from cryptometer.enrolment import Broker, Bundle
from cryptometer.record_fields import Kind
from cryptometer.tiles import TILE_WIDTH, encode_bundle
from tests.commands.outsider import COMMAND_MAX_S, ROOT, VECTORS, called, lay, process
from tests.core.community import Village, flip, sign_head
from tests.keys import signer

LEDGER = VECTORS / "ledger"
ENTRIES = LEDGER / "tile" / "entries" / "000.p" / "16"
RECORDS = sorted((VECTORS / "records").glob("*.json"))

# One line of each kind that only this kind has, as people read it.
TOLD = {
    "acknowledgement": "stop.reason           fork",
    "agreement": "                      member=y, weight=17, priority=0",
    "agreement-pro-rata": "losses                1/100",
    "batch": "marks                 straddle=2",
    "batch-barn": "                      1 pulses by 122250 ms",
    "batch-quarantined": "lots                  1 lots, 11 pulses",
    "bundle": "broker.url            mqtts://broker.tilleuls.example:8883",
    "distribution": "                      member=x, energy_uwh=8000000000  8.000 kWh, tokens=8",
    "distribution-correction": "from_surplus_uwh      1000000000  1.000 kWh",
    "distribution-pro-rata": "losses_uwh            100000000  0.100 kWh",
    "distribution-repeated": "outputs               2",
    "distribution-supplement": "supplement            1",
    "enrolment-request": "host                  board-0007",
    "genesis": "token_uwh             5000000  0.005 kWh",
    "header": "flow.quarantined      916666  0.000916666 kWh",
    "header-1": "sealed_ms             1767226501100  2026-01-01T00:15:01.100Z",
    "re-anchor": "reason                journal lost, index read on site",
    "reading": "at_ms                 1767228298700  2026-01-01T00:44:58.700Z",
    "reading-compared": "counted               133",
    "registration": "meter.i_min_ma        250",
    "registration-barn": "meter.serial          № 5-114/é",
    "registration-gateway": "role                  gateway",
    "registration-member": "name                  house-7",
    "registration-vpp": "name                  tilleuls",
    "revocation": "last.sequence         1",
    "run-start": "unwatched_ms          1767226459500  2026-01-01T00:14:19.500Z",
    "run-start-barn": "ending                first",
    "step-close": "watched               2000 to 610000 ms, 611000 to 900000 ms",
}


def golden(name: str) -> bytes:
    stored = json.loads((VECTORS / "records" / f"{name}.json").read_bytes())
    return bytes.fromhex(stored["record"])


@pytest.fixture
def village() -> Village:
    made = Village(meters=2)
    made.run((8, 3), (4,))
    return made


# --- Records. ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_every_kind_of_record_is_told(path: Path, tmp_path: Path) -> None:
    stored = json.loads(path.read_bytes())
    file = tmp_path / "record"
    file.write_bytes(bytes.fromhex(stored["record"]))
    lines = called("inspect", file).lines
    assert lines[0] == f"record                {stored['kind']}"
    assert lines[1] == f"identity              {stored['identity']}"
    assert stored["header"]["key_id"] in lines[3]
    assert TOLD.get(path.stem, lines[0]) in lines
    # All that it says, but for what a bundle keeps secret and carries whole.
    told = "\n".join(lines)
    assert all(name in told for name, value in stored["says"].items() if value is not None), told
    [brief, *_] = called("inspect", file, "--brief").lines
    assert brief.split()[0] == stored["kind"]


def test_a_line_of_every_kind_is_asked_for() -> None:
    assert {json.loads(path.read_bytes())["kind"] for path in RECORDS} == set(Kind)
    # The example's other records are of kinds that have a line above.
    assert set(TOLD) == {path.stem for path in RECORDS if not path.stem.startswith("example-")}


def test_a_process_prints_a_record(tmp_path: Path) -> None:
    file = tmp_path / "record"
    file.write_bytes(golden("step-close"))
    assert TOLD["step-close"] in process("inspect", file).lines


def test_the_secrets_of_a_bundle_are_not_shown(tmp_path: Path) -> None:
    bundle = records.decode(golden("bundle"))
    assert isinstance(bundle.body, Bundle)
    broker = Broker("mqtts://b:8883", b"CA", "pv-roof", "a secret word", b"C" * 40, b"SECRETKEY")
    sealed = records.seal(replace(bundle.body, broker=broker), bundle.community, signer(1))
    file = tmp_path / "bundle"
    file.write_bytes(sealed.raw)
    for words in ((), ("--brief",)):
        told = process("inspect", file, *words).out
        for secret in ("secret word", "SECRETKEY", b"a secret word".hex(), b"SECRETKEY".hex()):
            assert secret not in told
    lines = called("inspect", file).lines
    assert "broker.password       (not shown)" in lines
    assert "broker.key            (not shown)" in lines
    assert "broker.certificate    40 bytes" in lines
    # What it carries follows: the genesis and the registrations.
    kinds = [line.split()[1] for line in lines if line.startswith("record  ")]
    assert kinds == ["bundle", "genesis", "registration", "registration", "registration"]


def test_a_text_that_would_command_the_terminal_is_shown_escaped(
    village: Village, tmp_path: Path
) -> None:
    place = village.device.run_start(village.next_step).body
    assert isinstance(place, RunStart)
    hostile = replace(place, software="v1\x9b2J\u202e0.1\x85")
    file = tmp_path / "record"
    file.write_bytes(records.seal(hostile, village.id, signer(10)).raw)
    assert "software              v1\\x9b2J\\u202e0.1\\x85" in called("inspect", file).lines
    genesis = village.blocks[0][0].body
    assert isinstance(genesis, Genesis)
    file.write_bytes(records.seal(replace(genesis, name="\u2066x"), None, signer(1)).raw)
    [line] = called("inspect", file, "--brief").lines
    assert line.endswith(" \\u2066x")


def test_times_no_calendar_has_are_shown_as_numbers(village: Village, tmp_path: Path) -> None:
    body = village.device.run_start(village.next_step).body
    assert isinstance(body, RunStart)
    far = replace(body, at_ms=2**50, step=2**40)
    file = tmp_path / "record"
    file.write_bytes(records.seal(far, village.id, signer(10)).raw)
    lines = called("inspect", file).lines
    assert f"at_ms                 {2**50}  {2**50} ms after 1970" in lines


# --- Files of several records. -------------------------------------------------------------------


def brief(*words: str | Path) -> list[str]:
    return [line.split()[0] for line in called("inspect", *words, "--brief").lines]


def test_a_proof_shows_its_record_and_registration() -> None:
    proof = VECTORS / "batch.tlog-proof"
    assert process("inspect", proof, "--brief").lines == [
        "batch             pv-roof sequence=1 step=1963585 lots=12 pulses=115",
        "registration      pv-roof sequence=4",
    ]


def test_community_pub_and_authority_records_show_what_the_authority_signed(
    village: Village, tmp_path: Path
) -> None:
    assert brief(VECTORS / "community.pub") == ["genesis", "registration", "registration"]
    pub = tmp_path / "community.pub"
    pub.write_text(encode_community(village.community()))
    assert brief(pub) == ["genesis", "registration", "registration"]
    chain = tmp_path / "authority.records"
    chain.write_bytes(cbor.encode([record.raw for record in village.blocks[0][:-1]]))
    assert brief(chain) == ["genesis", *["registration"] * 4]


def test_a_tile_of_entries_shows_them_in_order(village: Village, tmp_path: Path) -> None:
    assert process("inspect", ENTRIES, "--brief").lines[6:9] == [
        "header            step=1963584 leaves=6 registered_uwh=0",
        "revocation        pv-barn sequence=6",
        "re-anchor         pv-roof sequence=7",
    ]
    # A first entry so large that its length begins as an array or a record would.
    for size in (0x8180, 0x8480):
        lot = (100_000, 70_000)  # ten bytes
        one = village.device.batch(village.next_step, lots=lot)
        lots = lot * ((size - len(one.raw)) // 10)
        large = village.device.batch(village.next_step, lots=lots)
        assert len(large.raw) >> 8 == size >> 8
        file = tmp_path / "entries"
        file.write_bytes(encode_bundle([large.raw, village.leaves[0]]))
        assert brief(file) == ["batch", "genesis"]


# --- A ledger. -----------------------------------------------------------------------------------


def test_a_block_is_shown_by_its_step(tmp_path: Path, village: Village) -> None:
    lines = process("inspect", LEDGER, "--step", "1963585", "--brief").lines
    assert [line.split()[0] for line in lines] == [
        "revocation", "re-anchor", "run-start", "batch", "run-start", "batch", "batch",
        "step-close", "header",
    ]  # fmt: skip
    # In a ledger the length of a step is known: steps are shown with their times.
    lines = called("inspect", LEDGER, "--step", "1963584").lines
    assert "step                  1963584  begins 2026-01-01T00:00:00.000Z" in lines
    # The gateway's folder stands for the ledger in it; blocks across tiles are whole.
    while len(village.leaves) < TILE_WIDTH + 20:
        village.run((1,))
    lay(tmp_path / "ledger", village.files())
    at = 0
    for block, checked in zip(village.blocks, village.checked, strict=True):
        step = str(checked.state.step)
        assert len(brief(tmp_path, "--step", step)) == len(block)
        at += len(block)
    assert at > TILE_WIDTH


def test_without_its_step_or_with_a_wrong_one_the_steps_there_are_named() -> None:
    has = "the ledger has those of steps 1963584 to 1963585"
    assert process("inspect", LEDGER).refusal == f"name a block with --step; {has}"
    for step in (1, 1963586, -1):
        said = called("inspect", LEDGER, "--step", str(step)).refusal
        assert said == f"there is no block of step {step}; {has}"
    assert called("inspect", ENTRIES, "--step", "1").refusal == (
        "--step asks for a block: name the ledger's folder"
    )


def test_a_ledger_that_holds_no_more_is_shown_up_to_the_damage(
    village: Village, tmp_path: Path
) -> None:
    at = len(village.blocks[0]) + 1
    leaves = village.leaves
    forged = [*leaves[:at], flip(leaves[at], 0), *leaves[at + 1 :]]
    head = sign_head(forged, village.community().origin, village.gateway)
    files = village.files() | {"checkpoint": head.encode()}
    width = min(TILE_WIDTH, len(forged))
    path = "tile/entries/000" + ("" if width == TILE_WIDTH else f".p/{width}")
    files[path] = encode_bundle(forged[:width])
    ledger = lay(tmp_path / "ledger", files)
    first = village.checked[0].state.step
    assert called("inspect", ledger, "--step", str(first)).code == 0
    said = called("inspect", ledger, "--step", str(first + 1)).refusal
    assert f": {ledger}: leaf {at}: " in said


# --- Files that are none. ------------------------------------------------------------------------


def test_what_is_none_of_ours_is_refused_in_one_line(tmp_path: Path) -> None:
    none = "no record, proof, bundle or other file of a community"
    some = tmp_path / "some"
    for data in (
        b"{}",
        b"\x00",
        b"\xff" * 99,
        b"-----BEGIN PRIVATE KEY-----\n",
        bytes(64),
        b"\x80",
    ):
        some.write_bytes(data)
        assert called("inspect", some).refusal == f"malformed: {some}: {none}"
    some.write_bytes(b"")
    assert process("inspect", some).refusal == f"malformed: {some}: it is empty"
    assert called("inspect", LEDGER / "checkpoint").refusal.endswith("audit checks it")
    assert called("inspect", tmp_path / "x").refusal.startswith("cannot read ")
    assert called("inspect", tmp_path).refusal.startswith("there is no ledger in ")
    assert called("inspect", "/dev/zero").refusal.startswith("too-large: ")
    (tmp_path / "checkpoint").write_bytes(b"o\n4611686018427387904\nx\n\n")
    said = called("inspect", tmp_path, "--step", "1").refusal
    assert said == f"malformed: {tmp_path}: tile/entries/000 is missing"
    for data in (b"", b"a", b"o\n-1\nx\n", b"o\n\xff\nx\n"):
        (tmp_path / "checkpoint").write_bytes(data)
        assert called("inspect", tmp_path).refusal.startswith("bad-checkpoint: ")


def test_a_reader_who_has_seen_enough_is_no_failure_to_report() -> None:
    """As `| head` does: what is left to say goes nowhere."""
    command = program(COMMON, "inspect", ENTRIES)
    child = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    with child.stderr:
        said = child.stderr.read()
    assert child.wait(COMMAND_MAX_S) > 0
    assert said == b""


FORMS = [
    *(golden(path.stem) for path in RECORDS),
    (VECTORS / "community.pub").read_bytes(),
    (VECTORS / "batch.tlog-proof").read_bytes(),
    ENTRIES.read_bytes(),
    cbor.encode([golden("genesis"), golden("registration")]),
]


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    data=st.sampled_from(FORMS),
    at=st.floats(0, 1, exclude_max=True),
    cut=st.integers(0, 60),
    put_in=st.binary(max_size=60),
)
def test_whatever_is_done_to_a_file_there_is_one_line_and_no_traceback(
    data: bytes, at: float, cut: int, put_in: bytes, tmp_path: Path
) -> None:
    begin = int(at * len(data))
    path = tmp_path / "forged"
    path.write_bytes(data[:begin] + put_in + data[begin + cut :])
    answer = called("inspect", path)
    # It checks no signature: a change inside one may well be shown.
    assert answer.lines if answer.code == 0 else f": {path}: " in answer.refusal


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_refused_in_one_line(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "some"
    path.write_bytes(data)
    assert f": {path}: " in called("inspect", path).refusal
