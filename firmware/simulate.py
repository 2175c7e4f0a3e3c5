"""`cryptometer-firmware simulate`: a meter's pulse output on a pseudo-terminal; a meter that speaks
is in `firmware.speaking`.

The log says when each pulse was emitted, and its last line how many were: what a proof compares
the ledger with. A pulse counts as emitted once the kernel holds its byte.
"""

import argparse
import fcntl
import os
import random
import select
import signal
import struct
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from cryptometer.errors import ConfigurationError
from cryptometer.steps import NS_PER_MS, NS_PER_S
from firmware.series import Level, duration_ns, pulse_times, read_series
from hal.uart import (
    IS_S0_PULSE,
    S0_BAUD,
    S0_BITS,
    S0_LEAST_NS,
    Contact,
    contact_edges,
    receive,
)

_AT_ONCE_MAX = 2_048  # pulses in one write: a stop is noticed between two
_BITS_PER_CHARACTER = 10
_WIDTHS_NS = 20 * NS_PER_MS  # a contact stays closed for 30 to 50 ms
# A terminal forgets what nobody has read when its other side is closed. So the last bytes get this
# long to be read, and what is left is counted.
_READING_S = 5.0
_QUIET_LOOKS, _LOOK_S = 30, 0.01  # the kernel moves bytes to the reader's side in the background
_STOPPING = (signal.SIGTERM, signal.SIGINT)


def simulate(arguments: argparse.Namespace) -> int:
    """Does what the command says."""
    if arguments.meter is not None:
        return _simulate_speaking(arguments)
    if arguments.constant is None:
        raise ConfigurationError("pulses need --constant, a meter that speaks --meter")
    plan = _plan(arguments)
    # From here on a signal waits until it is asked for: none can fall between two steps.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        with _open_log(arguments.log) as log, Terminal(arguments.tty, arguments.rate) as terminal:
            source = _Source(terminal, log)
            if arguments.line == "s0":
                draw = random.Random(arguments.seed)  # noqa: S311 - bounces, no secrets
                source.emit_contacts(plan, arguments.bounce_ms * NS_PER_MS, draw)
            else:
                source.emit_bytes(plan)
            unread = terminal.finish()
            source.close_log(unread)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    print(f"emitted {source.emitted}", flush=True)
    if source.overflow:
        print(f"overflow {source.overflow}: nobody reads, and the kernel's buffer is full")
    if unread:
        print(f"unread {unread} bytes: nobody read them before the end")
    return 0


