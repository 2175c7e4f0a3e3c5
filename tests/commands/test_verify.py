"""`cryptometer verify`: a proof that travels, checked offline with nothing but community.pub."""

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryptometer import cbor, records
from cryptometer.block_header import Header
from cryptometer.chain_records import ChainRecord
from cryptometer.community import encode_community
from cryptometer.merkle import inclusion_proof
from cryptometer.proof import encode_proof
from cryptometer.tiles import node_from_tiles
from hal.program import EXIT_CONFIGURATION
from tests.commands.outsider import COMMAND_MAX_S, ROOT, VECTORS, called, process
from tests.core.community import Village, flip, lay_out, sign_head
from tests.keys import p256_signer

PUB = VECTORS / "community.pub"
PROOF = VECTORS / "batch.tlog-proof"
TEXT = PROOF.read_text()


@pytest.fixture(scope="module")
def village() -> Village:
    made = Village(meters=2)
    made.add_meter("barn", p256_signer(3))
    made.block()
    made.run((8, 3), (4,))
    return made


def put(path: Path, text: str) -> Path:
    path.write_text(text, newline="")
    return path


# --- Proofs that hold. ---------------------------------------------------------------------------


def test_the_golden_proof_is_told_line_by_line() -> None:
    lines = process("verify", PROOF, "--community", PUB).lines
    assert lines[0] == "record                batch"
    assert "step                  1963585  begins 2026-01-01T00:15:00.000Z" in lines
    assert "lots                  12 lots, 115 pulses" in lines
    assert "                      5 pulses by 350000 ms" in lines
    assert lines[-1] == (
        "this record is leaf 12 of the ledger of Rue des Tilleuls – énergie partagée with 16"
        " leaves, root 2faf64af3e4af625561ac9fec4f1467af01bc16555029a0839b604c0afae8d2e"
    )


def test_every_leaf_can_be_proven_to_an_outsider(village: Village, tmp_path: Path) -> None:
    pub = put(tmp_path / "community.pub", encode_community(village.community()))
    for at, raw in enumerate(village.leaves):
        lines = called("verify", put(tmp_path / "p", village.prove(at)), "--community", pub).lines
        record = records.decode(raw)
        assert lines[0] == f"record                {record.body.KIND.value}"
        assert lines[1] == f"identity              {record.identity.hex()}"
        assert f"leaf {at} of the ledger of Rue des Tilleuls" in lines[-1]


# Ends the process at the first socket, program or file opened for writing (PEP 578).
GUARD = """
import os, sys
def guard(event, arguments):
    writes = event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.remove")):
        os.write(2, f"{event} {arguments}".encode())
        os._exit(99)
sys.dont_write_bytecode = True
from cryptometer.commands.main import main
from cryptometer.commands import verify
sys.addaudithook(guard)
sys.exit(main(sys.argv[1:]))
"""


def test_nothing_is_written_and_no_network_is_asked() -> None:
    command = [sys.executable, "-c", GUARD, "verify", str(PROOF), "--community", str(PUB)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=COMMAND_MAX_S, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    # The guard does guard.
    probe = GUARD.replace("sys.exit(main", "import socket; socket.socket(); sys.exit(main")
    command[2] = probe
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=COMMAND_MAX_S, check=False
    )
    assert done.returncode == 99


# --- Proofs that do not hold. --------------------------------------------------------------------


def test_a_letter_changed_anywhere_is_refused(tmp_path: Path) -> None:
    forged = tmp_path / "forged"
    for at, letter in enumerate(TEXT):
        other = "B" if letter != "B" else "C"
        put(forged, TEXT[:at] + other + TEXT[at + 1 :])
        said = called("verify", forged, "--community", PUB).refusal
        assert f": {forged}: " in said, (at, said)


def test_a_letter_more_or_less_is_refused(tmp_path: Path) -> None:
    forged = tmp_path / "forged"
    for at in range(0, len(TEXT), 13):
        for text in (TEXT[:at] + TEXT[at + 1 :], TEXT[:at] + "A" + TEXT[at:], TEXT[:at]):
            put(forged, text)
            assert called("verify", forged, "--community", PUB).refusal


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    lines = TEXT.split("\n")
    forged = tmp_path / "forged"

    def said(changed: list[str]) -> str:
        words = process("verify", put(forged, "\n".join(changed)), "--community", PUB).refusal
        return words.replace(f" {forged}:", "")

    def replaced(at: int, line: str) -> list[str]:
        return [*lines[:at], line, *lines[at + 1 :]]

    assert said(replaced(2, "index 13")).startswith("bad-proof: ")
    assert said(replaced(3, lines[4])).startswith("bad-proof: ")
    assert said(lines[:3] + lines[4:]).startswith("bad-proof: ")
    assert said(replaced(2, "index 012")) == "malformed: the proof's index or path is not one"
    assert said(replaced(0, "c2sp.org/tlog-proof@v2")) == "malformed: not a tlog-proof file"
    assert said(replaced(9, "17")).startswith("bad-signature: ")


def test_a_proof_of_another_community_is_refused(village: Village, tmp_path: Path) -> None:
    theirs = put(tmp_path / "their.pub", encode_community(village.community()))
    said = process("verify", PROOF, "--community", theirs).refusal
    assert said.startswith(f"unknown-key: {PROOF}: the note is not signed by cryptometer/1/")
    proof = put(tmp_path / "their.proof", village.prove(len(village.leaves) - 1))
    assert called("verify", proof, "--community", theirs).code == 0
    assert called("verify", proof, "--community", PUB).refusal.startswith("unknown-key: ")


