"""Every record of format version 1: what each says, and how its payload is written.

`records.cddl` states the same for strangers. A record is one signed statement; `Record` is a
record decoded once, at the door: its envelope and the statement inside.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from fractions import Fraction
from functools import cached_property
from typing import ClassVar, TypeAlias

from cryptometer import cbor, cose
from cryptometer.errors import Reason, Rejected
from cryptometer.keys import PublicKey, Signer
from cryptometer.metrology import Ratings, Side
from cryptometer.steps import ClockSource, ClockState
from cryptometer.wire import (
    Bytes,
    Choice,
    Flag,
    Flat,
    Key,
    Many,
    Map,
    Rational,
    Row,
    Text,
    Uint,
    decode_map,
    encode_map,
    wire,
    wire_optional,
)

LOTS_MAX = 4_096  # keeps a batch below RECORD_MAX: a lot takes 2 to 14 bytes
MARKS_MAX = 64
WATCHED_MAX = 512  # intervals of one step: more restarts than that are merged by the device
AUTHORITY_RECORDS_MAX = 64
BLOCK_LEAVES_MAX = 2**24
CLAIMS_MAX = 2_500  # keeps an agreement below RECORD_MAX, if names are not all of the longest
INPUTS_MAX = 1_500  # likewise of a part of a distribution
PARTS_MAX = 1_000
ASIDE_MAX = 4_096  # runs of distributions that move nothing in one block: none is of honest plants

DIGEST = Bytes(32, 32)
NAME = Text(63, "[a-z0-9]([a-z0-9-]*[a-z0-9])?")  # fits a DNS label, an MQTT level, a file name
LABEL = Text(120)
STEP = Uint(high=2**40)
STEP_S = Uint(60, 86_400)
MS = Uint(high=2**50)
REGISTER = Uint(high=2**61)  # pulses; leaves room to add a batch without leaving 63 bits
UNIT_UWH = Uint(1, 10**15)  # of an index's last digit, up to a GWh


class Kind(StrEnum):
    """The kinds of format version 1. Reserved for later, and refused until then: candidate, winner,
    vote, evidence, market."""

    GENESIS = "genesis"
    REGISTRATION = "registration"
    REVOCATION = "revocation"
    RE_ANCHOR = "re-anchor"
    AGREEMENT = "agreement"
    RUN_START = "run-start"
    BATCH = "batch"
    READING = "reading"
    STEP_CLOSE = "step-close"
    DISTRIBUTION = "distribution"
    HEADER = "header"
    ACKNOWLEDGEMENT = "acknowledgement"
    ENROLMENT_REQUEST = "enrolment-request"
    BUNDLE = "bundle"


class Role(StrEnum):
    """What a registered party is to the community."""

    METER = "meter"
    GATEWAY = "gateway"
    VPP = "vpp"
    MEMBER = "member"
    NODE = "node"


class Use(StrEnum):
    """What a meter's energy is to the community; only generation is expected in every block."""

    GENERATION = "generation"
    CONSUMPTION = "consumption"
    STORAGE = "storage"


class CountingSource(StrEnum):
    """Which way of reading a meter counts: lots of pulses, or its own index."""

    PULSES = "pulses"
    INDEX = "index"


class Method(StrEnum):
    """By what the members of one priority share a producer's energy."""

    EQUAL = "equal"
    KEYS = "keys"  # the weights of the agreement
    PRO_RATA = "pro-rata"  # what each consumed in the step, and no more than that
    COEFFICIENTS = "coefficients"  # weights given from outside for the step


class Mark(IntEnum):
    """What a device declares beside its counts, each with an amount. Unknown marks are kept."""

    COARSE = 1  # amount: pulses; one pulse alone reaches the bound, accepted by configuration
    UNDATED = 2  # pulses of an earlier boot that never knew the time
    CLOCK_DOUBTFUL = 3  # milliseconds: largest error bound, above 5 s
    CLOCK_STEPPED = 4  # milliseconds: the synchronised clock jumped by this much
    BURST = 5  # pulses that came faster than the meter can give them, or waited before the start
    STRADDLE = 6  # pulses whose capture interval spans the start of their step
    LOST = 7  # pulses or edges the kernel says it dropped
    NOISE = 8  # received bytes that were no pulse
    OVERSIZE = 9  # pulses in lots above V: the last resort of a full disk
    CUT = 10  # bytes of the device's journal found damaged and set aside
    RECOVERED = 11  # pulses that another counter counted while nobody watched the line
    REFUSED = 12  # messages of a meter that speaks, damaged or not as they should be
    INDEX_FAULT = 13  # its readings that went back, or grew faster than I_max allows
    RECALLED = 14  # steps that nobody read, told by the meter's own load profile
    COMPARED_FAULT = 15  # messages of a source that is only compared, refused or not to be believed


