"""A device's start: from what journal and outbox hold to a counter that goes on.

The journal is applied again by the same `Counter.apply` as in normal work, after the counter was
told what the outbox holds signed. What that comes to is signed, and durable, before a snapshot in
which it no longer stands.
"""

from dataclasses import dataclass, replace

from cryptometer.chain_records import Ending
from cryptometer.records import Record
from cryptometer.steps import step_start_ms
from firmware.chain import anchored, signed_so_far
from firmware.counter import BLANK_SNAPSHOT, Counter, Snapshot
from firmware.end import chain_start
from firmware.enrolment import Enrolment
from firmware.guarding import Guarding
from firmware.listening import Spoken, base_in
from firmware.logs import Logs
from firmware.lots import BLANK, Signed
from firmware.outbox import Outbox
from firmware.saying import Log
from firmware.signing import Signing
from firmware.stretching import Stretching
from firmware.units import Units, is_alike


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a device begins with.

    Attributes:
        cut_bytes: damaged bytes that were set aside.
        awaited: re-anchors that act once the gateway's word stands on them.
    """

    counter: Counter
    cut_bytes: int
    awaited: tuple[Record, ...]


def recover(
    now_ns: int,
    logs: Logs,
    signing: Signing,
    guarding: Guarding,
    stretching: Stretching,
    units: Units,
    spoken: Spoken | None,
    log: Log,
) -> Recovered:
    """Recovers from any end of the program. Nothing that was signed is signed again with other
    content.

    Args:
        now_ns: machine time.
        spoken: how the meter's own index is read; None where pulses are counted.

    Raises:
        ConfigurationError: the folders are an older copy.
        OSError: stop, and recover.
        Rejected: a log is of another version.
    """
    journal, outbox, enrolment = logs.journal, logs.outbox, units.enrolment
    held, cut_bytes = logs.recover(now_ns)
    snapshot = held.snapshot
    known = None if snapshot is None else snapshot.since
    awaited: tuple[Record, ...] = ()
    counted = units.at(units.since(outbox.end) if known is None else known)
    if enrolment is not None and counted is not None:
        signing.go_by(counted)
        guarding.look()
        signing.finish_anew()  # the journal's events come behind it
        awaited = _start_chain(enrolment, outbox, guarding, snapshot or BLANK_SNAPSHOT)
    signed = None if outbox.end is None else signed_so_far(outbox.end)
    if snapshot is None:
        snapshot = BLANK_SNAPSHOT
        # An outbox in which no run was ever signed was begun a moment before the first journal.
        if signed is not None and signed.run_ms and enrolment is not None:
            log("the journal is lost; going on from the newest signed record")
            snapshot = _from_signed(signed, enrolment.terms.step_s)
    since = units.since(outbox.end)
    counted = units.at(since if known is None else known)
    if journal.wants_snapshot:
        # So long a journal is of days without a key: few signatures for all that waits.
        stretching.limit(is_behind=True)
    counter = Counter(snapshot, None if counted is None else counted.terms, stretching.limits)
    if known is None and enrolment is not None:
        counter.since = since
    if signed is not None:
        counter.resume(signed)
    for event in held.events:
        counter.apply(event)
    counter.caught_up()
    target = units.at(since)
    is_other = counted is not None and target is not None and not is_alike(counted, target)
    if is_other and target is not None:
        counter.settle(is_index=target.is_index)
    signing.sign_recovered(counter.take_drafts())
    if not signing.waiting:
        if is_other and counted is not None and target is not None:
            counter = _change_unit(counter, counted, target, since, spoken, stretching)
            signing.go_by(target)
        logs.begin_segment(counter)
    return Recovered(counter, cut_bytes, awaited)


def _start_chain(
    enrolment: Enrolment, outbox: Outbox, guarding: Guarding, snapshot: Snapshot
) -> tuple[Record, ...]:
    """Begins the signed chain where there is none yet. Returns the re-anchors that one of ours must
    wait for."""
    end, anchors = outbox.end, enrolment.anchors
    # Nothing was signed here yet where a guard waits for the right re-anchor.
    waits = guarding.waits_for_word
    if anchors and (end is None or (waits and not end.run_ms and len(anchors) > end.anchors)):
        outbox.begin(anchored(None, snapshot.lots.batch_from, anchors, None))
        return ()
    if end is not None and len(anchors) > end.anchors:
        return anchors
    newest = enrolment.beginning.identity
    # A chain without a record begins with the newest registration, whenever that came.
    is_unwritten = end is not None and end.sequence == 0 and not end.anchors
    if end is None or (is_unwritten and end.previous != newest):
        # Whether a chain was begun here before and lost with the card, nobody here knows.
        outbox.begin(replace(chain_start(newest, enrolment.begun), torn=0))
    return ()


def _change_unit(
    counter: Counter,
    before: Enrolment,
    after: Enrolment,
    since: int,
    spoken: Spoken | None,
    stretching: Stretching,
) -> Counter:
    """Behind a re-anchor, with all signed that was counted in the former unit."""
    base = 0
    if spoken is not None and after.is_index:
        shown_uwh = int((counter.register - counter.base) * before.unit_uwh)
        base = base_in(spoken, counter.register, shown_uwh if before.is_index else None)
    snapshot = counter.in_another_unit(since, base)
    return Counter(snapshot, after.terms, stretching.limits)


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
