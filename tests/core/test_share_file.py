"""A share file made by whoever likes to look richer: what the ledger set aside is not taken for
energy that was given."""

from collections.abc import Callable, Container, Sequence
from dataclasses import replace

import pytest

from cryptometer import records, share_file
from cryptometer.authority_records import ReAnchor, Registration
from cryptometer.block_header import Header
from cryptometer.chain_records import Batch, ChainRecord, StepClose
from cryptometer.commands.verify import describe_share
from cryptometer.community import Community, trust
from cryptometer.errors import Reason
from cryptometer.openings import Opening
from cryptometer.parts import split
from cryptometer.record_fields import Role
from cryptometer.records import Body, Record
from cryptometer.share_file import Given, Share, Source, decode_share, encode_share, verify_share
from cryptometer.sharing_records import Agreement, Claim, Distribution, Input, Method
from cryptometer.tiles import node_from_tiles
from tests.core.community import DETAILS, PULSE_UWH, Village, lay_out, reseal, sign_head
from tests.core.refusing import refusing
from tests.core.test_distribution import agreed, create, honest, reasons
from tests.core.test_reading import MORE, WH
from tests.keys import signer


class Pieces:
    """What a file of a share is made of: all of the ledger that may stand in one. Whoever makes
    a file may leave something out, and put something in.

    Attributes:
        authority: records of the authority.
        leaves: entries of the ledger by their index.
        member: whose share it is.
        opening: of what she consumed.
    """

    def __init__(self, village: Village, step: int, ledger: Sequence[bytes] = ()) -> None:
        """`ledger`: its entries, where they are not those of the village."""
        self.village = village
        self.step = step
        self._ledger = ledger or village.leaves
        self.authority: list[bytes] = []
        self.leaves: dict[int, bytes] = {}
        self.member = "ana"
        self.opening: Opening | None = None
        for index, raw in enumerate(self._ledger):
            body = records.decode(raw).body
            if isinstance(body, Agreement | Registration | ReAnchor):
                self.authority.append(raw)
            elif isinstance(body, ChainRecord | Header) or getattr(body, "step", None) == step:
                self.leaves[index] = raw

    def places(self, kind: type[Body] | type[ChainRecord], **said: object) -> list[int]:
        """The leaves of a kind that say this."""
        return [
            index
            for index, raw in self.leaves.items()
            if isinstance(body := records.decode(raw).body, kind)
            and all(getattr(body, name) == value for name, value in said.items())
        ]

    def leave_out(self, *places: int) -> "Pieces":
        for place in places:
            del self.leaves[place]
        return self

    def encode(self) -> bytes:
        signed = sign_head(self._ledger, self.village.community().origin, self.village.gateway)
        node = node_from_tiles(len(self._ledger), lay_out(self._ledger, signed).get)
        return encode_share(
            self.member, self.step, signed, self.authority, self.leaves, node, self.opening
        )

    def verify(self, community: Community | None = None) -> Share:
        return verify_share(self.encode(), community or self.village.community())


def shown(
    village: Village, step: int, is_shown: Callable[[Distribution], bool] = lambda _: True
) -> Share:
    """What a file says that holds all of the ledger but what it had better not show."""
    pieces = Pieces(village, step)
    hidden = [
        index
        for index in pieces.places(Distribution)
        if not is_shown(records.decode(pieces.leaves[index]).body)  # type: ignore[arg-type]
    ]
    return pieces.leave_out(*hidden).verify()


def _given(village: Village) -> int:
    return village.state.accounts.get("ana", 0)


def test_what_the_ledger_gave_is_shown() -> None:
    village = agreed()
    create(village, 15, 10)
    step = village.next_step
    village.share()
    village.block()
    assert shown(village, step).energy_uwh == _given(village) > 0


def test_a_close_that_was_spent_is_not_shown_as_energy_again() -> None:
    village = agreed()
    create(village, 15, 10)
    step, whole = village.next_step, honest(village)
    village.distribute(whole, replace(whole, supplement=1))
    assert reasons(village.block()) == [None, Reason.NO_SUCH_INPUT]
    with refusing(Reason.NO_SUCH_INPUT, "spent before"):
        shown(village, step)
    assert shown(village, step, lambda one: one.supplement == 0).energy_uwh == _given(village)


