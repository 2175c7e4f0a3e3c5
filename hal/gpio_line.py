"""Pulses as edges on a GPIO line, through the kernel's character device; driver name `gpio`."""

import errno
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

import gpiod
from gpiod.line import Bias, Clock, Edge

from cryptometer.settings import setting
from hal.ports import LineLost, Taken

# Events the kernel keeps for us, its own limit (gpiolib-cdev.c, 16 · GPIO_V2_LINES_MAX): a minute
# at the S0 maximum of 16.7 Hz, 0.4 s at the 2.5 kHz of an LED. What it drops it numbers.
EVENTS_MAX = 1024
_SEQUENCE_MODULUS = 2**32  # line_seqno is a __u32


class Pull(StrEnum):
    """The bias of the input."""

    UP = "up"
    DOWN = "down"
    NONE = "none"


_BIAS = {Pull.UP: Bias.PULL_UP, Pull.DOWN: Bias.PULL_DOWN, Pull.NONE: Bias.DISABLED}


@dataclass(frozen=True, slots=True)
class GpioSettings:
    """The table `[source]` with `driver = "gpio"`."""

    offset: int = setting("the line's offset on the chip; on a Raspberry Pi the BCM number")
    chip: str = setting("the GPIO chip", "/dev/gpiochip0")
    active_low: bool = setting("true for a contact between the line and ground", True)
    pull: Pull = setting("bias of the input", Pull.UP)
    debounce_us: int = setting("the kernel's debounce; S0 bounces up to 5 ms in 30 ms", 10_000)


class GpioLine:
    """A pulse source on one GPIO line. Edges carry the kernel's monotonic time."""

    latency_ns = 0
    capacity = EVENTS_MAX

    def __init__(self, settings: GpioSettings) -> None:
        line = gpiod.LineSettings(
            edge_detection=Edge.RISING,
            bias=_BIAS[settings.pull],
            active_low=settings.active_low,
            debounce_period=timedelta(microseconds=settings.debounce_us),
            event_clock=Clock.MONOTONIC,
        )
        self._name = f"{settings.chip} line {settings.offset}"
        try:
            self._request = gpiod.request_lines(
                settings.chip,
                consumer="cryptometer",
                config={settings.offset: line},
                event_buffer_size=EVENTS_MAX,
            )
        except (OSError, ValueError) as error:
            raise LineLost(f"cannot open {self._name}: {_why(error)}") from None
        self._seen = 0

    def fileno(self) -> int:
        return self._request.fd

    def take(self) -> Taken:
        times: list[int] = []
        lost = 0
        try:
            # One buffer at most: on a line that never rests the next look takes the next one.
            while len(times) < EVENTS_MAX and self._request.wait_edge_events(0):
                for event in self._request.read_edge_events():
                    # The kernel drops the oldest event of a full buffer; the sequence tells.
                    lost += (event.line_seqno - self._seen - 1) % _SEQUENCE_MODULUS
                    self._seen = event.line_seqno
                    times.append(event.timestamp_ns)
        except OSError as error:
            if not times:
                raise LineLost(f"{self._name} is gone: {error.strerror}") from None
        return Taken(len(times), tuple(times), lost=lost)

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
