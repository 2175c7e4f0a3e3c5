"""Pulses as edges on a GPIO line, through the interface of RPi.GPIO; driver name `rpi`.

For boards that have only that, whichever package supplies it. It calls back for each edge and says
neither when the kernel saw it nor its number: pulses have no times of their own, and an edge that
was merged or dropped on its way is not missed. `gpio` knows both.

It is asked for both edges. Of one kind alone its debounce lets the bounce at a pulse's other end
through: neither package sees then that the line was already there (rpi-lgpio waits until no more
edges come, lgPthAlerts.c; the first RPi.GPIO is deaf for a while). Of both kinds rpi-lgpio tells
those alone that change the line for good, in turn; the first RPi.GPIO one for each end.
"""

import importlib
import os
import tempfile
import threading
import time
from contextlib import chdir, suppress
from dataclasses import dataclass
from typing import Any

from cryptometer.settings import setting
from cryptometer.steps import NS_PER_MS
from hal.bias import Pull
from hal.ports import LineLost, Taken

_LATENCY_NS = 20 * NS_PER_MS  # the library's thread waits for its turn in the interpreter
_REST_NS = 250 * NS_PER_MS  # so long no call is on its way


@dataclass(frozen=True, slots=True)
class RpiSettings:
    """The table `[source]` with `driver = "rpi"`."""

    offset: int = setting("the line's BCM number")
    active_low: bool = setting("true for a contact between the line and ground", True)
    pull: Pull = setting("bias of the input: up, down or none", Pull.UP)
    debounce_ms: int = setting("the library's debounce; S0 bounces up to 5 ms in 30 ms", 10)


class RpiLine:
    """A pulse source on one GPIO line: the edge that begins a pulse counts.

    Which of two edges in turn a call is about is not said. Where the line rests otherwise than it
    should behind them, one was told too much or too little: it is declared, as noise.
    """

    latency_ns = _LATENCY_NS
    capacity = 2**31  # they are counted as they come

    def __init__(self, settings: RpiSettings) -> None:
        self._offset = settings.offset
        self._active = 0 if settings.active_low else 1
        self._called = 0  # by the library's thread, and by no other
        self._taken = 0
        self._was_on = False  # before the first call
        self._doubted_ns: int | None = None  # since when the line stands otherwise
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
        pulses = self._begun(called) - self._begun(self._taken)
        if called != self._taken:
            self._taken, self._doubted_ns = called, None
        return Taken(pulses, noise=self._compare())

    def _begun(self, called: int) -> int:
        """How many pulses have begun with so many calls."""
        return (called + (not self._was_on)) // 2

    def _compare(self) -> int:
        """Returns 1 once the line has stood otherwise for a while than the calls say."""
        try:
            is_on = self._gpio.input(self._offset) == self._active
        except Exception as error:  # noqa: BLE001 - each package that supplies it has its own
            raise LineLost(f"GPIO {self._offset} is gone: {error}") from None
        now_ns = time.monotonic_ns()
        if is_on == (self._taken % 2 != self._was_on):
            self._doubted_ns = None
        elif self._doubted_ns is None:
            self._doubted_ns = now_ns  # a call may be on its way
        elif now_ns - self._doubted_ns >= _REST_NS:
            self._was_on, self._doubted_ns = not self._was_on, None
            return 1
        return 0

    def close(self) -> None:
        self._gpio.remove_event_detect(self._offset)
        self._release()

    def _watch(self, settings: RpiSettings) -> None:
        gpio = self._gpio
        pulls = {Pull.UP: gpio.PUD_UP, Pull.DOWN: gpio.PUD_DOWN, Pull.NONE: gpio.PUD_OFF}
        gpio.setmode(gpio.BCM)
        gpio.setup(settings.offset, gpio.IN, pull_up_down=pulls[settings.pull])
        self._was_on = gpio.input(settings.offset) == self._active
        gpio.add_event_detect(
            settings.offset,
            gpio.BOTH,
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
    # rpi-lgpio makes a pipe where the program stands, and nowhere else; a service may stand where
    # nobody writes. Once it is open at both ends it needs no name.
    try:
        with tempfile.TemporaryDirectory() as folder, chdir(folder):
            return importlib.import_module("RPi.GPIO")
    except ImportError:
        raise
    except Exception as error:  # noqa: BLE001 - RPi.GPIO itself fails so where it knows no board
        raise _lost(offset, error) from None


def _lost(offset: int, error: Exception) -> LineLost:
    return LineLost(f"cannot open GPIO {offset}: {error}")
