"""The authority's chain: read, extended, and who stands in it. No files, no clock.

Beyond what the chain's verdicts demand, it keeps the rules an authority owes its community: one
name for one party, one name for one meter, and a revoked key never again.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from cryptometer import records
from cryptometer.authority_records import (
    ChainPlace,
    Genesis,
    MeterDetails,
    ReAnchor,
    Registration,
    Revocation,
)
from cryptometer.enrolment import AUTHORITY_RECORDS_MAX
from cryptometer.errors import ConfigurationError, Rejected
from cryptometer.governing import act, found, govern
from cryptometer.keys import Algorithm, PublicKey, Signer
from cryptometer.record_fields import NAME, Role
from cryptometer.records import Record
from cryptometer.sharing_records import Agreement
from cryptometer.state import State

SIGNS_NOTES = (Role.GATEWAY, Role.NODE)  # checkpoints, and C2SP notes know Ed25519 only
NAMES_ITS_KEY = (Role.GATEWAY, Role.VPP)  # stands in every bundle and in community.pub
NAMES_ITS_KEY_MAX = AUTHORITY_RECORDS_MAX // 2  # leaves room in a bundle for the party's own

Body = TypeVar("Body", Registration, Revocation, ReAnchor, Agreement)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one registered name stands.

    Attributes:
        registration: the newest one.
        own: all registrations and re-anchors of the name, oldest first.
        revoked: the newest word on it is a revocation.
        revoked_keys: keys it may never use again.
    """

    role: Role
    name: str
    registration: Record
    own: tuple[Record, ...]
    revoked: bool = False
    revoked_keys: frozenset[PublicKey] = frozenset()

    @property
    def details(self) -> MeterDetails | None:
        """What the newest registration says of the meter; None for a party that is none."""
        body = self.registration.body
        return body.meter if isinstance(body, Registration) else None

    @property
    def key(self) -> PublicKey:
        """The key of the newest registration."""
        body = self.registration.body
        assert isinstance(body, Registration)  # noqa: S101 - `standings` puts no other there
        return body.key

    @property
    def keys(self) -> frozenset[PublicKey]:
        """Every key it was ever registered with."""
        return frozenset(
            record.body.key for record in self.own if isinstance(record.body, Registration)
        )


@dataclass(frozen=True, slots=True)
class Roll:
    """The authority's chain with every record applied.

    Attributes:
        records: the genesis and what followed, in order.
        state: the community once all of them act.
    """

    records: tuple[Record, ...]
    state: State

    @property
    def genesis(self) -> Genesis:
        return self.state.genesis

    def standings(self) -> dict[str, Standing]:
        """Everyone ever registered, by name, in order of the first registration."""
        known: dict[str, Standing] = {}
        for record in self.records:
            match record.body:
                case Registration() as body:
                    before = known.get(body.name)
                    known[body.name] = Standing(
                        body.role,
                        body.name,
                        record,
                        (record,) if before is None else (*before.own, record),
                        revoked_keys=frozenset() if before is None else before.revoked_keys,
                    )
                case Revocation(name=name):
                    before = known[name]
                    known[name] = Standing(
                        before.role,
                        name,
                        before.registration,
                        before.own,
                        revoked=True,
                        revoked_keys=before.keys,
                    )
                case ReAnchor(meter=name):
                    before = known[name]
                    known[name] = Standing(
                        before.role,
                        name,
                        before.registration,
                        (*before.own, record),
                        before.revoked,
                        before.revoked_keys,
                    )
        return known


def open_roll(raws: Iterable[bytes]) -> Roll:
    """Reads a whole chain, genesis first, applying record after record.

    Raises:
        Rejected: it is not the unbroken chain of one authority, or a record has no effect.
    """
    first, *others = [records.decode(raw) for raw in raws]
    roll = Roll((first,), govern(found(first), first))
    for record in others:
        roll = _applied(roll, record)
    return roll


def found_roll(genesis: Genesis, signer: Signer) -> Roll:
    """A new community.

    Raises:
        ConfigurationError: a parameter is out of range.
    """
    try:
        return open_roll([records.seal(genesis, None, signer).raw])
    except Rejected as refused:
        raise ConfigurationError(f"the community's parameters: {refused.detail}") from None


