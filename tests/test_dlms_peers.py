"""What other people's libraries say of DLMS meters: telegrams by amshan, and the client against a
meter of gurux-dlms, over TCP and a pair of pseudo-terminals. And what dlms-cosem, the client's own
library, says of protected messages, which the client does not leave to it.
"""

import json
import os
import select
import socket
import subprocess
import time
import tty
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import pytest
from dlms_cosem import security

from cryptometer.steps import NS_PER_MS, NS_PER_S
from hal.index.axdr import Datum, Tag, encode_data
from hal.index.ciphering import (
    AUTHENTICATED,
    ENCRYPTED,
    Keys,
    Protected,
    open_protected,
    seal_protected,
)
from hal.index.dlms_association import Authentication, Terms
from hal.index.dlms_client import ClientSettings, DlmsClient, Transport
from hal.index.dlms_link import Patience
from hal.index.dlms_meter import Layout, Style, Told, telegram
from hal.index.dlms_push import Framing, PushDecoder, PushSettings, framing_of
from hal.index.hdlc import FRAME_MAX
from hal.index.reading import Caveat, Index, Past, Reading, Refusal, Refused
from hal.modbus_meter import WiredEnds
from tests.hal.index.damage import damaged
from tests.hal.test_shared_line import each, go_on, joined
from tests.test_peers import PEERS, PYTHON, ask

KEYS = Keys(bytes(range(16)), bytes(range(16, 32)))
PASSWORD = "12345678"  # noqa: S105 - of a simulated meter
PATIENCE_S = 30
QUARTER_S = 900

# --- Telegrams, by amshan. -----------------------------------------------------------------------


def telegrams(random: Random, count: int) -> Iterator[bytes]:
    layouts = (Layout.OBJECTS, Layout.ORDER, Layout.TENS)
    for number in range(count):
        imported, exported = (10 * random.randrange(1 << random.randint(1, 28)) for _ in range(2))
        power_w, unix_s = random.randint(-9_999, 9_999), 1_790_000_000 + 10 * number
        told = Told(imported, exported, power_w, unix_s)
        yield telegram(told, Style(layout=layouts[number % 3], part=FRAME_MAX - 16), number)


