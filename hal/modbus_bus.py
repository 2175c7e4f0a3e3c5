"""Meters on a Modbus bus, RTU or TCP; driver name `modbus`.

Each bus has a thread, which asks its meters in turn: the one that has waited longest comes next,
and one that is silent is asked more and more rarely, so that it takes no time from the others.

A meter is only believed after it has said its number and its model. On RTU an answer may come after
its question was given up: then others are asked first (`MeterMap.probes`), until a meter that
answers in order has nothing else left to give late (`hal.index.modbus_owed`).
"""

import asyncio
import os
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction

from cryptometer.errors import ConfigurationError
from cryptometer.settings import setting
from cryptometer.steps import NS_PER_MS, NS_PER_S
from hal.index.modbus_map import (
    Asked,
    MeterMap,
    Name,
    Question,
    Status,
    Unit,
    decode_index,
    decode_name,
    is_expected,
    read_constant,
)
from hal.index.modbus_owed import Owed
from hal.index.reading import Parity, Reading, Refusal, Refused, Remembering
from hal.modbus_line import Answer, BusLine, Framing, ModbusLine
from hal.modbus_maps import load_map
from hal.ports import Heard, LineLost

BAUD_MIN, BAUD_MAX = 300, 115_200
ADDRESS_MIN, ADDRESS_MAX = 1, 247  # on a serial line; over TCP 0 and 255 are the device itself
NAMES_NS = 300 * NS_PER_S  # how often a meter is asked again for its number
BACK_OFF_MAX_NS = 60 * NS_PER_S  # a meter that comes back is found within a minute
QUEUE_MAX = 256  # what nobody takes; the oldest gives way: a newer index says more
UNANSWERED_MAX = 4  # questions in a row on a TCP connection, then a new one is made
_PERIOD_MAX_MS = 86_400_000
_ANSWER_MIN_MS, _ANSWER_MAX_MS = 5, 10_000
_RETRIES_MAX = 5


@dataclass(frozen=True, slots=True)
class ModbusSettings:
    """The table `[source]` with `driver = "modbus"`: one meter. Those of one `device`, or of one
    `host` and `port`, share the bus, and state it alike."""

    map: str = setting("the meter's map, as `cryptometer-firmware scan` names it, or a path")
    address: int = setting("the meter's address on the bus, 1 to 247")
    device: str = setting("RTU: the port, for example a link under /dev/serial/by-id", "")
    baud: int = setting("RTU: 300 to 115200", 9_600)
    parity: Parity = setting("RTU: none, even or odd", Parity.NONE)
    stop_bits: int = setting("RTU: 1 or 2", 1)
    host: str = setting("TCP: name or address of the meter or its gateway", "")
    port: int = setting("TCP: its port", 502)
    framing: Framing = setting("TCP: tcp, or rtu behind a transparent converter", Framing.TCP)
    period_machine_ms: int = setting("how often the index is read", 1_000)
    # Carlo Gavazzi names 500 ms as the longest; of slow devices 300 ms lose most answers, 600 none.
    answer_machine_ms: int = setting("how long an answer may take", 700)
    retries: int = setting("how often a question is repeated at once", 1)
    constant: str = setting("pulses per kWh, of a map that counts pulses", "")

    @property
    def line(self) -> BusLine:
        device = os.path.realpath(self.device) if self.device else ""
        return BusLine(
            device, self.baud, self.parity, self.stop_bits, self.host, self.port, self.framing
        )


class Buses:
    """The Modbus buses of one program: each is opened with its first meter, and closed with its
    last; from any thread."""

    def __init__(self) -> None:
        self._buses: dict[str, _Bus] = {}
        self._changing = threading.Lock()  # no meter joins a bus while its last one leaves it

    def open(self, settings: ModbusSettings) -> "ModbusMeter":
        """A meter on its bus. The line is opened in the background: that it cannot be is said by
        `take`.

        Raises:
            ConfigurationError: a setting or the map is wrong, or contradicts another meter's.
        """
        meter_map, constant = check_settings(settings)
        with self._changing:
            return self._join(settings, meter_map, constant)

    def _join(
        self, settings: ModbusSettings, meter_map: MeterMap, constant: Fraction | None
    ) -> "ModbusMeter":
        line = settings.line
        bus = self._buses.get(line.place)
        if bus is None or bus.is_over:
            bus = self._buses[line.place] = _Bus(line, self._changing)
        elif bus.line != line:
            raise ConfigurationError(
                f"the meters of {line.place} state its speed, parity or framing differently"
            )
        elif bus.has(settings.address):
            raise ConfigurationError(f"{line.place} has address {settings.address} twice")
        return bus.add(settings, meter_map, constant)


