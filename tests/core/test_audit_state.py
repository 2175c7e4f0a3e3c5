"""An audit that goes on where the last one ended: the same findings, only the new tiles read."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer import cbor, records
from cryptometer.audit import Report, audit
from cryptometer.audit_state import decode_report, encode_report
from cryptometer.authority_records import Registration
from cryptometer.block import Checked
from cryptometer.community import Community, trust
from cryptometer.errors import Reason, Rejected
from cryptometer.record_fields import Checkpoint, Role
from cryptometer.tiles import CHECKPOINT_PATH, Tile
from tests.core.community import FIRST_STEP, Village, flip, lay_out, reseal, sign_head
from tests.core.refusing import refusing
from tests.keys import signer


def make(leaves: int) -> Village:
    """Two meters, one of which is now and then late, quarantined, or shown another ledger."""
    village = Village(meters=2)
    village.run((8, 3), (4,))
    first = village.device
    while len(village.leaves) < leaves:
        step = village.next_step
        village.send(first.batch(step, 9), first.batch(step, 2))
        if step % 5 == 0:
            village.govern(village.authority.register(Role.MEMBER, f"a{step}", signer(step).public))
        village.block(caught_up=step % 3 == 0)
        shown = Checkpoint(village.state.checkpoint.size, bytes(32)) if step % 2 else None
        village.send(first.close(step, checkpoint=shown))
    village.block()
    return village


VILLAGE = make(560)  # two full tiles, so that level 1 is partial
COMMUNITY = VILLAGE.community()
LEAVES = VILLAGE.leaves
FILES = VILLAGE.files()
ENDS = [checked.state.frontier.size for checked in VILLAGE.checked]


def files_at(
    size: int, leaves: list[bytes] = LEAVES, community: Community = COMMUNITY
) -> dict[str, bytes]:
    """The ledger as it was with so many leaves."""
    known = leaves[:size]
    return lay_out(known, sign_head(known, community.origin, VILLAGE.gateway))


def kept(size: int) -> Report:
    """What an audit of that time kept."""
    return decode_report(encode_report(audit(files_at(size).get, COMMUNITY)), COMMUNITY)


WHOLE = audit(FILES.get, COMMUNITY)
LATE = kept(ENDS[-4])
KEPT = encode_report(LATE)


def breach(files: dict[str, bytes], resume: Report, community: Community = COMMUNITY) -> Rejected:
    with pytest.raises(Rejected) as refused:
        audit(files.get, community, resume=resume)
    return refused.value


@pytest.mark.parametrize("size", [0, *ENDS[::9], *ENDS[-3:]])
def test_an_audit_in_two_visits_finds_what_one_visit_finds(size: int) -> None:
    blocks: list[Checked] = []
    earlier = kept(size) if size else None
    before = encode_report(earlier) if earlier else b""
    report = audit(FILES.get, COMMUNITY, resume=earlier, watch=blocks.append)
    assert report == WHOLE
    assert len(blocks) == sum(1 for end in ENDS if end > size)
    if earlier is not None:
        assert encode_report(earlier) == before


def test_what_is_kept_is_told_again_byte_for_byte() -> None:
    assert WHOLE.shown
    assert WHOLE.quarantined
    data = encode_report(WHOLE)
    assert decode_report(data, COMMUNITY) == WHOLE
    assert encode_report(decode_report(data, COMMUNITY)) == data


def test_only_tiles_that_grew_are_read() -> None:
    asked: list[str] = []

    def read(path: str) -> bytes | None:
        asked.append(path)
        return FILES.get(path)

    audit(read, COMMUNITY, resume=LATE)
    width = len(LEAVES) % 256
    grown = [Tile(level, len(LEAVES) // 256, width).path for level in (0, None)]
    assert asked == [CHECKPOINT_PATH, *grown]
    asked.clear()
    audit(read, COMMUNITY, resume=WHOLE)
    assert asked == [CHECKPOINT_PATH]


def test_many_visits_across_full_tiles_end_like_one() -> None:
    report: Report | None = None
    for size in ENDS[::3] + ENDS[-1:]:
        report = audit(files_at(size).get, COMMUNITY, resume=report)
    assert report == WHOLE


def test_every_bit_of_what_grew_counts_and_the_place_is_named() -> None:
    earlier = kept(ENDS[len(ENDS) // 3])
    paths = [path for path in FILES if path != CHECKPOINT_PATH]
    grown = [path for path in paths if not path.endswith("000")]
    assert len(grown) == 5  # entries and hashes of tiles 1 and 2, and the tile above
    for path in grown:
        for bit in range(0, 8 * len(FILES[path]), 8 * len(FILES[path]) // 8):
            found = breach(FILES | {path: flip(FILES[path], bit)}, earlier)
            assert "tile/" in found.detail or "leaf " in found.detail, found


def test_a_tile_that_no_longer_begins_as_it_did_is_found() -> None:
    """Someone rewrites leaves that were audited, entries and hashes alike."""
    resume = LATE
    at = resume.checkpoint.size - 20
    rewritten = [*LEAVES[:at], flip(LEAVES[at], 80), *LEAVES[at + 1 :]]
    found = breach(lay_out(rewritten, FILES[CHECKPOINT_PATH].decode()), resume)
    assert found.reason is Reason.BAD_PROOF
    assert f"does not begin as it did when {resume.checkpoint.size} leaves" in found.detail
    # The gateway itself may sign it anew.
    signed = breach(files_at(len(LEAVES), rewritten), resume)
    assert signed.detail == found.detail


def test_a_gateway_that_signs_another_past_is_found() -> None:
    told = make(300)
    size = told.checked[-3].state.frontier.size
    resume = audit(
        lay_out(
            told.leaves[:size], sign_head(told.leaves[:size], COMMUNITY.origin, VILLAGE.gateway)
        ).get,
        COMMUNITY,
    )
    other = Village(meters=2)
    other.run((8, 3), (5,))
    while len(other.leaves) <= size:
        other.run((1,))
    files = other.files()
    assert audit(files.get, COMMUNITY).blocks
    found = breach(files, resume)
    assert "does not begin as it did" in found.detail


def test_a_shortened_ledger_and_another_of_the_same_size_are_found() -> None:
    found = breach(files_at(ENDS[-2]), WHOLE)
    assert found.detail == f"the ledger has {ENDS[-2]} leaves and had {len(LEAVES)} before"
    last = reseal(VILLAGE.blocks[-1][-1], VILLAGE.gateway, caught_up=True)
    found = breach(files_at(len(LEAVES), [*LEAVES[:-1], last.raw]), WHOLE)
    assert found.detail == f"the first {len(LEAVES)} leaves are not those seen before"


def test_every_checkpoint_seen_before_the_visit_is_still_extended_after_it() -> None:
    for checked in VILLAGE.checked[::7]:
        assert audit(FILES.get, COMMUNITY, resume=LATE, since=checked.state.checkpoint) == WHOLE
    with refusing(Reason.BAD_CHECKPOINT, "not those seen before"):
        audit(FILES.get, COMMUNITY, resume=LATE, since=Checkpoint(ENDS[2], bytes(32)))


def test_an_authority_that_told_another_story_is_found_though_its_record_was_audited() -> None:
    """community.pub is newer than the audit that is gone on with, and knows another record."""
    place = (1, VILLAGE.authority.genesis.identity)
    told = Registration(*place, Role.GATEWAY, "gw", VILLAGE.gateway.public, FIRST_STEP + 1)
    other = records.seal(told, VILLAGE.id, VILLAGE.authority.signer)
    outside = trust(VILLAGE.authority.genesis.raw, [other.raw, VILLAGE.vpp_registration.raw])
    found = breach(FILES, LATE, outside)
    assert found.reason is Reason.FORK
    assert "another authority record 1" in found.detail


def test_authority_records_kept_back_are_looked_for_at_every_visit() -> None:
    village = Village()
    newer = village.authority.register(Role.GATEWAY, "gw", signer(20).public)
    known = [village.gateway_registration.raw, village.vpp_registration.raw, newer.raw]
    outside = trust(village.authority.genesis.raw, known)
    first = audit(village.files().get, outside)
    [finding] = first.findings
    assert "authority's records 4" in finding
    again = decode_report(encode_report(first), outside)
    assert audit(village.files().get, outside, resume=again).findings == [finding]
    village.govern(newer)
    village.block()
    assert audit(village.files().get, outside, resume=again).findings == []


def test_damaged_bytes_and_those_of_another_community_are_refused() -> None:
    data = encode_report(LATE)
    for at in range(0, len(data), 397):
        with refusing(Reason.MALFORMED):
            decode_report(flip(data, 8 * at), COMMUNITY)
        with refusing(Reason.MALFORMED):
            decode_report(data[:at], COMMUNITY)
    with refusing(Reason.MALFORMED):
        decode_report(data + b"\x00", COMMUNITY)
    with refusing(Reason.OTHER_COMMUNITY):
        decode_report(data, Village(name="elsewhere").community())


@given(at=st.floats(0, 1, exclude_max=True), cut=st.integers(0, 40), put=st.binary(max_size=40))
def test_whatever_is_made_of_it_under_a_right_digest_is_refused_or_audited(
    at: float, cut: int, put: bytes
) -> None:
    """Nobody but its owner should have it in hand; still it must not break who reads it."""
    content = KEPT[:-32]
    begin = int(at * len(content))
    forged = content[:begin] + put + content[begin + cut :]
    try:
        report = decode_report(forged + sha256(forged).digest(), COMMUNITY)
        audit(FILES.get, COMMUNITY, resume=report)
    except Rejected:
        pass


def test_what_is_kept_grows_by_forty_bytes_a_block() -> None:
    """What docs/operations.md states; findings and meters come on top."""
    village = Village()
    sizes = []
    for _ in range(2):
        for _ in range(50):
            village.run((1,))
        sizes.append(len(encode_report(audit(village.files().get, village.community()))))
    assert 40 * 50 <= sizes[1] - sizes[0] < 41 * 50


def test_a_whole_digest_over_other_content_than_an_audits_is_refused() -> None:
    content = encode_report(WHOLE)[:-32]
    mark, kept = content[:20], cbor.decode(content[20:])
    assert isinstance(kept, dict)
    assert isinstance(kept[3], bytes)
    other = mark + cbor.encode({**kept, 3: kept[3] + b"\x00"})
    with refusing(Reason.MALFORMED, "as an audit keeps it"):
        decode_report(other + sha256(other).digest(), COMMUNITY)
