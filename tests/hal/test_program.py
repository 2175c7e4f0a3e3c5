"""How programs end: exit codes, what is told, and what is a fault of ours."""

import os
import subprocess
import sys

import pytest

from cryptometer.errors import ConfigurationError, Reason, Rejected
from hal.program import EXIT_CONFIGURATION, EXIT_FAILED, run


def failing(error: Exception) -> int:
    raise error


def test_the_work_s_own_code_is_the_program_s() -> None:
    assert run("program", lambda: 3) == 3


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigurationError("do this"), EXIT_CONFIGURATION, "program: do this"),
        (Rejected(Reason.FORK, "two of it"), EXIT_CONFIGURATION, "program: fork: two of it"),
        (OSError(28, "full"), EXIT_FAILED, "program: stopping: [Errno 28] full"),
        (
            BrokenPipeError(32, "a socket's"),
            EXIT_FAILED,
            "program: stopping: [Errno 32] a socket's",
        ),
        (KeyError("strange"), 9, "program: 'strange'"),
    ],
)
def test_what_people_can_mend_is_told_in_one_line(
    error: Exception, code: int, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    ends = ((LookupError, 9), (OSError, EXIT_FAILED))
    assert run("program", lambda: failing(error), *ends) == code
    assert capfd.readouterr().err == f"{said}\n"


def test_a_fault_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run("program", lambda: 1 // 0, (OSError, EXIT_FAILED))


def test_a_reader_that_has_seen_enough_is_no_failure_to_tell_of() -> None:
    program = (
        "import sys\nfrom hal.program import run\n"
        "sys.exit(run('program', lambda: print('x' * 10**6) or 0, (OSError, 75)))"
    )
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as output:
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdout=output,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (EXIT_FAILED, b"")