def check_settings(settings: ModbusSettings) -> tuple[MeterMap, Fraction | None]:
    """The map and the constant that settings name.

    Raises:
        ConfigurationError: what is wrong.
    """
    if bool(settings.device) == bool(settings.host):
        raise ConfigurationError("[source] needs device (RTU) or host (TCP), and not both")
    low, high = (ADDRESS_MIN, ADDRESS_MAX) if settings.device else (0, 255)
    for name, value, least, most in (
        ("address", settings.address, low, high),
        ("baud", settings.baud, BAUD_MIN, BAUD_MAX),
        ("stop_bits", settings.stop_bits, 1, 2),
        ("port", settings.port, 1, 65_535),
        ("period_machine_ms", settings.period_machine_ms, 0, _PERIOD_MAX_MS),
        ("answer_machine_ms", settings.answer_machine_ms, _ANSWER_MIN_MS, _ANSWER_MAX_MS),
        ("retries", settings.retries, 0, _RETRIES_MAX),
    ):
        if not least <= value <= most:
            raise ConfigurationError(f"[source] {name} is from {least} to {most}, not {value}")
    meter_map = load_map(settings.map)
    if (meter_map.unit is Unit.PULSES) != bool(settings.constant):
        raise ConfigurationError(
            f"[source] constant, the pulses per kWh, is for maps that count pulses, and needed"
            f" there; {meter_map.id} counts {meter_map.unit}"
        )
    if not settings.constant:
        return meter_map, None
    return meter_map, read_constant(settings.constant, "[source] constant")


class ModbusMeter:
    """A meter that is asked. What a question brought is here, in order, when it is taken."""

    due_ns: int | None = None
    memory: Remembering | None = None

    def __init__(
        self, bus: "_Bus", settings: ModbusSettings, meter_map: MeterMap, constant: Fraction | None
    ) -> None:
        self.settings, self.map, self.constant = settings, meter_map, constant
        self._bus = bus
        self._said: deque[Reading | Refusal] = deque(maxlen=QUEUE_MAX)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # Of the bus's thread alone:
        self.due_at_ns = 0
        self.fails = 0
        self.serial = ""  # empty: not asked yet
        self.model = ""
        self.names_due_ns = 0
        self.owed = Owed().with_asked(meter_map.index[0])  # by whoever asked before

    def fileno(self) -> int:
        return self._wake

    def take(self) -> Heard:
        # Before the queue is looked at: what comes behind it wakes again.
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        said = []
        while self._said:
            said.append(self._said.popleft())
        if self._bus.lost:
            if not said:
                raise LineLost(self._bus.lost)
            self.wake()  # for that, next time
        return Heard(tuple(said))

    def close(self) -> None:
        with self._bus.changing:
            self._bus.remove(self)
        os.close(self._wake)

    def forget(self) -> None:
        """On a new connection it may be another meter; and who asked before may have been given up
        with any question, the one for the index among them."""
        self.serial, self.model, self.names_due_ns = "", "", 0
        self.owed = self.owed.with_asked(self.map.index[0])

    def say(self, outcome: Reading | Refusal) -> None:
        """Hands over what a question brought. Called by the bus, in its thread."""
        self._said.append(outcome)
        self.wake()

    def wake(self) -> None:
        os.eventfd_write(self._wake, 1)


