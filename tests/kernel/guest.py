"""Runs in the guest: starts the board's program, and is the meter at its line.

The line is one of `gpio-sim`: its pull, a file, sets the level. It is wired as a contact to ground.
"""

import ctypes
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import gpiod
from gpiod.line import Bias, Clock, Edge

from cryptometer.steps import NS_PER_MS
from tests.kernel.plan import (
    COUNTER,
    COUNTER_LINE,
    EDGES,
    EVENTS_MAX,
    LINE,
    NS_BYTES,
    PLAN,
    PULSES_PORT,
    RECORDED,
    STATE,
    STORY,
    TALK,
    Plan,
    Play,
)

LONGEST_S = 240.0  # a boot that hangs ends by itself
STEP_S = 900
PLAY_S = 60  # of a boot whose clock does not run faster: from the program's start to its step's end
SIMULATED = Path("/sys/kernel/config/gpio-sim/meter")
CONFIG = Path("/mnt/meter.toml")
BURST = 128  # pulses between two looks at whether all were taken: far below what the kernel keeps
UNSYNCED = (
    "import os, sys; os.fsync = os.fdatasync = lambda number: None;"
    " from firmware.main import main; sys.exit(main())"
)
# A guest of QEMU is no Raspberry Pi: which one it is to be taken for, and which chip is its.
BOARD = {"RPI_LGPIO_REVISION": "c03111", "RPI_LGPIO_CHIP": "0"}
# A contact of S0 (IEC 62053-31): on and off for 30 ms at least, settled within 5 ms.
S0_LEAST_MS, S0_SPREAD_MS, SETTLED_NS = 30, 10, 4 * NS_PER_MS
_PIDFD_GETFD = 438  # x86-64
_ADJ_MAXERROR, _ADJ_STATUS = 0x0004, 0x0010  # linux/timex.h


def main() -> int:
    """Plays one boot."""
    signal.alarm(int(LONGEST_S))
    plan = Plan.decode((TALK / PLAN).read_text())
    tell("booted_ns", time.monotonic_ns())
    bank = make_lines()
    beside = {Play.BESIDE: (COUNTER_LINE,), Play.S0: (RECORDED,)}
    contact = Contact(bank, (LINE, *beside.get(plan.play, ())))
    if not plan.is_tuned:
        plan = set_clock(plan)
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
        case Play.BESIDE:
            play_beside(plan, contact)
        case Play.S0:
            play_s0(plan, contact)
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
    (bank / "label").write_text("meter")  # wired.c names it
    (SIMULATED / "live").write_text("1")
    device = (SIMULATED / "dev_name").read_text().strip()
    chip = (bank / "chip_name").read_text().strip()
    assert chip == "gpiochip0", chip
    return Path("/sys/devices/platform") / device / chip


def set_clock(plan: Plan) -> Plan:
    """Sets the system's clock so that a step ends when the play has, and says, as a time daemon
    does, that it is right; returns the plan in that time."""
    left_ms = (STEP_S - PLAY_S) * 1_000
    now_ms = plan.origin_ms // (STEP_S * 1_000) * (STEP_S * 1_000) + left_ms
    origin_ms = now_ms - time.monotonic_ns() // NS_PER_MS
    time.clock_settime_ns(time.CLOCK_REALTIME, now_ms * NS_PER_MS)
    timex = bytearray(512)
    timex[0:4] = (_ADJ_MAXERROR | _ADJ_STATUS).to_bytes(4, "little")
    timex[24:32] = (10_000).to_bytes(8, "little")  # maxerror, us; status is 0: synchronised
    where = (ctypes.c_char * len(timex)).from_buffer(timex)
    assert ctypes.CDLL(None).adjtimex(where) >= 0
    return replace(plan, origin_ms=origin_ms)


def configuration(plan: Plan) -> str:
    """`meter.toml`."""
    tuned = f"""
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
"""
    return f'state = "{STATE}"\n{tuned if plan.is_tuned else ""}\n[source]\n{plan.source}'


def start(plan: Plan) -> subprocess.Popen[bytes]:
    """The board's program."""
    main = ["-m", "firmware.main"] if plan.is_synced else ["-c", UNSYNCED]
    tell("launched_ns", time.monotonic_ns())
    with (TALK / "firmware.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, *main, "run", "--config", CONFIG],
            stderr=log,
            env={**os.environ, **BOARD},
        )


