"""Tries changes one after the other in forks of one test run: a pytest plugin for changed code
only.

Tests are collected once. For each change a child runs those that reach it, until one fails. The
environment says what to do:

    CHANGES   a file of names (JSON), each with the tests that reach it
    ENDINGS   the file that each name is added to, and how it ended, as soon as it is known

A child cannot tell of code that ran before it was forked, when modules were imported: such a change
that survives ends as "imported". One that makes the tests take far more time than they took without
it counts as noticed: most are loops without end. The time is that of the processor, so that a busy
machine notices nothing.
"""

import json
import os
import signal
import time
from pathlib import Path

import pytest

_SLOWER_MAX = 5  # times the processor time that a test takes with no change
_AT_LEAST_S = 1.0
_STUCK_S = 300  # on the wall clock, of one change: for what waits without end
_NO_CHANGE, _RECORDING = "", "stats"  # as mutmut calls it


def pytest_configure() -> None:
    os.environ["MUTANT_UNDER_TEST"] = _RECORDING


def pytest_runtestloop(session: pytest.Session) -> bool:
    from mutmut.state import state  # type: ignore[import-not-found]

    imported = set(state()._stats)
    changes = Path(os.environ["CHANGES"])
    took_s = changes.with_suffix(".times")
    took_s.unlink(missing_ok=True)
    if _try(session, _NO_CHANGE, {}, took_s) != "survived":
        pytest.exit("the tests fail though nothing is changed", returncode=1)
    limits_s = {
        name: _AT_LEAST_S + _SLOWER_MAX * one_s
        for name, one_s in json.loads(took_s.read_text()).items()
    }
    with Path(os.environ["ENDINGS"]).open("a") as endings:
        for name, reached_by in json.loads(changes.read_text()).items():
            # Quick ones first.
            tests = sorted((one for one in reached_by if one in limits_s), key=limits_s.__getitem__)
            ending = _try(session, name, {one: limits_s[one] for one in tests})
            if ending == "survived" and function_of(name) in imported:
                ending = "imported"
            endings.write(f"{name} {ending}\n")
            endings.flush()
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> None:
    """Ends a child at the first failure: nobody reads how it looks. No test here is left out."""
    if call.excinfo is not None:
        os._exit(1)


def function_of(name: str) -> str:
    """The function that a change is in, as mutmut names it."""
    return name.rpartition("__mutmut_")[0]


def _try(
    session: pytest.Session, name: str, limits_s: dict[str, float], took_s: Path | None = None
) -> str:
    """How a change ends.

    Args:
        limits_s: the tests to run, in this order, and the processor time of each; empty: all, with
            no limit.
        took_s: a file for the processor time that each took.
    """
    child = os.fork()
    if not child:
        _be_tried(session, name, limits_s, took_s)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        is_slow = os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGALRM)
        return "timeout" if is_slow else "segfault"
    return "killed" if os.WEXITSTATUS(status) else "survived"


def _be_tried(
    session: pytest.Session, name: str, limits_s: dict[str, float], took_s: Path | None
) -> None:
    """In a child, which ends here."""
    os.environ["MUTANT_UNDER_TEST"] = name
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    times_s = {}
    failed = 1
    try:
        known = {one.nodeid: one for one in session.items}
        items = [known[one] for one in limits_s] or session.items
        if limits_s:
            signal.alarm(_STUCK_S)
        for item, following in zip(items, [*items[1:], None], strict=True):
            began_s = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, limits_s.get(item.nodeid, 0.0))
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            times_s[item.nodeid] = time.process_time() - began_s
        if took_s is not None:
            took_s.write_text(json.dumps(times_s))
        failed = int(bool(session.testsfailed))
    finally:
        os._exit(failed)
