"""What a look at a meter that speaks means: what was heard in, findings out. No line is opened."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

from cryptometer.authority_records import CountingSource
from cryptometer.metrology import SECONDS_PER_HOUR, kwh, number, wh
from cryptometer.steps import MS_PER_S, NS_PER_MS
from firmware.analysis import analyse, kwh_text
from firmware.checkup import Finding, fine, note, wrong
from firmware.enrolment import Enrolment
from firmware.listening import Spoken
from firmware.recording import Recording
from hal.index.reading import Caveat, Reading, Refusal, Refused, Register

CLOCK_OFF_S = 60  # of a meter's clock: it dates nothing here, but its load profile
RAW_BYTES_MAX = 65_536  # of the line that are kept for the look at another protocol
_MANY = 5  # refused messages for each good one
_NAMED = "see docs/operations.md, section"


@dataclass(frozen=True, slots=True)
class Look:
    """What a meter said while it was listened to.

    Attributes:
        driver: that listened.
        elapsed_ms: for how long.
        readings: in order.
        refusals: likewise.
        raw: the first bytes of the line, where it gives bytes.
        now_ns: monotonic time at its end.
        utc_s: of the system's clock then, unix seconds.
    """

    driver: str
    elapsed_ms: int
    readings: Sequence[Reading]
    refusals: Sequence[Refusal]
    raw: bytes
    now_ns: int
    utc_s: int


def judge_look(
    look: Look, register: Register, identity: str, enrolment: Enrolment | None
) -> list[Finding]:
    """
    Args:
        look: what was heard.
        register: the one that counts.
        identity: of `[source]`; empty if it names none.
        enrolment: of this meter; None if there is none.
    """
    found = [] if look.readings else _nothing(look)
    if look.readings:
        newest = look.readings[-1]
        found += _meter(look, identity, enrolment)
        found += _indexes(newest, register, enrolment)
        found += _clock(look)
        found += _latch(look, enrolment)
    return found + _refused(look)


def as_compared(found: list[Finding]) -> list[Finding]:
    """Findings of a source that is only compared, as such."""
    return [
        replace(
            one,
            about=f"compared {one.about}",
            says=one.says.replace(", counts", ", is compared").replace("[source]", "[compared]"),
            do=one.do.replace("[source]", "[compared]"),
        )
        for one in found
    ]


def judge_read(before: int, after: int, elapsed_ms: int, spoken: Spoken | None) -> Finding:
    """The line as the running program sees it: how its register grew.

    Args:
        before, after: the register, in units of the registered index.
    """
    seconds = number(Fraction(elapsed_ms, MS_PER_S))
    if after > before and spoken is not None:
        grown_uwh = (after - before) * spoken.unit_uwh
        watts = grown_uwh * SECONDS_PER_HOUR * MS_PER_S / elapsed_ms / 10**6
        says = f"the running program reads: {wh(grown_uwh)} in {seconds} s, {round(watts)} W"
        return fine("line", says)
    return note(
        "line",
        f"the index that the running program keeps has not grown in {seconds} s",
        "it keeps one each half minute: look longer (--seconds 90); its log says what is refused:"
        " journalctl -u cryptometer-firmware",
    )


def _nothing(look: Look) -> list[Finding]:
    seconds = number(Fraction(look.elapsed_ms, MS_PER_S))
    if not look.raw:
        do = (
            "is its port switched on, the head in place, the cable whole? look longer (--seconds"
            f" 60), for some speak each minute only: {_NAMED} 13"
        )
        return [wrong("line", f"not a byte of a message in {seconds} s", do)]
    told = analyse(Recording(look.raw))
    if told.driver and told.driver != look.driver:
        says = f"no message of {look.driver!r} in {seconds} s; the line speaks {told.protocol}"
        return [wrong("line", says, f'set driver = "{told.driver}" in [source]')]
    says = f"{len(look.raw)} bytes and no good message in {seconds} s"
    settings = [one.says for one in told.findings if one.about == "settings"]
    if settings:
        return [wrong("line", says, f"other settings read it: {settings[0]}")]
    rest = [one for one in told.findings if one.do and one.about != "says"]
    do = rest[0].do if rest else f"look longer (--seconds 60): {_NAMED} 13"
    return [wrong("line", says, do)]


def _meter(look: Look, identity: str, enrolment: Enrolment | None) -> list[Finding]:
    newest = look.readings[-1]
    age_s = number(Fraction(max(0, look.now_ns - newest.ended_ns), NS_PER_MS * MS_PER_S))
    says = f"{len(look.readings)} messages by {look.driver!r}, the newest {age_s} s old"
    found = [fine("line", says)]
    others = {one.identity for one in look.readings} - {newest.identity}
    if others:
        says = f"messages of several meters: {', '.join(sorted({*others, newest.identity}))}"
        found.append(wrong("meter", says, "name the one that counts: identity in [source]"))
    if identity and newest.identity != identity:
        says = f"it is {newest.identity or 'none that names itself'}, and [source] says {identity}"
        found.append(wrong("meter", says, "was it exchanged? else correct identity in [source]"))
    elif not newest.identity:
        found.append(note("meter", "its messages do not say which meter it is"))
    else:
        found.append(fine("meter", f"identity {newest.identity}"))
    if enrolment is not None and newest.identity and not _is_of(newest, enrolment.details.serial):
        says = f"the registered serial {enrolment.details.serial} is not in what the meter says"
        found.append(note("meter", says, "compare with the name plate; some say another number"))
    return found


def _is_of(reading: Reading, serial: str) -> bool:
    """Whether a serial number may be the meter's own: as people write it, or a part of it."""
    plate = _plain(serial)
    stated = [reading.identity, *(text for _, text in reading.fields)]
    return any(plate in _plain(one) for one in stated) or _plain(reading.identity) in plate


