"""Runs in the guest: starts the board's program, and is the meter at its line.

The line is one of `gpio-sim`: its pull, a file, sets the level. It is wired as a contact to ground.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cryptometer.steps import NS_PER_MS
from tests.kernel.plan import (
    EVENTS_MAX,
    NS_BYTES,
    PLAN,
    PULSES_PORT,
    STATE,
    STORY,
    TALK,
    Plan,
    Play,
)

LONGEST_S = 240.0  # a boot that hangs ends by itself
STEP_S = 900
OFFSET, WITNESS = 3, 5
SIMULATED = Path("/sys/kernel/config/gpio-sim/meter")
CONFIG = Path("/mnt/meter.toml")
BURST = 128  # pulses between two looks at whether all were taken: far below what the kernel keeps
UNSYNCED = (
    "import os, sys; os.fsync = os.fdatasync = lambda number: None;"
    " from firmware.main import main; sys.exit(main())"
)
_PIDFD_GETFD = 438  # x86-64


def main() -> int:
    """Plays one boot."""
    signal.alarm(int(LONGEST_S))
    plan = Plan.decode((TALK / PLAN).read_text())
    tell("booted_ns", time.monotonic_ns())
    bank = make_lines()
    contact = Contact(bank)
    CONFIG.write_text(configuration(plan))
    match plan.play:
        case Play.LIMITS:
            play_limits(plan, contact)
        case Play.CUT:
            play_cut(plan, contact)
        case Play.REST:
            end(plan, start(plan))
        case Play.RACE:
            play_race(plan, contact)
    tell("ended", 1)
    return 0


def tell(word: str, number: int) -> None:
    """Tells the machine around us; it is there when this returns."""
    with (TALK / STORY).open("a") as story:
        story.write(f"{word}={number}\n")


# --- The board. ----------------------------------------------------------------------------------


def make_lines() -> Path:
    """Makes a chip of simulated lines; returns where they are set."""
    bank = SIMULATED / "bank"
    bank.mkdir(parents=True)
    (bank / "num_lines").write_text("8")
    (SIMULATED / "live").write_text("1")
    device = (SIMULATED / "dev_name").read_text().strip()
    chip = (bank / "chip_name").read_text().strip()
    assert chip == "gpiochip0", chip
    return Path("/sys/devices/platform") / device / chip


def configuration(plan: Plan) -> str:
    """`meter.toml`."""
    return f"""\
state = "{STATE}"

[clock]
driver = "scaled"
speed = {plan.speed}
origin_ms = {plan.origin_ms}
anchor_ms = 0

[batch]
delay_community_ms = {500 * plan.speed}

[journal]
sync_machine_ms = {plan.sync_ms}
watch_machine_ms = 500

[source]
driver = "gpio"
chip = "/dev/gpiochip0"
offset = {OFFSET}
{plan.pulse}"""


def start(plan: Plan) -> subprocess.Popen[bytes]:
    """The board's program."""
    main = ["-m", "firmware.main"] if plan.is_synced else ["-c", UNSYNCED]
    tell("launched_ns", time.monotonic_ns())
    with (TALK / "firmware.log").open("ab") as log:
        return subprocess.Popen([sys.executable, *main, "run", "--config", CONFIG], stderr=log)


def is_watching() -> bool:
    return "watching" in (TALK / "firmware.log").read_text()


def wait(true: Callable[[], bool], every_s: float = 0.02) -> None:
    while not true():
        time.sleep(every_s)


def end(plan: Plan, program: "subprocess.Popen[bytes]") -> None:
    """Waits until the running step is closed, and ends the program in order."""
    wait(is_watching)
    tell("watching_ns", time.monotonic_ns())
    now_ms = plan.origin_ms + time.monotonic_ns() // NS_PER_MS * plan.speed
    left_ms = STEP_S * 1_000 - now_ms % (STEP_S * 1_000)
    time.sleep(left_ms / 1_000 / plan.speed + 1.5)
    program.terminate()
    tell("code", program.wait())


# --- The meter. ----------------------------------------------------------------------------------


