"""The running program: a channel for each configuration, all of them in one loop.

A channel starts in a thread of its own, so that a long recovery keeps no other from counting. One
that fails ends alone, and after a while begins anew as a whole program would: its folder decides.
The program ends when it is told to, or when no channel is left.
"""

import os
import queue
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryptometer.errors import ConfigurationError, Rejected
from cryptometer.keys import KeyLost
from firmware.channel import Channel, Log
from firmware.device import Device
from firmware.loop import Loop
from hal.drivers import Buses
from hal.files import make_folder
from hal.notify import Notifier
from hal.program import EXIT_CONFIGURATION, EXIT_FAILED

if TYPE_CHECKING:
    from firmware.capture import Recorder

RETRY_FIRST_S, RETRY_MAX_S = 2, 60
STABLE_S = 60  # a life of so long begins the back-off anew
START_MAX_S = 20.0  # an end waits so long for a channel that is starting; what it does is safe
LEAVE_MAX_S = 7.0  # hal.mqtt: a second for the farewell, five for a thread that waits for a name


@dataclass(slots=True, eq=False)
class _Seat:
    """A channel's place on the board.

    Attributes:
        starting: the thread of a life that begins.
        began_s: machine time at which the newest life began.
        error: why the channel is down; None while it is not.
        retry_s: when it is tried again; None: a person must act.
    """

    channel: Channel
    starting: threading.Thread | None = None
    began_s: float = 0.0
    error: Exception | None = None
    retry_s: float | None = None
    backoff_s: int = RETRY_FIRST_S


