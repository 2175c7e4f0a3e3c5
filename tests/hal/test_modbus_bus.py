"""Meters on a Modbus bus: real pseudo-terminals and connections, and lines that do wrong."""

import asyncio
import math
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.server.base import ModbusBaseServer
from pymodbus.simulator import DataType, SimData, SimDevice

from cryptometer.errors import ConfigurationError
from cryptometer.steps import NS_PER_MS, NS_PER_S
from hal import modbus_bus
from hal.index.modbus_frame import find_answer
from hal.index.modbus_map import Question
from hal.index.plausible import Limits, Plausible
from hal.index.reading import Parity, Reading, Refusal, Refused, Register
from hal.modbus_bus import QUEUE_MAX, Buses, ModbusMeter, ModbusSettings
from hal.modbus_line import BusLine, Framing
from hal.modbus_maps import load_map
from hal.modbus_meter import SimulatedBus, SimulatedMeter, WiredEnds
from hal.ports import IndexSource, LineLost
from tests.hal.index.damage import damaged
from tests.hal.modbus_end import (
    Behaviour,
    Request,
    answer,
    crc,
    error,
    far_end,
    framed,
    line_of_two_ends,
)

PATIENCE_S = 20.0
SERIAL, MODEL, INDEX = (3, 0xFC00), (3, 0xFC02), (4, 0x48)
KWH_100, KWH_230 = [0x42C8, 0x0000], [0x4366, 0x3333]
SDM = {SERIAL: [0x0125, 0x1F3B], MODEL: [112], INDEX: [*KWH_230, *KWH_100]}
FAST = ModbusSettings(
    map="eastron-sdm", address=7, period_machine_ms=0, answer_machine_ms=150, retries=0
)


def meters(*addresses: int, registers: dict[tuple[int, int], list[int]] | None = None) -> Behaviour:
    """Meters of these addresses that answer rightly."""

    def behave(request: Request) -> bytes | None:
        if request.address not in addresses:
            return None
        return answer(request, (registers or SDM)[request.shape])

    return behave


def opened(settings: ModbusSettings) -> closing[ModbusMeter]:
    return closing(Buses().open(settings))


def hear(
    meter: IndexSource, until: Callable[[list[Reading | Refusal]], bool]
) -> list[Reading | Refusal]:
    """All that a meter says until it has said enough."""
    said: list[Reading | Refusal] = []
    end_s = time.monotonic() + PATIENCE_S
    while not until(said):
        assert time.monotonic() < end_s, said[-5:]
        select.select([meter], [], [], 0.5)
        said += meter.take().said
    return said


def readings(said: list[Reading | Refusal]) -> list[Reading]:
    return [one for one in said if isinstance(one, Reading)]


def reasons(said: list[Reading | Refusal]) -> set[Refused]:
    return {one.reason for one in said if isinstance(one, Refusal)}


def first_reading(meter: IndexSource) -> Reading:
    return readings(hear(meter, lambda said: bool(readings(said))))[0]


def first_refusal(meter: ModbusMeter) -> Refusal:
    said = hear(meter, lambda said: bool(reasons(said)))
    return next(one for one in said if isinstance(one, Refusal))


# --- What a meter says. --------------------------------------------------------------------------


def test_an_rtu_meter_says_its_number_and_both_its_indexes() -> None:
    with far_end(meters(7)) as end:
        before_ns = time.monotonic_ns()
        with opened(replace(FAST, device=end.device)) as meter:
            source: IndexSource = meter
            reading = first_reading(meter)
        assert source.due_ns is None
        assert reading.identity == "19210043"
        assert reading.imported is not None
        assert reading.exported is not None
        assert (reading.imported.uwh, reading.exported.uwh) == (230_200 * 10**6, 10**11)
        [asked] = [one for one in end.asked if one.shape == INDEX][:1]
        assert before_ns < reading.began_ns <= asked.at_ns <= reading.ended_ns
        assert ("model", "112") in reading.fields


def test_import_and_export_are_one_question_where_the_meter_allows_it() -> None:
    with far_end(meters(7)) as end:
        with opened(replace(FAST, device=end.device)) as meter:
            hear(meter, lambda said: len(readings(said)) >= 3)
        assert [one.shape for one in end.asked[:4]] == [SERIAL, MODEL, INDEX, INDEX]


def test_a_meter_that_gives_few_registers_is_asked_twice() -> None:
    registers = {
        (4, 0x1300): [0x4B52, 0x3130, 0x3332, 0x3230, 0x3031, 0x3241, 0],
        (4, 0x0B): [71],
        (4, 0x3E): [0xD687, 0x0012],
        (4, 0x5C): [3, 0, 0],
    }
    with far_end(meters(7, registers=registers)) as end:
        settings = replace(FAST, device=end.device, map="gavazzi-em24")
        with opened(settings) as meter:
            reading = first_reading(meter)
    assert reading.identity == "KR103220012A"
    assert [one and one.uwh for one in (reading.imported, reading.exported)] == [
        123_456_700 * 10**6, 300 * 10**6,
    ]  # fmt: skip
    assert ("status", "unverified") in reading.fields


def test_pulses_are_energy_by_their_constant_and_the_address_stands_for_a_number() -> None:
    with far_end(meters(9, registers={(4, 0): [0, 1001]})) as end:
        settings = replace(FAST, device=end.device, map="s0-counter", address=9, constant="800/3")
        with opened(settings) as meter:
            reading = first_reading(meter)
    assert reading.imported is not None
    assert reading.imported.uwh == math.floor(1001 * Fraction(10**9 * 3, 800))
    assert reading.identity == "s0-counter@9"


def test_a_map_of_the_users_own_is_a_file(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        'name = "own"\nstatus = "unverified"\nvectors = []\n'
        '[source]\ndocument = "d"\nrevision = "r"\npage = "p"\n'
        "[index]\nfunction = 3\n"
        '[index.imported]\naddresses = [1]\ntype = "u16"\nexponent = 3\nresettable = true\n'
    )
    with (
        far_end(meters(7, registers={(3, 1): [44, 0]})) as end,
        opened(replace(FAST, device=end.device, map=str(own))) as meter,
    ):
        reading = first_reading(meter)
    assert reading.imported is not None
    assert reading.imported.uwh == 44 * 10**9
    assert reading.identity == "own@7"


def test_a_meter_that_lacks_a_register_it_may_lack_is_read_without_it() -> None:
    def behave(request: Request) -> bytes | None:
        if request.shape == (4, 0x5C):
            return error(request, code[0])
        return answer(
            request,
            {(4, 0x1300): [0x4B52, *[0] * 6], (4, 0x0B): [73], (4, 0x3E): [9, 0]}[request.shape],
        )

    code = [2]
    with far_end(behave) as end:
        settings = replace(FAST, device=end.device, map="gavazzi-em24")
        with opened(settings) as meter:
            reading = first_reading(meter)
            code[0] = 4  # that it cannot now is another matter
            said = hear(meter, lambda said: bool(reasons(said)))
    assert reading.exported is None
    assert reading.imported is not None
    assert reading.imported.uwh == 900 * 10**6
    assert reasons(said) == {Refused.METER_ERROR}


# --- Who speaks. ---------------------------------------------------------------------------------


def test_a_meter_of_another_model_is_never_read() -> None:
    with far_end(meters(7, registers={**SDM, MODEL: [137]})) as end:
        with opened(replace(FAST, device=end.device)) as meter:
            said = hear(meter, lambda said: len(said) >= 5)
        assert reasons(said) == {Refused.OTHER_METER}
        assert not readings(said)
        assert all(one.shape != INDEX for one in end.asked)


def test_a_meter_that_was_exchanged_says_its_own_number() -> None:
    serial = [0, 1]
    silent = threading.Event()

    def behave(request: Request) -> bytes | None:
        if silent.is_set():
            return None
        return answer(request, {**SDM, SERIAL: serial}[request.shape])

    with far_end(behave) as end, opened(replace(FAST, device=end.device)) as meter:
        assert first_reading(meter).identity == "1"
        silent.set()
        hear(meter, lambda said: Refused.SILENT in reasons(said))
        serial[1] = 2
        silent.clear()
        assert first_reading(meter).identity == "2"


def test_a_meter_that_is_exchanged_while_it_answers_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(modbus_bus, "NAMES_NS", 0)
    registers = dict(SDM)
    behave = meters(7, registers=registers)
    with far_end(behave) as end, opened(replace(FAST, device=end.device)) as meter:
        first_reading(meter)
        registers[SERIAL] = [0, 5]
        said = hear(meter, lambda said: any(one.identity == "5" for one in readings(said)))
        registers.update({SERIAL: [0, 6], MODEL: [137]})
        assert first_refusal(meter).reason is Refused.OTHER_METER
    assert not reasons(said)


