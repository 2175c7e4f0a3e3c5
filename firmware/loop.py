"""One poll over the lines and connections of many devices. No device waits for another's slow work:
a turn first looks at every line that is due, then does the rest for each. It reads no clock."""

import math
import select
from collections.abc import Callable
from functools import partial
from typing import Generic, Protocol, TypeVar

from cryptometer.steps import NS_PER_MS, NS_PER_S
from firmware.device import Wake

IDLE_NS = NS_PER_S  # a loop without devices still comes by


class Worker(Protocol):
    """What the loop asks of a device; each call does a bounded piece of work."""

    def look(self) -> None: ...
    def carry_on(self) -> None: ...
    def wake(self) -> Wake: ...


W = TypeVar("W", bound=Worker)


class Loop(Generic[W]):
    """Waits for many devices at once, and gives each its turn.

    A device that raises leaves the loop; what it raised is told to `on_end`, and the others go on.
    """

    def __init__(self, machine_ns: Callable[[], int], on_end: Callable[[W, Exception], None]):
        """
        Args:
            machine_ns: the machine's monotonic time, as in the devices' `Wake`.
            on_end: takes a device that failed, and why.
        """
        self._machine_ns = machine_ns
        self._on_end = on_end
        self._poll = select.poll()
        self._wakes: dict[W, Wake] = {}
        self._owners: dict[int, W] = {}  # of each descriptor that is polled
        self._resting: set[W] = set()  # whose line is not polled yet

    @property
    def workers(self) -> list[W]:
        return list(self._wakes)

    def interrupt_by(self, descriptor: int) -> None:
        """Lets a descriptor end the wait; whoever gave it takes what it brings."""
        self._poll.register(descriptor, select.POLLIN)

    def add(self, worker: W) -> None:
        """Takes a device in; it works at the next turn."""
        self._wakes[worker] = Wake(self._machine_ns(), None, 0, None)

    def remove(self, worker: W) -> None:
        """Lets a device go; nothing happens to it."""
        for number in self._polled_for(worker):
            self._poll.unregister(number)
            del self._owners[number]
        self._resting.discard(worker)
        self._wakes.pop(worker, None)

    def turn(self) -> list[W]:
        """Waits until something is due, and does it; returns the devices that have worked."""
        readable = self._poll.poll(self._wait_ms())
        now_ns = self._machine_ns()
        due = {self._owners[number] for number, _ in readable if number in self._owners}
        due |= {worker for worker, wake in self._wakes.items() if now_ns >= wake.due_ns}
        self._end_rests(now_ns, due)
        looked = [worker for worker in due if self._did(worker, worker.look)]
        carried = [worker for worker in looked if self._did(worker, worker.carry_on)]
        worked = [worker for worker in carried if self._did(worker, partial(self._ask, worker))]
        now_ns = self._machine_ns()
        for worker in worked:
            self._seat(worker, self._wakes[worker], now_ns)
        return worked

    def _wait_ms(self) -> int:
        now_ns = self._machine_ns()
        moments = [wake.due_ns for wake in self._wakes.values()]
        moments += [self._wakes[worker].line_ns for worker in self._resting]
        # Up: one that wakes before the time finds nothing due and asks in haste.
        return max(0, math.ceil((min(moments, default=now_ns + IDLE_NS) - now_ns) / NS_PER_MS))

    def _end_rests(self, now_ns: int, due: set[W]) -> None:
        for worker in self._resting - due:
            wake = self._wakes[worker]
            if wake.line is not None and now_ns >= wake.line_ns:
                self._resting.discard(worker)
                self._watch(worker, wake.line)

    def _did(self, worker: W, work: Callable[[], None]) -> bool:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - one device's end is not that of the others
            self.remove(worker)
            self._on_end(worker, error)
            return False
        return True

    def _ask(self, worker: W) -> None:
        self._wakes[worker] = worker.wake()

    def _seat(self, worker: W, wake: Wake, now_ns: int) -> None:
        """Arranges for a device to be woken as it asks."""
        is_resting = wake.line is not None and wake.line_ns > now_ns
        asked = (wake.broker, None if is_resting else wake.line)
        wanted = {number for number in asked if number is not None}
        for number in self._polled_for(worker) - wanted:
            self._poll.unregister(number)
            del self._owners[number]
        for number in wanted:
            self._watch(worker, number)
        if is_resting:
            self._resting.add(worker)
        else:
            self._resting.discard(worker)

    def _polled_for(self, worker: W) -> set[int]:
        return {number for number, owner in self._owners.items() if owner is worker}

    def _watch(self, worker: W, descriptor: int) -> None:
        # A number that another device has closed a moment ago may be this one's now.
        if self._owners.get(descriptor) is not worker:
            self._poll.register(descriptor, select.POLLIN)
            self._owners[descriptor] = worker
