"""`cryptometer-firmware simulate --meter`: a meter that speaks, on a pseudo-terminal.

The log says what the meter's index was in each message, and when that was begun: what a proof
compares the ledger with. A message is in the log before its first byte is on the line.
"""

import argparse
import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol, TextIO

from cryptometer.errors import ConfigurationError
from cryptometer.metrology import SECONDS_PER_HOUR
from cryptometer.steps import NS_PER_MS, NS_PER_S
from firmware.series import Level, duration_ns
from firmware.simulate import Terminal, is_told_to_stop
from firmware.simulating import Kind
from hal.index import d0_meter, dlms_meter, linky_meter, p1_meter
from hal.index.dlms_answering import AnsweringMeter, MeterSettings
from hal.index.dlms_meter import Told
from hal.index.linky import Mode
from hal.index.reading import Register
from hal.index.sml_meter import SmlMeter, TimeForm, Value

_CHARACTER_BITS = 10
_PART_NS = 20 * NS_PER_MS  # bytes leave in portions of so long
_LOOK_NS = 200 * NS_PER_MS  # a stop is noticed within
_RUN_MAX = 12  # bytes lost or doubled at once
_SEVEN = bytes(value & 0x7F for value in range(256))
_WATT_NS_PER_WH = SECONDS_PER_HOUR * NS_PER_S
_ADDRESS, _BAUD = 1, 9_600  # of a Modbus meter


@dataclass(frozen=True, slots=True)
class _Habit:
    """How a kind of meter speaks.

    Attributes:
        baud: of its line.
        period_ns: from one message to the next; a message that lasts longer has the next behind it.
        identity: its number, unless another is given.
    """

    baud: int
    period_ns: int
    identity: str


