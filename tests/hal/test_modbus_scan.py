"""What is found on a Modbus bus: meters, which ones, at which speed."""

import sys
import termios
import tomllib
from collections.abc import Callable
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from random import Random

import pytest

import firmware.main
from cryptometer.errors import ConfigurationError
from hal.drivers import Buses, open_index
from hal.index.reading import Parity
from hal.modbus_line import BusLine, Framing
from hal.modbus_maps import load_map, shipped_maps
from hal.modbus_meter import SimulatedBus, SimulatedMeter
from hal.modbus_scan import (
    LINE_FORMS,
    Found,
    addresses_in,
    as_lines,
    bus_lines,
    probes_beside,
    scan,
)
from hal.ports import LineLost
from tests.hal.modbus_end import Request, answer, error, far_end
from tests.hal.test_modbus_bus import first_reading, free_port

MAPS = [load_map(name) for name in shipped_maps()]
PATIENCE_S = 0.04
SDM = {(3, 0xFC00): [0, 99], (3, 0xFC02): [43], (4, 0x48): [0x42C8, 0, 0, 0]}
ABB = {
    (3, 0x8900): [0, 77],
    (3, 0x8960): [0x4232, 0x3320, 0x3131, 0x322D, 0x3130, 0x3000],
    (3, 0x5000): [0, 0, 3, 0x1292, 0, 0, 0, 0x923A],
}
PRO = {(3, 0x4000): [0x1506, 0x0001], (3, 0x600C): [0x42C8, *[0] * 13]}
UNKNOWN = {(4, 0): [1, 2]}
METERS = {3: SDM, 5: ABB, 9: PRO, 12: UNKNOWN}


def bus(request: Request) -> bytes | None:
    """Four meters that say so when they have no such register, and two of one address."""
    if request.address == 14:
        return bytes([14, 3, 2, 7, 9, 1, 1])
    registers = METERS.get(request.address)
    if registers is None:
        return None
    known = registers.get((request.function, request.register))
    if known is None or len(known) < request.count:
        return error(request, 2)
    return answer(request, known)


def told(found: list[Found]) -> dict[int, tuple[str, bool, str, str]]:
    return {
        one.address: (one.map.id if one.map else "", one.is_certain, one.serial, one.model)
        for one in found
    }


def test_meters_are_found_and_told_apart() -> None:
    with far_end(bus) as end:
        heard: list[str] = []
        found = scan([BusLine(end.device)], range(1, 16), MAPS, PATIENCE_S, heard.append)
    assert told(found) == {
        3: ("eastron-sdm", True, "99", "43"),
        5: ("abb-b2x", True, "77", "B23 112-100"),
        9: ("inepro-pro380", False, "15060001", ""),
        12: ("", False, "", ""),
    }
    [sdm] = [one for one in found if one.address == 3]
    assert sdm.reading is not None
    assert sdm.reading.imported is not None
    assert sdm.reading.imported.uwh == 100 * 10**9
    assert len(heard) == 1


def test_what_is_printed_for_a_meter_opens_it() -> None:
    with far_end(bus) as end:
        found = scan([BusLine(end.device)], [5], MAPS, PATIENCE_S, lambda _: None)
        text = "\n".join(as_lines(found))
        table = tomllib.loads(text[text.index("[source]") :])["source"]
        with closing(open_index(table, Buses())) as meter:
            assert first_reading(meter).identity == "77"
    assert "B23 112-100" in text
    assert "import 2013.620 kWh" in text


def test_the_speed_is_found() -> None:
    def slow(request: Request) -> bytes | None:
        speed = termios.tcgetattr(end.slave)[4]
        return bus(request) if speed == termios.B2400 else None

    with far_end(slow) as end:
        lines = bus_lines(end.device, "", 502, baud=None, parity="none", is_rtu=False)
        found = scan(lines, [3], MAPS, PATIENCE_S, lambda _: None)
    assert [(one.address, one.line.baud) for one in found] == [(3, 2_400)]


def test_what_cannot_be_read_is_told_if_there_is_nothing_else() -> None:
    with far_end(bus) as end:
        found = scan([BusLine(end.device)], [13, 14], MAPS, PATIENCE_S, lambda _: None)
    assert [one.address for one in found] == [14]
    assert "two meters of one address" in "\n".join(as_lines(found))


def test_a_gateway_is_searched_over_tcp() -> None:
    port = free_port()
    twin = SimulatedMeter(
        4, load_map("schneider-iem3x55"), "55", "iEM3255", lambda _: (Fraction(1), Fraction(2))
    )
    with closing(SimulatedBus(BusLine(host="127.0.0.1", port=port), [twin])):
        lines = bus_lines("", "127.0.0.1", port, baud=None, parity=None, is_rtu=False)
        found = scan(lines, [3, 4], MAPS, 0.3, lambda _: None)
    assert told(found) == {4: ("schneider-iem3x55", True, "55", "iEM3255")}
    assert 'framing = "tcp"' in as_lines(found)


