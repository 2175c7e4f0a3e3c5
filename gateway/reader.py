"""What both web sides share: one gateway's folder, read in worker threads, and how answers and
errors look (docs/decisions/0012, 0045).

Files and the store are read in a few worker threads, whose number bounds memory.
"""

import asyncio
import hashlib
import http
import logging
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from typing import Any, TypeAlias, TypeVar

import anyio
import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from cryptometer.community import Community
from cryptometer.errors import ConfigurationError, Rejected
from cryptometer.state import State
from gateway import answers, connections
from gateway.answers import Absent, Site, Waiting
from gateway.endpoints import Endpoint
from gateway.folder import Folder, read_community
from gateway.history import NotYet, TooMuch, state_of
from gateway.questions import Asked, WronglyAsked
from gateway.sqlite_store import SqliteStore
from gateway.store import SearchTooLong
from hal.notify import Notifier

T = TypeVar("T")
Worker: TypeAlias = Callable[[Callable[[], Any]], Awaitable[Any]]

WORKERS = 8
FIND_MAX_S = 1.0  # for a record by its identity, which has no index
PROBLEM = "application/problem+json"
PUBLISHING_LOOKS = 10  # until the files of a block that was just committed stand
PUBLISHING_S = 0.1  # between two of them
FRESH = {"Cache-Control": "no-cache"}


class Unavailable(Exception):  # noqa: N818 - an answer
    """It cannot be told now; the message says why."""


