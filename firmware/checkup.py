"""What a look at a board means: facts in, findings out, each in plain words and with what to do.

Measures nothing: no line, clock, network or file is touched here; `firmware.doctor` does that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from fractions import Fraction

from cryptometer.acknowledgement import Acknowledgement
from cryptometer.authority_records import CountingSource, MeterDetails
from cryptometer.errors import ConfigurationError
from cryptometer.metrology import SECONDS_PER_HOUR, number, wh
from cryptometer.steps import (
    DOUBTFUL_ERROR_MS,
    MS_PER_S,
    NS_PER_MS,
    ClockSource,
    ClockState,
    Instant,
    step_of,
    step_start_ms,
)
from firmware.end import End
from firmware.enrolment import Enrolment, check_meter
from firmware.listening import UNBELIEVED
from firmware.lots import BURST_FACTOR
from firmware.outbox import FREE_BYTES_MIN
from firmware.rollback import UNKNOWN, check_newest, is_unknown
from firmware.segments import SegmentedLog
from hal.ports import Directory

SEGMENTS_LOOKED_AT = 16  # of a log, the newest: a card's whole outbox would take minutes to read
SYNC_SLOW_MS = 500  # a healthy card syncs in some ten milliseconds
LATE_WATCHES = 4  # watch marks that may be missing: the board may be busy, a card slow
WAITING_MANY = 200  # records; a gateway that is there leaves a few
_NAMED = "see docs/operations.md, section"


class Verdict(StrEnum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"  # may be as it should; somebody should know
    WRONG = "wrong"  # somebody must act


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        about: the part of the board.
        says: what was found, for people.
        do: the next step, where something is wrong.
    """

    about: str
    verdict: Verdict
    says: str
    do: str = ""


@dataclass(frozen=True, slots=True)
class LineLook:
    """What came over the pulse line while it was looked at.

    Attributes:
        elapsed_ms: for how long.
        pulses: that came meanwhile; not counted by anyone.
        waited: that waited in the line's buffer before.
        noise: characters or edges that were no pulse.
        dropped: pulses the kernel says it dropped.
        burst: pulses that came faster than the meter can give them.
    """

    elapsed_ms: int
    pulses: int
    waited: int
    noise: int
    dropped: int
    burst: int


@dataclass(frozen=True, slots=True)
class Reached:
    """How far the way to the broker led.

    Attributes:
        url: where to.
        steps: names of the steps that worked, in order: name, connection, TLS, login.
        failed: the step that did not, empty when all did.
        why: of the failure, for people.
        left_to: the running program's own connection stands in for the login: True if it has one,
            False if it has none, None where that cannot be seen or was not asked.
    """

    url: str
    steps: tuple[str, ...]
    failed: str = ""
    why: str = ""
    left_to: bool | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """What the broker keeps for this board.

    Attributes:
        acknowledgement: the newest word of a gateway that is rightly signed.
        checkpoint_size: leaves of the newest checkpoint that is rightly signed.
        registration: whether there is a message of the authority, and says something new; None if
            there is none.
        refused: messages that say nothing anybody may believe.
    """

    acknowledgement: Acknowledgement | None = None
    checkpoint_size: int | None = None
    registration: bool | None = None
    refused: int = 0


@dataclass(frozen=True, slots=True)
class LogLook:
    """The files of a journal or an outbox.

    Attributes:
        damaged: bytes behind the last whole entry.
        kept: files `*.damaged` of earlier damage.
        age_s: since the newest file was written to; None if there is no file.
        size: bytes in all.
    """

    damaged: int
    kept: int
    age_s: int | None
    size: int


@dataclass(frozen=True, slots=True)
class DiskLook:
    """The file system under the board's folder.

    Attributes:
        free_bytes: room.
        sync_ms: how long a write and its sync took, at worst.
        error: why nothing could be written, empty when it could.
        read_only: it is mounted so, or the kernel made it so after an error.
    """

    free_bytes: int
    sync_ms: int
    error: str = ""
    read_only: bool = False


