"""Runs commands that may be killed, each in a child that this process forks: far faster than a new
interpreter each, and safe, for no thread runs here. A fork of a test's own process, where threads
do, may copy a lock that is held and wait for it for ever.

Takes a line of JSON for each command, `[crash point, word, ...]`, and answers with the child's exit
code, a negative one for the signal that ended it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptometer.commands.main import main
from hal.faults import CRASH_VARIABLE

ROOT = Path(__file__).parents[2]


class Forker:
    """The process, for whoever asks it."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def run(self, words: tuple[str | Path, ...], crash: str) -> int:
        """The exit code of `cryptometer WORDS`, with a point where it is to be killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([crash, *map(str, words)]) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextmanager
def forker() -> Iterator[Forker]:
    """Starts it, and ends it with the block."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.commands.forker"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Forker(process)


def _serve() -> None:
    for line in sys.stdin:
        crash, *words = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                os.environ[CRASH_VARIABLE] = crash
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                os._exit(main(words))
            finally:
                os._exit(99)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    _serve()
