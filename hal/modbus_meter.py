"""The simulated twin of meters on a Modbus bus: they answer as their maps say, on a serial line or
on a TCP port.
"""

import asyncio
import logging
import os
import select
import threading
import time
import tty
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.server.base import ModbusBaseServer
from pymodbus.simulator import DataType, SimData, SimDevice

from hal.index.modbus_map import MeterMap, Question, encode_index, encode_name
from hal.modbus_line import PARITIES, BusLine
from hal.ports import LineLost
from hal.terminal import why_unopened

_CARRIED_MAX = 4_096
_SERIAL_ADDRESS_AT, _TCP_ADDRESS_AT = 0, 6  # in a frame


@dataclass(frozen=True, slots=True)
class SimulatedMeter:
    """One meter.

    Attributes:
        address: on the bus.
        map: says where it keeps what.
        serial: its number, if the map has a place for it.
        model: likewise; one of those that the map is for.
        index_wh: what it has on its registers at a machine time: import and export, Wh.
        constant: pulses per kWh, of a map that counts pulses.
    """

    address: int
    map: MeterMap
    serial: str
    model: str
    index_wh: Callable[[int], tuple[Fraction, Fraction]]
    constant: Fraction | None = None


class SimulatedBus:
    """Meters that answer in a thread of their own, until they are closed. An address that nobody
    has stays silent."""

    def __init__(self, line: BusLine, meters: Sequence[SimulatedMeter]) -> None:
        """
        Args:
            line: the serial port at the meters' end, or the address and port to listen on.
            meters: each with an address of its own.

        Raises:
            LineLost: the line cannot be opened.
        """
        logging.getLogger("pymodbus").setLevel(logging.CRITICAL + 1)
        self._line = line
        self._devices = [_device(one) for one in meters]
        self._addresses = {one.address for one in meters}
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda *_: None)
        self._stop = asyncio.Event()
        self._failure: Exception | None = None
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._is_ready.wait()
        if self._failure is not None:
            raise LineLost(f"cannot open {line.place}: {why_unopened(self._failure)}")

    def close(self) -> None:
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except (OSError, RuntimeError) as error:
            self._failure = error
        finally:
            self._is_ready.set()
            self._loop.close()

    def _pass(self, is_sent: bool, packet: bytes) -> bytes:
        """Keeps back what the library answers for an address that nobody has."""
        at = _SERIAL_ADDRESS_AT if self._line.is_rtu else _TCP_ADDRESS_AT
        if is_sent and packet[at] not in self._addresses:
            return b""
        return packet

    async def _serve(self) -> None:
        line = self._line
        server: ModbusBaseServer
        if line.device:
            server = ModbusSerialServer(
                self._devices,
                port=line.device,
                baudrate=line.baud,
                parity=PARITIES[line.parity],
                stopbits=line.stop_bits,
                trace_packet=self._pass,
            )
        else:
            server = ModbusTcpServer(
                self._devices, address=(line.host, line.port), trace_packet=self._pass
            )
        await server.serve_forever(background=True)
        self._is_ready.set()
        await self._stop.wait()
        server.close()
        # What it was about to answer is answered by nobody: else the loop ends over it.
        pending = asyncio.all_tasks() - {asyncio.current_task()}
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


class WiredEnds:
    """A serial line without hardware: two pseudo-terminals that are wired to each other. The near
    one, for whoever asks, is found under a link; `far` is for a `SimulatedBus`."""

    def __init__(self, link: Path) -> None:
        """
        Args:
            link: to make; another link there is replaced.

        Raises:
            OSError: it cannot be made.
        """
        self._masters, self._ends = zip(*(os.openpty() for _ in range(2)), strict=True)
        for end in self._ends:
            tty.setraw(end)  # an echo would answer instead of the meter
        for master in self._masters:
            os.set_blocking(master, False)
        self.far = os.ttyname(self._ends[1])
        self._link, self._stop = link, os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._carry, daemon=True)
        beside = link.with_name(f"{link.name}.{os.getpid()}")
        beside.unlink(missing_ok=True)
        beside.symlink_to(os.ttyname(self._ends[0]))
        beside.replace(link)
        self._thread.start()

    def close(self) -> None:
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        self._link.unlink(missing_ok=True)
        for one in (*self._masters, *self._ends, self._stop):
            os.close(one)

    def _carry(self) -> None:
        while True:
            ready, _, _ = select.select([*self._masters, self._stop], [], [])
            if self._stop in ready:
                return
            for place, master in enumerate(self._masters):
                if master in ready:
                    # What a full line does not take is lost, as on a real one.
                    with suppress(BlockingIOError):
                        os.write(self._masters[1 - place], os.read(master, _CARRIED_MAX))


def _device(meter: SimulatedMeter) -> SimDevice:
    answers = list(_names(meter))
    index = [0] * meter.map.registers
    begun = 0
    for question in meter.map.index:
        answers.append((question, index[begun : begun + question.count]))
        begun += question.count
    taken: dict[int, int] = {}
    for question, registers in answers:
        for place, value in enumerate(registers):
            taken.setdefault(question.address + place, value)
    blocks = [
        SimData(address, values=[taken[address]], datatype=DataType.REGISTERS)
        for address in sorted(taken)
    ]
    return SimDevice(meter.address, blocks, action=partial(_renew, meter))


def _names(meter: SimulatedMeter) -> list[tuple[Question, list[int]]]:
    named = ((meter.map.serial, meter.serial), (meter.map.model, meter.model))
    return [(one.question, encode_name(one, text)) for one, text in named if one is not None]


async def _renew(
    meter: SimulatedMeter,
    function: int,
    start: int,
    address: int,
    count: int,
    registers: list[int],
    values: list[int] | list[bool] | None,
) -> ExcCodes | None:
    """Before an answer: the index as it is now, in `registers`, which begin at `start`."""
    if values is not None:
        return ExcCodes.ILLEGAL_FUNCTION  # nobody sets a meter
    imported_wh, exported_wh = meter.index_wh(time.monotonic_ns())
    now = encode_index(meter.map, imported_wh, exported_wh, meter.constant)
    for question in meter.map.index:
        for place in range(question.count):
            at = question.address + place
            if function == question.function and address <= at < address + count:
                registers[at - start] = now[place]
        now = now[question.count :]
    return None