class _Bus:
    """One bus, and the thread that asks its meters."""

    def __init__(self, line: BusLine, changing: threading.Lock) -> None:
        self.line = line
        self.changing = changing
        self.lost = ""  # why; it is over then
        self._meters: list[ModbusMeter] = []
        self._is_closing = False
        # Guards the list of meters, and the descriptors of those that leave it.
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        # What a frame makes the library stumble over is a question without an answer.
        self._loop.set_exception_handler(lambda *_: None)
        self._changed = asyncio.Event()
        self._task = self._loop.create_task(self._serve())
        self._thread = threading.Thread(target=self._run, daemon=True, name=line.place)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        return bool(self.lost) or self._is_closing

    def has(self, address: int) -> bool:
        with self._lock:
            return any(one.settings.address == address for one in self._meters)

    def add(
        self, settings: ModbusSettings, meter_map: MeterMap, constant: Fraction | None
    ) -> ModbusMeter:
        meter = ModbusMeter(self, settings, meter_map, constant)
        with self._lock:
            self._meters.append(meter)
            if self.lost:  # just now
                meter.wake()
        self._nudge()
        return meter

    def remove(self, meter: ModbusMeter) -> None:
        """Lets go of a meter; the last one ends the thread, and what it waits for."""
        with self._lock:
            self._meters.remove(meter)
            self._is_closing = not self._meters
        if self._is_closing:
            with suppress(RuntimeError):
                # An answer that comes at that moment may swallow it (`asyncio.wait_for` before
                # Python 3.12): so the loops below look, too.
                self._loop.call_soon_threadsafe(self._task.cancel)
            self._nudge()
            self._thread.join()

    def _nudge(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: the bus was lost
            self._loop.call_soon_threadsafe(self._changed.set)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._task)
        except LineLost as lost:
            self._lose(str(lost))
        except asyncio.CancelledError:
            pass
        except Exception as error:
            # A fault of ours: nobody must wait for this thread, and it must be seen.
            self._lose(f"{self.line.place} is not asked any more: {error!r}")
            raise
        finally:
            self._loop.close()

    def _lose(self, why: str) -> None:
        with self._lock:
            self.lost = why
            for meter in self._meters:
                meter.wake()

    async def _serve(self) -> None:
        while not self._is_closing:
            line = ModbusLine(self.line)
            await line.open()
            try:
                await self._ask_all(line)
            finally:
                line.close()
            # A serial port that is gone must be plugged in again. A TCP peer may have closed an
            # idle connection; one that closes each before it has answered is not there.
            if not self._is_closing and (self.line.device or not line.answers):
                raise LineLost(f"{self.line.place} is gone, or answers nothing")

    async def _ask_all(self, line: ModbusLine) -> None:
        """Asks until the line is gone, or nobody answers on it."""
        for meter in self._present():
            meter.forget()
        unanswered = 0
        while not line.gone.is_set() and not self._is_closing:
            self._changed.clear()
            due = min(self._present(), key=lambda one: one.due_at_ns, default=None)
            now_ns = time.monotonic_ns()
            if due is None or due.due_at_ns > now_ns:
                await self._wait(line, None if due is None else due.due_at_ns - now_ns)
                continue
            before = line.answers
            try:
                outcome = await self._poll(line, due)
            except LineLost as lost:
                why = Refusal(Refused.INCOMPLETE, str(lost), time.monotonic_ns())
                self._hand_over(due, why)
                return
            self._hand_over(due, outcome)
            unanswered = 0 if line.answers > before else unanswered + 1
            if unanswered >= UNANSWERED_MAX and not self.line.device:
                return

    def _present(self) -> list[ModbusMeter]:
        with self._lock:
            return list(self._meters)

    def _hand_over(self, meter: ModbusMeter, outcome: Reading | Refusal) -> None:
        with self._lock:
            if meter in self._meters:  # else its descriptor is closed
                meter.say(outcome)

    async def _wait(self, line: ModbusLine, most_ns: int | None) -> None:
        waiting = [asyncio.ensure_future(one.wait()) for one in (self._changed, line.gone)]
        timeout_s = None if most_ns is None else max(most_ns, NS_PER_MS) / NS_PER_S
        await asyncio.wait(waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for one in waiting:
            one.cancel()

    async def _poll(self, line: ModbusLine, meter: ModbusMeter) -> Reading | Refusal:
        """Reads a meter once, and says when it is due again."""
        settings = meter.settings
        # One that was silent before is not asked twice: it would keep the others waiting.
        tries = 1 + (settings.retries if not meter.fails else 0)
        for _ in range(tries):
            outcome = await self._read(line, meter)
            if isinstance(outcome, Reading):
                break
            # Whatever was wrong, it may be another meter now.
            meter.names_due_ns = 0
        period_ns = settings.period_machine_ms * NS_PER_MS
        now_ns = time.monotonic_ns()
        if isinstance(outcome, Refusal) and outcome.reason is Refused.SILENT:
            meter.fails += 1
            delay_ns = max(period_ns, NS_PER_MS) << min(meter.fails - 1, 32)
            meter.due_at_ns = now_ns + min(delay_ns, max(period_ns, BACK_OFF_MAX_NS))
        else:
            meter.fails = 0
            meter.due_at_ns = max(meter.due_at_ns + period_ns, now_ns)
        return outcome

    async def _read(self, line: ModbusLine, meter: ModbusMeter) -> Reading | Refusal:
        refusal = await self._settle(line, meter)
        if refusal is not None:
            return refusal
        registers: list[int | None] = []
        asked: list[Asked] = []
        for question in meter.map.index:
            answer = await self._ask(line, meter, question)
            if answer.is_unknown and meter.map.can_lack(question):
                registers += [None] * question.count
            elif answer.refusal is not None:
                return answer.refusal
            registers += answer.registers
            asked.append(answer.asked)
        when = Asked(asked[0].began_ns, asked[-1].ended_ns)
        identity = meter.serial or f"{meter.map.id}@{meter.settings.address}"
        outcome = decode_index(meter.map, registers, identity, when, meter.constant)
        if isinstance(outcome, Refusal):
            return outcome
        fields = outcome.fields
        if meter.model:
            fields += (("model", meter.model),)
        if meter.map.status is not Status.VERIFIED:
            fields += (("status", meter.map.status),)
        if meter.map.resettable:
            fields += (("resettable", meter.map.resettable),)
        return replace(outcome, fields=fields)

    async def _settle(self, line: ModbusLine, meter: ModbusMeter) -> Refusal | None:
        """Makes sure that the next answer is that of the next question, and of whom; why not."""
        meter_map = meter.map
        probed: dict[Question, Answer] = {}
        # Each answer takes at least one question from what is owed, and adds none but probes.
        while self.line.is_rtu and not meter.owed.is_at_most(meter_map.probes):
            probe = meter.owed.next_of(meter_map.probes)
            answer = probed[probe] = await self._ask(line, meter, probe)
            if answer.refusal is not None and answer.refusal.reason is not Refused.METER_ERROR:
                return answer.refusal
        if time.monotonic_ns() < meter.names_due_ns:
            return None
        for name, is_model in ((meter_map.serial, False), (meter_map.model, True)):
            if name is None or (is_model and meter.model and meter.serial):
                continue
            if name.question in probed:
                answer = probed[name.question]
            else:
                answer = await self._ask(line, meter, name.question)
            text = _name_in(answer, meter, name)
            if isinstance(text, Refusal):
                return text
            if is_model:
                meter.model = text
            elif text != meter.serial:
                meter.serial, meter.model = text, ""
        meter.names_due_ns = time.monotonic_ns() + NAMES_NS
        return None

    async def _ask(self, line: ModbusLine, meter: ModbusMeter, question: Question) -> Answer:
        patience_s = meter.settings.answer_machine_ms / 1000
        # Before it is sent: what breaks this off leaves an answer to come.
        meter.owed = meter.owed.with_asked(question)
        answer = await line.ask(meter.settings.address, question, patience_s)
        is_error = answer.refusal is not None
        if answer.refusal is None or answer.refusal.reason is Refused.METER_ERROR:
            meter.owed = meter.owed.without_answered(is_error=is_error)
        if answer.is_unknown and self.line.is_rtu and meter.owed.questions:
            # It may be the probe that asked for what the meter does not have.
            return replace(answer, is_unknown=False)
        return answer


def _name_in(answer: Answer, meter: ModbusMeter, name: Name) -> str | Refusal:
    if answer.refusal is not None:
        return answer.refusal
    text = decode_name(name, answer.registers)
    at_ns, where = answer.asked.ended_ns, f"meter {meter.settings.address}"
    if text is None:
        return Refusal(Refused.NO_IDENTITY, f"{where} tells no number or model", at_ns)
    if not is_expected(name, text):
        why = f"{where} is a {text!r}; the map {meter.map.id} is for {', '.join(name.expected)}"
        return Refusal(Refused.OTHER_METER, why, at_ns)
    return text
