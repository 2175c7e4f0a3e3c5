"""Verifies signatures on several cores, ahead of the audit that asks for them; on one core, many in
one go: between other work each takes longer, by the processor's cache.

Processes and not threads: what an audit does between two verifications holds the interpreter. They
only spare work. A record of which they say nothing, or say that its signature is false, is verified
by `check_block` itself, which then says what is wrong and where.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from types import TracebackType
from typing import Self, TypeAlias

from cryptometer.errors import Rejected
from cryptometer.keys import Algorithm, PublicKey
from cryptometer.records import Record

WORTHWHILE = 4_096  # records; to start processes costs what the verification of these does
CHUNK = 256  # records of one task: 30 ms of work, 100 kB
CHUNK_BYTES = 2**20  # of one task at most, by what a hostile ledger may hold
AHEAD = 4  # tasks for each process that are read and decoded before they are needed
LOOK_EVERY_S = 5.0  # whether the processes still live, while one is waited for

Named: TypeAlias = tuple[Record, PublicKey | None]
_Claim: TypeAlias = tuple[int, bytes, bytes, bytes]  # algorithm, coordinates, signature, signed
_Verdicts: TypeAlias = Callable[[], bytes]  # a byte for each that has a key: 1 where it verifies


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


class Verifiers:
    """So many processes, started once there is enough to do. Leaving the `with` block ends them.

    Called, it is an `audit.Verify`.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._seen = 0
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __call__(self, stream: Iterator[Named]) -> Iterator[tuple[Record, bool]]:
        """Gives each record in its order, and whether its signature has been verified with the key
        beside it.

        Whatever the stream raises is raised once all that came before it was given: a breach stays
        the first thing told, also where a ledger cannot be read any further behind it.
        """
        waiting: deque[tuple[list[Named], _Verdicts]] = deque()
        ahead = AHEAD * self._jobs if self._jobs > 1 else 0
        failed: Exception | None = None
        try:
            for chunk in _chunks(stream):
                waiting.append((chunk, self._begin(chunk)))
                while len(waiting) > ahead:
                    yield from _given(*waiting.popleft())
        except Exception as error:  # noqa: BLE001 - raised below, in its place
            failed = error
        while waiting:
            yield from _given(*waiting.popleft())
        if failed is not None:
            raise failed

    def _begin(self, chunk: Sequence[Named]) -> _Verdicts:
        self._seen += len(chunk)
        if self._seen <= WORTHWHILE or self._jobs == 1:
            return partial(_verify_here, chunk)
        if self._pool is None:
            # Spawned: a copy of this process would inherit its connections and threads.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._jobs, context, _serve_parent)
        claims = [
            (int(key.algorithm), key.coordinates, record.envelope.signature, record.envelope.signed)
            for record, key in chunk
            if key is not None
        ]
        try:
            return partial(_told, self._pool, self._pool.submit(verify_claims, claims))
        except BrokenProcessPool:
            return bytes


def verify_claims(claims: Sequence[_Claim]) -> bytes:
    """A byte for each claim: 1 where its signature verifies. Runs in a process of its own."""
    return bytes(
        _verifies(PublicKey(Algorithm(algorithm), coordinates), signature, signed)
        for algorithm, coordinates, signature, signed in claims
    )


def _told(pool: ProcessPoolExecutor, verdicts: "Future[bytes]") -> bytes:
    """What a process says.

    Raises:
        BrokenProcessPool: one was ended from outside.
    """
    while True:
        try:
            return verdicts.result(LOOK_EVERY_S)
        except TimeoutError:
            # Before Python 3.12 a task that is given at the moment when a process dies may be told
            # by nobody: a pool that is broken takes no other.
            pool.submit(verify_claims, ())


def _verify_here(chunk: Sequence[Named]) -> bytes:
    return bytes(
        _verifies(key, record.envelope.signature, record.envelope.signed)
        for record, key in chunk
        if key is not None
    )


def _verifies(key: PublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed)
    except Rejected:
        return False
    return True


def _chunks(stream: Iterator[Named]) -> Iterator[list[Named]]:
    chunk: list[Named] = []
    size = 0
    try:
        for named in stream:
            chunk.append(named)
            size += len(named[0].raw)
            if len(chunk) == CHUNK or size >= CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
    except Exception:
        yield chunk
        raise
    yield chunk


def _given(chunk: Sequence[Named], verdicts: _Verdicts) -> Iterator[tuple[Record, bool]]:
    try:
        told = iter(verdicts())
    except BrokenProcessPool:
        told = iter(b"")  # one was ended from outside: what it would have said is found out here
    for record, key in chunk:
        yield record, key is not None and next(told, 0) == 1


def _serve_parent() -> None:
    # Ctrl-C is for the command, which ends its processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A command that is ended otherwise can end nothing; what it left would wait for ever.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - only a process that was started runs this
    parent.join()
    os._exit(1)