def test_a_meter_that_closed_its_step_twice_has_brought_its_energy_once() -> None:
    """The second close moved nothing; behind it stand the same lots."""
    village = agreed()
    step = village.next_step
    create(village, 8, 8)
    _, close, *_ = village.pending
    again = village.devices[0].close(step)
    village.send(again)
    whole = honest(village)
    twice = replace(
        whole, inputs=tuple(replace(whole.inputs[0], close=one.identity) for one in (close, again))
    )
    village.distribute(whole, twice)
    assert reasons(village.block()) == [None, Reason.REPEAT]
    with refusing(Reason.NO_SUCH_INPUT, "spent before"):
        shown(village, step, _of([1]))


def test_a_supplement_that_moved_nothing_is_not_shown_as_more() -> None:
    """Behind it stand signed lots that the ledger set aside."""
    village = agreed()
    create(village, 15)
    village.share()
    village.block()
    step, given_before = village.next_step, _given(village)
    create(village, 9)
    device = village.devices[1]
    village.send(device.batch(step, 9), device.close(step))
    whole = honest(village)
    more = replace(
        whole,
        supplement=1,
        inputs=(replace(whole.inputs[0], close=village.pending[-1].identity),),
    )
    village.distribute(whole, more)
    assert reasons(village.block()) == [None, Reason.NO_SUCH_INPUT]
    with refusing(Reason.BAD_PROOF, "set aside"):
        shown(village, step)
    assert shown(village, step, _of([1])).energy_uwh == _given(village) - given_before


def test_of_two_distributions_by_hidden_consumption_only_the_one_that_moved_energy_is_shown() -> (
    None
):
    """Each of them would hold in the other's place: a plant may not show one to ana, and the other
    to bob."""
    village = agreed(method=Method.PRO_RATA)
    create(village, 15, 10)
    step = village.next_step
    [whole] = village.drafts({step: {"ana": 500_000, "bob": 9_000_000}})
    richer = replace(whole, outputs=(replace(whole.outputs[0], energy_uwh=2_500_000, tokens=2),))
    village.distribute(whole, richer)
    assert reasons(village.block()) == [None, Reason.REPEAT]
    assert shown(village, step, _of([0])).energy_uwh == _given(village) < 500_000
    with refusing(Reason.BAD_PROOF, "set aside"):
        shown(village, step, _of([1]))


def test_a_distribution_by_an_agreement_that_holds_no_more_is_not_shown() -> None:
    village = agreed(Claim("ana", 17, 0), Claim("bob", 8, 0))
    replaced = village.state.agreements[-1].identity
    newer = village.agree("ana", "bob").identity
    village.run(())
    create(village, 15, 10)
    step, whole = village.next_step, honest(village)
    outputs = zip(whole.outputs, (1_700_000, 800_000), strict=True)
    by_the_old_one = replace(
        whole,
        agreement=replaced,
        outputs=tuple(replace(one, energy_uwh=energy) for one, energy in outputs),
    )
    village.distribute(by_the_old_one, whole)
    assert reasons(village.block()) == [Reason.WRONG_AGREEMENT, None]
    assert _given(village) == 1_250_000
    for number, by in enumerate((replaced, newer)):
        pieces = Pieces(village, step)
        [other] = pieces.places(Distribution, sequence=1 - number)
        pieces.leave_out(other).authority = [
            raw
            for raw in pieces.authority
            if not isinstance((known := records.decode(raw)).body, Agreement)
            or known.identity == by
        ]
        if by == newer:
            assert pieces.verify().energy_uwh == _given(village)
        else:
            with refusing(Reason.BAD_PROOF, "set aside"):
                pieces.verify()


def test_parts_of_two_distributions_are_not_one(monkeypatch: pytest.MonkeyPatch) -> None:
    village = agreed()
    create(village, 15, 10)
    step, whole = village.next_step, honest(village)
    monkeypatch.setattr("cryptometer.parts._PART_BYTES", 100)
    parts = split(whole, village.plant)
    assert len(parts) > 1
    # The first part once more, and the second behind another record of the plant.
    village.distribute(*parts, parts[0], replace(parts[0], supplement=7), *parts[1:])
    assert reasons(village.block())[: len(parts)] == [None] * len(parts)
    assert shown(village, step, _of(range(len(parts)))).energy_uwh == _given(village)
    swapped = [0, *range(len(parts) + 2, 2 * len(parts) + 1)]
    with refusing(Reason.INCOMPLETE):
        shown(village, step, _of(swapped))


