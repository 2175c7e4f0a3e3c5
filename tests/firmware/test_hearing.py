"""Doctor, capture and replay of meters that speak: the real program beside a simulated meter on a
pseudo-terminal, and what each thing that may be wrong is told as."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import pytest

from cryptometer.authority_records import CountingSource, MeterDetails
from cryptometer.keys import Algorithm
from cryptometer.steps import NS_PER_S, step_start_ms
from firmware import capture, device_key, doctor, folder, hearing
from firmware.checkup import Finding, Verdict, as_lines
from firmware.enrolment import Enrolment
from firmware.hearing import Look
from firmware.journal import Journal
from firmware.simulating import Kind
from firmware.speaking import HABITS
from hal.drivers import Buses, open_index
from hal.files import DiskDirectory
from hal.index.dlms_answering import AnsweringMeter, MeterSettings
from hal.index.dlms_meter import Told
from hal.index.p1_meter import pack
from hal.index.reading import Caveat, Index, Reading, Refusal, Refused, Register
from hal.modbus_meter import WiredEnds
from tests.core.community import DETAILS, FIRST_STEP, STEP_S
from tests.firmware.kit import Office
from tests.firmware.test_folder import bundle_for
from tests.firmware.test_speaking_meters import Meter
from tests.hal.test_index_line import behind

PROGRAM = [sys.executable, "-m", "firmware.main"]
LIMIT_S = 60.0
SERIAL = HABITS[Kind.SML].identity
INDEX = replace(
    DETAILS,
    source=CountingSource.INDEX,
    constant=Fraction(10_000),
    lot_pulses=1,
    index_wh=1_000_000,
    serial=f"SIM {SERIAL}",
)


@dataclass
class Board:
    """A board's folder, and the meter before it."""

    path: Path
    meter: Meter

    @property
    def config(self) -> Path:
        return self.path / "meter.toml"

    @property
    def state(self) -> Path:
        return self.path / "state"

    def configure(self, driver: str = "sml", more: str = "", speed: int = 1) -> None:
        # The chain begins with the registration's first step, whatever the test's clock says.
        origin_ms = step_start_ms(FIRST_STEP + 1, STEP_S)
        self.config.write_text(
            f'state = "state"\n[source]\ndriver = "{driver}"\ndevice = "{self.meter.link}"\n'
            f'register = "import"\n{more}\n[clock]\ndriver = "scaled"\nspeed = {speed}\n'
            f"origin_ms = {origin_ms}\nanchor_ms = {time.monotonic_ns() // 10**6}\n"
            "[journal]\nwatch_machine_ms = 300\n"  # how often a reading is kept within a step
        )

    def enrol(self, details: MeterDetails = INDEX) -> Enrolment:
        folder.enrol(self.state, bundle_for(Office(), self.state, details))
        enrolment = folder.read_enrolment(self.state, device_key.load_device_key(self.state).public)
        assert enrolment is not None
        return enrolment

    def examine(self, seconds: float = 1.2) -> list[str]:
        """What the doctor says that is not about broker or card."""
        parts = ("line", "meter", "index", "meter clock", "period", "messages", "registration")
        findings = doctor.examine(self.config, seconds)
        compared = [one for one in findings if one.about.startswith("compared")]
        return as_lines([one for one in findings if one.about in parts] + compared)


@contextmanager
def speaking(path: Path, kind: Kind, *words: str) -> Iterator[Meter]:
    meter = Meter(path, kind, "--watts", "3600", "--speed", "50", *words)
    try:
        yield meter
    finally:
        meter.process.kill()
        meter.process.communicate(timeout=LIMIT_S)


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    """A board with a key, whose meter sends SML ten times a second."""
    device_key.initialise(tmp_path / "state", Algorithm.EDDSA)
    with speaking(tmp_path, Kind.SML, "--period-ms", "100") as meter:
        one = Board(tmp_path, meter)
        one.configure()
        yield one


def has(lines: list[str], *words: str) -> bool:
    return any(all(word in line for word in words) for line in lines)


# --- The doctor. ---------------------------------------------------------------------------------


def test_the_doctor_tells_meter_index_resolution_and_period_of_a_healthy_line(board: Board) -> None:
    board.enrol()
    lines = board.examine()
    assert has(lines, "ok", "line", "messages by 'sml'")
    assert has(lines, "ok", "meter", SERIAL)
    assert has(lines, "ok", "index", "import 10", "counts")
    assert has(lines, "ok", "index", "export 1000.0000 kWh")
    assert has(lines, "ok", "its last digit is 0.1 Wh, as registered")
    assert has(lines, "ok", "period", "a message at least every")
    assert has(lines, "ok", "registration", "its index, of which a digit is 0.1 Wh")
    assert not has(lines, "wrong ")


