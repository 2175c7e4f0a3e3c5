"""Signed records until the gateway has them: ordered, durable before they leave, repeated byte for
byte. Knows nothing of the network; time comes in as machine nanoseconds.

Only the gateway's signed, cumulative acknowledgement lets go of a record: a broker's own does not
mean that anything is durable. Acknowledged records are kept while space allows, for a gateway that
had to be restored from a backup.
"""

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, replace
from itertools import islice

from cryptometer import cbor, records
from cryptometer.acknowledgement import Acknowledgement, Stop
from cryptometer.chain_records import ChainRecord
from cryptometer.errors import Reason, Rejected
from cryptometer.records import Record
from cryptometer.steps import NS_PER_S
from cryptometer.wire import UINT_MAX, Row, Uint, decode_map, encode_map, wire
from firmware.end import OFFSET_ZERO, Anew, End, acknowledged, follow, starts_from
from firmware.segments import Cut, Position, SegmentedLog
from hal.ports import Directory

SEGMENT_BYTES = 1024 * 1024
PORTION_BYTES = 256 * 1024  # of records signed anew at once: decoded some 5 MB, whatever waits
FULL_AT = 0.9  # of the limit: from there on, lots are stretched over whole steps
FREE_BYTES_MIN = 16 * 2**20  # on the card; below it the card counts as full
RESEND_FIRST_NS, RESEND_MAX_NS = 10 * NS_PER_S, 300 * NS_PER_S


@dataclass(frozen=True, slots=True)
class _Kept:
    """Where a record stands."""

    sequence: int
    identity: bytes
    position: Position


@dataclass(frozen=True, slots=True)
class _Acked:
    epoch: int = wire(0, Uint())
    sequence: int = wire(1, Uint())


@dataclass(frozen=True, slots=True)
class _Torn:
    sequence: int = wire(0, Uint())


@dataclass(frozen=True, slots=True)
class _Skipped:
    """The card has lost records that were to be signed anew: those from `first` on follow, and
    the chain's offset + 2^62 is `shift` from here."""

    first: int = wire(0, Uint())
    shift: int = wire(1, Uint())
    lost: int = wire(2, Uint())


