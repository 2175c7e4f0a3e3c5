"""What a device knows of its community: from the bundle, and from what the authority sent since."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from cryptometer import cbor, records
from cryptometer.acknowledgement import Acknowledgement
from cryptometer.authority_records import (
    AuthorityRecord,
    CountingSource,
    MeterDetails,
    ReAnchor,
    Registration,
    Revocation,
)
from cryptometer.community import Community, trust
from cryptometer.enrolment import Broker, Bundle
from cryptometer.errors import ConfigurationError, Reason, Rejected
from cryptometer.keys import PublicKey
from cryptometer.metrology import SECONDS_PER_HOUR, UWH_PER_KWH, Side, lot_limit
from cryptometer.record_fields import Role
from cryptometer.records import Record
from cryptometer.steps import NS_PER_S, step_start_ms
from firmware.lots import Terms


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A device's place in a community.

    Attributes:
        meter: the name of its meter.
        broker: how to reach the broker, as the authority says.
        registrations: the records that register the meter with this device's key, or one it had
            before, oldest first; at least one.
        beginning: the newest with the present key: what a chain without a record begins with.
        anchors: re-anchors of the meter's chain, oldest first.
        revoked: the newest word on the meter is a revocation.
    """

    community: Community
    meter: str
    broker: Broker
    registrations: tuple[Record, ...]
    beginning: Record
    anchors: tuple[Record, ...]
    revoked: bool

    @property
    def registration(self) -> Record:
        """The newest registration; it may lie in the future."""
        return self.registrations[-1]

    @property
    def details(self) -> MeterDetails:
        """Of the meter, from the newest registration."""
        return _meter_of(self.registration)[1]

    @property
    def former(self) -> tuple[PublicKey, ...]:
        """The registered keys that the present one has followed, oldest first."""
        own = _key_of(self.beginning)
        return tuple(key for key in dict.fromkeys(map(_key_of, self.registrations)) if key != own)

    @property
    def registered(self) -> tuple[tuple[int, bytes], ...]:
        """From which step on each registration acts, and its identity; the newest last."""
        return tuple((_meter_of(one)[0], one.identity) for one in self.registrations)

    @property
    def from_ms(self) -> int:
        """When the first step of the newest registration begins, UTC."""
        from_step, _ = _meter_of(self.registration)
        return step_start_ms(from_step, self.community.parameters.step_s)

    @property
    def begun(self) -> int:
        """The place in the authority's chain of what a chain without a record begins with."""
        return _authority_of(self.beginning).sequence

    @property
    def is_index(self) -> bool:
        """Whether the meter's own index counts."""
        return self.details.source is CountingSource.INDEX

    def since(self, anchors: int, begun: int | None) -> int:
        """The place in the authority's chain of what gave a chain's register its unit.

        Args:
            anchors: how many re-anchors have acted on it.
            begun: the place of the registration that it began with, if known.
        """
        if 0 < anchors <= len(self.anchors):
            return _authority_of(self.anchors[anchors - 1]).sequence
        return begun or 0

    def in_unit_at(self, since: int) -> "Enrolment":
        """The same with only those registrations by which a register has the unit of the newest
        that the authority had given by its record `since`."""
        first, *_ = self.registrations
        known = [one for one in self.registrations if _authority_of(one).sequence <= since]
        unit = _meter_of((known or [first])[-1])[1].register_unit
        alike = [one for one in self.registrations if _meter_of(one)[1].register_unit == unit]
        return replace(self, registrations=tuple(alike))

    @property
    def unit_uwh(self) -> Fraction:
        """Of an index: what its last digit is worth as the meter shows it, micro-watt-hours."""
        return Fraction(UWH_PER_KWH) / self.details.constant

    @property
    def power_w(self) -> int:
        """The most that a meter shows, W: that of I_max on the side it measures, and a fifth more,
        since U may be higher and a fuse takes its time."""
        details = self.details
        shown_w = Fraction(details.phases * details.voltage_mv * details.i_max_ma, 10**6)
        is_scaled = details.ratings_side is Side.PRIMARY and details.constant_side is Side.SECONDARY
        return int(shown_w / (details.ratio if is_scaled else 1) * 6 / 5)

    @property
    def terms(self) -> Terms:
        """What the counter must know: an earlier registration acts until a newer one does."""
        # The one that reaches back farthest speaks for all that came before the others.
        first, *later = self._terms()
        earliest = min((first, *later), key=lambda one: one.first_ms)
        return replace(earliest, later=(first, *later)) if later else first

    def _terms(self) -> list[Terms]:
        step_s = self.community.parameters.step_s
        found: list[Terms] = []
        for from_step, details in map(_meter_of, self.registrations):
            ratings = details.ratings
            pulse_wh = Fraction(ratings.pulse_uwh) / 10**6
            pulse_h = pulse_wh / ratings.power_w(details.i_max_ma)
            pulse_ns = int(pulse_h * SECONDS_PER_HOUR * NS_PER_S)
            first_ms = step_start_ms(from_step, step_s)
            is_index = details.source is CountingSource.INDEX
            latch_ms = ratings.latch_ms(step_s) if is_index else None
            found.append(
                Terms(step_s, details.lot_pulses, first_ms, pulse_ns, details.coarse, latch_ms)
            )
        return found


