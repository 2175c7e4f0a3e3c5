"""A file that proves one member's share of one step offline, back to the signed lots: the
distributions, that their blocks did not set them aside, the step closes they spend, the records
behind these, and that all of it stands in the ledger.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from cryptometer import cbor, cose, merkle, records
from cryptometer.authority_records import MeterDetails, ReAnchor, Registration
from cryptometer.block_header import Header
from cryptometer.chain_records import Batch, ChainRecord, Reading, StepClose
from cryptometer.community import Community
from cryptometer.errors import Reason, Rejected
from cryptometer.governing import check_authority
from cryptometer.judging import is_recomputed, judge
from cryptometer.keys import PublicKey
from cryptometer.merkle import HASH_BYTES, Node
from cryptometer.metrology import register_uwh
from cryptometer.openings import Opening, commitment
from cryptometer.parts import join
from cryptometer.record_fields import NAME, STEP, Checkpoint, Role
from cryptometer.records import Record
from cryptometer.settlement import Agreed, Settlement, Waiting, opened
from cryptometer.sharing_records import Agreement, Distribution, Input
from cryptometer.wire import Bytes, Many, Row, Uint, decode_map, encode_map, wire, wire_optional

MAGIC = b"cryptometer-share 1\n"
SHARE_MAX = 2**26  # bytes; a thousand generators in one step take a tenth of it
_MOST = 2**22
_RAW = Bytes(1, cose.RECORD_MAX)
_OLDER = "a community.pub from before a change of keys lacks the new one"


@dataclass(frozen=True, slots=True)
class Leaf:
    """An entry of the ledger."""

    index: int = wire(0, Uint())
    raw: bytes = wire(1, _RAW)


@dataclass(frozen=True, slots=True)
class ShareFile:
    """What stands behind MAGIC.

    Attributes:
        authority: its records on agreement and meters, re-anchors among them: signed by it, not
            proven as leaves.
        leaves: in ascending order of their index.
        hashes: the rest of the tree: see `merkle.subset_proof`.
    """

    member: str = wire(0, NAME)
    step: int = wire(1, STEP)
    checkpoint: bytes = wire(2, Bytes(1, 2**16))
    authority: tuple[bytes, ...] = wire(3, Many(_RAW, 1, _MOST))
    leaves: tuple[Leaf, ...] = wire(4, Many(Row(Leaf), 1, _MOST))
    hashes: bytes = wire(5, Bytes(0, SHARE_MAX))
    opening: Opening | None = wire_optional(6, Row(Opening))


@dataclass(frozen=True, slots=True)
class Source:
    """One meter's part in a distribution.

    Attributes:
        energy_uwh: what its step close brought to the plant.
        records: batches and readings behind it.
        lots: lots in these batches; 0 where an index was read.
        signed_uwh: energy that these records register. What is more than `energy_uwh`, the ledger
            has set aside.
        since_step: of an index that brought the energy of several steps, the first of those that it
            was read in, or says to be since.
    """

    meter: str
    serial: str
    energy_uwh: int
    records: int
    lots: int
    signed_uwh: int
    since_step: int | None = None


@dataclass(frozen=True, slots=True)
class Given:
    """One distribution of the step, and what it gave to the member.

    Attributes:
        whole: its parts joined.
        sealed_ms: when its block was made, ms since the Unix epoch: it is not after.
    """

    whole: Distribution
    sources: tuple[Source, ...]
    energy_uwh: int
    tokens: int
    block_step: int
    sealed_ms: int


@dataclass(frozen=True, slots=True)
class Share:
    """What a file shows.

    Attributes:
        settlement: the step's account, as these distributions leave it.
        is_rule_recomputed: not the sums alone are proven: the agreement gives just these outputs.
        used_uwh: what the member consumed, where the file opens the commitment to it.
    """

    member: str
    step: int
    checkpoint: Checkpoint
    agreement: Agreement
    given: tuple[Given, ...]
    settlement: Settlement
    is_rule_recomputed: bool
    used_uwh: int | None

    @property
    def energy_uwh(self) -> int:
        """All that the member was given of the step."""
        return sum(one.energy_uwh for one in self.given)


def encode_share(
    member: str,
    step: int,
    checkpoint: str,
    authority: Iterable[bytes],
    leaves: Mapping[int, bytes],
    node: Node,
    opening: Opening | None = None,
) -> bytes:
    """The file's bytes.

    Args:
        checkpoint: a signed note.
        authority: its records that are needed: see `ShareFile`.
        leaves: records by their index.
        node: the tree of the checkpoint's leaves, of which `leaves` are some.
    """
    size = int(checkpoint.split("\n", 2)[1])
    ascending = sorted(leaves)
    hashes = merkle.subset_proof(ascending, size, node)
    file = ShareFile(
        member,
        step,
        checkpoint.encode(),
        tuple(authority),
        tuple(Leaf(index, leaves[index]) for index in ascending),
        b"".join(hashes),
        opening,
    )
    return MAGIC + cbor.encode(encode_map(file))


def verify_share(data: bytes, community: Community) -> Share:
    """Checks a share with nothing but the community's public keys.

    Raises:
        Rejected: the first thing that does not hold, naming it.
    """
    file = decode_share(data)
    try:
        checkpoint = community.open_checkpoint(file.checkpoint)
    except Rejected as refused:
        hint = f"; {_OLDER}" if refused.reason is Reason.UNKNOWN_KEY else ""
        raise Rejected(refused.reason, f"the checkpoint: {refused.detail}{hint}") from None
    named = _Named(community, file.authority)
    ledger = {leaf.index: named.open_leaf(leaf) for leaf in file.leaves}
    hashes = [file.hashes[at : at + HASH_BYTES] for at in range(0, len(file.hashes), HASH_BYTES)]
    entries = [(leaf.index, merkle.leaf_hash(leaf.raw)) for leaf in file.leaves]
    merkle.verify_subset(entries, checkpoint.size, hashes, checkpoint.root)
    given, settlement, agreement = _follow(file, _Ledger(ledger, named))
    return Share(
        member=file.member,
        step=file.step,
        checkpoint=checkpoint,
        agreement=agreement,
        given=given,
        settlement=settlement,
        is_rule_recomputed=is_recomputed(agreement),
        used_uwh=_opened(file, community.id, given[-1].whole),
    )


def decode_share(data: bytes) -> ShareFile:
    """What a file says, nothing of it verified.

    Raises:
        Rejected: MALFORMED, NOT_CANONICAL or TOO_LARGE.
    """
    if not data.startswith(MAGIC) or len(data) > SHARE_MAX:
        raise Rejected(Reason.MALFORMED, "not a share of this version")
    return decode_map(ShareFile, cbor.decode(data[len(MAGIC) :]))


def _follow(file: ShareFile, ledger: "_Ledger") -> tuple[tuple[Given, ...], Settlement, Agreement]:
    """The step's distributions, one after another, as `check_block` has applied them."""
    agreed = ledger.named.agreed
    if agreed.agreement.from_step > file.step:
        raise Rejected(Reason.WRONG_AGREEMENT, f"the agreement does not hold in {file.step} yet")
    if file.member not in agreed.agreement.members:
        raise Rejected(Reason.NOT_AS_AGREED, f"{file.member} has no claim in step {file.step}")
    settlement = opened(file.step)
    given: list[Given] = []
    meters: set[str] = set()
    for index, parts in ledger.distributions(file.step):
        whole = join(parts)
        traced = [ledger.trace(one, file.step) for one in whole.inputs]
        for source in traced:
            # A meter closes a step once: a second close, or the same one again, brings nothing.
            if source.meter in meters:
                raise Rejected(
                    Reason.NO_SUCH_INPUT,
                    f"leaf {index}: what {source.meter} brought in {file.step} was spent before",
                )
            meters.add(source.meter)
        waiting = tuple(
            Waiting(one.close, source.meter, one.energy_uwh, one.tokens)
            for one, source in zip(whole.inputs, traced, strict=True)
        )
        try:
            settlement = judge(agreed, replace(settlement, waiting=waiting), whole)
        except Rejected as refused:
            raise Rejected(refused.reason, f"leaf {index}: {refused.detail}") from None
        header = ledger.header_of(range(index, index + len(parts)))
        mine = [output for output in whole.outputs if output.member == file.member]
        given.append(
            Given(
                whole,
                tuple(traced),
                sum(output.energy_uwh for output in mine),
                sum(output.tokens for output in mine),
                header.step,
                header.sealed_ms,
            )
        )
    if not given:
        raise Rejected(Reason.INCOMPLETE, f"the file holds no distribution of step {file.step}")
    return tuple(given), settlement, agreed.agreement


