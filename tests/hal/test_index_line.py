"""Meters that speak, on real pseudo-terminals and TCP connections: simulated meters stand behind
them, and what they say is read as the program would read it."""

import os
import pty
import select
import socket
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from cryptometer.errors import ConfigurationError
from cryptometer.steps import NS_PER_MS, NS_PER_S
from hal.drivers import Buses, open_index
from hal.index import linky
from hal.index.axdr import Datum, Tag, encode_data
from hal.index.ciphering import Keys
from hal.index.d0_meter import D0Meter, Mode, Plate, pushed_message
from hal.index.dlms_answering import AnsweringMeter, MeterSettings
from hal.index.dlms_association import Authentication
from hal.index.dlms_client import Transport
from hal.index.dlms_meter import Layout, Style, Told, telegram
from hal.index.hdlc import Address, Control, Frame
from hal.index.linky_meter import LinkyMeter, frame
from hal.index.p1_meter import P1Meter
from hal.index.p1_meter import pack as p1_pack
from hal.index.p1_meter import telegram as p1_telegram
from hal.index.reading import Caveat, Index, LineForm, Parity, Reading, Refusal, Refused
from hal.index.sml_meter import SmlMeter, Value
from hal.index_line import LOOK_MAX, OUT_MAX, SEND_AGAIN_NS, SPEEDS, IndexLine
from hal.ports import IndexSource, LineLost

PATIENCE_S = 15.0
SPEED = {code: baud for baud, code in SPEEDS.items()}
KEYS = Keys(bytes(range(16)), bytes(range(16, 32)))
_APPLICATION_CONTEXT = bytes.fromhex("a109060760857405080103")  # of a request for an association


class Wire:
    """A pseudo-terminal whose far side also stays open here, as a meter stays plugged in."""

    def __init__(self) -> None:
        self.line, self.far = pty.openpty()
        tty.setraw(self.far)
        os.set_blocking(self.line, False)
        self.device = os.ttyname(self.far)

    @property
    def baud(self) -> int:
        """How the near end is set."""
        return SPEED[termios.tcgetattr(self.line)[4]]

    def send(self, data: bytes) -> None:
        while data:
            select.select([], [self.line], [], PATIENCE_S)
            data = data[os.write(self.line, data) :]

    def receive(self) -> bytes:
        with suppress(BlockingIOError):
            return os.read(self.line, 4_096)
        return b""

    def unplug(self) -> None:
        for descriptor in (self.line, self.far):
            if descriptor >= 0:
                os.close(descriptor)
        self.line = self.far = -1


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.unplug()


@contextmanager
def behind(act: Callable[[], None], every_s: float = 0.005) -> Iterator[None]:
    """Does something again and again beside the test, as a meter goes on beside the program."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(every_s):
            act()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def spoken(driver: str, device: str = "", **own: object) -> IndexSource:
    place = {"device": device} if device else {}
    return open_index({"driver": driver, "register": "import", **place, **own}, Buses())


def look(source: IndexSource, most_s: float = 1.0) -> list[Reading | Refusal]:
    """One look, as the program's loop does it: when something came, or is due."""
    poll = select.poll()
    poll.register(source.fileno(), select.POLLIN)
    wait_s = most_s
    if source.due_ns is not None:
        wait_s = min(most_s, max(0, source.due_ns - time.monotonic_ns()) / NS_PER_S)
    poll.poll(wait_s * 1000)
    return list(source.take().said)


def listen(
    source: IndexSource,
    readings: int = 1,
    patience_s: float = PATIENCE_S,
) -> list[Reading | Refusal]:
    """What is said until there were so many readings."""
    said: list[Reading | Refusal] = []
    until_s = time.monotonic() + patience_s
    while sum(isinstance(one, Reading) for one in said) < readings:
        assert time.monotonic() < until_s, said
        said += look(source)
    return said


def due_ns(source: IndexSource) -> int | None:
    """As it is now: a type checker takes a property for what it was."""
    return source.due_ns


def only_reading(said: list[Reading | Refusal]) -> Reading:
    [reading] = [one for one in said if isinstance(one, Reading)]
    return reading