class Outbox:
    """The signed records of one meter. Entries of its log: a record's bytes; an `End`, at the head
    of each segment; an acknowledgement that was believed; a place at which damage cut both logs;
    a gap in what is signed anew; a note of the guard."""

    def __init__(self, directory: Directory, *, limit_bytes: int, window: int) -> None:
        """
        Args:
            directory: where the log lives.
            limit_bytes: room for records, acknowledged ones included.
            window: how many records may be on their way at once.
        """
        self._log = SegmentedLog(directory, "outbox")
        self._limit_bytes = limit_bytes
        self._window = window
        self._kept: deque[_Kept] = deque()  # not acknowledged yet
        self._refused: deque[_Kept] = deque()  # to be signed anew
        self._asks = False  # whether we send only to hear from where on the gateway has others
        self._durable = 0  # sequence up to which, exclusively, records may be published
        self._sent = 0  # sequence up to which, exclusively, they were, on this connection
        self._resend_at_ns: int | None = None
        self._resend_after_ns = RESEND_FIRST_NS
        self._ask_at_ns: int | None = None  # when a stopped chain asks whether it still is
        self._progress_ns = 0
        self._connected = False
        self.stop: Stop | None = None
        self.end: End | None = None
        self.durable: End | None = None  # `end` as of the newest `sync`

    @property
    def waiting(self) -> int:
        """Number of records not yet acknowledged."""
        return len(self._kept)

    @property
    def is_full(self) -> bool:
        """Whether records that nobody has acknowledged fill the room they may take."""
        return bool(self._kept) and self._unacknowledged_bytes() > FULL_AT * self._limit_bytes

    def isolated_ns(self, now_ns: int) -> int:
        """For how long records have waited without any acknowledgement."""
        return now_ns - self._progress_ns if self._kept else 0

    def recover(self, now_ns: int) -> list[Cut]:
        """Reads the log after any end of the program; `end` is None if it is empty.

        Raises:
            OSError: stop, and recover.
            Rejected: an entry is whole, but not of this version, or not of this chain.
        """
        cuts: list[Cut] = []
        self._progress_ns = now_ns
        for segment in reversed(self._log.segments):
            cut = self._log.recover(segment)
            if cut is not None:
                cuts.append(cut)
            begins = self._read_segment(segment)
            if self.end is not None:
                self._keep_from(self.end.acknowledged, begins, segment)
                break
            self._log.drop(segment)  # its head, or what must follow it, never became whole
        if self.end is not None:
            # What stands in the files survived whatever ended the program; it may be published
            # once this sync has returned.
            self._durable = self._sent = self.end.acknowledged
            anew = self.end.anew
            if anew is not None:
                self._refused = self._find_from(anew.first, before=anew.segment)
            self._make_room()  # a card that is full has ended the program before: now it may go on
        return cuts

    def tear(self) -> None:
        """Notes that the records from here on may stand where others were signed before: damage
        took both logs' word on them.

        Raises:
            OSError: stop, and recover.
        """
        if self.end is None or self.end.suspect is not None:
            return  # the earlier place covers the later one
        torn = self.end.sequence
        self._log.append([cbor.encode(Row(_Torn).encode(_Torn(torn)))])
        self.end = replace(self.end, torn=torn)

    def note_guard(self, guarded: int) -> None:
        """Notes what the guard's count becomes. Durable after `sync`.

        Raises:
            OSError: stop, and recover.
        """
        if self.end is not None and self.end.guarded != guarded:
            self._log.append([cbor.encode(guarded)])
            self.end = replace(self.end, guarded=guarded)

    def go_on_from(self, end: End) -> None:
        """Goes on from an end that the journal knows to be signed: the card has lost the records
        before it. They are never signed again, since they may have been published.

        Raises:
            OSError: stop, and recover.
        """
        before, older = self.end, self._log.segments
        if before is None or before.anchors != end.anchors:
            # What is left, if anything, is of a chain that a re-anchor has replaced since. Were it
            # kept, its records might be taken for those of the new chain that the card has lost,
            # and published in their places. What was still to be signed anew goes with it, as lost.
            self.begin(end)
            self._log.sync()
            self._refused.clear()
            for segment in older:
                self._log.drop(segment)
            return
        epoch, acknowledged = max(
            (before.epoch, before.acknowledged), (end.epoch, end.acknowledged)
        )
        torn = before.torn if before.suspect is not None else end.torn
        forked = end.forked if before.forked is None else before.forked
        self.end = replace(end, epoch=epoch, acknowledged=acknowledged, torn=torn, forked=forked)
        self._roll()
        while self._kept and self._kept[0].sequence < acknowledged:
            self._kept.popleft()
        first = UINT_MAX if end.anew is None else end.anew.first
        while self._refused and self._refused[0].sequence < first:
            self._refused.popleft()
        self._durable = self._sent = acknowledged

    def peek(self) -> End | None:
        """The chain's end, read beside a running program: nothing is cut, nothing is dropped."""
        for segment in reversed(self._log.segments):
            self._read_segment(segment)
            if self.end is not None:
                break
        return self.end

    def begin(self, end: End) -> None:
        """Begins a chain, or begins it anew from a re-anchor, which `end.anew` must follow:
        `take_refused`. Durable after `sync`.

        Raises:
            OSError: stop, and recover.
        """
        self._kept.clear()
        self._refused.clear()
        if end.anew is not None:
            self._refused = self._find_from(end.anew.first)
            segment = max(self._log.segments, default=-1) + 1
            end = replace(end, anew=replace(end.anew, segment=segment))
        self.end = end
        self._roll()
        self.stop = None
        self._asks = False
        self._durable = self._sent = end.acknowledged

    def take_refused(self) -> list[Record]:
        """The next of the records that a re-anchor has to be followed by, up to PORTION_BYTES of
        them. They count as done once their successors are appended; what the card has lost of
        them is skipped. Empty when no more is left.

        Raises:
            OSError: stop, and recover.
        """
        portion: list[Record] = []
        size = 0
        while self.end is not None and self.end.anew is not None and size < PORTION_BYTES:
            anew = self.end.anew
            one = self._refused[0] if self._refused else None
            raw = self._log.read(one.position) if one is not None else None
            if one is not None and raw is None:
                self._refused.popleft()
                continue
            if one is None or raw is None:
                if not portion:
                    self._skip(anew, anew.beyond, anew.unsigned)
                break
            record = records.decode(raw)
            if one.sequence != anew.first + len(portion):
                if portion:
                    break
                self._skip(anew, one.sequence, starts_from(record) - anew.offset)
            self._refused.popleft()
            portion.append(record)
            size += len(raw)
        return portion

    def append(self, signed: list[Record]) -> None:
        """Keeps records that continue the chain, in one write. They are published after `sync`.

        Raises:
            OSError: stop, and recover.
        """
        if self._log.newest_bytes > SEGMENT_BYTES:
            self._roll()
        positions = self._log.append([record.raw for record in signed])
        for record, position in zip(signed, positions, strict=True):
            self._advance(record, position)

    def sync(self) -> None:
        """Makes records durable; from here on they may be published.

        Raises:
            OSError: stop, and recover; never try again.
        """
        self._log.sync()
        self.durable = self.end
        if self.end is not None:
            self._durable = self.end.sequence

    def connected(self, now_ns: int) -> None:
        """A connection stands: whatever is not acknowledged is sent again, in order."""
        self._connected = True
        self._go_back()
        self._resend_after_ns = RESEND_FIRST_NS
        self._resend_at_ns = now_ns + self._resend_after_ns
        self._ask_at_ns = None

    def disconnected(self) -> None:
        self._connected = False
        self._resend_at_ns = self._ask_at_ns = None

    def next_due_ns(self) -> int | None:
        """When `take_due` should be asked again even if nothing happens."""
        if self.stop is not None:
            return self._ask_at_ns
        return self._resend_at_ns if self._is_owed_word else None

    @property
    def _is_owed_word(self) -> bool:
        """Whether records are on their way that nobody has acknowledged."""
        return self.end is not None and bool(self._kept) and self._sent > self.end.acknowledged

    def take_due(self, now_ns: int, below: int = UINT_MAX) -> list[bytes]:
        """Records to publish now, in order; each is given once per connection and time-out. Of a
        chain that is stopped only one, now and then: `_ask_again`.

        Args:
            now_ns: machine time.
            below: sequence up to which, exclusively, the journal knows durably what was signed.
        """
        if not self._kept:
            self._progress_ns = now_ns  # nothing is owed: isolation begins with what comes next
        if not self._connected or self.end is None:
            return []
        if self.stop is not None and not self._asks:
            return self._ask_again(self.stop, self.end, min(self._durable, below), now_ns)
        self._ask_at_ns = None
        if self._is_owed_word and self._resend_at_ns is not None and now_ns >= self._resend_at_ns:
            self._go_back()
            self._resend_after_ns = min(2 * self._resend_after_ns, RESEND_MAX_NS)
        waited_before = self._is_owed_word
        limit = min(self._durable, below, self.end.acknowledged + self._window)
        if self._sent >= limit:
            return []
        due: list[bytes] = []
        kept = islice(self._kept, self._index_of(self._sent), None)
        for sequence in range(self._sent, limit):
            one = next(kept, None)
            raw = None
            if one is not None and one.sequence == sequence:
                raw = self._log.read(one.position)
            if raw is None:
                # The card lost what it had kept. The gateway will say at which place it waits.
                self.stop = Stop(sequence, Reason.MALFORMED)
                return due
            due.append(raw)
        self._sent = limit
        if not waited_before:  # else the record that has waited longest decides
            self._resend_at_ns = now_ns + self._resend_after_ns
        return due

    def _ask_again(self, stop: Stop, end: End, limit: int, now_ns: int) -> list[bytes]:
        """What has stopped the chain may be gone, and the word that said so lost. The gateway
        answers any record with where it stands: the one that the stop speaks of, if it is kept,
        so that the answer is the same where nothing has changed."""
        if self._ask_at_ns is None:
            self._ask_at_ns = now_ns + RESEND_MAX_NS
        if now_ns < self._ask_at_ns:
            return []
        self._ask_at_ns = now_ns + RESEND_MAX_NS
        record = self.first_kept(stop.sequence) or self.first_kept(end.acknowledged)
        if record is None or not isinstance(record.body, ChainRecord):
            return []
        sequence = record.body.sequence
        if sequence >= limit:
            return []
        self._sent = max(self._sent, sequence + 1)  # else the answer were none to what we sent
        return [record.raw]

    def acknowledge(self, word: Acknowledgement, now_ns: int) -> None:
        """Believes a gateway's signed acknowledgement.

        An older epoch's word, or one that says less than an earlier one of its epoch, is void: a
        broker may repeat what it likes.

        Raises:
            OSError: stop, and recover.
        """
        end = self.end
        if end is None or word.epoch < end.epoch:
            return
        renewed = word.epoch > end.epoch
        if not renewed and word.sequence < end.acknowledged:
            return
        # A stop answers a record. One that was said before we sent it may speak of what a re-anchor
        # has replaced: were it believed, nobody would ever say otherwise.
        stop = word.stop if word.stop is not None and word.stop.sequence < self._sent else None
        if word.sequence > end.sequence:
            # The gateway knows more of this chain than we do: our files are an older copy. Where
            # they begin to differ only it can say, when it sees what we have.
            if stop is not None and stop.reason is Reason.FORK:
                self._note_fork(stop.sequence)
            if end.suspect is not None:
                self._note_fork(end.suspect)
            self.stop = stop or Stop(end.sequence, Reason.FORK)
            self._asks = stop is None
            return
        self._asks = False
        if word.sequence < end.acknowledged:
            kept = self._find_from(word.sequence)
            if not kept or kept[0].sequence != word.sequence:
                self.stop = Stop(word.sequence, Reason.GAP)  # let go of already
                return
            self._kept = kept
        elif not self._is_at(word):
            # What the gateway names there may be a re-anchor that we have not heard of: it has our
            # records before it then, and we must not sign them anew.
            if end.suspect is not None:
                self._note_fork(word.sequence - 1)
            self.stop = Stop(word.sequence, Reason.FORK)
            return
        if renewed or word.sequence > end.acknowledged:
            self._progress_ns = now_ns
            self._resend_after_ns = RESEND_FIRST_NS
            self._resend_at_ns = now_ns + self._resend_after_ns
            self._log.append([cbor.encode(Row(_Acked).encode(_Acked(word.epoch, word.sequence)))])
            self.end = acknowledged(end, word.epoch, word.sequence)
        while self._kept and self._kept[0].sequence < word.sequence:
            self._kept.popleft()
        if renewed:
            self._go_back()
        self._sent = max(self._sent, word.sequence)
        self.stop = stop
        if stop is not None and stop.reason is Reason.FORK and self._speaks_of_this_chain(word):
            self._note_fork(stop.sequence)
        self._make_room()

    def take_back(self, first: int) -> None:
        """Has what was acknowledged from sequence `first` on wait again, as far as the card still
        holds it: a re-anchor acts there, and its signing anew follows at once."""
        self._kept = self._find_from(first)

    def _index_of(self, sequence: int) -> int:
        """Where a record stands in `_kept`, or would stand: the card may have lost some."""
        return bisect_left(self._kept, sequence, key=lambda kept: kept.sequence)

    def first_kept(self, first: int) -> Record | None:
        """The first record from sequence `first` on that nobody has acknowledged and the card
        still holds."""
        for kept in islice(self._kept, self._index_of(first), None):
            raw = self._log.read(kept.position)
            if raw is not None:
                return records.decode(raw)
        return None

    def waiting_before(self, sequence: int) -> int:
        """How many of the records that nobody has acknowledged stand before `sequence`."""
        return self._index_of(sequence)

    def _note_fork(self, sequence: int) -> None:
        """The gateway has another record there, and so none of ours from there on."""
        end = self.end
        if end is None:
            return
        places = [place for place in (end.forked, end.suspect) if place is not None]
        forked = max(min([sequence, *places]), end.acknowledged)  # those it does have
        if forked != end.forked:
            self.end = replace(end, forked=forked)
            self._roll()

    def _skip(self, anew: Anew, first: int, register: int) -> None:
        """Goes on with the record `first` of an abandoned chain, at this register of the counter:
        those before it are lost."""
        assert self.end is not None  # noqa: S101 - the caller's condition
        shift = self.end.register - register + OFFSET_ZERO
        skipped = _Skipped(first, shift, first - anew.first)
        self._log.append([cbor.encode(Row(_Skipped).encode(skipped))])
        self._pass_over(skipped)

    def _pass_over(self, skipped: _Skipped) -> None:
        if self.end is not None and self.end.anew is not None:
            anew = self.end.anew.after(skipped.first)
            self.end = replace(self.end, shift=skipped.shift, anew=anew)

    def _advance(self, record: Record, position: Position) -> None:
        assert self.end is not None  # noqa: S101 - a log begins with its end; written by us alone
        self._kept.append(_Kept(self.end.sequence, record.identity, position))
        self.end = follow(self.end, record)

    def _read_segment(self, segment: int) -> int | None:
        """Returns the sequence that the segment begins with, if it says so."""
        begins: int | None = None
        for position, entry in self._log.entries(segment):
            match _decode_entry(entry):
                case End() as end:
                    begins = end.sequence if begins is None else begins
                    self.end = end
                    self._kept.clear()
                case _Acked(epoch=epoch, sequence=sequence):
                    if self.end is not None:
                        self.end = acknowledged(self.end, epoch, sequence)
                case _Torn(sequence=sequence):
                    if self.end is not None:
                        self.end = replace(self.end, torn=sequence)
                case _Skipped() as skipped:
                    self._pass_over(skipped)
                case int(guarded):
                    if self.end is not None:
                        self.end = replace(self.end, guarded=guarded)
                case Record() as record:
                    _check_continues(self.end, record)
                    self._advance(record, position)
        return begins

    def _keep_from(self, first: int, begins: int | None, newest: int) -> None:
        """Keeps the records from `first` on: of the newest segment, which has been read and begins
        with a sequence, and of those before it."""
        while self._kept and self._kept[0].sequence < first:
            self._kept.popleft()
        if begins is not None and begins > first:
            older = self._find_from(first, before=newest, beyond=begins)
            self._kept.extendleft(reversed(older))

    def _find_from(
        self, first: int, before: int = UINT_MAX, beyond: int = UINT_MAX
    ) -> deque[_Kept]:
        """Where the records from sequence `first` to before `beyond` stand, in the segments before
        one; empty if they are not kept."""
        found: deque[_Kept] = deque()
        for segment in reversed([one for one in self._log.segments if one < before]):
            here: list[_Kept] = []
            begins: int | None = None
            for position, entry in self._log.entries(segment):
                decoded = _decode_entry(entry)
                if isinstance(decoded, End) and begins is None:
                    begins = decoded.sequence
                elif isinstance(decoded, End):
                    here.clear()
                elif isinstance(decoded, Record) and isinstance(decoded.body, ChainRecord):
                    here.append(_Kept(decoded.body.sequence, decoded.identity, position))
            within = [kept for kept in here if first <= kept.sequence < beyond]
            found.extendleft(reversed(within))
            if begins is not None:
                if begins <= first:
                    break
                beyond = begins  # what stood there before a re-anchor is of no chain any more
        return found

    def _is_at(self, word: Acknowledgement) -> bool:
        """Whether the acknowledged place names our record as the one before."""
        end = self.end
        if end is None or word.sequence == end.acknowledged:
            return True  # nothing new is claimed
        if word.sequence == end.sequence:
            return word.previous == end.previous
        before = self._index_of(word.sequence - 1)
        if before == len(self._kept) or self._kept[before].sequence != word.sequence - 1:
            # The card lost that record: the gateway's signed word has to do, but where damage may
            # have had us sign another in its place.
            return end.suspect is None or word.sequence <= end.suspect
        return self._kept[before].identity == word.previous

    def _speaks_of_this_chain(self, word: Acknowledgement) -> bool:
        """Whether a word at the acknowledged place names the record before it as ours does. One
        from before a re-anchor at that place does not: the broker may repeat it, and of the chain
        behind the re-anchor it proves nothing."""
        first = self.first_kept(word.sequence)
        if first is None or not isinstance(first.body, ChainRecord):
            return False
        return (first.body.sequence, first.body.previous) == (word.sequence, word.previous)

    def _go_back(self) -> None:
        if self.end is not None:
            self._sent = self.end.acknowledged

    def _roll(self) -> None:
        # A newer segment speaks for the older ones. Were it to outlive their ends, what those held
        # would be taken for signed, and never be signed again.
        self._log.sync()
        self._log.roll()
        self._log.append([cbor.encode(encode_map(self.end))])

    def _make_room(self) -> None:
        """Acknowledged records go first, the oldest of them first, and only when room is short:
        under our own limit, or on the card, whatever fills it."""
        segments = self._log.segments
        needed = min(
            (queue[0].position.segment for queue in (self._refused, self._kept) if queue),
            default=segments[-1],
        )
        for segment in segments:
            is_short = (
                self._log.total_bytes > self._limit_bytes or self._log.free_bytes < FREE_BYTES_MIN
            )
            if segment >= needed or not is_short:
                return
            # The word that lets go of records is durable before they go.
            self._log.sync()
            self._log.drop(segment)

    def _unacknowledged_bytes(self) -> int:
        first = self._kept[0].position
        newest = self._kept[-1].position
        whole = (newest.segment - first.segment) * SEGMENT_BYTES
        return whole + newest.offset + newest.size - first.offset


