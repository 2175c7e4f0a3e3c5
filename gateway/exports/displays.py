"""What people read off a meter's display, against what its chain had registered by then: the proof
of accuracy for a meter that no second source is read of, over the long run.

A person reads to the minute, and a chain tells of lots: so the energy at that moment is known
between two values, and the distance between them is part of the bound that is stated.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cryptometer.accuracy import PPM, relative_ppm
from cryptometer.authority_records import MeterDetails
from cryptometer.errors import ConfigurationError, Rejected
from cryptometer.metrology import MPE_AT_I_MIN
from cryptometer.record_fields import NAME

READ_MS = 60_000  # a person notes the minute
SEEN_MAX = 10_000  # readings in the file: one a month of a hundred meters, for eight years
WH_MAX = 10**12
UWH_PER_WH = 10**6
_MS_MAX = 2**50
_HEADING = "meter;at_ms;wh;digit_wh"


@dataclass(frozen=True, slots=True, order=True)
class Seen:
    """A display, read by somebody.

    Attributes:
        at_ms: when, ms since the Unix epoch.
        wh: what it showed, Wh.
        digit_wh: what its last digit is worth, Wh.
    """

    meter: str
    at_ms: int
    wh: int
    digit_wh: int


@dataclass(frozen=True, slots=True)
class Device:
    """The device on the wall at some moment, as the authority registered it.

    Attributes:
        index_wh: what its display showed then, Wh.
        index_from_uwh: what the chain had registered by then, µWh.
    """

    serial: str
    accuracy_class: str
    index_wh: int
    index_from_uwh: int


@dataclass(frozen=True, slots=True)
class Registered:
    """What a chain had registered at a moment, µWh.

    Attributes:
        least: by the last that is surely before it.
        nearest: by the last that its own time puts before it.
        most: by the first that is surely behind it.
    """

    least_uwh: int
    nearest_uwh: int
    most_uwh: int


@dataclass(frozen=True, slots=True)
class Shown:
    """How a display grew, against what was registered meanwhile.

    Attributes:
        since_ms: when it was read before, ms since the Unix epoch; None: at the registration.
        shown_uwh: what the display grew by, µWh.
        registered_uwh: what the chain registered, µWh.
        bound_uwh: how far apart the display's last digit, and the minute, can hold the two.
        mpe_ppm: of the meter's class at I_min, in millionths.
    """

    meter: str
    serial: str
    since_ms: int | None
    at_ms: int
    shown_uwh: int
    registered_uwh: int
    bound_uwh: int
    mpe_ppm: int

    @property
    def difference_uwh(self) -> int:
        """Above 0: more was registered than the display says."""
        return self.registered_uwh - self.shown_uwh

    @property
    def difference_ppm(self) -> int | None:
        return relative_ppm(self.difference_uwh, self.shown_uwh)

    @property
    def allowed_uwh(self) -> int:
        return abs(self.shown_uwh) * self.mpe_ppm // PPM

    @property
    def is_within(self) -> bool:
        return abs(self.difference_uwh) <= self.allowed_uwh + self.bound_uwh


class Dial:
    """One reading of a display while the chain is gone through: what was registered by then."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self._least: int | None = None
        self._nearest: int | None = None
        self._most: int | None = None

    def note(self, at_ms: int, error_ms: int, total_uwh: int, *, is_whole: bool = True) -> None:
        """By `at_ms`, give or take its clock's error, the chain had registered so much.

        Args:
            is_whole: nothing more had come by then that the chain tells only later.
        """
        if self._most is not None:
            return
        if is_whole and at_ms - error_ms >= self.seen.at_ms + READ_MS:
            self._most = total_uwh
            return
        if at_ms + error_ms <= self.seen.at_ms - READ_MS:
            self._least = total_uwh
        if at_ms <= self.seen.at_ms:
            self._nearest = total_uwh

    @property
    def registered(self) -> Registered | None:
        """None where the chain began later, or tells of nothing behind it yet."""
        if self._least is None or self._nearest is None or self._most is None:
            return None
        return Registered(self._least, self._nearest, self._most)


def shown(dials: Sequence[tuple[Dial, Device | None]], first_ms: int, end_ms: int) -> list[Shown]:
    """Every reading of a time, by meter and moment: against the registration of the same device,
    and against the reading before.

    Args:
        dials: all there are, each with the device it was read off.
        first_ms: when the time begins, ms since the Unix epoch.
        end_ms: when it ends; what was read then is not in it.
    """
    rows: list[Shown] = []
    before: tuple[Seen, Registered, Device] | None = None
    for dial, device in sorted(dials, key=lambda one: one[0].seen):
        seen, registered = dial.seen, dial.registered
        if device is None or registered is None:
            continue
        if first_ms <= seen.at_ms < end_ms:
            start_uwh = device.index_from_uwh
            known = Registered(start_uwh, start_uwh, start_uwh)
            since = Seen(seen.meter, 0, device.index_wh, seen.digit_wh)
            rows.append(_row(device, None, since, known, seen, registered))
            if before is not None and (before[0].meter, before[2]) == (seen.meter, device):
                rows.append(_row(device, before[0].at_ms, before[0], before[1], seen, registered))
        before = seen, registered, device
    return rows


def unanswered(
    dials: Iterable[tuple[Dial, Device | None]], first_ms: int, end_ms: int
) -> list[Seen]:
    """Readings of that time with which nothing can be compared: see `Dial.registered`."""
    return sorted(
        dial.seen
        for dial, device in dials
        if first_ms <= dial.seen.at_ms < end_ms and (device is None or dial.registered is None)
    )


def _row(
    device: Device,
    since_ms: int | None,
    since: Seen,
    known: Registered,
    seen: Seen,
    registered: Registered,
) -> Shown:
    digit_wh = max(since.digit_wh, seen.digit_wh)
    unsure_uwh = (known.most_uwh - known.least_uwh) + (registered.most_uwh - registered.least_uwh)
    return Shown(
        seen.meter,
        device.serial,
        since_ms,
        seen.at_ms,
        (seen.wh - since.wh) * UWH_PER_WH,
        registered.nearest_uwh - known.nearest_uwh,
        digit_wh * UWH_PER_WH + unsure_uwh,
        int(MPE_AT_I_MIN[device.accuracy_class] * PPM),
    )


def device_of(details: MeterDetails, begun_uwh: Mapping[tuple[str, int], int]) -> Device:
    """The device of a registration; `begun_uwh` is what the chain had registered when this serial
    and index were registered first."""
    key = (details.serial, details.index_wh)
    return Device(details.serial, details.accuracy_class, details.index_wh, begun_uwh.get(key, 0))


# --- The file they are kept in. ---


def encode_seen(readings: Iterable[Seen]) -> str:
    """The file's text: a line for each, in order."""
    lines = [f"{one.meter};{one.at_ms};{one.wh};{one.digit_wh}" for one in sorted(set(readings))]
    return "\n".join([_HEADING, *lines]) + "\n"


def decode_seen(text: str) -> list[Seen]:
    """What `encode_seen` has written.

    Raises:
        ConfigurationError: a line is none; it is named.
    """
    heading, *lines = text.split("\n", SEEN_MAX + 2)
    if heading != _HEADING:
        raise ConfigurationError(f"the first line is {_HEADING}")
    if lines[-1:] != [""] or len(lines) > SEEN_MAX + 1:
        raise ConfigurationError(f"it has whole lines, and at most {SEEN_MAX} readings")
    return [_line(number, line) for number, line in enumerate(lines[:-1], start=2)]


def _line(number: int, line: str) -> Seen:
    fields = line.split(";", 4)
    try:
        meter, *rest = fields
        if len(rest) != 3 or not all(one.isascii() and one.isdecimal() for one in rest):
            raise ValueError
        if any(len(one) > 16 for one in rest):
            raise ValueError
        seen = Seen(NAME.decode(meter), *map(int, rest))
        check_seen(seen)
    except (ValueError, Rejected, ConfigurationError):
        raise ConfigurationError(f"line {number} is no reading: {line[:80]!r}") from None
    return seen


def check_seen(seen: Seen) -> None:
    """Raises ConfigurationError where no display shows such a thing."""
    if not (0 <= seen.at_ms <= _MS_MAX and 0 <= seen.wh <= WH_MAX and 1 <= seen.digit_wh <= 10**9):
        raise ConfigurationError(
            f"a display shows 0 to {WH_MAX} Wh, and its last digit is 1 Wh to 1 GWh"
        )