def fine(about: str, says: str) -> Finding:
    return Finding(about, Verdict.OK, says)


def note(about: str, says: str, do: str = "") -> Finding:
    return Finding(about, Verdict.NOTE, says, do)


def wrong(about: str, says: str, do: str) -> Finding:
    return Finding(about, Verdict.WRONG, says, do)


def judge_program(*, running: bool, status: str) -> Finding:
    """What the running program says of itself.

    Args:
        running: it holds the folder.
        status: its own line for this meter, empty where that cannot be asked for.
    """
    if not running:
        return note("program", "does not run", "systemctl status cryptometer-firmware")
    said = f"runs, and leaves the line to nobody else{': ' if status else ''}{status}"
    if "stopped: " in status:
        do = f"the authority re-anchors the chain; everything is kept: {_NAMED} 11 and 13"
        return wrong("program", said, do)
    if status.startswith("down: "):
        return wrong("program", said, "its log says more: journalctl -u cryptometer-firmware")
    return fine("program", said)


# --- The line. -----------------------------------------------------------------------------------


def judge_line(look: LineLook, details: MeterDetails | None) -> list[Finding]:
    """What came over the line, and what it means for the registered meter."""
    about, seconds = "line", number(Fraction(look.elapsed_ms, MS_PER_S))
    found: list[Finding] = []
    if look.dropped:
        found.append(
            wrong(
                about,
                f"the kernel dropped {look.dropped} pulses or edges in {seconds} s",
                "find out what keeps the board so busy, or whether the source is too fast for it",
            )
        )
    if look.noise > look.pulses:
        found.append(
            wrong(
                about,
                f"{look.noise} characters or edges that are no pulse in {seconds} s,"
                f" and {look.pulses} pulses",
                "screen the cable, check pull-up and the setting `line` or `pulse`:"
                f" {_NAMED} 1 (a byte source on an s0 line looks like this, too; so does a modem"
                " line ri with the wrong `counts`)",
            )
        )
    elif look.noise:
        found.append(note(about, f"{look.noise} characters or edges that are no pulse: noise", ""))
    if look.burst:
        found.append(
            wrong(
                about,
                f"{look.burst} pulses came faster than the meter gives them at I_max",
                "compare the registered constant with the name plate; else look for disturbance",
            )
        )
    if look.waited:
        found.append(note(about, f"{look.waited} pulses had waited in the line's buffer"))
    if look.pulses:
        taken = "; they were taken for this look, and nobody counts them"
        found.append(fine(about, _rate(look.pulses, look.elapsed_ms, details) + taken))
    elif not found:
        found.append(_silent(seconds))
    return found


def judge_register(
    before: int, after: int, elapsed_ms: int, details: MeterDetails | None
) -> Finding:
    """The line as the running program sees it: how its register grew."""
    if after > before:
        rate = _rate(after - before, elapsed_ms, details)
        return fine("line", f"the running program counts: {rate}")
    return _silent(number(Fraction(elapsed_ms, MS_PER_S)))


def judge_lost_line(status: str) -> Finding | None:
    """The line as the running program's own status has it; None where it is open."""
    _, is_away, why = status.partition("no line: ")
    if not is_away:
        return None
    do = f"mend it, or name another one in [source] and restart the service: {_NAMED} 7"
    return wrong("line", f"the running program has none: {why}", do)


def judge_unbelieved(status: str) -> Finding | None:
    """The meter's index as the running program's own status has it; None where it is believed."""
    _, is_refused, why = status.partition(UNBELIEVED)
    if not is_refused:
        return None
    return wrong("index", f"the running program does not believe it: {why}", f"{_NAMED} 13")


def _silent(seconds: str) -> Finding:
    return note(
        "line",
        f"no pulse in {seconds} s",
        "right for an idle meter; else switch on a load, look longer (--seconds 60), and measure"
        f" at the input: {_NAMED} 13",
    )