def test_a_file_shows_all_that_the_ledger_says_of_the_share() -> None:
    village = agreed()
    create(village, 15, 10)
    step = village.next_step
    [record] = village.share()
    header = village.block().header.body
    agreement = village.state.agreed(step)
    assert agreement is not None
    assert isinstance(record.body, Distribution)
    assert isinstance(header, Header)
    assert shown(village, step) == Share(
        member="ana",
        step=step,
        checkpoint=village.state.checkpoint,
        agreement=agreement.agreement,
        given=(
            Given(
                whole=record.body,
                sources=(
                    Source("m0", DETAILS.serial, 15 * PULSE_UWH, 1, 2, 15 * PULSE_UWH),
                    Source("m1", DETAILS.serial, 10 * PULSE_UWH, 1, 2, 10 * PULSE_UWH),
                ),
                energy_uwh=8 * PULSE_UWH,
                tokens=1,
                block_step=step,
                sealed_ms=header.sealed_ms,
            ),
        ),
        settlement=village.state.settlements[step],
        is_rule_recomputed=True,
        used_uwh=None,
    )


def test_who_has_no_claim_has_no_share() -> None:
    village = agreed()
    create(village, 15, 10)
    step = village.next_step
    village.share()
    village.block()
    pieces = Pieces(village, step)
    pieces.member = "eve"
    with refusing(Reason.NOT_AS_AGREED, f"eve has no claim in step {step}"):
        pieces.verify()


def test_what_a_producer_brought_goes_to_those_who_have_a_claim_on_it() -> None:
    village = agreed(Claim("ana", 1, 0, "m0"), Claim("bob", 1, 0, "m1"))
    create(village, 15, 10)
    step = village.next_step
    village.share()
    village.block()
    assert shown(village, step).energy_uwh == 15 * PULSE_UWH == _given(village)


def test_what_was_consumed_is_shown_as_it_was_committed_to_last() -> None:
    """First for what came in time, then for what came late; bob's is not told."""
    village = agreed("ana", "bob", method=Method.PRO_RATA)
    create(village, 15)
    step = village.next_step
    village.share({step: {"ana": 300_000, "bob": 200_000}})
    village.block()
    village.send(*village.devices[1].step(step, 8))
    village.share({step: {"ana": 400_000, "bob": 200_000}})
    village.block()
    pieces = Pieces(village, step)
    assert pieces.verify().used_uwh is None
    pieces.opening = Opening(400_000, village.salt)
    share = pieces.verify()
    assert (share.used_uwh, share.energy_uwh, share.is_rule_recomputed) == (400_000, 400_000, False)
    for opening in (
        Opening(300_000, village.salt),
        Opening(200_000, village.salt),
        Opening(400_000, bytes(32)),
    ):
        pieces.opening = opening
        with refusing(Reason.BAD_PROOF, "what ana consumed"):
            pieces.verify()


def test_a_close_that_brought_nothing_is_no_input() -> None:
    village = agreed()
    create(village, 0, 8)
    step, whole = village.next_step, honest(village)
    empty = next(one for one in village.pending if getattr(one.body, "meter", "") == "m0")
    village.distribute(replace(whole, inputs=(Input(empty.identity, 0, 0), *whole.inputs)))
    assert reasons(village.block()) == [Reason.NO_SUCH_INPUT]
    with refusing(Reason.NO_SUCH_INPUT, "m0 brought nothing"):
        shown(village, step)


def test_what_everyone_sets_aside_is_refused_for_the_same_reason() -> None:
    village = agreed()
    create(village, 15, 10)
    step, whole = village.next_step, honest(village)
    village.distribute(replace(whole, outputs=whole.outputs[::-1]))
    [reason] = reasons(village.block())
    assert reason is not None
    with refusing(reason, "leaf "):
        shown(village, step)


# --- What a file leaves out. ---------------------------------------------------------------------


@pytest.fixture(name="whole")
def _whole() -> Pieces:
    """All of a step in which two meters created something, and a block behind it."""
    village = agreed()
    create(village, 15, 10)
    step = village.next_step
    village.share()
    village.block()
    village.run([1])
    return Pieces(village, step)


def test_records_and_closes_that_are_left_out_are_missed(whole: Pieces) -> None:
    [batch] = whole.places(Batch, meter="m0", step=whole.step)
    [close] = whole.places(StepClose, meter="m0", step=whole.step)
    assert whole.verify().energy_uwh == 8 * PULSE_UWH
    raw = whole.leaves[batch]
    with refusing(Reason.WRONG_SUMS, "m0 brought 1500000 µWh, and has signed 0"):
        whole.leave_out(batch).verify()
    whole.leaves[batch] = raw
    with refusing(Reason.NO_SUCH_INPUT, "is missing"):
        whole.leave_out(close).verify()


