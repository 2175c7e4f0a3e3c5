"""Pulses as edges on a GPIO line, through the interface of RPi.GPIO; driver name `rpi`.

For boards that have only that, whichever package supplies it. It calls back for each edge and says
neither when the kernel saw it nor its number: pulses have no times of their own, and an edge that
was merged or dropped on its way is not missed. `gpio` knows both.

What its debounce does depends on the package: rpi-lgpio waits until a line is stable; the first
RPi.GPIO is deaf for a while behind each edge that counts, and hears the bounce at a pulse's end.
"""

import importlib
import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from cryptometer.settings import setting
from cryptometer.steps import NS_PER_MS
from hal.bias import Pull
from hal.ports import LineLost, Taken

_LATENCY_NS = 20 * NS_PER_MS  # the library's thread waits for its turn in the interpreter


@dataclass(frozen=True, slots=True)
class RpiSettings:
    """The table `[source]` with `driver = "rpi"`."""

    offset: int = setting("the line's BCM number")
    active_low: bool = setting("true for a contact between the line and ground", True)
    pull: Pull = setting("bias of the input: up, down or none", Pull.UP)
    debounce_ms: int = setting("the library's debounce; S0 bounces up to 5 ms in 30 ms", 10)


class RpiLine:
    """A pulse source on one GPIO line: the edge that begins a pulse counts."""

    latency_ns = _LATENCY_NS
    capacity = 2**31  # they are counted as they come

    def __init__(self, settings: RpiSettings) -> None:
        self._offset = settings.offset
        self._called = 0  # by the library's thread, and by no other
        self._taken = 0
        self._gpio: Any = _supplied(self._offset)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closing = threading.Lock()
        self._is_open = True
        try:
            self._watch(settings)
        except Exception as error:  # noqa: BLE001 - each package that supplies it has its own
            self._release()
            raise _lost(self._offset, error) from None

    def fileno(self) -> int:
        return self._wake

    def take(self) -> Taken:
        # Before the count is read: a pulse that comes behind it wakes again.
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        called = self._called
        pulses, self._taken = called - self._taken, called
        return Taken(pulses)

    def close(self) -> None:
        self._gpio.remove_event_detect(self._offset)
        self._release()

    def _watch(self, settings: RpiSettings) -> None:
        gpio = self._gpio
        pulls = {Pull.UP: gpio.PUD_UP, Pull.DOWN: gpio.PUD_DOWN, Pull.NONE: gpio.PUD_OFF}
        gpio.setmode(gpio.BCM)
        gpio.setup(settings.offset, gpio.IN, pull_up_down=pulls[settings.pull])
        gpio.add_event_detect(
            settings.offset,
            gpio.FALLING if settings.active_low else gpio.RISING,
            callback=self._count,
            # The library takes none for 0, and refuses a number that is not positive.
            **({"bouncetime": settings.debounce_ms} if settings.debounce_ms > 0 else {}),
        )

    def _count(self, _line: int) -> None:
        self._called += 1
        # The library waits for no call at the end; by then the number may be another file's.
        with self._closing:
            if self._is_open:
                os.eventfd_write(self._wake, 1)

    def _release(self) -> None:
        with suppress(Exception):  # of a line that was never had
            self._gpio.cleanup(self._offset)
        with self._closing:
            self._is_open = False
            os.close(self._wake)


def _supplied(offset: int) -> Any:
    try:
        return importlib.import_module("RPi.GPIO")
    except ImportError:
        raise
    except Exception as error:  # noqa: BLE001 - RPi.GPIO itself fails so where it knows no board
        raise _lost(offset, error) from None


def _lost(offset: int, error: Exception) -> LineLost:
    return LineLost(f"cannot open GPIO {offset}: {error}")
