"""A text shown again and again: in place on a real terminal, in blocks elsewhere, until told."""

import argparse
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl
from pathlib import Path

import pytest

from hal.screen import add_watch, show

PATIENCE_S = 30.0
PROGRAM = """
import sys
from hal.screen import show
count = 0
def describe():
    global count
    count += 1
    if count in LOST:
        raise FileNotFoundError(2, "replaced just now", "journal")
    return f"look {count}\\nof a meter \\x1b[31m{'x' * 200}"
sys.exit(show(describe, 0.1))
"""


def start(lost: str = "()", stdout: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.replace("LOST", lost)],
        env={**environment, "TERM": "xterm"},
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


def read_until(descriptor: int, wanted: bytes) -> bytes:
    got = b""
    until_s = time.monotonic() + PATIENCE_S
    while wanted not in got:
        assert select.select([descriptor], [], [], max(0, until_s - time.monotonic()))[0], got
        got += os.read(descriptor, 65_536)
    return got


def end(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    process.send_signal(number)
    _, error = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, error) == (0, b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_elsewhere_than_on_a_terminal_blocks_follow_each_other_until_it_is_told_to_end(
    number: signal.Signals,
) -> None:
    process = start()
    assert process.stdout is not None
    got = read_until(process.stdout.fileno(), b"look 3\n")
    end(process, number)
    assert b"\n\nlook 2\n" in got
    assert b"\x1b[H" not in got


def test_on_a_terminal_the_text_is_drawn_over_the_one_before_and_cut_to_its_size() -> None:
    master, slave = pty.openpty()
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    process = start(stdout=slave)
    os.close(slave)
    got = read_until(master, b"look 3")
    end(process, signal.SIGINT)
    os.close(master)
    frames = got.split(b"\x1b[H")[1:]
    assert frames[1].startswith(b"look 2\x1b[K\r\n")
    assert max(map(len, frames[1].decode().replace("\x1b[K", "").splitlines())) <= 40
    assert b"\x1b[31m" not in got  # what it shows does not speak to the terminal


def test_a_file_that_is_replaced_at_this_moment_is_looked_at_again() -> None:
    process = start("(2, 3)")
    assert process.stdout is not None
    got = read_until(process.stdout.fileno(), b"look 4\n")
    end(process, signal.SIGTERM)
    assert b"cannot look now: [Errno 2] replaced just now" in got


def test_what_fails_at_the_first_look_ends_the_command(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        show((tmp_path / "none").read_text, 1.0)


def test_without_the_option_it_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert show(lambda: "once") == 0
    assert capsys.readouterr().out == "once\n"


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon", "1e9"])
def test_an_interval_that_is_none_is_refused(text: str) -> None:
    parser = argparse.ArgumentParser()
    add_watch(parser)
    assert parser.parse_args([]).watch is None
    assert parser.parse_args(["--watch"]).watch == 2
    with pytest.raises(SystemExit):
        parser.parse_args(["--watch", text])
