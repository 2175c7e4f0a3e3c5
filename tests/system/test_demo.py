"""The demonstration as its user runs it: a process, on a pipe and on a terminal, to its good end,
to a broken one, and interrupted."""

import fcntl
import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from cryptometer.commands.demo.command import Audited, missing
from cryptometer.commands.demo.processes import COMMON, ENDINGS, FIRMWARE, GATEWAY, program, run
from tests.commands.outsider import process

ROOT = Path(__file__).parents[2]
SPEED = 180  # a step in 5 s
RUN_MAX_S = 170.0
WAIT_MAX_S = 90.0


def demo(*words: str | Path) -> list[str]:
    """Its command line: two meters, one block."""
    numbers = ("--meters", "2", "--blocks", "1", "--speed", str(SPEED))
    return program(COMMON, "demo", *numbers, *words)


def programs_of(folder: Path) -> dict[int, str]:
    """The processes whose command line names the folder, by their ids."""
    found = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                line = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # it has just ended
            if str(folder) in line:
                found[int(place.name)] = line
    return found


def wait(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_MAX_S
    while not true():
        assert time.monotonic() < deadline, f"waited {WAIT_MAX_S} s for {what}"
        time.sleep(0.05)


def check_nothing_runs(folder: Path) -> None:
    assert programs_of(folder) == {}


def emitted_and_found(said: str) -> tuple[int, int]:
    """The sums it prints at its end."""
    [(emitted, found)] = re.findall(
        r"^pulses emitted = (\d+), pulses in blocks = (\d+),", said, re.MULTILINE
    )
    return int(emitted), int(found)


class Running:
    """A demonstration on a pipe. What it says goes to a file."""

    def __init__(self, tmp_path: Path, *words: str) -> None:
        self.keep = tmp_path / "keep"
        self._log = tmp_path / "said"
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                demo("--keep", self.keep, *words),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def said(self) -> str:
        return self._log.read_text()

    def wait_for(self, text: str) -> None:
        def found() -> bool:
            assert self.process.poll() is None, self.said
            return text in self.said

        wait(found, f"{text!r}")

    def pid_of(self, module: str, name: str) -> int:
        """The process of one of its programs, by the folder of its configuration."""
        [pid] = [
            pid for pid, line in programs_of(self.keep / name).items() if f"-m {module} run" in line
        ]
        return pid

    def end(self) -> int:
        code = self.process.wait(RUN_MAX_S)
        assert "Traceback" not in self.said
        check_nothing_runs(self.keep)
        return code


# --- To its good end. ----------------------------------------------------------------------------


@pytest.mark.parametrize("broker", ["auto", "embedded"])
def test_every_pulse_emitted_stands_in_a_block_and_all_can_be_looked_at(
    broker: str, tmp_path: Path
) -> None:
    running = Running(tmp_path, "--broker", broker)
    assert running.end() == 0, running.said
    said, keep = running.said, running.keep
    if broker == "embedded":
        assert said.startswith("broker     embedded broker on 127.0.0.1:")
    assert "\x1b" not in said  # plain lines
    emitted, found = emitted_and_found(said)
    assert emitted == found > 1_000
    assert "MISSING" not in said
    blocks = re.findall(
        r"^block .* heard (\d)/(\d)  late \d+  punctuality (.*)$", said, re.MULTILINE
    )
    assert blocks[0] == ("0", "0", "caught up")  # the one that holds the registrations
    # On a busy machine a gateway starts later than its first step ends; the last one it is there.
    assert re.fullmatch(r"\d+\.\d s, real \d+ ms", blocks[-1][2])

    # What it says can be typed next, typed.
    shown = said.split("look at it with\n")[1].splitlines()
    typed = [line for line in shown if re.match(r"  [^#]", line)]
    assert len(typed) == 7
    audit = typed[0]
    pub = keep / "community.pub"
    assert audit.endswith(f"cryptometer audit {keep}/gateway --community {pub}")
    for line in typed:
        words = shlex.split(line)
        words[0] = str(Path(sys.executable).with_name(Path(words[0]).name))
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, ""), line
    lines = process("audit", keep / "gateway" / "ledger", "--community", pub).lines
    registers = [int(line.split()[2]) for line in lines if line.startswith("meter ")]
    assert sum(registers) == emitted
    # Members have all of it, by their keys; and a share leads back to the lots of the meters that
    # gave energy in its step: in the last one, on a busy machine, not always both.
    accounts = dict(re.findall(r"^(ada|bo|cy): ([0-9.]+) kWh$", said, re.MULTILINE))
    [energy] = re.findall(r", energy ([0-9.]+) kWh$", said, re.MULTILINE)
    assert sum(map(Fraction, accounts.values())) == Fraction(energy)
    assert float(accounts["ada"]) == pytest.approx(float(energy) / 2, abs=1e-6)
    assert "rule recomputed: the agreement gives just these shares" in said
    assert re.search(r"from pv-(roof-1|shed-2) .*, by \d+ signed lots", said)
    # A record's proof, too, and for no other community.
    proof = keep / "proof"
    run(GATEWAY, "prove", "pv-roof-1/1", "--out", proof, "--config", keep / "gateway")
    assert process("verify", proof, "--community", pub).lines[0].endswith("batch")
    vectors = ROOT / "tests" / "vectors" / "community.pub"
    assert process("verify", proof, "--community", vectors).refusal


