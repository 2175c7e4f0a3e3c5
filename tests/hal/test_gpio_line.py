"""The GPIO driver's own logic. The kernel's part needs a chip: where the kernel has none, a request
stands in its place that keeps gpiod's interface, with a real descriptor to poll."""

import errno
import os
import select
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import gpiod
import pytest
from gpiod.line import Bias, Clock, Direction, Edge, Value

from cryptometer.errors import ConfigurationError
from hal.bias import Pull
from hal.gpio_line import EVENTS_MAX, GpioLine, GpioSettings
from hal.ports import LineLost, Taken
from hal.pulse_shape import Preset, Shape

SETTINGS = GpioSettings(offset=17, chip="/dev/gpiochip9")


@dataclass(frozen=True)
class Event:
    """As `gpiod.EdgeEvent`, what is read of it."""

    line_seqno: int
    timestamp_ns: int
    global_seqno: int
    event_type: gpiod.EdgeEvent.Type = gpiod.EdgeEvent.Type.RISING_EDGE


class Request:
    """As `gpiod.LineRequest`, over events that are put there by hand."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.events: deque[Event] = deque()
        self.refused: OSError | None = None
        self.asked: tuple[Any, ...] = ()
        self.is_open = True
        self.value = Value.INACTIVE
        self._numbered = 0

    def put(self, *numbers: int) -> None:
        """Rising edges with these numbers, of the line and of all lines."""
        self.add(*(Event(number, 1_000 * number, number) for number in numbers))

    def put_edges(self, *times_ms: float, missed: int = 0) -> None:
        """Edges that go on and off in turn, numbered in turn; before them the kernel has merged
        some, and numbers them among all lines only."""
        events = []
        for time_ms in times_ms:
            self._numbered += 1
            is_on = self.value is Value.INACTIVE
            kind = gpiod.EdgeEvent.Type.RISING_EDGE if is_on else gpiod.EdgeEvent.Type.FALLING_EDGE
            self.value = Value.ACTIVE if is_on else Value.INACTIVE
            number = self._numbered
            events.append(Event(number, round(time_ms * 1e6), number + missed, kind))
        self.add(*events)

    def add(self, *events: Event) -> None:
        self.events += events
        os.eventfd_write(self.fd, len(events))

    def get_value(self, offset: int) -> Value:
        assert offset in (SETTINGS.offset, 4)
        return self.value

    def wait_edge_events(self, timeout: float) -> bool:
        assert timeout == 0  # a look never blocks
        if self.refused is not None and not self.events:
            raise self.refused
        return bool(self.events)

    def read_edge_events(self, max_events: int | None = None) -> list[Event]:
        read = [self.events.popleft() for _ in range(min(16, len(self.events)))]
        if not self.events:
            os.eventfd_read(self.fd)
        return read

    def release(self) -> None:
        os.close(self.fd)
        self.is_open = False


@pytest.fixture
def request_(monkeypatch: pytest.MonkeyPatch) -> Iterator[Request]:
    made = Request()

    def request_lines(chip: str, **asked: object) -> Request:
        made.asked = (chip, asked)
        return made

    monkeypatch.setattr(gpiod, "request_lines", request_lines)
    yield made
    if made.is_open:
        made.release()


def test_each_edge_is_a_pulse_with_the_kernels_time(request_: Request) -> None:
    line = GpioLine(SETTINGS)
    assert line.take() == Taken(0)
    request_.put(1, 2, 3)
    assert select.select([line], [], [], 0)[0] == [line]
    assert line.take() == Taken(3, (1_000, 2_000, 3_000))
    assert select.select([line], [], [], 0)[0] == []
    assert line.take() == Taken(0)


def test_edges_the_kernel_dropped_are_told_by_their_numbers(request_: Request) -> None:
    line = GpioLine(SETTINGS)
    request_.put(3)  # the first two were dropped before the first look
    assert line.take() == Taken(1, (3_000,), lost=2)
    request_.put(4, 5, 10, 12)
    assert line.take() == Taken(4, (4_000, 5_000, 10_000, 12_000), lost=5)
    request_.put(13)
    assert line.take() == Taken(1, (13_000,))


def test_the_kernels_numbers_may_run_over(request_: Request) -> None:
    line = GpioLine(SETTINGS)
    line._seen = line._seen_together = 2**32 - 2
    request_.put(2**32 - 1, 0, 1, 3)
    taken = line.take()
    assert (taken.pulses, taken.lost) == (4, 1)


def test_a_look_ends_on_a_line_that_never_rests(request_: Request) -> None:
    line = GpioLine(SETTINGS)
    request_.put(*range(1, 3 * EVENTS_MAX + 1))
    looks = [line.take() for _ in range(4)]
    assert [one.pulses for one in looks] == [EVENTS_MAX, EVENTS_MAX, EVENTS_MAX, 0]
    assert sum(one.lost for one in looks) == 0


def test_a_chip_that_goes_is_a_lost_line_once_its_edges_are_taken(request_: Request) -> None:
    line = GpioLine(SETTINGS)
    request_.put(1, 2)
    request_.refused = OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    assert line.take() == Taken(2, (1_000, 2_000))
    with pytest.raises(LineLost, match="/dev/gpiochip9 line 17 is gone: No such device"):
        line.take()


def test_the_kernel_is_asked_for_debounced_rising_edges_with_monotonic_time(
    request_: Request,
) -> None:
    GpioLine(SETTINGS).close()
    assert not request_.is_open
    chip, asked = request_.asked
    assert chip == "/dev/gpiochip9"
    assert (asked["consumer"], asked["event_buffer_size"]) == ("cryptometer", EVENTS_MAX)
    ((offset, line),) = asked["config"].items()
    assert offset == 17
    assert isinstance(line, gpiod.LineSettings)
    # Seen from the line's resting state: with a contact to ground a pulse is a fall of the voltage.
    assert (line.edge_detection, line.active_low) == (Edge.RISING, True)
    assert line.direction in (Direction.AS_IS, Direction.INPUT)
    assert line.bias is Bias.PULL_UP
    assert line.event_clock is Clock.MONOTONIC
    assert line.debounce_period == timedelta(milliseconds=10)


@pytest.mark.parametrize(
    ("pull", "bias"),
    [(Pull.UP, Bias.PULL_UP), (Pull.DOWN, Bias.PULL_DOWN), (Pull.NONE, Bias.DISABLED)],
)
def test_the_settings_reach_the_kernel(request_: Request, pull: Pull, bias: Bias) -> None:
    GpioLine(GpioSettings(4, "/dev/gpiochip1", active_low=False, pull=pull, debounce_us=250))
    ((offset, line),) = request_.asked[1]["config"].items()
    assert (offset, line.active_low, line.bias) == (4, False, bias)
    assert line.debounce_period == timedelta(microseconds=250)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (PermissionError(errno.EACCES, "no"), "add the user to the group gpio"),
        (OSError(errno.EPERM, "no"), "add the user to the group gpio"),
        (OSError(errno.EBUSY, "no"), "another program, or a kernel driver, uses it"),
        (OSError(errno.EINVAL, "no"), "the chip has no such line; gpioinfo lists them"),
        (ValueError("no"), "the chip has no such line; gpioinfo lists them"),
        (OSError(errno.EIO, "the bus is broken"), "the bus is broken"),
    ],
)
def test_a_line_that_cannot_be_opened_says_why(
    monkeypatch: pytest.MonkeyPatch, error: Exception, why: str
) -> None:
    def refuse(*_given: object, **_named: object) -> None:
        raise error

    monkeypatch.setattr(gpiod, "request_lines", refuse)
    with pytest.raises(LineLost) as lost:
        GpioLine(SETTINGS)
    assert str(lost.value).startswith("cannot open /dev/gpiochip9 line 17: ")
    assert why in str(lost.value)


def test_the_library_itself_refuses_what_is_no_chip(tmp_path: Path) -> None:
    missing = tmp_path / "gpiochip0"
    with pytest.raises(LineLost, match="there is no such chip; gpiodetect lists them"):
        GpioLine(GpioSettings(0, str(missing)))
    opened: Callable[[], GpioLine] = lambda: GpioLine(GpioSettings(0, "/dev/null"))  # noqa: E731
    with pytest.raises(LineLost, match="cannot open /dev/null line 0"):
        opened()


S0 = GpioSettings(17, "/dev/gpiochip9", pulse=Preset.S0_CLASS_B)
LATER_MS = 10**9  # beyond the machine's own monotonic time: no pulse of these tests is stuck


def test_of_pulses_with_a_shape_both_edges_are_read_and_the_kernel_swallows_none(
    request_: Request,
) -> None:
    line = GpioLine(S0)
    [asked] = request_.asked[1]["config"].values()
    assert (asked.edge_detection, asked.debounce_period) == (Edge.BOTH, timedelta(0))
    assert line.capacity == EVENTS_MAX // 2
    begin = LATER_MS
    request_.put_edges(begin, begin + 30, begin + 60, begin + 90)
    taken = line.take()
    assert taken == Taken(2, ((begin + 30) * 10**6, (begin + 90) * 10**6))
    request_.put_edges(begin + 120, begin + 121)  # a spike
    request_.put_edges(begin + 150, begin + 180)
    assert line.take() == Taken(1, ((begin + 180) * 10**6,), noise=1)


def test_the_kernels_debounce_may_be_asked_for_with_a_shape_too(request_: Request) -> None:
    GpioLine(replace(S0, debounce_us=300))
    [asked] = request_.asked[1]["config"].values()
    assert asked.debounce_period == timedelta(microseconds=300)


def test_a_pulse_that_is_under_way_at_the_opening_counts_when_it_ends(request_: Request) -> None:
    request_.value = Value.ACTIVE
    line = GpioLine(S0)
    at_ns = time.monotonic_ns()
    request_.put_edges(at_ns / 1e6)
    assert line.take().pulses == 1


def test_a_line_that_stays_on_is_said_to_be_stuck_once(request_: Request) -> None:
    line = GpioLine(replace(S0, pulse=Preset.OWN, own=Shape(0, 1, 2_000, 1)))
    request_.put_edges(time.monotonic_ns() / 1e6)
    assert line.take().noise == 0
    time.sleep(0.01)
    assert [line.take().noise for _ in range(3)] == [1, 0, 0]


def test_edges_that_the_kernel_dropped_end_what_was_under_way(request_: Request) -> None:
    line = GpioLine(S0)
    request_.put_edges(LATER_MS)
    assert line.take() == Taken(0)
    request_._numbered += 2  # a fall and a rise
    request_.put_edges(LATER_MS + 500)
    assert line.take() == Taken(0, lost=2)
    request_.put_edges(LATER_MS + 600, LATER_MS + 640)
    assert line.take() == Taken(1, ((LATER_MS + 640) * 10**6,))


def test_a_witness_tells_of_edges_that_the_kernel_merged(request_: Request) -> None:
    line = GpioLine(GpioSettings(17, "/dev/gpiochip9", witness=27))
    beside = request_.asked[1]["config"]
    assert sorted(beside) == [17, 27]
    assert (beside[27].direction, beside[27].edge_detection) == (Direction.INPUT, Edge.NONE)
    request_.add(Event(1, 5, 1), Event(2, 6, 4), Event(3, 7, 5))
    assert line.take() == Taken(3, (5, 6, 7), lost=2)
    request_.add(Event(5, 8, 7))  # dropped from the buffer: missed in both numbers, once
    assert line.take() == Taken(1, (8,), lost=1)


def test_two_edges_that_the_kernel_gave_one_number_are_no_loss_of_four_billion(
    request_: Request,
) -> None:
    """Seen on two cores: an interrupt came while the edge before it was being told."""
    line = GpioLine(GpioSettings(17, "/dev/gpiochip9", witness=27))
    request_.add(Event(1, 5, 1), Event(2, 6, 3), Event(3, 7, 3), Event(4, 8, 4))
    assert line.take() == Taken(4, (5, 6, 7, 8), lost=1)


@pytest.mark.parametrize(
    "settings",
    [
        GpioSettings(17, witness=17),
        GpioSettings(17, pulse=Preset.OWN),
        GpioSettings(17, own=Shape(0, 1, 2, 1)),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: GpioSettings) -> None:
    with pytest.raises(ConfigurationError, match="source"):
        GpioLine(settings)
