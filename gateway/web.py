"""`cryptometer-gateway serve`: read access by HTTP, a process of its own (docs/decisions/0012).

It reads the store and the ledger's files, and writes nothing: an error here, or a flood, cannot
stop a block. What is a member's it does not know: see `gateway.members_web`.
"""

import json
import os
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from cryptometer import records
from cryptometer.block_header import Header
from cryptometer.errors import ConfigurationError, Rejected
from cryptometer.note import decimal
from cryptometer.state import State
from cryptometer.tiles import CHECKPOINT_PATH
from gateway import answers, community_answers
from gateway.answers import NEWEST, Absent, Site
from gateway.endpoints import HTML, PUBLIC, Endpoint
from gateway.folder import Folder
from gateway.health import Facts, reasons
from gateway.history import source_of
from gateway.metrics import CONTENT_TYPE_LATEST, Figures, exposition
from gateway.openapi import document
from gateway.pages.community import BLOCKS_SHOWN, community_page
from gateway.pages.document import PAGE_HEADERS
from gateway.prove import prove
from gateway.questions import Asked
from gateway.reader import (
    FRESH,
    PROBLEMS,
    Bodiless,
    Reader,
    Unavailable,
    Worker,
    alive,
    answer,
    asked_of,
    has_it,
    serve_app,
)
from gateway.report import make_report
from gateway.sqlite_store import SqliteStore
from gateway.store import BlockRow
from hal.drivers import open_clock

T = TypeVar("T")

SAME_MOMENT_S = 1.0  # health and figures asked again within it are those told before
PIECE_BYTES = 2**18  # of a larger file, read and sent one after another
BLOCKS_KEPT = 1_024  # whose kinds have been counted
COSE = "application/cose"

_TILE = re.compile(
    r"(?:entries|[0-9]|[1-5][0-9]|6[0-3])/(?:x[0-9]{3}/){0,6}[0-9]{3}(?:\.p/[0-9]{1,3})?"
)
_FOR_EVER = {"Cache-Control": "public, max-age=31536000, immutable"}