def _opened(file: ShareFile, community: bytes, whole: Distribution) -> int | None:
    """What the member consumed, as the step's newest distribution has committed to it."""
    opening = file.opening
    if opening is None:
        return None
    digest = commitment(community, file.step, file.member, opening.need_uwh, opening.salt)
    committed = {one.member: one.digest for one in whole.commitments}
    if committed.get(file.member) != digest:
        raise Rejected(
            Reason.BAD_PROOF, f"what {file.member} consumed is not what was committed to"
        )
    return opening.need_uwh


class _Named:
    """Whose keys count: those that the authority registered, by `community.pub` and the file."""

    def __init__(self, community: Community, authority: Sequence[bytes]) -> None:
        self._community = community
        self.registrations: dict[bytes, Registration] = {}
        self.anchors: dict[bytes, ReAnchor] = {}
        self._meters: dict[bytes, Registration] = {}
        agreements: list[Agreed] = []
        for number, raw in enumerate(authority):
            try:
                record = self._open_authority(raw)
            except Rejected as refused:
                detail = f"record {number} of the authority: {refused.detail}"
                raise Rejected(refused.reason, detail) from None
            body = record.body
            if isinstance(body, Agreement):
                agreements.append(Agreed(record.identity, body))
            elif isinstance(body, ReAnchor):
                self.anchors[record.identity] = body
            elif isinstance(body, Registration):
                self.registrations[record.identity] = body
                if body.role is Role.METER:
                    self._meters[body.key.thumbprint] = body
        if len(agreements) != 1:
            raise Rejected(Reason.INCOMPLETE, f"it holds {len(agreements)} agreements, and not one")
        self.agreed = agreements[0]
        self._plants = {
            (body.key.thumbprint, body.name): body.key
            for body in (record.body for record in community.records)
            if isinstance(body, Registration) and body.role is Role.VPP
        }
        self._makers = community.maker_keys()

    def open_leaf(self, leaf: Leaf) -> Record:
        """A leaf, signed by whom it says."""
        try:
            record = records.decode(leaf.raw)
            if record.community != self._community.id:
                raise Rejected(Reason.OTHER_COMMUNITY, "a record of another community")
            record.envelope.verify(self._key(record))
        except Rejected as refused:
            raise Rejected(refused.reason, f"leaf {leaf.index}: {refused.detail}") from None
        return record

    def _open_authority(self, raw: bytes) -> Record:
        record = records.decode(raw)
        check_authority(self._community.state, record)
        if not isinstance(record.body, Agreement | Registration | ReAnchor):
            raise Rejected(Reason.UNKNOWN_KIND, f"a {record.body.KIND} has no place there")
        return record

    def _key(self, record: Record) -> PublicKey:
        match record.body:
            case Header():
                key = self._makers.get(record.key_id)
            case Distribution(vpp=name):
                key = self._plants.get((record.key_id, name))
            case ChainRecord(meter=name):
                registration = self._meters.get(record.key_id)
                known = registration is not None and registration.name == name
                key = registration.key if registration is not None and known else None
            case body:
                raise Rejected(Reason.UNKNOWN_KIND, f"a {body.KIND} has no place there")
        if key is None:
            hint = "" if isinstance(record.body, ChainRecord) else f"; {_OLDER}"
            raise Rejected(
                Reason.UNKNOWN_KEY, f"signed by a key that is not registered for it{hint}"
            )
        return key


