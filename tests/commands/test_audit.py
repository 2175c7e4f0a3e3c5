"""`cryptometer audit`: it says what a ledger holds, or that it does not hold, and where.

The rules themselves are tested in `tests.core.test_audit`; here it is what an outsider types and
reads: words, files, lines and exit codes.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryptometer import records
from cryptometer.block_header import Header
from cryptometer.chain_records import Batch
from cryptometer.community import encode_community
from cryptometer.record_fields import ClockReading
from cryptometer.sharing_records import Claim, Distribution, Method
from cryptometer.steps import ClockSource, ClockState
from cryptometer.tiles import CHECKPOINT_PATH
from hal.program import EXIT_CONFIGURATION
from tests.commands.outsider import VECTORS, called, lay, process
from tests.core.community import FIRST_STEP, Village, flip, lay_out, reseal, sign_head
from tests.keys import signer

PUB = VECTORS / "community.pub"
LEDGER = VECTORS / "ledger"
PLACE = re.compile(r"leaf \d+|header of step \d+|tile/[a-z0-9/.]+|checkpoint")


def make() -> Village:
    """Two meters and five blocks, with a late record and a lot above V."""
    village = Village(meters=2)
    village.run((8, 3), (4,))
    first, step = village.device, village.next_step
    village.send(first.batch(step, 9), first.batch(step, 2))
    village.block(caught_up=True)
    village.send(first.close(step))
    village.block(clock=ClockReading(ClockSource.SYSTEM, ClockState.INFORMATIVE, 2_000))
    return village


VILLAGE = make()
COMMUNITY = VILLAGE.community()
LEAVES = VILLAGE.leaves
FILES = VILLAGE.files()
HEADERS = [at for at, raw in enumerate(LEAVES) if isinstance(records.decode(raw).body, Header)]
BATCHES = [at for at, raw in enumerate(LEAVES) if isinstance(records.decode(raw).body, Batch)]


@pytest.fixture
def pub(tmp_path: Path) -> Path:
    """Kept from the authority, elsewhere than the ledger."""
    path = tmp_path / "kept" / "community.pub"
    path.parent.mkdir()
    path.write_text(encode_community(COMMUNITY))
    return path


def by_gateway(leaves: Sequence[bytes]) -> dict[str, bytes]:
    """Files that the gateway has signed anew: all that it can do alone."""
    return lay_out(leaves, sign_head(leaves, COMMUNITY.origin, VILLAGE.gateway))


def by_intruder(leaves: Sequence[bytes]) -> dict[str, bytes]:
    """Files that were changed by someone without any key."""
    return lay_out(leaves, FILES[CHECKPOINT_PATH].decode())


def header_at(at: int) -> tuple[records.Record, Header]:
    record = records.decode(LEAVES[at])
    assert isinstance(record.body, Header)
    return record, record.body


# --- A ledger that holds. ------------------------------------------------------------------------


def test_the_golden_ledger_is_told_line_by_line() -> None:
    assert process("audit", LEDGER, "--community", PUB).lines == [
        "Rue des Tilleuls – énergie partagée "
        " 48ac89fa57a937785b4b1da25c88700ab81279ace5f20ec5da030c2184f744ea",
        "checkpoint     16 leaves, root"
        " 2faf64af3e4af625561ac9fec4f1467af01bc16555029a0839b604c0afae8d2e",
        "blocks         2, steps 1963584 to 1963585"
        " (2026-01-01T00:00:00.000Z to 2026-01-01T00:30:00.000Z)",
        "               0 caught up, 0 without a synchronised clock",
        "leaves         3 batch, 1 genesis, 2 header, 1 re-anchor, 5 registration, 1 revocation,"
        " 2 run-start, 1 step-close",
        "late           0 records",
        "registered     0.0185 kWh",
        "  at the VPP   0.009583334 kWh",
        "  open         0.008 kWh",
        "  quarantined  0.000916666 kWh, lot-above-v 1",
        "meter pv-barn: 2 pulses, 0.008 kWh",
        "meter pv-roof: 140 pulses, 0.0105 kWh",
        "the ledger holds",
    ]


def test_programs_get_the_same_as_json() -> None:
    [line] = process("audit", LEDGER, "--community", PUB, "--json").lines
    assert json.loads(line) == {
        "community": "48ac89fa57a937785b4b1da25c88700ab81279ace5f20ec5da030c2184f744ea",
        "size": 16,
        "root": "2faf64af3e4af625561ac9fec4f1467af01bc16555029a0839b604c0afae8d2e",
        "step": 1963585,
        "blocks": 2,
        "caught_up": 0,
        "late": 0,
        "kinds": {
            "genesis": 1,
            "registration": 5,
            "revocation": 1,
            "re-anchor": 1,
            "run-start": 2,
            "batch": 3,
            "step-close": 1,
            "header": 2,
        },
        "quarantined": {"lot-above-v": 1},
        "energy_uwh": {
            "registered": 18_500_000,
            "untransferred": 8_000_000,
            "quarantined": 916_666,
            "waiting": 9_583_334,
        },
        "registers": {"pv-barn": 2, "pv-roof": 140},
        "accounts_uwh": {},
        "distributions": {},
        "distributions_set_aside": {},
        "findings": [],
    }


def test_the_gateway_s_folder_stands_for_the_ledger_in_it(tmp_path: Path, pub: Path) -> None:
    lay(tmp_path / "gateway" / "ledger", FILES)
    here = process("audit", tmp_path / "gateway", "--community", pub)
    assert here == process("audit", tmp_path / "gateway" / "ledger", "--community", pub)
    assert f"blocks         5, steps {FIRST_STEP} to {FIRST_STEP + 4}" in here.lines[2]
    assert here.lines[3].strip() == "1 caught up, 1 without a synchronised clock"
    assert here.lines[5] == "late           1 records"
    assert here.lines[9] == "  quarantined  0.0009 kWh, lot-above-v 1"
    assert here.lines[-1] == "the ledger holds"


def test_what_a_device_was_shown_elsewhere_is_noted_and_the_ledger_holds(
    tmp_path: Path,
) -> None:
    village = Village()
    true, device, step = village.state.checkpoint, village.device, village.next_step
    lie = replace(true, root=bytes(32))
    village.send(device.run_start(step), device.close(step, checkpoint=lie))
    village.block()
    pub = tmp_path / "community.pub"
    pub.write_text(encode_community(village.community()))
    lay(tmp_path / "ledger", village.files())
    lines = called("audit", tmp_path / "ledger", "--community", pub).lines
    assert lines[-2:] == [
        f"note: m0 was shown a ledger of {true.size} leaves that is not this one (step {step})",
        "the ledger holds",
    ]


def test_what_was_shared_and_what_is_proven_of_it_is_told(tmp_path: Path) -> None:
    village = Village(meters=1)
    village.add_members("ada", "bo")
    village.block()
    village.agree(Claim("ada", 3, 0), Claim("bo", 1, 0), method=Method.KEYS, losses=Fraction(1, 10))
    village.block()
    device, step = village.device, village.next_step
    village.send(device.run_start(step), device.batch(step, 8, 2), device.close(step))
    made = village.share()
    body = made[0].body
    assert isinstance(body, Distribution)
    village.block()
    village.distribute(body)  # once more: the step has had it
    village.block()
    village.agree("ada", "bo", method=Method.PRO_RATA)
    village.block()
    step = village.next_step
    village.send(device.batch(step, 8, 2), device.close(step))
    village.share({step: {"ada": 10**5, "bo": 10**5}})
    village.block()
    pub = tmp_path / "community.pub"
    pub.write_text(encode_community(village.community()))
    lay(tmp_path / "ledger", village.files())
    lines = called("audit", tmp_path / "ledger", "--community", pub).lines
    assert "  members      0.0011 kWh" in lines
    assert "  losses       0.0001 kWh" in lines
    assert "  fees         0.000 kWh" in lines
    assert "  surplus      0.0008 kWh" in lines
    at = lines.index(
        "distributions  the sums of 2 are proven; the rule was recomputed of 1, not of 1"
    )
    assert lines[at + 1].strip() == "set aside, and nothing moved, repeat 1"
    assert "  quarantined  0.000 kWh" in lines
    assert lines[-3:] == ["member ada: 0.000775 kWh", "member bo: 0.000325 kWh", "the ledger holds"]
    [line] = called("audit", tmp_path / "ledger", "--community", pub, "--json").lines
    values = json.loads(line)
    assert values["accounts_uwh"] == {"ada": 775_000, "bo": 325_000}
    assert values["distributions"] == {"recomputed": 1, "sums-only": 1}
    assert values["distributions_set_aside"] == {"repeat": 1}


def test_a_name_that_would_command_the_terminal_is_shown_escaped(tmp_path: Path) -> None:
    """A next-line, a CSI of eight bits, and a mark that turns the writing round."""
    village = Village(name="Rue\x85\x9b2J\u202eeslaf")
    pub = tmp_path / "community.pub"
    pub.write_text(encode_community(village.community()))
    lay(tmp_path / "ledger", village.files())
    lines = called("audit", tmp_path / "ledger", "--community", pub).lines
    assert lines[0].startswith("Rue\\x85\\x9b2J\\u202eeslaf  ")


def test_a_terminal_without_the_letters_of_a_name_gets_their_codes() -> None:
    for encoding in ("ascii", "latin-1"):
        lines = process("audit", LEDGER, "--community", PUB, encoding=encoding).lines
        assert lines[0].startswith("Rue des Tilleuls \\u2013 ")


# --- Someone changes leaves. ---------------------------------------------------------------------


@pytest.mark.parametrize("adversary", [by_intruder, by_gateway])
@pytest.mark.parametrize("at", range(len(LEAVES)))
def test_a_leaf_changed_removed_added_or_moved_is_found_and_named(
    adversary: Callable[[Sequence[bytes]], dict[str, bytes]], at: int, tmp_path: Path, pub: Path
) -> None:
    raw = LEAVES[at]
    changed = [*LEAVES[:at], flip(raw, 8 * (len(raw) - 70)), *LEAVES[at + 1 :]]
    removed = [*LEAVES[:at], *LEAVES[at + 1 :]]
    added = [*LEAVES[:at], LEAVES[BATCHES[0]], *LEAVES[at:]]
    ahead = min(at, len(LEAVES) - 2)
    moved = [*LEAVES[:ahead], LEAVES[ahead + 1], LEAVES[ahead], *LEAVES[ahead + 2 :]]
    for leaves in (changed, removed, added, moved):
        lay(tmp_path / "ledger", adversary(leaves))
        said = called("audit", tmp_path / "ledger", "--community", pub).refusal
        assert PLACE.search(said), said
        place = re.search(r"leaf (\d+)", said)
        # What stands before the place is still true, and is not blamed.
        assert place is None or int(place[1]) >= min(at, ahead, len(leaves) - 1), said
        if leaves is changed and adversary is by_intruder:
            # No tile of his is the gateway's, whose key he lacks: they are not believed either.
            assert said.endswith(f"does not follow from tile/0/000.p/{len(LEAVES)}"), said
        elif leaves is changed:
            step = getattr(records.decode(raw).body, "step", None)
            named = f"header of step {step}:" if at in HEADERS else f"leaf {at}:"
            assert named in said or f"leaf {at}:" in said, said


def test_a_process_names_the_changed_leaf_and_exits_with_2(tmp_path: Path, pub: Path) -> None:
    at = BATCHES[0]
    [entries] = [name for name in FILES if name.startswith("tile/entries/")]
    begin = FILES[entries].index(LEAVES[at])
    forged = flip(FILES[entries], 8 * (begin + len(LEAVES[at]) // 2))
    lay(tmp_path / "ledger", FILES | {entries: forged})
    said = process("audit", tmp_path / "ledger", "--community", pub).refusal
    assert said == f"bad-proof: leaf {at} is not the one its tile holds"
    lay(tmp_path / "ledger", by_gateway([*LEAVES[:at], flip(LEAVES[at], 8), *LEAVES[at + 1 :]]))
    assert f"leaf {at}: " in process("audit", tmp_path / "ledger", "--community", pub).refusal


def test_a_total_changed_and_signed_by_the_gateway_is_named(tmp_path: Path, pub: Path) -> None:
    for at, part, amount in (
        (HEADERS[1], "flow", "counted"),
        (HEADERS[2], "balance", "waiting"),
        (HEADERS[3], "flow", "registered"),
        (HEADERS[4], "balance", "quarantined"),
    ):
        record, header = header_at(at)
        stated = getattr(header, part)
        wrong = replace(stated, **{amount: getattr(stated, amount) + 1})
        forged = reseal(record, VILLAGE.gateway, **{part: wrong})
        lay(tmp_path / "ledger", by_gateway([*LEAVES[:at], forged.raw, *LEAVES[at + 1 :]]))
        said = process("audit", tmp_path / "ledger", "--community", pub).refusal
        assert said.startswith(f"wrong-totals: header of step {header.step}: {part}"), said


# --- Someone changes keys. -----------------------------------------------------------------------


def test_keys_replaced_beside_the_ledger_prove_nothing(tmp_path: Path, pub: Path) -> None:
    """A whole forgery, with an authority of its own: it holds only against its own keys."""
    forgery = Village(meters=2, name=COMMUNITY.parameters.name + " ")
    forgery.run((8, 3), (4,))
    ledger = lay(tmp_path / "gateway" / "ledger", forgery.files())
    beside = tmp_path / "gateway" / "community.pub"
    beside.write_text(encode_community(forgery.community()))
    assert process("audit", ledger, "--community", beside).lines[-1] == "the ledger holds"
    said = process("audit", ledger, "--community", pub).refusal
    assert said == f"unknown-key: checkpoint: the note is not signed by {COMMUNITY.origin}"
    # Not read, either, when it is there for whoever forgets the option.
    assert process("audit", ledger).code == EXIT_CONFIGURATION


def test_another_gateway_s_key_under_this_community_s_name_is_refused(
    tmp_path: Path, pub: Path
) -> None:
    theirs = lay_out(LEAVES, sign_head(LEAVES, COMMUNITY.origin, signer(99)))
    ledger = lay(tmp_path / "ledger", theirs)
    said = called("audit", ledger, "--community", pub).refusal
    assert said.startswith("unknown-key: checkpoint: ")


def test_every_letter_of_a_community_pub_between_its_marks_counts(tmp_path: Path) -> None:
    text = PUB.read_text()
    begin, end = text.index("COMMUNITY-----\n") + 15, text.index("\n-----END")
    forged = tmp_path / "community.pub"
    for at in [at for at in range(begin, end) if text[at].isalnum()][::7]:
        letter = "A" if text[at] != "A" else "B"
        forged.write_text(text[:at] + letter + text[at + 1 :])
        said = called("audit", LEDGER, "--community", forged).refusal
        assert f"{forged}: " in said or "unknown-key: checkpoint: " in said, (at, said)


# --- A checkpoint kept from an earlier visit. ----------------------------------------------------


def kept_at(village: Village, blocks: int) -> bytes:
    """The checkpoint after so many blocks."""
    leaves = [record.raw for block in village.blocks[:blocks] for record in block]
    return sign_head(leaves, village.community().origin, village.gateway).encode()


def test_a_ledger_that_grew_extends_the_checkpoint_kept(tmp_path: Path, pub: Path) -> None:
    ledger, kept = lay(tmp_path / "ledger", FILES), tmp_path / "kept.checkpoint"
    for blocks in range(1, len(VILLAGE.blocks) + 1):
        kept.write_bytes(kept_at(VILLAGE, blocks))
        lines = called("audit", ledger, "--community", pub, "--since", kept).lines
        assert lines[-1] == "the ledger holds"
    assert process("audit", ledger, "--community", pub, "--since", kept).code == 0


def test_a_shortened_ledger_is_refused_by_who_kept_a_checkpoint(tmp_path: Path, pub: Path) -> None:
    kept = tmp_path / "kept.checkpoint"
    kept.write_bytes(kept_at(VILLAGE, 5))
    ledger = lay(tmp_path / "ledger", by_gateway(LEAVES[: HEADERS[-2] + 1]))
    assert called("audit", ledger, "--community", pub).code == 0
    said = process("audit", ledger, "--community", pub, "--since", kept).refusal
    assert said == (
        f"bad-checkpoint: the ledger has {HEADERS[-2] + 1} leaves and had {len(LEAVES)} before"
    )


def test_a_forked_ledger_is_refused_by_who_kept_a_checkpoint(tmp_path: Path) -> None:
    """Gateway and device together tell another past; each of the two holds alone."""
    seen, shown = Village(), Village()
    seen.run((8,), (8,))
    shown.run((8,), (3,), (4,))
    pub, kept = tmp_path / "community.pub", tmp_path / "kept.checkpoint"
    pub.write_text(encode_community(seen.community()))
    ledger = lay(tmp_path / "ledger", shown.files())
    kept.write_bytes(kept_at(seen, 3))
    assert called("audit", ledger, "--community", pub).code == 0
    said = process("audit", ledger, "--community", pub, "--since", kept).refusal
    assert said == (
        f"bad-checkpoint: the first {len(seen.leaves)} leaves are not those seen before"
    )
    kept.write_bytes(kept_at(seen, 2))  # from before the fork
    assert process("audit", ledger, "--community", pub, "--since", kept).code == 0


def test_what_is_no_checkpoint_of_this_community_is_named(tmp_path: Path, pub: Path) -> None:
    ledger, kept = lay(tmp_path / "ledger", FILES), tmp_path / "kept.checkpoint"
    own = FILES[CHECKPOINT_PATH]
    foreign = kept_at(Village(name="elsewhere"), 1)
    for data in (b"", b"\x00\xff", own[:-9], own.replace(b"\n", b"\r\n"), foreign):
        kept.write_bytes(data)
        said = called("audit", ledger, "--community", pub, "--since", kept).refusal
        assert f": {kept}: " in said, said
    said = called("audit", ledger, "--community", pub, "--since", tmp_path / "none").refusal
    assert said == f"cannot read {tmp_path / 'none'}: No such file or directory"


# --- Files that are none. ------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(FILES))
def test_a_missing_file_is_named(path: str, tmp_path: Path, pub: Path) -> None:
    ledger = lay(tmp_path / "ledger", {name: FILES[name] for name in FILES if name != path})
    assert path in called("audit", ledger, "--community", pub).refusal


def test_files_that_are_absent_empty_huge_or_no_files_end_with_one_line(
    tmp_path: Path, pub: Path
) -> None:
    assert called("audit", tmp_path / "none", "--community", pub).refusal == (
        f"there is no ledger in {tmp_path / 'none'}: it has no file 'checkpoint'; before the first"
        " block cryptometer-gateway status says when that is due"
    )
    assert called("audit", LEDGER, "--community", tmp_path / "none").refusal == (
        f"cannot read {tmp_path / 'none'}: No such file or directory"
    )
    assert called("audit", LEDGER, "--community", tmp_path).refusal == (
        f"cannot read {tmp_path}: Is a directory"
    )
    ledger = lay(tmp_path / "ledger", FILES)
    for path in FILES:
        place = ledger / path
        for data in (b"", b"\x00", os.urandom(500), b"\xff" * 2000):
            place.write_bytes(data)
            assert PLACE.search(called("audit", ledger, "--community", pub).refusal)
        with place.open("wb") as file:
            file.truncate(2**40)  # a hole: the disk has no such room
        said = called("audit", ledger, "--community", pub).refusal
        assert said.startswith(f"too-large: {place} has more than ")
        place.unlink()
        # Neither read for ever nor waited for.
        place.symlink_to("/dev/zero")
        assert path in called("audit", ledger, "--community", pub).refusal
        place.unlink()
        os.mkfifo(place)
        assert path in process("audit", ledger, "--community", pub).refusal
        place.unlink()
        place.write_bytes(FILES[path])
    assert called("audit", ledger, "--community", pub).code == 0
    huge = tmp_path / "huge.pub"
    with huge.open("wb") as file:
        file.truncate(2**40)
    assert str(huge) in called("audit", ledger, "--community", huge).refusal


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    path=st.sampled_from(sorted(FILES)),
    at=st.floats(0, 1, exclude_max=True),
    cut=st.integers(0, 80),
    put=st.binary(max_size=80),
)
def test_whatever_is_done_to_a_file_there_is_one_line_and_no_traceback(
    path: str, at: float, cut: int, put: bytes, tmp_path: Path, pub: Path
) -> None:
    data = FILES[path]
    begin = int(at * len(data))
    forged = data[:begin] + put + data[begin + cut :]
    ledger = lay(tmp_path / "ledger", FILES | {path: forged})
    answer = called("audit", ledger, "--community", pub)
    if forged == data:
        assert answer.lines[-1] == "the ledger holds"
    else:
        assert PLACE.search(answer.refusal)