def serve(folder: Folder) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code.

    Raises:
        ConfigurationError: it cannot listen there.
    """
    settings, web = folder.config.web, Web(folder)
    return serve_app(str(folder.ledger), settings.host, settings.port, "web", web.app)


class Web(Reader):
    """The answers of one gateway's folder."""

    def __init__(self, folder: Folder) -> None:
        super().__init__(folder)
        self._clock = open_clock(folder.config.clock)
        self._told: dict[str, tuple[float, object]] = {}
        self._telling = threading.Lock()
        self._counted: dict[tuple[int, int], answers.Kinds] = {}

    def app(self, address: str) -> Starlette:
        """The routes. All answer GET and HEAD alone."""
        return Starlette(
            routes=[
                Route("/", self._front),
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
                *self._api(),
            ],
            exception_handlers=PROBLEMS,
            middleware=[Middleware(Bodiless)],
            lifespan=lambda _: alive(f"serving at {address}"),
        )

    # --- Handlers. ---

    async def _front(self, request: Request) -> Response:
        """For people."""

        def make(site: Site, state: State) -> str:
            newest = site.store.blocks(BLOCKS_SHOWN)
            return community_page(source_of(site, state), state.balance, newest)

        text = await self._work(lambda: self._ask_whole(make))
        return answer(request, text.encode(), HTML, FRESH | PAGE_HEADERS)

    async def _checkpoint(self, request: Request) -> Response:
        data = await self._work(lambda: self._read(CHECKPOINT_PATH))
        if data is None:
            raise HTTPException(404, "the ledger has no block yet")
        return answer(request, data, "text/plain; charset=utf-8", FRESH)

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
            lambda: self._ask(lambda site: answers.record_bytes(site, what)),
            is_long=_searches(what),
        )
        return answer(request, raw, COSE, FRESH | {"Vary": "Accept"})

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

        text = await self._work(lambda: self._ask(make), is_long=_searches(what))
        return answer(request, text.encode(), "text/plain; charset=utf-8", FRESH)

    async def _health(self, _request: Request) -> Response:
        answer, wrong = await self._work(lambda: self._once("health", self._judge))
        return JSONResponse(answer, 503 if wrong else 200, {"Cache-Control": "no-store"})

    async def _metrics(self, _request: Request) -> Response:
        text = await self._work(lambda: self._once("metrics", self._measure))
        return Response(text, 200, {"Cache-Control": "no-store"}, CONTENT_TYPE_LATEST)

    # --- The API of version 1: see `gateway.openapi`. ---

    def _api(self) -> list[Route]:
        told: dict[str, Callable[[Site, State, Asked], answers.Json]] = {
            "community": lambda site, state, _: community_answers.community(site, state),
            "blocks": lambda site, _, asked: answers.blocks(site, int(asked.get("newest", NEWEST))),
            "block": lambda site, _, asked: answers.block(site, int(asked["step"]), self._kinds),
            "meters": lambda site, state, _: community_answers.meters(site, state),
            "comparisons": lambda site, _, asked: answers.comparisons(
                site, str(asked["meter"]), int(asked.get("newest", NEWEST))
            ),
            "balance": lambda site, state, _: community_answers.balance(site, state),
            "agreement": lambda site, state, asked: community_answers.agreement(
                site, state, _number(asked, "step")
            ),
            "waiting": lambda site, state, asked: community_answers.waiting(
                site, state, _number(asked, "from")
            ),
        }
        others = {"openapi": self._openapi, "checkpoint": self._checkpoint}
        return [
            Route(one.path, _asked_nothing(one, others[one.name]))
            if one.name in others
            else Route(one.path, self._told_at(one, told[one.name]))
            for one in PUBLIC
        ]

    def _told_at(
        self, endpoint: Endpoint, make: Callable[[Site, State, Asked], answers.Json]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            asked = asked_of(endpoint, request)
            value = await self._work(
                lambda: self._ask_whole(lambda site, state: make(site, state, asked))
            )
            return _json_answer(request, value)

        return handle

    async def _openapi(self, request: Request) -> Response:
        return _json_answer(request, document())

    # --- In worker threads. ---

    async def _json(
        self, request: Request, make: Callable[[Site], answers.Json], what: str = "/"
    ) -> Response:
        value = await self._work(lambda: self._ask(make), is_long=_searches(what))
        return _json_answer(request, value)

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
            is_private_damaged=store.is_private_damaged(),
            free_bytes={
                name: shutil.disk_usage(path).free
                for name, path in (("store", self._folder.state), ("ledger", self._folder.ledger))
                if path.exists()
            },
        )


# --- Answers. ------------------------------------------------------------------------------------


def _newest(request: Request) -> int:
    """How many a question asks for."""
    newest = decimal(request.query_params.get("newest", str(answers.NEWEST)))
    if newest is None or not 1 <= newest <= answers.NEWEST_MAX:
        raise HTTPException(400, f"newest is a number from 1 to {answers.NEWEST_MAX}")
    return newest


async def _file_answer(request: Request, file: BinaryIO, work: Worker) -> Response:
    size, changed_ns = await work(lambda: _size_and_change(file))
    tag = f'"{size:x}-{changed_ns:x}"'
    headers = {**_FOR_EVER, "ETag": tag, "Content-Length": str(size)}
    if has_it(request, tag):
        file.close()
        return Response(None, 304, {**_FOR_EVER, "ETag": tag})

    async def pieces() -> AsyncIterator[bytes]:
        with file:
            while request.method != "HEAD" and (
                piece := await work(lambda: file.read(PIECE_BYTES))
            ):
                yield piece

    return StreamingResponse(pieces(), 200, headers, "application/octet-stream")


def _asked_nothing(
    endpoint: Endpoint, handle: Callable[[Request], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    async def checked(request: Request) -> Response:
        asked_of(endpoint, request)
        return await handle(request)

    return checked


def _json_answer(request: Request, value: answers.Json) -> Response:
    data = json.dumps(value, ensure_ascii=False).encode()
    return answer(request, data, "application/json", FRESH)


def _number(asked: Asked, name: str) -> int | None:
    value = asked.get(name)
    return None if value is None else int(value)


def _searches(what: str) -> bool:
    """Whether a record is asked for by its identity."""
    return "/" not in what and decimal(what) is None


def _open(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _size_and_change(file: BinaryIO) -> tuple[int, int]:
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns
