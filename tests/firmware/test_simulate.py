"""The simulator as users run it: a real process, real pseudo-terminals, and the real line driver.

What its log says is what proofs compare the ledger with, so the log is held against the bytes.
"""

import os
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest

from hal.ports import LineLost, PulseSource
from hal.serial_line import LineKind, SerialLine, SerialSettings

PATIENCE_S = 30.0
NS_PER_S = 1_000_000_000
READER = """
import os, sys
line = os.open(sys.argv[1], os.O_RDONLY | os.O_NOCTTY)
while True:
    data = os.read(line, 7)
    os.write(1, data)
"""


class Simulator:
    """One running simulator."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.link = folder / "meter"
        self.log = folder / "pulses.log"
        command = [sys.executable, "-m", "firmware.main", "simulate"]
        self.began_ns = time.time_ns()
        self.process = subprocess.Popen(
            [*command, "--tty", str(self.link), "--log", str(self.log), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def open_line(self, kind: LineKind = LineKind.BYTE) -> SerialLine:
        wait_until(self.link.is_symlink)
        return SerialLine(SerialSettings(str(self.link), kind))

    def end(self, number: signal.Signals | None = None) -> tuple[int, list[str]]:
        """Waits for its end; returns its exit code and what it printed."""
        if number is not None:
            self.process.send_signal(number)
        out, error = self.process.communicate(timeout=PATIENCE_S)
        assert error == ""
        return self.process.returncode, out.splitlines()

    def pulses(self) -> list[tuple[int, int]]:
        """The logged pulses: Unix ns, number."""
        return [
            (int(at_ns), int(number))
            for at_ns, number in (
                line.split() for line in self.log.read_text().splitlines() if line[0] != "#"
            )
        ]

    def sums(self) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if line[0] == "#"]


@pytest.fixture
def simulate(tmp_path: Path) -> Iterator[Callable[..., Simulator]]:
    running: list[Simulator] = []

    def start(*arguments: str) -> Simulator:
        running.append(Simulator(tmp_path, *arguments))
        return running[-1]

    yield start
    for one in running:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate(timeout=PATIENCE_S)


def wait_until(is_so: Callable[[], object]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < until_s, "waited in vain"
        time.sleep(0.005)


def take(source: PulseSource, least: int) -> tuple[int, int]:
    """Takes until so many pulses have come; returns them and the noise."""
    pulses = noise = 0
    until_s = time.monotonic() + PATIENCE_S
    while pulses < least:
        assert select.select([source], [], [], max(0, until_s - time.monotonic()))[0], pulses
        taken = source.take()
        pulses, noise = pulses + taken.pulses, noise + taken.noise
    return pulses, noise


def take_to_the_end(meter: Simulator, line: SerialLine) -> tuple[int, int]:
    """Takes until the simulator has gone; returns pulses and noise, and closes the line."""
    pulses = noise = 0
    until_s = time.monotonic() + PATIENCE_S
    with suppress(LineLost):  # it goes only when all is read
        while time.monotonic() < until_s:
            select.select([line], [], [], max(0, until_s - time.monotonic()))
            taken = line.take()
            pulses, noise = pulses + taken.pulses, noise + taken.noise
    line.close()
    wait_until(lambda: meter.process.poll() is not None)
    return pulses, noise


Start = Callable[..., Simulator]


# --- A byte per pulse. ---------------------------------------------------------------------------


def test_every_pulse_is_logged_and_received_once(simulate: Start) -> None:
    meter = simulate("--constant", "1000", "--watts", "720000", "--pulses", "100")  # 5 ms apart
    line = meter.open_line()
    assert take(line, 100)[0] == 100
    assert meter.end() == (0, ["emitted 100"])
    line.close()
    assert [number for _, number in meter.pulses()] == list(range(1, 101))
    assert meter.sums() == ["# emitted 100"]
    assert not meter.link.is_symlink()


def test_pulses_come_at_the_time_the_power_says(simulate: Start) -> None:
    meter = simulate("--constant", "1000", "--watts", "72000", "--pulses", "20")  # 50 ms apart
    line = meter.open_line()
    take(line, 20)
    meter.end()
    line.close()
    times = [at_ns for at_ns, _ in meter.pulses()]
    # Never early. A busy machine may be late with one, and is not late with all.
    for number, at_ns in enumerate(times, 1):
        assert at_ns >= meter.began_ns + number * 50_000_000
    assert 40_000_000 < median(after - before for before, after in pairwise(times)) < 60_000_000
    assert times[-1] - times[0] < 19 * 50_000_000 + NS_PER_S


def test_a_pulse_is_logged_before_its_byte_can_be_read(simulate: Start) -> None:
    meter = simulate("--constant", "1000", "--watts", "720000", "--pulses", "60")
    line = meter.open_line()
    counted = 0
    while counted < 60:
        counted += take(line, 1)[0]
        received_ns = time.time_ns()
        logged = meter.pulses()
        assert len(logged) >= counted
        assert logged[counted - 1][0] <= received_ns
    meter.end()
    line.close()


def test_speed_runs_the_power_faster_and_changes_no_count(simulate: Start) -> None:
    # An hour of 1000 W at 500 imp/kWh, in two seconds.
    meter = simulate("--constant", "500", "--watts", "1000", "--speed", "1800", "--seconds", "2")
    line = meter.open_line()
    assert take(line, 500)[0] == 500
    code, out = meter.end()
    line.close()
    assert (code, out) == (0, ["emitted 500"])
    times = [at_ns for at_ns, _ in meter.pulses()]
    assert 1.9 * NS_PER_S < times[-1] - times[0] < 4 * NS_PER_S


def test_thousands_of_pulses_in_a_second_are_borne(simulate: Start) -> None:
    meter = simulate("--constant", "3600000", "--watts", "5000", "--pulses", "15000")  # 5 kHz
    line = meter.open_line()
    assert take(line, 15_000)[0] == 15_000
    assert meter.end() == (0, ["emitted 15000"])
    line.close()
    assert [number for _, number in meter.pulses()] == list(range(1, 15_001))


def test_a_series_is_emitted_whole_and_ends_by_itself(simulate: Start, tmp_path: Path) -> None:
    series = tmp_path / "series.csv"
    rows = [0, 900, 3600, 1799.5, -50, 12.25]
    lines = [f"2026-03-29T00:{minute:02}:00Z,7,{watts}" for minute, watts in enumerate(rows)]
    series.write_text("\n".join(["utc,other,pv_w", *lines]) + "\n")
    # 106.3625 Wh at 10,000/kWh: 1,051 pulses and a rest that stays.
    energy_wh = sum(watts for watts in rows if watts > 0) / 60
    expected = int(energy_wh * 10)
    meter = simulate(
        "--constant", "10000", "--series", str(series), "--column", "pv_w", "--speed", "300"
    )  # fmt: skip
    line = meter.open_line()
    assert take(line, expected)[0] == expected
    assert meter.end() == (0, [f"emitted {expected}"])
    line.close()
    assert meter.sums() == [f"# emitted {expected}"]


def test_a_rate_keeps_bytes_apart_as_a_slow_line_does(simulate: Start) -> None:
    # 5 kHz of pulses on a line that carries 30 characters in a second: without the rate all of
    # them would be out in 6 ms. Measured from before the start, since a late first byte is no
    # closer one.
    before_ns = time.time_ns()
    meter = simulate(
        "--constant", "3600000", "--watts", "5000", "--pulses", "30", "--rate", "300"
    )  # fmt: skip
    line = meter.open_line()
    take(line, 30)
    assert meter.end() == (0, ["emitted 30"])
    line.close()
    times = [at_ns for at_ns, _ in meter.pulses()]
    assert times[-1] - before_ns > 28.5 * NS_PER_S / 30


def test_a_rate_is_set_on_the_line(simulate: Start) -> None:
    meter = simulate("--constant", "1", "--watts", "0", "--rate", "9600")
    wait_until(meter.link.is_symlink)
    line = os.open(meter.link, os.O_RDWR | os.O_NOCTTY)
    assert termios.tcgetattr(line)[4:6] == [termios.B9600, termios.B9600]
    os.close(line)
    assert meter.end(signal.SIGTERM) == (0, ["emitted 0"])


# --- Readers that come late, die and come again. -------------------------------------------------


def test_nothing_is_lost_before_the_first_reader_opens(simulate: Start) -> None:
    meter = simulate("--constant", "3600000", "--watts", "4000", "--pulses", "4000")
    wait_until(lambda: meter.log.exists() and len(meter.pulses()) >= 4000)
    line = meter.open_line()
    assert take(line, 4000)[0] == 4000
    assert meter.end() == (0, ["emitted 4000"])
    line.close()


def test_readers_that_are_killed_and_come_again_lose_nothing_that_waits(
    simulate: Start, tmp_path: Path
) -> None:
    """Each reader writes what it read to a file, in one write per read: what it is killed between
    is at most one read of seven bytes. All else is read by the next one."""
    meter = simulate("--constant", "3600000", "--watts", "2000", "--pulses", "6000")  # 2 kHz
    wait_until(meter.link.is_symlink)
    taken = tmp_path / "taken"
    kills = 0
    while meter.process.poll() is None:
        with taken.open("ab") as file:
            reader = subprocess.Popen(
                [sys.executable, "-c", READER, str(meter.link)], stdout=file, stderr=subprocess.PIPE
            )
            try:
                before = taken.stat().st_size
                until_s = time.monotonic() + PATIENCE_S
                while taken.stat().st_size < before + 500 and meter.process.poll() is None:
                    assert time.monotonic() < until_s
                    time.sleep(0.002)
            finally:
                reader.kill()
                reader.communicate(timeout=PATIENCE_S)
                kills += 1
    assert meter.end() == (0, ["emitted 6000"])
    assert kills >= 2
    data = taken.read_bytes()
    missing = 6000 - len(data)
    assert 0 <= missing <= 7 * kills
    # In order, and none twice: bytes count up with the pulses.
    steps = [(after - before) % 256 for before, after in pairwise(data)]
    assert sum(step - 1 for step in steps) + (data[0] - 1) <= missing
    assert all(1 <= step <= 8 for step in steps)


def test_a_driver_that_opens_again_finds_what_waits(simulate: Start) -> None:
    meter = simulate("--constant", "3600000", "--watts", "1000", "--pulses", "2000")
    counted = 0
    while counted < 2000:
        line = meter.open_line()
        counted += take(line, min(100, 2000 - counted))[0]
        line.close()
    assert counted == 2000
    assert meter.end() == (0, ["emitted 2000"])


def test_pulses_that_the_kernel_cannot_hold_are_not_counted_as_emitted(simulate: Start) -> None:
    meter = simulate("--constant", "3600000", "--watts", "1000000", "--pulses", "60000")
    wait_until(lambda: meter.log.exists() and " 60000\n" in meter.log.read_text())
    received, _ = take_to_the_end(meter, meter.open_line())
    code, out = meter.end()
    assert code == 0
    emitted = int(out[0].removeprefix("emitted "))
    overflow = 60_000 - emitted
    assert 4_000 < emitted < 60_000
    assert out[1].startswith(f"overflow {overflow}: nobody reads")
    assert received == emitted
    assert meter.sums()[-2:] == [f"# emitted {emitted}", f"# overflow {overflow}"]
    dropped = [line.split() for line in meter.sums() if line.startswith("# dropped")]
    assert sum(int(last) - int(first) + 1 for _, _, first, _, last in dropped) == overflow


def test_what_nobody_reads_before_the_end_is_told(simulate: Start) -> None:
    meter = simulate("--constant", "3600000", "--watts", "1000", "--pulses", "10")
    wait_until(lambda: meter.log.exists() and len(meter.pulses()) == 10)
    assert meter.end(signal.SIGTERM) == (
        0,
        ["emitted 10", "unread 10 bytes: nobody read them before the end"],
    )
    assert meter.sums() == ["# emitted 10", "# unread 10"]


# --- An s0 contact. ------------------------------------------------------------------------------


@pytest.mark.parametrize("bounce_ms", ["5", "0"])
def test_a_bouncing_contact_is_counted_once_for_each_pulse(simulate: Start, bounce_ms: str) -> None:
    # 20 Hz are asked for: more than a contact can, so that it falls behind and loses none.
    meter = simulate(
        "--constant", "1000", "--watts", "72000", "--line", "s0", "--pulses", "40", "--seed", "7",
        "--bounce-ms", bounce_ms,
    )  # fmt: skip
    line = meter.open_line(LineKind.S0)
    pulses, noise = take_to_the_end(meter, line)
    assert meter.end() == (0, ["emitted 40"])
    assert pulses == 40
    # The opening bounce starts characters of its own, which are no pulses.
    assert (noise > 10) == (bounce_ms == "5")
    times = [at_ns for at_ns, _ in meter.pulses()]
    assert [number for _, number in meter.pulses()] == list(range(1, 41))
    # Closed for 30 ms and open for 30 ms at least (IEC 62053-31); logs may come late by some ms.
    assert times[-1] - times[0] >= 39 * 60_000_000


def test_a_series_is_emitted_whole_by_a_contact_that_falls_behind(
    simulate: Start, tmp_path: Path
) -> None:
    series = tmp_path / "series.csv"
    series.write_text("0,72000\n0.5,72000\n")  # 20 pulses in a second
    meter = simulate("--constant", "1000", "--series", str(series), "--line", "s0")
    assert take_to_the_end(meter, meter.open_line(LineKind.S0))[0] == 20
    assert meter.end() == (0, ["emitted 20"])
    assert meter.pulses()[-1][0] - meter.pulses()[0][0] > NS_PER_S


def test_seconds_end_a_contact_that_falls_behind(simulate: Start) -> None:
    meter = simulate("--constant", "1000", "--watts", "72000", "--line", "s0", "--seconds", "1")
    received, _ = take_to_the_end(meter, meter.open_line(LineKind.S0))
    assert meter.end() == (0, [f"emitted {received}"])
    assert 8 <= received <= 16


def test_a_contact_pulse_is_logged_when_it_closes(simulate: Start) -> None:
    meter = simulate("--constant", "1000", "--watts", "18000", "--line", "s0", "--pulses", "5")
    line = meter.open_line(LineKind.S0)
    delays_ns = []
    for count in range(1, 6):
        take(line, 1)
        delays_ns.append(time.time_ns() - meter.pulses()[count - 1][0])
    # A start bit, six data bits and half a stop bit at 300 baud are 25 ms.
    assert median(delays_ns) > 20_000_000
    meter.end()
    line.close()


def test_a_contact_that_has_closed_is_received_to_its_end_at_a_stop(simulate: Start) -> None:
    meter = simulate("--constant", "1000", "--watts", "18000", "--line", "s0")
    line = meter.open_line(LineKind.S0)
    wait_until(lambda: len(meter.pulses()) >= 3)
    meter.process.send_signal(signal.SIGTERM)
    taken = take_to_the_end(meter, line)[0]
    assert meter.end() == (0, [f"emitted {taken}"])
    assert taken == len(meter.pulses()) >= 3


def test_the_same_seed_bounces_alike(simulate: Start) -> None:
    def characters(seed: str) -> bytes:
        meter = simulate(
            "--constant", "1000", "--watts", "72000", "--line", "s0", "--pulses", "12",
            "--seed", seed,
        )  # fmt: skip
        wait_until(meter.link.is_symlink)
        line = os.open(meter.link, os.O_RDONLY | os.O_NOCTTY)
        data = b""
        while select.select([line], [], [], PATIENCE_S)[0] and (part := os.read(line, 100)):
            data += part
        os.close(line)
        assert meter.end() == (0, ["emitted 12"])
        return data

    first = characters("1")
    assert first.count(0) == 12
    assert max(first) < 2**6  # characters of six bits, as the driver asks for
    assert characters("1") == first
    assert characters("2") != first


# --- Ending, and the link. -----------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_every_pulse_accounted_for(
    simulate: Start, number: signal.Signals
) -> None:
    meter = simulate("--constant", "3600000", "--watts", "1000")
    line = meter.open_line()
    counted = take(line, 300)[0]
    meter.process.send_signal(number)
    counted += take_to_the_end(meter, line)[0]
    code, out = meter.end()
    assert (code, out) == (0, [f"emitted {counted}"])
    assert meter.pulses()[-1][1] == counted
    assert meter.sums() == [f"# emitted {counted}"]


def test_a_signal_ends_it_while_no_pulse_is_due(simulate: Start) -> None:
    meter = simulate("--constant", "1000", "--watts", "0")
    wait_until(meter.link.is_symlink)
    assert meter.end(signal.SIGTERM) == (0, ["emitted 0"])
    assert not meter.link.is_symlink()


def test_seconds_end_it_though_no_pulse_came(simulate: Start) -> None:
    meter = simulate("--constant", "1000", "--watts", "0", "--seconds", "0.3")
    assert meter.end() == (0, ["emitted 0"])
    assert time.time_ns() - meter.began_ns >= 0.3 * NS_PER_S


def test_seconds_end_it_at_the_last_pulse_that_is_due_by_then(simulate: Start) -> None:
    # A million in a second: by the time the program looks, many more would be due.
    meter = simulate("--constant", "3600000", "--watts", "1000000", "--seconds", "0.005")
    assert take_to_the_end(meter, meter.open_line())[0] == 5_000
    assert meter.end() == (0, ["emitted 5000"])


def test_an_older_link_is_replaced(simulate: Start, tmp_path: Path) -> None:
    (tmp_path / "meter").symlink_to("/nowhere")
    meter = simulate("--constant", "1000", "--watts", "720000", "--pulses", "5")
    wait_until(lambda: str((tmp_path / "meter").readlink()).startswith("/dev/pts/"))
    line = meter.open_line()
    assert take(line, 5)[0] == 5
    line.close()
    meter.end()
    assert list(tmp_path.iterdir()) == [meter.log]


def test_a_link_that_another_took_over_is_left_alone(simulate: Start) -> None:
    meter = simulate("--constant", "1000", "--watts", "0")
    wait_until(meter.link.is_symlink)
    meter.link.unlink()
    meter.link.symlink_to("/dev/null")
    assert meter.end(signal.SIGTERM)[0] == 0
    assert str(meter.link.readlink()) == "/dev/null"


def test_a_link_that_is_gone_does_not_matter_at_the_end(simulate: Start) -> None:
    meter = simulate("--constant", "1000", "--watts", "0")
    wait_until(meter.link.is_symlink)
    meter.link.unlink()
    assert meter.end(signal.SIGTERM) == (0, ["emitted 0"])


# --- What is refused. ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["--constant", "0", "--watts", "1"], "'0' is no positive number"),
        (["--constant", "x", "--watts", "1"], "'x' is no positive number"),
        (["--constant", "nan", "--watts", "1"], "'nan' is no positive number"),
        (["--constant", "1/0", "--watts", "1"], "'1/0' is no positive number"),
        (["--constant", "1", "--watts", "-1"], "'-1' is no number of 0 or more"),
        (["--constant", "1", "--watts", "inf"], "'inf' is no number of 0 or more"),
        (["--constant", "1", "--watts", "1", "--speed", "0"], "'0' is no positive number"),
        (["--constant", "1", "--watts", "1", "--pulses", "1.5"], "'1.5' is no whole number"),
        (["--constant", "1", "--watts", "1", "--column", "x"], "give --series too"),
        (["--constant", "1", "--watts", "1", "--rate", "301"], "--rate 301 is no usual rate"),
        (["--constant", "1", "--watts", "1", "--line", "s0", "--rate", "300"], "remove --rate"),
        (
            ["--constant", "1", "--watts", "1", "--line", "s0", "--bounce-ms", "30"],
            "--bounce-ms is from 0 to 29",
        ),
        (["--constant", "1", "--series", "/nowhere.csv"], "cannot read the series /nowhere.csv"),
        (["--constant", "1", "--series", "/proc/self/exe"], "it is no text"),
        (["--constant", "1", "--series", "/dev/null"], "the series is empty"),
        (["--constant", "1"], "--watts --series"),
        (["--constant", "1", "--watts", "1", "--log", "/nowhere/log"], "cannot write the log"),
    ],
)
def test_what_cannot_work_is_refused_with_what_to_do(
    tmp_path: Path, arguments: list[str], advice: str
) -> None:
    command = [sys.executable, "-m", "firmware.main", "simulate"]
    ended = subprocess.run(
        [*command, "--tty", str(tmp_path / "meter"), *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode == 2
    assert advice in ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_stands_where_the_link_should_be_is_never_replaced(tmp_path: Path) -> None:
    precious = tmp_path / "meter"
    precious.write_text("mine")
    command = [sys.executable, "-m", "firmware.main", "simulate", "--tty", str(precious)]
    ended = subprocess.run(
        [*command, "--constant", "1", "--watts", "1"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode == 2
    assert "exists and is no link" in ended.stderr
    assert precious.read_text() == "mine"


def test_a_board_of_pulses_imports_no_meter_that_speaks_and_no_twin_of_one() -> None:
    """Megabytes and a second of start on a small board."""
    code = (
        "import sys, firmware.main; firmware.main._parser();"
        "import firmware.board, hal.serial_line, hal.mqtt;"
        "print(*(name for name in sys.modules if name.startswith(('hal.', 'firmware.'))))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = set(told.stdout.split())
    assert {"firmware.device", "hal.serial_line"} <= found
    spoken = {"hal.index.choice", "hal.index.plausible", "hal.index.reading"}
    assert {name for name in found if name.startswith("hal.index.")} == spoken
    assert not found & {"firmware.simulate", "firmware.speaking", "firmware.doctor"}