def test_a_meter_without_a_readable_number_is_refused() -> None:
    with (
        far_end(meters(7, registers={**SDM, SERIAL: [0xFFFF, 0xFFFF]})) as end,
        opened(replace(FAST, device=end.device)) as meter,
    ):
        assert first_refusal(meter).reason is Refused.NO_IDENTITY


def test_an_error_of_the_meter_is_told_in_words() -> None:
    def behave(request: Request) -> bytes | None:
        if request.shape == INDEX:
            return error(request, 2)
        return answer(request, SDM[request.shape])

    with far_end(behave) as end, opened(replace(FAST, device=end.device)) as meter:
        refusal = first_refusal(meter)
    assert refusal.reason is Refused.METER_ERROR
    assert "illegal data address (2)" in refusal.detail


# --- Lines that do wrong. ------------------------------------------------------------------------


def spoilt(change: Callable[[Request, bytes], bytes | None]) -> Behaviour:
    """A meter whose answers to the question for the index are changed."""

    def behave(request: Request) -> bytes | None:
        whole = answer(request, SDM[request.shape])
        return change(request, whole) if request.shape == INDEX else whole

    return behave


@pytest.mark.parametrize(
    "change",
    [
        lambda request, whole: b"\x00" + whole,
        lambda request, whole: b"\xff\x07\x04" + whole + b"\x00",
        lambda request, whole: framed(bytes([7, 3, 2, 0, 1])) + whole,
        lambda request, whole: framed(bytes([8, *whole[1:-2]])) + whole,
        lambda request, whole: (
            framed(bytes([request.address, request.function, 0, 72, 0, 4])) + whole
        ),
    ],
    ids=["a spike", "noise around", "a late answer", "another meter's answer", "an echo"],
)
def test_an_answer_is_found_behind_what_is_none(change: Callable[[Request, bytes], bytes]) -> None:
    with far_end(spoilt(change)) as end, opened(replace(FAST, device=end.device)) as meter:
        said = hear(meter, lambda said: len(readings(said)) >= 3)
    assert not reasons(said)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda request, whole: whole[:-1] + bytes([whole[-1] ^ 1]), Refused.CHECKSUM),
        (lambda request, whole: whole[:-3], Refused.CHECKSUM),
        (lambda request, whole: framed(bytes([8, *whole[1:-2]])), Refused.CHECKSUM),
        (lambda request, whole: framed(bytes([7, 3, 2, 0, 1])), Refused.CHECKSUM),
        (lambda request, whole: None, Refused.SILENT),
    ],
    ids=["one bit", "cut", "another meter's", "another question's", "nothing"],
)
def test_what_is_no_answer_is_refused(
    change: Callable[[Request, bytes], bytes | None], reason: Refused
) -> None:
    with far_end(spoilt(change)) as end, opened(replace(FAST, device=end.device)) as meter:
        said = hear(meter, lambda said: len(said) >= 2)
    assert reasons(said) == {reason}
    assert not readings(said)


def test_what_waited_before_a_question_is_thrown_away() -> None:
    """A whole answer of the right form, that nobody asked for."""
    false = framed(bytes([7, 4, 8]) + bytes(8))
    with far_end(meters(7)) as end:
        end.send(false * 3)
        settings = replace(FAST, device=end.device, period_machine_ms=20)
        with opened(settings) as meter:
            said: list[Reading | Refusal] = []
            end_s = time.monotonic() + PATIENCE_S
            while len(readings(said)) < 10:
                assert time.monotonic() < end_s, said[-5:]
                end.send(false)  # while the line is idle
                said += hear(meter, bool)
    assert {one.imported.value for one in readings(said) if one.imported} == {230_200}


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next_one() -> None:
    """The index tells the time: an old one would be seen. The meter is slow, and answers all."""
    begun_ns = time.monotonic_ns()
    turn = Random(3)
    late: list[int] = []

    def now_ms(at_ns: int) -> int:
        return (at_ns - begun_ns) // NS_PER_MS

    def behave(request: Request) -> bytes | None:
        value = now_ms(time.monotonic_ns())
        if turn.random() < 0.4:
            late.append(value)
            time.sleep(turn.uniform(0.02, 0.09))
        if request.shape != ABB_INDEX:
            return answer(request, ABB[request.shape])
        return answer(request, [0, 0, value >> 16, value & 0xFFFF] * 2)

    with far_end(behave) as end:
        settings = replace(FAST, device=end.device, map="abb-b2x", answer_machine_ms=30, retries=2)
        with opened(settings) as meter:
            said = hear(meter, lambda said: len(readings(said)) >= 40)
    assert len(late) > 15
    for reading in readings(said):
        assert reading.imported is not None
        assert now_ms(reading.began_ns) <= reading.imported.value <= now_ms(reading.ended_ns)


