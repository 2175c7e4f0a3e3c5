"""The line to the broker. Reconnects for ever with jittered back-off; keeps no message of its own.

What must arrive is kept by the caller until an end-to-end acknowledgement: a broker's own
acknowledgement is not durable. MQTT 3.1.1 is enough and is what every broker speaks.
"""

import contextlib
import os
import queue
import random
import select
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cryptometer.errors import ConfigurationError
from hal.broker import BrokerSettings
from hal.ports import Connected, Disconnected, Message

if TYPE_CHECKING:
    # Imported by the connection's own thread: 70 ms that the first pulse does not wait for.
    import paho.mqtt.client as paho

KEEPALIVE_S = 30
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.5, 60.0
STABLE_S = 5.0  # a connection that stood so long begins the back-off anew; see `_run`
CONNECT_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 5.0
VERDICT_S = 0.5  # most brokers answer a good certificate at once, with a session ticket
INCOMING_MAX = 2_000  # messages of up to 64 KiB; beyond it the network thread waits
IN_FLIGHT_MAX = 1_000
OUTGOING_MAX = 20_000  # messages that no broker has confirmed; two for each of 10,000 meters
_QOS = 1
_SUCCESS = 0  # paho.MQTT_ERR_SUCCESS


Event = Message | Connected | Disconnected


class Link:
    """One program's connection. `fileno` polls readable while events wait."""

    def __init__(
        self,
        settings: BrokerSettings,
        client_id: str,
        subscriptions: Sequence[str],
        *,
        will_topic: str | None = None,
        keep_session: bool = False,
        outgoing_max: int = OUTGOING_MAX,
    ) -> None:
        """
        Args:
            settings: where the broker is, and our credential.
            client_id: unique at the broker.
            subscriptions: topic filters, QoS 1.
            will_topic: where the broker says "offline", retained, once we are gone.
            keep_session: the broker keeps messages for us while we are away.
            outgoing_max: how many messages may wait for the broker's confirmation: one that never
                gives it must not fill our memory.

        Raises:
            ConfigurationError: the URL or a file is wrong, or a package is missing.
        """
        if find_spec("paho") is None:
            raise ConfigurationError(
                "the connection needs a package that is missing: pip install paho-mqtt, or Debian's"
                " python3-paho-mqtt"
            )
        self._host, self._port, self._tls = broker_address(settings)
        self._username = settings.username
        self._password = _password(settings)
        self._has_certificate = bool(settings.certificate_file)
        self._client_id = client_id
        self._subscriptions = list(subscriptions)
        self._will_topic = will_topic
        self._keep_session = keep_session
        self._outgoing_max = outgoing_max
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._room = threading.Semaphore(INCOMING_MAX)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stop = threading.Event()
        self._gone = threading.Event()
        self._lock = threading.Lock()
        self._client: paho.Client | None = None
        self._generation = 0  # of the connection, since a message id means nothing in another one
        self._closed = False
        self._why = ""
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Leaves the broker in order; returns once the thread has ended, or after a few seconds
        when it waits for a name or a host that does not answer: it ends by itself then."""
        self._stop.set()
        self._room.release(INCOMING_MAX)  # a network thread that waits for room must end too
        with self._lock:
            client = self._client
        if client is not None:
            client.disconnect()
            if not self._gone.wait(timeout=1):
                _break(client)  # it takes nothing any more, our farewell included
        if self._thread.ident is not None:
            self._thread.join(STOP_TIMEOUT_S)
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._wake)

    def fileno(self) -> int:
        return self._wake

    def drain(self, most: int) -> list[Event]:
        """Takes up to `most` events; never blocks."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        events: list[Event] = []
        while len(events) < most:
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                return events
            if isinstance(event, Message):
                self._room.release()
            events.append(event)
        os.eventfd_write(self._wake, 1)  # more may wait
        return events

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Hands a message to the network thread; False when there is no connection to send on, or
        the broker does not confirm what it was sent before."""
        with self._lock:
            client = self._client
            if client is None or not client.is_connected():
                return False
            return client.publish(topic, payload, _QOS, retain).rc == _SUCCESS

    def confirm(self, token: tuple[int, int]) -> None:
        """Tells the broker that a message is done with. Without it, it comes again."""
        generation, mid = token
        if mid == 0:
            return  # sent with QoS 0: the broker waits for no word
        with self._lock:
            if self._client is not None and generation == self._generation:
                self._client.ack(mid, _QOS)

    def _run(self) -> None:
        backoff_s = BACKOFF_FIRST_S
        while not self._stop.is_set():
            began_s = time.monotonic()
            # A broker that accepts us and breaks off at once must not be asked in haste for ever.
            if self._serve() and time.monotonic() - began_s > STABLE_S:
                backoff_s = BACKOFF_FIRST_S
            if self._stop.is_set():
                break
            self._put(Disconnected(self._why))
            # Jitter: after a broker's restart its clients must not all come at one moment.
            self._stop.wait(random.uniform(backoff_s / 2, backoff_s))  # noqa: S311
            backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)

    def _serve(self) -> bool:
        """One connection, from its beginning to its end; True if the broker accepted it."""
        # A new client each time: paho would send its own unacknowledged messages again, in an
        # order that is not ours.
        client = self._make_client()
        generation = self._generation + 1
        accepted = threading.Event()
        self._gone.clear()
        self._why = ""

        def on_connect(_c: Any, _u: Any, _f: Any, code: Any, _p: Any) -> None:
            if code.is_failure:
                self._why = (
                    f"the broker refuses us ({code}): check the user name and password, or ask the"
                    " authority for a new bundle"
                )
                client.disconnect()
                return
            for topic in self._subscriptions:
                client.subscribe(topic, _QOS)
            accepted.set()
            self._put(Connected())

        def on_message(_c: Any, _u: Any, message: "paho.MQTTMessage") -> None:
            self._room.acquire()
            token = (generation, message.mid)
            try:
                topic = message.topic
            except UnicodeDecodeError:
                topic = ""  # nobody's; confirmed like any other, or it would come again for ever
            self._put(Message(topic, bytes(message.payload), message.retain, token))

        def on_disconnect(*_: Any) -> None:
            self._gone.set()

        client.on_connect = on_connect
        client.on_disconnect = on_disconnect
        client.on_message = on_message
        try:
            self._live(client, generation)
        except (OSError, ValueError) as error:
            self._why = why_unreachable(f"{self._host}:{self._port}", error)
        finally:
            # They hold the client and the client holds them: its sockets would stay open.
            client.on_connect = client.on_disconnect = client.on_message = None
        if not self._why:
            self._why = "the connection broke" if accepted.is_set() else self._unanswered()
        return accepted.is_set()

    def _live(self, client: "paho.Client", generation: int) -> None:
        """Connects, and returns once the connection has ended.

        Raises:
            OSError: there is no connection.
        """
        client.connect(self._host, self._port, KEEPALIVE_S)
        with self._lock:
            # Under the lock: whoever stops us either finds the client, or is found here.
            if self._stop.is_set():
                _break(client)
                return
            self._client, self._generation = client, generation
        client.loop_start()
        self._gone.wait()
        with self._lock:
            self._client = None
        client.loop_stop()

    def _make_client(self) -> "paho.Client":
        import paho.mqtt.client as paho  # noqa: PLC0415
        from paho.mqtt.enums import CallbackAPIVersion  # noqa: PLC0415

        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=not self._keep_session,
            protocol=paho.MQTTv311,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        client.max_inflight_messages_set(IN_FLIGHT_MAX)
        client.max_queued_messages_set(self._outgoing_max)
        client.connect_timeout = CONNECT_TIMEOUT_S
        if self._tls is not None:
            client.tls_set_context(self._tls)
        if self._username:
            client.username_pw_set(self._username, self._password)
        if self._will_topic is not None:
            client.will_set(self._will_topic, b"offline", _QOS, retain=True)
        return client

    def _put(self, event: Event) -> None:
        self._events.put(event)
        with self._lock:
            # Once closed, the number may be that of another file.
            if not self._closed:
                os.eventfd_write(self._wake, 1)

    def _unanswered(self) -> str:
        hint = "; it may not accept our certificate" if self._has_certificate else ""
        hint = hint or ("; it may want TLS: mqtts://" if self._tls is None else "")
        return f"{self._host}:{self._port} broke the connection before it answered{hint}"


class _TlsSocket(ssl.SSLSocket):
    """Waits for the broker's verdict on our certificate; closes itself when the handshake fails,
    since paho would leave it to the collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
            self._await_verdict()
        except OSError:
            self.close()
            raise

    def _await_verdict(self) -> None:
        """With TLS 1.3 the verdict comes after our end of the handshake. Had we said anything by
        then, the reset of the connection would often bury the reason.

        Raises:
            ssl.SSLError: what the broker does not like.
        """
        poll = select.poll()
        poll.register(self, select.POLLIN)
        if not poll.poll(1000 * VERDICT_S):
            return
        timeout_s = self.gettimeout()
        self.setblocking(False)
        with contextlib.suppress(ssl.SSLWantReadError):
            self.recv(1)  # takes a session ticket, or an alert: a broker never speaks first
        self.settimeout(timeout_s)


