"""A member's share as a file: it proves itself with the community's public keys and nothing else,
and whatever byte of it is changed, it does not."""

from dataclasses import replace

import pytest

from cryptometer import records
from cryptometer.commands.verify import describe_share
from cryptometer.community import trust
from cryptometer.errors import ConfigurationError, Reason, Rejected
from cryptometer.openings import Opening
from cryptometer.share_file import MAGIC, SHARE_MAX, Share, decode_share, encode_share, verify_share
from cryptometer.sharing_records import Claim, Method
from cryptometer.tiles import node_from_tiles
from gateway.share import make_share
from tests.core.community import PULSE_UWH
from tests.core.refusing import refusing
from tests.gateway.test_vpp import Works

BY_KEYS = (Claim("ada", 8, 0), Claim("bo", 17, 0))


def share_of(works: Works, member: str, step: int, opening: Opening | None = None) -> bytes:
    site = works.site
    authority = site.store.authority()
    community = trust(authority[0], authority[1:])
    return make_share(member, step, site.store, site.tree.read, community, lambda _: opening)


def verified(works: Works, data: bytes) -> Share:
    return verify_share(data, works.site.community())


@pytest.fixture(scope="module")
def shared() -> tuple[Works, int, bytes]:
    """One step of two meters, the second of which was late, shared by keys."""
    works = Works(*BY_KEYS, method=Method.KEYS)
    site = works.site
    step = site.next_step
    site.send(*site.devices[0].step(step, 8, 7))
    site.seal()
    site.send(*site.devices[1].step(step, 8, 2))
    site.seal()
    site.run([1])
    return works, step, share_of(works, "bo", step)


def test_a_share_leads_from_the_member_to_the_signed_lots(
    shared: tuple[Works, int, bytes],
) -> None:
    works, step, data = shared
    share = verified(works, data)
    assert (share.member, share.step) == ("bo", step)
    assert share.energy_uwh == 25 * PULSE_UWH * 17 // 25
    assert share.checkpoint == works.site.node.state.checkpoint
    first, late = share.given
    assert [(one.meter, one.energy_uwh, one.lots) for one in first.sources] == [
        ("m0", 1_500_000, 2)
    ]
    assert [(one.meter, one.energy_uwh, one.lots) for one in late.sources] == [("m1", 1_000_000, 2)]
    assert (first.block_step, late.block_step) == (step, step + 1)
    assert share.is_rule_recomputed


def test_it_is_told_in_plain_words(shared: tuple[Works, int, bytes]) -> None:
    works, _, data = shared
    share = verified(works, data)
    text = "\n".join(describe_share(share, works.site.community()))
    assert "what bo was given" in text
    assert "0.0017 kWh" in text
    assert "from m0 (serial MID-0001)  0.0015 kWh, by 2 signed lots" in text
    assert "supplement 1" in text
    assert "rule recomputed" in text
    agreement = share.given[0].whole.agreement.hex()[:16]
    assert (
        f"agreement {agreement}…, of step {share.agreement.from_step} and on, was the one" in text
    )
    assert "That no newer one held" in text
    assert "is proven by cryptometer audit, not by a file" in text


def test_what_the_plant_states_itself_is_not_said_to_be_proven() -> None:
    works = Works(method=Method.COEFFICIENTS, are_losses_stated=True)
    step = works.site.next_step
    works.facts.weights[step] = {("", "ada"): 1, ("", "bo"): 2, ("", "cy"): 0}
    works.facts.lost[step] = 100_000
    works.site.run([8])
    share = verified(works, share_of(works, "bo", step))
    [said] = [
        line
        for line in describe_share(share, works.site.community())
        if line.startswith("rule recomputed")
    ]
    assert said.endswith("with the coefficients and the losses that the plant has signed")


def test_whatever_byte_is_altered_it_is_refused(shared: tuple[Works, int, bytes]) -> None:
    works, _, data = shared
    for at in range(0, len(data), 7):
        for bit in (0, 5):
            altered = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
            with pytest.raises(Rejected) as refused:
                verified(works, altered)
            assert refused.value.detail


@pytest.mark.parametrize("cut", [0, 1, len(MAGIC), 200, -1])
def test_a_file_cut_short_is_refused(shared: tuple[Works, int, bytes], cut: int) -> None:
    works, _, data = shared
    with pytest.raises(Rejected):
        verified(works, data[:cut])


@pytest.mark.parametrize("item", [b"\x80", b"\x00", b"\x41a"])
def test_a_file_of_millions_of_small_items_is_refused_before_they_are_made(item: bytes) -> None:
    """A member opens what he is sent: it must not take his machine's memory."""
    count = (SHARE_MAX - len(MAGIC) - 5) // len(item)
    with refusing(Reason.TOO_LARGE):
        decode_share(MAGIC + b"\x9a" + count.to_bytes(4, "big") + item * count)


def test_the_record_that_was_altered_is_named(shared: tuple[Works, int, bytes]) -> None:
    works, _, data = shared
    for leaf in decode_share(data).leaves:
        altered = data.replace(leaf.raw, leaf.raw[:-1] + bytes([leaf.raw[-1] ^ 1]))
        with pytest.raises(Rejected) as refused:
            verified(works, altered)
        assert f"leaf {leaf.index}" in refused.value.detail


