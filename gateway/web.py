"""`cryptometer-gateway serve`: read access by HTTP, a process of its own (docs/decisions/0012).

It reads the store and the ledger's files, and writes nothing: an error here, or a flood, cannot
stop a block. Files and the store are read in a few worker threads, whose number bounds memory.
"""

import asyncio
import hashlib
import http
import json
import logging
import os
import re
import shutil
import sqlite3
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeVar

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from cryptometer import records
from cryptometer.community import Community
from cryptometer.errors import ConfigurationError, Rejected
from cryptometer.note import decimal
from cryptometer.records import Header
from cryptometer.state import State
from cryptometer.tiles import CHECKPOINT_PATH
from gateway import answers, connections
from gateway.answers import Absent, Site, Waiting
from gateway.folder import Folder, read_community
from gateway.health import Facts, reasons
from gateway.metrics import CONTENT_TYPE_LATEST, Figures, exposition
from gateway.prove import prove
from gateway.report import make_report
from gateway.sqlite_store import SqliteStore
from gateway.store import BlockRow, SearchTooLong
from hal.drivers import open_clock
from hal.notify import Notifier

T = TypeVar("T")
Worker: TypeAlias = Callable[[Callable[[], Any]], Awaitable[Any]]

WORKERS = 8
FIND_MAX_S = 1.0  # for a record by its identity, which has no index
SAME_MOMENT_S = 1.0  # health and figures asked again within it are those told before
PIECE_BYTES = 2**18  # of a larger file, read and sent one after another
BLOCKS_KEPT = 1_024  # whose kinds have been counted
COSE = "application/cose"
PROBLEM = "application/problem+json"

_TILE = re.compile(
    r"(?:entries|[0-9]|[1-5][0-9]|6[0-3])/(?:x[0-9]{3}/){0,6}[0-9]{3}(?:\.p/[0-9]{1,3})?"
)
_FOR_EVER = {"Cache-Control": "public, max-age=31536000, immutable"}
_FRESH = {"Cache-Control": "no-cache"}


class Unavailable(Exception):  # noqa: N818 - an answer
    """It cannot be told now; the message says why."""


