"""The device's one order of work, over injected parts:

    look at the line -> journal (given) -> count -> sign -> make durable -> publish -> let go

Nothing moves on before the step before it holds it, and each step is also where recovery begins.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from cryptometer import records
from cryptometer.doubt import AHEAD_STEPS, BOOT_CONFIRM_NS, CONFIRM_NS, Claim, doubt
from cryptometer.errors import Rejected
from cryptometer.keys import KeyLost, Signer
from cryptometer.records import Acknowledgement, Checkpoint, Ending, Mark, ReAnchor, Record
from cryptometer.steps import NS_PER_MS, NS_PER_S, ClockState, Instant, step_start_ms
from firmware.chain import (
    Chain,
    aligned,
    anchored,
    draft_of,
    first_refused,
    is_acting,
    may_take_back,
    signed_so_far,
)
from firmware.comparing import Comparing, Second
from firmware.config import Config
from firmware.counter import BLANK_SNAPSHOT, Counter, Snapshot
from firmware.enrolment import Enrolment, open_acknowledgement
from firmware.events import (
    Aligned,
    Anchored,
    Began,
    Dated,
    Ended,
    Event,
    Kept,
    Noticed,
    Passed,
    Pulses,
    Read,
    Watched,
)
from firmware.guarding import Guarding
from firmware.journal import Journal, Recovered
from firmware.listening import (
    REST_NS,
    YEARS_NS,
    Listening,
    Spoken,
    base_in,
    index_before,
)
from firmware.lots import BLANK, CloseDraft, Draft, Limits, RunDraft, Signed
from firmware.outbox import FREE_BYTES_MIN, End, Outbox, chain_start
from firmware.rollback import newest_note
from firmware.timekeeping import adopt
from hal.faults import Point, passing
from hal.ports import (
    BESIDE_MODULUS,
    Clock,
    Connected,
    Connection,
    Directory,
    Disconnected,
    Guard,
    LineLost,
    Message,
    PulseSource,
    Recalling,
    Taken,
    Timed,
)

MESSAGES_MAX = 100  # taken from the broker in one turn, so that the line is never kept waiting
LINE_RETRY_NS = 2 * NS_PER_S
# A key that is away is asked for after so long, and after twice that until the most.
KEY_RETRY_FIRST_NS, KEY_RETRY_MAX_NS = 2 * NS_PER_S, 60 * NS_PER_S
# Of a turn, for signatures: a token may take a fifth of a second for each, and the line waits.
SIGN_MAX_NS = NS_PER_S // 4
DELAY_MAX_MS = 2**40  # a batch then waits for its step's end
PULSE_MAX_NS = NS_PER_S  # no meter's pulse lasts longer: a counter has it by then
SLEPT_NS = NS_PER_S // 10  # a suspension takes longer; two clocks differ by less when read in turn
WAIT_MAX_NS = NS_PER_S  # the clock is looked at, at least so often
# Before a step ends the line does not rest: a pulse that came before the end is taken before it, as
# far as the line's latency allows. Long enough for a busy board to be back at its work.
ALERT_NS = 250 * NS_PER_MS
FILL_MAX = 4  # a line rests no longer than fills one part in so many of its capacity

MUTED = (
    "the newest registration has changed what the meter's register counts: nothing is counted until"
    " the authority re-anchors the chain behind it: cryptometer authority re-anchor"
)

Log = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a device is made of.

    Attributes:
        open_line: opens the pulse line; raises LineLost while it cannot.
        connection: None until the device is enrolled.
        enrolment: None until then, too: pulses are journalled meanwhile.
        on_registration: keeps authority records that came over the broker; the program starts
            over with them.
        guard: tells an older copy of the folders from the newest; None: nothing does.
        spoken: how the meter's own index is read; None where pulses are counted.
        second: how the index of a second source is read, which is only compared; None where there
            is none. Its lines are those of `open_line`, too.
    """

    clock: Clock
    open_line: Callable[[], PulseSource]
    journal_directory: Directory
    outbox_directory: Directory
    signer: Signer
    enrolment: Enrolment | None
    connection: Connection | None
    on_registration: Callable[[bytes], bool]
    log: Log
    guard: Guard | None = None
    spoken: Spoken | None = None
    second: Second | None = None


@dataclass(frozen=True, slots=True)
class Wake:
    """When a device wants to work again. All times are the machine's monotonic time.

    Attributes:
        due_ns: then, whatever happens.
        line: a descriptor that wakes it once readable, but not before `line_ns`; None while the
            line is gone.
        broker: a descriptor that wakes it once readable; None without a connection.
    """

    due_ns: int
    line: int | None
    line_ns: int
    broker: int | None