class Lagging:
    """A meter that answers every question, in order, and some only as the next ones come."""

    def __init__(self, owes: Callable[[int], int]) -> None:
        self._owes = owes
        self._held: list[bytes] = []
        self._asked = 0
        self.read_ns: list[int] = []

    def behave(self, request: Request) -> bytes:
        """The index is which of the questions for it this one was."""
        registers = [0, 0, 0, len(self.read_ns)] * 2
        if request.shape == ABB_INDEX:
            self.read_ns.append(request.at_ns)
        self._held.append(answer(request, {**ABB, ABB_INDEX: registers}[request.shape]))
        due = max(len(self._held) - self._owes(self._asked), 0)
        self._asked += 1
        said, self._held = b"".join(self._held[:due]), self._held[due:]
        return said


def said_by(meter: Lagging, until: Callable[[list[Reading | Refusal]], bool]) -> list[Reading]:
    """Its readings, each of which must have the index of its own question."""
    with far_end(meter.behave) as end:
        settings = replace(FAST, device=end.device, map="abb-b2x", answer_machine_ms=30, retries=2)
        with opened(settings) as source:
            found = readings(hear(source, until))
    for reading in found:
        assert reading.imported is not None
        assert reading.identity == "77"
        assert reading.began_ns <= meter.read_ns[reading.imported.value] <= reading.ended_ns
    return found


def test_a_probe_that_is_answered_late_does_not_hide_that_the_index_is() -> None:
    """The answer to the first probe comes for the second, and that one's after the index."""
    owes = [1, 1, 2, 2, 2, 3, 3, 2]
    meter = Lagging(lambda turn: owes[turn] if turn < len(owes) else 0)
    assert said_by(meter, lambda said: len(readings(said)) >= 2)


@pytest.mark.parametrize("owed", range(1, 7))
def test_a_meter_that_stays_behind_is_never_read(owed: int) -> None:
    meter = Lagging(lambda _: owed)
    assert not said_by(meter, lambda said: len(said) >= 12)


@pytest.mark.parametrize("seed", range(8))
def test_a_meter_that_falls_behind_and_catches_up_is_read_rightly(seed: int) -> None:
    random = Random(seed)
    meter = Lagging(lambda _: random.choice([0, 0, 0, 0, 0, 0, 1, 2, 3]))
    assert said_by(meter, lambda said: len(readings(said)) >= 5)


ABB_INDEX = (3, 0x5000)
ABB = {(3, 0x8900): [0, 77], (3, 0x8960): [0x4232, 0x3320, 0x3131, 0x322D, 0x3130, 0x3000]}


def test_a_dead_meter_does_not_keep_the_others_waiting() -> None:
    period_ms, patience_ms = 20, 200
    settings = replace(FAST, period_machine_ms=period_ms, answer_machine_ms=patience_ms)
    with far_end(meters(1, 2)) as end:
        buses = Buses()
        on_bus = [
            buses.open(replace(settings, device=end.device, address=one)) for one in (1, 2, 3)
        ]
        begun_s = time.monotonic()
        said = [hear(one, lambda said: len(readings(said)) >= 30) for one in on_bus[:2]]
        spent_s = time.monotonic() - begun_s
        dead = [one for one in end.asked if one.address == 3]
        for one in on_bus:
            one.close()
    assert not any(reasons(one) for one in said)
    # Asked every time it would take ten of eleven parts of the bus. So it is asked ever more
    # rarely: each pause is twice the one before.
    assert 2 <= len(dead) <= 3 + math.log2(spent_s * 1000 / period_ms)


def test_a_lost_answer_is_asked_for_again_at_once() -> None:
    turn = iter(range(10**6))

    def behave(request: Request) -> bytes | None:
        if request.shape == INDEX and next(turn) % 2:
            return None
        return answer(request, SDM[request.shape])

    with far_end(behave) as end:
        settings = replace(FAST, device=end.device, answer_machine_ms=30, retries=3)
        with opened(settings) as meter:
            said = hear(meter, lambda said: len(readings(said)) >= 6)
    assert not reasons(said)


