"""Programs of ours as child processes: started, logged to a file, ended by their id."""

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FIRMWARE, GATEWAY, COMMON = "firmware.main", "gateway.main", "cryptometer.commands.main"
COMMAND_MAX_S = 120.0  # a board with a slow card starts Python in two seconds
END_MAX_S = 20.0
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # what tells a program to end
LOG_SHOWN = 15  # lines of a failed program's log


class ProgramError(Exception):
    """A program did not do what it was started for; the message shows the end of its log."""


def program(module: str, *words: str | Path) -> list[str]:
    """The command line of one of our programs, run by this interpreter."""
    return [sys.executable, "-m", module, *map(str, words)]


def run(module: str, *words: str | Path) -> str:
    """Runs one of our programs to its end; returns what it printed.

    Raises:
        ProgramError: it failed; the message says how, in its own words.
    """
    command = program(module, *words)
    pipe = subprocess.PIPE
    with _started(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            printed, complained = process.communicate(timeout=COMMAND_MAX_S)
        except subprocess.TimeoutExpired:
            what = f"{shlex.join(command)}: no end after {COMMAND_MAX_S:.0f} s"
            raise ProgramError(what) from None
    if process.returncode:
        said = (complained or printed).strip()
        raise ProgramError(f"{shlex.join(command)}: exit code {process.returncode}: {said}")
    return str(printed)


@contextmanager
def _started(command: Sequence[str], **how: Any) -> Iterator["subprocess.Popen[Any]"]:
    """A program that is killed if anything goes wrong inside."""
    process = None
    try:
        with signals_behind():
            process = subprocess.Popen(command, **how)
        yield process
    except BaseException:
        if process is not None:
            with process:  # which waits for it, and closes its pipes
                process.kill()
        raise


@contextmanager
def signals_behind() -> Iterator[None]:
    """Lets signals whose handlers may raise come behind what is done inside: in the middle of a
    start, one would leave a process that nobody knows."""
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers run in that one alone
        return
    handlers = {number: signal.getsignal(number) for number in ENDINGS}
    came: list[int] = []
    for number, handler in handlers.items():
        if callable(handler):
            signal.signal(number, lambda which, _frame: came.append(which))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for which in came:
        signal.raise_signal(which)


class Child:
    """A program that runs until it is ended. Its output goes to a file, appended."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        with (
            log.open("ab") as output,
            _started(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
            ) as self._process,
        ):
            pass

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    def check(self) -> None:
        """Raises ProgramError when the program has ended by itself."""
        code = self.exit_code()
        if code is not None:
            raise ProgramError(self.describe_end(code))

    def describe_end(self, code: int) -> str:
        """How it ended, and the end of its log."""
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        said = self.last_lines()
        return f"{self.name} {how}; " + (f"its log ends:\n{said}" if said else "its log is empty")

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Asks the program to end and waits for it; kills it when it does not. Its exit code."""
        if self.exit_code() is None:
            self._process.send_signal(number)
        return self.wait()

    def wait(self, longest_s: float = END_MAX_S) -> int:
        """Waits for the program's end; kills it when there is none."""
        try:
            return self._process.wait(timeout=longest_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def last_lines(self) -> str:
        """The end of its log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-LOG_SHOWN:])


class Tail:
    """Reads a growing text file, whole lines only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def lines(self) -> list[str]:
        """The lines that came since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        return whole.decode(errors="replace").splitlines()