class Device:
    """One meter's program, from recovery to an orderly end. The loop that waits is outside."""

    def __init__(self, parts: Parts, config: Config, software: str) -> None:
        self._parts = parts
        self._config = config
        self._software = software
        self._clock = parts.clock
        self._limits = Limits(config.batch.lots, config.batch.delay_community_ms)
        self._journal = Journal(parts.journal_directory)
        self._outbox = Outbox(
            parts.outbox_directory,
            limit_bytes=config.journal.limit_mb * 2**20,
            window=config.outbox.window,
        )
        self._guarding = Guarding(
            parts.guard, parts.clock, self._journal, self._outbox, self._note_kept
        )
        self._line: PulseSource | None = None
        self._listening: Listening | None = None
        self._comparing: Comparing | None = None
        self._line_retry_ns = 0
        self._claim: Claim | None = None  # a time far ahead that is not believed yet
        self._slept_ns = 0  # suspended in all, as of the beginning of the run
        self._looked_ns = 0  # monotonic community time before which every pulse has been taken
        self._look_ns = 0  # machine time of the newest look, and what it brought
        self._look_pulses = 0
        self._pulsed_ns = 0  # machine time of the newest look that brought pulses
        self._pulse_gap_ns = 0  # machine time between two pulses, as that look found them
        self._watched_at_ns = 0  # machine time of the newest journalled event
        self._synced_at_ns = 0
        self._checkpoint: Checkpoint | None = None
        self._wants_restart = False
        self._told: End | None = None  # what the journal was told of the signed chain
        self._may_leave: End | None = None  # the same, durably
        self._awaited: tuple[Record, ...] = ()  # re-anchors the gateway's word must stand on first
        self._standing: Acknowledgement | None = None  # that word, not acted on yet
        self._unsigned: list[Draft] = []  # in order; all that they were made of is in the journal
        self._anew: list[Draft] = []  # what a re-anchor is followed by, as far as it was read
        self._key_away = ""  # why the key cannot sign now
        self._key_retry_ns = self._key_pause_ns = 0
        self._is_anchored = False  # whether the gateway's chain stands on the newest re-anchor
        self._is_isolated = False
        self._refused = 0  # messages from outside that said nothing we may believe
        self._said = ""
        self._chain: Chain | None = None
        self._ahead_ms = 0
        enrolment = parts.enrolment
        if enrolment is not None:
            self._topic = f"cryptometer/1/{enrolment.community.id.hex()}"
            self._ahead_ms = AHEAD_STEPS * enrolment.terms.step_ms
        self._is_muted = False  # until a re-anchor: the register's unit is not the registered one
        self._counter = self._recover()
        since = self._counter.since
        self._is_muted = not self._is_registered_at(self._since if since is None else since)
        if parts.spoken is not None:
            self._listening = self._listen(parts.spoken)
        if parts.second is not None:
            self._comparing = self._compare(parts.second)

    @property
    def status(self) -> str:
        """One line for the service manager."""
        end, listening = self._outbox.end, self._listening
        signed = end.sequence if end is not None else 0
        shown = f"{self._counter.register} pulses"
        if listening is not None:
            shown = f"index {self._counter.register - listening.base}"
        text = f"{shown}, {signed} records, {self._outbox.waiting} waiting"
        if self._is_muted:
            text += ", muted until a re-anchor"
        if self._outbox.stop is not None:
            text += f", stopped: {self._outbox.stop.reason}"
        if self._key_away:
            text += f", not signing: {self._key_away}"
        if self._claim is not None:
            text += ", its clock far ahead and not believed yet"
        if self._refused:
            text += f", {self._refused} messages refused"
        return text

    @property
    def wants_restart(self) -> bool:
        """The authority has said something new; the program should begin anew with it."""
        return self._wants_restart

    def begin(self) -> None:
        """Opens the line and takes what waits in it."""
        now = self._clock.now()
        self._looked_ns = now.mono_ns
        self._open_line()
        last_ns = self._counter.last_ns
        if self._line is None and last_ns is not None:
            # A run that was killed has said no word of its end, and none begins here yet: whatever
            # is journalled next, a clock that steps as well, nobody watched since.
            self._give([Passed(last_ns)])

    def work(self) -> None:
        """Everything that is due now, without waiting."""
        self.look()
        self.carry_on()

    def look(self) -> None:
        """Takes what waits at the line, journals it, counts it: the part of the work that other
        devices of the same loop need not wait for."""
        self._look()

    def carry_on(self) -> None:
        """The rest of the work: signs, makes durable, converses with the gateway."""
        self._sign()
        self._make_durable()
        self._converse()
        if self._is_muted and not self._has_to_sign:
            # What was counted in the former unit is signed: it ends with this run.
            self._wants_restart |= self._is_registered_at(self._since)

    def wake(self) -> Wake:
        """When to work again, as things stand after this work."""
        now_ns = self._clock.machine_ns()
        wait_ns = min(WAIT_MAX_NS, self._sync_in_ns(now_ns))
        if self._has_to_sign:
            wait_ns = min(wait_ns, max(0, self._key_retry_ns - now_ns))
        rest_ns = self._rest_ns(now_ns)
        draft_ns = self._draft_in_ns(now_ns)
        if draft_ns is not None and self._line is not None:
            wait_ns = min(wait_ns, draft_ns + self._line.latency_ns)
            rest_ns = min(rest_ns, draft_ns - ALERT_NS)
        if self._listening is not None or self._comparing is not None:
            line_ns = _due_ns(self._line)
            if line_ns is not None:
                wait_ns = min(wait_ns, max(0, line_ns - now_ns))
        resend_ns = self._outbox.next_due_ns()
        if resend_ns is not None:
            wait_ns = min(wait_ns, resend_ns - now_ns)
        connection = self._parts.connection
        return Wake(
            now_ns + wait_ns,
            None if self._line is None else self._line.fileno(),
            now_ns + rest_ns,
            None if connection is None else connection.fileno(),
        )

    def end(self) -> None:
        """Ends the run in order: what was given is durable, and the next run says so."""
        if self._line is not None:
            self._look()
        if self._line is not None:  # the last look may have found it gone
            newest = [] if self._listening is None else self._listening.give()
            newest += [] if self._comparing is None else self._comparing.give()
            self._give([*newest, Ended(self._looked_ns, Ending.STOPPED)])
            self.abandon()
        self._sign()
        self._journal.sync()
        self._outbox.sync()

    def abandon(self) -> None:
        """Lets go of the line without a word, as a death would: for an end after a failed write or
        sync, when nothing more may be written."""
        if self._line is not None:
            self._line.close()
            self._line = None

    # --- Recovery --------------------------------------------------------------------------------

    def _recover(self) -> Counter:
        parts, now_ns = self._parts, self._clock.machine_ns()
        recovered = self._journal.recover()
        cuts = self._outbox.recover(now_ns)
        self._cut_bytes = recovered.cut_bytes + sum(cut.size for cut in cuts)
        if self._cut_bytes:
            parts.log(f"set aside damaged bytes: count={self._cut_bytes}")
        self._compare_logs(recovered, is_cut=bool(cuts))
        enrolment = parts.enrolment
        snapshot = recovered.snapshot
        known = None if snapshot is None else snapshot.since
        counted = self._unit_at(self._since if known is None else known)
        if enrolment is not None and counted is not None:
            self._chain = self._chain_of(counted)
            self._guarding.look()
            self._start_chain(self._chain, enrolment, snapshot or BLANK_SNAPSHOT)
        end = self._outbox.end
        signed = signed_so_far(end) if end is not None else None
        if snapshot is None:
            snapshot = BLANK_SNAPSHOT
            # An outbox in which no run was ever signed was begun a moment before the first journal.
            if signed is not None and signed.run_ms and enrolment is not None:
                parts.log("the journal is lost; going on from the newest signed record")
                snapshot = _from_signed(signed, enrolment.terms.step_s)
        counted = self._unit_at(self._since if known is None else known)
        terms = None if counted is None else counted.terms
        if self._journal.wants_snapshot:
            # So long a journal is of days without a key: few signatures for all that waits.
            self._limit_batches(widely=True)
        counter = Counter(snapshot, terms, self._limits)
        if known is None and enrolment is not None:
            counter.since = self._since
        if signed is not None:
            counter.resume(signed)
        for event in recovered.events:
            counter.apply(event)
        counter.caught_up()
        target = self._unit_at(self._since)
        is_other = counted is not None and target is not None and not _is_alike(counted, target)
        if is_other and target is not None:
            counter.settle(is_index=target.is_index)
        self._unsigned = counter.take_drafts()
        if self._chain is not None:
            # Signed again from the journal, and durable, before the journal lets go of it.
            self._sign_waiting(self._chain)
            self._sync()
        self._limit_batches()
        if self._unsigned:
            return counter
        if is_other and counted is not None and target is not None:
            counter = self._change_unit(counter, counted, target)
        self._begin_segment(counter)
        return counter

    def _change_unit(self, counter: Counter, before: Enrolment, after: Enrolment) -> Counter:
        """Behind a re-anchor, with all signed that was counted in the former unit."""
        base, spoken = 0, self._parts.spoken
        if spoken is not None and after.is_index:
            shown_uwh = int((counter.register - counter.base) * before.unit_uwh)
            base = base_in(spoken, counter.register, shown_uwh if before.is_index else None)
        self._chain = self._chain_of(after)
        snapshot = counter.in_another_unit(self._since, base)
        return Counter(snapshot, after.terms, self._limits)

    def _chain_of(self, enrolment: Enrolment) -> Chain:
        return Chain(
            enrolment.meter,
            enrolment.community.id,
            enrolment.registered,
            self._parts.signer,
            str(self._config.source.get("driver", "")),
            str(self._config.compared.get("driver", "")),
        )

    @property
    def _since(self) -> int:
        """The place in the authority's chain of what gave the signed chain's register its unit."""
        enrolment, end = self._parts.enrolment, self._outbox.end
        if enrolment is None:
            return 0
        return enrolment.begun if end is None else enrolment.since(end.anchors, end.begun)

    def _unit_at(self, since: int) -> Enrolment | None:
        """The enrolment as far as it has the unit that the authority had given by then."""
        enrolment = self._parts.enrolment
        return None if enrolment is None else enrolment.in_unit_at(since)

    def _is_registered_at(self, since: int) -> bool:
        """Whether the unit by then is that of the newest registration."""
        enrolment, then = self._parts.enrolment, self._unit_at(since)
        return enrolment is None or then is None or _is_alike(enrolment, then)

    def _compare_logs(self, recovered: Recovered, *, is_cut: bool) -> None:
        """What one log has lost, the other knows: what was published is never signed again."""
        end, known = self._outbox.end, recovered.end
        is_short = known is not None and (end is None or end.is_behind(known))
        if known is not None and is_short:
            self._parts.log(
                "the outbox is damaged; going on from what the journal knows to be signed:"
                f" sequence={known.sequence}"
            )
            self._outbox.go_on_from(known)
        is_lost = recovered.snapshot is None and end is not None and end.run_ms > 0
        if is_lost or (not recovered.is_whole and (is_cut or is_short)):
            self._outbox.tear()
        noted = newest_note(end, known)
        if noted is not None:
            self._outbox.note_guard(noted)

    @property
    def _stands_on_word(self) -> bool:
        """Whether the chain begins where the gateway's signed word shows that its own goes on."""
        enrolment, end = self._parts.enrolment, self._outbox.end
        if enrolment is None or end is None or not enrolment.anchors:
            return False
        return self._is_anchored and end.previous == enrolment.anchors[-1].identity

    def _note_kept(self, end: End) -> None:
        """The journal knows durably of what is signed up to here."""
        self._told = self._may_leave = end

    # --- The chain at a start --------------------------------------------------------------------

    def _start_chain(self, chain: Chain, enrolment: Enrolment, snapshot: Snapshot) -> None:
        while self._sign_portion(chain):
            pass  # what an earlier run began: the journal's events come behind it
        end = self._outbox.end
        anchors = enrolment.anchors
        # Nothing was signed here yet where a guard waits for the right re-anchor.
        waits = self._guarding.waits_for_word
        if anchors and (end is None or (waits and not end.run_ms and len(anchors) > end.anchors)):
            self._outbox.begin(anchored(None, snapshot.lots.batch_from, anchors, None))
            return
        if end is not None and len(anchors) > end.anchors:
            self._awaited = anchors
            return
        newest = enrolment.beginning.identity
        # A chain without a record begins with the newest registration, whenever that came.
        is_unwritten = end is not None and end.sequence == 0 and not end.anchors
        if end is None or (is_unwritten and end.previous != newest):
            # Whether a chain was begun here before and lost with the card, nobody here knows.
            self._outbox.begin(replace(chain_start(newest, enrolment.begun), torn=0))

    def _act_on_word(self, now_ns: int) -> None:
        """Re-anchors once the gateway's chain stands on it and the time is known: without it
        nobody could say whether the chain has to come back to the present."""
        word = self._standing
        # A board that is muted begins no run that could learn the time.
        if word is None or not (self._is_dated or self._is_muted) or self._has_to_sign:
            return
        self._take_back(word, len(self._awaited))
        self._re_anchor(self._awaited)
        self._awaited, self._standing = (), None
        self._outbox.acknowledge(word, now_ns)

    @property
    def _is_dated(self) -> bool:
        counter = self._counter
        return counter.dating is not None and counter.has_begun_in(self._clock.boot_id)

    def _re_anchor(self, anchors: tuple[Record, ...]) -> None:
        """Acts on the newest re-anchor, now that the gateway's chain stands on it."""
        # The count first: once the outbox knows of the re-anchor, no later run acts on it again.
        if self._is_dated:
            self._come_back()
        end, body = self._outbox.end, anchors[-1].body
        assert end is not None  # noqa: S101 - `_start_chain` awaits a word for a chain of ours only
        assert isinstance(body, ReAnchor)  # noqa: S101 - the enrolment chose them
        at = first_refused(end, body, len(anchors) - end.anchors)
        first = self._outbox.first_kept(at)
        unsigned_from = signed_so_far(end).register
        withheld = self._outbox.waiting_before(at)
        refused = self._outbox.waiting - withheld
        if self._listening is not None:
            # Durable before the outbox knows of the re-anchor, which no later run acts on again: a
            # run that dies in between is excused by a word that stands.
            self._give(self._listening.excuse())
            self._journal.sync()
        self._outbox.begin(anchored(end, unsigned_from, anchors, first))
        said = f"re-anchored: sequence={body.at} signed anew={refused}"
        if withheld:
            said += f"; not signed anew, since the gateway may have them: {withheld}"
        self._parts.log(said)

    def _take_back(self, word: Acknowledgement, anchors: int) -> None:
        """What a gateway had acknowledged behind the re-anchor's place, and has dropped since,
        waits again: it is signed anew like all that follows that place, but for what the card has
        let go of."""
        end = self._outbox.end
        if end is None or word.sequence >= end.acknowledged:
            return
        if may_take_back(end, anchors - end.anchors):
            self._outbox.take_back(word.sequence)

    def _come_back(self) -> None:
        """Where a wrong clock had led the chain into the far future, it goes on in the present."""
        now = self._clock.now()
        if not self._counter.is_far_ahead(now.mono_ns):
            return
        self._parts.log("the chain goes on in the present")
        self._give([Anchored(now.mono_ns)])
        # What was journalled before is of that wrong time: it is not applied again after this.
        self._begin_segment(self._counter)
        if self._line is not None:
            self._give([Ended(self._looked_ns, Ending.UNKNOWN)])
            self._begin_run(now)

    @property
    def _is_signing_anew(self) -> bool:
        end = self._outbox.end
        return end is not None and end.anew is not None

    @property
    def _has_to_sign(self) -> bool:
        """Whether something waits for its signature: until then the journal keeps all of it."""
        return bool(self._unsigned) or self._is_signing_anew

    def _sign_portion(self, chain: Chain) -> bool:
        """Signs some of what a re-anchor must be followed by, in bounded memory and time; a run
        that dies in between is followed by one that goes on from there. False if nothing is.

        Raises:
            KeyLost: the key is away.
        """
        end = self._outbox.end
        if end is None or end.anew is None:
            return False
        if not self._anew:
            offset = end.anew.offset
            self._anew = [draft_of(one, offset) for one in self._outbox.take_refused()]
        self._sign_some(chain, self._anew)
        self._outbox.sync()
        return True

    # --- The line --------------------------------------------------------------------------------

    def _open_line(self) -> None:
        parts, now = self._parts, self._clock.now()
        if self._is_muted:
            self._say(MUTED)
            self._line_retry_ns = self._clock.machine_ns() + LINE_RETRY_NS
            return
        try:
            self._line = parts.open_line()
        except LineLost as lost:
            self._say(str(lost))
            self._line_retry_ns = self._clock.machine_ns() + LINE_RETRY_NS
            return
        self._say("watching")
        self._begin_run(now)
        self._look(waited=True)

    def _begin_run(self, now: Instant) -> None:
        self._slept_ns = self._clock.slept_ns()
        began = Began(self._clock.boot_id, now.mono_ns, self._software, self._cut_bytes)
        self._cut_bytes = 0
        self._looked_ns = now.mono_ns
        self._give([began])
        # A dating belongs to a boot, hence after the word that this one has begun.
        self._give(self._dated(now))

    def _has_slept(self) -> bool:
        """Whether the machine was suspended since the run began: nobody watched meanwhile."""
        slept_ns = self._clock.slept_ns() - self._slept_ns
        if slept_ns <= SLEPT_NS:
            return False
        self._parts.log(f"the machine was suspended: seconds={slept_ns // NS_PER_S}")
        return True

    def _look(self, *, waited: bool = False) -> None:
        """Takes what waits at the line, journals it, counts it."""
        before = self._clock.now()
        has_slept = self._line is not None and self._has_slept()
        if has_slept:
            # As a run that ended with the newest look, and one that begins now.
            self._give([Ended(self._looked_ns, Ending.UNKNOWN)])
            self._begin_run(before)
        events: list[Event] = list(self._dated(before))
        if self._line is None:
            due_ns = self._counter.next_due_ns()
            # Another boot's dating says nothing of this one's monotonic time.
            is_ours = self._counter.has_begun_in(self._clock.boot_id)
            if is_ours and due_ns is not None and before.mono_ns >= due_ns:
                events.append(Passed(before.mono_ns))
            self._give(events)
            if self._clock.machine_ns() >= self._line_retry_ns:
                self._open_line()
            return
        looked_ns = 0 if self._comparing is None else self._clock.machine_ns()
        try:
            taken = self._line.take()
        except LineLost as lost:
            self._lose_line(str(lost))
            return
        after, dated = self._clock.now(), len(events)
        if self._listening is not None:
            due_ns = self._counter.next_due_ns()
            events += self._listening.hear(
                taken.said, self._counter.register, due_ns, self._clock.community_ns
            )
            events += self._recall(self._listening, taken)
        if taken.noise:
            events.append(Noticed.of(Mark.NOISE, taken.noise))
        if taken.lost:
            events.append(Noticed.of(Mark.LOST, taken.lost))
        if taken.captured_ns and not has_slept:
            times = [self._clock.community_ns(at) for at in taken.captured_ns]
            first = self._counter.register + 1
            events += [Pulses(first + i, at, at, int(waited)) for i, at in enumerate(times)]
        elif taken.pulses:
            register = self._counter.register + taken.pulses
            since = min(self._looked_ns, after.mono_ns)
            events.append(Pulses(register, since, after.mono_ns, int(waited or has_slept)))
        self._note_rate(taken.pulses)
        events += self._compare_beside(taken, after.mono_ns, waited=waited)
        if self._comparing is not None:
            self._comparing.note(self._register_after(events), looked_ns)
            end_ns = self._counter.step_end_ns()
            # Before what came with it, which may close the step.
            events[dated:dated] = self._comparing.hear(
                taken.compared, end_ns, self._clock.community_ns
            )
        # What was emitted before this look began has been taken now, but for the line's latency.
        latency_ns = self._clock.community_ns(self._line.latency_ns) - self._clock.community_ns(0)
        self._looked_ns = max(self._looked_ns, before.mono_ns - latency_ns)
        if self._is_mark_due():
            if self._listening is not None:
                events += self._listening.give()
            if self._comparing is not None:
                events += self._comparing.give()
            events.append(Watched(self._looked_ns))
        self._give(events)
        if self._listening is not None:
            self._ask_past(self._listening)

    def _recall(self, listening: Listening, taken: Taken) -> list[Event]:
        """What the meter's own load profile says of steps that nobody read."""
        dating, clock = self._counter.dating, self._clock
        if dating is None:
            return []
        return listening.recall(
            taken.past,
            lambda at_ns: dating.utc_ms(clock.community_ns(at_ns)),
            lambda at_ns: dating.error_ms(clock.community_ns(at_ns)),
        )

    def _ask_past(self, listening: Listening) -> None:
        """Asks the meter for its indexes at the ends of steps that nobody read."""
        steps, enrolment = self._counter.missed_steps, self._parts.enrolment
        line: object = self._line
        # Whether a line is of a kind is dear to ask, and few looks have a reason to.
        if not steps or enrolment is None or not isinstance(line, Recalling):
            return
        steps = listening.missed(steps)
        if steps:
            step_s = enrolment.terms.step_s
            line.ask_past((steps.start + 1) * step_s, steps.stop * step_s)

    def _listen(self, spoken: Spoken) -> Listening:
        """Goes on from the newest index that an earlier run has believed."""
        counter, now_ns = self._counter, self._clock.machine_ns()
        since_ns = now_ns - YEARS_NS
        if counter.has_begun_in(self._clock.boot_id) and counter.last_ns is not None:
            since_ns = now_ns - max(0, self._clock.now().mono_ns - counter.last_ns)
        if counter.told_ms is not None:
            age_ns = self._clock.now().utc_ns - counter.told_ms * NS_PER_MS
            since_ns = min(since_ns, now_ns - age_ns)
        before = index_before(spoken, counter.register, counter.base, since_ns)
        keep_ns = self._config.journal.watch_machine_ms * NS_PER_MS
        # Readings have machine times; in those, a clock that runs faster makes the meter stronger.
        speed = self._clock.community_ns(1) - self._clock.community_ns(0)
        spoken = replace(spoken, power_w=spoken.power_w * speed)
        is_excused = counter.is_excused
        return Listening(spoken, counter.base, before, keep_ns, is_excused=is_excused)

    def _compare(self, second: Second) -> Comparing:
        """As `_listen`, for a source that is only compared."""
        keep_ns = self._config.journal.watch_machine_ms * NS_PER_MS
        speed = self._clock.community_ns(1) - self._clock.community_ns(0)
        return Comparing(replace(second, power_w=second.power_w * speed), keep_ns)

    def _register_after(self, events: list[Event]) -> int:
        """The counter's register once these events are journalled, or a reading that is not yet."""
        given = [one.register for one in events if isinstance(one, Pulses | Read)]
        held = 0 if self._listening is None else self._listening.register
        return max([self._counter.register, held, *given])

    def _compare_beside(self, taken: Taken, now_ns: int, *, waited: bool) -> list[Event]:
        """Holds the register against another counter of the same pulses. What that counted while
        nobody watched is counted at the first look of a run; from then on it is known how far it
        is ahead, whatever has made it so.

        A pulse that is under way may be in the register and not there yet: not before the line has
        rested is it believed to have fallen back, or a run that is killed meanwhile would have the
        next one count that pulse again."""
        if taken.beside is None:
            return []
        events: list[Event] = []
        register = self._counter.register + taken.pulses
        if waited and self._counter.ahead is not None:
            missed = (taken.beside - self._counter.ahead - register) % BESIDE_MODULUS
            if 0 < missed < BESIDE_MODULUS // 2:  # beyond: it was set back
                register += missed
                events.append(Noticed.of(Mark.RECOVERED, missed))
                events.append(Pulses(register, self._looked_ns, now_ns, 1))
        ahead = (taken.beside - register) % BESIDE_MODULUS
        known = ahead if self._counter.ahead is None else self._counter.ahead
        behind = (known - ahead) % BESIDE_MODULUS
        is_rise = behind > BESIDE_MODULUS // 2
        has_rested = not taken.pulses and self._look_ns - self._pulsed_ns >= PULSE_MAX_NS
        was_set_back = waited and behind > taken.pulses + 1
        if self._counter.ahead is None or (behind and (is_rise or has_rested or was_set_back)):
            events.append(Aligned(ahead))
        return events

    def _note_rate(self, pulses: int) -> None:
        now_ns = self._clock.machine_ns()
        self._pulse_gap_ns = (now_ns - self._look_ns) // max(1, pulses)
        self._look_ns, self._look_pulses = now_ns, pulses
        if pulses:
            self._pulsed_ns = now_ns

    def _is_mark_due(self) -> bool:
        due_ns = self._counter.next_due_ns()
        if due_ns is not None and self._looked_ns >= due_ns:
            return True
        quiet_ns = self._clock.machine_ns() - self._watched_at_ns
        return quiet_ns >= self._config.journal.watch_machine_ms * NS_PER_MS

    def _give(self, events: list[Event]) -> None:
        if not events:
            return
        # Given once this returns: only then are they counted, and only from here on are they ours.
        self._journal.append(events)
        self._watched_at_ns = self._clock.machine_ns()
        for event in events:
            self._counter.apply(event)

    def _dated(self, now: Instant) -> list[Event]:
        if not self._counter.has_begun_in(self._clock.boot_id):
            return []
        before = self._claim
        known_ms = self._counter.known_ms(now.mono_ns)
        confirm_ns = BOOT_CONFIRM_NS if self._counter.dating is None else CONFIRM_NS
        self._claim = doubt(known_ms, self._ahead_ms, confirm_ns, before, now)
        if self._claim is not None:
            if before is None:
                self._parts.log(
                    "the clock says that it is much later than known; it is believed once it has"
                    f" said so for {confirm_ns // NS_PER_S // 60} minutes:"
                    f" utc_ms={now.utc_ns // NS_PER_MS} known_ms={known_ms}"
                )
            now = replace(now, state=ClockState.UNKNOWN)
        dating = adopt(self._counter.dating, now)
        return [] if dating is None else [Dated(dating)]

    def _lose_line(self, why: str) -> None:
        self._say(why)
        self.abandon()
        self._give([Ended(self._looked_ns, Ending.LINE_LOST)])
        self._line_retry_ns = self._clock.machine_ns() + LINE_RETRY_NS

    # --- Signing and durability ------------------------------------------------------------------

    def _sign(self) -> None:
        self._unsigned += self._counter.take_drafts()
        if self._chain is None or not self._has_to_sign:
            return
        if self._clock.machine_ns() < self._key_retry_ns:
            return
        waited = list(self._unsigned)
        self._sign_waiting(self._chain)
        signed = waited[: len(waited) - len(self._unsigned)]
        if any(isinstance(draft, CloseDraft | RunDraft) for draft in signed):
            # The block waits for a close; it does not wait for the group, nor for the next one,
            # which would bring the journal's word on it.
            self._sync()
            self._sync()
        self._limit_batches()

    def _sign_waiting(self, chain: Chain) -> None:
        """Signs what waits, as far as key and time allow; the rest goes on waiting."""
        try:
            # What is new comes behind what is signed anew.
            if not (self._sign_portion(chain) and self._is_signing_anew):
                self._sign_some(chain, self._unsigned)
        except KeyLost as lost:
            self._lose_key(str(lost))
            return
        if self._key_away:
            self._parts.log("the key is back, and signs")
        self._key_away, self._key_retry_ns, self._key_pause_ns = "", 0, 0

    def _sign_some(self, chain: Chain, drafts: list[Draft]) -> None:
        """Signs from the beginning of `drafts`, and takes off what is done, until the time is over.

        Raises:
            KeyLost: the key is away; what was signed before that is kept.
        """
        end = self._outbox.end
        if end is None or not drafts:
            return
        self._guarding.pass_by(lambda: self._stands_on_word)
        end = self._outbox.end
        assert end is not None  # noqa: S101 - the guard only adds to it
        where = aligned(end, drafts)
        if where != end:
            self._outbox.begin(where)
            end = where
        signed: list[Record] = []
        away: KeyLost | None = None
        until_ns = self._clock.machine_ns() + SIGN_MAX_NS
        try:
            for record in chain.sign(drafts, end, self._checkpoint):
                signed.append(record)
                if self._clock.machine_ns() >= until_ns:
                    break
        except KeyLost as lost:
            away = lost
        if signed:
            passing(Point.DEVICE_SIGNED)
            self._outbox.append(signed)
            del drafts[: len(signed)]
        if away is not None:
            raise away

    def _lose_key(self, why: str) -> None:
        if why != self._key_away:
            self._parts.log(f"cannot sign: {why}; pulses are journalled, and signed later")
        self._key_away = why
        pause_ns = 2 * self._key_pause_ns or KEY_RETRY_FIRST_NS
        self._key_pause_ns = min(pause_ns, KEY_RETRY_MAX_NS)
        self._key_retry_ns = self._clock.machine_ns() + self._key_pause_ns

    def _limit_batches(self, *, widely: bool = False) -> None:
        """In isolation batches stretch to a step; so they do while signatures are behind, as with a
        slow token or one that is away: one signature is then for all that has come meanwhile."""
        batch = self._config.batch
        is_wide = widely or self._is_isolated or bool(self._unsigned)
        self._limits.lots = records.LOTS_MAX if is_wide else batch.lots
        self._limits.delay_ms = DELAY_MAX_MS if is_wide else batch.delay_community_ms

    def _make_durable(self) -> None:
        now_ns = self._clock.machine_ns()
        if now_ns - self._synced_at_ns < self._config.journal.sync_machine_ms * NS_PER_MS:
            return
        self._synced_at_ns = now_ns
        self._sync()
        if self._journal.wants_snapshot and not self._has_to_sign:
            # The drafts of all journalled events are signed and durable: the snapshot may go on
            # without them.
            self._begin_segment(self._counter)
        self._stretch(now_ns)

    def _sync(self) -> None:
        # What the outbox holds durably is published once the journal knows of it durably: then
        # each of the two alone can tell that it must not be signed again.
        end = self._outbox.durable
        if (
            end is not None
            and (self._told is None or self._told.is_behind(end))
            # One that was lost begins with a snapshot, which tells it as well.
            and self._journal.has_begun
        ):
            self._journal.append([Kept(end)])
            self._told = end
        # The journal first: what is signed must not outlive what it was made of, or the next run
        # would not know of a run that has been published.
        self._journal.sync()
        self._may_leave = self._told
        self._outbox.sync()

    def _begin_segment(self, counter: Counter) -> None:
        """A new snapshot, once all that it no longer holds is signed and durable."""
        self._outbox.sync()
        self._told = self._outbox.end
        self._journal.begin_segment(counter.snapshot(self._told))
        self._may_leave = self._told

    def _stretch(self, now_ns: int) -> None:
        """In isolation batches stretch to a step; on a full card lots do, and are marked."""
        isolated_ms = self._config.outbox.isolated_machine_ms
        self._is_isolated = self._outbox.isolated_ns(now_ns) >= isolated_ms * NS_PER_MS
        self._limit_batches()
        room = self._parts.outbox_directory.free_bytes()
        is_filling = self._is_isolated and room < FREE_BYTES_MIN
        self._limits.oversize = self._outbox.is_full or is_filling

    # --- The gateway -----------------------------------------------------------------------------

    def _converse(self) -> None:
        connection, enrolment = self._parts.connection, self._parts.enrolment
        if connection is None or enrolment is None:
            return
        now_ns = self._clock.machine_ns()
        before = self._outbox.stop
        for event in connection.drain(MESSAGES_MAX):
            match event:
                case Connected():
                    self._say("connected")
                    self._outbox.connected(now_ns)
                    status = self._meter_topic(enrolment, "status")
                    connection.publish(status, b"online", retain=True)
                case Disconnected(reason=reason):
                    self._say(reason)
                    self._outbox.disconnected()
                case Message():
                    self._hear(event, enrolment, now_ns)
                    connection.confirm(event.token)
        self._act_on_word(now_ns)
        # What the authority says may replace what waits here, as a re-anchor does.
        if not self._wants_restart and not self._awaited:
            topic = self._meter_topic(enrolment, "record")
            for raw in self._outbox.take_due(now_ns, self._leaving_below()):
                passing(Point.DEVICE_PUBLISH)
                if not connection.publish(topic, raw):
                    break  # it is sent again: the outbox goes back on every connection
        self._report_stop(before)

    def _leaving_below(self) -> int:
        """The sequence up to which, exclusively, the journal knows durably what is signed."""
        end, told = self._outbox.end, self._may_leave
        if end is None or told is None or told.anchors != end.anchors:
            return 0
        return told.sequence

    def _hear(self, message: Message, enrolment: Enrolment, now_ns: int) -> None:
        kind = message.topic.removeprefix(f"{self._topic}/")
        try:
            if kind == "checkpoint":
                checkpoint = enrolment.community.open_checkpoint(message.payload)
                if self._checkpoint is None or checkpoint.size > self._checkpoint.size:
                    self._checkpoint = checkpoint
            elif kind == f"meter/{enrolment.meter}/registration":
                self._wants_restart |= self._parts.on_registration(message.payload)
            elif kind.startswith(f"meter/{enrolment.meter}/ack/"):
                word = open_acknowledgement(message.payload, enrolment)
                self._note_anchored(word, enrolment)
                if self._awaited and is_acting(self._awaited[-1], word):
                    self._standing = word
                else:
                    self._outbox.acknowledge(word, now_ns)
        except Rejected as refused:
            self._refused += 1
            self._say(f"refused a message: topic={kind} {refused}")

    def _note_anchored(self, word: Acknowledgement, enrolment: Enrolment) -> None:
        """A card that knows nothing of its key's chain signs once the gateway's stands right on
        the newest re-anchor."""
        if enrolment.anchors and not self._is_anchored and is_acting(enrolment.anchors[-1], word):
            self._is_anchored = True
            self._key_retry_ns = 0

    def _report_stop(self, before: records.Stop | None) -> None:
        stop = self._outbox.stop
        if stop is not None and stop != before:
            self._parts.log(
                f"the chain cannot go on: sequence={stop.sequence} reason={stop.reason};"
                " everything is kept. The authority can re-anchor it: cryptometer authority"
                " re-anchor"
            )

    def _meter_topic(self, enrolment: Enrolment, last: str) -> str:
        return f"{self._topic}/meter/{enrolment.meter}/{last}"

    # --- Waiting ---------------------------------------------------------------------------------

    def _sync_in_ns(self, now_ns: int) -> int:
        if not self._journal.is_dirty:
            return WAIT_MAX_NS
        return self._synced_at_ns + self._config.journal.sync_machine_ms * NS_PER_MS - now_ns

    def _draft_in_ns(self, now_ns: int) -> int | None:
        """Machine time until a draft is due."""
        due_ns = self._counter.next_due_ns()
        if due_ns is None:
            return None
        ahead_ns = due_ns - self._clock.community_ns(now_ns)
        return int(self._clock.machine_wait_s(ahead_ns) * NS_PER_S)

    def _rest_ns(self, now_ns: int) -> int:
        """For how long the line may be left alone: a look costs much more than a pulse."""
        if self._listening is not None:
            return REST_NS
        gather_ns = self._config.journal.gather_machine_ms * NS_PER_MS
        if not self._look_pulses or not gather_ns or self._line is None:
            return 0
        # Until the next multiple of it, so that the lines of one board are looked at together.
        rest_ns = gather_ns - now_ns % gather_ns
        return min(rest_ns, self._line.capacity // FILL_MAX * self._pulse_gap_ns)

    def _say(self, what: str) -> None:
        """Logs a change once, not each of its repetitions."""
        if what != self._said:
            self._said = what
            self._parts.log(what)


def _is_alike(one: Enrolment, other: Enrolment) -> bool:
    """Whether a register has the same unit by both."""
    return one.details.register_unit == other.details.register_unit


def _due_ns(line: object) -> int | None:
    """Machine time at which a line wants to be looked at though nothing came."""
    return line.due_ns if isinstance(line, Timed) else None


def _from_signed(signed: Signed, step_s: int) -> Snapshot:
    """A counter that knows only what is signed: the journal was lost, the outbox was not."""
    closed_ms = 0 if signed.closed_step is None else step_start_ms(signed.closed_step + 1, step_s)
    lots = replace(
        BLANK,
        register=signed.register,
        lot_from=signed.register,
        batch_from=signed.register,
        closed_from=signed.closed_from,
        next_step=0 if signed.closed_step is None else signed.closed_step + 1,
        run_ms=signed.run_ms,
        seen_ms=max(closed_ms, signed.run_ms),
    )
    return replace(BLANK_SNAPSHOT, register=signed.register, ending=Ending.UNKNOWN, lots=lots)