def test_the_doctor_says_what_a_source_says_that_is_only_compared(board: Board) -> None:
    board.configure(more='[compared]\ndriver = "sim-index"\nregister = "import"\nwatts = 700')
    lines = board.examine()
    assert has(lines, "ok", "line", "messages by 'sml'")
    assert has(lines, "ok", "compared line", "messages by 'sim-index'")
    assert has(lines, "ok", "compared meter", "identity SIM0001")
    assert has(lines, "ok", "compared index", "import", "is compared")
    board.configure(more='[compared]\ndriver = "sml"\nregister = "import"\ndevice = "/dev/none"')
    lines = board.examine()
    assert has(lines, "ok", "line", "messages by 'sml'")
    assert has(lines, "wrong", "compared", "/dev/none")
    board.configure(more='[compared]\ndriver = "sim-index"\nregister = "import"\nwats = 700')
    assert has(board.examine(), "wrong", "compared", "[compared]", "watts")


def test_the_doctor_sees_another_protocol_than_the_configured_one(board: Board) -> None:
    board.configure("p1")
    lines = board.examine()
    assert has(lines, "wrong", "line", "no message of 'p1'", "the line speaks SML")
    assert has(lines, '-> set driver = "sml"')


def test_the_doctor_says_what_differs_from_settings_and_registration(board: Board) -> None:
    board.configure(more='identity = "0A0000"')
    board.enrol(replace(INDEX, constant=Fraction(1_000), serial="7 XYZ00 1234", index_wh=9**9))
    lines = board.examine()
    assert has(lines, "wrong", "meter", "[source] says 0A0000")
    assert has(lines, "note", "registered serial 7 XYZ00 1234")
    assert has(lines, "note", "its last digit is 0.1 Wh, and registered is 1 Wh")
    assert has(lines, "wrong", "index", "less than the 387420.489 kWh that were registered")


def test_a_registration_for_pulses_is_wrong_for_a_meter_that_speaks(board: Board) -> None:
    board.enrol(DETAILS)
    assert has(board.examine(), "wrong", "index", "for pulses")


def test_a_silent_line_is_told(board: Board) -> None:
    board.meter.process.kill()
    board.meter.process.communicate(timeout=LIMIT_S)
    assert has(board.examine(0.2), "wrong", "line")


# --- What a look means. --------------------------------------------------------------------------

NOW_NS, NOW_S = 100 * NS_PER_S, 1_790_000_000


def reading(at_s: float, **changes: object) -> Reading:
    at_ns = int(at_s * NS_PER_S)
    one = Reading("7XYZ0012345678", Index(5_000), None, at_ns, at_ns)
    return replace(one, **changes)  # type: ignore[arg-type]


def judged(
    *said: Reading | Refusal,
    register: Register = Register.IMPORT,
    enrolment: Enrolment | None = None,
) -> list[str]:
    readings = [one for one in said if isinstance(one, Reading)]
    refusals = [one for one in said if isinstance(one, Refusal)]
    look = Look("p1", 10_000, readings, refusals, b"", NOW_NS, NOW_S)
    found: list[Finding] = hearing.judge_look(look, register, "", enrolment)
    return as_lines(found)


def test_what_other_settings_of_the_same_driver_read_is_told_with_them() -> None:
    raw = pack("/CME5", iter(["1-0:1.8.0(000001.234*kWh)"])) * 3
    look = Look("p1", 10_000, [], [], raw, NOW_NS, NOW_S)
    lines = as_lines(hearing.judge_look(look, Register.IMPORT, "", None))
    assert has(lines, "wrong", "line", "no good message in 10")
    assert has(lines, '-> other settings read it: [source] driver = "p1", unnamed = true')
    assert not has(lines, "leave identity out")


def test_a_meter_s_clock_is_held_against_the_system_s_at_the_same_moment() -> None:
    assert has(judged(reading(90, meter_time_s=NOW_S - 8)), "ok", "2 s ahead of")
    assert has(judged(reading(90, meter_time_s=NOW_S - 3_610)), "note", "3600 s behind")
    doubted = reading(90, caveats=frozenset({Caveat.CLOCK_DEGRADED}))
    assert has(judged(doubted), "note", "doubts it")