def serve_app(what: str, host: str, port: int, table: str, app_at: Callable[[str], ASGIApp]) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code.

    Args:
        what: is served, for the line that says where.
        table: of the configuration, which says where to listen.
        app_at: makes the answers of an address.

    Raises:
        ConfigurationError: it cannot listen there.
    """
    # What clients do wrong is theirs to know; our own errors are still told.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    with connections.listen(host, port, table) as listening:
        host, port = listening.getsockname()[:2]
        stopping = connections.heed_signals()
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        print(f"serving {what} at {address}", file=sys.stderr, flush=True)
        connections.run(app_at(address), listening, stopping)
    return 0


class Reader:
    """One gateway's folder, as its web sides read it."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._limiters: tuple[anyio.CapacityLimiter, ...] = ()
        self._known: tuple[list[bytes], Community] | None = None
        self._told_state: tuple[tuple[int, int], State] | None = None

    async def _work(self, make: Callable[[], T], *, is_long: bool = False) -> T:
        """Does what blocks in a worker thread; what takes long, one at a time, in one of their
        own."""
        if not self._limiters:
            self._limiters = (anyio.CapacityLimiter(WORKERS), anyio.CapacityLimiter(1))
        return await anyio.to_thread.run_sync(make, limiter=self._limiters[is_long])

    def _ask(self, make: Callable[[Site], T]) -> T:
        with self._store() as store:
            return make(self._site(store))

    def _site(self, store: SqliteStore) -> Site:
        known = store.authority()
        before = self._known
        if before is None or before[0] != known:
            # Signatures of a thousand registrations take a tenth of a second.
            before = self._known = (known, read_community(store))
        return answers.open_site(store, self._read, before[1])

    def _ask_whole(self, make: Callable[[Site, State], T]) -> T:
        """Asks for what needs the community's state, too, as of the newest published block."""
        for left in reversed(range(PUBLISHING_LOOKS)):
            try:
                return self._ask(lambda site: make(site, self._state(site)))
            except NotYet:
                if left:
                    time.sleep(PUBLISHING_S)
        raise Unavailable("a block is just being published")

    def _state(self, site: Site) -> State:
        rows = site.store.blocks(1)
        if not rows:
            return state_of(site)
        place = (site.store.epoch, rows[0].size)
        before = self._told_state
        if before is None or before[0] != place or rows[0].size != site.size:
            # To read it takes as long as there are meters and steps that wait.
            before = self._told_state = (place, state_of(site))
        return before[1]

    @contextmanager
    def _store(self) -> Iterator[SqliteStore]:
        # Opened for each answer: no reader holds the write-ahead log back, and a store that was
        # restored is found.
        try:
            store = SqliteStore(self._folder.store, read_only=True, find_max_s=FIND_MAX_S)
        except ConfigurationError as error:
            raise Unavailable(str(error)) from None
        with closing(store), store.one_moment():
            yield store

    def _read(self, path: str) -> bytes | None:
        """A file of the ledger; `path` is made here and never a client's."""
        try:
            return (self._folder.ledger / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None


class Bodiless:
    """Refuses a request with a body before anything is done for it, and ends its connection: a
    body would have to be read to its end."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        if headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers:
            refusal = problem(400, "a question here has no body", {"Connection": "close"})
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)


# --- Questions and answers. -----------------------------------------------------------------------


def asked_of(endpoint: Endpoint, request: Request) -> Asked:
    """What a request asks.

    Raises:
        WronglyAsked: it cannot be asked so.
    """
    queries = request.query_params
    if len(queries.multi_items()) != len(queries):
        raise WronglyAsked("each name may stand once behind the ?")
    return endpoint.read(request.path_params, queries)


def answer(request: Request, data: bytes, kind: str, headers: Mapping[str, str]) -> Response:
    """Bytes with their tag; without the bytes where the client has them."""
    tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    tagged = {**headers, "ETag": tag}
    if has_it(request, tag):
        return Response(None, 304, tagged)
    return Response(data, 200, tagged, kind)


def has_it(request: Request, tag: str) -> bool:
    """Whether the client has what bears this tag."""
    given = request.headers.get("if-none-match", "")
    return given == "*" or tag in (one.strip().removeprefix("W/") for one in given.split(","))


# --- Errors, as RFC 9457 has them. ---------------------------------------------------------------


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error for programs and people."""
    title = http.HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return JSONResponse(body, status, {"Cache-Control": "no-store", **(headers or {})}, PROBLEM)


def _http_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    said = {
        404: "there is nothing here; see docs/operations.md for what there is",
        405: "this is read access: GET and HEAD only",
    }
    default = http.HTTPStatus(error.status_code).phrase
    detail = said.get(error.status_code, default) if error.detail == default else error.detail
    return problem(error.status_code, detail, error.headers)


def _absent(_request: Request, error: Exception) -> Response:
    later = {"Retry-After": "60"} if isinstance(error, Waiting) else None
    return problem(404, str(error), later)


def _wrongly_asked(_request: Request, error: Exception) -> Response:
    return problem(400, str(error))


def _too_long(_request: Request, error: Exception) -> Response:
    return problem(503, f"{error}; ask for it as METER/SEQUENCE", {"Retry-After": "10"})


def _unavailable(_request: Request, _error: Exception) -> Response:
    # What it is in detail names places on this machine.
    detail = "the gateway's store or files cannot be read now; /healthz says why"
    return problem(503, detail, {"Retry-After": "10"})


def _damaged(_request: Request, error: Exception) -> Response:
    return problem(500, f"the ledger's files are damaged: {error}")


def _own_fault(_request: Request, _error: Exception) -> Response:
    return problem(500, "an error of ours; it stands in the log of cryptometer-gateway serve")


PROBLEMS: dict[Any, Callable[[Request, Exception], Response]] = {
    HTTPException: _http_problem,
    Absent: _absent,
    WronglyAsked: _wrongly_asked,
    TooMuch: _wrongly_asked,
    SearchTooLong: _too_long,
    Unavailable: _unavailable,
    ConfigurationError: _unavailable,
    OSError: _unavailable,
    sqlite3.Error: _unavailable,
    Rejected: _damaged,
    Exception: _own_fault,
}


@asynccontextmanager
async def alive(status: str) -> AsyncIterator[None]:
    """Tells the service manager that we serve, as long as the event loop turns."""
    notifier = Notifier()

    async def tell() -> None:
        while notifier.watchdog_s is not None:
            notifier.alive(status)
            await asyncio.sleep(notifier.watchdog_s / 2)

    telling = asyncio.create_task(tell())
    notifier.ready(status)
    try:
        yield
    finally:
        telling.cancel()
        notifier.stopping()