def test_the_command_finds_and_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with far_end(bus) as end:
        words = ["scan", "--device", end.device, "--baud", "9600", "--parity", "none"]
        words += ["--addresses", "2,3", "--answer-ms", "40"]
        monkeypatch.setattr(sys, "argv", ["cryptometer-firmware", *words])
        assert firmware.main.main() == 0
        shown = capsys.readouterr()
        assert "Eastron" in shown.out
        assert 'map = "eastron-sdm"' in shown.out
        assert "9600 baud" in shown.err
        monkeypatch.setattr(sys, "argv", ["cryptometer-firmware", *words[:-4], "--addresses", "2"])
        assert firmware.main.main() == 1
        assert "nobody answers" in capsys.readouterr().out


def test_a_line_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LineLost, match="no such device"):
        scan([BusLine(str(tmp_path / "none"))], [1], MAPS, PATIENCE_S, lambda _: None)


def test_addresses_are_lists_and_ranges() -> None:
    assert addresses_in("1,5, 17-20", is_serial=True) == [1, 5, 17, 18, 19, 20]
    assert addresses_in("0,255", is_serial=False) == [0, 255]
    for text in ("", "x", "0", "248", "5-1", "1-", "-1", "1--2", "1" * 30):
        with pytest.raises(ConfigurationError, match="--addresses"):
            addresses_in(text, is_serial=True)


def test_the_usual_ways_to_set_a_line_are_narrowed_by_what_is_known() -> None:
    assert len(bus_lines("d", "", 502, baud=None, parity=None, is_rtu=False)) == len(LINE_FORMS)
    [one] = bus_lines("d", "", 502, baud=19_200, parity="even", is_rtu=False)
    assert (one.baud, one.parity) == (19_200, Parity.EVEN)
    [odd] = bus_lines("d", "", 502, baud=600, parity="odd", is_rtu=False)
    assert (odd.baud, odd.parity) == (600, Parity.ODD)
    [tcp] = bus_lines("", "h", 503, baud=None, parity=None, is_rtu=True)
    assert (tcp.host, tcp.port, tcp.framing) == ("h", 503, Framing.RTU)
    with pytest.raises(ConfigurationError, match="--baud"):
        bus_lines("d", "", 502, baud=1, parity=None, is_rtu=False)


class Lagging:
    """A meter that answers every question, in order, and some only as later ones come."""

    def __init__(
        self, registers: dict[tuple[int, int], list[int]], owes: Callable[[Request], int]
    ) -> None:
        self._registers = registers
        self._owes = owes
        self._held: list[bytes] = []

    def behave(self, request: Request) -> bytes | None:
        if request.address != 3:
            return None
        known = self._registers.get(request.shape, [])
        is_known = len(known) >= request.count
        self._held.append(answer(request, known) if is_known else error(request, 2))
        due = max(len(self._held) - self._owes(request), 0)
        said, self._held = b"".join(self._held[:due]), self._held[due:]
        return said


def found_on(meter: Lagging) -> list[Found]:
    with far_end(meter.behave) as end:
        return scan([BusLine(end.device)], [3], MAPS, PATIENCE_S, lambda _: None)


def test_a_late_word_on_another_maps_question_does_not_hide_the_meter() -> None:
    """It is slow to say that it has no such register, and quick to say what it has."""
    text = b"iEM3255".ljust(40, b"\0")
    model = [int.from_bytes(text[at : at + 2], "big") for at in range(0, 40, 2)]
    iem = {(3, 49): model, (3, 129): [0, 55], (3, 3203): [0, 0, 1, 0] * 2}
    others = {one.model.question.address for one in MAPS if one.model} - {49}
    meter = Lagging(iem, lambda request: int(request.register in others))
    [found] = found_on(meter)
    assert (found.serial, found.model, found.is_certain) == ("55", "iEM3255", True)
    assert found.reading is not None


@pytest.mark.parametrize("seed", range(8))
def test_a_meter_that_falls_behind_is_found_rightly_or_not_at_all(seed: int) -> None:
    draw = Random(seed)
    # What it shows at first has the form of a model's code, and of a number.
    deceiving = {**SDM, (3, 0): [132] * 4, (4, 0): [71] * 6, (3, 0x4000): [0x4242, 0x4242]}
    for found in found_on(Lagging(deceiving, lambda _: draw.choice([0, 0, 0, 0, 1, 2]))):
        assert found.serial in ("", "99")
        assert found.model in ("", "43")
        assert found.map is None or found.map.id == "eastron-sdm"
        if found.reading is not None and found.reading.imported is not None:
            assert found.reading.imported.uwh == 100 * 10**9


def test_probes_are_mistaken_for_no_question_of_a_map() -> None:
    probes = probes_beside(MAPS)
    forms = {(one.function, one.count) for one in probes}
    asked = [one for each in MAPS for one in each.index]
    asked += [one.question for each in MAPS for one in (each.serial, each.model) if one]
    assert len(forms) == 2
    assert not forms & {(one.function, one.count) for one in asked}