# --- Meters that send by themselves. -------------------------------------------------------------


def test_a_linkys_mode_is_found_by_itself(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linky, "DETECT_NS", 300 * NS_PER_MS)
    meter = LinkyMeter(linky.Mode.HISTORIC, imported_wh=(12_345,))

    def send() -> None:
        # At another speed than its own a receiver makes something else of it.
        wire.send(frame(meter) if wire.baud == 1_200 else os.urandom(40))

    with closing(spoken("linky", wire.device)) as source, behind(send, 0.05):
        assert wire.baud == 9_600
        reading = only_reading(listen(source))
    assert (reading.identity, reading.imported) == (meter.identity, Index(12_345))


def test_a_p1_telegram_without_a_number_counts_where_the_settings_say_so(wire: Wire) -> None:
    whole = p1_pack("/CME5", iter(["1-0:1.8.0(000001.234*kWh)"]))
    with closing(spoken("p1", wire.device, unnamed=True)) as source:
        wire.send(whole)
        reading = only_reading(listen(source))
    assert (reading.identity, reading.imported) == ("", Index(1_234))
    with closing(spoken("p1", wire.device)) as source:
        wire.send(whole + p1_telegram(P1Meter()))
        refused = [one.reason for one in listen(source) if isinstance(one, Refusal)]
    assert refused == [Refused.NO_IDENTITY]


def test_a_p1_telegram_is_read_in_pieces(wire: Wire) -> None:
    whole = p1_telegram(P1Meter(imported_wh=(1_000, 234)))
    with closing(spoken("p1", wire.device)) as source:
        assert isinstance(source, IndexLine)
        raw = b""
        said: list[Reading | Refusal] = []
        for at in range(0, len(whole), 200):
            assert not said
            wire.send(whole[at : at + 200])
            poll = select.poll()
            poll.register(source.fileno(), select.POLLIN)
            assert poll.poll(PATIENCE_S * 1000)
            heard = source.take()
            raw += heard.raw
            said += heard.said
        reading = only_reading(said or listen(source))
        assert wire.baud == 115_200
    assert reading.imported == Index(1_234_000, -3) or reading.imported == Index(1_234)
    assert reading.began_ns < reading.ended_ns
    assert whole.startswith(raw)


def test_an_sml_file_is_read(wire: Wire) -> None:
    server = bytes.fromhex("0a01545354000012d687")
    value = Value(bytes.fromhex("0100010800ff"), 77_777, 30, -1)
    with closing(spoken("sml", wire.device)) as source:
        wire.send(SmlMeter(server).file(1, [value]))
        reading = only_reading(listen(source))
        assert wire.baud == 9_600
    assert (reading.identity, reading.imported) == (server.hex().upper(), Index(77_777, -1))


D0_LINES = ["0.0.9(1EMH0012345678)", "1.8.0(001234.5678*kWh)", "2.8.0(000000.0000*kWh)"]


def test_a_pushed_d0_message_is_read(wire: Wire) -> None:
    with closing(spoken("d0", wire.device, mode="pushed")) as source:
        wire.send(
            pushed_message("EMH5\\@01LZQJL0014F", ["1-0:96.1.0*255(1EMH0012345678)", *D0_LINES[1:]])
        )
        reading = only_reading(listen(source))
        assert wire.baud == 2_400
    assert (reading.identity, reading.imported) == ("1EMH0012345678", Index(12_345_678, -1))


# --- Meters that are asked. ----------------------------------------------------------------------


