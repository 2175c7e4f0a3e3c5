"""Reads a ledger over HTTP: one connection, kept open, bounded in time and in bytes.

The server is trusted with nothing but delivery: what it sends is checked like any file.
"""

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from urllib.parse import urlsplit

from cryptometer import __version__
from cryptometer.commands.sources import FILE_MAX
from cryptometer.errors import ConfigurationError, Reason, Rejected

SILENCE_MAX_S = 30.0  # of a server, between two of its words
ANSWER_MAX_S = 300.0  # for one whole file: 16 MiB at 55 KiB/s
TRIES = 4  # of each file: a server that restarts is back within the pauses between them
_PAUSE_S = 0.5  # before the second try; doubled each time
_GONE = (404, 410)
_LATER = (429, 500, 502, 503, 504)


class Unreachable(OSError):  # noqa: N818 - the machine or the network failed, not the ledger
    """A file of the ledger could not be had; whether the ledger holds is not known."""


class _TooSlow(TimeoutError):  # noqa: N818 - as those it stands beside
    """The whole answer took too long."""


class HttpLedger:
    """A ledger behind an `http` or `https` address. Not for several threads at once."""

    def __init__(self, url: str, *, pause: Callable[[float], None] = time.sleep) -> None:
        """Opens no connection yet.

        Args:
            url: of the folder that holds the ledger's checkpoint.
            pause: waits between two tries, for so many seconds.

        Raises:
            ConfigurationError: it is no such address.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigurationError(f"{url!r} is no address: {error}") from None
        if parts.scheme not in {"http", "https"} or not host:
            raise ConfigurationError(f"{url!r} is no http:// or https:// address")
        if parts.query or parts.fragment or parts.username is not None or not url.isprintable():
            raise ConfigurationError(
                f"{url!r}: a ledger's address has no user, '?' or '#'; give the folder's alone"
            )
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._base = parts.path.rstrip("/")
        self._pause = pause
        self._connection: http.client.HTTPConnection
        if parts.scheme == "https":
            self._connection = http.client.HTTPSConnection(
                host, port, timeout=SILENCE_MAX_S, context=ssl.create_default_context()
            )
        else:
            self._connection = http.client.HTTPConnection(host, port, timeout=SILENCE_MAX_S)

    def __enter__(self) -> "HttpLedger":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()

    def read(self, path: str) -> bytes | None:
        """The content of a ledger path, None where the server has no such file.

        Raises:
            Unreachable: it cannot be had; the message says why.
            Rejected: TOO_LARGE.
        """
        last = ""
        for attempt in range(TRIES):
            if attempt:
                self._pause(_PAUSE_S * 2 ** (attempt - 1))
            try:
                status, data = self._get(path)
            except ssl.SSLCertVerificationError as error:
                # Another try shows the same certificate.
                raise self._unreachable(path, f"certificate: {error.verify_message}") from None
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                last = _reason(error)
                continue
            if status == http.client.OK:
                return data
            if status in _GONE:
                return None
            if status not in _LATER:
                raise self._unreachable(path, f"the server answers {status}")
            last = f"the server answers {status}"
        raise self._unreachable(path, f"{last} ({TRIES} tries)")

    def _get(self, path: str) -> tuple[int, bytes]:
        self._connection.request(
            "GET",
            f"{self._base}/{path}",
            headers={"User-Agent": f"cryptometer/{__version__}", "Accept-Encoding": "identity"},
        )
        with _ended_in_time(self._connection.sock) as is_late:
            try:
                with self._connection.getresponse() as response:
                    answer = response.status, self._content(path, response)
            except (OSError, http.client.HTTPException):
                if not is_late():
                    raise
            # Cut by us, an answer without a length looks whole.
            if is_late():
                raise _TooSlow(f"not all there after {ANSWER_MAX_S:.0f} s")
            return answer

    def _content(self, path: str, response: http.client.HTTPResponse) -> bytes:
        stated = response.length
        data = response.read(FILE_MAX + 1)
        if len(data) > FILE_MAX:
            self._connection.close()
            raise Rejected(Reason.TOO_LARGE, f"{path} has more than {FILE_MAX} bytes")
        if stated is not None and len(data) != stated:
            raise http.client.IncompleteRead(data, stated - len(data))
        return data

    def _unreachable(self, path: str, why: str) -> Unreachable:
        return Unreachable(f"cannot read {self.url}/{path}: {why}")


@contextmanager
def _ended_in_time(connected: socket.socket) -> Iterator[Callable[[], bool]]:
    """Ends the connection when a whole answer takes too long: a server that sends now and then a
    byte must not hold us for ever. Gives a function that tells whether that was done."""
    late = threading.Event()

    def end() -> None:
        late.set()
        with suppress(OSError):
            # Past the TLS layer, which is the reader's alone.
            socket.socket.shutdown(connected, socket.SHUT_RDWR)

    timer = threading.Timer(ANSWER_MAX_S, end)
    timer.daemon = True
    timer.start()
    try:
        yield late.is_set
    finally:
        timer.cancel()


def _reason(error: OSError | http.client.HTTPException) -> str:
    match error:
        case http.client.RemoteDisconnected() | http.client.CannotSendRequest():
            return "the server closed the connection"
        case http.client.IncompleteRead():
            return f"cut off after {len(error.partial)} bytes"
        case _TooSlow():
            return str(error)
        case TimeoutError():
            return "no answer in time"
        case ssl.SSLError():
            return f"TLS: {error.reason or error}"
        case OSError():
            return error.strerror or str(error)
        case _:
            return f"the answer is not HTTP ({type(error).__name__})"
