"""The far end of a Modbus line in tests: meters that answer from raw registers, and may do wrong.
Nothing of the driver or of its library is in it."""

import os
import select
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

GAP_S = 0.0004  # of silence after which a request is whole


def crc(data: bytes) -> bytes:
    """Modbus over serial line V1.02, 6.2.2."""
    value = 0xFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xA001 if value & 1 else 0)
    return value.to_bytes(2, "little")


def framed(body: bytes) -> bytes:
    return body + crc(body)


@dataclass(frozen=True, slots=True)
class Request:
    """What a meter was asked."""

    address: int
    function: int
    register: int
    count: int
    at_ns: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.function, self.register


def answer(request: Request, registers: list[int]) -> bytes:
    """The intact answer to a request."""
    body = b"".join(one.to_bytes(2, "big") for one in registers[: request.count])
    return framed(bytes([request.address, request.function, len(body)]) + body)


def error(request: Request, code: int) -> bytes:
    return framed(bytes([request.address, request.function | 0x80, code]))


Behaviour = Callable[[Request], bytes | None]


@dataclass
class FarEnd:
    """Answers requests on a pseudo-terminal, in a thread.

    Attributes:
        behaviour: what goes onto the line for a request; None or nothing: silence.
        asked: every request so far, the broken ones excepted.
    """

    behaviour: Behaviour
    asked: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.master, self.slave = os.openpty()
        tty.setraw(self.slave)
        self.device = os.ttyname(self.slave)
        self._ending, self._end = os.pipe()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def send(self, data: bytes) -> None:
        os.write(self.master, data)

    def unplug(self) -> None:
        """The line is gone, as when an adapter is pulled."""
        os.write(self._end, b".")
        self._thread.join()
        for one in (self.master, self.slave, self._ending, self._end):
            with suppress(OSError):
                os.close(one)

    def _run(self) -> None:
        heard = b""
        while True:
            ready, _, _ = select.select(
                [self.master, self._ending], [], [], GAP_S if heard else None
            )
            if self._ending in ready:
                return
            if ready:
                heard += os.read(self.master, 4096)
                if len(heard) < 8 or crc(heard[-8:-2]) != heard[-2:]:
                    continue
            # A meter that was busy finds all questions that came meanwhile, and answers in order.
            requests, heard = [heard[at : at + 8] for at in range(0, len(heard), 8)], b""
            for request in requests:
                self._answer(request)

    def _answer(self, request: bytes) -> None:
        if len(request) != 8 or crc(request[:-2]) != request[-2:]:
            return
        register, count = (int.from_bytes(request[at : at + 2], "big") for at in (2, 4))
        one = Request(request[0], request[1], register, count, time.monotonic_ns())
        self.asked.append(one)
        said = self.behaviour(one)
        if said:
            self.send(said)


@contextmanager
def far_end(behaviour: Behaviour) -> Iterator[FarEnd]:
    end = FarEnd(behaviour)
    try:
        yield end
    finally:
        with suppress(OSError):
            end.unplug()


@contextmanager
def line_of_two_ends() -> Iterator[tuple[str, str]]:
    """Two serial devices that are wired to each other."""
    masters, slaves = zip(*(os.openpty() for _ in range(2)), strict=True)
    for one in slaves:
        tty.setraw(one)
    ending, end = os.pipe()

    def carry() -> None:
        while True:
            ready, _, _ = select.select([*masters, ending], [], [])
            if ending in ready:
                return
            for place, one in enumerate(masters):
                if one in ready:
                    os.write(masters[1 - place], os.read(one, 4096))

    thread = threading.Thread(target=carry, daemon=True)
    thread.start()
    try:
        yield os.ttyname(slaves[0]), os.ttyname(slaves[1])
    finally:
        os.write(end, b".")
        thread.join()
        for one in (*masters, *slaves, ending, end):
            os.close(one)