def _check_continues(end: End | None, record: Record) -> None:
    """Refuses a record that does not stand behind the one before: a place that was signed already
    would be signed again with other content, and the chain be forked by its own board."""
    body = record.body
    if (
        end is None
        or not isinstance(body, ChainRecord)
        or (body.sequence, body.previous) != (end.sequence, end.previous)
    ):
        raise Rejected(
            Reason.MALFORMED, f"the outbox holds a {body.KIND} that does not continue its chain"
        )


def _decode_entry(entry: bytes) -> End | _Acked | _Torn | _Skipped | int | Record:
    """An entry is a record (an array of four), an acknowledgement (of two), a place of damage (of
    one), a gap (of three), a note of the guard (an integer), or an `End` (a map)."""
    if entry[:1] == b"\x84":
        return records.decode(entry)
    value = cbor.decode(entry)
    if isinstance(value, int):
        return Uint().decode(value)
    if isinstance(value, list):
        if len(value) == 3:
            return Row(_Skipped).decode(value)
        return Row(_Torn).decode(value) if len(value) == 1 else Row(_Acked).decode(value)
    try:
        return decode_map(End, value)
    except Rejected as refused:
        raise Rejected(
            Reason.MALFORMED, f"the outbox is of another version: {refused.detail}"
        ) from None
