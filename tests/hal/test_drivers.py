"""Drivers are chosen by name, from configuration, and imported only then."""

import os
import pty
import subprocess
import sys
import tty

import pytest

from cryptometer.errors import ConfigurationError
from cryptometer.steps import ClockSource
from hal.clock import ScaledClock, SystemClock
from hal.drivers import (
    CLOCKS,
    SOURCES,
    Buses,
    index_settings,
    open_clock,
    open_index,
    open_source,
)
from hal.index.choice import INDEX_SOURCES, IndexSettings, is_index_source
from hal.index.reading import Register
from hal.ports import LineLost, Taken
from hal.serial_line import SerialLine
from hal.sim_line import SimulatedLine

PATIENCE_S = 30
SCALED = {"driver": "scaled", "speed": 45, "origin_ms": 1_800_000_000_000, "anchor_ms": 5_000}


def test_the_sim_driver_is_opened_by_its_name() -> None:
    source = open_source({"driver": "sim", "interval_machine_ms": 0})
    assert isinstance(source, SimulatedLine)
    source.put(2)
    assert source.take() == Taken(2)
    source.close()


def test_the_serial_driver_is_opened_by_its_name_with_its_settings() -> None:
    line, far = pty.openpty()
    tty.setraw(far)
    source = open_source(
        {"driver": "serial", "device": os.ttyname(far), "line": "byte", "baud": 9600}
    )
    assert isinstance(source, SerialLine)
    assert source.latency_ns == 20_000_000 + 1_041_666
    source.close()
    os.close(line)
    os.close(far)


def test_the_gpio_driver_is_opened_by_its_name() -> None:
    with pytest.raises(LineLost, match="cannot open /dev/no-such-chip line 17"):
        open_source({"driver": "gpio", "chip": "/dev/no-such-chip", "offset": 17})


@pytest.mark.parametrize(
    ("table", "advice"),
    [
        ({}, r"\[source\] driver is one of serial, gpio, .*, modbus, sim-index, not None"),
        ({"driver": "serail"}, "is one of serial, gpio, rpi, modem, sim, linky, .* not 'serail'"),
        ({"driver": ["sim"]}, r"is one of serial, gpio, .* not \['sim'\]"),
        ({"driver": "linky"}, "a meter of the driver 'linky' has no pulses, but an index"),
        ({"driver": "serial"}, r"\[source\] lacks 'device': the line, for example"),
        ({"driver": "serial", "device": "/dev/x", "boud": 300}, "did you mean 'baud'"),
        ({"driver": "serial", "device": "/dev/x", "baud": "300"}, "baud is of type int"),
        ({"driver": "serial", "device": "/dev/x", "baud": 299}, "baud is from 300 to 115200"),
        ({"driver": "serial", "device": "/dev/x", "line": "so"}, "line is one of byte, s0"),
        ({"driver": "gpio"}, r"\[source\] lacks 'offset'"),
        ({"driver": "gpio", "offset": 17, "pull": "sideways"}, "pull is one of up, down, none"),
        ({"driver": "gpio", "offset": 17, "active_low": 1}, "active_low is of type bool"),
        ({"driver": "sim", "device": "/dev/x"}, "no setting 'device'"),
        ({"driver": "sim", "interval_machine_ms": -1}, "is not negative"),
    ],
)
def test_a_wrong_source_is_refused_with_what_to_do(table: dict[str, object], advice: str) -> None:
    with pytest.raises(ConfigurationError, match=advice):
        open_source(table)


def test_the_table_that_was_given_is_left_as_it_was() -> None:
    table: dict[str, object] = {"driver": "sim", "interval_machine_ms": 0}
    open_source(table).close()
    assert table == {"driver": "sim", "interval_machine_ms": 0}


@pytest.mark.parametrize(
    ("driver", "package", "extra", "debian"),
    [
        ("serial", "serial", "firmware", "python3-serial"),
        ("gpio", "gpiod", "gpio", "python3-libgpiod"),
    ],
)
def test_a_missing_package_is_named_with_the_way_to_install_it(
    monkeypatch: pytest.MonkeyPatch, driver: str, package: str, extra: str, debian: str
) -> None:
    for name in (package, "hal.serial_line", "hal.gpio_line"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigurationError) as refused:
        open_source({"driver": driver, "device": "/dev/x"})
    message = str(refused.value)
    assert f"pip install 'cryptometer[{extra}]'" in message
    assert debian in message
    assert package in message