def read_bundle(
    raw: bytes, update: bytes | None, key: PublicKey, former: Sequence[PublicKey] = ()
) -> Enrolment:
    """Reads a bundle, and authority records that came later.

    Args:
        raw: the bundle's bytes, as `authority register` wrote them.
        update: a CBOR array of authority records, or None.
        key: this device's public key.
        former: those it had before, whose chain and registrations it goes on with.

    Raises:
        Rejected: something is not signed by the bundle's authority, or not meant for this key.
    """
    bundle = records.decode(raw)
    body = bundle.body
    if not isinstance(body, Bundle):
        raise Rejected(Reason.UNKNOWN_KIND, f"a {body.KIND} is no bundle")
    known = dict.fromkeys(body.records)
    for record in read_update(update) if update is not None else ():
        known[record] = None
    ordered = sorted(known, key=_sequence)
    community = trust(body.genesis, ordered)
    if bundle.community != community.id:
        raise Rejected(Reason.OTHER_COMMUNITY, "the bundle is of another community")
    if bundle.key_id != community.parameters.authority.thumbprint:
        raise Rejected(Reason.UNKNOWN_KEY, "the bundle is not signed by the authority")
    bundle.envelope.verify(community.parameters.authority)
    return _enrol(community, body, key, former)


def enrolment_of(
    name: str,
    genesis: bytes,
    others: Sequence[bytes],
    key: PublicKey,
    former: Sequence[PublicKey] = (),
) -> Enrolment:
    """A device's place in a community by the authority's records alone, without a broker.

    Raises:
        Rejected: they are not one authority's, or not meant for this key.
    """
    ordered = sorted(dict.fromkeys(others), key=_sequence)
    bundle = Bundle(name, genesis, tuple(ordered), Broker("mqtt://nowhere.invalid"))
    return _enrol(trust(genesis, ordered), bundle, key, former)


def check_source(enrolment: Enrolment, *, is_index: bool) -> None:
    """Whether the configured line is of the kind that is registered.

    Args:
        is_index: whether it reads the meter's own index.

    Raises:
        ConfigurationError: it is not; and what to do.
    """
    registered = enrolment.details.source
    if (registered is CountingSource.INDEX) is not is_index:
        here = CountingSource.INDEX if is_index else CountingSource.PULSES
        raise ConfigurationError(
            f"the registration of {enrolment.meter} counts its {registered}, and [source] of this"
            f" configuration its {here}: change the one, or have the authority change the other"
        )


def check_meter(enrolment: Enrolment) -> None:
    """Whether this program can count the registered meter at all; asked at every start.

    Raises:
        ConfigurationError: a contradiction, and what to do.
    """
    details, step_s = enrolment.details, enrolment.community.parameters.step_s
    if details.source is CountingSource.INDEX:
        return  # it has no lots
    limit = lot_limit(details.ratings, step_s, accept_coarse=details.coarse)
    if details.lot_pulses > limit:
        raise ConfigurationError(
            f"the registration of {enrolment.meter} allows {details.lot_pulses} pulses per lot;"
            f" with its ratings a lot holds at most {limit}: ask the authority for a new one"
        )


def read_update(data: bytes) -> tuple[bytes, ...]:
    """The authority records in a registration message: a CBOR array of byte strings.

    Raises:
        Rejected: MALFORMED.
    """
    value = cbor.decode(data)
    if not isinstance(value, list) or not all(isinstance(one, bytes) for one in value):
        raise Rejected(Reason.MALFORMED, "not an array of authority records")
    return tuple(one for one in value if isinstance(one, bytes))


def open_acknowledgement(raw: bytes, enrolment: Enrolment) -> Acknowledgement:
    """Reads a gateway's word on this meter's chain.

    Raises:
        Rejected: why it is none.
    """
    record = records.decode(raw)
    body = record.body
    if not isinstance(body, Acknowledgement) or body.meter != enrolment.meter:
        raise Rejected(Reason.UNKNOWN_KIND, "not an acknowledgement for this meter")
    if record.community != enrolment.community.id:
        raise Rejected(Reason.OTHER_COMMUNITY, "an acknowledgement of another community")
    for key in enrolment.community.keys_of(Role.GATEWAY):
        if key.thumbprint == record.key_id:
            record.envelope.verify(key)
            return body
    raise Rejected(Reason.UNKNOWN_KEY, "an acknowledgement not signed by the gateway")


def _enrol(
    community: Community, bundle: Bundle, key: PublicKey, former: Sequence[PublicKey]
) -> Enrolment:
    registrations: list[Record] = []
    anchors: list[Record] = []
    revoked = False
    for record in community.records:
        match record.body:
            case Registration(role=Role.METER, name=bundle.name) as body if body.meter is not None:
                if body.key in (key, *former):
                    registrations.append(record)
                    revoked = False
            case Revocation(role=Role.METER, name=bundle.name):
                revoked = True
            case ReAnchor(meter=bundle.name):
                anchors.append(record)
    mine = [one for one in registrations if _key_of(one) == key]
    if not mine:
        raise Rejected(
            Reason.UNKNOWN_KEY, f"the bundle does not register this device's key for {bundle.name}"
        )
    return Enrolment(
        community,
        bundle.name,
        bundle.broker,
        tuple(registrations),
        mine[-1],
        tuple(anchors),
        revoked,
    )


def _meter_of(registration: Record) -> tuple[int, MeterDetails]:
    """From which step on a registration acts, and what it says of the meter."""
    body = registration.body
    assert isinstance(body, Registration)  # noqa: S101 - `_enrol` chose them
    assert body.meter is not None  # noqa: S101
    return body.from_step, body.meter


def _authority_of(record: Record) -> AuthorityRecord:
    body = record.body
    assert isinstance(body, AuthorityRecord)  # noqa: S101 - `_enrol` chose them
    return body


def _key_of(registration: Record) -> PublicKey:
    body = registration.body
    assert isinstance(body, Registration)  # noqa: S101 - `_enrol` chose them
    return body.key


def _sequence(raw: bytes) -> int:
    body = records.decode(raw).body
    if not isinstance(body, AuthorityRecord):
        raise Rejected(Reason.UNKNOWN_KIND, f"a {body.KIND} is no authority record")
    return body.sequence