class Board:
    """All channels of one program."""

    def __init__(
        self, configurations: Sequence[Path], log: Log, capture: Path | None = None
    ) -> None:
        """
        Args:
            configurations: of the channels.
            log: takes what people should read.
            capture: a file that records a single channel, a folder for those of several.

        Raises:
            ConfigurationError: nothing can be recorded there.
        """
        is_named = len(configurations) > 1
        buses = Buses()
        recorders = _recorders(configurations, log, capture)
        self._seats = [
            _Seat(Channel(path, log, buses, is_named=is_named, recorder=recorder))
            for path, recorder in zip(configurations, recorders, strict=True)
        ]
        self._loop: Loop[Device] = Loop(time.monotonic_ns, self._on_failure)
        self._started: queue.SimpleQueue[tuple[_Seat, Device | Exception]] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._loop.interrupt_by(self._wake)
        self._is_stopping = False
        self._notifier = Notifier()
        self._is_ready = False
        self._alive_s = 0.0

    @property
    def status(self) -> str:
        """One line for the service manager."""
        said = []
        for seat in self._seats:
            device = seat.channel.device
            text = "starting" if seat.error is None else f"down: {seat.error}"
            text = text if device is None else device.status
            said.append(f"{seat.channel.name}: {text}" if len(self._seats) > 1 else text)
        return "; ".join(said)

    def stop(self) -> None:
        """Asks for an end in order; from a signal handler, too."""
        self._is_stopping = True
        os.eventfd_write(self._wake, 1)

    def run(self) -> int:
        """Runs all channels until `stop`; returns the exit code.

        Raises:
            Exception: what the last channel ended with, once none is left.
        """
        for seat in self._seats:
            self._start(seat)
        while not self._is_stopping:
            worked = self._loop.turn()
            self._take_started()
            for device in worked:
                if device.wants_restart:
                    self._renew(self._seat_of(device), device)
            self._try_again()
            self._report()
        return self._end()

    # --- Lives. ---

    def _start(self, seat: _Seat) -> None:
        seat.error = seat.retry_s = None
        seat.began_s = time.monotonic()
        seat.starting = self._run_aside(lambda: self._live(seat))

    def _live(self, seat: _Seat) -> None:
        """In a thread: nothing of it touches the loop."""
        try:
            begun: Device | Exception = seat.channel.live()
        except Exception as error:  # noqa: BLE001 - told by the loop's thread
            begun = error
        self._started.put((seat, begun))
        os.eventfd_write(self._wake, 1)

    def _take_started(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        while not self._started.empty():
            seat, begun = self._started.get()
            seat.starting = None
            if isinstance(begun, Device):
                self._loop.add(begun)
            else:
                self._put_down(seat, begun)

    def _renew(self, seat: _Seat, device: Device) -> None:
        """The authority has said something new: another life begins with it."""
        self._loop.remove(device)
        try:
            seat.channel.end()
        except Exception as error:  # noqa: BLE001 - one channel's end is not that of the others
            self._put_down(seat, error)
        else:
            self._start(seat)

    def _on_failure(self, device: Device, error: Exception) -> None:
        self._put_down(self._seat_of(device), error)

    def _put_down(self, seat: _Seat, error: Exception) -> None:
        """A channel has failed; the others go on, unless it was the last."""
        channel = seat.channel
        channel.fail()
        seat.error = error
        if time.monotonic() - seat.began_s > STABLE_S:
            seat.backoff_s = RETRY_FIRST_S
        if not isinstance(error, ConfigurationError | Rejected):
            seat.retry_s = time.monotonic() + seat.backoff_s
        self._raise_if_none_is_left()
        if seat.retry_s is None:
            channel.say(f"stopping: {error}; it waits for a person, and for a start of the program")
        else:
            channel.say(f"stopping: {error}; it starts anew in {seat.backoff_s} s")
            seat.backoff_s = min(2 * seat.backoff_s, RETRY_MAX_S)
        if not isinstance(error, ConfigurationError | Rejected | KeyLost | OSError):
            channel.say("".join(traceback.format_exception(error)))  # a fault of ours
        self._run_aside(channel.leave)

    def _try_again(self) -> None:
        for seat in self._seats:
            if seat.retry_s is not None and time.monotonic() >= seat.retry_s:
                self._start(seat)

    def _raise_if_none_is_left(self) -> None:
        errors = [seat.error for seat in self._seats if seat.error is not None]
        if len(errors) == len(self._seats):
            # What a start anew may cure comes first: the service manager sees to it.
            raise min(errors, key=lambda one: isinstance(one, ConfigurationError | Rejected))

    def _seat_of(self, device: Device) -> _Seat:
        return next(seat for seat in self._seats if seat.channel.device is device)

    # --- What the service manager hears, and the end. ---

    def _report(self) -> None:
        if not self._is_ready:
            self._is_ready = all(seat.starting is None for seat in self._seats)
            if self._is_ready:
                self._notifier.ready(self.status)
        if self._notifier.watchdog_s is not None and time.monotonic() >= self._alive_s:
            self._alive_s = time.monotonic() + self._notifier.watchdog_s
            self._notifier.alive(self.status)

    def _end(self) -> int:
        self._notifier.stopping()
        self._wait_for([seat.starting for seat in self._seats], START_MAX_S)
        self._take_started()
        for seat in self._seats:
            try:
                seat.channel.end()
            except Exception as error:  # noqa: BLE001 - the others end in order all the same
                self._put_down(seat, error)
        # A farewell takes seconds where the broker does not answer.
        self._wait_for([self._run_aside(seat.channel.release) for seat in self._seats], LEAVE_MAX_S)
        errors = [seat.error for seat in self._seats if seat.error is not None]
        if any(seat.starting is not None for seat in self._seats):
            return EXIT_FAILED  # it still recovers, and ends as a kill would end it
        if all(isinstance(error, ConfigurationError | Rejected) for error in errors):
            return EXIT_CONFIGURATION if errors else 0
        return EXIT_FAILED

    @staticmethod
    def _run_aside(work: Callable[[], None]) -> threading.Thread:
        # A daemon: an end does not wait for it longer than it says.
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread

    @staticmethod
    def _wait_for(threads: Sequence[threading.Thread | None], longest_s: float) -> None:
        until_s = time.monotonic() + longest_s
        for thread in threads:
            if thread is not None:
                thread.join(max(0.0, until_s - time.monotonic()))


def _recorders(
    configurations: Sequence[Path], log: Log, capture: Path | None
) -> "list[Recorder | None]":
    if capture is None:
        return [None] * len(configurations)
    from firmware.capture import Recorder  # noqa: PLC0415 - the rare case

    if len(configurations) == 1:
        return [Recorder(capture, log)]
    make_folder(capture)
    return [
        Recorder(capture / f"{number}-{path.stem}.tape", log)
        for number, path in enumerate(configurations)
    ]