def test_another_member_cannot_use_it(shared: tuple[Works, int, bytes]) -> None:
    works, step, data = shared
    other = verified(works, share_of(works, "ada", step))
    assert other.energy_uwh == 800_000
    with refusing(Reason.NOT_AS_AGREED):
        verified(works, data.replace(b"\x62bo\x01", b"\x62cy\x01", 1))


def test_what_a_file_leaves_out_is_missed(shared: tuple[Works, int, bytes]) -> None:
    """Every leaf and every record of the authority is needed."""
    works, step, data = shared
    file = decode_share(data)
    leaves = {leaf.index: leaf.raw for leaf in file.leaves}
    checkpoint, authority = file.checkpoint.decode(), file.authority
    node = node_from_tiles(works.site.node.state.frontier.size, works.site.tree.read)

    def made(less: int | None = None, fewer: bytes = b"") -> bytes:
        left = {index: raw for index, raw in leaves.items() if index != less}
        rest = [raw for raw in authority if raw != fewer]
        return encode_share("bo", step, checkpoint, rest, left, node)

    assert made() == data
    supplement = max(
        index for index, raw in leaves.items() if records.decode(raw).body.KIND == "distribution"
    )
    for index, raw in leaves.items():
        body = records.decode(raw).body
        if index == supplement or body.KIND == "run-start":
            verified(works, made(less=index))  # it shows less, and says so
            continue
        with pytest.raises(Rejected):
            verified(works, made(less=index))
    for raw in authority:
        with pytest.raises(Rejected):
            verified(works, made(fewer=raw))


def test_what_was_consumed_is_opened_to_whom_it_concerns() -> None:
    works = Works(method=Method.PRO_RATA)
    site = works.site
    step = site.next_step
    works.facts.learn(step, ada=10**6, bo=400_000, cy=0)
    site.run([8])
    salt = works.facts.salt("bo", step, 400_000)
    share = verified(works, share_of(works, "bo", step, Opening(400_000, salt)))
    assert (share.energy_uwh, share.used_uwh, share.is_rule_recomputed) == (400_000, 400_000, False)
    text = "\n".join(describe_share(share, site.community()))
    assert "bo consumed 0.0004 kWh" in text
    assert "rule not recomputed" in text
    for wrong in (Opening(400_001, salt), Opening(400_000, bytes(32))):
        with refusing(Reason.BAD_PROOF):
            verified(works, share_of(works, "bo", step, wrong))
    assert verified(works, share_of(works, "bo", step)).used_uwh is None


def test_quarantined_energy_is_told_apart() -> None:
    works = Works()
    site = works.site
    step = site.next_step
    device = site.devices[0]
    site.send(device.batch(step, 8), device.batch(step, 9), device.close(step))
    site.seal()
    (given,) = verified(works, share_of(works, "ada", step)).given
    (source,) = given.sources
    assert (source.energy_uwh, source.signed_uwh) == (800_000, 1_700_000)


@pytest.mark.parametrize(
    ("member", "later", "words"),
    [
        ("dee", 0, "dee has no claim"),
        ("ada", 1, "brought no energy"),
        ("ada", 99, "has no block"),
    ],
)
def test_what_cannot_be_shown_is_said(member: str, later: int, words: str) -> None:
    works = Works()
    step = works.site.next_step
    works.site.run([3], [])
    with pytest.raises(ConfigurationError, match=words):
        share_of(works, member, step + later)


def test_energy_that_waits_is_said_to_wait() -> None:
    works = Works(method=Method.PRO_RATA)
    step = works.site.next_step
    works.site.run([3])
    with pytest.raises(ConfigurationError, match="waits"):
        share_of(works, "ada", step)


def test_a_community_whose_keys_are_others_believes_none_of_it(
    shared: tuple[Works, int, bytes],
) -> None:
    works, _, data = shared
    community = works.site.community()
    with refusing(Reason.UNKNOWN_KEY):
        verify_share(data, replace(community, records=community.records[:1]))


@pytest.mark.parametrize("passed_over", [0, 3, 1_000_000])
def test_a_share_leads_through_a_re_anchor_within_its_step(passed_over: int) -> None:
    works = Works(*BY_KEYS, method=Method.KEYS)
    site, device = works.site, works.site.device
    step = site.next_step
    site.send(device.batch(step, 8))
    site.seal()
    anchor = site.authority.re_anchor("m0", device.sequence + passed_over, device.register)
    works.import_(anchor)
    site.seal()
    device.go_on_from(anchor)
    site.send(device.batch(step, 2), device.close(step))
    site.seal()
    share = verified(works, share_of(works, "bo", step))
    assert share.energy_uwh == 10 * PULSE_UWH * 17 // 25
    [source] = share.given[0].sources
    assert (source.lots, source.signed_uwh) == (2, 10 * PULSE_UWH)
    file = decode_share(share_of(works, "bo", step))
    without = [raw for raw in file.authority if raw != anchor.raw]
    assert len(without) == len(file.authority) - 1
    leaves = {leaf.index: leaf.raw for leaf in file.leaves}
    node = node_from_tiles(site.node.state.frontier.size, site.tree.read)
    with pytest.raises(Rejected):
        verified(works, encode_share("bo", step, file.checkpoint.decode(), without, leaves, node))
