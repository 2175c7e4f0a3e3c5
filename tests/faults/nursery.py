"""The process in which lives are lived: the failing disk is loaded into it, and each life is a
child of its own, so that a death or a failure is that life's alone.

It takes one order a line from standard input, as JSON, and answers with the life's exit code.
"""

import ctypes
import json
import os
import signal
import sqlite3
import sys
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from gateway.behind import Behind
from hal.program import EXIT_FAILED, run
from tests.faults.life import Account, Life, live, start

EXIT_BEHIND = 3  # as cryptometer-gateway
EXIT_OUR_FAULT = 70  # an exception that no program expects
LIFE_MAX_S = 60  # of wall time; a longer one hangs


@dataclass(frozen=True, slots=True)
class Order:
    """A life to be lived.

    Attributes:
        folder: the world of files of this life; the only one in which calls fail.
        beside: where it leaves `account`, `calls` and what it `said`; each life adds to them.
        plan: the faults, as preload.c reads them; "" for none.
        only_start: no life: what the programs read at their start is read, and that is all.
    """

    folder: str
    beside: str
    life: Life
    plan: str = ""
    only_start: bool = False

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, line: str) -> Self:
        fields = json.loads(line)
        return cls(**{**fields, "life": Life(**fields["life"])})


def main() -> None:
    """Serves until standard input ends."""
    disk = ctypes.CDLL(os.environ["LD_PRELOAD"])
    for line in sys.stdin:
        order = Order.decode(line)
        child = os.fork()
        if child == 0:
            _be(order, disk)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _be(order: Order, disk: ctypes.CDLL) -> None:
    """The child: never returns."""
    signal.alarm(LIFE_MAX_S)
    beside = Path(order.beside)
    said = os.open(beside / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(said, stream)
    code = EXIT_OUR_FAULT
    try:
        account = Account(beside / "account")
        account.tell("life", *order.plan.split())
        calls = beside / "calls"
        calls.unlink(missing_ok=True)
        if disk.faults_arm(order.folder.encode(), bytes(calls), order.plan.encode()) != 0:
            raise ValueError(f"no plan: {order.plan}")
        # As the programs' own `main`.
        code = run(
            "life",
            lambda: _lived(order, account),
            (Behind, EXIT_BEHIND),
            (OSError, EXIT_FAILED),
            (sqlite3.Error, EXIT_FAILED),
        )
    except BaseException:  # noqa: BLE001 - whatever it is, the trial's judge must see it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _lived(order: Order, account: Account) -> int:
    if order.only_start:
        start(Path(order.folder))
    else:
        live(Path(order.folder), order.life, account)
    return 0


if __name__ == "__main__":
    main()