def registered(
    roll: Roll,
    signer: Signer,
    role: Role,
    name: str,
    key: PublicKey,
    from_step: int,
    details: MeterDetails | None,
) -> Roll:
    """The chain with a registration more. A known name gets a new key, new details, or both.

    Raises:
        ConfigurationError: name, key or meter stand for something else already, or the key is not
            of the kind that the role needs.
        Rejected: the community's state refuses it.
    """
    check_name(name)
    known = roll.standings()
    mine = known.get(name)
    if mine is not None and mine.role is not role:
        raise ConfigurationError(
            f"{name} is the name of a {mine.role}; the broker tells parties apart by name alone"
        )
    if mine is not None and key in mine.revoked_keys:
        raise ConfigurationError(
            f"this key of {name} is revoked: have its owner make a new key and a new request"
        )
    if role in SIGNS_NOTES and key.algorithm is not Algorithm.EDDSA:
        raise ConfigurationError(f"a {role} signs checkpoints, and needs an Ed25519 key for it")
    shared = {one.name for one in known.values() if one.role in NAMES_ITS_KEY and not one.revoked}
    if role in NAMES_ITS_KEY and len(shared | {name}) > NAMES_ITS_KEY_MAX:
        raise ConfigurationError(
            f"a community has at most {NAMES_ITS_KEY_MAX} gateways and VPPs; revoke one first"
        )
    for other in known.values():
        if details is None or other.details is None or other.revoked or other.name == name:
            continue
        if other.details.serial == details.serial:
            raise ConfigurationError(
                f"the meter with serial {details.serial} counts already, as {other.name}; if they"
                " are two meters, put the manufacturer before the number"
            )
    place = roll.state.authority
    body = Registration(place.sequence, place.previous, role, name, key, from_step, details)
    return _extended(roll, body, signer, f"the registration of {name}")


def revoked(roll: Roll, signer: Signer, name: str, reason: str, last: ChainPlace | None) -> Roll:
    """The chain with a revocation more.

    Args:
        last: the last valid record of a meter's chain; None when none is, and for other parties.

    Raises:
        ConfigurationError: no such name, or the revocation would change nothing.
        Rejected: the community's state refuses it.
    """
    mine = standing_of(roll, name)
    if last is not None and mine.role is not Role.METER:
        raise ConfigurationError(f"{name} is a {mine.role}; only a meter has a last valid record")
    place = roll.state.authority
    body = Revocation(place.sequence, place.previous, mine.role, name, reason, last)
    after = _extended(roll, body, signer, f"the revocation of {name}")
    if (after.state.meters, after.state.parties) == (roll.state.meters, roll.state.parties):
        raise ConfigurationError(f"{name} is revoked already, and this would change nothing")
    return after


def re_anchored(
    roll: Roll, signer: Signer, meter: str, at: int, register: int, reason: str
) -> Roll:
    """The chain with a re-anchor more: the meter's next record has sequence `at` and starts from
    `register` pulses.

    Raises:
        ConfigurationError: no such meter, it is revoked, or a number is out of range.
        Rejected: the community's state refuses it.
    """
    mine = standing_of(roll, meter)
    if mine.role is not Role.METER:
        raise ConfigurationError(f"{meter} is a {mine.role}; only a meter's chain is re-anchored")
    if mine.revoked:
        raise ConfigurationError(f"{meter} is revoked; register it again first")
    place = roll.state.authority
    body = ReAnchor(place.sequence, place.previous, meter, at, register, reason)
    return _extended(roll, body, signer, f"the re-anchor of {meter}")


def agreed(roll: Roll, signer: Signer, make: Callable[[int, bytes], Agreement]) -> Roll:
    """The chain with an agreement more; `make` is given its sequence number, and the identity of
    the record before.

    Raises:
        ConfigurationError: a number is out of range, or it is too large for a record.
        Rejected: the community's state refuses it.
    """
    place = roll.state.authority
    return _extended(roll, make(place.sequence, place.previous), signer, "the agreement")


def standing_of(roll: Roll, name: str) -> Standing:
    """Where a name stands.

    Raises:
        ConfigurationError: nobody is registered with it.
    """
    known = roll.standings()
    if name not in known:
        there = f"known are {', '.join(sorted(known))}" if known else "nobody is registered yet"
        raise ConfigurationError(f"nobody is registered as {name!r}; {there}")
    return known[name]


def check_name(name: str) -> None:
    """Refuses what cannot be a topic level, a file name and a DNS label alike.

    Raises:
        ConfigurationError: with the rule.
    """
    try:
        NAME.encode(name)
    except Rejected:
        raise ConfigurationError(
            "a name has up to 63 lower-case letters, digits and inner hyphens, for example"
            f" pv-roof-3; not {name!r}"
        ) from None


def _extended(roll: Roll, body: Body, signer: Signer, what: str) -> Roll:
    try:
        record = records.seal(body, roll.state.community, signer)
    except Rejected as refused:
        raise ConfigurationError(f"{what}: {refused.detail}") from None
    return _applied(roll, record)


def _applied(roll: Roll, record: Record) -> Roll:
    return Roll((*roll.records, record), act(govern(roll.state, record), record))