_SML_SERVER = "0A0153494D0000000007"
HABITS = {
    Kind.LINKY: _Habit(9_600, NS_PER_S, "031976123456"),
    Kind.LINKY_HISTORIC: _Habit(1_200, NS_PER_S, "031976123456"),
    Kind.P1: _Habit(115_200, NS_PER_S, "E0099000000000123"),
    Kind.D0: _Habit(9_600, 2 * NS_PER_S, "1SIM0012345678"),
    Kind.D0_ASKED: _Habit(9_600, 0, "1SIM0012345678"),
    Kind.SML: _Habit(9_600, NS_PER_S, _SML_SERVER),
    Kind.DLMS_PUSH: _Habit(2_400, 5 * NS_PER_S, "7359992890941742"),
    Kind.DLMS: _Habit(9_600, 0, "1KFM0200"),
    Kind.MODBUS: _Habit(_BAUD, 0, "19210043"),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is simulated.

    Attributes:
        kind: what the meter speaks.
        levels: of power, in community time.
        speed: how much faster community time runs than the machine's.
        register: which one grows.
        start_wh: both registers at the beginning.
        identity: the meter's number; empty: one of its kind.
        period_ns: machine time between messages; 0: as its kind has it.
        damage: share of messages that are damaged, 0 to 1.
        seed: chooses them.
        seconds: machine time until the end; None: with the series, or never.
        map: of a Modbus meter.
    """

    kind: Kind
    levels: Sequence[Level]
    speed: Fraction = Fraction(1)
    register: Register = Register.IMPORT
    start_wh: int = 1_000_000
    identity: str = ""
    period_ns: int = 0
    damage: Fraction = Fraction(0)
    seed: int = 0
    seconds: Fraction | None = None
    map: str = "eastron-sdm"

    @property
    def habit(self) -> _Habit:
        habit = HABITS[self.kind]
        period_ns, identity = self.period_ns or habit.period_ns, self.identity or habit.identity
        return _Habit(habit.baud, period_ns, identity)

    @property
    def end_ns(self) -> int | None:
        """Machine time since the beginning at which it ends; None: never."""
        if self.seconds is not None:
            return int(self.seconds * NS_PER_S)
        last_ns = duration_ns(self.levels)
        return None if last_ns is None else int(last_ns / self.speed)


def plan_of(arguments: argparse.Namespace, levels: Sequence[Level]) -> Plan:
    """
    Raises:
        ConfigurationError: no meter is like that.
    """
    if not 0 <= arguments.damage <= 1:
        raise ConfigurationError("--damage is from 0 to 1")
    if not 0 <= arguments.start_wh < 10**9:
        raise ConfigurationError("--start-wh is from 0 to 999999999")
    if arguments.period_ms < 0:
        raise ConfigurationError("--period-ms is not negative")
    plan = Plan(
        Kind(arguments.meter),
        levels,
        arguments.speed,
        Register(arguments.register),
        arguments.start_wh,
        arguments.identity,
        arguments.period_ms * NS_PER_MS,
        arguments.damage,
        arguments.seed,
        arguments.seconds,
        arguments.map,
    )
    try:
        message_of(plan, Told(0, 0, 0, 0), 0)
    except (ValueError, AttributeError):
        raise ConfigurationError(f"no {plan.kind} meter has the number {plan.identity!r}") from None
    return plan


# --- What it says. -------------------------------------------------------------------------------

_SML_REGISTERS = (bytes.fromhex("0100010800ff"), bytes.fromhex("0100020800ff"))
_SML_POWER = bytes.fromhex("0100100700ff")
_WH_UNIT, _W_UNIT = 30, 27


def message_of(plan: Plan, told: Told, number: int) -> bytes:
    """A message that the meter sends by itself, or the data that an asked D0 meter has; nothing for
    other meters that are asked.

    Raises:
        ValueError: it cannot have such a number.
    """
    identity = plan.habit.identity
    match plan.kind:
        case Kind.LINKY | Kind.LINKY_HISTORIC:
            is_standard = plan.kind is Kind.LINKY
            return linky_meter.frame(
                linky_meter.LinkyMeter(
                    Mode.STANDARD if is_standard else Mode.HISTORIC,
                    _checked(identity, len(identity) == 12 and identity.isalnum()),
                    (told.imported_wh,),
                    told.exported_wh if is_standard else None,
                    told.unix_s,
                    told.power_w,
                )
            )
        case Kind.P1:
            registers = (told.imported_wh, 0), (told.exported_wh, 0)
            country = p1_meter.Country.NETHERLANDS
            return p1_meter.telegram(
                p1_meter.P1Meter(country, identity, *registers, told.unix_s, told.power_w)
            )
        case Kind.D0:
            return d0_meter.with_parity(d0_meter.pushed_message("SIM5sim", _d0_lines(plan, told)))
        case Kind.SML:
            values = [
                *(
                    Value(code, 10 * wh, _WH_UNIT, -1)
                    for code, wh in zip(
                        _SML_REGISTERS, (told.imported_wh, told.exported_wh), strict=True
                    )
                ),
                Value(_SML_POWER, told.power_w, _W_UNIT, 0, signed=True),
            ]
            meter = SmlMeter(bytes.fromhex(identity), time_form=TimeForm.UNIX)
            return meter.file(number, values, told.unix_s)
        case Kind.DLMS_PUSH:
            return dlms_meter.telegram(told, dlms_meter.Style(identity), number)
        case _:
            return b""


def _checked(identity: str, is_good: bool) -> str:
    if not is_good:
        raise ValueError(identity)
    return identity


def _d0_lines(plan: Plan, told: Told) -> list[str]:
    registers = zip("12", (told.imported_wh, told.exported_wh), strict=True)
    return [
        f"C.1.0({plan.habit.identity})",
        *(f"{code}.8.0({wh // 1000:06}.{wh % 1000:03}*kWh)" for code, wh in registers),
        f"16.7.0({told.power_w / 1000:.3f}*kW)",
    ]


class _World:
    """What the meter has counted; times are the machine's, since the beginning."""

    def __init__(self, plan: Plan, log: TextIO) -> None:
        self._plan, self._log = plan, log
        self._began_s = time.time()
        self.began_ns = time.monotonic_ns()
        self.messages = self.damaged = 0

    def now_ns(self) -> int:
        return time.monotonic_ns() - self.began_ns

    def told(self, at_ns: int) -> Told:
        """What the meter knows."""
        plan = self._plan
        community_ns = int(at_ns * plan.speed)
        wh, watts = 0, Fraction(0)
        used = Fraction(0)  # in W · ns
        for level in plan.levels:
            passed_ns = community_ns - level.start_ns
            if passed_ns < 0:
                break
            lasts_ns = level.duration_ns
            used += level.watts * (passed_ns if lasts_ns is None else min(passed_ns, lasts_ns))
            watts = level.watts if lasts_ns is None or passed_ns < lasts_ns else Fraction(0)
        wh = plan.start_wh + int(used / _WATT_NS_PER_WH)
        at_s = int(self._began_s + community_ns / NS_PER_S)
        if plan.register is Register.IMPORT:
            return Told(wh, plan.start_wh, int(watts), at_s)
        return Told(plan.start_wh, wh, -int(watts), at_s)

    def note(self, told: Told, mark: str = "") -> None:
        """Logs what is about to be said."""
        self.messages += 1
        words = f"{time.time_ns()} {told.imported_wh} {told.exported_wh}{mark}"
        self._log.write(f"{words}\n")
        self._log.flush()


# --- On the line. --------------------------------------------------------------------------------


class _Voice(Protocol):
    """A simulated meter: the line hands over what came, and sends what it says."""

    @property
    def baud(self) -> int: ...

    @property
    def due_ns(self) -> int | None:
        """When it wants to speak; None: when something comes."""
        ...

    def receive(self, data: bytes, at_ns: int) -> None: ...

    def speak(self, at_ns: int) -> bytes: ...


class _Pushing:
    """Sends by itself."""

    def __init__(self, plan: Plan, world: _World) -> None:
        self._plan, self._world = plan, world
        self._draw = random.Random(plan.seed)  # noqa: S311 - damage, no secrets
        self.baud = plan.habit.baud
        self.due_ns: int | None = 0

    def receive(self, data: bytes, at_ns: int) -> None:
        pass

    def speak(self, at_ns: int) -> bytes:
        assert self.due_ns is not None  # noqa: S101 - it never is
        if at_ns < self.due_ns:
            return b""
        self.due_ns = max(self.due_ns + self._plan.habit.period_ns, at_ns)
        world = self._world
        told = world.told(at_ns)
        message = message_of(self._plan, told, world.messages)
        is_damaged = self._draw.random() < self._plan.damage
        world.damaged += is_damaged
        world.note(told, " damaged" if is_damaged else "")
        return _damage(message, self._draw) if is_damaged else message


def _damage(message: bytes, draw: random.Random) -> bytes:
    """What a bad line makes of a message."""
    at, many = draw.randrange(len(message)), draw.randint(1, _RUN_MAX)
    match draw.randrange(4):
        case 0:
            return message[:at] + message[at + many :]
        case 1:
            return message[: at + many] + message[at:]
        case 2:
            return message[:at]
        case _:
            return message[:at] + bytes([message[at] ^ 1 << draw.randrange(8)]) + message[at + 1 :]


class _AskedD0:
    """A D0 meter of mode C. What comes takes as long as on a line of its speed."""

    def __init__(self, plan: Plan, world: _World) -> None:
        def lines(at_ns: int) -> Sequence[str]:
            told = world.told(at_ns)
            world.note(told)
            return _d0_lines(plan, told)

        plate = d0_meter.Plate("SIM", "sim", d0_meter.Mode.C, plan.habit.baud)
        self._meter = d0_meter.D0Meter(plate, lines)
        self._coming: list[tuple[int, bytes]] = []  # when it is there, and what

    @property
    def baud(self) -> int:
        return self._meter.form.baud

    @property
    def due_ns(self) -> int | None:
        dues = [at_ns for at_ns, _ in self._coming[:1]]
        if self._meter.due_ns is not None:
            dues.append(self._meter.due_ns)
        return min(dues, default=None)

    def receive(self, data: bytes, at_ns: int) -> None:
        begun_ns = max([at_ns, *(there_ns for there_ns, _ in self._coming[-1:])])
        lasts_ns = len(data) * _CHARACTER_BITS * NS_PER_S // self.baud
        self._coming.append((begun_ns + lasts_ns, data.translate(_SEVEN)))

    def speak(self, at_ns: int) -> bytes:
        while self._coming and self._coming[0][0] <= at_ns:
            there_ns, data = self._coming.pop(0)
            self._meter.receive(data, there_ns)
        return d0_meter.with_parity(self._meter.speak(at_ns))


class _AskedDlms:
    """A DLMS meter in HDLC frames, in clear; logical device 1, the public client."""

    def __init__(self, plan: Plan, world: _World) -> None:
        def tell(at_s: int | None) -> Told:
            told = world.told(world.now_ns())
            if at_s is None:
                world.note(told)
                return told
            return told  # of a past that it does not keep

        settings = MeterSettings(plan.habit.identity)
        self._meter = AnsweringMeter(settings, tell, os.urandom)
        self._answer = b""
        self.baud = plan.habit.baud
        self.due_ns: int | None = None

    def receive(self, data: bytes, at_ns: int) -> None:
        self._answer += self._meter.receive(data, at_ns)

    def speak(self, at_ns: int) -> bytes:  # noqa: ARG002 - it answers at once
        answer, self._answer = self._answer, b""
        return answer


_VOICES: dict[Kind, Callable[[Plan, _World], _Voice]] = {
    Kind.D0_ASKED: _AskedD0,
    Kind.DLMS: _AskedDlms,
}


def speak(plan: Plan, link: Path, log: TextIO) -> str:
    """Has the meter speak until its time is over, or a signal comes. Signals are blocked.

    Args:
        link: to make, to the pseudo-terminal.
        log: takes a line for each message: unix ns, import and export in Wh, `damaged` if it was.

    Returns:
        what was said, for people.

    Raises:
        ConfigurationError: the link cannot be made, a package or a map is missing.
    """
    world = _World(plan, log)
    if plan.kind is Kind.MODBUS:
        _answer_modbus(plan, world, link)
    else:
        voice = _VOICES.get(plan.kind, _Pushing)(plan, world)
        with Terminal(link, None) as terminal:
            _hold(voice, world, terminal, plan.end_ns)
    return f"said {world.messages} messages" + (
        f", {world.damaged} of them damaged" if world.damaged else ""
    )


def _hold(voice: _Voice, world: _World, terminal: Terminal, end_ns: int | None) -> None:
    sending, sent, began_ns = b"", 0, 0
    while True:
        now_ns = world.now_ns()
        if end_ns is not None and now_ns >= end_ns:
            return
        came = terminal.read()
        if came:
            voice.receive(came, now_ns)
        if sent == len(sending):
            sending, sent, began_ns = voice.speak(now_ns), 0, now_ns
        left = min(len(sending), (now_ns - began_ns) * voice.baud // (_CHARACTER_BITS * NS_PER_S))
        # What nobody reads is lost once the kernel's buffer is full, as on a line.
        terminal.write(sending[sent:left])
        sent = max(sent, left)
        due_ns = now_ns + _PART_NS if sent < len(sending) else voice.due_ns
        if due_ns is None:
            due_ns = now_ns + _LOOK_NS
        patience_ns = min(_LOOK_NS, max(NS_PER_MS, due_ns - now_ns))
        terminal.wait(patience_ns)
        if is_told_to_stop(0):
            return


def _answer_modbus(plan: Plan, world: _World, link: Path) -> None:
    try:
        from hal.modbus_line import BusLine  # noqa: PLC0415
        from hal.modbus_maps import load_map  # noqa: PLC0415
        from hal.modbus_meter import SimulatedBus, SimulatedMeter, WiredEnds  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            f"a Modbus meter needs a package that is missing ({error.name}):"
            " pip install 'cryptometer[modbus]'"
        ) from None

    def index_wh(at_ns: int) -> tuple[Fraction, Fraction]:
        told = world.told(at_ns - world.began_ns)
        world.note(told)
        return Fraction(told.imported_wh), Fraction(told.exported_wh)

    meter_map = load_map(plan.map)
    expected = meter_map.model.expected if meter_map.model is not None else ()
    meter = SimulatedMeter(
        _ADDRESS,
        meter_map,
        plan.habit.identity,
        expected[0] if expected else "SIM",
        index_wh,
        Fraction(1000),
    )
    if link.exists() and not link.is_symlink():
        raise ConfigurationError(f"{link} exists and is no link: choose another --tty")
    try:
        ends = WiredEnds(link)
    except OSError as error:
        raise ConfigurationError(f"cannot make {link}: {error.strerror}") from None
    with closing(ends), closing(SimulatedBus(BusLine(ends.far, baud=_BAUD), [meter])):
        end_ns = plan.end_ns
        while end_ns is None or world.now_ns() < end_ns:
            left_ns = _LOOK_NS if end_ns is None else min(_LOOK_NS, end_ns - world.now_ns())
            if is_told_to_stop(left_ns):
                return