def _plain(text: str) -> str:
    return re.sub("[^0-9A-Z]", "", text.upper())


def _indexes(newest: Reading, register: Register, enrolment: Enrolment | None) -> list[Finding]:
    found: list[Finding] = []
    for which in Register:
        index = newest.index_of(which)
        if index is not None:
            counts = ", counts" if which is register else ""
            found.append(fine("index", f"{which} {kwh_text(index)}{counts}"))
    if Caveat.UNIT_ASSUMED in newest.caveats:
        do = "compare it with the display"
        found.append(note("index", "the meter states no unit; what is shown is assumed", do))
    counting = newest.index_of(register)
    if counting is None:
        do = 'a producer counts with register = "export", a consumer with "import"'
        return [*found, wrong("index", f"the meter has no {register} register", do)]
    if enrolment is None:
        return found
    if enrolment.details.source is not CountingSource.INDEX:
        do = 'the authority registers it again, with source = "index" and resolution_wh'
        found.append(wrong("index", "the registration is for pulses, not for an index", do))
        return found
    shown_uwh = enrolment.details.index_wh * 10**6
    if counting.uwh + counting.unit_uwh <= shown_uwh:
        says = f"it is less than the {kwh(shown_uwh)} that were registered"
        do = (
            "is it the meter that was read, and its register? else the authority registers it anew,"
            " with index_kwh as it shows now"
        )
        found.append(wrong("index", says, do))
    stated, registered = Fraction(counting.unit_uwh), enrolment.unit_uwh
    if stated == registered:
        found.append(fine("index", f"its last digit is {wh(stated)}, as registered"))
    else:
        says = f"its last digit is {wh(stated)}, and registered is {wh(registered)}"
        do = "nothing is lost, but rounded down; resolution_wh of the registration says which"
        found.append(note("index", says, do))
    return found


def _clock(look: Look) -> list[Finding]:
    newest = look.readings[-1]
    if Caveat.CLOCK_DEGRADED in newest.caveats:
        return [note("meter clock", "the meter itself doubts it; nothing is dated by it")]
    if newest.meter_time_s is None:
        return []
    since_s = max(0, look.now_ns - newest.ended_ns) // (NS_PER_MS * MS_PER_S)
    off_s = newest.meter_time_s - (look.utc_s - since_s)
    says = f"{abs(off_s)} s {'ahead of' if off_s > 0 else 'behind'} the system's"
    if abs(off_s) > CLOCK_OFF_S:
        do = "it dates only what the meter keeps itself; is the system's right?"
        return [note("meter clock", says, do)]
    return [fine("meter clock", says)]


def _latch(look: Look, enrolment: Enrolment | None) -> list[Finding]:
    """Whether messages come often enough for a step's end."""
    if enrolment is None or enrolment.details.source is not CountingSource.INDEX:
        return []
    step_s = enrolment.community.parameters.step_s
    latch_ms = enrolment.details.ratings.latch_ms(step_s)
    times_ns = [one.began_ns for one in look.readings]
    gaps_ns = [later - before for before, later in pairwise(times_ns)]
    allowed = (
        f"a step's end wants one that is less than {number(Fraction(latch_ms, MS_PER_S))} s old"
    )
    if not gaps_ns:
        do = "look longer (--seconds 60)"
        return [
            note("period", f"one message only: how often they come is not known; {allowed}", do)
        ]
    longest_ms = max(gaps_ns) // NS_PER_MS
    says = f"a message at least every {number(Fraction(longest_ms, MS_PER_S))} s; {allowed}"
    if longest_ms >= latch_ms:
        do = "steps close later, together: a meter that is asked may be asked more often"
        return [wrong("period", says, do)]
    return [fine("period", says)]


def _refused(look: Look) -> list[Finding]:
    counts: dict[Refused, list[Refusal]] = {}
    for one in look.refusals:
        counts.setdefault(one.reason, []).append(one)
    found: list[Finding] = []
    is_bad = len(look.refusals) > _MANY * len(look.readings)
    for reason, refused in sorted(counts.items(), key=lambda item: -len(item[1])):
        says = f"{len(refused)} refused, {reason}: {refused[0].detail}"
        do = f"cable, speed, polarity; record the line and analyze it: {_NAMED} 8"
        found.append(wrong("messages", says, do) if is_bad else note("messages", says))
    return found