def test_a_register_that_is_missing_and_a_meter_without_a_number_are_told() -> None:
    lines = judged(reading(99, identity=""), register=Register.EXPORT)
    assert has(lines, "wrong", "no export register")
    assert has(lines, "note", "do not say which meter")
    several = judged(reading(98), reading(99, identity="B"))
    assert has(several, "wrong", "several meters: 7XYZ0012345678, B")


def test_messages_that_come_too_rarely_for_a_step_s_end_are_told(board: Board) -> None:
    enrolment = board.enrol(replace(INDEX, serial="7 XYZ00 1234 5678"))
    seldom = judged(reading(10), reading(90), enrolment=enrolment)
    assert has(seldom, "wrong", "period", "every 80 s")
    assert not has(seldom, "registered serial")
    assert has(judged(reading(10), enrolment=enrolment), "note", "one message only")


def test_refusals_are_told_by_reason_and_are_wrong_when_they_are_most() -> None:
    refused = [Refusal(Refused.CHECKSUM, "damaged", 1), Refusal(Refused.FORM, "odd", 2)]
    assert has(judged(reading(9), *refused), "note", "1 refused, checksum: damaged")
    assert has(judged(reading(9), *refused * 5), "wrong", "5 refused, form: odd")


# --- Beside a running program. -------------------------------------------------------------------


@contextmanager
def running(*boards: Board) -> Iterator["subprocess.Popen[bytes]"]:
    log = boards[0].path / "run.log"
    configs = [one.config for one in boards]
    with log.open("w") as output:
        process = subprocess.Popen([*PROGRAM, "run", "--config", *configs], stderr=output)
    try:
        until_s = time.monotonic() + LIMIT_S
        while log.read_text().count("watching") < len(boards):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until_s, log.read_text()
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait(LIMIT_S)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (Kind.SML, ""),
        (Kind.DLMS, "period_machine_ms = 300"),
        (Kind.MODBUS, 'map = "eastron-sdm"\naddress = 1'),
    ],
)
def test_beside_the_running_program_a_meter_that_speaks_is_left_to_it(
    tmp_path: Path, kind: Kind, more: str
) -> None:
    device_key.initialise(tmp_path / "state", Algorithm.EDDSA)
    with speaking(tmp_path, kind) as meter:
        board = Board(tmp_path, meter)
        board.configure(str(kind), more, speed=50)
        board.enrol()
        with running(board) as process:
            lines = board.examine(4)
            assert process.poll() is None
        assert has(lines, "ok", "line", "the running program reads:"), lines
        log = (tmp_path / "run.log").read_text()
    assert log.count("watching") == 1, log  # its line was taken from it at no time


def test_a_port_that_another_program_reads_is_told_with_what_to_do(tmp_path: Path) -> None:
    """As of a second meter of a bus, before the program knows it."""
    device_key.initialise(tmp_path / "state", Algorithm.EDDSA)
    with speaking(tmp_path, Kind.DLMS) as meter:
        board = Board(tmp_path, meter)
        held = {"driver": "dlms", "device": str(meter.link), "register": "import", "physical": 17}
        with closing(open_index(held, Buses())):
            for driver, more in (
                ("dlms", "physical = 18"),
                ("modbus", 'map = "eastron-sdm"\naddress = 2'),
                ("sml", ""),
            ):
                board.configure(driver, more)
                lines = board.examine(2)
                assert has(lines, "wrong", "line", "another program reads it"), lines
                assert has(lines, "restart it: it reads them all in turn"), lines


@dataclass(frozen=True)
class Bus:
    """What a board needs of a line that is no simulator's."""

    link: Path