def _simulate_speaking(arguments: argparse.Namespace) -> int:
    from firmware.speaking import plan_of, speak  # noqa: PLC0415 - which imports this module

    if arguments.constant is not None or arguments.pulses is not None:
        raise ConfigurationError("a meter that speaks has no pulses: --constant, --pulses")
    plan = plan_of(arguments, _levels(arguments))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        with _open_log(arguments.log) as log:
            print(speak(plan, arguments.tty, log), flush=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return 0


def _levels(arguments: argparse.Namespace) -> list[Level]:
    if arguments.series is not None:
        return _read(arguments.series, arguments.column)
    if arguments.column is not None:
        raise ConfigurationError("--column chooses from a series: give --series too")
    return [Level(0, None, arguments.watts)]


@dataclass(frozen=True, slots=True)
class _Plan:
    """When pulses come, and when to end: machine ns since the beginning.

    Attributes:
        due_ns: of each pulse, in order.
        stop_ns: no pulse is emitted after it; None is never.
        last_ns: when to end once all are emitted; None is never. A line that cannot keep up may
            emit some after it: a series is emitted whole.
        gap_ns: least distance of two bytes.
    """

    due_ns: Iterator[int]
    stop_ns: int | None
    last_ns: int | None
    gap_ns: int


def _plan(arguments: argparse.Namespace) -> _Plan:
    if arguments.line == "s0":
        if arguments.rate is not None:
            raise ConfigurationError("an s0 line is read at 300 baud: remove --rate")
        if not 0 <= arguments.bounce_ms * NS_PER_MS < S0_LEAST_NS:
            raise ConfigurationError("--bounce-ms is from 0 to 29: a contact is closed for 30 ms")
    levels = _levels(arguments)
    speed: Fraction = arguments.speed
    due = (
        # Up, so that the time has come when the pulse does.
        -(-at_ns * speed.denominator // speed.numerator)
        for at_ns in pulse_times(levels, arguments.constant)
    )
    last_ns = duration_ns(levels)
    if arguments.pulses is not None:
        last_ns = 0  # with the last pulse
    elif last_ns is not None:
        last_ns = -(-last_ns * speed.denominator // speed.numerator)
    return _Plan(
        due if arguments.pulses is None else islice(due, arguments.pulses),
        None if arguments.seconds is None else int(arguments.seconds * NS_PER_S),
        last_ns,
        _BITS_PER_CHARACTER * NS_PER_S // arguments.rate if arguments.rate else 0,
    )


def _read(path: Path, column: str | None) -> list[Level]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return read_series(file, column)
    except (OSError, UnicodeError) as error:
        why = "it is no text" if isinstance(error, UnicodeError) else error.strerror
        raise ConfigurationError(f"cannot read the series {path}: {why}") from None


class _Source:
    """Emits pulses in real time, and logs them."""

    def __init__(self, terminal: "Terminal", log: TextIO) -> None:
        self.emitted = 0
        self.overflow = 0
        self._numbered = 0
        self._terminal = terminal
        self._log = log
        self._began_ns = time.monotonic_ns()

    def emit_bytes(self, plan: _Plan) -> None:
        """One byte per pulse. All that are due at the same look leave in one write."""
        free_ns = 0
        due_ns = next(plan.due_ns, None)
        while self._wait_for(plan, None if due_ns is None else max(due_ns, free_ns)):
            now_ns = self._now_ns()
            many = 0
            while due_ns is not None and many < _AT_ONCE_MAX:
                at_ns = max(due_ns, free_ns)
                if at_ns > now_ns or (plan.stop_ns is not None and at_ns > plan.stop_ns):
                    break
                free_ns = at_ns + plan.gap_ns
                many += 1
                due_ns = next(plan.due_ns, None)
            first = self._number(many)
            # A pulse of unknown width is received as any byte.
            data = bytes((first + place) % 256 for place in range(many))
            self._account(first, many, self._terminal.write(data))

    def emit_contacts(self, plan: _Plan, bounce_ns: int, draw: random.Random) -> None:
        """The characters of one contact after the other.

        A contact is received as if it were alone: the last character that its bounce can start is
        over 25 ms after that, and the next contact comes 30 ms after it.
        """
        free_ns = 0
        for due_ns in plan.due_ns:
            at_ns = max(due_ns, free_ns)
            if not self._wait_for(plan, at_ns):
                return
            contact = Contact(at_ns, S0_LEAST_NS + draw.randint(0, _WIDTHS_NS))
            free_ns = at_ns + contact.width_ns + bounce_ns + S0_LEAST_NS
            first = self._number(1)
            edges = contact_edges([contact], bounce_ns, lambda most: draw.randint(0, most))
            taken = True
            for character in receive(edges, S0_BAUD, S0_BITS):
                # A contact that has closed is received to its end, also when a signal waits.
                time.sleep(max(0, character.at_ns - self._now_ns()) / NS_PER_S)
                is_held = self._terminal.write(bytes([character.data])) == 1
                taken &= is_held or not IS_S0_PULSE[character.data]
            self._account(first, 1, int(taken))
        self._wait_for(plan, None)

    def close_log(self, unread: int) -> None:
        """Writes the sums."""
        self._log.write(f"# emitted {self.emitted}\n")
        if self.overflow:
            self._log.write(f"# overflow {self.overflow}\n")
        if unread:
            self._log.write(f"# unread {unread}\n")
        self._log.flush()

    def _wait_for(self, plan: _Plan, at_ns: int | None) -> bool:
        """Waits for the pulse of `at_ns`; when there is none, for the end. False: end now."""
        ends = [] if plan.stop_ns is None else [plan.stop_ns]
        if at_ns is not None:
            ends.append(at_ns)
        elif plan.last_ns is not None:
            ends.append(plan.last_ns)
        until_ns = min(ends, default=None)
        while not is_told_to_stop(None if until_ns is None else until_ns - self._now_ns()):
            if until_ns is not None and self._now_ns() >= until_ns:
                return until_ns == at_ns
        return False

    def _now_ns(self) -> int:
        return time.monotonic_ns() - self._began_ns

    def _number(self, many: int) -> int:
        """Logs the next pulses and returns the first one's number."""
        first = self._numbered + 1
        self._numbered += many
        at_ns = time.time_ns()
        # Logged before they are written: a pulse that was received is in the log, with a time not
        # after it, whenever this program is killed.
        self._log.write("".join(f"{at_ns} {first + place}\n" for place in range(many)))
        self._log.flush()
        return first

    def _account(self, first: int, many: int, taken: int) -> None:
        self.emitted += taken
        if taken < many:
            self.overflow += many - taken
            self._log.write(f"# dropped {first + taken} to {first + many - 1}\n")
            self._log.flush()


class Terminal:
    """A pseudo-terminal with a link to it.

    Both sides stay open here. So what is in the kernel's buffer (some 16 KB) waits for a reader
    that is not there yet, or that was killed and comes again.
    """

    def __init__(self, link: Path, baud: int | None) -> None:
        if link.exists() and not link.is_symlink():
            raise ConfigurationError(f"{link} exists and is no link: choose another --tty")
        speed = None if baud is None else _speed(baud)
        self._link = link
        self._line, self._far = os.openpty()
        # Before the link stands: an echo, or a line that waits for its end, would spoil the count.
        tty.setraw(self._far)
        if speed is not None:
            _set_speed(self._far, speed)
        os.set_blocking(self._line, False)
        os.set_blocking(self._far, False)
        self._name = os.ttyname(self._far)

    def __enter__(self) -> Self:
        beside = self._link.with_name(f"{self._link.name}.{os.getpid()}")
        try:
            beside.unlink(missing_ok=True)
            beside.symlink_to(self._name)
            beside.replace(self._link)
        except OSError as error:
            self._close()
            raise ConfigurationError(f"cannot make {self._link}: {error.strerror}") from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Ours only: another simulator may have put its own link there.
        with suppress(OSError):
            if str(self._link.readlink()) == self._name:
                self._link.unlink()
        self._close()

    def write(self, data: bytes) -> int:
        """Hands bytes to the kernel; returns how many it took."""
        taken = 0
        with suppress(BlockingIOError):
            while taken < len(data):
                taken += os.write(self._line, data[taken:])
        return taken

    def read(self) -> bytes:
        """What the other side has sent."""
        try:
            return os.read(self._line, _AT_ONCE_MAX)
        except BlockingIOError:
            return b""

    def wait(self, patience_ns: int) -> None:
        """Waits so long, or until the other side sends something."""
        select.select([self._line], [], [], patience_ns / NS_PER_S)

    def finish(self) -> int:
        """Waits, within bounds, until all is read; takes the rest and returns how much it was."""
        until_s = time.monotonic() + _READING_S
        quiet = 0
        while quiet < _QUIET_LOOKS and time.monotonic() < until_s:
            quiet = 0 if self._waiting() else quiet + 1
            if is_told_to_stop(int(_LOOK_S * NS_PER_S)):
                break
        unread = 0
        quiet = 0
        while quiet < _QUIET_LOOKS:
            with suppress(BlockingIOError):
                unread += len(os.read(self._far, _AT_ONCE_MAX))
                continue
            quiet += 1
            time.sleep(_LOOK_S)
        return unread

    def _waiting(self) -> int:
        """Bytes that a reader could read now."""
        answer = fcntl.ioctl(self._far, termios.FIONREAD, struct.pack("i", 0))
        return int(struct.unpack("i", answer)[0])

    def _close(self) -> None:
        os.close(self._line)
        os.close(self._far)


def is_told_to_stop(patience_ns: int | None) -> bool:
    """Whether a signal says so; waits for it so long, or for ever."""
    if patience_ns is None:
        return signal.sigwait(_STOPPING) in _STOPPING
    return signal.sigtimedwait(_STOPPING, max(0, patience_ns) / NS_PER_S) is not None


def _open_log(path: Path | None) -> TextIO:
    try:
        return Path(os.devnull if path is None else path).open("w", encoding="ascii")
    except OSError as error:
        raise ConfigurationError(f"cannot write the log {path}: {error.strerror}") from None


def _speed(baud: int) -> int:
    """The number that termios has for a rate."""
    speed = getattr(termios, f"B{baud}", None)
    if speed is None:
        raise ConfigurationError(f"--rate {baud} is no usual rate, such as 300, 9600 or 115200")
    return int(speed)


def _set_speed(descriptor: int, speed: int) -> None:
    attributes = termios.tcgetattr(descriptor)
    attributes[4] = attributes[5] = speed  # input and output
    termios.tcsetattr(descriptor, termios.TCSANOW, attributes)
