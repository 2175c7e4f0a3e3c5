"""The serial driver on real pseudo-terminals: every byte counts, none is dropped or made up."""

import errno
import fcntl
import os
import pty
import random
import select
import struct
import termios
import time
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer.errors import ConfigurationError
from cryptometer.steps import NS_PER_MS
from hal import serial_line
from hal.ports import LineLost, PulseSource, Taken
from hal.serial_line import LineKind, SerialLine, SerialSettings
from hal.uart import (
    S0_BAUD,
    S0_BITS,
    S0_BOUNCE_NS,
    S0_LEAST_NS,
    Contact,
    contact_edges,
    receive,
)
from tests.core.strategies import examples

PATIENCE_S = 10.0
TIOCGICOUNT = 0x545D  # linux/serial.h
QUIET_S = 0.05  # long enough for the kernel to hand over what was written


class Terminal:
    """A pseudo-terminal whose far side also stays open here, as a meter stays plugged in."""

    def __init__(self) -> None:
        self.line, self.far = pty.openpty()
        tty.setraw(self.far)
        self.device = os.ttyname(self.far)

    def settings(self, line: LineKind = LineKind.BYTE, baud: int = 300) -> SerialSettings:
        return SerialSettings(self.device, line, baud)

    def send(self, data: bytes) -> None:
        os.write(self.line, data)

    def unplug(self) -> None:
        for descriptor in (self.line, self.far):
            if descriptor >= 0:
                os.close(descriptor)
        self.line = self.far = -1


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.unplug()


@pytest.fixture
def line(terminal: Terminal) -> Iterator[SerialLine]:
    opened = SerialLine(terminal.settings())
    yield opened
    opened.close()


def take_all(source: PulseSource, expected: int) -> Taken:
    """Looks as a program does, until so many bytes have come and then no more."""
    pulses = noise = lost = 0
    until_s = time.monotonic() + PATIENCE_S
    while True:
        wait_s = QUIET_S if pulses + noise >= expected else until_s - time.monotonic()
        if not select.select([source], [], [], max(0, wait_s))[0]:
            return Taken(pulses, noise=noise, lost=lost)
        taken = source.take()
        pulses, noise, lost = pulses + taken.pulses, noise + taken.noise, lost + taken.lost


# --- A byte per pulse. ---------------------------------------------------------------------------


def test_every_value_of_a_byte_is_one_pulse(terminal: Terminal, line: SerialLine) -> None:
    """Control characters too: end of file, interrupt, XOFF, erase, line feed."""
    for value in range(256):
        terminal.send(bytes([value]))
    assert take_all(line, 256) == Taken(256)


def test_an_idle_line_brings_nothing_and_is_not_lost(line: SerialLine) -> None:
    assert line.take() == Taken(0)
    assert line.take() == Taken(0)
    assert select.select([line], [], [], 0)[0] == []


def test_nothing_is_echoed_to_the_meter(terminal: Terminal, line: SerialLine) -> None:
    terminal.send(bytes(range(256)))
    take_all(line, 256)
    assert select.select([terminal.line], [], [], QUIET_S)[0] == []


def test_a_burst_longer_than_the_terminals_buffer_is_counted_whole(
    terminal: Terminal, line: SerialLine
) -> None:
    for _ in range(12):
        terminal.send(bytes(1000))
    assert take_all(line, 12_000) == Taken(12_000)


@pytest.mark.parametrize("baud", [300, 9600, 115_200])
def test_opening_drops_nothing_that_waits(terminal: Terminal, baud: int) -> None:
    terminal.send(b"given")
    line = SerialLine(terminal.settings(baud=baud))
    assert take_all(line, 5) == Taken(5)
    line.close()


def test_closing_and_opening_again_drops_nothing(terminal: Terminal) -> None:
    for count in range(1, 20):
        terminal.send(b"." * count)
        line = SerialLine(terminal.settings())
        terminal.send(b"." * count)
        line.close()
        line = SerialLine(terminal.settings())
        assert take_all(line, 2 * count) == Taken(2 * count)
        line.close()


def hostile(terminal: Terminal) -> None:
    """Sets every flag that would drop, mark or change a byte, or wait for more of them."""
    attributes = termios.tcgetattr(terminal.far)
    attributes[0] = (
        termios.IGNBRK | termios.BRKINT | termios.IGNPAR | termios.PARMRK | termios.INPCK
        | termios.ISTRIP | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON
    )  # fmt: skip
    attributes[3] = termios.ICANON | termios.ECHO | termios.ISIG
    attributes[6][termios.VMIN], attributes[6][termios.VTIME] = 0, 1
    termios.tcsetattr(terminal.far, termios.TCSANOW, attributes)


def test_what_an_earlier_user_set_on_the_line_makes_no_difference(terminal: Terminal) -> None:
    hostile(terminal)
    line = SerialLine(terminal.settings())
    assert line.take() == Taken(0)
    for value in range(256):
        terminal.send(bytes([value]))
    assert take_all(line, 256) == Taken(256)
    line.close()


