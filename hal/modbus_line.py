"""Questions and answers on one Modbus bus, one at a time; frames are pymodbus's.

On RTU an answer says neither which question it belongs to nor where it begins. So the line must
rest before a question is sent, what waited is thrown away, and of what comes only a whole answer of
the right meter, function and length is taken, wherever it begins: a spike at the turn of the line,
an echo, or another's answer before it does no harm.
"""

import asyncio
import logging
import termios
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum

from pymodbus import FramerType
from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient
from pymodbus.client.base import ModbusBaseClient
from pymodbus.exceptions import ConnectionException, ModbusException

from cryptometer.steps import NS_PER_MS, NS_PER_S
from hal.index.modbus_frame import find_answer
from hal.index.modbus_map import Asked, Question
from hal.index.reading import Parity, Refusal, Refused
from hal.ports import LineLost
from hal.terminal import why_unopened

CONNECT_S = 3.0
# 3.5 characters of 11 bits of silence divide frames, 1.75 ms from 19,200 baud on (Modbus over
# serial line V1.02, 2.5.1.1).
_GAP_BITS, _GAP_LEAST_NS = 39, 1_750_000
_HEARD_MAX = 260  # bytes of a frame at most are 256
# Modbus application protocol V1.1b3, 7.
_ERRORS = {
    1: "illegal function",
    2: "illegal data address",
    3: "illegal data value",
    4: "device failure",
    5: "acknowledge",
    6: "device busy",
    10: "gateway path unavailable",
    11: "gateway target failed to respond",
}
_NO_SUCH_REGISTER = 2
_BY_GATEWAY = frozenset({10, 11})  # its word that the meter is silent
PARITIES = {Parity.NONE: "N", Parity.EVEN: "E", Parity.ODD: "O"}


class Framing(StrEnum):
    """What stands around a message on a TCP connection."""

    TCP = "tcp"  # the header that Modbus TCP defines, with a number that the answer repeats
    RTU = "rtu"  # as on the serial line, which a converter passes on unchanged