def test_what_nobody_takes_is_bounded_and_the_newest_is_kept() -> None:
    with far_end(meters(7)) as end, opened(replace(FAST, device=end.device)) as meter:
        end_s = time.monotonic() + PATIENCE_S
        while len(end.asked) < QUEUE_MAX + 60:
            assert time.monotonic() < end_s
            time.sleep(0.02)
        said = list(meter.take().said)
        newest_ns = end.asked[-1].at_ns
    # On a busy machine some answers come too late to be believed, and that is said in their place.
    assert len(said) == QUEUE_MAX
    assert newest_ns - readings(said)[-1].ended_ns < NS_PER_S


def test_a_meter_that_comes_back_is_found() -> None:
    present = threading.Event()

    def behave(request: Request) -> bytes | None:
        return answer(request, SDM[request.shape]) if present.is_set() else None

    with far_end(behave) as end:
        settings = replace(FAST, device=end.device, period_machine_ms=10)
        with opened(settings) as meter:
            assert first_refusal(meter).reason is Refused.SILENT
            present.set()
            first_reading(meter)


def test_a_line_that_is_pulled_out_is_lost_to_all_its_meters_and_comes_back() -> None:
    buses = Buses()
    with far_end(meters(1)) as end:
        device = end.device
        opened = [
            buses.open(replace(FAST, device=device, address=one, period_machine_ms=50))
            for one in (1, 2)
        ]
        first_reading(opened[0])
    for one in opened:
        with pytest.raises(LineLost, match="gone"):
            hear(one, lambda said: False)
        one.close()
    with far_end(meters(1)) as end:
        again = buses.open(replace(FAST, device=end.device, address=1))
        first_reading(again)
        again.close()


