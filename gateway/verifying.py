"""Verifies the signatures of a round of messages on several cores.

Threads, since `cryptography` lets go of the interpreter while it verifies, and since this thread
does nothing else until all are verified.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from gateway.door import Opened, verify_each

CORES_MAX = 4  # more would wait for each other's turn in the interpreter
WORTHWHILE = 16  # signatures of a core; to hand them over costs what one of them does


class Verifiers:
    """So many threads, begun once there is enough to do. Called, it is a `door.Verify`."""

    def __init__(self, cores: int | None = None) -> None:
        """`cores`: by default those that this process may use, up to CORES_MAX."""
        may_use = min(CORES_MAX, len(os.sched_getaffinity(0)))
        self._cores = may_use if cores is None else cores
        self._pool = ThreadPoolExecutor(max(1, self._cores - 1), "verifying")

    def __call__(self, opened: Sequence[Opened]) -> list[Opened]:
        parts = min(self._cores, len(opened) // WORTHWHILE)
        if parts < 2:
            return verify_each(opened)
        size = -(-len(opened) // parts)
        others = [
            self._pool.submit(verify_each, opened[begin : begin + size])
            for begin in range(size, len(opened), size)
        ]
        verified = verify_each(opened[:size])
        for other in others:
            verified += other.result()
        return verified

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown()