def said_by_us(line: bytes) -> list[list[Any]]:
    outcome = PushDecoder(PushSettings()).receive(line, 0)
    return [
        [one.identity, *(None if it is None else it.uwh // 10**6 for it in registers_of(one))]
        for one in outcome
        if isinstance(one, Reading)
    ]


def registers_of(reading: Reading) -> tuple[Index | None, Index | None]:
    return reading.imported, reading.exported


def test_amshan_reads_the_same_in_every_whole_telegram() -> None:
    lines = list(telegrams(Random(1), 300))
    theirs = ask("han_peer.py", [line.hex() for line in lines])
    ours = [said_by_us(line) for line in lines]
    assert all(len(one) == 1 for one in ours)
    assert ours == theirs


def test_of_damaged_telegrams_both_read_only_what_the_meter_sent() -> None:
    """Where the damage lies around a whole frame. The project finds such a frame at least as often:
    amshan loses one that begins inside of another."""
    sent = list(telegrams(Random(2), 600))
    came = [line for line, _ in damaged(sent, 1.0, Random(3))]
    theirs = ask("han_peer.py", [line.hex() for line in came])
    ours = [said_by_us(line) for line in came]
    for line, we, they in zip(sent, ours, theirs, strict=True):
        assert all(one in said_by_us(line) for one in (*we, *they)), line.hex()
    assert sum(map(len, theirs)) <= sum(map(len, ours)) < 60


# --- Telegrams, by gurux-dlms. -------------------------------------------------------------------

WRITTEN = {"HDLC": Framing.HDLC, "WRAPPER": Framing.WRAPPER, "PDU": Framing.BARE}


def body_of(registers: int) -> bytes:
    """A list of a number and so many registers, the first two of them the indexes."""

    def entry(group: int, kind: int, value: Datum, *rest: Datum) -> Datum:
        code = Datum(Tag.OCTET_STRING, bytes((1, 0, group, kind, 0, 255)))
        return Datum(Tag.STRUCTURE, (code, value, *rest))

    unit = Datum(Tag.STRUCTURE, (Datum(Tag.INTEGER, 0), Datum(Tag.ENUM, 30)))
    number = Datum(Tag.OCTET_STRING, bytes((0, 0, 96, 1, 0, 255)))
    entries = [
        Datum(Tag.STRUCTURE, (number, Datum(Tag.VISIBLE_STRING, "1KFM0200"))),
        entry(1, 8, Datum(Tag.DOUBLE_LONG_UNSIGNED, 123_450), unit),
        entry(2, 8, Datum(Tag.DOUBLE_LONG_UNSIGNED, 98_760), unit),
        *(entry(30 + at, 7, Datum(Tag.LONG_UNSIGNED, at)) for at in range(registers - 2)),
    ]
    return encode_data(Datum(Tag.STRUCTURE, tuple(entries)))


def test_telegrams_that_gurux_writes_are_read() -> None:
    """Where it can: it cuts a short ciphered message, and forgets the last
    mark of a long one that bears no tag, when they are to go in blocks."""
    assert KEYS.authentication is not None
    asked: list[dict[str, Any]] = [
        {
            "framing": framing, "security": security, "suite": suite, "pdu": pdu, "clock": clock,
            "title": b"GRX\0\0\0\0\x07".hex(), "counter": 77, "body": body_of(registers).hex(),
            "keys": [KEYS.encryption.hex(), KEYS.authentication.hex()],
        }
        for framing in WRITTEN
        for security in (0, AUTHENTICATED, ENCRYPTED, AUTHENTICATED | ENCRYPTED)
        for suite in ((0, 1) if security else (0,))
        for clock in ("", "2026-05-04T12:00:00")
        for pdu, registers in ((1_024, 2), (1_024, 22), (96, 22))
        if pdu > 96 or security != ENCRYPTED
    ]  # fmt: skip
    lines = ask("push_peer.py", asked)
    assert len(lines) == len(asked) == 114
    for one, line in zip(asked, map(bytes.fromhex, lines), strict=True):
        security = one["security"]
        authentication = KEYS.authentication if security & AUTHENTICATED else None
        keys = Keys(KEYS.encryption, authentication) if security else None
        framing = WRITTEN[str(one["framing"])]
        outcome = PushDecoder(PushSettings(framing, keys)).receive(line, 0)
        assert [type(said) for said in outcome] == [Reading], one
        [reading] = outcome
        assert isinstance(reading, Reading)
        assert (reading.identity, *registers_of(reading)) == (
            "1KFM0200",
            Index(123_450),
            Index(98_760),
        )
        assert framing_of(line) is framing


# --- Protected messages, by dlms-cosem. ----------------------------------------------------------


@pytest.mark.parametrize("size", [1, 15, 16, 17, 300])
def test_dlms_cosem_opens_what_is_sealed_and_seals_what_is_opened(size: int) -> None:
    assert KEYS.authentication is not None
    message, title, counter = Random(size).randbytes(size), b"SIM12345", 77
    control = security.SecurityControlField(0, authenticated=True, encrypted=True)
    theirs = (control, title, counter, KEYS.encryption)
    sealed = seal_protected(message, AUTHENTICATED | ENCRYPTED, counter, title, KEYS)
    assert security.decrypt(*theirs, sealed.content, KEYS.authentication) == message
    content = security.encrypt(*theirs, message, KEYS.authentication)
    opened = Protected(title, AUTHENTICATED | ENCRYPTED, counter, content)
    assert open_protected(opened, title, KEYS) == message


# --- The client, against gurux-dlms. -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Case:
    """One way to the meter.

    Attributes:
        transport: HDLC over a pair of pseudo-terminals, or TCP on loopback.
        authentication: what the meter asks.
        sealed: with keys.
        specific: with the tags of single services.
        release: the association is ended after each reading.
        public_first: the public client reads the counter.
    """

    transport: Transport
    authentication: Authentication
    sealed: bool = False
    specific: bool = False
    release: bool = False
    public_first: bool = False

    @property
    def terms(self) -> Terms:
        password = PASSWORD.encode() if self.authentication is Authentication.LLS else b""
        keys = KEYS if self.sealed else None
        return Terms(self.authentication, password, keys, specific=self.specific)

    @property
    def settings(self) -> ClientSettings:
        return ClientSettings(
            self.transport,
            client=1,
            terms=self.terms,
            counter=1,
            counter_from=bytes((0, 0, 43, 1, 0, 255)) if self.public_first else b"",
            period_ns=NS_PER_S // 5,
            release=self.release,
            patience=Patience(2 * NS_PER_S, 500 * NS_PER_MS, 3),
        )


CASES = [
    Case(transport, *rest)
    for transport in (Transport.WRAPPER, Transport.HDLC)
    for rest in (
        (Authentication.NONE,),
        (Authentication.NONE, False, False, True),
        (Authentication.LLS,),
        (Authentication.NONE, True),
        (Authentication.LLS, True, True),
        (Authentication.HLS_GMAC, True),
        (Authentication.HLS_GMAC, True, True, True),
        (Authentication.HLS_GMAC, True, False, True, True),
        (Authentication.HLS_GMAC, True, True, False, True),
    )
]


def named(case: Case) -> str:
    sealed = "clear" if not case.sealed else "specific" if case.specific else "general"
    rest = ("-release" if case.release else "") + ("-counter" if case.public_first else "")
    return f"{case.transport}-{case.authentication}-{sealed}{rest}"


@contextmanager
def meter(case: Case, **changes: Any) -> Iterator[int]:
    """A meter by gurux-dlms; gives the descriptor of the line to it."""
    asked = {
        "authentication": case.authentication,
        "password": PASSWORD,
        "title": b"MET00007".hex(),
        "number": "1KFM0200",
        "imported_wh": 123_450,
        "exported_wh": 98_760,
        "counter": 41,
        "pdu": 256,
        "information_max": 96,
    }
    if case.sealed:
        assert KEYS.authentication is not None
        asked["keys"] = [KEYS.encryption.hex(), KEYS.authentication.hex()]
    with ExitStack() as stack:
        mode, where, line = "tcp", "0", -1
        if case.transport is Transport.HDLC:
            line, other = os.openpty()
            stack.callback(os.close, line)
            stack.callback(os.close, other)
            tty.setraw(line)
            tty.setraw(other)
            mode, where = "hdlc", os.ttyname(other)
        process = stack.enter_context(serving(mode, where, asked | changes))
        assert process.stdout is not None
        ready, address = process.stdout.readline().split()
        assert ready == "ready"
        if mode == "tcp":
            connection = socket.create_connection(("127.0.0.1", int(address)))
            stack.enter_context(connection)
            line = connection.fileno()
        os.set_blocking(line, False)
        yield line


@contextmanager
def serving(mode: str, where: str, asked: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    assert PYTHON.exists(), "the peers are not installed: run scripts/peers.sh"
    command = [str(PYTHON), "-I", str(PEERS / "dlms_peer.py"), mode, where]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
            yield process
        finally:
            process.kill()


def talk(client: DlmsClient, line: int, enough: int) -> list[Reading | Refusal]:
    """What the client makes of the line until there is enough."""
    found: list[Reading | Refusal] = []
    until_s = time.monotonic() + PATIENCE_S
    while len(found) < enough:
        assert time.monotonic() < until_s, found
        found += client.receive(received(line), time.monotonic_ns())
        said = client.speak(time.monotonic_ns())
        if said:
            os.write(line, said)
        due_ns = client.due_ns
        wait_s = 1.0 if due_ns is None else (due_ns - time.monotonic_ns()) / NS_PER_S
        select.select([line], [], [], min(max(0.0, wait_s), 1.0))
    return found


def received(line: int) -> bytes:
    try:
        return os.read(line, 4_096)
    except BlockingIOError:
        return b""


@pytest.mark.parametrize("case", CASES, ids=named)
def test_a_meter_of_gurux_is_read_and_its_profile_too(case: Case) -> None:
    client = DlmsClient(case.settings, os.urandom)
    first_s = 1_790_000_000 // QUARTER_S * QUARTER_S
    client.ask_past(first_s, first_s + 96 * QUARTER_S)
    with meter(case) as line:
        found = talk(client, line, 3)
    for one in found:
        assert isinstance(one, Reading), one
        assert one.identity == "1KFM0200"
        assert (one.imported, one.exported) == (Index(12_345, 1), Index(9_876, 1))
        assert one.meter_time_s is not None
        assert abs(one.meter_time_s - time.time()) < PATIENCE_S
        assert one.caveats <= {Caveat.CLOCK_DEGRADED}
    numbers = range(first_s // QUARTER_S, first_s // QUARTER_S + 97)
    assert client.take_past() == [
        Past("1KFM0200", Index(one % 100_000, 1), Index(one % 100_000 * 2, 1), one * QUARTER_S)
        for one in numbers
    ]
    assert client.counter > 41 if case.public_first else True


def test_meters_of_gurux_on_one_line_are_read_in_turn(tmp_path: Path) -> None:
    """Two that answer, one of them with a password; and an address where there is none."""
    common = {"exported_wh": 0, "password": PASSWORD, "title": b"MET00007".hex()}
    asked = {
        17: {**common, "authentication": "none", "number": "METER017", "imported_wh": 17_000},
        18: {**common, "authentication": "lls", "number": "METER018", "imported_wh": 18_000},
    }
    password = tmp_path / "password"
    password.write_text(PASSWORD)
    password.chmod(0o600)
    own: dict[int, dict[str, object]] = {17: {}, 18: {}, 19: {}}
    own[18] = {"client": 1, "authentication": "lls", "password_source": f"file:{password}"}
    place: dict[str, object] = {"device": str(tmp_path / "bus"), "answer_machine_ms": 1_000}
    with (
        closing(WiredEnds(tmp_path / "bus")) as ends,
        serving("bus", ends.far, asked) as process,  # type: ignore[arg-type]
    ):
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready")
        with joined(place, own) as sources:
            said = go_on(sources, each((17, 18), 5))
    for address in (17, 18):
        readings = [one.one for one in said if one.address == address]
        assert {one.identity for one in readings if isinstance(one, Reading)} == {
            f"METER{address:03}"
        }
    assert all(isinstance(one.one, Refusal) for one in said if one.address == 19)


@pytest.mark.parametrize("transport", [Transport.WRAPPER, Transport.HDLC])
def test_a_meter_of_gurux_refuses_another_password(transport: Transport) -> None:
    case = Case(transport, Authentication.LLS)
    terms = replace(case.terms, password=b"87654321")
    client = DlmsClient(replace(case.settings, terms=terms), os.urandom)
    with meter(case) as line:
        [refusal] = talk(client, line, 1)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Refused.NOT_AUTHENTIC


@pytest.mark.parametrize(
    ("transport", "which"), list(product([Transport.WRAPPER, Transport.HDLC], [0, 1]))
)
def test_a_meter_of_gurux_with_other_keys_gives_nothing(transport: Transport, which: int) -> None:
    case = Case(transport, Authentication.HLS_GMAC, sealed=True)
    assert KEYS.authentication is not None
    other = [KEYS.encryption, KEYS.authentication]
    other[which] = bytes(16)
    client = DlmsClient(case.settings, os.urandom)
    with meter(case, keys=[key.hex() for key in other]) as line:
        [refusal] = talk(client, line, 1)
    assert isinstance(refusal, Refusal)
