"""The audit: a ledger that holds is rebuilt from its files; one that does not is told where.

Three adversaries: one who changes files, one who also mends the tiles' hashes, and the gateway
itself, who signs whatever it likes anew. Nobody of them has the keys of authority and devices.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from cryptometer import note, records
from cryptometer.audit import Report, audit
from cryptometer.authority_records import Registration
from cryptometer.block import Checked
from cryptometer.block_header import Balance, Flow, Header
from cryptometer.chain_records import Batch, Mark
from cryptometer.community import encode_community, trust
from cryptometer.errors import Reason, Rejected
from cryptometer.merkle import Frontier, leaf_hash
from cryptometer.readable import utc
from cryptometer.record_fields import Checkpoint, ClockReading, Role
from cryptometer.records import Record
from cryptometer.steps import ClockSource, ClockState, step_start_ms
from cryptometer.tiles import CHECKPOINT_PATH, encode_bundle
from tests.core.community import (
    FIRST_STEP,
    STEP_S,
    Authority,
    Village,
    flip,
    lay_out,
    reseal,
    sign_head,
)
from tests.core.refusing import refusing
from tests.keys import p256_signer, signer

PLACE = re.compile(r"leaf \d+|header of step \d+|tile/[a-z0-9/.]+")


def make() -> Village:
    """Three meters; blocks with authority records, late, quarantined and missing records."""
    village = Village(meters=2)
    village.add_meter("barn", p256_signer(3))
    village.block()
    village.run((8, 3), (4,))
    first = village.device
    step = village.next_step
    village.send(first.batch(step, 9), first.batch(step, 2))
    village.govern(village.authority.register(Role.MEMBER, "a", signer(30).public))
    village.govern(village.authority.register(Role.MEMBER, "b", signer(31).public))
    village.block(caught_up=True)
    village.send(first.close(step))
    village.block(clock=ClockReading(ClockSource.SYSTEM, ClockState.INFORMATIVE, 2_000))
    return village


VILLAGE = make()
COMMUNITY = VILLAGE.community()
LEAVES = VILLAGE.leaves
FILES = VILLAGE.files()
HEADERS = [at for at, raw in enumerate(LEAVES) if records.decode(raw).body.KIND == "header"]
OTHERS = [at for at in range(len(LEAVES)) if at not in HEADERS]


def head_of(leaves: Sequence[bytes]) -> Checkpoint:
    frontier = Frontier().extended(map(leaf_hash, leaves))
    return Checkpoint(frontier.size, frontier.root)


def only_entries(leaves: Sequence[bytes]) -> dict[str, bytes]:
    """Files in which the records alone were changed."""
    return FILES | {f"tile/entries/000.p/{len(LEAVES)}": encode_bundle(leaves)}


def with_hashes(leaves: Sequence[bytes]) -> dict[str, bytes]:
    """Files in which the tiles fit the records, under the old checkpoint."""
    return lay_out(leaves, FILES[CHECKPOINT_PATH].decode())


def by_gateway(leaves: Sequence[bytes]) -> dict[str, bytes]:
    """Files that the gateway has signed anew."""
    return lay_out(leaves, sign_head(leaves, COMMUNITY.origin, VILLAGE.gateway))


ADVERSARIES = [only_entries, with_hashes, by_gateway]
Adversary = Callable[[Sequence[bytes]], dict[str, bytes]]


def breach(files: dict[str, bytes], since: Checkpoint | None = None) -> Rejected:
    with pytest.raises(Rejected) as refused:
        audit(files.get, COMMUNITY, since=since)
    return refused.value


# --- A ledger that holds. ------------------------------------------------------------------------


def test_a_ledger_that_holds_is_reported_from_its_leaves() -> None:
    blocks: list[Checked] = []
    report = audit(FILES.get, COMMUNITY, watch=blocks.append)
    assert report.checkpoint == head_of(LEAVES)
    assert report.blocks == len(blocks) == len(VILLAGE.blocks) == 6
    assert report.state == VILLAGE.state
    assert report.kinds == {
        "genesis": 1, "registration": 7, "run-start": 3, "batch": 8, "step-close": 7, "header": 6,
    }  # fmt: skip
    assert report.quarantined == {"lot-above-v": 1}
    assert (report.late, report.caught_up, report.unsynchronised) == (1, 1, 1)
    # 3 meters · (11 + 4) pulses, then 2 more of the first; 9 set aside.
    assert {name: energy for name, energy in report.energy_uwh.items() if energy} == {
        "registered": 56 * 100_000, "waiting": 47 * 100_000, "quarantined": 9 * 100_000,
    }  # fmt: skip
    assert report.findings == []


def test_an_audit_reads_the_checkpoint_and_tiles_and_no_keys() -> None:
    """Keys beside the ledger, another community's, change nothing and are not even looked for."""
    asked: list[str] = []

    def read(path: str) -> bytes | None:
        asked.append(path)
        return files.get(path)

    other = encode_community(Village(name="elsewhere").community()).encode()
    files = FILES | {"community.pub": other, "keys": other, "../community.pub": other}
    assert audit(read, COMMUNITY).blocks == 6
    assert all(path == "checkpoint" or path.startswith("tile/") for path in asked)