def test_no_drivers_package_is_imported_before_it_is_chosen() -> None:
    code = (
        "import sys; import hal.drivers; s = hal.drivers.open_source({'driver': 'sim'}); s.close();"
        "b = hal.drivers.Buses();"
        "m = {'driver': 'sim-index', 'register': 'import'}; hal.drivers.open_index(m, b).close();"
        "print(sorted({'serial', 'gpiod', 'pymodbus', 'dlms_cosem'} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert ended.stdout == "[]\n"


def test_every_driver_that_a_message_names_exists() -> None:
    for driver in SOURCES:
        with pytest.raises(ConfigurationError, match="no setting 'nonsense'"):
            open_source({"driver": driver, "nonsense": 1})
    for driver in INDEX_SOURCES:
        table = {"driver": driver, "register": "import", "mode": "asked", "map": "x", "address": 1}
        with pytest.raises(ConfigurationError, match=r"no setting '(nonsense|mode|map|address)'"):
            open_index({**table, "nonsense": 1}, Buses())
    for driver in CLOCKS:
        with pytest.raises(ConfigurationError, match="no setting 'nonsense'"):
            open_clock({"driver": driver, "nonsense": 1})


def test_what_every_meter_that_speaks_is_told_is_read_without_its_line() -> None:
    table = {"driver": "p1", "register": "export", "device": "/dev/no-such", "identity": "E1"}
    assert is_index_source(table)
    assert not is_index_source({"driver": "sim"})
    assert index_settings(table) == IndexSettings(register=Register.EXPORT, identity="E1")
    with pytest.raises(ConfigurationError, match="lacks 'register'"):
        index_settings({"driver": "p1"})
    with pytest.raises(ConfigurationError, match="driver is one of linky"):
        index_settings({"driver": "sim", "register": "import"})
    with pytest.raises(LineLost, match="cannot open /dev/no-such"):
        open_index(table, Buses())


def test_modbus_meters_of_one_program_share_their_bus() -> None:
    line, far = pty.openpty()
    tty.setraw(far)
    table = {
        "driver": "modbus",
        "register": "import",
        "device": os.ttyname(far),
        "map": "eastron-sdm",
        "address": 1,
    }
    buses = Buses()
    meter = open_index(table, buses)
    with pytest.raises(ConfigurationError, match="has address 1 twice"):
        open_index(table, buses)
    meter.close()
    os.close(line)
    os.close(far)


@pytest.mark.parametrize(
    ("table", "package", "extra"),
    [
        ({"driver": "modbus", "map": "eastron-sdm", "address": 1}, "pymodbus", "modbus"),
        ({"driver": "dlms"}, "dlms_cosem", "dlms"),
    ],
)
def test_a_missing_package_of_a_meter_that_speaks_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, table: dict[str, object], package: str, extra: str
) -> None:
    loaded = [name for name in sys.modules if name.partition(".")[0] == package]
    for name in (*loaded, "hal.modbus_bus", "hal.modbus_line"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigurationError) as refused:
        open_index({"register": "import", "device": "/dev/no-such", **table}, Buses())
    message = str(refused.value)
    assert f"({package}): pip install 'cryptometer[{extra}]'" in message
    assert "Debian" not in message


def test_the_systems_clock_is_the_default() -> None:
    assert isinstance(open_clock({}), SystemClock)
    assert isinstance(open_clock({"driver": "system"}), SystemClock)


def test_a_scaled_clock_has_its_three_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = open_clock(SCALED)
    assert isinstance(clock, ScaledClock)
    monkeypatch.setattr("time.monotonic_ns", lambda: 6_000_000_000)
    now = clock.now()
    assert now.utc_ns == 1_800_000_045_000_000_000
    assert now.source is ClockSource.SCALED


@pytest.mark.parametrize(
    ("table", "advice"),
    [
        ({**SCALED, "speed": 0}, "speed is at least 1"),
        ({**SCALED, "speed": -45}, "speed is at least 1"),
        ({**SCALED, "speed": 1.5}, "speed is of type int"),
        ({"driver": "scaled"}, r"\[clock\] lacks 'speed'"),
        ({"driver": "sundial"}, "is one of system, scaled, not 'sundial'"),
        ({"speed": 45}, "no setting 'speed'"),
    ],
)
def test_a_wrong_clock_is_refused_with_what_to_do(table: dict[str, object], advice: str) -> None:
    with pytest.raises(ConfigurationError, match=advice):
        open_clock(table)