def test_the_header_of_each_distribution_s_block_is_missed_and_no_other(whole: Pieces) -> None:
    [place] = whole.places(Distribution)
    headers = whole.places(Header)
    own = min(at for at in headers if at > place)
    kept = dict(whole.leaves)
    assert max(headers) > own
    assert whole.leave_out(*[at for at in headers if at != own]).verify().energy_uwh == 800_000
    # The header of the block behind it does not stand for it.
    for gone in ([own], [at for at in headers if at >= own]):
        whole.leaves = dict(kept)
        with refusing(Reason.INCOMPLETE, "its block's header is missing"):
            whole.leave_out(*gone).verify()


def test_a_file_without_a_distribution_shows_nothing(whole: Pieces) -> None:
    with refusing(Reason.INCOMPLETE, f"no distribution of step {whole.step}"):
        whole.leave_out(*whole.places(Distribution)).verify()


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        (lambda count: range(1, count), "no part stands before it"),
        (lambda count: range(count - 1), "some of its parts are missing"),
        (lambda count: [*range(count), *range(count + 1, 2 * count)], "no part stands before it"),
    ],
    ids=["the first", "the last", "the first of the second"],
)
def test_a_part_that_is_left_out_is_missed(
    monkeypatch: pytest.MonkeyPatch, kept: Callable[[int], Container[int]], words: str
) -> None:
    village = agreed()
    create(village, 15, 10)
    step, whole = village.next_step, honest(village)
    monkeypatch.setattr("cryptometer.parts._PART_BYTES", 100)
    parts = split(whole, village.plant)
    assert len(parts) > 1
    village.distribute(*parts, *(replace(part, supplement=1) for part in parts))
    village.block()
    with refusing(Reason.INCOMPLETE, words):
        shown(village, step, _of(kept(len(parts))))


def test_the_agreement_is_the_one_of_the_step(whole: Pieces) -> None:
    village = whole.village
    newer = village.agree("bob", "ana")
    village.block()
    with refusing(Reason.INCOMPLETE, "2 agreements"):
        Pieces(village, whole.step).verify()
    whole.authority = [
        raw for raw in whole.authority if not isinstance(records.decode(raw).body, Agreement)
    ]
    with refusing(Reason.INCOMPLETE, "0 agreements"):
        whole.verify()
    whole.authority.append(newer.raw)
    with refusing(Reason.WRONG_AGREEMENT, f"does not hold in {whole.step} yet"):
        whole.verify()


def test_the_registration_that_a_record_was_made_under_is_needed() -> None:
    village = agreed()
    older = village.devices[0].registration
    key = village.devices[0].signer.public
    village.govern(village.authority.register(Role.METER, "m0", key, DETAILS, village.next_step))
    village.block()
    create(village, 15, 10)
    step = village.next_step
    village.share()
    village.block()
    pieces = Pieces(village, step)
    assert pieces.verify().energy_uwh == 8 * PULSE_UWH
    pieces.authority = [raw for raw in pieces.authority if records.decode(raw).identity != older]
    with refusing(Reason.UNKNOWN_REGISTRATION, "the registration of m0"):
        pieces.verify()


# --- What a file puts in, and what a ledger should not hold. -------------------------------------


def test_leaves_that_are_of_no_use_have_no_place(whole: Pieces) -> None:
    village = whole.village
    leaves = village.leaves
    member = next(
        index
        for index, raw in enumerate(leaves)
        if isinstance(body := records.decode(raw).body, Registration) and body.role is Role.MEMBER
    )
    whole.leaves[member] = leaves[member]
    with refusing(Reason.UNKNOWN_KIND, f"leaf {member}: a registration has no place there"):
        whole.verify()


def test_a_distribution_of_another_step_has_no_place(whole: Pieces) -> None:
    village = whole.village
    create(village, 8)
    step = village.next_step
    village.share()
    village.block()
    later = Pieces(village, step)
    [place] = later.places(Distribution, step=step)
    both = Pieces(village, whole.step)
    both.leaves[place] = later.leaves[place]
    with refusing(Reason.WRONG_STEP, f"leaf {place} is of step {step}"):
        both.verify()