class Contact:
    """The meter's contact: closed, it pulls the line to ground."""

    def __init__(self, bank: Path) -> None:
        self._pull = os.open(bank / f"sim_gpio{OFFSET}" / "pull", os.O_WRONLY)
        self.emitted = 0
        self.open()

    def close(self) -> None:
        os.pwrite(self._pull, b"pull-down", 0)

    def open(self) -> None:
        os.pwrite(self._pull, b"pull-up", 0)

    def pulse(self) -> None:
        self.close()
        self.open()
        self.emitted += 1


def borrow_line(program: "subprocess.Popen[bytes]") -> int:
    """A copy of the descriptor on which the program has the line: whether it polls readable says
    whether edges wait in the kernel. It is never read here."""
    libc = ctypes.CDLL(None, use_errno=True)
    [number] = [
        int(one.name)
        for one in Path(f"/proc/{program.pid}/fd").iterdir()
        if one.readlink().name == "anon_inode:gpio-line"
    ]
    ours = int(libc.syscall(_PIDFD_GETFD, os.pidfd_open(program.pid), number, 0))
    assert ours >= 0, os.strerror(ctypes.get_errno())
    return ours


def play_limits(plan: Plan, contact: Contact) -> None:
    program = start(plan)
    wait(is_watching)
    time.sleep(1)
    line = select.poll()
    line.register(borrow_line(program), select.POLLIN)

    def taken() -> bool:
        return not line.poll(0)

    began_ns = time.monotonic_ns()
    while contact.emitted < plan.pulses:
        for _ in range(BURST):
            contact.pulse()
        wait(taken, 0.001)
    tell("paced", contact.emitted)
    tell("paced_ns", time.monotonic_ns() - began_ns)
    # What the kernel keeps, to the last edge.
    stop(program)
    before = contact.emitted
    while (contact.emitted - before) * plan.edges < EVENTS_MAX:
        contact.pulse()
    program.send_signal(signal.SIGCONT)
    wait(taken)
    tell("full", contact.emitted)
    # And more than it keeps.
    stop(program)
    before, began_ns = contact.emitted, time.monotonic_ns()
    for _ in range(3 * EVENTS_MAX):
        contact.pulse()
    tell("burst_ns", time.monotonic_ns() - began_ns)
    program.send_signal(signal.SIGCONT)
    wait(taken)
    tell("overflowed", contact.emitted - before)
    tell("emitted", contact.emitted)
    end(plan, program)


def stop(program: "subprocess.Popen[bytes]") -> None:
    """Stops a program as a long stall would, and waits until it stands."""
    program.send_signal(signal.SIGSTOP)
    status = Path(f"/proc/{program.pid}/stat")
    wait(lambda: status.read_text().rpartition(")")[2].split()[0] == "T", 0.001)


def play_cut(plan: Plan, contact: Contact) -> None:
    """Emits until the power is cut. The pulse is told before it begins: of what stands there the
    last one may not have come."""
    port = os.open("/dev/port", os.O_WRONLY)
    start(plan)
    is_told = False
    while True:
        for byte in time.monotonic_ns().to_bytes(NS_BYTES, "little"):
            # Outside before it returns: QEMU writes it on its way through this instruction.
            os.pwrite(port, bytes([byte]), PULSES_PORT)
        contact.pulse()
        if not is_told and contact.emitted % 25 == 0 and is_watching():
            tell("watching_ns", time.monotonic_ns())
            is_told = True
        time.sleep(plan.gap_ms / 1_000)


def play_race(plan: Plan, contact: Contact) -> None:
    program = start(plan)
    wait(is_watching)
    time.sleep(1)
    began_ns = time.monotonic_ns()
    for _ in range(plan.pulses):
        contact.pulse()
        # Room for the program to take what the kernel keeps: it is edges that are to be merged.
        if contact.emitted % BURST == 0:
            time.sleep(0.25)
    tell("race_ns", time.monotonic_ns() - began_ns)
    tell("emitted", contact.emitted)
    time.sleep(1)
    end(plan, program)


if __name__ == "__main__":
    sys.exit(main())