def _rate(pulses: int, elapsed_ms: int, details: MeterDetails | None) -> str:
    seconds = Fraction(elapsed_ms, MS_PER_S)
    said = f"{pulses} pulses in {number(seconds)} s"
    if details is None:
        return said
    watts = pulses * details.ratings.pulse_uwh * SECONDS_PER_HOUR / seconds / 10**6
    per_pulse = wh(details.ratings.pulse_uwh)
    return f"{said}, {round(watts)} W at {per_pulse} a pulse"


# --- The clock. ----------------------------------------------------------------------------------


def judge_clock(now: Instant, boot: bytes) -> Finding:
    """Whether the board knows the time, and how well."""
    bound_ms = -(-now.error_ns // NS_PER_MS)
    utc = datetime.fromtimestamp(now.utc_ns // (MS_PER_S * NS_PER_MS), UTC)
    said = f"{utc:%Y-%m-%d %H:%M:%S}Z by the {now.source} clock, boot {boot.hex()[:8]}"
    if now.state not in (ClockState.SYNCHRONISED, ClockState.INFORMATIVE):
        return wrong(
            "clock",
            f"{said}: not synchronised, state {now.state}; pulses are journalled, and signed once"
            " the time is known",
            f"timedatectl; chronyc tracking; is there a network? {_NAMED} 9",
        )
    said = f"{said}: error bound {bound_ms} ms, state {now.state}"
    if bound_ms > DOUBTFUL_ERROR_MS:
        return wrong("clock", f"{said}; every record is marked clock-doubtful", f"{_NAMED} 9")
    if now.state is ClockState.INFORMATIVE:
        return note("clock", f"{said}: above 1 s", f"is the time source far, or lost? {_NAMED} 9")
    if now.source is not ClockSource.SYSTEM:
        return note("clock", f"{said}; not the machine's own time: for demonstrations only")
    return fine("clock", said)


# --- The registration. ---------------------------------------------------------------------------


def judge_enrolment(enrolment: Enrolment | None, now_ms: int) -> list[Finding]:
    """Whether this meter is registered with this key, and for which lots."""
    about = "registration"
    if enrolment is None:
        return [
            wrong(
                about,
                "none: pulses are journalled, not signed",
                "give the request to the authority (cryptometer-firmware request --qr), then"
                " cryptometer-firmware enrol BUNDLE",
            )
        ]
    details, step_s = enrolment.details, enrolment.community.parameters.step_s
    community = enrolment.community.parameters.name
    found = [
        fine(about, f"meter {enrolment.meter}, serial {details.serial}, in {community}"),
    ]
    if enrolment.revoked:
        found.append(
            wrong(
                about,
                f"the authority has revoked {enrolment.meter}: nothing it signs counts",
                "ask the authority why; a revoked key never comes back, a new one needs a new"
                f" request: {_NAMED} 11",
            )
        )
    try:
        check_meter(enrolment)
    except ConfigurationError as error:
        found.append(wrong(about, str(error), "ask the authority for a new registration"))
    ratings = details.ratings
    if details.source is CountingSource.INDEX:
        latch_s = number(Fraction(ratings.latch_ms(step_s), MS_PER_S))
        digit = wh(enrolment.unit_uwh)
        says = f"its index, of which a digit is {digit}; read within {latch_s} s of a step's end"
        return [*found, fine(about, says), _since(enrolment, now_ms)]
    lot = wh(details.lot_pulses * ratings.pulse_uwh)
    bound = wh(ratings.lot_bound_uwh(step_s))
    if details.coarse:
        found.append(
            note(about, f"COARSE, as accepted: a pulse of {lot} reaches the bound of {bound}")
        )
    else:
        found.append(
            fine(about, f"lots of up to {details.lot_pulses} pulses: {lot}, the bound is {bound}")
        )
    return [*found, _since(enrolment, now_ms)]


def _since(enrolment: Enrolment, now_ms: int) -> Finding:
    """From when on the meter counts."""
    step_s = enrolment.community.parameters.step_s
    first = min(step for step, _ in enrolment.registered)
    begins = datetime.fromtimestamp(step_start_ms(first, step_s) // MS_PER_S, UTC)
    said = f"counts from {begins:%Y-%m-%d %H:%M}Z on"
    if step_of(now_ms, step_s) < first:
        return note("registration", f"{said}; what comes before is nobody's")
    return fine("registration", said)


# --- The broker. ---------------------------------------------------------------------------------

_DO = {
    "name": "check the url in [broker] or the bundle, and the board's network and DNS",
    "connection": "is the broker up, its port open to this board, the url right?",
    "TLS": "check url and ca_file; a broker whose certificate changed needs a new bundle",
    "login": "ask the authority for a new bundle; is the broker's configuration the newest?",
}


def judge_broker(reached: Reached) -> Finding:
    """How far the way to the broker led."""
    worked = ", ".join(reached.steps)
    if reached.failed:
        before = f" (well so far: {worked})" if worked else ""
        says = f"{reached.url}: {reached.why}{before}"
        return wrong("broker", says, _DO[reached.failed])
    if reached.left_to is False:
        return note(
            "broker",
            f"{reached.url}: {worked} work, but the running program is not connected",
            "its log says why: journalctl -u cryptometer-firmware",
        )
    stands = "; the running program is connected" if reached.left_to else ""
    return fine("broker", f"{reached.url}: {worked}{stands}")


def judge_heard(heard: Heard, end: End | None) -> list[Finding]:
    """What the broker keeps for this board, beside what the board has signed."""
    about = "gateway"
    found: list[Finding] = []
    if heard.refused:
        found.append(
            note(about, f"{heard.refused} retained messages say nothing anybody may believe")
        )
    if heard.registration:
        found.append(note(about, "the authority says something new; the firmware takes it in"))
    elif heard.registration is not None:
        found.append(fine(about, "the authority's newest word is known here"))
    if heard.checkpoint_size is not None:
        found.append(fine(about, f"a checkpoint of {heard.checkpoint_size} leaves, rightly signed"))
    word = heard.acknowledgement
    if word is None:
        found.append(
            note(
                about,
                "no acknowledgement is kept at the broker",
                "right before the first record; else is the gateway up, and was it given the"
                " newest authority.records?",
            )
        )
        return found
    if word.stop is not None:
        found.append(
            wrong(
                about,
                f"the chain cannot go on at record {word.stop.sequence}: {word.stop.reason};"
                " the board keeps everything and goes on counting",
                f"the authority re-anchors it: {_NAMED} 11 and 13",
            )
        )
    elif end is not None and word.sequence > end.sequence:
        found.append(
            wrong(
                about,
                f"it has {word.sequence} records of this meter, and this card {end.sequence}: an"
                " older copy",
                f"never restore a board from a copy; the authority re-anchors it: {_NAMED} 11",
            )
        )
    else:
        found.append(fine(about, f"has acknowledged {word.sequence} records"))
    return found


# --- What the card holds. ------------------------------------------------------------------------


def damaged_bytes(directory: Directory, prefix: str) -> int:
    """Bytes behind the last whole entry of a log's newest files; nothing is cut here."""
    log = SegmentedLog(directory, prefix)
    damaged = 0
    for segment in log.segments[-SEGMENTS_LOOKED_AT:]:
        end = 0
        for position, _ in log.entries(segment):
            end = position.offset + position.size
        # The size as listed at first: what is appended meanwhile is not missing.
        damaged += max(0, log.size(segment) - end)
    return damaged


def judge_log(about: str, look: LogLook) -> list[Finding]:
    """Whether the files of a journal or outbox are whole."""
    if look.age_s is None:
        return [note(about, "no file yet: the firmware has not run here")]
    said = f"{_bytes(look.size)}, last written {_ago(look.age_s)} ago"
    found = [fine(about, said)]
    if look.damaged:
        found.append(
            wrong(
                about,
                f"{look.damaged} bytes at the end of a file are damaged; the next start sets them"
                " aside and says so, signed",
                "once, after a power cut: start the firmware. Again and again: the card is dying,"
                f" {_NAMED} 13",
            )
        )
    if look.kept:
        found.append(
            note(
                about,
                f"{look.kept} files *.damaged tell of earlier damage",
                f"old ones can go; if new ones come, the card is dying: {_NAMED} 13",
            )
        )
    return found


def judge_liveliness(age_s: int, watch_ms: int) -> list[Finding]:
    """Whether a running program still says in its journal that it watches."""
    if age_s * MS_PER_S <= LATE_WATCHES * watch_ms:
        return []
    return [
        wrong(
            "journal",
            f"the running program has not written for {_ago(age_s)}, and should every"
            f" {number(Fraction(watch_ms, MS_PER_S))} s",
            "is the line lost (its log says so)? else restart it, and report it",
        )
    ]


def judge_chain(end: End | None, register: int) -> Finding:
    """How far counting and signing have come."""
    if end is None:
        return note("chain", f"register {register} pulses; no record is signed yet")
    waiting = end.sequence - end.acknowledged
    said = f"register {register} pulses; {end.sequence} records signed, {waiting} waiting"
    if waiting > WAITING_MANY:
        return note("chain", said, "the gateway has not been heard for long: see broker, gateway")
    return fine("chain", said)


def judge_guard(noted: int | None, count: int | None, *, has_signed: bool) -> Finding:
    """Journal and outbox beside the count that tells an older copy of them.

    Raises:
        ConfigurationError: they are one, or the count is not theirs.
    """
    check_newest(noted, count, has_signed=has_signed)
    if is_unknown(noted, count):
        return wrong("counter", UNKNOWN, "see docs/operations.md, section 11")
    if count is None:
        return fine("counter", "nothing was signed under it yet")
    return fine("counter", f"stands at {count}: journal and outbox are the newest")


def judge_disk(look: DiskLook) -> list[Finding]:
    """Whether the card takes what must be kept, and how quickly."""
    about, room = "disk", _bytes(look.free_bytes)
    if look.read_only:
        return [
            wrong(
                about,
                "the file system is read-only: nothing can be counted",
                f"dmesg says why; after an error replace the card now: {_NAMED} 13",
            )
        ]
    if look.error:
        return [
            wrong(
                about,
                f"nothing can be written ({room} free): {look.error}",
                "make room at once, or mend the folder's owner: df -h; ls -ld on the folder",
            )
        ]
    found: list[Finding] = []
    if look.free_bytes < FREE_BYTES_MIN:
        found.append(
            wrong(about, f"only {room} free", "make room at once: journalctl --vacuum-size=50M")
        )
    if look.sync_ms > SYNC_SLOW_MS:
        found.append(
            note(
                about,
                f"a sync takes {look.sync_ms} ms",
                "what else writes to this card? An old card that slows down is about to fail",
            )
        )
    return found or [fine(about, f"{room} free, a sync takes {look.sync_ms} ms")]


def is_burst(pulses: int, elapsed_ns: int, pulse_ns: int) -> bool:
    """Whether pulses came faster within a look than the meter gives them at I_max."""
    return pulses > 1 and (pulses - 1) * pulse_ns > BURST_FACTOR * elapsed_ns


def worst(findings: Sequence[Finding]) -> Verdict:
    """The verdict on all of them."""
    for verdict in (Verdict.WRONG, Verdict.NOTE):
        if any(one.verdict is verdict for one in findings):
            return verdict
    return Verdict.OK


def as_lines(findings: Sequence[Finding]) -> list[str]:
    """The report for people: one line each, and one for what to do."""
    lines: list[str] = []
    for one in findings:
        lines.append(f"{one.verdict:<6} {one.about:<13} {one.says}")
        if one.do:
            lines.append(f"{'':<6} {'':<13} -> {one.do}")
    return lines


def _bytes(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{number(round(Fraction(count, size), 1))} {unit}"
    return f"{count} bytes"


def _ago(seconds: int) -> str:
    for unit, length in (("days", 86_400), ("hours", SECONDS_PER_HOUR), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