@dataclass(frozen=True, slots=True)
class BusLine:
    """How a bus is reached: by a serial port, or else by TCP."""

    device: str = ""
    baud: int = 9_600
    parity: Parity = Parity.NONE
    stop_bits: int = 1
    host: str = ""
    port: int = 502
    framing: Framing = Framing.TCP

    @property
    def place(self) -> str:
        """Which line it is, for people too: two buses of one place are one."""
        return self.device or f"{self.host}:{self.port}"

    @property
    def is_rtu(self) -> bool:
        return bool(self.device) or self.framing is Framing.RTU

    @property
    def gap_ns(self) -> int:
        """The silence between two frames."""
        return max(_GAP_LEAST_NS, _GAP_BITS * NS_PER_S // self.baud) if self.is_rtu else 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a question brought.

    Attributes:
        registers: those that were asked for; empty where there is a refusal.
        refusal: why there are none.
        asked: when it was sent and answered.
        is_unknown: the meter says that it has no such registers.
    """

    registers: tuple[int, ...]
    refusal: Refusal | None
    asked: Asked
    is_unknown: bool = False


class ModbusLine:
    """An open bus. Not for several tasks at once."""

    def __init__(self, line: BusLine) -> None:
        self._line = line
        # Whoever counts refusals knows of every failed question: a log line for each says no more.
        logging.getLogger("pymodbus").setLevel(logging.CRITICAL + 1)
        self._client = self._make_client()
        self._expected: tuple[int, Question] | None = None
        self._heard = b""
        self._began_ns = self._last_ns = 0  # of the question; of the last byte on the line
        self.gone = asyncio.Event()
        self.answers = 0  # of any kind, since it was opened

    async def open(self) -> None:
        """
        Raises:
            LineLost: it cannot be opened now.
        """
        transaction = self._client.ctx
        try:
            # As `connect` does it, which keeps the reason for itself.
            transaction.transport, _ = await asyncio.wait_for(transaction.call_create(), CONNECT_S)
        except TimeoutError:
            raise LineLost(f"cannot reach {self._line.place} in {CONNECT_S:.0f} s") from None
        except (OSError, termios.error, ValueError) as error:
            why = why_unopened(error) if self._line.device else str(error)
            raise LineLost(f"cannot open {self._line.place}: {why}") from None
        await asyncio.sleep(0)  # a serial transport begins to read in the loop's next round

    def close(self) -> None:
        self._client.close()

    async def ask(self, address: int, question: Question, patience_s: float) -> Answer:
        """Sends a question and waits for its answer.

        Raises:
            LineLost: the line is gone.
        """
        if self.gone.is_set():
            raise LineLost(f"{self._line.place} is gone")
        await self._rest(patience_s)
        self._expected, self._heard = (address, question), b""
        self._began_ns = time.monotonic_ns()
        self._client.ctx.comm_params.timeout_connect = patience_s
        client = self._client
        read = (
            client.read_holding_registers if question.function == 3 else client.read_input_registers
        )
        try:
            response = await read(question.address, count=question.count, device_id=address)
        except ConnectionException:
            raise LineLost(f"{self._line.place} is gone") from None
        except (ModbusException, TimeoutError):
            return self._refuse(*self._why_silent(address, patience_s))
        finally:
            self._expected = None
        self.answers += 1
        if response.isError():
            code = response.exception_code
            why = f"meter {address} answers: {_ERRORS.get(code, 'error')} ({code})"
            reason = Refused.SILENT if code in _BY_GATEWAY else Refused.METER_ERROR
            return replace(self._refuse(reason, why), is_unknown=code == _NO_SUCH_REGISTER)
        registers = tuple(response.registers)
        if response.function_code != question.function or len(registers) != question.count:
            return self._refuse(Refused.FORM, f"meter {address} answers another question")
        return Answer(registers, None, Asked(self._began_ns, self._last_ns))

    def _refuse(self, reason: Refused, why: str) -> Answer:
        now_ns = time.monotonic_ns()
        return Answer((), Refusal(reason, why, now_ns), Asked(self._began_ns, now_ns))

    def _why_silent(self, address: int, patience_s: float) -> tuple[Refused, str]:
        if not self._heard:
            why = f"meter {address} did not answer within {patience_s * 1000:.0f} ms"
            return Refused.SILENT, why
        why = f"no whole answer of meter {address} in {len(self._heard)} bytes: {self._heard.hex()}"
        return Refused.CHECKSUM if self._line.is_rtu else Refused.INCOMPLETE, why

    async def _rest(self, patience_s: float) -> None:
        """Waits until the line has been silent between two frames, and empties it."""
        until_ns = time.monotonic_ns() + int(patience_s * NS_PER_S)
        while (now_ns := time.monotonic_ns()) < until_ns:
            left_ns = self._last_ns + self._line.gap_ns - now_ns
            if left_ns <= 0:
                break
            await asyncio.sleep(max(left_ns, NS_PER_MS) / NS_PER_S)
        serial = getattr(self._client.ctx.transport, "sync_serial", None)
        if serial is not None:
            with suppress(OSError, termios.error):  # that it is gone shows when it is asked
                termios.tcflush(serial.fileno(), termios.TCIFLUSH)

    # --- What pymodbus calls. --------------------------------------------------------------------

    def _trace_packet(self, is_sent: bool, data: bytes) -> bytes:
        """Sees each packet, and decides what of it is decoded."""
        self._last_ns = time.monotonic_ns()
        if is_sent:
            self._began_ns = self._last_ns
            return data
        self._heard = data[-_HEARD_MAX:]
        if not self._line.is_rtu or self._expected is None:
            return data
        return find_answer(data, *self._expected)

    def _trace_connect(self, is_connected: bool) -> None:
        if is_connected:
            return
        self.gone.set()
        future = self._client.ctx.response_future
        if self._expected is not None and not future.done():
            future.set_exception(ConnectionException("gone"))

    def _make_client(self) -> ModbusBaseClient:
        line = self._line
        # The library would reconnect, repeat and close on its own. When to do so is decided above:
        # here one question is sent once.
        if line.device:
            client: ModbusBaseClient = AsyncModbusSerialClient(
                line.device,
                baudrate=line.baud,
                parity=PARITIES[line.parity],
                stopbits=line.stop_bits,
                reconnect_delay=0,
                retries=0,
                trace_packet=self._trace_packet,
                trace_connect=self._trace_connect,
            )
        else:
            client = AsyncModbusTcpClient(
                line.host,
                port=line.port,
                framer=FramerType.RTU if line.is_rtu else FramerType.SOCKET,
                reconnect_delay=0,
                retries=0,
                trace_packet=self._trace_packet,
                trace_connect=self._trace_connect,
            )
        client.ctx.count_until_disconnect = client.ctx.max_until_disconnect = 2**62
        return client