def test_on_a_terminal_the_tables_live(tmp_path: Path) -> None:
    keep = tmp_path / "keep"
    here, there = pty.openpty()
    # 24 lines of 80 columns: the least a terminal has.
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in {"NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR"}
    }
    child = subprocess.Popen(
        demo("--keep", keep),
        cwd=ROOT,
        stdin=there,
        stdout=there,
        stderr=there,
        env=environment | {"TERM": "xterm"},
    )
    os.close(there)
    shown = bytearray()
    deadline = time.monotonic() + RUN_MAX_S
    try:
        while time.monotonic() < deadline:
            if not select.select([here], [], [], 1.0)[0]:
                continue
            try:
                shown += os.read(here, 65_536)
            except OSError:
                break  # EIO: the last process has let go of the terminal
    finally:
        os.close(here)
    assert child.wait(10) == 0, shown.decode(errors="replace")[-2000:]
    check_nothing_runs(keep)
    text = shown.decode()
    assert "\x1b[?25l" in text  # a live display hides the cursor,
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # and shows it again
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n")
    for title in ("pulses to lots", "pulses emitted", "punctuality", "pv-roof-1", "pv-shed-2"):
        assert title in plain
    # Nothing is wider than the terminal, and no cell of a table is cut off.
    tables = [line for line in plain.split("\n") if line[:1] in "┃│┏┡└"]
    assert tables
    assert max(map(len, tables)) <= 80
    assert not any("…" in line for line in tables)
    emitted, found = emitted_and_found(plain)
    assert emitted == found


# --- To a broken one. ----------------------------------------------------------------------------


def test_a_gateway_that_dies_is_named(tmp_path: Path) -> None:
    running = Running(tmp_path)
    running.wait_for("\nblock ")
    os.kill(running.pid_of(GATEWAY, "gateway"), signal.SIGKILL)
    assert running.end() == 1
    assert "cryptometer demo: gateway was killed by signal 9; its log ends:\n" in running.said
    assert f"all of it lies in {running.keep}" in running.said
    assert "pulses emitted =" not in running.said


def test_a_firmware_that_dies_is_named(tmp_path: Path) -> None:
    running = Running(tmp_path)
    running.wait_for("\nblock ")
    os.kill(running.pid_of(FIRMWARE, "pv-shed-2"), signal.SIGKILL)
    assert running.end() == 1
    assert "cryptometer demo: pv-shed-2 was killed by signal 9; its log ends:\n" in running.said


def test_a_ledger_tampered_with_is_named(tmp_path: Path) -> None:
    running = Running(tmp_path)
    running.wait_for("meters stopped")
    # In a registration of the first block, again and again: the gateway, whose own store is
    # untouched, writes newer files beside older ones.
    deadline = time.monotonic() + RUN_MAX_S
    while running.process.poll() is None and time.monotonic() < deadline:
        for path in (running.keep / "gateway" / "ledger" / "tile" / "entries").rglob("*"):
            with suppress(FileNotFoundError, IsADirectoryError), path.open("r+b") as file:
                file.seek(500)
                file.write(b"altered")
        time.sleep(0.01)
    assert running.end() == 1
    assert re.search(r"leaf 1 is not the one its tile holds", running.said), running.said
    assert "the ledger holds" not in running.said