def test_a_proof_of_another_ledger_of_the_same_keys_is_refused(
    village: Village, tmp_path: Path
) -> None:
    """Its checkpoint exchanged for the one an outsider expects: path and root do not meet."""
    other = Village(meters=2)
    other.add_meter("barn", p256_signer(3))
    other.block()
    other.run((8, 3), (7,))
    pub = put(tmp_path / "community.pub", encode_community(village.community()))
    at = len(other.leaves) - 2
    head, _, _ = other.prove(at).partition("\n\n")
    _, _, checkpoint = village.prove(at).partition("\n\n")
    spliced = put(tmp_path / "spliced", f"{head}\n\n{checkpoint}")
    assert called("verify", spliced, "--community", pub).refusal.startswith("bad-proof: ")


def test_a_badly_signed_record_that_really_stands_in_the_ledger_is_refused(
    village: Village, tmp_path: Path
) -> None:
    """A gateway can put anything into its tree, and prove that it is there."""
    pub = put(tmp_path / "community.pub", encode_community(village.community()))
    for at, raw in enumerate(village.leaves):
        record = records.decode(flip(raw, 8 * len(raw) - 8 * 40))  # in its signature
        leaves = [*village.leaves[:at], record.raw, *village.leaves[at + 1 :]]
        head = sign_head(leaves, village.community().origin, village.gateway)
        node = node_from_tiles(len(leaves), lay_out(leaves, head).get)
        path = inclusion_proof(at, len(leaves), node)
        carried = records_in(village.prove(at))
        registration = records.decode(carried[1]) if len(carried) > 1 else None
        proof = put(tmp_path / "p", encode_proof(record, registration, at, path, head))
        said = called("verify", proof, "--community", pub).refusal
        assert said.startswith("bad-signature: ")


def test_a_meter_s_record_is_refused_with_another_meter_s_registration(
    village: Village, tmp_path: Path
) -> None:
    pub = put(tmp_path / "community.pub", encode_community(village.community()))
    chains: dict[str, int] = {}
    for at, raw in enumerate(village.leaves):
        body = records.decode(raw).body
        if isinstance(body, ChainRecord):
            chains[body.meter] = at
    first, second = (village.prove(chains[name]) for name in ("m0", "m1"))
    one, two = (records_in(text) for text in (first, second))
    mixed = base64.b64encode(cbor.encode([one[0], two[1]])).decode()
    lines = first.split("\n")
    lines[1] = f"extra {mixed}"
    said = called("verify", put(tmp_path / "p", "\n".join(lines)), "--community", pub).refusal
    assert said.startswith("unknown-key: ")
    assert said.endswith("the registration is not that of the record's key")


def records_in(proof: str) -> list[bytes]:
    """The bytes a proof carries."""
    raws = cbor.decode(base64.b64decode(proof.split("\n")[1].removeprefix("extra ")))
    assert isinstance(raws, list)
    return [raw for raw in raws if isinstance(raw, bytes)]


# --- Files that are none. ------------------------------------------------------------------------


def test_files_that_are_absent_empty_huge_or_binary_end_with_one_line(tmp_path: Path) -> None:
    none, some = tmp_path / "none", tmp_path / "some"
    assert process("verify", none, "--community", PUB).refusal == (
        f"cannot read {none}: No such file or directory"
    )
    assert called("verify", tmp_path, "--community", PUB).refusal == (
        f"cannot read {tmp_path}: Is a directory"
    )
    for data in (b"", b"\n\n\n", b"\xff\xfe", os.urandom(4000), TEXT.encode("utf-16")):
        some.write_bytes(data)
        assert str(some) in called("verify", some, "--community", PUB).refusal
        assert str(some) in called("verify", PROOF, "--community", some).refusal
    with some.open("wb") as file:
        file.truncate(2**40)  # a hole: the disk has no such room
    assert called("verify", some, "--community", PUB).refusal.startswith("too-large: ")
    assert process("verify", "/dev/zero", "--community", PUB).refusal.startswith("too-large: ")


def test_without_a_community_there_is_nothing_to_verify_against() -> None:
    answer = process("verify", PROOF)
    assert answer.code == EXIT_CONFIGURATION
    assert "--community" in answer.err
    assert "Traceback" not in answer.err


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    at=st.floats(0, 1, exclude_max=True),
    cut=st.integers(0, 400),
    put_in=st.binary(max_size=200),
)
def test_whatever_is_done_to_a_proof_there_is_one_line_and_no_traceback(
    at: float, cut: int, put_in: bytes, tmp_path: Path
) -> None:
    data = TEXT.encode()
    begin = int(at * len(data))
    forged = data[:begin] + put_in + data[begin + cut :]
    path = tmp_path / "forged"
    path.write_bytes(forged)
    answer = called("verify", path, "--community", PUB)
    assert answer.lines if forged == data else answer.refusal


def test_a_header_is_proven_by_the_gateway_s_key(village: Village, tmp_path: Path) -> None:
    pub = put(tmp_path / "community.pub", encode_community(village.community()))
    at = len(village.leaves) - 1
    assert isinstance(records.decode(village.leaves[at]).body, Header)
    lines = called("verify", put(tmp_path / "p", village.prove(at)), "--community", pub).lines
    assert any(line.startswith("flow.registered ") for line in lines)