def test_one_program_reads_all_meters_of_a_line_but_the_silent_one(tmp_path: Path) -> None:
    began_ns = time.monotonic_ns()

    def tell(_: int | None) -> Told:
        passed_s = (time.monotonic_ns() - began_ns) // NS_PER_S
        return Told(1_000_000 + 50 * passed_s, 0, 3_600, int(time.time()))

    boards: dict[int, Board] = {}
    for address in (17, 18, 19):
        path = tmp_path / str(address)
        device_key.initialise(path / "state", Algorithm.EDDSA)
        boards[address] = board = Board(path, Bus(tmp_path / "bus"))  # type: ignore[arg-type]
        more = f"physical = {address}\nperiod_machine_ms = 300\nanswer_machine_ms = 500"
        board.configure("dlms", more, speed=50)
        board.enrol()
    with closing(WiredEnds(tmp_path / "bus")) as ends:
        line = os.open(ends.far, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        meters = [
            AnsweringMeter(MeterSettings(number=f"M{one}", physical=one), tell, os.urandom)
            for one in (17, 19)
        ]

        def live() -> None:
            with suppress(BlockingIOError):
                came = os.read(line, 4_096)
                for meter in meters:
                    os.write(line, meter.receive(came, time.monotonic_ns()))

        with behind(live), running(*boards.values()) as process:
            until_s = time.monotonic() + LIMIT_S
            while not all(registers := [_register(boards[one]) for one in (17, 19)]):
                assert time.monotonic() < until_s, (registers, _log(boards[17]))
                time.sleep(0.2)
            before = registers
            while any(
                _register(boards[one]) <= was for one, was in zip((17, 19), before, strict=True)
            ):
                assert time.monotonic() < until_s, (before, _log(boards[17]))
                time.sleep(0.2)
            assert process.poll() is None
        os.close(line)
    assert _log(boards[17]).count("watching") == 3  # the line was lost at no time
    assert not _register(boards[18])


def _register(board: Board) -> int:
    journal = board.state / "journal"
    return Journal(DiskDirectory(journal)).peek() if journal.exists() else 0


def _log(board: Board) -> str:
    return (board.path / "run.log").read_text()


# --- Capture, analysis, replay. ------------------------------------------------------------------


def run(*words: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*PROGRAM, *map(str, words)], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


def test_a_capture_of_a_line_can_be_analysed_and_replayed(board: Board) -> None:
    board.enrol()
    tape = board.path / "line.tape"
    said = capture.capture(board.config, tape, 1.5)
    assert re.search("[0-9]+ readings, [01] refused", said)  # it was joined within a message
    assert "analyze" in said
    told = json.loads(run("analyze", "--json", tape).stdout)
    assert (told["driver"], told["identities"]) == ("sml", [SERIAL])
    assert told["good"] >= 5
    assert told["verdict"] != Verdict.WRONG
    again = run("replay", tape)
    assert again.returncode == 0, again.stderr + again.stdout
    assert "lives 1" in again.stdout


def test_a_line_is_captured_before_anybody_has_registered_the_meter(board: Board) -> None:
    tape = board.path / "line.tape"
    assert "readings" in capture.capture(board.config, tape, 0.7)
    assert json.loads(run("analyze", "--json", tape).stdout)["driver"] == "sml"


def test_a_meter_that_is_asked_is_captured_too(tmp_path: Path) -> None:
    device_key.initialise(tmp_path / "state", Algorithm.EDDSA)
    with speaking(tmp_path, Kind.DLMS) as meter:
        board = Board(tmp_path, meter)
        board.configure("dlms", "period_machine_ms = 300")
        tape = tmp_path / "line.tape"
        capture.capture(board.config, tape, 4)
        told = json.loads(run("analyze", "--json", tape).stdout)
        assert told["identities"] == [HABITS[Kind.DLMS].identity]
        lines = board.examine(2.5)
        assert has(lines, "ok", "meter", HABITS[Kind.DLMS].identity)


def test_what_a_run_recorded_of_a_meter_that_speaks_comes_again_byte_for_byte(board: Board) -> None:
    """In scaled time, in which the meter gives fifty times its power."""
    board.configure(speed=50)
    board.enrol()
    tape, log = board.path / "run.tape", board.path / "run.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*PROGRAM, "run", "--config", board.config, "--capture", tape], stderr=output
        )
        until_s = time.monotonic() + LIMIT_S
        while not tape.exists() and time.monotonic() < until_s:  # a busy machine starts it late
            time.sleep(0.1)
        time.sleep(4)
        process.terminate()
        assert process.wait(LIMIT_S) == 0, log.read_text()
    again = run("replay", tape, "--key", board.state / "device.key", "--out", board.path / "again")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "the same, byte for byte" in again.stdout
    [register] = re.findall(r"index ([0-9]+),", again.stdout)  # in tenths of a watt-hour
    shown = [imported for imported, _ in board.meter.shown()]
    assert shown[0] + 50 < int(register) // 10 <= shown[-1]
    told = json.loads(run("analyze", "--json", tape).stdout)
    assert (told["driver"], told["identities"]) == ("sml", [SERIAL])