def test_a_d0_meter_is_asked_at_300_baud_and_read_at_its_own_speed(wire: Wire) -> None:
    meter = D0Meter(Plate("TST", "D0-ASKED", Mode.C, 9_600), lambda _: D0_LINES)
    speeds = set()
    under_way: list[tuple[int, bytes]] = []

    def live() -> None:
        now_ns = time.monotonic_ns()
        heard = wire.receive()
        if heard and wire.baud == meter.form.baud:
            # A line of seven bits and even parity, as the meter's own receiver checks it.
            assert all(byte.bit_count() % 2 == 0 for byte in heard)
            # It takes its time there, which a pseudo-terminal does not.
            arrives_ns = now_ns + len(heard) * 10 * NS_PER_S // wire.baud
            under_way.append((arrives_ns, bytes(byte & 0x7F for byte in heard)))
        while under_way and under_way[0][0] <= now_ns:
            meter.receive(under_way.pop(0)[1], now_ns)
        said = meter.speak(now_ns)
        if said:
            speeds.add(wire.baud)
            wire.send(said if wire.baud == meter.form.baud else os.urandom(len(said)))

    with closing(spoken("d0", wire.device, mode="asked")) as source, behind(live):
        reading = only_reading(listen(source))
    assert (reading.identity, reading.imported) == ("1EMH0012345678", Index(12_345_678, -1))
    assert speeds == {300, 9_600}
    assert reading.ended_ns - reading.began_ns > NS_PER_S


def tell(_: int | None) -> Told:
    return Told(7_654_321, 0, 500, 1_790_000_000)


ASSOCIATED = replace(
    MeterSettings(), authentication=Authentication.HLS_GMAC, keys=KEYS, pdu_max=256
)


@pytest.fixture
def secrets(tmp_path: Path) -> dict[str, object]:
    """Settings that name a folder's keys and counter."""
    assert KEYS.authentication is not None
    named: dict[str, object] = {"counter_file": str(tmp_path / "counter")}
    for name, key in (("encryption", KEYS.encryption), ("authentication", KEYS.authentication)):
        path = tmp_path / name
        path.write_text(key.hex() + "\n")
        path.chmod(0o600)
        named[f"{name}_key_source"] = f"file:{path}"
    return {"authentication": "hls-gmac", "client": 1, "period_machine_ms": 100, **named}


def test_a_dlms_meter_is_asked_on_a_serial_line(wire: Wire, secrets: dict[str, object]) -> None:
    meter = AnsweringMeter(ASSOCIATED, tell, os.urandom)

    def live() -> None:
        heard = wire.receive()
        if heard:
            wire.send(meter.receive(heard, time.monotonic_ns()))

    with closing(spoken("dlms", wire.device, **secrets)) as source, behind(live):
        readings = [one for one in listen(source, 3) if isinstance(one, Reading)]
        assert wire.baud == 9_600
    assert {one.identity for one in readings} == {"1KFM0200"}
    assert {one.imported for one in readings} == {Index(7_654_321)}


def test_no_invocation_counter_is_used_twice_by_two_runs(
    wire: Wire, secrets: dict[str, object]
) -> None:
    counter = Path(str(secrets["counter_file"]))
    heard = b""

    def live() -> None:
        nonlocal heard
        came = wire.receive()
        if came:
            # It is durable before the meter hears of it.
            assert int(counter.read_text() or 0) > 0 or not heard
            heard += came
            wire.send(meter.receive(came, time.monotonic_ns()))

    stood = []
    for _ in range(2):
        meter = AnsweringMeter(ASSOCIATED, tell, os.urandom)
        with closing(spoken("dlms", wire.device, **secrets)) as source, behind(live):
            listen(source)
            ahead = int(counter.read_text())
        stood += [ahead, int(counter.read_text())]
    first_ahead, first_end, second_ahead, second_end = stood
    assert 0 < first_end < first_ahead
    assert first_end < second_end < second_ahead


