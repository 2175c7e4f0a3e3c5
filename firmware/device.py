"""The device's one order of work, over injected parts:

    look at the line -> journal (given) -> count -> sign -> make durable -> publish -> let go

Nothing moves on before the step before it holds it, and each step is also where recovery begins.
What each of them does stands in a module of its own; in which order, here.
"""

from collections.abc import Callable
from dataclasses import dataclass

from cryptometer.keys import Signer
from cryptometer.steps import NS_PER_MS, NS_PER_S
from firmware.anchoring import Anchoring
from firmware.comparing import Second, comparing_with
from firmware.config import Config
from firmware.conversing import Conversing
from firmware.enrolment import Enrolment
from firmware.guarding import Guarding
from firmware.journal import Journal
from firmware.listening import UNBELIEVED, Spoken, listening_on
from firmware.logs import Logs
from firmware.outbox import Outbox
from firmware.recovery import recover
from firmware.saying import Log, Saying
from firmware.signing import Signing
from firmware.stretching import Stretching
from firmware.units import Units
from firmware.watching import Watching
from hal.ports import Clock, Connection, Directory, Guard, PulseSource

WAIT_MAX_NS = NS_PER_S  # the clock is looked at, at least so often


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
        """Recovers.

        Raises:
            ConfigurationError: the folders are an older copy.
            OSError: stop, and recover.
            Rejected: a log is of another version.
        """
        clock, log, enrolment = parts.clock, parts.log, parts.enrolment
        self._parts = parts
        self._clock = clock
        self._sync_ns = config.journal.sync_machine_ms * NS_PER_MS
        self._synced_at_ns = 0
        self._wants_restart = False
        self._units = Units(enrolment)
        self._stretching = Stretching(config)
        self._journal = Journal(parts.journal_directory)
        self._outbox = Outbox(
            parts.outbox_directory,
            limit_bytes=config.journal.limit_mb * 2**20,
            window=config.outbox.window,
        )
        self._logs = Logs(self._journal, self._outbox, log)
        guarding = Guarding(parts.guard, clock, self._journal, self._outbox, self._logs.note_kept)
        self._signing = Signing(
            clock, parts.signer, self._logs, guarding, self._stretching, config, log
        )
        recovered = recover(
            clock.machine_ns(),
            self._logs,
            self._signing,
            guarding,
            self._stretching,
            self._units,
            parts.spoken,
            log,
        )
        self._counter = recovered.counter
        keep_ns = config.journal.watch_machine_ms * NS_PER_MS
        spoken, second = parts.spoken, parts.second
        since, say = self._counter.since, Saying(log)
        self._watching = Watching(
            clock,
            parts.open_line,
            self._journal,
            self._counter,
            config.journal,
            software,
            0 if enrolment is None else enrolment.terms.step_s,
            recovered.cut_bytes,
            None if spoken is None else listening_on(spoken, self._counter, clock, keep_ns),
            None if second is None else comparing_with(second, clock, keep_ns),
            say,
            log,
            is_muted=not self._units.is_registered_at(self._since if since is None else since),
        )
        self._anchoring = Anchoring(
            recovered.awaited,
            clock,
            self._counter,
            self._logs,
            self._signing,
            self._watching,
            log,
        )
        self._conversing: Conversing | None = None
        if enrolment is not None and parts.connection is not None:
            self._conversing = Conversing(
                parts.connection,
                enrolment,
                parts.on_registration,
                self._logs,
                self._signing,
                self._anchoring,
                say,
                log,
            )

    @property
    def status(self) -> str:
        """One line for the service manager."""
        signed = 0 if self._outbox.end is None else self._outbox.end.sequence
        text = f"{self._watching.shown}, {signed} records, {self._outbox.waiting} waiting"
        if self._watching.is_muted:
            text += ", muted until a re-anchor"
        elif self._watching.away:
            text += f", no line: {self._watching.away}"
        if self._watching.unbelieved:
            text += f", {UNBELIEVED}{self._watching.unbelieved}"
        if self._outbox.stop is not None:
            text += f", stopped: {self._outbox.stop.reason}"
        if self._signing.away:
            text += f", not signing: {self._signing.away}"
        if self._watching.is_doubting:
            text += ", its clock far ahead and not believed yet"
        if self._conversing is not None and self._conversing.refused:
            text += f", {self._conversing.refused} messages refused"
        return text

    @property
    def wants_restart(self) -> bool:
        """The authority has said something new; the program should begin anew with it."""
        has_news = self._conversing is not None and self._conversing.has_news
        return self._wants_restart or has_news

    def begin(self) -> None:
        """Opens the line and takes what waits in it."""
        self._watching.begin()

    def work(self) -> None:
        """Everything that is due now, without waiting."""
        self.look()
        self.carry_on()

    def look(self) -> None:
        """Takes what waits at the line, journals it, counts it: the part of the work that other
        devices of the same loop need not wait for."""
        self._watching.look()

    def carry_on(self) -> None:
        """The rest of the work: signs, makes durable, converses with the gateway."""
        self._sign()
        self._make_durable()
        self._converse()
        if self._watching.is_muted and not self._signing.has_to_sign:
            # What was counted in the former unit is signed: it ends with this run.
            self._wants_restart |= self._units.is_registered_at(self._since)

    def end(self) -> None:
        """Ends the run in order: what was given is durable, and the next run says so."""
        self._watching.end()
        self._sign()
        self._journal.sync()
        self._outbox.sync()

    def abandon(self) -> None:
        """Lets go of the line without a word, as a death would: for an end after a failed write or
        sync, when nothing more may be written."""
        self._watching.abandon()

    def wake(self) -> Wake:
        """When to work again, as things stand after this work."""
        now_ns = self._clock.machine_ns()
        line_wait_ns, rest_ns, line = self._watching.wait(now_ns)
        resend_ns = self._outbox.next_due_ns()
        waits = [
            WAIT_MAX_NS,
            self._sync_in_ns(now_ns),
            self._signing.wait_ns(now_ns),
            line_wait_ns,
            None if resend_ns is None else resend_ns - now_ns,
        ]
        connection = self._parts.connection
        return Wake(
            now_ns + min(one for one in waits if one is not None),
            line,
            now_ns + rest_ns,
            None if connection is None else connection.fileno(),
        )

    # --- The steps of its work. ---

    def _sign(self) -> None:
        self._signing.sign(self._counter.take_drafts())

    def _make_durable(self) -> None:
        now_ns = self._clock.machine_ns()
        if now_ns - self._synced_at_ns < self._sync_ns:
            return
        self._synced_at_ns = now_ns
        self._logs.sync()
        if self._journal.wants_snapshot and not self._signing.has_to_sign:
            # The drafts of all journalled events are signed and durable: the snapshot may go on
            # without them.
            self._logs.begin_segment(self._counter)
        free_bytes = self._parts.outbox_directory.free_bytes()
        is_behind = self._signing.waiting > 0
        self._stretching.look(self._outbox, free_bytes, now_ns, is_behind=is_behind)

    def _converse(self) -> None:
        conversing = self._conversing
        if conversing is None:
            return
        now_ns = self._clock.machine_ns()
        conversing.hear(now_ns)
        self._anchoring.act(now_ns)
        # What the authority says may replace what waits here, as a re-anchor does.
        if not self.wants_restart and not self._anchoring.is_awaited:
            conversing.publish(now_ns)
        conversing.report_stop()

    # --- What else is asked of them. ---

    def _sync_in_ns(self, now_ns: int) -> int:
        """Machine time until what was given must be durable."""
        if not self._journal.is_dirty:
            return WAIT_MAX_NS
        return self._synced_at_ns + self._sync_ns - now_ns

    @property
    def _since(self) -> int:
        """The place in the authority's chain of what gave the register its unit."""
        return self._units.since(self._outbox.end)
