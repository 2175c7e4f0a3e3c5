"""A meter after a block: what is registered of it, where its chain stands, and its energy."""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from cryptometer.authority_records import Use
from cryptometer.chain_records import Batch, Reading
from cryptometer.errors import Reason, Rejected
from cryptometer.keys import PublicKey
from cryptometer.metrology import pulse_worth
from cryptometer.record_fields import DIGEST, MS, NAME, STEP
from cryptometer.wire import (
    UINT_MAX,
    Choice,
    Key,
    Many,
    Map,
    Rational,
    Text,
    Uint,
    wire,
    wire_optional,
)

REGISTRATIONS_MAX = 1_000  # of one meter; each is kept, since late records may name it
# Five years of greatest power are thirty of a generator on a roof, more than a meter's verification
# lasts. Longer would leave less room for meters in 63 bits: see Head.allowance_uwh.
LIFETIME_H = 5 * 8766
_WH_PER_KWH = 1_000


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain stands.

    Attributes:
        sequence: of the record expected next.
        previous: identity that record must name; the newest registration's while the chain has no
            record, which may then name an older one of its key as well.
        register: where it must start; None while the chain has no record: its first one, a run
            start, sets the register.
        allowance_uwh: energy the chain may still register. It begins with what the meter's
            greatest power gives in LIFETIME_H, so that no device can drive a sum out of 63 bits.
        signer: which of the meter's registrations, counted from 0, names the key that signed last:
            keys of earlier ones have been replaced. None is 0.
    """

    sequence: int = wire(0, Uint())
    previous: bytes = wire(1, DIGEST)
    allowance_uwh: int = wire(2, Uint())
    register: int | None = wire_optional(3, Uint())
    signer: int | None = wire_optional(4, Uint(1))


@dataclass(frozen=True, slots=False)  # a place for what is worked out once
class Terms:
    """One registration of a meter, as far as verdicts need it.

    Attributes:
        ratio: r if the constant is a secondary one, else 1.
        valid_to: after a revocation, the first sequence number that is refused.
        latch_ms: of an index, how old the newest reading of a step may be at its end, the clock's
            error included, for the step to be closed; None where pulses are counted.
    """

    registration: bytes = wire(0, DIGEST)
    key: PublicKey = wire(1, Key())
    from_step: int = wire(2, STEP)
    constant: Fraction = wire(3, Rational())
    ratio: Fraction = wire(4, Rational())
    lot_pulses: int = wire(5, Uint(1))
    use: Use = wire(6, Choice(Use))
    valid_to: int | None = wire_optional(7, Uint())
    latch_ms: int | None = wire_optional(8, MS)

    @property
    def is_index(self) -> bool:
        """Whether the meter's own index counts, and not its pulses."""
        return self.latch_ms is not None

    def energy_uwh(self, before: int, after: int) -> int:
        """Energy between two registers in µWh: the difference of what `register_uwh` says of each,
        so that rounding never adds up."""
        worth_uwh, per_pulses = self._pulse_worth
        return after * worth_uwh // per_pulses - before * worth_uwh // per_pulses

    @cached_property
    def _pulse_worth(self) -> tuple[int, int]:
        return pulse_worth(self.constant, self.ratio)

    def counts_like(self, other: "Terms") -> bool:
        """Whether a register goes on from one to the other: both count pulses, of whatever worth,
        or the same last digit of an index."""
        if self.is_index or other.is_index:
            return self.is_index == other.is_index and self.constant == other.constant
        return True

    def is_worth(self, other: "Terms") -> bool:
        """Whether a unit of the register holds as much energy as by the other."""
        return self.constant * other.ratio == other.constant * self.ratio

    def lot_limit(self, newest: "Terms") -> Fraction | int:
        """The most pulses of a lot made under these terms that satisfies the newest as well: by
        its energy, since a pulse may be worth less in them."""
        if newest is self:
            return self.lot_pulses
        worth = (newest.ratio * self.constant) / (newest.constant * self.ratio)
        return min(Fraction(self.lot_pulses), newest.lot_pulses * worth)