def serve(folder: Folder) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code.

    Raises:
        ConfigurationError: it cannot listen there.
    """
    settings = folder.config.web
    # What clients do wrong is theirs to know; our own errors are still told.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    with connections.listen(settings.host, settings.port) as listening:
        host, port = listening.getsockname()[:2]
        stopping = connections.heed_signals()
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        print(f"serving {folder.ledger} at {address}", file=sys.stderr, flush=True)
        connections.run(Web(folder).app(address), listening, stopping)
    return 0


class Web:
    """The answers of one gateway's folder."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._clock = open_clock(folder.config.clock)
        self._limiters: tuple[anyio.CapacityLimiter, ...] = ()
        self._known: tuple[list[bytes], Community] | None = None
        self._told: dict[str, tuple[float, object]] = {}
        self._telling = threading.Lock()
        self._counted: dict[tuple[int, int], answers.Kinds] = {}

    def app(self, address: str) -> Starlette:
        """The routes. All answer GET and HEAD alone."""
        return Starlette(
            routes=[
                Route("/checkpoint", self._checkpoint),
                Route("/tile/{rest:path}", self._tile),
                Route("/blocks", self._blocks),
                Route("/blocks/{step}", self._block),
                Route("/comparisons/{meter}", self._comparisons),
                Route("/sharing", self._sharing),
                Route("/records/{what:path}", self._record),
                Route("/proofs/{what:path}", self._proof),
                Route("/healthz", self._health),
                Route("/metrics", self._metrics),
            ],
            exception_handlers=_PROBLEMS,
            middleware=[Middleware(_Bodiless)],
            lifespan=lambda _: _alive(f"serving at {address}"),
        )

    # --- Handlers. ---

    async def _checkpoint(self, request: Request) -> Response:
        data = await self._work(lambda: self._read(CHECKPOINT_PATH))
        if data is None:
            raise HTTPException(404, "the ledger has no block yet")
        return _answer(request, data, "text/plain; charset=utf-8", _FRESH)

    async def _tile(self, request: Request) -> Response:
        rest = request.path_params["rest"]
        if not _TILE.fullmatch(rest):
            raise HTTPException(404, "no tile has such a path: see C2SP tlog-tiles")
        file = await self._work(lambda: _open(self._folder.ledger / "tile" / rest))
        if file is None:
            raise HTTPException(
                404, "there is no such tile; a partial one goes when the full one stands"
            )
        return await _file_answer(request, file, self._work)

    async def _blocks(self, request: Request) -> Response:
        newest = _newest(request)
        return await self._json(request, lambda site: answers.blocks(site, newest))

    async def _comparisons(self, request: Request) -> Response:
        meter, newest = request.path_params["meter"], _newest(request)
        return await self._json(request, lambda site: answers.comparisons(site, meter, newest))

    async def _block(self, request: Request) -> Response:
        step = decimal(request.path_params["step"])
        if step is None:
            raise HTTPException(404, "a step is a decimal number; /blocks lists the newest")
        return await self._json(request, lambda site: answers.block(site, step, self._kinds))

    async def _sharing(self, request: Request) -> Response:
        return await self._json(request, answers.sharing)

    async def _record(self, request: Request) -> Response:
        what = request.path_params["what"]
        wants_raw = "raw" in request.query_params or COSE in request.headers.get("accept", "")
        if not wants_raw:
            return await self._json(request, lambda site: answers.record(site, what), what)
        raw = await self._work(
            lambda: self._ask(lambda site: answers.record_bytes(site, what)), what
        )
        return _answer(request, raw, COSE, _FRESH | {"Vary": "Accept"})

    async def _proof(self, request: Request) -> Response:
        what = request.path_params["what"]

        def make(site: Site) -> str:
            place = what
            if decimal(what) is None:
                meter, sequence, _ = answers.record_place(site, what)
                place = f"{meter}/{sequence}"
            try:
                return prove(place, site.store, site.read, site.community)
            except ConfigurationError as error:
                raise Absent(str(error)) from None

        text = await self._work(lambda: self._ask(make), what)
        return _answer(request, text.encode(), "text/plain; charset=utf-8", _FRESH)

    async def _health(self, _request: Request) -> Response:
        answer, wrong = await self._work(lambda: self._once("health", self._judge))
        return JSONResponse(answer, 503 if wrong else 200, {"Cache-Control": "no-store"})

    async def _metrics(self, _request: Request) -> Response:
        text = await self._work(lambda: self._once("metrics", self._measure))
        return Response(text, 200, {"Cache-Control": "no-store"}, CONTENT_TYPE_LATEST)

    # --- In worker threads. ---

    async def _work(self, make: Callable[[], T], what: str = "/") -> T:
        """Does what blocks in a worker thread; searches by identity, one at a time, in one of
        their own."""
        if not self._limiters:
            self._limiters = (anyio.CapacityLimiter(WORKERS), anyio.CapacityLimiter(1))
        searches = "/" not in what and decimal(what) is None
        return await anyio.to_thread.run_sync(make, limiter=self._limiters[searches])

    async def _json(
        self, request: Request, make: Callable[[Site], answers.Json], what: str = "/"
    ) -> Response:
        value = await self._work(lambda: self._ask(make), what)
        data = json.dumps(value, ensure_ascii=False).encode()
        return _answer(request, data, "application/json", _FRESH)

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

    def _kinds(self, site: Site, row: BlockRow) -> answers.Kinds:
        """Counted once: a block does not change."""
        place = (row.first, row.size)
        try:
            return self._counted[place]
        except KeyError:
            counted = answers.kinds(site, row)
        if len(self._counted) >= BLOCKS_KEPT:
            self._counted.clear()
        self._counted[place] = counted
        return counted  # and not what is kept: another thread may have cleared it

    def _once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` tells, or has told within the same moment: asking often costs nothing."""
        with self._telling:
            at, told = self._told.get(name, (-SAME_MOMENT_S, None))
            if time.monotonic() - at >= SAME_MOMENT_S:
                told = make()
                self._told[name] = (time.monotonic(), told)
            return told  # type: ignore[return-value]  # each name has one `make`

    def _judge(self) -> tuple[answers.Json, bool]:
        try:
            with self._store() as store:
                facts = self._facts(store, store.state())
        except (Unavailable, Rejected, ConfigurationError, OSError, sqlite3.Error) as error:
            return {"healthy": False, "reasons": [str(error)]}, True
        wrong = reasons(facts)
        answer: answers.Json = {
            "healthy": not wrong,
            "reasons": list(wrong),
            "step": facts.step,
            "overdue_s": facts.overdue_ms // 1000,
            "leaves": facts.size,
            "published_leaves": facts.published,
        }
        return answer, bool(wrong)

    def _measure(self) -> bytes:
        with self._store() as store:
            state = store.state()
            facts = self._facts(store, state)
            newest = next(iter(store.blocks(1)), None)
            report = None if state is None else make_report(store, state)
            return exposition(Figures(facts, report, newest, store.set_aside(), store.depths()))

    def _facts(self, store: SqliteStore, state: State | None) -> Facts:
        if state is None:
            raise Unavailable(
                "there are no authority records yet: cryptometer-gateway import authority.records"
            )
        site = self._site(store)
        rows = store.blocks(1)
        header = records.decode(site.leaf(site.size - 1)).body if site.size else None
        return Facts(
            now=self._clock.now(),
            step=rows[0].step if rows else None,
            step_s=state.genesis.step_s,
            grace_ms=state.genesis.grace_ms,
            sealed_ms=rows[0].sealed_ms if rows else 0,
            size=state.frontier.size,
            published=site.size,
            sealed_clock=header.clock.state if isinstance(header, Header) else None,
            accept_unsynchronised=self._folder.config.accept_unsynchronised,
            free_bytes={
                name: shutil.disk_usage(path).free
                for name, path in (("store", self._folder.state), ("ledger", self._folder.ledger))
                if path.exists()
            },
        )


class _Bodiless:
    """Refuses a request with a body before anything is done for it, and ends its connection: a
    body would have to be read to its end."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        if headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers:
            refusal = _problem(400, "a question here has no body", {"Connection": "close"})
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)


# --- Answers. ------------------------------------------------------------------------------------


def _newest(request: Request) -> int:
    """How many a question asks for."""
    newest = decimal(request.query_params.get("newest", str(answers.NEWEST)))
    if newest is None or not 1 <= newest <= answers.NEWEST_MAX:
        raise HTTPException(400, f"newest is a number from 1 to {answers.NEWEST_MAX}")
    return newest


def _answer(request: Request, data: bytes, kind: str, headers: Mapping[str, str]) -> Response:
    """Bytes with their tag; without the bytes where the client has them."""
    tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    tagged = {**headers, "ETag": tag}
    if _has(request, tag):
        return Response(None, 304, tagged)
    return Response(data, 200, tagged, kind)


async def _file_answer(request: Request, file: BinaryIO, work: Worker) -> Response:
    size, changed_ns = await work(lambda: _size_and_change(file))
    tag = f'"{size:x}-{changed_ns:x}"'
    headers = {**_FOR_EVER, "ETag": tag, "Content-Length": str(size)}
    if _has(request, tag):
        file.close()
        return Response(None, 304, {**_FOR_EVER, "ETag": tag})

    async def pieces() -> AsyncIterator[bytes]:
        with file:
            while request.method != "HEAD" and (
                piece := await work(lambda: file.read(PIECE_BYTES))
            ):
                yield piece

    return StreamingResponse(pieces(), 200, headers, "application/octet-stream")


def _has(request: Request, tag: str) -> bool:
    given = request.headers.get("if-none-match", "")
    return given == "*" or tag in (one.strip().removeprefix("W/") for one in given.split(","))


def _open(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _size_and_change(file: BinaryIO) -> tuple[int, int]:
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns


# --- Errors, as RFC 9457 has them. ---------------------------------------------------------------


def _problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
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
    return _problem(error.status_code, detail, error.headers)


def _absent(_request: Request, error: Exception) -> Response:
    later = {"Retry-After": "60"} if isinstance(error, Waiting) else None
    return _problem(404, str(error), later)


def _too_long(_request: Request, error: Exception) -> Response:
    return _problem(503, f"{error}; ask for it as METER/SEQUENCE", {"Retry-After": "10"})


def _unavailable(_request: Request, _error: Exception) -> Response:
    # What it is in detail names places on this machine.
    detail = "the gateway's store or files cannot be read now; /healthz says why"
    return _problem(503, detail, {"Retry-After": "10"})


def _damaged(_request: Request, error: Exception) -> Response:
    return _problem(500, f"the ledger's files are damaged: {error}")


def _own_fault(_request: Request, _error: Exception) -> Response:
    return _problem(500, "an error of ours; it stands in the log of cryptometer-gateway serve")


_PROBLEMS: dict[Any, Callable[[Request, Exception], Response]] = {
    HTTPException: _http_problem,
    Absent: _absent,
    SearchTooLong: _too_long,
    Unavailable: _unavailable,
    ConfigurationError: _unavailable,
    OSError: _unavailable,
    sqlite3.Error: _unavailable,
    Rejected: _damaged,
    Exception: _own_fault,
}


@asynccontextmanager
async def _alive(status: str) -> AsyncIterator[None]:
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
