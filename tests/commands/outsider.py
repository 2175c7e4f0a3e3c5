"""What an outsider has: the `cryptometer` program, and files that anyone may have written."""

import io
import os
import subprocess
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from cryptometer.commands.demo.processes import COMMON, program
from cryptometer.commands.main import main
from hal.program import EXIT_CONFIGURATION

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests" / "vectors"
COMMAND_MAX_S = 60


@dataclass(frozen=True, slots=True)
class Answer:
    """What the program printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """What it found; it said nothing of errors."""
        assert (self.code, self.err) == (0, ""), self
        return self.out.splitlines()

    @property
    def refusal(self) -> str:
        """Why it refused: one line, no result, no traceback."""
        assert (self.code, self.out) == (EXIT_CONFIGURATION, ""), self
        [line] = self.err.splitlines()
        assert line.startswith("cryptometer: ")
        return line.removeprefix("cryptometer: ")


def process(*words: str | Path, encoding: str = "utf-8") -> Answer:
    """Runs the program as a process of its own, for a terminal with this encoding."""
    done = subprocess.run(
        program(COMMON, *words),
        cwd=ROOT,
        capture_output=True,
        encoding=encoding,
        timeout=COMMAND_MAX_S,
        check=False,
        env=os.environ | {"PYTHONIOENCODING": encoding},
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def called(*words: str | Path) -> Answer:
    """The same program within this process, for cases by the hundred. An exception it does not
    catch is a traceback to its user, and fails the test."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = main([str(word) for word in words])
    return Answer(code, out.getvalue(), err.getvalue())


def lay(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Writes files by their paths under `folder`, and removes what else is there."""
    for old in [path for path in folder.rglob("*") if not path.is_dir()]:
        old.unlink()
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder
