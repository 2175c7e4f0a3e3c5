"""Connections of the web side, bounded in number, in time and in the size of a request's head.

A server of the same process can be held by clients that connect and say nothing, or a byte now and
then; here each connection has to get on.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Sequence
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from cryptometer.errors import ConfigurationError

CONNECTIONS_MAX = 256  # beyond it the newest is closed at once; a descriptor and some KiB each
WORKING_MAX = 128  # connections beyond which requests are answered with 503
LOOK_S = 5.0  # a request's head may take twice this
ANSWER_MAX_S = 120.0  # for one whole answer, however slowly it is read
KEEP_ALIVE_S = 15  # without a request
HEAD_MAX_BYTES = 16_384
STOP_MAX_S = 5  # answers that are being sent when the program is told to stop


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 on one connection that must not rest for long."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._seen: object = None
        self._waited_s = 0.0
        self._look: asyncio.TimerHandle | None = None
        if len(self.connections) > CONNECTIONS_MAX:
            transport.abort()
            return
        self._look = self.loop.call_later(LOOK_S, self._look_again)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def _look_again(self) -> None:
        cycle = self.cycle
        if cycle is not self._seen:
            self._seen, self._waited_s = cycle, 0.0
        self._waited_s += LOOK_S
        answering = cycle is not None and not cycle.response_complete
        # What waits for its first request, or has sent part of a next one, has had its time.
        most_s = ANSWER_MAX_S if answering else (2 * LOOK_S if cycle is None else KEEP_ALIVE_S)
        if self._waited_s >= most_s:
            self.transport.abort()
            return
        self._look = self.loop.call_later(LOOK_S, self._look_again)


def listen(host: str, port: int, table: str = "web") -> socket.socket:
    """A listening socket. `table` of the configuration says where.

    Raises:
        ConfigurationError: the address cannot be had; the message says why.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        listening = socket.create_server(address[:2], family=family, backlog=CONNECTIONS_MAX)
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number is not None and number > 0 else str(error)
        raise ConfigurationError(
            f"cannot listen on {host}, port {port}: {reason}; see [{table}] in gateway.toml"
        ) from None
    # Inherited by each connection: an answer's head and body are written one after the other, and
    # the second must not wait 40 ms for the first one's receipt.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


class _Server(uvicorn.Server):
    """Ends for a signal, too, that came before the library listened to any."""

    def __init__(self, config: uvicorn.Config, stopping: Sequence[int]) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def main_loop(self) -> None:
        self.should_exit = self.should_exit or bool(self._stopping)
        await super().main_loop()


def heed_signals() -> list[int]:
    """From now on SIGTERM and SIGINT end nothing by themselves: what has come is in the list."""
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: stopping.append(received))
    return stopping


def run(app: Any, listening: socket.socket, stopping: Sequence[int]) -> None:
    """Serves until SIGTERM or SIGINT comes, or one is in `stopping`."""
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        loop="asyncio",
        ws="none",
        lifespan="on",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=WORKING_MAX,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_MAX_S,
        h11_max_incomplete_event_size=HEAD_MAX_BYTES,
    )
    # The library raises the signal again once it has ended; `heed_signals` takes it.
    _Server(config, stopping).run(sockets=[listening])