# --- Interrupted. --------------------------------------------------------------------------------


@pytest.fixture
def heeded() -> Iterator[None]:
    """Children heed signals, though the tests may run in the background, or under nohup(1)."""
    before = {number: signal.signal(number, _unheard) for number in ENDINGS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def _unheard(_number: int, _frame: object) -> None:
    raise AssertionError("meant for the demonstration")


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, "broker  "),
        (signal.SIGHUP, "community  "),
        (signal.SIGINT, "\nblock "),
        (signal.SIGTERM, "\nblock "),
    ],
)
def test_an_interrupt_ends_every_process(
    number: signal.Signals, moment: str, tmp_path: Path
) -> None:
    running = Running(tmp_path)
    running.wait_for(moment)
    deadline = time.monotonic() + WAIT_MAX_S
    # The impatient one goes on asking while the children end.
    while running.process.poll() is None and time.monotonic() < deadline:
        running.process.send_signal(number)
        time.sleep(0.002)
    assert running.end() == 128 + number
    assert f"interrupted; what there is lies in {running.keep}" in running.said


# --- What cannot work. ---------------------------------------------------------------------------


def test_numbers_out_of_range_and_folders_in_use_are_refused(tmp_path: Path) -> None:
    for words, why in (
        (("--meters", "0"), "--meters is from 1 to 100"),
        (("--meters", "101"), "--meters is from 1 to 100"),
        (("--blocks", "0"), "--blocks is from 1 to 1000"),
        (("--speed", "-1"), "--speed is from 1 to 900"),
        (("--speed", "901"), "--speed is from 1 to 900"),
    ):
        assert process("demo", *words, "--keep", tmp_path / "x").refusal == why
    assert process("demo", "--meters", "two").code == 2
    assert process("demo", "--broker", "other").code == 2
    assert not (tmp_path / "x").exists()
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("precious")
    assert process("demo", "--keep", full).refusal == f"{full} is not empty; name a new folder"
    assert [path.name for path in full.iterdir()] == ["mine"]
    said = process("demo", "--keep", full / "mine").refusal
    assert said == f"{full / 'mine'} is no folder; name a new one"


def test_without_mosquitto_it_says_so_when_it_is_asked_for(tmp_path: Path) -> None:
    hidden = (
        "from cryptometer.commands.demo import broker, command\n"
        "command.find_mosquitto = lambda: None\n"
        "from cryptometer.commands.main import main\n"
        "raise SystemExit(main(['demo', '--broker', 'mosquitto']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", hidden], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == (
        "cryptometer: Mosquitto is not installed: install it, or --broker embedded\n"
    )


def test_without_its_libraries_it_says_what_to_install_and_the_rest_works() -> None:
    """As `pip install cryptometer` leaves it, without extras."""
    bare = (
        "import sys\n"
        "for name in ('rich', 'paho', 'amqtt', 'serial'):\n"
        "    sys.modules[name] = None\n"
        "from cryptometer.commands.main import main\n"
        "raise SystemExit(main(sys.argv[1:]))\n"
    )
    for words, code in ((["--help"], 0), (["bound", "--help"], 0), (["demo"], 2)):
        done = subprocess.run(
            [sys.executable, "-c", bare, *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        if code:
            assert re.fullmatch(
                r"cryptometer: the demonstration needs \w+(\.\w+)*:"
                r" pip install 'cryptometer\[demo\]'\n",
                done.stderr,
            )


def test_what_is_missing_is_listed_line_by_line() -> None:
    whole = Audited(9, 40, 3, 0, {"a": 10, "b": 5}, 15, 0, 0)
    assert missing(whole, {"a": 10, "b": 5}) == []
    short = replace(whole, registers={"a": 9}, open_uwh=200_000, quarantined_uwh=7)
    assert missing(short, {"a": 10, "b": 5}) == [
        "a emitted 10 pulses, and 9 are in blocks",
        "b emitted 5 pulses, and 0 are in blocks",
        "0.0002 kWh are not transferred",
        "0.000000007 kWh are quarantined",
    ]
    assert missing(replace(whole, waiting_uwh=10**9), {"a": 10, "b": 5}) == [
        "1.000 kWh wait at the virtual power plant"
    ]
    # More than was emitted is as wrong as less.
    assert missing(replace(whole, registers={"a": 11}), {"a": 10})