def test_of_the_authority_s_records_only_some_have_a_place(whole: Pieces) -> None:
    authority = whole.village.authority
    kept = list(whole.authority)
    whole.authority = [*kept, authority.revoke(Role.MEMBER, "eve").raw]
    with refusing(Reason.UNKNOWN_KIND, f"record {len(kept)} of the authority: a revocation"):
        whole.verify()
    [agreement] = [raw for raw in kept if isinstance(records.decode(raw).body, Agreement)]
    forged = reseal(records.decode(agreement), signer(99))
    whole.authority = [forged.raw, *(raw for raw in kept if raw != agreement)]
    with refusing(Reason.UNKNOWN_KEY, "record 0 of the authority"):
        whole.verify()


def test_who_signs_for_another_is_not_believed_even_if_a_ledger_holds_it(whole: Pieces) -> None:
    """A gateway that let anything into its ledger."""
    village = whole.village
    [batch] = whole.places(Batch, meter="m0", step=whole.step)
    [place] = whole.places(Distribution)
    for at, forged in (
        (batch, reseal(records.decode(whole.leaves[batch]), village.devices[1].signer)),
        (place, reseal(records.decode(whole.leaves[place]), village.gateway)),
        (place, reseal(records.decode(whole.leaves[place]), village.gateway, vpp="gw")),
    ):
        with refusing(Reason.UNKNOWN_KEY, f"leaf {at}: "):
            _with(village, at, forged, whole.step).verify()
    elsewhere = records.seal(
        records.decode(whole.leaves[batch]).body, bytes(32), village.device.signer
    )
    with refusing(Reason.OTHER_COMMUNITY, f"leaf {batch}: "):
        _with(village, batch, elsewhere, whole.step).verify()


def test_what_is_rightly_signed_and_stands_in_no_ledger_is_refused(whole: Pieces) -> None:
    """A plant, a gateway or a meter may sign whatever it likes: what counts is the one tree."""
    village = whole.village
    [place] = whole.places(Distribution)
    header = min(at for at in whole.places(Header) if at > place)
    [close] = whole.places(StepClose, meter="m0", step=whole.step)
    for at, key, changes in (
        (place, village.vpp, {"agreement": bytes(32)}),
        (header, village.gateway, {"sealed_ms": 2**40}),
        (close, village.device.signer, {"watched": ()}),
    ):
        kept = whole.leaves[at]
        whole.leaves[at] = reseal(records.decode(kept), key, **changes).raw
        with refusing(Reason.BAD_PROOF, "do not lead to the root"):
            whole.verify()
        whole.leaves[at] = kept
    assert whole.verify().energy_uwh == 8 * PULSE_UWH


def test_a_record_that_others_do_not_continue_is_not_behind_them(whole: Pieces) -> None:
    village = whole.village
    [batch] = whole.places(Batch, meter="m0", step=whole.step)
    other = reseal(records.decode(whole.leaves[batch]), village.device.signer, lots=(8, 1, 7, 1))
    with refusing(Reason.FORK, "of m0 continues another chain"):
        _with(village, batch, other, whole.step).verify()


@pytest.mark.parametrize("whose", ["a meter m1", "a member m0"])
def test_a_record_made_under_the_registration_of_another_has_no_energy(whose: str) -> None:
    village = agreed(members=("ana", "bob", "m0"))
    device, other = village.devices
    registered = {
        f"a {record.body.role} {record.body.name}": record.identity
        for record in map(records.decode, village.leaves)
        if isinstance(record.body, Registration)
    }
    step = village.next_step
    village.send(*other.step(step, 8))
    whole = honest(village)
    batch = device.batch(step, 8, registration=registered[whose])
    close = device.close(step)
    village.send(batch, close)
    village.distribute(replace(whole, inputs=(replace(whole.inputs[0], close=close.identity),)))
    assert reasons(village.block()) == [Reason.NO_SUCH_INPUT]
    with refusing(Reason.UNKNOWN_REGISTRATION, "the registration of m0"):
        shown(village, step)


# --- Whom to trust. ------------------------------------------------------------------------------


def test_what_a_gateway_sealed_before_it_was_revoked_is_shown(whole: Pieces) -> None:
    village = whole.village
    newer = village.authority.register(Role.GATEWAY, "gw2", signer(20).public)
    revoked = village.authority.revoke(Role.GATEWAY, "gw")
    village.govern(newer, revoked)
    village.block()
    village.gateway = signer(20)
    village.block()
    known = [village.gateway_registration, village.vpp_registration, newer, revoked]
    community = trust(village.authority.genesis.raw, [record.raw for record in known])
    assert Pieces(village, whole.step).verify(community).energy_uwh == 8 * PULSE_UWH
    with refusing(Reason.UNKNOWN_KEY, "the checkpoint: ", "from before a change of keys"):
        Pieces(village, whole.step).verify(village.community())
    others = [village.vpp_registration, newer]
    without = trust(village.authority.genesis.raw, [record.raw for record in others])
    with refusing(Reason.UNKNOWN_KEY, "leaf ", "from before a change of keys"):
        Pieces(village, whole.step).verify(without)