def test_full_tiles_stand_in_for_the_partial_ones_of_an_older_checkpoint() -> None:
    """As when the ledger grows while it is read, and partial tiles are removed."""
    village = Village()
    while len(village.leaves) < 300:
        village.run((1,))
    size = sum(len(block) for block in village.blocks[:50])
    older = sign_head(village.leaves[:size], village.community().origin, village.gateway)
    files = village.files() | {CHECKPOINT_PATH: older.encode()}
    assert f"tile/0/000.p/{size}" not in files
    report = audit(files.get, village.community())
    assert (report.checkpoint.size, report.blocks) == (size, 50)


def test_what_a_device_was_shown_elsewhere_is_a_finding_and_no_breach() -> None:
    village = Village()
    true = village.state.checkpoint
    device, step = village.device, village.next_step
    village.send(device.run_start(step), device.close(step, checkpoint=true))
    village.block()
    lie = Checkpoint(true.size, bytes(32))
    village.send(device.close(step + 1, checkpoint=lie))
    village.block()
    never = Checkpoint(10**9, true.root)
    village.send(device.close(step + 2, checkpoint=never))
    village.block()
    report = audit(village.files().get, village.community())
    assert report.findings == [
        f"m0 was shown a ledger of {true.size} leaves that is not this one (step {step + 1})",
        f"m0 was shown a ledger of 1000000000 leaves that is not this one (step {step + 2})",
    ]


@pytest.mark.parametrize("is_over", [False, True])
def test_an_agreement_of_a_step_that_was_over_when_it_came_is_a_finding(is_over: bool) -> None:
    """Authority and gateway together could let a gateway stand still, and have what was produced
    meanwhile shared by an agreement of afterwards."""
    village = Village()
    village.add_members("ana")
    village.block()
    village.agree("ana")
    first = village.next_step + 1
    over_ms = step_start_ms(first + 1, STEP_S)
    village.block(sealed_ms=over_ms - (not is_over), caught_up=True)
    assert village.state.agreed(first) is not None
    report = audit(village.files().get, village.community())
    found = (
        f"the agreement from step {first} on came into the ledger when that step was over: the"
        f" block of step {first - 1} was sealed {utc(over_ms)}"
    )
    assert report.findings == ([found] if is_over else [])


def test_an_authority_that_told_another_story_outside_is_found_and_the_place_named() -> None:
    village = Village()
    place = (1, village.authority.genesis.identity)
    told = Registration(*place, Role.GATEWAY, "gw", village.gateway.public, FIRST_STEP + 1)
    other = records.seal(told, village.id, village.authority.signer)
    outside = trust(village.authority.genesis.raw, [other.raw, village.vpp_registration.raw])
    with refusing(Reason.FORK, "leaf 1:", "authority record 1"):
        audit(village.files().get, outside)
    assert audit(village.files().get, village.community()).findings == []


def test_authority_records_that_the_ledger_keeps_back_are_a_finding() -> None:
    village = Village()
    newer = village.authority.register(Role.GATEWAY, "gw", signer(20).public)
    known = [village.gateway_registration.raw, village.vpp_registration.raw, newer.raw]
    outside = trust(village.authority.genesis.raw, known)
    [finding] = audit(village.files().get, outside).findings
    assert "authority's records 4" in finding
    village.govern(newer)
    village.block()
    assert audit(village.files().get, outside).findings == []


# --- Leaves changed, removed, added, reordered. --------------------------------------------------


