"""Agreements, what a plant says it gives by them, and the rows in which both are kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from cryptometer import cbor
from cryptometer.errors import Reason, Rejected
from cryptometer.judging import judge
from cryptometer.parts import join
from cryptometer.settlement import Agreed, Settlement
from cryptometer.sharing import Outcome, share
from cryptometer.sharing_records import Agreement, Claim, Distribution, Method
from cryptometer.snapshot import (
    Rows,
    decode_state,
    encode_agreement,
    encode_common,
    encode_meter,
    encode_settlement,
)
from cryptometer.wire import decode_map, encode_map
from tests.core.community import Village
from tests.fuzz.scene import FalseAcceptance
from tests.fuzz.target import Target, same

ENERGY = {"m0": 1_000_003, "m1": 2_500_001}
NEED_UWH = 400_000


@dataclass(frozen=True, slots=True)
class Scene:
    """A step whose energy waits at the plant, and what the plant should give of it."""

    village: Village
    agreed: Agreed
    settlement: Settlement
    whole: Distribution
    needs: Mapping[str, int] | None


def _scene(needs_uwh: int | None, *claims: Claim | str, **changes: object) -> Scene:
    village = Village(meters=2)
    village.add_members("ana", "bob")
    village.block()
    village.agree(*claims, **changes)
    village.run(())
    step = village.next_step
    for device, lots in zip(village.devices, ([8, 7], [8, 2]), strict=True):
        village.send(*device.step(step, *lots))
    village.block()
    agreed = village.state.agreed(step)
    assert agreed is not None
    needs = None if needs_uwh is None else {"ana": needs_uwh, "bob": needs_uwh}
    (whole,) = village.drafts({} if needs is None else {step: needs})
    return Scene(village, agreed, village.state.settlements[step], whole, needs)


@lru_cache(maxsize=1)
def scenes() -> tuple[Scene, ...]:
    """Shared by keys, by producer, and by what was consumed."""
    return (
        _scene(None, Claim("ana", 8, 0), Claim("bob", 17, 0), method=Method.KEYS),
        _scene(None, Claim("ana", 1, 0, "m0"), Claim("bob", 1, 1)),
        _scene(NEED_UWH, "ana", "bob", method=Method.PRO_RATA, rounds=3),
    )


def _read_agreement(data: bytes) -> None:
    agreement = decode_map(Agreement, cbor.decode(data))
    taken = sum(part for part in (agreement.losses, agreement.fee) if part is not None)
    if taken > 1:
        raise Rejected(Reason.MALFORMED, "as `act` refuses it")
    needs = dict.fromkeys(agreement.members, NEED_UWH)
    coefficients = [1] * len(agreement.claims) if agreement.method is Method.COEFFICIENTS else []
    losses_uwh = 0 if agreement.are_losses_stated else None
    outcome = share(agreement, ENERGY, needs, coefficients, losses_uwh)
    _check_outcome(outcome, sum(ENERGY.values()))
    if agreement.needs_consumption and max(outcome.given) > NEED_UWH:
        raise FalseAcceptance(f"more than was consumed: {outcome}")
    same(data, cbor.encode(encode_map(agreement)))


def _check_outcome(outcome: Outcome, energy_uwh: int) -> None:
    amounts = (*outcome.given, outcome.losses_uwh, outcome.fee_uwh, outcome.surplus_uwh)
    if min(amounts) < 0 or sum(amounts) != energy_uwh:
        raise FalseAcceptance(f"energy is not conserved: {outcome} of {energy_uwh} µWh")


def _read_distribution(data: bytes) -> None:
    """Parts of a distribution, one payload behind another, against each scene."""
    match cbor.decode(data):
        case [bytes(), *_] as raws if all(isinstance(raw, bytes) for raw in raws):
            parts = [decode_map(Distribution, cbor.decode(raw)) for raw in raws]  # type: ignore[arg-type]  # just checked
        case _:
            raise Rejected(Reason.MALFORMED, "not payloads in an array")
    whole = join(parts)
    refused: Rejected | None = None
    for scene in scenes():
        for needs in (None, scene.needs):
            try:
                after = judge(scene.agreed, scene.settlement, whole, needs)
            except Rejected as error:
                refused = error
                continue
            _check_account(scene, after)
            if needs is not None or scene.needs is None:
                _check_given(scene, whole)
            return
    assert refused is not None
    raise refused


def _check_account(scene: Scene, after: Settlement) -> None:
    brought = sum(one.energy_uwh for one in after.brought)
    if brought + after.waiting_uwh != scene.settlement.waiting_uwh:
        raise FalseAcceptance(f"energy came or went: {after}")
    _check_outcome(after.outcome(scene.agreed.agreement), brought)


def _check_given(scene: Scene, whole: Distribution) -> None:
    """All that waits, once the rule was recomputed: there is one way to give it."""
    if len(whole.inputs) == len(scene.whole.inputs) and whole.outputs != scene.whole.outputs:
        raise FalseAcceptance(f"not as agreed: {whole}")


def _payload(body: Agreement | Distribution) -> bytes:
    return cbor.encode(encode_map(body))


def _read_rows(data: bytes) -> None:
    """A row of an agreement or of a settlement, among all others of the store as they are."""
    village = scenes()[0].village
    state = village.state
    agreements = [encode_agreement(one) for one in state.agreements]
    settlements = [encode_settlement(one) for one in state.settlements.values()]
    match cbor.decode(data):
        case {0: bytes()}:
            agreements = [data]
        case _:
            settlements = [data]
    meters = [encode_meter(one) for one in state.meters.values()]
    rows = Rows(encode_common(state), meters, agreements, settlements)
    found = decode_state(village.leaves[0], rows)
    same(agreements[0], encode_agreement(found.agreements[0]))
    same(settlements[0], *map(encode_settlement, found.settlements.values()))


def _rows() -> list[bytes]:
    state = scenes()[0].village.state
    return [
        encode_agreement(state.agreements[0]),
        *map(encode_settlement, state.settlements.values()),
    ]


SHARING: tuple[Target, ...] = (
    Target(
        "agreement",
        ("cryptometer.sharing.share",),
        _read_agreement,
        lambda: [_payload(scene.agreed.agreement) for scene in scenes()],
    ),
    Target(
        "distribution",
        ("cryptometer.parts.join", "cryptometer.judging.judge"),
        _read_distribution,
        lambda: [cbor.encode([_payload(scene.whole)]) for scene in scenes()],
    ),
    Target("sharing-rows", ("cryptometer.snapshot.decode_state",), _read_rows, _rows),
)