def test_a_checkpoint_of_another_community_is_said_to_be_the_fault(whole: Pieces) -> None:
    elsewhere = Village(name="Another street").community()
    with refusing(Reason.UNKNOWN_KEY, "the checkpoint: "):
        whole.verify(elsewhere)


def test_a_file_of_another_kind_or_beyond_the_limit_is_not_looked_into(
    whole: Pieces, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = whole.encode()
    monkeypatch.setattr(share_file, "SHARE_MAX", len(data))
    decode_share(data)
    for other in (b"", b"x" + data[1:], data + b"\0"):
        with refusing(Reason.MALFORMED, "not a share of this version"):
            decode_share(other)


# --- Meters that are read, and chains that go on anew. -------------------------------------------


@pytest.mark.parametrize("age_ms", [None, 60_000], ids=["no close", "a close set aside"])
def test_behind_a_close_stand_the_readings_since_the_one_before_and_no_others(
    age_ms: int | None,
) -> None:
    """An index that was read in a step, and not closed, or too early for its close."""
    village = agreed()
    device = village.add_meter("speaks", **MORE)
    village.block()
    village.send(device.run_start(village.next_step, register=5_000))
    village.send(device.reading(village.next_step, 5_100), device.close(village.next_step))
    village.share()
    village.block()
    between = village.next_step
    village.send(device.reading(between, 5_150, age_ms or 1_000))
    if age_ms is not None:
        village.send(device.close(between))
    village.block()
    step = village.next_step
    village.send(device.reading(step, 5_220), device.close(step))
    village.share()
    village.block()
    [given] = shown(village, step).given
    assert given.sources == (Source("speaks", "SPEAKS-1", 120 * WH, 2, 0, 120 * WH, between),)


def test_an_index_that_nobody_read_for_a_while_says_since_when() -> None:
    village = agreed()
    device = village.add_meter("speaks", **MORE)
    village.block()
    first = village.next_step
    village.send(device.run_start(first, register=5_000))
    village.send(device.reading(first, 5_100), device.close(first))
    village.share()
    village.block()
    village.block()
    step = village.next_step
    village.send(device.reading(step, 5_220, since_step=first), device.close(step))
    village.share()
    village.block()
    [given] = shown(village, step).given
    assert given.sources == (Source("speaks", "SPEAKS-1", 120 * WH, 1, 0, 120 * WH, first),)
    text = "\n".join(describe_share(shown(village, step), village.community()))
    said = f"by signed readings in 1 record; of several steps in one, since step {first}"
    assert f"0.120 kWh, {said}" in text
    assert "that no other distribution of the step gave more" in text


def test_what_stands_before_a_re_anchor_is_missed_as_well() -> None:
    village = agreed()
    device = village.device
    step = village.next_step
    village.send(device.batch(step, 8))
    village.block()
    anchor = village.authority.re_anchor("m0", device.sequence, device.register)
    village.govern(anchor)
    village.block()
    device.go_on_from(anchor)
    village.send(device.batch(step, 2), device.close(step))
    village.share()
    village.block()
    pieces = Pieces(village, step)
    [given] = pieces.verify().given
    assert given.sources == (Source("m0", DETAILS.serial, 10 * PULSE_UWH, 2, 2, 10 * PULSE_UWH),)
    place = anchor.body.at  # type: ignore[union-attr]
    earlier = [
        index
        for index in pieces.places(ChainRecord, meter="m0")
        if records.decode(pieces.leaves[index]).body.sequence < place  # type: ignore[union-attr]
    ]
    with refusing(Reason.WRONG_SUMS, "m0 brought 1000000 µWh, and has signed 200000"):
        pieces.leave_out(*earlier).verify()


def _with(village: Village, at: int, other: Record, step: int) -> Pieces:
    """A file made from a ledger that holds another leaf in one place."""
    leaves = village.leaves
    return Pieces(village, step, [*leaves[:at], other.raw, *leaves[at + 1 :]])


def _of(places: Container[int]) -> Callable[[Distribution], bool]:
    """Those in these places of the plant's chain."""
    return lambda one: one.sequence in places