@pytest.mark.parametrize("adversary", ADVERSARIES)
@pytest.mark.parametrize("at", range(len(LEAVES)))
def test_a_changed_leaf_is_found_and_named(adversary: Adversary, at: int) -> None:
    raw = LEAVES[at]
    for bit in (9, 8 * 60 + 1, 8 * (len(raw) - 70), 8 * len(raw) - 1):
        found = breach(adversary([*LEAVES[:at], flip(raw, bit), *LEAVES[at + 1 :]]))
        header = records.decode(raw).body
        places = [f"leaf {at}:", f"leaf {at} "]
        if isinstance(header, Header):
            places.append(f"header of step {header.step}:")
        if adversary is with_hashes:  # which none but the gateway signs
            places = [f"root does not follow from tile/0/000.p/{len(LEAVES)}"]
        assert any(place in found.detail for place in places), found


@pytest.mark.parametrize("adversary", ADVERSARIES)
@pytest.mark.parametrize("at", range(len(LEAVES)))
def test_a_removed_leaf_is_found_and_the_place_named(adversary: Adversary, at: int) -> None:
    left = [*LEAVES[:at], *LEAVES[at + 1 :]]
    found = breach(adversary(left))
    assert PLACE.search(found.detail), found
    if adversary is by_gateway:
        # Not before the place: what stands there is still true.
        assert first_leaf(found) is None or first_leaf(found) >= min(at, len(left) - 1)  # type: ignore[operator]


def first_leaf(found: Rejected) -> int | None:
    match = re.match(r"leaf (\d+)", found.detail)
    return int(match[1]) if match else None


@pytest.mark.parametrize("adversary", ADVERSARIES)
@pytest.mark.parametrize("at", range(len(LEAVES) + 1))
def test_an_added_leaf_is_found_and_the_place_named(adversary: Adversary, at: int) -> None:
    """A copy of a true leaf, and a fresh record that the meter's device has really signed."""
    kept = vars(VILLAGE.device).copy()
    fresh = VILLAGE.device.batch(VILLAGE.state.step, 5)
    vars(VILLAGE.device).update(kept)
    for extra in (LEAVES[OTHERS[-1]], LEAVES[3], fresh.raw):
        found = breach(adversary([*LEAVES[:at], extra, *LEAVES[at:]]))
        assert PLACE.search(found.detail), found


@pytest.mark.parametrize("adversary", ADVERSARIES)
@pytest.mark.parametrize("at", range(len(LEAVES) - 1))
def test_reordered_leaves_are_found_and_the_place_named(adversary: Adversary, at: int) -> None:
    swapped = [*LEAVES[:at], LEAVES[at + 1], LEAVES[at], *LEAVES[at + 2 :]]
    found = breach(adversary(swapped))
    assert PLACE.search(found.detail), found
    place = first_leaf(found)
    assert place is None or at <= place <= at + 1


# --- The gateway against its community. ----------------------------------------------------------


def header_at(at: int) -> tuple[Record, Header]:
    record = records.decode(LEAVES[at])
    assert isinstance(record.body, Header)
    return record, record.body


TOTALS: list[tuple[str, str]] = [
    *(("flow", name) for name in Flow.__slots__),
    *(("balance", name) for name in Balance.__slots__),
]


@pytest.mark.parametrize(("name", "part"), TOTALS)
@pytest.mark.parametrize("at", HEADERS)
def test_a_total_changed_and_signed_by_the_maker_is_found(name: str, part: str, at: int) -> None:
    record, header = header_at(at)
    stated = getattr(header, name)
    wrong = replace(stated, **{part: getattr(stated, part) + 1})
    forged = reseal(record, VILLAGE.gateway, **{name: wrong})
    found = breach(by_gateway([*LEAVES[:at], forged.raw, *LEAVES[at + 1 :]]))
    assert found.reason is Reason.WRONG_TOTALS
    assert f"header of step {header.step}: {name}" in found.detail


@pytest.mark.parametrize("at", HEADERS)
def test_other_statements_of_a_header_are_recomputed_too(at: int) -> None:
    record, header = header_at(at)
    before = header.previous
    for changes in (
        {"leaves": header.leaves + 1},
        {"late": (header.late[0] + 1, header.late[1])},
        {"meters": (header.meters[0], header.meters[1] + 1)},
        {"step": header.step + 1},
        {"previous": Checkpoint(before.size, bytes(32))},
        {"sealed_ms": 0},
    ):
        forged = reseal(record, VILLAGE.gateway, **changes)
        found = breach(by_gateway([*LEAVES[:at], forged.raw, *LEAVES[at + 1 :]]))
        assert "header of step" in found.detail, changes