def is_watching(starts: int = 1) -> bool:
    """Whether the program watches, after so many starts."""
    return (TALK / "firmware.log").read_text().count("watching") >= starts


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
    """The meter's contact: closed, it pulls its lines to ground."""

    def __init__(self, bank: Path, lines: tuple[int, ...]) -> None:
        self._pulls = [os.open(bank / f"sim_gpio{line}" / "pull", os.O_WRONLY) for line in lines]
        self._draw = random.Random(1)
        self.emitted = 0
        self.slowest_ns = 0  # to settle
        self.open()

    def close(self) -> None:
        for pull in self._pulls:
            os.pwrite(pull, b"pull-down", 0)

    def open(self) -> None:
        for pull in self._pulls:
            os.pwrite(pull, b"pull-up", 0)

    def pulse(self) -> None:
        self.close()
        self.open()
        self.emitted += 1

    def s0_pulse(self) -> None:
        """A pulse that bounces at both ends, of legal times."""
        self._settle(self.close, self.open)
        self._rest()
        self._settle(self.open, self.close)
        self._rest()
        self.emitted += 1

    def _rest(self) -> None:
        """On or off for as long as S0 wants, in many naps: where a busy machine has the guest wake
        late, each lets the kernel catch up, whose debounce would else find both ends at once."""
        for _ in range(self._draw.randint(S0_LEAST_MS, S0_LEAST_MS + S0_SPREAD_MS)):
            time.sleep(0.001)

    def _settle(self, to: Callable[[], None], away: Callable[[], None]) -> None:
        began_ns = time.monotonic_ns()
        to()
        for _ in range(self._draw.randrange(4)):
            # Not asleep: a busy machine may wake the guest late.
            until_ns = time.monotonic_ns() + self._draw.randrange(SETTLED_NS // 8)
            while time.monotonic_ns() < until_ns:
                pass
            away()
            to()
        self.slowest_ns = max(self.slowest_ns, time.monotonic_ns() - began_ns)


@contextmanager
def settled(program: "subprocess.Popen[bytes]", starts: int = 1) -> Iterator[Callable[[], bool]]:
    """Waits until the program is at its work; yields what tells whether it has taken all edges.

    By a copy of the descriptor on which the program has the line: whether it polls readable says
    whether edges wait in the kernel. It is never read here, and keeps the line from others.
    """
    wait(lambda: is_watching(starts))
    time.sleep(1)
    libc = ctypes.CDLL(None, use_errno=True)
    [number] = [
        int(one.name)
        for one in Path(f"/proc/{program.pid}/fd").iterdir()
        if one.readlink().name == "anon_inode:gpio-line"
    ]
    ours = int(libc.syscall(_PIDFD_GETFD, os.pidfd_open(program.pid), number, 0))
    assert ours >= 0, os.strerror(ctypes.get_errno())
    line = select.poll()
    line.register(ours, select.POLLIN)
    yield lambda: not line.poll(0)
    os.close(ours)


def emit(contact: Contact, pulses: int, taken: Callable[[], bool]) -> None:
    """As fast as they are taken."""
    for number in range(pulses):
        contact.pulse()
        if number % BURST == BURST - 1:
            wait(taken, 0.001)
    wait(taken, 0.001)


def burst(contact: Contact, pulses: int) -> int:
    """Pulses that no one waits for; returns how many."""
    for _ in range(pulses):
        contact.pulse()
    return pulses


def play_limits(plan: Plan, contact: Contact) -> None:
    program = start(plan)
    with settled(program) as taken:
        began_ns = time.monotonic_ns()
        emit(contact, plan.pulses, taken)
        tell("paced", contact.emitted)
        tell("paced_ns", time.monotonic_ns() - began_ns)
        # What the kernel keeps, to the last edge.
        stop(program)
        burst(contact, EVENTS_MAX // plan.edges)
        program.send_signal(signal.SIGCONT)
        wait(taken)
        tell("full", contact.emitted)
        # And more than it keeps.
        stop(program)
        began_ns = time.monotonic_ns()
        tell("overflowed", burst(contact, 3 * EVENTS_MAX))
        tell("burst_ns", time.monotonic_ns() - began_ns)
        program.send_signal(signal.SIGCONT)
        wait(taken)
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


def play_beside(plan: Plan, contact: Contact) -> None:
    """The program goes away twice, once with a word and once with none, and once stands still for
    so long that the kernel drops edges. Pulses come all the while."""
    tell("counted_before", int((COUNTER / "count").read_text()))
    program = start(plan)
    with settled(program) as taken:
        emit(contact, plan.pulses, taken)
    end_early(program)
    missed = burst(contact, 3 * BURST)

    program = start(plan)
    with settled(program, 2) as taken:
        emit(contact, plan.pulses, taken)
    stop(program)
    missed += burst(contact, BURST)  # they wait in the kernel, and are gone with the program
    program.kill()
    program.wait()
    missed += burst(contact, 2 * BURST)
    tell("missed", missed)

    program = start(plan)
    with settled(program, 3) as taken:
        emit(contact, plan.pulses, taken)
        stop(program)
        tell("dropped", burst(contact, EVENTS_MAX + BURST) - EVENTS_MAX)
        program.send_signal(signal.SIGCONT)
        wait(taken)
    end_early(program)

    program = start(plan)
    with settled(program, 4) as taken:
        emit(contact, plan.pulses, taken)
    tell("emitted", contact.emitted)
    end(plan, program)
    tell("counted_beside", int((COUNTER / "count").read_text()))


def end_early(program: "subprocess.Popen[bytes]") -> None:
    """Ends the program in order, in the middle of a step."""
    time.sleep(0.5)
    program.terminate()
    assert program.wait() == 0


def play_s0(plan: Plan, contact: Contact) -> None:
    program = start(plan)
    wait(is_watching)
    time.sleep(1)
    line = gpiod.LineSettings(
        edge_detection=Edge.BOTH, bias=Bias.PULL_UP, active_low=True, event_clock=Clock.MONOTONIC
    )
    with (
        gpiod.request_lines(
            "/dev/gpiochip0", config={RECORDED: line}, event_buffer_size=EVENTS_MAX
        ) as request,
        (TALK / EDGES).open("w") as edges,
    ):
        for _ in range(plan.pulses):
            contact.s0_pulse()
            while request.wait_edge_events(0):
                for event in request.read_edge_events():
                    is_on = event.event_type is gpiod.EdgeEvent.Type.RISING_EDGE
                    edges.write(f"{event.timestamp_ns} {is_on:d}\n")
    tell("emitted", contact.emitted)
    time.sleep(1)
    if plan.stalled:
        stop(program)
        for _ in range(plan.stalled):
            contact.s0_pulse()
        program.send_signal(signal.SIGCONT)
        time.sleep(1)
    tell("slowest_ns", contact.slowest_ns)
    end(plan, program)


if __name__ == "__main__":
    sys.exit(main())
