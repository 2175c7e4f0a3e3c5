"""`cryptometer audit URL`: a ledger behind a server that may do what it likes.

The servers here are plain ones of the standard library, each with a fault of its own; the
gateway's own server is tested in `tests.gateway.test_serve`.
"""

import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cryptometer.commands import http_ledger
from cryptometer.commands.certificates import make_authority
from cryptometer.commands.http_ledger import HttpLedger, Unreachable
from cryptometer.commands.main import EXIT_MACHINE
from cryptometer.community import encode_community
from cryptometer.errors import ConfigurationError
from cryptometer.tiles import CHECKPOINT_PATH
from tests.commands.outsider import Answer, called, lay, process
from tests.core.community import Village, flip, lay_out, sign_head

Respond = Callable[[BaseHTTPRequestHandler, bytes | None], None]


def make() -> Village:
    village = Village(meters=2)
    village.run((8, 3), (4,), (1,))
    return village


VILLAGE = make()
COMMUNITY = VILLAGE.community()
LEAVES = VILLAGE.leaves
FILES = VILLAGE.files()


@pytest.fixture
def pub(tmp_path: Path) -> Path:
    path = tmp_path / "community.pub"
    path.write_text(encode_community(COMMUNITY))
    return path


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience of a test: what a server may take is not what an operator waits."""
    monkeypatch.setattr(http_ledger, "_PAUSE_S", 0.01)
    monkeypatch.setattr(http_ledger, "SILENCE_MAX_S", 1.0)
    monkeypatch.setattr(http_ledger, "ANSWER_MAX_S", 2.0)


class Server:
    """Serves files by their paths, and counts connections and requests."""

    def __init__(self, files: Mapping[str, bytes], respond: Respond) -> None:
        self.files = files
        self.connections = 0
        self.asked: list[str] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                owner.connections += 1
                super().setup()

            def do_GET(self) -> None:
                owner.asked.append(self.path)
                respond(self, owner.files.get(self.path.removeprefix("/ledger/")))

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/ledger"


def whole(handler: BaseHTTPRequestHandler, data: bytes | None) -> None:
    """An honest answer."""
    handler.send_response(200 if data is not None else 404)
    handler.send_header("Content-Length", str(len(data or b"")))
    handler.end_headers()
    handler.wfile.write(data or b"")


@contextmanager
def serving(files: Mapping[str, bytes], respond: Respond = whole) -> Iterator[Server]:
    server = Server(files, respond)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()


def failure(answer: Answer) -> str:
    """It says that it could not read, which is no verdict on the ledger."""
    assert (answer.code, answer.out) == (EXIT_MACHINE, ""), answer
    [line] = answer.err.splitlines()
    return line.removeprefix("cryptometer: ")


# --- A server that serves. -----------------------------------------------------------------------


def test_an_address_gives_what_the_folder_gives_over_one_connection(
    tmp_path: Path, pub: Path
) -> None:
    folder = called("audit", lay(tmp_path / "ledger", FILES), "--community", pub)
    with serving(FILES) as server:
        assert called("audit", server.url, "--community", pub) == folder
        assert called("audit", server.url + "/", "--community", pub) == folder
        assert server.connections == 2
        assert process("audit", server.url, "--community", pub) == folder


def test_an_audit_goes_on_from_what_it_kept_and_asks_for_what_is_new(
    tmp_path: Path, pub: Path
) -> None:
    state = tmp_path / "kept" / "audit.state"
    state.parent.mkdir()
    village = Village()
    pub.write_text(encode_community(village.community()))
    while len(village.leaves) < 300:
        village.run((1,))
    with serving(village.files()) as server:
        first = process("audit", server.url, "--community", pub, "--state", state).lines
        assert not any(line.startswith("since last") for line in first)
        assert state.stat().st_mode & 0o777 == 0o600
        whole_visit, server.asked = server.asked, []
        village.run((2,), (3,))
        server.files = village.files()
        again = process("audit", server.url, "--community", pub, "--state", state).lines
        gained = "since last     2 blocks, 6 leaves checked now; those before them when they came"
        assert again == [
            *called("audit", server.url, "--community", pub).lines[:-1],
            gained,
            again[-1],
        ]
        assert "/ledger/tile/0/000" in whole_visit
        assert "/ledger/tile/0/000" not in server.asked[:4]


def test_a_state_that_cannot_be_gone_on_with_says_what_to_do(tmp_path: Path, pub: Path) -> None:
    ledger, state = lay(tmp_path / "ledger", FILES), tmp_path / "audit.state"
    for data in (b"", b"x" * 500):
        state.write_bytes(data)
        said = called("audit", ledger, "--community", pub, "--state", state).refusal
        assert said.startswith(f"malformed: {state}: ")
        assert said.endswith("without this file the whole ledger is audited anew")
    state.unlink()
    assert called("audit", ledger, "--community", pub, "--state", state).code == 0
    state.write_bytes(flip(state.read_bytes(), 4_000))
    assert "damaged" in called("audit", ledger, "--community", pub, "--state", state).refusal


def test_a_breach_leaves_the_state_as_it_was(tmp_path: Path, pub: Path) -> None:
    state = tmp_path / "audit.state"
    early = [record.raw for block in VILLAGE.blocks[:2] for record in block]
    with serving(lay_out(early, sign_head(early, COMMUNITY.origin, VILLAGE.gateway))) as server:
        assert called("audit", server.url, "--community", pub, "--state", state).code == 0
        before = state.read_bytes()
        server.files = lay_out([flip(early[3], 99), *early[1:]], FILES[CHECKPOINT_PATH].decode())
        assert called("audit", server.url, "--community", pub, "--state", state).code == 2
        assert state.read_bytes() == before
        server.files = FILES
        assert called("audit", server.url, "--community", pub, "--state", state).code == 0
        assert state.read_bytes() != before
        server.files = lay_out(early, sign_head(early, COMMUNITY.origin, VILLAGE.gateway))
        said = called("audit", server.url, "--community", pub, "--state", state).refusal
        assert (
            said
            == f"bad-checkpoint: the ledger has {len(early)} leaves and had {len(LEAVES)} before"
        )


# --- A server that lies. -------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(FILES))
def test_a_file_changed_by_the_server_is_found_and_the_place_named(path: str, pub: Path) -> None:
    place = re.compile(r"leaf \d+|header of step \d+|tile/[a-z0-9/.]+|checkpoint")
    with serving(FILES) as server:
        for bit in (8, 4 * len(FILES[path]), 8 * len(FILES[path]) - 5):
            server.files = FILES | {path: flip(FILES[path], bit)}
            assert place.search(called("audit", server.url, "--community", pub).refusal)
        server.files = FILES | {path: FILES[path][:-1]}
        assert place.search(called("audit", server.url, "--community", pub).refusal)
        server.files = {name: data for name, data in FILES.items() if name != path}
        assert place.search(called("audit", server.url, "--community", pub).refusal)


def test_an_endless_file_is_not_read_to_its_end(pub: Path) -> None:
    def endless(handler: BaseHTTPRequestHandler, data: bytes | None) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.close_connection = True
        with suppress(ConnectionError):  # the auditor hangs up
            for _ in range(1_000):
                handler.wfile.write(bytes(1 << 20))

    with serving(FILES, endless) as server:
        said = called("audit", server.url, "--community", pub).refusal
        assert said.startswith("too-large: checkpoint has more than ")


# --- A server that fails. ------------------------------------------------------------------------


def test_each_failure_has_its_own_words_and_is_no_verdict(pub: Path) -> None:
    def cut(handler: BaseHTTPRequestHandler, data: bytes | None) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"half")
        handler.close_connection = True

    def hang_up(handler: BaseHTTPRequestHandler, data: bytes | None) -> None:
        handler.close_connection = True

    def babble(handler: BaseHTTPRequestHandler, data: bytes | None) -> None:
        handler.wfile.write(b"220 mail.example ESMTP\r\n")
        handler.close_connection = True

    def answer(status: int) -> Respond:
        def respond(handler: BaseHTTPRequestHandler, data: bytes | None) -> None:
            handler.send_response(status)
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        return respond

    for respond, words, requests in (
        (cut, "cut off after 4 bytes (4 tries)", 4),
        (hang_up, "the server closed the connection (4 tries)", 4),
        (babble, "the answer is not HTTP (BadStatusLine) (4 tries)", 4),
        (answer(503), "the server answers 503 (4 tries)", 4),
        (answer(403), "the server answers 403", 1),
        (answer(302), "the server answers 302", 1),
    ):
        with serving(FILES, respond) as server:
            said = failure(called("audit", server.url, "--community", pub))
            assert said == f"cannot read {server.url}/checkpoint: {words}"
            assert len(server.asked) == requests


def test_a_server_that_drips_or_says_nothing_is_left_in_time(
    pub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_ledger, "TRIES", 1)
    done = threading.Event()

    def drip_on(handler: BaseHTTPRequestHandler) -> None:
        with suppress(ConnectionError):
            while not done.wait(0.1):
                handler.wfile.write(b".")

    def drip(handler: BaseHTTPRequestHandler, data: bytes | None) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        drip_on(handler)

    def drip_words(handler: BaseHTTPRequestHandler, data: bytes | None) -> None:
        handler.wfile.write(b"HTTP/1.1 200 ")
        drip_on(handler)

    def endless_drip(handler: BaseHTTPRequestHandler, data: bytes | None) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.close_connection = True
        drip_on(handler)

    def silent(handler: BaseHTTPRequestHandler, data: bytes | None) -> None:
        done.wait(10)

    for respond, words in (
        (drip, "not all there after 2 s"),
        (drip_words, "not all there after 2 s"),
        (endless_drip, "not all there after 2 s"),
        (silent, "no answer in time"),
    ):
        done.clear()
        with serving(FILES, respond) as server:
            said = failure(called("audit", server.url, "--community", pub))
            done.set()
            assert said == f"cannot read {server.url}/checkpoint: {words} (1 tries)"


def test_a_server_that_comes_back_is_asked_again(pub: Path) -> None:
    def flaky(handler: BaseHTTPRequestHandler, data: bytes | None) -> None:
        if len(server.asked) % 3:
            handler.close_connection = True
        else:
            whole(handler, data)

    with serving(FILES, flaky) as server:
        assert called("audit", server.url, "--community", pub).lines[-1] == "the ledger holds"


def test_nobody_there_and_no_such_host_are_told(pub: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    said = failure(called("audit", f"http://127.0.0.1:{port}", "--community", pub))
    assert said == f"cannot read http://127.0.0.1:{port}/checkpoint: Connection refused (4 tries)"
    said = failure(called("audit", "http://nobody.invalid", "--community", pub))
    assert said.startswith("cannot read http://nobody.invalid/checkpoint: ")


def test_tls_to_a_server_without_it_is_told(pub: Path) -> None:
    with serving(FILES) as server:
        said = failure(called("audit", server.url.replace("http", "https"), "--community", pub))
        assert ": TLS: " in said


def test_a_foreign_certificate_is_told_and_nothing_is_asked_behind_it(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    ca = make_authority(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "another", now
    )
    pair = ca.issue_client("127.0.0.1", 1, now)
    (tmp_path / "server.pem").write_bytes(pair.certificate + pair.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    heard: list[bytes] = []

    def answer(listening: socket.socket) -> None:
        for _ in range(2):
            line, _ = listening.accept()
            with line, suppress(OSError), context.wrap_socket(line, server_side=True) as secret:
                heard.append(secret.recv(100))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"https://127.0.0.1:{listening.getsockname()[1]}/ledger"
        server = threading.Thread(target=answer, args=[listening], daemon=True)
        server.start()
        with HttpLedger(url) as ledger:
            for _ in range(2):
                with pytest.raises(Unreachable, match="certificate: "):
                    ledger.read(CHECKPOINT_PATH)
        server.join(30)
    assert not server.is_alive()
    assert not any(heard)


def test_what_is_no_address_is_told(pub: Path) -> None:
    for url in (
        "http://",
        "http://host:port/",
        "http://[::1/",
        "https://user:secret@host/",
        "http://host/?tile=1",
        "http://host/#top",
        "http://host/\x07",
    ):
        answer = called("audit", url, "--community", pub)
        assert "http" in answer.refusal


def test_an_absent_file_is_none_and_the_reader_can_be_closed() -> None:
    with serving(FILES) as server, HttpLedger(server.url) as ledger:
        assert ledger.read("tile/7/000") is None
        assert ledger.read(CHECKPOINT_PATH) == FILES[CHECKPOINT_PATH]
    with pytest.raises(ConfigurationError):
        HttpLedger("ftp://host/")
    with pytest.raises(Unreachable):
        HttpLedger(server.url, pause=lambda _: None).read(CHECKPOINT_PATH)