def test_a_header_made_anew_breaks_those_after_it() -> None:
    """`caught_up` is the maker's word; the next header names the tree with the old word in it."""
    record, header = header_at(HEADERS[2])
    forged = reseal(record, VILLAGE.gateway, caught_up=not header.caught_up)
    found = breach(by_gateway([*LEAVES[: HEADERS[2]], forged.raw, *LEAVES[HEADERS[2] + 1 :]]))
    assert found.reason is Reason.WRONG_PREVIOUS
    assert f"header of step {header.step + 1}" in found.detail


def test_quarantined_energy_cannot_be_counted_by_a_dishonest_maker() -> None:
    """The maker states a flow as if the lot above V had counted."""
    at = HEADERS[4]
    record, header = header_at(at)
    assert header.flow.quarantined == 900_000
    moved = replace(header.flow, counted=header.flow.counted + 900_000, quarantined=0)
    forged = reseal(record, VILLAGE.gateway, flow=moved)
    found = breach(by_gateway([*LEAVES[:at], forged.raw, *LEAVES[at + 1 :]]))
    assert found.reason is Reason.WRONG_TOTALS


def test_the_gateway_cannot_speak_for_a_device() -> None:
    at = next(at for at in OTHERS if isinstance(records.decode(LEAVES[at]).body, Batch))
    forged = reseal(records.decode(LEAVES[at]), VILLAGE.gateway, marks=(int(Mark.LOST), 1))
    found = breach(by_gateway([*LEAVES[:at], forged.raw, *LEAVES[at + 1 :]]))
    assert (found.reason, first_leaf(found)) == (Reason.WRONG_ROLE, at)


def test_a_skipped_step_is_found() -> None:
    village = Village()
    village.run((8,), (8,))
    kept = [*village.blocks[0], *village.blocks[2]]
    with refusing(Reason.GAP, f"leaf {len(village.blocks[0])}"):
        files = lay_out(
            [one.raw for one in kept],
            sign_head([one.raw for one in kept], village.community().origin, village.gateway),
        )
        audit(files.get, village.community())


def test_leaves_behind_the_newest_header_are_found() -> None:
    found = breach(by_gateway(LEAVES[: HEADERS[-1]]))
    assert (found.reason, first_leaf(found)) == (Reason.WRONG_ORDER, HEADERS[-2] + 1)


def test_a_record_that_is_none_is_found() -> None:
    at = OTHERS[-1]
    for raw in (b"", b"\xa0", bytes(65_535)):
        found = breach(by_gateway([*LEAVES[:at], raw, *LEAVES[at + 1 :]]))
        assert first_leaf(found) == at


# --- Keys replaced. ------------------------------------------------------------------------------


def test_a_whole_ledger_under_other_keys_is_not_this_community_s() -> None:
    """Everything rebuilt by someone who has an authority, a gateway and devices of his own."""
    other = Village(name="Rue des Tilleuls ")
    other.run((8, 3), (4,))
    found = breach(other.files())
    assert found.reason is Reason.UNKNOWN_KEY
    # Under this community's name and origin, it fails at the signature's key.
    renamed = lay_out(other.leaves, sign_head(other.leaves, COMMUNITY.origin, signer(99)))
    assert breach(renamed).reason is Reason.UNKNOWN_KEY


def test_another_ledger_under_the_true_gateway_s_checkpoint_fails_at_its_first_leaf() -> None:
    other = Village(name="elsewhere")
    found = breach(by_gateway(other.leaves))
    assert first_leaf(found) == 0
    assert found.reason is Reason.OTHER_COMMUNITY


def test_an_exchanged_gateway_key_is_found() -> None:
    """The thief registers his own gateway; he cannot sign as the authority."""
    thief = signer(90)
    body = records.decode(LEAVES[1]).body
    assert isinstance(body, Registration)
    forged = records.seal(replace(body, key=thief.public), VILLAGE.id, thief)
    found = breach(by_gateway([LEAVES[0], forged.raw, *LEAVES[2:]]))
    assert first_leaf(found) == 1


def test_the_same_ledger_fails_against_another_community() -> None:
    other = Authority(signer(1), name="elsewhere")
    gateway = other.register(Role.GATEWAY, "gw", VILLAGE.gateway.public)
    with pytest.raises(Rejected) as refused:
        audit(FILES.get, trust(other.genesis.raw, [gateway.raw]))
    assert refused.value.reason is Reason.UNKNOWN_KEY


# --- Files. --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(FILES))
def test_every_file_is_needed_and_every_bit_of_it_counts(path: str) -> None:
    missing = {name: data for name, data in FILES.items() if name != path}
    found = breach(missing)
    assert path in found.detail or found.reason is Reason.BAD_CHECKPOINT
    for bit in range(0, 8 * len(FILES[path]), 8 * len(FILES[path]) // 200):
        assert breach(FILES | {path: flip(FILES[path], bit)})


def test_a_ledger_without_a_checkpoint_is_none() -> None:
    assert breach({}).reason is Reason.BAD_CHECKPOINT


def test_a_checkpoint_of_another_root_is_found() -> None:
    head = Checkpoint(len(LEAVES), bytes(32))
    signed = note.sign_checkpoint(head, COMMUNITY.origin, VILLAGE.gateway)
    found = breach(FILES | {CHECKPOINT_PATH: signed.encode()})
    assert found.reason is Reason.BAD_PROOF
    assert found.detail == f"the checkpoint's root does not follow from tile/0/000.p/{len(LEAVES)}"


def test_a_false_upper_tile_is_found_and_named() -> None:
    village = Village()
    while len(village.leaves) < 530:
        village.run((1,))
    files = village.files()
    path = "tile/1/000.p/2"
    assert audit(files.get, village.community()).findings == []
    with refusing(Reason.BAD_PROOF, path):
        audit((files | {path: flip(files[path], 8 * 40)}).get, village.community())
    with refusing(Reason.MALFORMED, path, "missing"):
        audit({name: files[name] for name in files if name != path}.get, village.community())


def test_a_mirror_has_its_reader_take_no_record_that_the_gateway_has_not_signed() -> None:
    """It would go on for ever, with records that fit its own tiles, and no header among them."""
    asked: list[str] = []

    def mirror(path: str) -> bytes | None:
        asked.append(path)
        return files.get(path)

    files = with_hashes([LEAVES[3]] * len(LEAVES))
    with pytest.raises(Rejected, match="root does not follow"):
        audit(mirror, COMMUNITY)
    assert asked == [CHECKPOINT_PATH, f"tile/0/000.p/{len(LEAVES)}"]


# --- Since. --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(len(HEADERS) + 1))
def test_every_earlier_checkpoint_is_extended(count: int) -> None:
    size = HEADERS[count - 1] + 1 if count else 0
    report: Report = audit(FILES.get, COMMUNITY, since=head_of(LEAVES[:size]))
    assert report.blocks == len(HEADERS)


def test_a_checkpoint_of_another_history_is_not_extended() -> None:
    for wrong in (
        Checkpoint(HEADERS[1] + 1, bytes(32)),
        Checkpoint(0, bytes(32)),
        head_of(LEAVES[: HEADERS[1]]),  # no block ends there, so no checkpoint was ever signed
    ):
        found = breach(FILES, since=wrong)
        assert found.reason is Reason.BAD_CHECKPOINT
        assert f"first {wrong.size} leaves" in found.detail


def test_a_ledger_that_was_shortened_holds_alone_and_fails_against_what_was_seen() -> None:
    shorter = by_gateway(LEAVES[: HEADERS[-2] + 1])
    assert audit(shorter.get, COMMUNITY).blocks == len(HEADERS) - 1
    found = breach(shorter, since=head_of(LEAVES))
    assert found.reason is Reason.BAD_CHECKPOINT
    assert f"had {len(LEAVES)} before" in found.detail


def test_a_rewritten_history_holds_alone_and_fails_against_what_was_seen() -> None:
    """Gateway and device together make another truth: only who kept a checkpoint can tell."""
    first, second = Village(), Village()
    first.run((8,), (8,))
    second.run((8,), (3,))
    community = first.community()
    assert audit(second.files().get, community).blocks == 3
    seen = first.checked[-1].state.checkpoint
    with refusing(Reason.BAD_CHECKPOINT):
        audit(second.files().get, community, since=seen)
    assert audit(second.files().get, community, since=first.checked[1].state.checkpoint)