class Ending(StrEnum):
    """Why the run before this one ended, as far as the device knows."""

    FIRST = "first"  # there was no run before
    STOPPED = "stopped"  # ended in order
    UNKNOWN = "unknown"  # killed, crashed or power cut
    LINE_LOST = "line-lost"  # the pulse line was gone for a while


@dataclass(frozen=True, slots=True)
class ClockReading:
    """The clock behind a record: its source, its state and its error bound in milliseconds."""

    source: ClockSource = wire(0, Choice(ClockSource))
    state: ClockState = wire(1, Choice(ClockState))
    error_ms: int = wire(2, MS)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head: number of leaves and RFC 6962 root (32 bytes)."""

    size: int = wire(0, Uint())
    root: bytes = wire(1, DIGEST)


# --- The authority's chain: sequence 0 is the genesis, each record names the one before. ---------


@dataclass(frozen=True, slots=True)
class Genesis:
    """Founds a community: its parameters and the authority's key. Its identity names it.

    Attributes:
        first_step: the step of the first block.
        step_s: length of a market step, seconds.
        grace_ms: how long after its end a step's block waits for closes, community time.
        late_steps: how many steps late a record may be and still count.
        token_uwh: energy of one voting token, µWh (paper A table IV).
        token_steps: validity of a token in steps, d of paper A table IV.
        quorum: approvals a block needs; 1 while one gateway makes blocks.
    """

    KIND: ClassVar[Kind] = Kind.GENESIS

    name: str = wire(0, LABEL)
    authority: PublicKey = wire(1, Key())
    created_ms: int = wire(2, MS)
    first_step: int = wire(3, STEP)
    step_s: int = wire(4, STEP_S)
    grace_ms: int = wire(5, MS)
    late_steps: int = wire(6, STEP)
    token_uwh: int = wire(7, Uint(1))
    token_steps: int = wire(8, Uint(1, 2**20))
    quorum: int = wire(9, Uint(1, 1000))


@dataclass(frozen=True, slots=True)
class MeterDetails:
    """A meter as the authority knows it; the sides and ratios are explained in `Ratings`.

    Attributes:
        serial: the manufacturer's number on the name plate.
        index_wh: what the display showed at enrolment, Wh.
        i_max_ma: I_max, mA: a faster pulse rate than U · I_max gives is declared a burst.
        constant: pulses per kWh; of an index, how many of its last digit make a kWh.
        lot_pulses: V as pulses per lot, the largest number a lot may hold; 1 for an index.
        coarse: one pulse alone reaches the bound, and that was accepted.
        exclusive: the meter counts in this community and no other.
    """

    serial: str = wire(0, LABEL)
    use: Use = wire(1, Choice(Use))
    source: CountingSource = wire(2, Choice(CountingSource))
    index_wh: int = wire(3, Uint())
    accuracy_class: str = wire(4, Text(1, "[ABC]"))
    phases: int = wire(5, Uint(1, 3))
    voltage_mv: int = wire(6, Uint(1, 10**9))
    i_min_ma: int = wire(7, Uint(1, 10**9))
    i_max_ma: int = wire(8, Uint(1, 10**9))
    ratings_side: Side = wire(9, Choice(Side))
    constant: Fraction = wire(10, Rational())
    constant_side: Side = wire(11, Choice(Side))
    ratio: Fraction = wire(12, Rational())
    guard: Fraction = wire(13, Rational())
    lot_pulses: int = wire(14, Uint(1, 2**32))
    coarse: bool = wire(15, Flag())
    exclusive: bool = wire(16, Flag())

    @property
    def register_unit(self) -> tuple[CountingSource, Fraction]:
        """What a register counts: its source and, of an index, how many make a kWh. A new constant
        of pulses says nothing of those that were counted."""
        is_index = self.source is CountingSource.INDEX
        return self.source, self.constant if is_index else Fraction(0)

    @property
    def ratings(self) -> Ratings:
        return Ratings(
            self.accuracy_class,
            self.phases,
            self.voltage_mv,
            self.i_min_ma,
            self.constant,
            self.ratings_side,
            self.constant_side,
            self.ratio,
            self.guard,
        )


@dataclass(frozen=True, slots=True)
class AuthorityRecord:
    """What every record of the authority after the genesis says first."""

    sequence: int = wire(0, Uint(1))
    previous: bytes = wire(1, DIGEST)


@dataclass(frozen=True, slots=True)
class Registration(AuthorityRecord):
    """Names a party, its key and what it is, from a step on. A later one of the same name and
    role replaces it. It acts from the block after the one that holds it."""

    KIND: ClassVar[Kind] = Kind.REGISTRATION

    role: Role = wire(2, Choice(Role))
    name: str = wire(3, NAME)
    key: PublicKey = wire(4, Key())
    from_step: int = wire(5, STEP)
    meter: MeterDetails | None = wire_optional(6, Map(MeterDetails))


@dataclass(frozen=True, slots=True)
class ChainPlace:
    """One record of a chain: its sequence number and its identity."""

    sequence: int = wire(0, Uint())
    identity: bytes = wire(1, DIGEST)


@dataclass(frozen=True, slots=True)
class Revocation(AuthorityRecord):
    """Ends a party's key. For a meter, `last` is the last valid record of its chain, or absent
    when none is valid: whatever comes later is refused."""

    KIND: ClassVar[Kind] = Kind.REVOCATION

    role: Role = wire(2, Choice(Role))
    name: str = wire(3, NAME)
    reason: str = wire(4, LABEL)
    last: ChainPlace | None = wire_optional(5, Row(ChainPlace))


@dataclass(frozen=True, slots=True)
class ReAnchor(AuthorityRecord):
    """Lets a meter's chain go on where it could not: its next record has sequence `at`, names
    this record as the one before, and starts from `register`."""

    KIND: ClassVar[Kind] = Kind.RE_ANCHOR

    meter: str = wire(2, NAME)
    at: int = wire(3, Uint())
    register: int = wire(4, REGISTER)
    reason: str = wire(5, LABEL)


@dataclass(frozen=True, slots=True)
class Claim:
    """What one member may claim under an agreement.

    Attributes:
        weight: the member's key, relative to those of the others of the same priority.
        priority: 0 is served first; a higher number has what those before could not use.
        producer: the meter of whose energy alone this is a claim; absent: of every one's.
    """

    member: str = wire(0, NAME)
    weight: int = wire(1, Uint(0, 2**32))
    priority: int = wire(2, Uint(high=255))
    producer: str | None = wire_optional(3, NAME)


@dataclass(frozen=True, slots=False)  # a place for what is worked out once
class Agreement(AuthorityRecord):
    """How energy is shared from a step on, until the next agreement. Nothing is retroactive:
    `from_step` lies after the step of the block that holds it.

    Attributes:
        vpp: who distributes by it.
        capped: nobody gets more than he consumed in the step (always so by `Method.PRO_RATA`).
        rounds: how often what a member could not use is shared anew among the others of his
            priority; 1: never.
        surplus_to: whose account has what nobody gets.
        losses: part of the energy that is lost on its way; absent: none.
        fee: part of the energy that `fee_to` has; absent: none.
        are_losses_stated: each distribution states its losses, as measured, in place of `losses`.
    """

    KIND: ClassVar[Kind] = Kind.AGREEMENT

    vpp: str = wire(2, NAME)
    from_step: int = wire(3, STEP)
    method: Method = wire(4, Choice(Method))
    capped: bool = wire(5, Flag())
    rounds: int = wire(6, Uint(1, 64))
    claims: tuple[Claim, ...] = wire(7, Many(Map(Claim), 1, CLAIMS_MAX))
    surplus_to: str = wire(8, NAME)
    are_losses_stated: bool = wire(9, Flag())
    losses: Fraction | None = wire_optional(10, Rational())
    fee: Fraction | None = wire_optional(11, Rational())
    fee_to: str | None = wire_optional(12, NAME)

    @cached_property
    def members(self) -> tuple[str, ...]:
        """Everyone with a claim, once, in the order of names."""
        return tuple(sorted({claim.member for claim in self.claims}))

    @property
    def needs_consumption(self) -> bool:
        """Whether its rule asks what members consumed, which no ledger shows."""
        return self.capped or self.method is Method.PRO_RATA

    @cached_property
    def asks_who_produced(self) -> bool:
        """Whether energy of different meters is shared differently."""
        return any(claim.producer is not None for claim in self.claims)


# --- A meter's chain. ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChainRecord:
    """What every record of a meter's chain says first.

    Attributes:
        sequence: 0 for the first record; without gaps.
        previous: identity of the record before; for the first, of the meter's registration;
            after a re-anchor, of that.
        clock: of a run start, the one that dated it; of a batch or close, the one with the
            greatest error that has dated anything of its step so far.
        marks: flat pairs of a `Mark` and its amount.
        register: pulses counted before what this record adds.
        step: the market step the record belongs to.
    """

    meter: str = wire(0, NAME)
    sequence: int = wire(1, Uint())
    previous: bytes = wire(2, DIGEST)
    clock: ClockReading = wire(3, Row(ClockReading))
    marks: tuple[int, ...] = wire(4, Flat(2, MARKS_MAX))
    register: int = wire(5, REGISTER)
    step: int = wire(6, STEP)

    def declared(self, mark: Mark) -> int | None:
        """The amount declared with `mark`, or None. A mark that occurs twice adds up."""
        amounts = [amount for code, amount in _pairs(self.marks) if code == mark]
        return sum(amounts) if amounts else None


@dataclass(frozen=True, slots=True)
class RunStart(ChainRecord):
    """The program began to watch the meter.

    Attributes:
        at_ms: when watching began, ms since the Unix epoch.
        unwatched_ms: since when nobody watched, ms since the Unix epoch; absent in a first run.
            Pulses given between the two are lost, or found waiting in the line's buffer.
        software: name and version of the program.
        ending: how the run before ended.
    """

    KIND: ClassVar[Kind] = Kind.RUN_START

    at_ms: int = wire(7, MS)
    software: str = wire(8, LABEL)
    ending: Ending = wire(9, Choice(Ending))
    unwatched_ms: int | None = wire_optional(10, MS)


@dataclass(frozen=True, slots=True)
class Batch(ChainRecord):
    """Consecutive lots within one step: the energy of paper A's "create" transactions.

    Attributes:
        registration: identity of the registration the lots were made under.
        lots: flat pairs: pulses of a lot, and when it was closed in ms since the step began.
    """

    KIND: ClassVar[Kind] = Kind.BATCH

    registration: bytes = wire(7, DIGEST)
    lots: tuple[int, ...] = wire(8, Flat(2, LOTS_MAX))

    @property
    def pulses(self) -> tuple[int, ...]:
        """Pulses of each lot, in order."""
        return self.lots[::2]

    @property
    def closed_ms(self) -> tuple[int, ...]:
        """When each lot was closed, ms since the step began."""
        return self.lots[1::2]

    @property
    def register_after(self) -> int:
        return self.register + sum(self.pulses)


@dataclass(frozen=True, slots=True)
class Reading(ChainRecord):
    """A meter's own index: what it has grown by since the counting reading before is counted in the
    step it was taken in. Nothing is interpolated.

    Attributes:
        registration: identity of the registration it was made under, whose constant says what the
            last digit of `register` and, of one that counts, of `index` is worth.
        index: as the meter says it, but for what a re-anchor has moved.
        at_ms: when it was taken, ms since the Unix epoch: the index is not younger than a message
            that came by itself, and not older than the question that was answered.
        source: the protocol.
        counting: whether it counts; another source is compared only, and moves no register.
        since_step: of the counting reading before, when steps were missed between the two.
        unit_uwh: of one that is compared only, what the last digit of `index` is worth, µWh, on the
            primary side.
        counted: likewise, where the register of what counts stood when the index was taken.
    """

    KIND: ClassVar[Kind] = Kind.READING

    registration: bytes = wire(7, DIGEST)
    index: int = wire(8, REGISTER)
    at_ms: int = wire(9, MS)
    source: str = wire(10, NAME)
    counting: bool = wire(11, Flag())
    since_step: int | None = wire_optional(12, STEP)
    unit_uwh: int | None = wire_optional(13, UNIT_UWH)
    counted: int | None = wire_optional(14, REGISTER)

    @property
    def register_after(self) -> int:
        return self.index if self.counting else self.register


@dataclass(frozen=True, slots=True)
class StepClose(ChainRecord):
    """Transfers a step's energy to the virtual power plant (paper A table I). `register` is that
    at the close before; what it transfers is what `check_block` counted between the two.

    Attributes:
        register_after: the register at the end of the step.
        watched: flat pairs: intervals watched, ms since the step began.
        checkpoint: the newest checkpoint the device has verified: not before.
    """

    KIND: ClassVar[Kind] = Kind.STEP_CLOSE

    register_after: int = wire(7, REGISTER)
    watched: tuple[int, ...] = wire(8, Flat(2, WATCHED_MAX))
    checkpoint: Checkpoint | None = wire_optional(9, Row(Checkpoint))


# --- The virtual power plant's chain. ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Input:
    """A step close whose energy a distribution spends: its identity, and what it transferred."""

    close: bytes = wire(0, DIGEST)
    energy_uwh: int = wire(1, Uint())
    tokens: int = wire(2, Uint())


@dataclass(frozen=True, slots=True)
class Output:
    """What a member gets: energy, and the voting tokens that go with it (paper A table IV)."""

    member: str = wire(0, NAME)
    energy_uwh: int = wire(1, Uint())
    tokens: int = wire(2, Uint())


@dataclass(frozen=True, slots=True)
class Commitment:
    """A salted hash of what a member consumed in the step: see `openings.commitment`."""

    member: str = wire(0, NAME)
    digest: bytes = wire(1, DIGEST)


@dataclass(frozen=True, slots=True)
class Part:
    """Which record of how many: a large distribution takes several, one behind another."""

    number: int = wire(0, Uint(1, PARTS_MAX))
    parts: int = wire(1, Uint(1, PARTS_MAX))


@dataclass(frozen=True, slots=True)
class Distribution:
    """Shares out energy that step closes brought to the virtual power plant: "transfer to
    participants" (paper A section IV-B2, transaction 5). Over all its parts, the inputs and
    `from_surplus_uwh` equal the outputs, losses, fee and surplus.

    Attributes:
        sequence: 0 for the plant's first record; without gaps.
        previous: identity of its record before; for the first, the community's id.
        step: whose energy this is; the block may be of a later one.
        supplement: 0 for the step's first distribution, one more for each later one.
        agreement: identity of the agreement in force in the step.
        inputs: closes of the step, each spent whole; in all the parts in the plant's order.
        outputs: in the order of names; who gets nothing is left out.
        losses_uwh, fee_uwh, surplus_uwh: in the last part; 0 in those before.
        from_surplus_uwh: what a correction takes back from the step's surplus; in the last part.
        commitments: of every member of the agreement, where its rule asks what they consumed.
        coefficients: one for each claim of the agreement, in its order, where its rule has them
            from outside.
    """

    KIND: ClassVar[Kind] = Kind.DISTRIBUTION

    vpp: str = wire(0, NAME)
    sequence: int = wire(1, Uint())
    previous: bytes = wire(2, DIGEST)
    step: int = wire(3, STEP)
    supplement: int = wire(4, Uint(high=2**32))
    part: Part = wire(5, Row(Part))
    agreement: bytes = wire(6, DIGEST)
    inputs: tuple[Input, ...] = wire(7, Many(Row(Input), 0, INPUTS_MAX))
    outputs: tuple[Output, ...] = wire(8, Many(Row(Output), 0, CLAIMS_MAX))
    losses_uwh: int = wire(9, Uint())
    fee_uwh: int = wire(10, Uint())
    surplus_uwh: int = wire(11, Uint())
    from_surplus_uwh: int = wire(12, Uint())
    commitments: tuple[Commitment, ...] = wire(13, Many(Row(Commitment), 0, CLAIMS_MAX))
    coefficients: tuple[int, ...] = wire(14, Flat(1, CLAIMS_MAX))


# --- The block. ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Flow:
    """Energy that moved in one block, µWh; `registered` = `counted` + `quarantined`.

    Attributes:
        registered: what the chains' registers advanced by.
        counted: of it, what passed the energy verdict.
        quarantined: of it, what did not.
        transferred: what step closes moved to the virtual power plant.
        tokens: voting tokens minted with that.
    """

    registered: int = wire(0, Uint())
    counted: int = wire(1, Uint())
    quarantined: int = wire(2, Uint())
    transferred: int = wire(3, Uint())
    tokens: int = wire(4, Uint())


@dataclass(frozen=True, slots=True)
class Balance:
    """Where all energy ever registered is after a block, µWh (promise F): `registered` equals the
    sum of the other seven."""

    registered: int = wire(0, Uint())
    untransferred: int = wire(1, Uint())
    waiting: int = wire(2, Uint())
    allocated: int = wire(3, Uint())
    losses: int = wire(4, Uint())
    fees: int = wire(5, Uint())
    surplus: int = wire(6, Uint())
    quarantined: int = wire(7, Uint())


@dataclass(frozen=True, slots=True)
class Header:
    """The last leaf of a block, signed by its maker. Map keys 10 to 12 are reserved for round,
    winner and ranking.

    Attributes:
        sealed_ms: the maker's clock when the block was made: what it holds is not after.
        leaves: number of leaves before the header.
        late: flat: records of earlier steps, and the most steps one of them is late.
        meters: flat: meters registered as generating for the step, and those that closed it.
        caught_up: made after a restart, later than its time.
        aside: flat: runs of records of distributions that move nothing, by the place of the first
            among the block's leaves, counted from 0, and how many; absent where there is none. So
            whoever has a block's header and one of its distributions knows whether it had effect.
    """

    KIND: ClassVar[Kind] = Kind.HEADER

    step: int = wire(0, STEP)
    previous: Checkpoint = wire(1, Row(Checkpoint))
    sealed_ms: int = wire(2, MS)
    clock: ClockReading = wire(3, Row(ClockReading))
    leaves: int = wire(4, Uint(high=BLOCK_LEAVES_MAX))
    flow: Flow = wire(5, Row(Flow))
    balance: Balance = wire(6, Row(Balance))
    late: tuple[int, ...] = wire(7, Flat(2, 1))
    meters: tuple[int, ...] = wire(8, Flat(2, 1))
    caught_up: bool = wire(9, Flag())
    aside: tuple[int, ...] | None = wire_optional(13, Flat(2, ASIDE_MAX))

    def is_aside(self, place: int) -> bool:
        """Whether the leaf at this place of the block is a distribution that moves nothing."""
        return any(first <= place < first + count for first, count in _pairs(self.aside or ()))


# --- Not in the ledger. --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stop:
    """A chain cannot go on: the sequence number that was refused, and why."""

    sequence: int = wire(0, Uint())
    reason: Reason = wire(1, Choice(Reason))


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """A gateway's word that a chain is durable with it up to, not including, `sequence`.

    Attributes:
        epoch: grows when a gateway's store was restored; an older epoch's word is void.
        sequence: of the record expected next.
        previous: what that record must name as the one before.
        register: where that record must start from; 0 for a chain without records.
        stop: present when what the device sends cannot continue the chain.
    """

    KIND: ClassVar[Kind] = Kind.ACKNOWLEDGEMENT

    meter: str = wire(0, NAME)
    epoch: int = wire(1, Uint())
    sequence: int = wire(2, Uint())
    previous: bytes = wire(3, DIGEST)
    register: int = wire(4, REGISTER)
    stop: Stop | None = wire_optional(5, Row(Stop))


@dataclass(frozen=True, slots=True)
class EnrolmentRequest:
    """A device or program asks to be registered; signed by the key it names."""

    KIND: ClassVar[Kind] = Kind.ENROLMENT_REQUEST

    role: Role = wire(0, Choice(Role))
    key: PublicKey = wire(1, Key())
    host: str = wire(2, LABEL)
    software: str = wire(3, LABEL)
    created_ms: int = wire(4, MS)


@dataclass(frozen=True, slots=True)
class Broker:
    """How a party reaches the broker: mqtt://host:port or mqtts://host:port, and its credential:
    a user name with a password, or a client certificate with its key (PEM)."""

    url: str = wire(0, Text(255, r"mqtts?://[A-Za-z0-9.\-\[\]:]+:[0-9]{1,5}"))
    ca: bytes | None = wire_optional(1, Bytes(1, 16_384))
    username: str | None = wire_optional(2, LABEL)
    password: str | None = wire_optional(3, LABEL)
    certificate: bytes | None = wire_optional(4, Bytes(1, 16_384))
    key: bytes | None = wire_optional(5, Bytes(1, 4_096))


@dataclass(frozen=True, slots=True)
class Bundle:
    """The authority's answer to an enrolment request: all a party needs to take part.

    Attributes:
        genesis: the genesis record.
        records: the registrations of gateway and VPP, then the party's own records, as signed.
    """

    KIND: ClassVar[Kind] = Kind.BUNDLE

    name: str = wire(0, NAME)
    genesis: bytes = wire(1, Bytes(1, cose.RECORD_MAX))
    records: tuple[bytes, ...] = wire(2, Many(Bytes(1, cose.RECORD_MAX), 0, AUTHORITY_RECORDS_MAX))
    broker: Broker = wire(3, Map(Broker))


Body: TypeAlias = (
    Genesis
    | Registration
    | Revocation
    | ReAnchor
    | Agreement
    | RunStart
    | Batch
    | Reading
    | StepClose
    | Distribution
    | Header
    | Acknowledgement
    | EnrolmentRequest
    | Bundle
)

_BODIES: Mapping[str, type[Body]] = {
    body.KIND.value: body
    for body in (
        Genesis,
        Registration,
        Revocation,
        ReAnchor,
        Agreement,
        RunStart,
        Batch,
        Reading,
        StepClose,
        Distribution,
        Header,
        Acknowledgement,
        EnrolmentRequest,
        Bundle,
    )
}
_WITHOUT_COMMUNITY = {Kind.GENESIS.value, Kind.ENROLMENT_REQUEST.value}


@dataclass(frozen=True, slots=True)
class Record:
    """A record decoded once: the envelope with its exact bytes, and what it says."""

    envelope: cose.Envelope
    body: Body

    @property
    def raw(self) -> bytes:
        return self.envelope.raw

    @property
    def identity(self) -> bytes:
        return self.envelope.identity

    @property
    def key_id(self) -> bytes:
        return self.envelope.header.key_id

    @property
    def community(self) -> bytes:
        """The community the record belongs to; a genesis belongs to the one it founds."""
        return self.envelope.header.community or self.identity


def seal(body: Body, community: bytes | None, signer: Signer) -> Record:
    """Signs `body` as a record of `community` (None for a genesis or an enrolment request).

    Raises:
        ValueError: the record would exceed RECORD_MAX.
        Rejected: a field is out of range; a fault of the caller.
    """
    return decode(sign(body, community, signer))


def sign(body: Body, community: bytes | None, signer: Signer) -> bytes:
    """As `seal`, for who only sends it: the record's bytes."""
    return cose.seal(body.KIND, community, cbor.encode(encode_map(body)), signer)


def decode(raw: bytes) -> Record:
    """Reads one record whole. The signature is NOT checked: see `Envelope.verify`.

    Raises:
        Rejected: whatever makes the bytes no canonical record of a known kind.
    """
    return decode_body(cose.open_seal(raw))


def decode_body(envelope: cose.Envelope) -> Record:
    """Reads the statement in an envelope; the door calls it once the signature has verified.

    Raises:
        Rejected: UNKNOWN_KIND, MALFORMED or NOT_CANONICAL.
    """
    header = envelope.header
    body = _BODIES.get(header.kind)
    if body is None:
        raise Rejected(Reason.UNKNOWN_KIND, f"kind {header.kind!r} is not of this version")
    if (header.community is None) != (header.kind in _WITHOUT_COMMUNITY):
        raise Rejected(Reason.MALFORMED, "only a genesis or a request stands outside a community")
    return Record(envelope, decode_map(body, cbor.decode(envelope.payload)))


def _pairs(flat: tuple[int, ...]) -> list[tuple[int, int]]:
    return list(zip(flat[::2], flat[1::2], strict=True))