class _Ledger:
    """The leaves of a file by what they are."""

    def __init__(self, leaves: Mapping[int, Record], named: _Named) -> None:
        self.named = named
        self._leaves = leaves
        self._closes = {
            record.identity: record.body
            for record in leaves.values()
            if isinstance(record.body, StepClose)
        }
        self._chains = {
            (record.body.meter, record.body.sequence): record
            for record in leaves.values()
            if isinstance(record.body, ChainRecord)
        }
        self._headers = {
            index: record.body
            for index, record in sorted(leaves.items())
            if isinstance(record.body, Header)
        }

    def distributions(self, step: int) -> Iterator[tuple[int, list[Distribution]]]:
        """Those of a step with all their parts, in the ledger's order; each with its first leaf."""
        first = 0
        parts: list[Distribution] = []
        for index, record in sorted(self._leaves.items()):
            body = record.body
            if not isinstance(body, Distribution):
                continue
            if body.step != step:
                raise Rejected(Reason.WRONG_STEP, f"leaf {index} is of step {body.step}")
            if body.part.number == 1:
                first, parts = index, []
            elif index != first + len(parts):
                raise Rejected(
                    Reason.INCOMPLETE, f"leaf {index}: no part stands before it, to be gone on with"
                )
            parts.append(body)
            if body.part.number == body.part.parts:
                yield first, parts
                parts = []
        if parts:
            raise Rejected(Reason.INCOMPLETE, f"leaf {first}: some of its parts are missing")

    def header_of(self, parts: range) -> Header:
        """That of the block that holds these leaves, which are the parts of one distribution, and
        by which it had its effect: the maker signs for it, and every audit recomputes it."""
        end = min((at for at in self._headers if at > parts[-1]), default=0)
        first = end - self._headers[end].leaves if end else 0
        if not end or first > parts[0]:
            raise Rejected(Reason.INCOMPLETE, f"leaf {parts[0]}: its block's header is missing")
        header = self._headers[end]
        for index in parts:
            if header.is_aside(index - first):
                raise Rejected(
                    Reason.BAD_PROOF,
                    f"leaf {index} was set aside by the block of step {header.step}: it moved"
                    " nothing",
                )
        return header

    def trace(self, spent: Input, step: int) -> Source:
        """The records behind an input, back to the meter's signed counts."""
        close = self._closes.get(spent.close)
        if close is None or close.step != step:
            raise Rejected(
                Reason.NO_SUCH_INPUT, f"the close {spent.close.hex()} of step {step} is missing"
            )
        if not spent.energy_uwh:
            raise Rejected(Reason.NO_SUCH_INPUT, f"{close.meter} brought nothing that may be spent")
        behind = self._behind(close, spent.energy_uwh)
        signed = sum(energy for _, energy in behind)
        if signed < spent.energy_uwh:
            raise Rejected(
                Reason.WRONG_SUMS,
                f"{close.meter} brought {spent.energy_uwh} µWh, and has signed {signed}",
            )
        newest, _ = behind[0]
        return Source(
            meter=close.meter,
            serial=self._details(newest).serial,
            energy_uwh=spent.energy_uwh,
            records=len(behind),
            lots=sum(len(body.pulses) for body, _ in behind if isinstance(body, Batch)),
            signed_uwh=signed,
            since_step=_since([body for body, _ in behind], step),
        )

    def _behind(self, close: StepClose, wanted_uwh: int) -> list[tuple[Batch | Reading, int]]:
        """Batches of the close's step, and readings, back to the close before; of an index that was
        not closed then, further back. Each with its energy."""
        found: list[tuple[Batch | Reading, int]] = []
        total = 0
        at: ChainRecord = close
        while (before := self._before(at)) is not None:
            at = before
            if isinstance(at, StepClose) and total >= wanted_uwh:
                break
            if (isinstance(at, Batch) and at.step == close.step) or (
                isinstance(at, Reading) and at.counting
            ):
                energy = self._energy(at)
                total += energy
                found.append((at, energy))
        return found

    def _before(self, after: ChainRecord) -> ChainRecord | None:
        """The record before one in its chain; behind a re-anchor, what stood before that."""
        meter, sequence = after.meter, after.sequence
        anchor = self.named.anchors.get(after.previous)
        if anchor is not None and (anchor.meter, anchor.at) == (meter, sequence):
            # It may have passed numbers over that a board had used and the ledger never saw.
            earlier = [at for name, at in self._chains if name == meter and at < sequence]
            record = self._chains[meter, max(earlier)] if earlier else None
        else:
            record = self._chains.get((meter, sequence - 1))
            if record is not None and after.previous != record.identity:
                raise Rejected(Reason.FORK, f"record {sequence} of {meter} continues another chain")
        body = None if record is None else record.body
        assert body is None or isinstance(body, ChainRecord)  # noqa: S101 - `_chains` has no others
        return body

    def _energy(self, body: Batch | Reading) -> int:
        details = self._details(body)
        constant, ratio = details.constant, details.ratings.constant_ratio
        after = register_uwh(body.register_after, constant, ratio)
        return after - register_uwh(body.register, constant, ratio)

    def _details(self, body: Batch | Reading) -> MeterDetails:
        """What the registration says that a record was made under."""
        registration = self.named.registrations.get(body.registration)
        if registration is None or registration.meter is None or registration.name != body.meter:
            raise Rejected(
                Reason.UNKNOWN_REGISTRATION,
                f"the registration of {body.meter} that record {body.sequence} names is missing",
            )
        return registration.meter


def _since(behind: Sequence[Batch | Reading], step: int) -> int | None:
    steps = [
        one.step if one.since_step is None else one.since_step
        for one in behind
        if isinstance(one, Reading)
    ]
    first = min(steps, default=step)
    return first if first < step else None