@pytest.mark.parametrize("kind", LineKind)
def test_a_break_will_be_a_zero_byte(terminal: Terminal, kind: LineKind) -> None:
    """A pseudo-terminal carries no break. What makes one of it is the terminal's input flags: with
    none of them set it is read as one zero byte (termios(3), BRKINT), and a zero byte counts."""
    hostile(terminal)
    line = SerialLine(terminal.settings(kind))
    assert termios.tcgetattr(terminal.far)[0] == 0
    terminal.send(b"\0")
    assert take_all(line, 1) == Taken(1)
    line.close()


def test_a_look_ends_on_a_line_that_never_falls_silent(
    terminal: Terminal, line: SerialLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serial_line, "_LOOK_MAX", 1000)
    terminal.send(bytes(3000))
    assert select.select([line], [], [], PATIENCE_S)[0]
    first = line.take().pulses
    assert first == 1000
    assert first + take_all(line, 3000 - first).pulses == 3000


def test_what_the_kernel_dropped_is_told_once(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pseudo-terminal counts no overruns, so the kernel's answer is put in its place."""
    counts = [0] * 20  # struct serial_icounter_struct

    def answer(_descriptor: int, _request: int, buffer: bytearray) -> int:
        buffer[:] = struct.pack("=20i", *counts)
        return 0

    counts[7], counts[10] = 3, 1  # dropped before we came: not ours to tell
    real = fcntl.ioctl
    monkeypatch.setattr(
        fcntl, "ioctl", lambda *given: answer(*given) if given[1] == TIOCGICOUNT else real(*given)
    )
    line = SerialLine(terminal.settings())
    assert line.take() == Taken(0)
    counts[7] += 2  # overrun: the UART's own buffer
    counts[10] += 5  # buf_overrun: the terminal's
    counts[6] += 9  # framing errors are no losses
    assert line.take() == Taken(0, lost=7)
    assert line.take() == Taken(0)
    counts[7] = 0  # the adapter was reset
    assert line.take() == Taken(0)
    line.close()


def test_what_was_read_before_the_line_went_counts(
    terminal: Terminal, line: SerialLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pseudo-terminal that hangs up drops what waits; an adapter may still hand it over."""
    answers = iter([b"ab", b"c"])

    def read(_descriptor: int, _size: int) -> bytes:
        for answer in answers:
            return answer
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "read", read)
        assert line.take() == Taken(3)
        with pytest.raises(LineLost, match="is gone: Input/output error"):
            line.take()


@examples(100)
@given(parts=st.lists(st.binary(min_size=1, max_size=300), max_size=12), looks=st.integers(1, 5))
def test_however_bytes_arrive_each_counts_once(parts: list[bytes], looks: int) -> None:
    terminal = Terminal()
    line = SerialLine(terminal.settings())
    total = sum(map(len, parts))
    counted = 0
    try:
        for number, part in enumerate(parts):
            terminal.send(part)
            if number % looks == 0:
                counted += line.take().pulses
        until_s = time.monotonic() + PATIENCE_S
        while counted < total and time.monotonic() < until_s:
            select.select([line], [], [], PATIENCE_S)
            counted += line.take().pulses
        assert counted == total
        assert line.take() == Taken(0)
    finally:
        line.close()
        terminal.unplug()


# --- An s0 contact. ------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [S0_BITS, 8])
@pytest.mark.parametrize("seed", range(3))
def test_every_pulse_of_a_bouncing_contact_is_counted_once_and_its_noise_declared(
    terminal: Terminal, seed: int, bits: int
) -> None:
    draw = random.Random(seed)
    open_ns = S0_LEAST_NS if bits == S0_BITS else 37 * NS_PER_MS
    period_ns = S0_LEAST_NS + open_ns + 2 * S0_BOUNCE_NS
    contacts = [Contact(number * period_ns, S0_BOUNCE_NS + S0_LEAST_NS) for number in range(300)]
    edges = contact_edges(contacts, S0_BOUNCE_NS, lambda most: draw.randint(0, most))
    characters = bytes(one.data for one in receive(edges, S0_BAUD, bits))
    assert len(characters) > len(contacts)  # the bounce did start characters of its own
    line = SerialLine(terminal.settings(LineKind.S0))
    for place in range(0, len(characters), 100):
        terminal.send(characters[place : place + 100])
    assert take_all(line, len(characters)) == Taken(300, noise=len(characters) - 300)
    line.close()


def test_spikes_on_an_s0_line_are_noise(terminal: Terminal) -> None:
    line = SerialLine(terminal.settings(LineKind.S0))
    terminal.send(bytes([0x3F, 0x01, 0x20, 0xFF]))
    assert take_all(line, 4) == Taken(0, noise=4)
    line.close()


# --- Lines that go and come. ---------------------------------------------------------------------


def test_an_unplugged_line_is_lost_and_counts_again_when_it_is_back(tmp_path: Path) -> None:
    link = tmp_path / "meter"
    first = Terminal()
    link.symlink_to(first.device)
    settings = SerialSettings(str(link))
    line = SerialLine(settings)
    first.send(b"...")
    assert take_all(line, 3) == Taken(3)
    first.unplug()
    with pytest.raises(LineLost, match="meter"):
        line.take()
    line.close()
    link.unlink()
    with pytest.raises(LineLost, match="there is no such device"):
        SerialLine(settings)
    second = Terminal()
    link.symlink_to(second.device)
    second.send(b"..")
    line = SerialLine(settings)
    assert take_all(line, 2) == Taken(2)
    line.close()
    second.unplug()


def test_a_lost_line_polls_readable_so_that_the_loss_is_noticed(terminal: Terminal) -> None:
    line = SerialLine(terminal.settings())
    terminal.unplug()
    assert select.select([line], [], [], PATIENCE_S)[0] == [line]
    with pytest.raises(LineLost):
        line.take()
    with pytest.raises(LineLost):  # and stays lost
        line.take()
    line.close()


def test_a_second_reader_would_take_a_part_and_is_refused(
    terminal: Terminal, line: SerialLine
) -> None:
    with pytest.raises(LineLost, match="another program reads it"):
        SerialLine(terminal.settings())
    terminal.send(b".")
    assert take_all(line, 1) == Taken(1)


def test_a_refused_reader_leaves_the_line_free(terminal: Terminal) -> None:
    for _ in range(3):
        line = SerialLine(terminal.settings())
        with pytest.raises(LineLost):
            SerialLine(terminal.settings())
        line.close()


@pytest.mark.parametrize(
    ("device", "why"),
    [
        ("/dev/serial/by-id/none", "there is no such device; look under /dev/serial/by-id"),
        ("/dev/null", "it is no serial line"),
        ("/", "it is no serial line"),
    ],
)
def test_a_line_that_cannot_be_opened_says_why(device: str, why: str) -> None:
    with pytest.raises(LineLost) as lost:
        SerialLine(SerialSettings(device))
    assert str(lost.value) == f"cannot open {device}: {why}"


# --- Settings. -----------------------------------------------------------------------------------


@pytest.mark.parametrize("baud", [0, 299, 115_201, -300])
def test_a_rate_outside_300_to_115200_is_refused(terminal: Terminal, baud: int) -> None:
    with pytest.raises(ConfigurationError, match="baud is from 300 to 115200"):
        SerialLine(terminal.settings(baud=baud))


def test_an_s0_line_has_no_other_rate_than_300(terminal: Terminal) -> None:
    with pytest.raises(ConfigurationError, match="remove the baud setting"):
        SerialLine(terminal.settings(LineKind.S0, 9600))


@pytest.mark.parametrize(
    ("baud", "speed"),
    [(300, termios.B300), (1200, termios.B1200), (115_200, termios.B115200)],
)
def test_the_line_is_set_to_its_rate(terminal: Terminal, baud: int, speed: int) -> None:
    line = SerialLine(terminal.settings(baud=baud))
    assert termios.tcgetattr(terminal.far)[4:6] == [speed, speed]
    line.close()


@pytest.mark.parametrize("rs485", [False, True])
def test_on_an_rs485_bus_the_transmitter_stays_off(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, rs485: bool
) -> None:
    """A pseudo-terminal has no RTS: what the kernel is asked for is taken down in its place."""
    asked: list[tuple[int, int]] = []
    real = fcntl.ioctl

    def ioctl(descriptor: int, request: int, argument: object = 0, *more: bool) -> object:
        if request in (termios.TIOCMBIS, termios.TIOCMBIC):
            assert isinstance(argument, bytes)
            asked.append((request, struct.unpack("=I", argument)[0]))
            return 0
        return real(descriptor, request, argument, *more)  # type: ignore[call-overload]

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    line = SerialLine(SerialSettings(terminal.device, rs485=rs485))
    of_rts = [request for request, bits in asked if bits & termios.TIOCM_RTS]
    assert of_rts == [termios.TIOCMBIC if rs485 else termios.TIOCMBIS]
    terminal.send(b"ab")
    time.sleep(QUIET_S)
    assert line.take().pulses == 2
    line.close()


def test_the_latency_covers_a_character_the_bounce_and_the_adapter(terminal: Terminal) -> None:
    """A pseudo-terminal has no FIFO: ten bits at the rate, 20 ms, and 5 ms of bounce for s0."""
    expected = {
        (LineKind.BYTE, 300): 20_000_000 + 33_333_333,
        (LineKind.BYTE, 115_200): 20_000_000 + 86_805,
        (LineKind.S0, 300): 25_000_000 + 33_333_333,
    }
    for (kind, baud), latency_ns in expected.items():
        line = SerialLine(terminal.settings(kind, baud))
        assert line.latency_ns == latency_ns
        line.close()