def _break(client: "paho.Client") -> None:
    """Ends a connection without a farewell; the network thread finds it ended."""
    line = client.socket()
    if isinstance(line, socket.socket):
        with contextlib.suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)


def why_unreachable(where: str, error: Exception) -> str:
    """Why there is no connection to `where` (host:port), for people."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"{where} does not show the certificate of our broker ({error.verify_message}):"
            " check the url and ca_file"
        )
    if isinstance(error, ssl.SSLError):
        alert = (error.reason or "").partition("ALERT_")[2].lower().replace("_", " ")
        if "certificate" in alert or "unknown ca" in alert:
            return (
                f"the broker does not accept our certificate ({alert}): ask the authority for"
                " a new bundle"
            )
        return f"cannot speak TLS with {where}: {error.reason or error}"
    return f"cannot reach {where}: {error}"


def broker_address(settings: BrokerSettings) -> tuple[str, int, ssl.SSLContext | None]:
    """Host, port, and what TLS needs, or None where there is none.

    Raises:
        ConfigurationError: the URL or a file is wrong.
    """
    parts = urlsplit(settings.url)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme not in ("mqtt", "mqtts") or not host:
        raise ConfigurationError(
            f"the broker's url is mqtt://host:port or mqtts://host:port, not {settings.url!r}"
        )
    if parts.scheme == "mqtt":
        return host, port or 1883, None
    try:
        context = ssl.create_default_context(cafile=settings.ca_file or None)
        context.sslsocket_class = _TlsSocket
        if settings.certificate_file:
            # A password, so that nobody is asked for one at a terminal that is not there.
            context.load_cert_chain(settings.certificate_file, settings.key_file or None, "")
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(f"a TLS file of the broker cannot be used: {error}") from None
    return host, port or 8883, context


def _password(settings: BrokerSettings) -> str | None:
    if not settings.password_file:
        return None
    if not settings.username:
        raise ConfigurationError("a password needs a username: set both in [broker]")
    try:
        return Path(settings.password_file).read_text().strip()
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {settings.password_file}: {error.strerror}"
        ) from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{settings.password_file} is not UTF-8 text") from None
