"""Pulses as edges on a GPIO line, through the kernel's character device; driver name `gpio`.

Either every edge that begins a pulse counts, and the kernel's debounce must keep bounce away; or
both edges are read, and what they come to is told by the pulse's shape.
"""

import errno
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import gpiod
from gpiod.line import Bias, Clock, Direction, Edge, Value

from cryptometer.errors import ConfigurationError
from cryptometer.settings import setting
from hal.bias import Pull
from hal.ports import LineLost, Taken
from hal.pulse_shape import Found, Preset, Recogniser, Shape, shape_of

# Events the kernel keeps for us, its own limit (gpiolib-cdev.c, 16 · GPIO_V2_LINES_MAX): a minute
# at the S0 maximum of 16.7 Hz, 0.4 s at the 2.5 kHz of an LED; half of that where both edges are
# read. What it drops it numbers.
EVENTS_MAX = 1024
DEBOUNCE_US = 10_000
_SEQUENCE_MODULUS = 2**32  # line_seqno and seqno are __u32


_BIAS = {Pull.UP: Bias.PULL_UP, Pull.DOWN: Bias.PULL_DOWN, Pull.NONE: Bias.DISABLED}


@dataclass(frozen=True, slots=True)
class GpioSettings:
    """The table `[source]` with `driver = "gpio"`."""

    offset: int = setting("the line's offset on the chip; on a Raspberry Pi the BCM number")
    chip: str = setting("the GPIO chip", "/dev/gpiochip0")
    active_low: bool = setting("true for a contact between the line and ground", True)
    pull: Pull = setting("bias of the input", Pull.UP)
    pulse: Preset = setting(
        "what a pulse looks like: s0-class-a, s0-class-b, led, own; or any, for"
        " each edge that begins one",
        Preset.ANY,
    )
    own: Shape | None = setting('the shape, with pulse = "own"', None)
    debounce_us: int | None = setting(
        'the kernel\'s debounce; where nothing else is said 10,000 with pulse = "any", since S0'
        " bounces up to 5 ms in 30 ms, and none otherwise",
        None,
    )
    witness: int | None = setting(
        "a line of the same chip that nothing else uses: asked for together with this one, it has"
        " the kernel number edges as they interrupt, so that those it merges are missed",
        None,
    )


class GpioLine:
    """A pulse source on one GPIO line. Edges carry the kernel's monotonic time."""

    latency_ns = 0

    def __init__(self, settings: GpioSettings) -> None:
        shape = shape_of(settings.pulse, settings.own)
        if settings.witness == settings.offset:
            raise ConfigurationError("[source] witness is another line than offset")
        debounce_us = settings.debounce_us
        if debounce_us is None:
            debounce_us = DEBOUNCE_US if shape is None else 0
        line = gpiod.LineSettings(
            edge_detection=Edge.RISING if shape is None else Edge.BOTH,
            bias=_BIAS[settings.pull],
            active_low=settings.active_low,
            debounce_period=timedelta(microseconds=debounce_us),
            event_clock=Clock.MONOTONIC,
        )
        lines: dict[Iterable[int | str] | int | str, gpiod.LineSettings | None]
        lines = {settings.offset: line}
        if settings.witness is not None:
            lines[settings.witness] = gpiod.LineSettings(direction=Direction.INPUT)
        self.capacity = EVENTS_MAX if shape is None else EVENTS_MAX // 2
        self._name = f"{settings.chip} line {settings.offset}"
        try:
            self._request = gpiod.request_lines(
                settings.chip,
                consumer="cryptometer",
                config=lines,
                event_buffer_size=EVENTS_MAX,
            )
            is_on = self._request.get_value(settings.offset) is Value.ACTIVE
        except (OSError, ValueError) as error:
            raise LineLost(f"cannot open {self._name}: {_why(error)}") from None
        self._recogniser = (
            None if shape is None else Recogniser(shape, is_on=is_on, now_ns=time.monotonic_ns())
        )
        self._seen = 0
        self._seen_together = 0

    def fileno(self) -> int:
        return self._request.fd

    def go_on_behind(self, counted_ns: int) -> None:
        if self._recogniser is not None:
            self._recogniser.go_on_behind(counted_ns)

    def take(self) -> Taken:
        now_ns = time.monotonic_ns()
        found = Found()
        count = 0
        try:
            # One buffer at most: on a line that never rests the next look takes the next one.
            while count < EVENTS_MAX and self._request.wait_edge_events(0):
                for event in self._request.read_edge_events():
                    self._add(event, found)
                    count += 1
        except OSError as error:
            if not count:
                raise LineLost(f"{self._name} is gone: {error.strerror}") from None
        if self._recogniser is not None and count < EVENTS_MAX:
            found.noise += self._recogniser.pass_by(now_ns)
        return Taken(len(found.times_ns), tuple(found.times_ns), found.noise, found.lost)

    def _add(self, event: gpiod.EdgeEvent, found: Found) -> None:
        missed = self._missed(event)
        found.lost += missed
        if self._recogniser is None:
            found.times_ns.append(event.timestamp_ns)
            return
        if missed:
            self._recogniser.miss()
        is_on = event.event_type is gpiod.EdgeEvent.Type.RISING_EDGE
        self._recogniser.add(event.timestamp_ns, is_on=is_on, found=found)

    def _missed(self, event: gpiod.EdgeEvent) -> int:
        """How many edges before this one were not told: the kernel drops the oldest of a full
        buffer, and may merge those that come faster than it reads them. Only where lines are asked
        for together it numbers them before that (gpiolib-cdev.c, `edge_irq_handler`). An edge that
        interrupts while the one before is being told gives both its number: the second of them
        brings none that is new, and none is missing before it."""
        dropped = (event.line_seqno - self._seen - 1) % _SEQUENCE_MODULUS
        is_again = event.global_seqno == self._seen_together
        together = (event.global_seqno - self._seen_together - 1) % _SEQUENCE_MODULUS
        together = 0 if is_again else together
        self._seen, self._seen_together = event.line_seqno, event.global_seqno
        return max(dropped, together)

    def close(self) -> None:
        self._request.release()


def _why(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number in (errno.EACCES, errno.EPERM):
        return "permission denied; add the user to the group gpio"
    if number == errno.ENOENT:
        return "there is no such chip; gpiodetect lists them"
    if number == errno.EBUSY:
        return "another program, or a kernel driver, uses it"
    if number == errno.EINVAL or isinstance(error, ValueError):
        return "the chip has no such line; gpioinfo lists them"
    return str(error)
