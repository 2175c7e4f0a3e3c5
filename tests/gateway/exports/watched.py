"""A community in which all happens that an accuracy report tells of, in half a day of steps."""

from collections.abc import Sequence
from fractions import Fraction
from functools import cache

from cryptometer.authority_records import CountingSource
from cryptometer.chain_records import Mark
from cryptometer.record_fields import ClockReading
from cryptometer.records import Record
from cryptometer.steps import ClockSource, ClockState, step_start_ms
from gateway.exports.displays import Seen
from gateway.exports.measured import Measured, Measuring
from tests.core.community import PULSE_UWH, STEP_S, Device, Village

STEPS = 48
UNIT_UWH = 10**6  # of the second source's last digit: a watt-hour, ten pulses
LATE, SILENT, OFF, LOST, DOUBTFUL = 20, (30, 31), 35, 12, 14  # of `roof`
ABOVE, OPEN = 40, 44  # of `shed`: a lot that no registration allows, a step without a close
MISSED, STALE = (25, 26), 38  # of `hall`: nobody read it, an index too old to close by
CLOCK = ClockReading(ClockSource.SYSTEM, ClockState.INFORMATIVE, 1_400)


@cache
def watched(steps: int = STEPS) -> tuple[Village, range]:
    """`roof` counts pulses and has a second source, `shed` has none, `hall` counts by its own
    index. Returns the steps from their start on. For reading only: it is made once."""
    village = Village(meters=0)
    roof, shed = village.add_meter("roof"), village.add_meter("shed", serial="MID-0002")
    hall = village.add_meter(
        "hall",
        serial="MID-0003",
        source=CountingSource.INDEX,
        constant=Fraction(1_000),
        lot_pulses=1,
        accuracy_class="A",
        index_wh=7_000,
    )
    village.block()
    first = village.next_step
    hall.register = 7_000
    village.send(*(one.run_start(first) for one in (roof, shed, hall)))
    kept: list[Record] = []
    for at in range(steps):
        lots = [8] * (at // 2) + [1 + at % 7] * (at > 5)
        if at not in SILENT:
            kept += _roof(roof, first, at, lots)
        if at != LATE:
            village.send(*kept)
            kept = []
        village.send(*_shed(shed, first + at, at, lots[::2]), *_hall(hall, first + at, at))
        village.block()
    return village, range(first, first + steps)


def _roof(device: Device, first: int, at: int, lots: Sequence[int]) -> list[Record]:
    """From `OFF` on its second source says nine watt-hours less than it should."""
    step = first + at
    marks = (Mark.LOST.value, 2, Mark.RECOVERED.value, 5) if at == LOST else ()
    clock = {"clock": CLOCK} if at == DOUBTFUL else {}
    sent = [device.batch(step, *lots, marks=marks, **clock)] if lots else []
    index = 5_000_000 + device.register * PULSE_UWH // UNIT_UWH - (9 if at >= OFF else 0)
    said = {"counting": False, "unit_uwh": UNIT_UWH, "counted": device.register}
    sent.append(device.reading(step, index, **said))
    return [*sent, device.close(step, **clock)]


def _shed(device: Device, step: int, at: int, lots: Sequence[int]) -> list[Record]:
    sent = [device.batch(step, *lots)] if lots else []
    if at == ABOVE:
        sent.append(device.batch(step, 9))
    return sent if at == OPEN else [*sent, device.close(step)]


def _hall(device: Device, step: int, at: int) -> list[Record]:
    """An index that grows by three watt-hours a step."""
    if at in MISSED:
        return []
    since = {"since_step": step - 3} if at - 1 in MISSED else {}
    index = 7_000 + 3 * at
    age_ms = 60_000 if at == STALE else 1_000
    return [device.reading(step, index, age_ms, **since), device.close(step)]


def seen_at(first: int, after: int, meter: str, wh: int, digit_wh: int = 1) -> Seen:
    """A display read in the middle of the step `after` steps behind the first."""
    return Seen(meter, step_start_ms(first + after, STEP_S) + 450_000, wh, digit_wh)


def measure(village: Village, steps: range, *seen: Seen) -> Measured:
    """What the village's blocks come to for these steps."""
    measuring = Measuring(steps, STEP_S, seen)
    for checked in village.checked:
        measuring.take(checked)
    return measuring.finish()