def test_a_line_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    with (
        opened(replace(FAST, device=str(tmp_path / "none"))) as meter,
        pytest.raises(LineLost, match="there is no such device"),
    ):
        hear(meter, lambda said: False)
    (tmp_path / "file").write_text("")
    with (
        opened(replace(FAST, device=str(tmp_path / "file"))) as meter,
        pytest.raises(LineLost, match="no serial line"),
    ):
        hear(meter, lambda said: False)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (replace(FAST), "device .RTU. or host"),
        (replace(FAST, device="d", host="h"), "not both"),
        (replace(FAST, device="d", address=0), "address is from 1"),
        (replace(FAST, device="d", baud=1), "baud is from"),
        (replace(FAST, device="d", map="eastron"), "there is no map"),
        (replace(FAST, device="d", map="./none.toml"), "cannot read"),
        (replace(FAST, device="d", constant="1000"), "counts Wh"),
        (replace(FAST, device="d", map="s0-counter"), "counts pulses"),
    ],
)
def test_a_wrong_setting_is_named(settings: ModbusSettings, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Buses().open(settings)


def test_meters_of_one_bus_agree_on_it() -> None:
    with far_end(meters(7)) as end:
        buses = Buses()
        with closing(buses.open(replace(FAST, device=end.device))):
            with pytest.raises(ConfigurationError, match="differently"):
                buses.open(replace(FAST, device=end.device, address=8, parity=Parity.EVEN))
            with pytest.raises(ConfigurationError, match="address 7 twice"):
                buses.open(replace(FAST, device=end.device))


# --- TCP. ----------------------------------------------------------------------------------------


def mbap(number: int, unit: int, body: bytes) -> bytes:
    return (
        number.to_bytes(2, "big")
        + bytes(2)
        + (len(body) + 1).to_bytes(2, "big")
        + bytes([unit])
        + body
    )


@contextmanager
def tcp_end(behave: Callable[[int, Request], bytes | None]) -> Iterator[int]:
    """A gateway on a free port: what it sends for a request and its number; None: it hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection:
            while (head := connection.recv(12, socket.MSG_WAITALL)) and len(head) == 12:
                number, register, count = (
                    int.from_bytes(head[at : at + 2], "big") for at in (0, 8, 10)
                )
                request = Request(head[6], head[7], register, count, time.monotonic_ns())
                said = behave(number, request)
                if said is None:
                    return
                connection.sendall(said)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=[connection], daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def right(number: int, request: Request) -> bytes:
    return mbap(number, request.address, answer(request, SDM[request.shape])[1:-2])


TCP = replace(FAST, host="127.0.0.1")


def test_a_late_answer_over_tcp_has_another_number() -> None:
    false = bytes([4, 8]) + bytes(8)

    def behave(number: int, request: Request) -> bytes:
        if request.shape != INDEX:
            return right(number, request)
        return mbap(number - 1, 7, false) + right(number, request)

    with tcp_end(behave) as port, opened(replace(TCP, port=port)) as meter:
        said = hear(meter, lambda said: len(readings(said)) >= 5)
    assert not reasons(said)
    assert {one.imported.value for one in readings(said) if one.imported} == {230_200}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda number, request: b"",
        lambda number, request: b"\xde\xad\xbe\xef" * 8,
        lambda number, request: mbap(number, 7, bytes([4, 200, 1])),
        lambda number, request: mbap(number, 7, bytes([4, 4]) + bytes(4)),
        lambda number, request: mbap(number, 8, bytes([4, 8]) + bytes(8)),
        lambda number, request: mbap(number, 7, bytes([3, 8]) + bytes(8)),
        lambda number, request: mbap(number, 7, b""),
        lambda number, request: mbap(number, 7, bytes([0x99, 8])),
    ],
    ids=[
        "nothing",
        "garbage",
        "cut",
        "too few",
        "another unit",
        "another function",
        "empty",
        "unknown",
    ],
)
def test_what_is_no_answer_over_tcp_gives_no_reading_and_does_no_lasting_harm(
    spoil: Callable[[int, Request], bytes],
) -> None:
    turn = iter(range(10**6))

    def behave(number: int, request: Request) -> bytes:
        if request.shape == INDEX and next(turn) % 2:
            return spoil(number, request)
        return right(number, request)

    settings = replace(TCP, answer_machine_ms=30, period_machine_ms=1)
    with tcp_end(behave) as port, opened(replace(settings, port=port)) as meter:
        said = hear(meter, lambda said: len(readings(said)) >= 4)
    assert reasons(said)
    assert {one.identity for one in readings(said)} == {"19210043"}
    assert {one.imported.value for one in readings(said) if one.imported} == {230_200}


def test_a_peer_that_hangs_up_is_called_again_and_one_that_always_does_is_lost() -> None:
    turn = iter(range(10**6))

    def behave(number: int, request: Request) -> bytes | None:
        return right(number, request) if next(turn) % 7 else None

    with tcp_end(behave) as port:
        # The first question of all is not answered.
        with opened(replace(TCP, port=port)) as meter, pytest.raises(LineLost, match="nothing"):
            hear(meter, lambda said: False)
        with opened(replace(TCP, port=port)) as meter:
            hear(meter, lambda said: len(readings(said)) >= 20)


def test_a_gateway_whose_meter_is_silent_says_so() -> None:
    def behave(number: int, request: Request) -> bytes:
        return mbap(number, request.address, bytes([request.function | 0x80, 11]))

    with tcp_end(behave) as port, opened(replace(TCP, port=port)) as meter:
        assert first_refusal(meter).reason is Refused.SILENT


def test_nobody_at_the_other_end_is_a_lost_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with opened(replace(TCP, port=port)) as meter, pytest.raises(LineLost, match="cannot open"):
        hear(meter, lambda said: False)


def test_frames_of_a_serial_line_are_read_behind_a_converter() -> None:
    """Without numbers, and with what the line brought in between."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def convert() -> None:
            connection, _ = listener.accept()
            with connection:
                while len(raw := connection.recv(8, socket.MSG_WAITALL)) == 8:
                    assert crc(raw[:-2]) == raw[-2:]
                    register, count = (int.from_bytes(raw[at : at + 2], "big") for at in (2, 4))
                    request = Request(raw[0], raw[1], register, count, 0)
                    connection.sendall(b"\x00" + answer(request, SDM[request.shape]))

        thread = threading.Thread(target=convert, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        with opened(replace(TCP, port=port, framing=Framing.RTU, answer_machine_ms=500)) as meter:
            said = hear(meter, lambda said: len(readings(said)) >= 5)
        thread.join()
    assert not reasons(said)


# --- Independent peers. --------------------------------------------------------------------------


@contextmanager
def library_server(make: Callable[[list[SimDevice]], ModbusBaseServer]) -> Iterator[None]:
    """The library's own server, from raw registers."""
    device = SimDevice(
        7,
        [
            SimData(0x48, values=[*KWH_230, *KWH_100], datatype=DataType.REGISTERS),
            SimData(0xFC00, values=[0x0125, 0x1F3B, 112], datatype=DataType.REGISTERS),
        ],
    )
    loop = asyncio.new_event_loop()
    is_up, stop = threading.Event(), asyncio.Event()

    async def serve() -> None:
        server = make([device])
        await server.serve_forever(background=True)
        is_up.set()
        await stop.wait()
        server.close()
        await asyncio.sleep(0.01)

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert is_up.wait(PATIENCE_S)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def test_a_server_of_raw_registers_is_read_over_rtu() -> None:
    with (
        line_of_two_ends() as (near, far),
        library_server(lambda devices: ModbusSerialServer(devices, port=far, baudrate=9600)),
    ):
        settings = replace(FAST, device=near, answer_machine_ms=500)
        with opened(settings) as meter:
            reading = first_reading(meter)
    assert reading.identity == "19210043"
    assert reading.imported is not None
    assert reading.imported.value == 230_200


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def test_a_server_of_raw_registers_is_read_over_tcp() -> None:
    port = free_port()
    with (
        library_server(lambda devices: ModbusTcpServer(devices, address=("127.0.0.1", port))),
        opened(replace(TCP, port=port, answer_machine_ms=500)) as meter,
    ):
        assert first_reading(meter).identity == "19210043"


def simulated(name: str, address: int, model: str) -> SimulatedMeter:
    return SimulatedMeter(
        address, load_map(name), "1234567", model, lambda _: (Fraction(123_456), Fraction(2_000))
    )


def polled(*arguments: str) -> str:
    """What mbpoll, which knows nothing of this project, reads."""
    run = subprocess.run(
        ["mbpoll", "-q", "-1", "-0", "-o", "2", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout


def test_mbpoll_reads_the_simulated_meters_over_rtu() -> None:
    with line_of_two_ends() as (near, far):
        twins = [simulated("eastron-sdm", 3, "43"), simulated("abb-b2x", 5, "B23 112-100")]
        with closing(SimulatedBus(BusLine(device=far), twins)):
            line = ("-m", "rtu", "-b", "9600", "-P", "none")
            said = polled(*line, "-a", "3", "-t", "3:float", "-B", "-r", "72", "-c", "2", near)
            assert "123.456" in said
            assert "\t2" in said
            said = polled(*line, "-a", "5", "-t", "4:hex", "-r", str(0x5000), "-c", "8", near)
            assert "0x3039" in said  # 12345 hundredths of a kWh
            said = polled(*line, "-a", "5", "-t", "4:hex", "-r", str(0x8960), "-c", "2", near)
            assert "0x4232" in said


def test_mbpoll_reads_a_simulated_meter_under_a_link(tmp_path: Path) -> None:
    link = tmp_path / "bus"
    with closing(WiredEnds(link)) as ends:
        twin = simulated("inepro-pro380", 2, "")
        with closing(SimulatedBus(BusLine(device=ends.far), [replace(twin, serial="12345678")])):
            said = polled(
                "-m", "rtu", "-b", "9600", "-P", "none",
                "-a", "2", "-t", "4:float", "-B", "-r", str(0x600C), "-c", "1", str(link),
            )  # fmt: skip
    assert "123.456" in said
    assert not link.is_symlink()


def test_mbpoll_reads_a_simulated_meter_over_tcp() -> None:
    port = free_port()
    twin = simulated("schneider-iem3x55", 1, "iEM3155")
    with closing(SimulatedBus(BusLine(host="127.0.0.1", port=port), [twin])):
        said = polled(
            "-m", "tcp", "-p", str(port), "-t", "4:hex", "-r", "3203", "-c", "8", "127.0.0.1"
        )
    assert "0xE240" in said  # 123456 = 0x1E240


def test_the_simulated_meters_of_every_map_are_read_back() -> None:
    port = free_port()
    models = {
        "eastron-sdm": "112", "abb-b2x": "B21", "schneider-iem3x55": "iEM3355",
        "gavazzi-em340": "341", "inepro-pro380": "", "gavazzi-em24": "71", "siemens-pac": "",
        "janitza-b2x": "", "socomec-countis": "SOCO", "orno-we51x": "",
    }  # fmt: skip
    twins = [
        replace(simulated(name, 1 + place, model), serial="12345678")
        for place, (name, model) in enumerate(models.items())
    ]
    with closing(SimulatedBus(BusLine(host="127.0.0.1", port=port), twins)):
        buses = Buses()
        settings = replace(TCP, port=port, answer_machine_ms=1_000, period_machine_ms=1_000)
        opened = [
            buses.open(replace(settings, map=one.map.id, address=one.address)) for one in twins
        ]
        for meter, twin in zip(opened, twins, strict=True):
            reading = first_reading(meter)
            assert reading.imported is not None
            assert abs(reading.imported.uwh - 123_456 * 10**6) < 100 * 10**6
            assert twin.map.serial is None or reading.identity == "12345678"
        for meter in opened:
            meter.close()


# --- A day on a bad line. ------------------------------------------------------------------------

DAY_S = 86_400
POLLS = int(os.environ.get("CRYPTOMETER_MODBUS_POLLS", DAY_S // 30))  # every 30 s
LINES = 8
SHARE = 0.35
WH_PER_MS = 1


class BadLine:
    """A meter whose index tells the time, on a line that damages its answers."""

    def __init__(self, seed: int, begun_ns: int) -> None:
        self.random = Random(seed)
        self.begun_ns = begun_ns
        self.intact: set[int] = set()
        self.answers = self.damaged = 0

    def now(self, at_ns: int) -> int:
        """The meter's register, hundredths of a kWh in the map: 10 Wh."""
        return (at_ns - self.begun_ns) // NS_PER_MS

    def behave(self, request: Request) -> bytes | None:
        value = self.now(time.monotonic_ns())
        words = [0, 0, value >> 16, value & 0xFFFF]
        whole = answer(request, words * 2 if request.shape == ABB_INDEX else ABB[request.shape])
        [(said, is_whole)] = damaged([whole], SHARE, self.random)
        self.answers += 1
        self.damaged += not is_whole
        if is_whole and request.shape == ABB_INDEX:
            self.intact.add(value)
        return said


def test_a_day_on_a_bad_line_gives_no_wrong_index_and_loses_few_answers() -> None:
    """A day of polls every 30 s, as fast as the lines go: one answer of three is damaged."""
    begun_ns = time.monotonic_ns()
    bad = [BadLine(seed, begun_ns) for seed in range(LINES)]
    said: list[list[Reading | Refusal]] = [[] for _ in bad]
    outcome: list[tuple[int, int]] = []

    def run(place: int) -> None:
        line = bad[place]
        with far_end(line.behave) as end:
            settings = replace(
                FAST, device=end.device, map="abb-b2x", answer_machine_ms=30, retries=1
            )
            with opened(settings) as meter:
                while len(said[place]) < POLLS // LINES:
                    select.select([meter], [], [], 1)
                    said[place] += meter.take().said

    threads = [threading.Thread(target=run, args=[place]) for place in range(LINES)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    for line, heard in zip(bad, said, strict=True):
        gate = Plausible(Limits("", Register.IMPORT, power_w=100 * 3600 * 1000))
        for reading in readings(heard):
            believed = gate.judge(reading)
            assert believed == [reading]
            assert reading.identity == "77"
            assert reading.imported is not None
            value = reading.imported.value
            assert line.now(reading.began_ns) <= value <= line.now(reading.ended_ns)
        taken = {one.imported.value for one in readings(heard) if one.imported}
        outcome.append((len(taken & line.intact), len(line.intact)))
    accepted, intact = (sum(column) for column in zip(*outcome, strict=True))
    polls, answers = sum(map(len, said)), sum(one.answers for one in bad)
    hurt = sum(one.damaged for one in bad)
    print(f"{polls} polls, {answers} answers, {hurt} damaged; {accepted} of {intact} intact taken")
    assert hurt > 0.2 * answers
    assert accepted >= 0.95 * intact


# --- Where an answer begins. ---------------------------------------------------------------------


@given(
    st.binary(max_size=40),
    st.binary(max_size=40),
    st.integers(1, 247),
    st.integers(1, 20),
    st.data(),
)
def test_an_answer_among_noise_is_found_whole_or_not_at_all(
    before: bytes, behind: bytes, address: int, count: int, data: st.DataObject
) -> None:
    question = Question(3, 0, count)
    body = bytes([address, 3, 2 * count]) + data.draw(
        st.binary(min_size=2 * count, max_size=2 * count)
    )
    found = find_answer(before + framed(body) + behind, address, question)
    assert found
    assert crc(found[:-2]) == found[-2:]
    assert found[0] == address
    assert len(find_answer(before, address, question)) <= len(before)
    assert not find_answer(framed(body)[:-1], address, question)


@given(st.binary(max_size=300), st.integers(1, 247), st.integers(1, 125))
def test_noise_alone_is_an_answer_only_with_its_checksum(
    heard: bytes, address: int, count: int
) -> None:
    found = find_answer(heard, address, Question(4, 0, count))
    assert not found or (found in heard and crc(found[:-2]) == found[-2:] and found[0] == address)