def test_a_dlms_meter_is_asked_with_a_password(wire: Wire, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("12345678\n")
    password.chmod(0o600)
    settings = MeterSettings(authentication=Authentication.LLS, password=b"12345678")
    meter = AnsweringMeter(settings, tell, os.urandom)

    def live() -> None:
        heard = wire.receive()
        if heard:
            wire.send(meter.receive(heard, time.monotonic_ns()))

    asked = {"authentication": "lls", "client": 1, "password_source": f"file:{password}"}
    with closing(spoken("dlms", wire.device, **asked)) as source, behind(live):
        assert source.memory is not None
        assert only_reading(listen(source)).imported == Index(7_654_321)


def test_a_port_that_cannot_switch_a_transmitter_is_refused_where_it_would_send(
    wire: Wire,
) -> None:
    with pytest.raises(ConfigurationError, match="take an adapter that switches by itself"):
        spoken("dlms", wire.device, rs485=True)
    # It was let go; and one that only listens needs no more than RTS off.
    spoken("dlms-push", wire.device, rs485=True).close()


def test_a_dlms_meter_is_asked_at_an_optical_port(wire: Wire) -> None:
    meter = AnsweringMeter(replace(MeterSettings(), transport=Transport.OPTICAL), tell, os.urandom)
    speeds = set()

    def live() -> None:
        heard = wire.receive()
        if heard:
            if wire.baud == 300:  # 7E1
                heard = bytes(byte & 0x7F for byte in heard)
            speeds.add(wire.baud)
            wire.send(meter.receive(heard, time.monotonic_ns()))

    settings = {"transport": "optical", "baud": 4_800}
    with closing(spoken("dlms", wire.device, **settings)) as source, behind(live):
        reading = only_reading(listen(source))
    assert reading.imported == Index(7_654_321)
    assert speeds == {300, 4_800}


class Server:
    """The far end of TCP connections, one after the other."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.place = {"host": "127.0.0.1", "port": self._listening.getsockname()[1]}
        self.connection: socket.socket | None = None

    def accept(self) -> socket.socket:
        self._listening.settimeout(PATIENCE_S)
        self.connection, _ = self._listening.accept()
        self.connection.setblocking(False)
        return self.connection

    def break_off(self) -> None:
        """Closes the connection; the next one is waited for."""
        assert self.connection is not None
        self.connection.close()
        self.connection = None

    def close(self) -> None:
        self._listening.close()
        if self.connection is not None:
            self.connection.close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.mark.parametrize("transport", [Transport.WRAPPER, Transport.HDLC])
def test_a_dlms_meter_is_asked_over_tcp(
    server: Server, secrets: dict[str, object], transport: Transport
) -> None:
    meter = AnsweringMeter(replace(ASSOCIATED, transport=transport), tell, os.urandom)

    def live() -> None:
        with suppress(BlockingIOError):
            connection = server.connection or server.accept()
            connection.sendall(meter.receive(connection.recv(4_096), time.monotonic_ns()))

    settings = {**server.place, **secrets, "transport": str(transport)}
    with closing(spoken("dlms", **settings)) as source, behind(live):
        readings = [one for one in listen(source, 3) if isinstance(one, Reading)]
    assert {one.imported for one in readings} == {Index(7_654_321)}


@pytest.mark.parametrize("transport", [Transport.WRAPPER, Transport.HDLC])
@pytest.mark.parametrize("answers", [0, 1, 2, 8])
def test_after_a_connection_broke_the_association_is_made_anew(
    server: Server, secrets: dict[str, object], transport: Transport, answers: int
) -> None:
    """It breaks after so many answers: before an association stands, while it is made, and after a
    reading. What has the line closes the source and opens another, as `firmware.device` does."""
    # One meter behind both connections: it refuses an invocation counter that was used.
    meter = AnsweringMeter(replace(ASSOCIATED, transport=transport), tell, os.urandom)
    asked: list[bytes] = []
    left = answers

    def live() -> None:
        nonlocal left
        with suppress(BlockingIOError, OSError):
            connection = server.connection or server.accept()
            came = connection.recv(4_096)
            if came:
                asked.append(came)
                if not left:
                    server.break_off()
                    asked.append(b"")
                left -= 1
                connection.sendall(meter.receive(came, time.monotonic_ns()))

    settings = {**server.place, **secrets, "transport": str(transport)}
    with behind(live):
        with (
            closing(spoken("dlms", **settings)) as source,
            pytest.raises(LineLost, match=r"closed the connection|is gone"),
        ):
            listen(source, 10**6)
        with closing(spoken("dlms", **settings)) as source:
            said = listen(source, 2)
    assert all(isinstance(one, Reading) for one in said)
    after = b"".join(asked[asked.index(b"") :])
    assert after.count(_APPLICATION_CONTEXT) == 1


def test_a_telegram_with_keys_is_read(wire: Wire, secrets: dict[str, object]) -> None:
    sent = sealed_telegram(5)
    with closing(spoken("dlms-push", wire.device, **pushing(secrets))) as source:
        wire.send(sent)
        reading = only_reading(listen(source))
    assert reading.imported == Index(7_654_321)
    assert reading.caveats == {Caveat.UNIT_ASSUMED}


def test_a_list_without_codes_is_read_in_the_order_of_the_settings(wire: Wire) -> None:
    values = [Datum(Tag.DOUBLE_LONG_UNSIGNED, value) for value in (7, 222_813)]
    message = b"\x0f" + bytes(5) + encode_data(Datum(Tag.STRUCTURE, tuple(values)))
    frame = Frame(Address(16), Address(1), Control.UI, b"\xe6\xe7\x00" + message).encode()
    with closing(spoken("dlms-push", wire.device, list_order="- 1-0:1.8.0")) as source:
        wire.send(frame)
        assert only_reading(listen(source)).imported == Index(222_813)


def pushing(secrets: dict[str, object]) -> dict[str, object]:
    """Of these settings, those of a meter that sends by itself."""
    return {name: secrets[name] for name in secrets if name.endswith(("_source", "_file"))}


def sealed_telegram(counter: int) -> bytes:
    return telegram(tell(None), Style(layout=Layout.PAIRS, keys=KEYS), counter)


def test_a_telegram_that_was_recorded_is_none_after_a_restart_either(
    wire: Wire, secrets: dict[str, object]
) -> None:
    table = pushing(secrets)
    for counter in (5, 9):
        with closing(spoken("dlms-push", wire.device, **table)) as source:
            for again in (5, 7) if counter > 5 else ():
                wire.send(sealed_telegram(again))
                [refusal] = look(source, PATIENCE_S)
                assert isinstance(refusal, Refusal)
                assert "a repetition" in refusal.detail
            wire.send(sealed_telegram(counter))
            only_reading(listen(source))
            wire.send(sealed_telegram(counter + 2))  # not written down before the end
            only_reading(listen(source))


def test_a_meter_that_the_configuration_names_anew_begins_its_own_count(
    wire: Wire, secrets: dict[str, object]
) -> None:
    table = pushing(secrets)
    with closing(spoken("dlms-push", wire.device, **table)) as source:
        wire.send(sealed_telegram(700))
        only_reading(listen(source))
    other = replace(Style(layout=Layout.PAIRS, keys=KEYS), title=b"SIM54321")
    with closing(spoken("dlms-push", wire.device, **table)) as source:
        wire.send(telegram(tell(None), other, 3))
        [refusal] = look(source, PATIENCE_S)
        assert isinstance(refusal, Refusal)
        assert refusal.reason is Refused.OTHER_METER
    with closing(
        spoken("dlms-push", wire.device, **table, meter_title=other.title.hex())
    ) as source:
        wire.send(telegram(tell(None), other, 3))
        only_reading(listen(source))


def test_a_counter_that_cannot_be_kept_is_said(
    wire: Wire, secrets: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with closing(spoken("dlms-push", wire.device, **pushing(secrets))) as source:
        monkeypatch.setattr("hal.heard_file.write_line_file", fail)
        wire.send(sealed_telegram(5))
        with pytest.raises(LineLost, match="cannot keep the counter that was heard: No space"):
            listen(source)


# --- The line. -----------------------------------------------------------------------------------


def test_an_unplugged_line_is_told_and_comes_back(wire: Wire) -> None:
    whole = p1_telegram(P1Meter())
    with closing(spoken("p1", wire.device)) as source:
        wire.send(whole)
        listen(source)
        wire.unplug()
        with pytest.raises(LineLost, match=r"gone|hung up"):
            look(source)
        with pytest.raises(LineLost, match=r"gone|hung up"):
            look(source)
    again = Wire()
    with closing(spoken("p1", again.device)) as source:
        again.send(whole)
        assert only_reading(listen(source))
    again.unplug()


def test_what_came_before_a_connection_was_closed_counts(server: Server) -> None:
    with closing(spoken("p1", **server.place)) as source:
        assert due_ns(source) is None
        server.accept().sendall(p1_telegram(P1Meter()))
        assert server.connection is not None
        server.connection.close()
        assert only_reading(listen(source))
        with pytest.raises(LineLost, match="closed the connection"):
            look(source)


def test_a_server_that_is_not_there_is_a_lost_line(server: Server) -> None:
    place = server.place
    server.close()
    # As it is opened, or at the first look: whichever the refusal comes before.
    with (
        pytest.raises(LineLost, match="refused"),
        closing(spoken("sml", **place)) as source,
    ):
        look(source, PATIENCE_S)


def test_a_device_that_is_not_there_is_a_lost_line() -> None:
    with pytest.raises(LineLost, match="cannot open /dev/no-such: there is no such device"):
        spoken("p1", "/dev/no-such")


def test_no_second_program_takes_a_part_of_the_bytes(wire: Wire) -> None:
    with (
        closing(spoken("p1", wire.device)),
        pytest.raises(LineLost, match="another program reads it"),
    ):
        spoken("sml", wire.device)


def test_what_waited_before_the_line_was_opened_is_of_no_known_time(wire: Wire) -> None:
    wire.send(p1_telegram(P1Meter()))
    time.sleep(0.05)
    with closing(spoken("p1", wire.device)) as source:
        assert not look(source, 0.1)


def test_a_flood_of_noise_is_bounded_at_each_look(server: Server) -> None:
    with closing(spoken("d0", **server.place, mode="pushed")) as source:
        connection = server.accept()
        noise = os.urandom(2**20)
        sent = 0
        looks: list[int] = []
        until_s = time.monotonic() + PATIENCE_S
        while sum(looks) < len(noise):
            assert time.monotonic() < until_s
            with suppress(BlockingIOError):
                sent += connection.send(noise[sent:])
            looks.append(len(source.take().raw))
    assert max(looks) <= LOOK_MAX


def test_a_listener_wants_a_look_when_the_line_has_fallen_silent(wire: Wire) -> None:
    # Without an end of its message a D0 meter is heard out by its silence.
    with closing(spoken("d0", wire.device, mode="pushed")) as source:
        assert due_ns(source) is None
        assert not look(source, 0.01)
        wire.send(b"/EMH5\\@01LZQJL0014F\r\n\r\n1.8.0(0012")
        assert not look(source)
        assert due_ns(source) is not None
        [refusal] = look(source, PATIENCE_S)
        assert isinstance(refusal, Refusal)
        assert due_ns(source) is None


def test_a_look_at_a_silent_line_does_not_wait(wire: Wire) -> None:
    with closing(spoken("p1", wire.device)) as source:
        began_ns = time.monotonic_ns()
        for _ in range(100):
            assert source.take().raw == b""
        assert time.monotonic_ns() - began_ns < NS_PER_S


class SlowPort:
    """Takes a few bytes at a time, and says nothing."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.sent: list[bytes] = []
        self.forms: list[tuple[int, LineForm]] = []  # and how much had been sent by then

    def fileno(self) -> int:
        return -1

    def is_open(self) -> bool:
        return True

    def shape(self, form: LineForm) -> None:
        self.forms.append((sum(map(len, self.sent)), form))

    def read(self) -> bytes:
        return b""

    def write(self, data: bytes) -> int:
        self.sent.append(data[: self._most])
        return len(self.sent[-1])

    def close(self) -> None:
        pass


class Talker:
    """Says something once, then changes its speed."""

    def __init__(self, words: bytes) -> None:
        self._words = words
        self.form = LineForm(300, 7, Parity.EVEN)
        self.due_ns: int | None = 0

    def receive(self, data: bytes, at_ns: int) -> list[Reading | Refusal]:
        return []

    def speak(self, now_ns: int) -> bytes:
        words, self._words, self.due_ns = self._words, b"", None
        if not words:
            self.form = LineForm(9_600)
        return words


def test_what_the_line_does_not_take_is_sent_later_and_before_it_is_set_otherwise() -> None:
    port = SlowPort(4)
    source = IndexLine(port, Talker(b"/?12345!\r\n"))
    assert due_ns(source) == 0
    for _ in range(2):
        source.take()
        again_ns = due_ns(source)
        assert again_ns is not None  # though the conversation wants nothing
        assert again_ns <= time.monotonic_ns() + SEND_AGAIN_NS
    source.take()
    assert due_ns(source) is None
    # Even parity, made here: `/`, `1`, `2` and `4` have an odd number of ones.
    assert b"".join(port.sent) == b"\xaf\x3f\xb1\xb2\x33\xb4\x35\x21\x8d\x0a"
    assert port.forms == [(0, LineForm(300)), (10, LineForm(9_600))]


def test_a_line_that_takes_nothing_is_lost() -> None:
    class Chatterbox(Talker):
        def speak(self, now_ns: int) -> bytes:
            return bytes(OUT_MAX // 4)

    source = IndexLine(SlowPort(0), Chatterbox(b""))
    for _ in range(4):
        source.take()
    with pytest.raises(LineLost, match="takes nothing"):
        source.take()


# --- Settings. -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "advice"),
    [
        ({"driver": "linki"}, "is one of linky, p1, d0, sml, dlms, dlms-push, modbus, sim-index"),
        ({"driver": "p1"}, r"lacks 'register': which of the meter's registers counts"),
        ({"driver": "p1", "register": "both"}, "register is one of import, export"),
        ({"driver": "p1", "register": "import"}, "needs device or host, and not both"),
        ({"driver": "p1", "register": "import", "devise": "/dev/x"}, "did you mean 'device'"),
        ({"driver": "p1", "register": "import", "host": "x"}, "port is from 1 to 65535"),
        ({"driver": "sml", "register": "import", "baud": 1}, "baud is one of 300, 600"),
        ({"driver": "d0", "register": "import"}, "lacks 'mode': pushed"),
        ({"driver": "d0", "register": "import", "mode": "asked", "address": "é"}, "address"),
        ({"driver": "dlms", "register": "import", "import_code": "1.8.0"}, "is an OBIS code"),
        ({"driver": "dlms", "register": "import", "device": "x", "transport": "wrapper"}, "host"),
        ({"driver": "dlms", "register": "import", "host": "x", "transport": "optical"}, "device"),
        ({"driver": "dlms", "register": "import", "authentication": "lls"}, "password_source"),
        ({"driver": "dlms", "register": "import", "client_title": "12"}, "16 hexadecimal digits"),
        (
            {"driver": "dlms", "register": "import", "encryption_key_source": "00" * 16},
            "file:/PATH/TO/IT, or credential:NAME",
        ),
        (
            {"driver": "dlms-push", "register": "import", "encryption_key_source": "file:/no/key"},
            "cannot read the key in /no/key",
        ),
        (
            {
                "driver": "dlms-push",
                "register": "import",
                "device": "/dev/x",
                "encryption_key_source": "KEY",
            },
            "counter_file is the absolute path",
        ),
        *(
            ({"driver": "dlms-push", "register": "import", "list_order": order}, advice)
            for order, advice in (
                ("1-0:1.8.0 1.8", "list_order is an OBIS code as 1-0:1.8.0"),
                ("- 1-0:1.8.0 1-0:1.8.0", "has an OBIS code twice"),
                ("- 1-0:1.7.0 -", "names no register"),
            )
        ),
        ({"driver": "sim-index", "register": "import", "exponent": 4}, "exponent is from -6 to 3"),
    ],
)
def test_a_wrong_table_is_refused_with_what_to_do(
    table: dict[str, object], advice: str, secrets: dict[str, object]
) -> None:
    if table.get("encryption_key_source") == "KEY":
        table = {**table, "encryption_key_source": secrets["encryption_key_source"]}
    with pytest.raises(ConfigurationError, match=advice):
        open_index(table, Buses())