@dataclass(frozen=True, slots=True)
class Meter:
    """One meter after a block.

    Attributes:
        terms: every registration, the newest last.
        head: where its chain stands.
        last_step: the newest step a counted record belongs to.
        closed_step: the newest step it closed, or None.
        closed_register: the register at its newest close, which the next one starts from, whether
            that close transferred anything or was set aside.
        open_uwh: counted energy of `last_step` that no close has transferred yet.
        untransferred_uwh: all counted energy that no close has transferred yet.
        transferred_uwh: all energy its closes have transferred.
        quarantined_uwh: all energy the energy verdict set aside.
        lifetime_uwh: what its greatest power gives in LIFETIME_H: the most it may ever register.
        index_wh: what the display showed when this device was registered, or read anew, Wh.
        index_from_uwh: what the chain had registered by then.
        read_ms: when its newest counted reading was taken, ms since the Unix epoch; None where lots
            have counted since.
        anchored: which registration, counted from 0, was the newest when the chain's newest
            re-anchor acted or, without one, the one that it began with: the register is in that
            one's unit. None is 0.
        floor: of an index, what the display showed by the newest registration that acted when the
            chain began, in the register's unit: the meter has given what lies below to nobody here.
            None is 0; so it is behind a re-anchor, which may move an index to another register.
    """

    name: str = wire(0, NAME)
    serial: str = wire(1, Text(120))
    terms: tuple[Terms, ...] = wire(2, Many(Map(Terms), 1, REGISTRATIONS_MAX))
    head: Head = wire(3, Map(Head))
    last_step: int = wire(4, STEP)
    closed_register: int = wire(5, Uint())
    open_uwh: int = wire(6, Uint())
    untransferred_uwh: int = wire(7, Uint())
    transferred_uwh: int = wire(8, Uint())
    quarantined_uwh: int = wire(9, Uint())
    lifetime_uwh: int = wire(10, Uint())
    index_wh: int = wire(11, Uint())
    index_from_uwh: int = wire(12, Uint())
    closed_step: int | None = wire_optional(13, STEP)
    read_ms: int | None = wire_optional(14, MS)
    anchored: int | None = wire_optional(15, Uint(1))
    floor: int | None = wire_optional(16, Uint(1))

    @property
    def is_private(self) -> bool:
        """Whether it tells what a member consumes: its records then stand in no ledger, and what is
        said here of its chain is that of a chain without records. The same for its whole life."""
        return self.terms[-1].use is Use.CONSUMPTION

    @property
    def registered_uwh(self) -> int:
        """All energy its chain has registered, µWh."""
        return self.untransferred_uwh + self.transferred_uwh + self.quarantined_uwh

    def signed_by(self, key_id: bytes) -> Terms:
        """The newest terms with this key.

        Raises:
            Rejected: UNKNOWN_KEY.
        """
        for terms in reversed(self.terms):
            if terms.key.thumbprint == key_id:
                return terms
        raise Rejected(Reason.UNKNOWN_KEY, f"the key is not registered for {self.name}")

    def place_of(self, key_id: bytes) -> int:
        """Which registration, counted from 0, is the newest with this key.

        Raises:
            Rejected: UNKNOWN_KEY.
        """
        return self.terms.index(self.signed_by(key_id))

    def made_under(self, registration: bytes) -> Terms | None:
        for terms in self.terms:
            if terms.registration == registration:
                return terms
        return None

    def may_go_on(self, terms: Terms, anchored: int | None) -> bool:
        """Whether a chain whose register is in the unit of the registration `anchored` may go on
        under these terms: in the same unit, or since that registration came behind them."""
        began = anchored or 0
        return terms.counts_like(self.terms[began]) or self.terms.index(terms) <= began

    def floor_by(self, began: Terms) -> int | None:
        """The `floor` of a chain that begins now, with this registration."""
        shown = int(self.index_wh * began.constant / _WH_PER_KWH) if began.is_index else 0
        return min(shown, UINT_MAX) or None

    def terms_of(self, body: Batch | Reading) -> Terms:
        """What the energy of a batch or a reading is reckoned by: the newest terms, when it names
        none of this meter's."""
        return self.made_under(body.registration) or self.terms[-1]

    def in_force(self, step: int) -> Terms | None:
        """The newest terms that hold in a step."""
        for terms in reversed(self.terms):
            if terms.from_step <= step:
                return terms
        return None

    def expected_at(self, step: int) -> bool:
        """Whether the block of `step` should wait for this meter's close."""
        newest = self.terms[-1]
        return (
            newest.use is Use.GENERATION
            and newest.valid_to is None
            and self.terms[0].from_step <= step
        )
