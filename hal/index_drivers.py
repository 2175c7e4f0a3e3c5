"""Meters that speak: what a table `[source]` says of one, and the line that is made of it."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from cryptometer.errors import ConfigurationError
from cryptometer.keys import KeyLost
from cryptometer.settings import setting
from cryptometer.steps import NS_PER_MS, NS_PER_S
from hal.counter_file import CounterFile
from hal.heard_file import HeardFile
from hal.index import d0, p1, sml
from hal.index.ciphering import KEY_SIZE, TITLE_SIZE, Keys
from hal.index.d0_asked import QUIET_NS as D0_GAP_NS
from hal.index.d0_asked import Asking, D0Asked
from hal.index.dlms_association import Authentication, Terms
from hal.index.dlms_client import ClientSettings, DlmsClient, Transport
from hal.index.dlms_link import Patience
from hal.index.dlms_push import QUIET_NS, Framing, PushDecoder, PushSettings
from hal.index.linky import LinkyDecoder
from hal.index.listener import Listener
from hal.index.objects import register_of
from hal.index.reading import (
    Conversation,
    LineForm,
    Past,
    Reading,
    Refusal,
    Remembering,
    TakingTurns,
)
from hal.index_line import SPEEDS, IndexLine, Port, SerialPort, TcpPort, Wiring
from hal.keyplace import secret_source
from hal.ports import IndexSource, LineLost
from hal.secret import read_hex_secret, read_secret
from hal.shared_line import SharedForm, SharedLines, SharedMeter

PERIOD_MAX_MS = 900_000  # a meter that is asked more rarely than each step says nothing of it
ANSWER_MIN_MS, ANSWER_MAX_MS = 100, 60_000
_GROUP = "([0-9]{1,3})"
_OBIS = re.compile(rf"{_GROUP}-{_GROUP}:{_GROUP}\.{_GROUP}\.{_GROUP}(?:[.*]{_GROUP})?")
_D0_TCP_BAUD = 300  # a server between keeps the speed at which the meter is asked
_DEVICE = "the serial port, for example a link under /dev/serial/by-id"
_HOST = "in place of it: a server that passes a serial line on as it is (ser2net's raw)"
_RTS = "whether RTS is on; optical heads and level converters are often powered by it"
_DTR = "whether DTR is on; likewise"
_RS485 = "true for an RS-485 adapter whose transmitter RTS turns on"


@dataclass(frozen=True, slots=True, kw_only=True)
class LineSettings:
    """What the table `[source]` of each of these drivers says of the line."""

    device: str = setting(_DEVICE, "")
    host: str = setting(_HOST, "")
    port: int = setting("TCP: its port, required with host", 0)
    rts: bool = setting(_RTS, True)
    dtr: bool = setting(_DTR, True)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkySettings(LineSettings):
    """The table `[source]` with `driver = "linky"`: the customer output of a Linky."""


@dataclass(frozen=True, slots=True, kw_only=True)
class P1Settings(LineSettings):
    """The table `[source]` with `driver = "p1"`."""

    unnamed: bool = setting(
        "true where the meter's telegrams name no meter, as in Sweden and Austria; one that does"
        " is refused",
        False,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SmlSettings(LineSettings):
    """The table `[source]` with `driver = "sml"`."""

    baud: int = setting("of the line", 9_600)


class D0Mode(StrEnum):
    """Who begins."""

    PUSHED = "pushed"
    ASKED = "asked"


@dataclass(frozen=True, slots=True, kw_only=True)
class D0Settings(LineSettings):
    """The table `[source]` with `driver = "d0"`: IEC 62056-21 in text."""

    mode: D0Mode = setting("pushed: the meter sends by itself; asked: it must be asked")
    baud: int = setting("pushed: of the line", 2_400)
    address: str = setting("asked: its device address, where several meters share a line", "")
    baud_max: int = setting("asked: the fastest that the head can do; 0: as the meter offers", 0)
    mode_e: bool = setting("asked: a meter that offers mode E (HDLC) is asked in mode C", True)
    wakes: bool = setting("asked: zero bytes go before each question, for ports that sleep", False)
    period_machine_ms: int = setting("asked: from one question to the next", 10_000)
    rs485: bool = setting(_RS485, False)


class UnitAssumed(StrEnum):
    """What energy is in where the meter states no unit."""

    WH = "Wh"
    KWH = "kWh"


_EXPONENTS = {UnitAssumed.WH: 0, UnitAssumed.KWH: 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class DlmsSettings(LineSettings):
    """The table `[source]` with `driver = "dlms"`: a DLMS/COSEM meter that is asked."""

    transport: Transport = setting(
        "hdlc: a serial line; optical: an optical port, mode E; wrapper: the meter's TCP port",
        Transport.HDLC,
    )
    port: int = setting("TCP: its port", 4_059)  # registered for DLMS/COSEM
    baud: int = setting("of the line; at an optical port the greatest", 9_600)
    rs485: bool = setting(_RS485, False)
    client: int = setting("the client's address: 16 is the public one", 16)
    logical: int = setting("address of the logical device", 1)
    physical: int | None = setting(
        "the meter's own address on the bus, where it has one; of several meters each has another",
        None,
    )
    address_size: int = setting("bytes of both together, 2 or 4", 2)
    authentication: Authentication = setting(
        "none, lls (a password) or hls-gmac (with both keys)", Authentication.NONE
    )
    password_source: str = setting("lls: file:/PATH of it, or credential:NAME", "")
    encryption_key_source: str = setting(
        "of the global unicast key, 32 hexadecimal digits: file:/PATH, or credential:NAME", ""
    )
    authentication_key_source: str = setting("likewise, of the authentication key", "")
    client_title: str = setting(
        "the client's system title, 16 hexadecimal digits", "4352590000000001"
    )
    specific_tags: bool = setting("true where the meter knows only the tags of each service", False)
    counter_file: str = setting(
        "with keys: absolute path of a file in which the invocation counter is kept", ""
    )
    counter_code: str = setting(
        "with keys: OBIS code under which the meter shows its own record of it to the public"
        " client",
        "",
    )
    import_code: str = setting("OBIS code of the register; empty: is not read", "1-0:1.8.0")
    export_code: str = setting("likewise", "1-0:2.8.0")
    number_code: str = setting("of the meter's number", "0-0:96.1.0")
    profile_code: str = setting("of its load profile", "1-0:99.1.0")
    unit_assumed: UnitAssumed = setting("Wh or kWh, where it states none", UnitAssumed.WH)
    period_machine_ms: int = setting("from one reading to the next", 10_000)
    release: bool = setting("true: the association is ended after each reading", False)
    answer_machine_ms: int = setting("how long an answer may take", 3_000)
    tries: int = setting("how often a question is sent", 3)
    frame_bytes: int = setting("hdlc: information in a frame that is proposed", 512)


class PushUnit(StrEnum):
    """What energy is in where the meter states no unit."""

    MAKER = "maker"  # as its maker is known to do
    WH = "Wh"
    KWH = "kWh"


@dataclass(frozen=True, slots=True, kw_only=True)
class DlmsPushSettings(LineSettings):
    """The table `[source]` with `driver = "dlms-push"`: a DLMS/COSEM meter that sends by itself."""

    framing: Framing = setting("hdlc, wrapper, mbus or bare", Framing.HDLC)
    baud: int = setting("of the line", 2_400)
    rs485: bool = setting(_RS485, False)
    encryption_key_source: str = setting(
        "of the global key, 32 hexadecimal digits: file:/PATH, or credential:NAME", ""
    )
    authentication_key_source: str = setting("likewise, of the authentication key", "")
    counter_file: str = setting(
        "with a key: absolute path of a file in which the greatest counter that was heard is kept",
        "",
    )
    meter_title: str = setting(
        "the meter's system title, 16 hexadecimal digits, where messages do not carry it", ""
    )
    unit_assumed: PushUnit = setting(
        "maker, Wh or kWh: where it states no unit; maker: as its maker does", PushUnit.MAKER
    )
    list_order: str = setting(
        "OBIS codes of a list that states none, in its order, with - for what does not matter", ""
    )


# --- Lines. --------------------------------------------------------------------------------------


def linky_line(settings: LinkySettings) -> IndexLine:
    """
    Raises:
        ConfigurationError, LineLost: as `hal.drivers.open_index`.
    """
    return _line(settings, LinkyDecoder())


def p1_line(settings: P1Settings) -> IndexLine:
    """
    Raises:
        ConfigurationError, LineLost: as `hal.drivers.open_index`.
    """
    decoder = p1.P1Decoder(is_unnamed=settings.unnamed)
    return _line(settings, Listener(decoder, p1.FORM, p1.TELEGRAM_NS_MAX))


def sml_line(settings: SmlSettings) -> IndexLine:
    """
    Raises:
        ConfigurationError, LineLost: as `hal.drivers.open_index`.
    """
    _check_baud("baud", settings.baud)
    form = LineForm(settings.baud)
    return _line(settings, Listener(sml.SmlDecoder(), form, sml.SILENCE_NS))


def d0_line(settings: D0Settings, shared: SharedLines) -> IndexSource:
    """
    Raises:
        ConfigurationError, LineLost: as `hal.drivers.open_index`.
    """
    _check_baud("baud", settings.baud)
    if settings.mode is D0Mode.PUSHED:
        form = LineForm(settings.baud)
        listener = Listener(d0.D0Decoder(), form, d0.SILENCE_NS)
        return _line(settings, listener, rs485=settings.rs485)
    _check_range("period_machine_ms", settings.period_machine_ms, 1_000, PERIOD_MAX_MS)
    if settings.baud_max:
        _check_baud("baud_max", settings.baud_max)
    asking = Asking(
        settings.period_machine_ms * NS_PER_MS,
        settings.address,
        _D0_TCP_BAUD if settings.host else settings.baud_max,
        settings.mode_e,
        settings.wakes,
    )
    try:
        asked = D0Asked(asking)
    except ValueError as error:
        raise ConfigurationError(f"[source] address: {error}") from None
    if not settings.address:  # the line has one meter, whichever it is
        return _line(settings, asked, rs485=settings.rs485, sends=True)
    return _shared_line(settings, "d0", settings.address, asked, shared, gap_ns=D0_GAP_NS)


def dlms_push_line(settings: DlmsPushSettings) -> IndexLine:
    """
    Raises:
        ConfigurationError, LineLost: as `hal.drivers.open_index`.
    """
    _check_baud("baud", settings.baud)
    keys = _keys(settings)
    given = PushSettings(
        settings.framing,
        keys,
        _title("meter_title", settings.meter_title) if settings.meter_title else b"",
        unitless_exponent=(
            None
            if settings.unit_assumed is PushUnit.MAKER
            else _EXPONENTS[UnitAssumed(settings.unit_assumed.value)]
        ),
        order=_order(settings.list_order),
    )
    form = LineForm(settings.baud)
    if keys is None:
        listener = Listener(PushDecoder(given), form, QUIET_NS)
        return _line(settings, listener, rs485=settings.rs485)
    if not settings.counter_file.startswith("/"):
        raise ConfigurationError(
            "[source] with a key the greatest counter that was heard must outlast the program:"
            " counter_file is the absolute path of a file for it"
        )
    file = HeardFile(Path(settings.counter_file), keys.encryption)
    try:
        decoder = _Fresh(given, file)
        listener = Listener(decoder, form, QUIET_NS)
        return _line(settings, listener, rs485=settings.rs485, let_go=file.close)
    except BaseException:
        file.close()
        raise


class _Fresh:
    """A decoder of ciphered telegrams that reads none twice, in this run or in one before."""

    def __init__(self, settings: PushSettings, file: HeardFile) -> None:
        # A title that the configuration names is that of another meter, if it differs.
        is_other = settings.title not in (b"", file.title)
        counter = -1 if is_other else file.counter
        title = settings.title or file.title
        self._decoder = PushDecoder(replace(settings, title=title, counter=counter))
        self._file = file

    def receive(self, data: bytes, at_ns: int) -> list[Reading | Refusal]:
        before = self._decoder.counter
        found = self._decoder.receive(data, at_ns)
        if self._decoder.counter > before:
            try:
                self._file.keep(self._decoder.title, self._decoder.counter, at_ns)
            except OSError as error:
                raise LineLost(
                    f"cannot keep the counter that was heard: {error.strerror}"
                ) from None
        return found


def dlms_line(settings: DlmsSettings, shared: SharedLines) -> IndexSource:
    """
    Args:
        settings: of the meter.
        shared: of this program, for a meter that may be one of several on its line.

    Raises:
        ConfigurationError, LineLost: as `hal.drivers.open_index`.
        ImportError: dlms-cosem is not installed.
    """
    asked = _client_settings(settings)
    if asked.terms.keys is None or not settings.counter_file:
        return _dlms_line(settings, DlmsClient(asked, os.urandom), shared)
    if not settings.counter_file.startswith("/"):
        raise ConfigurationError("[source] counter_file is an absolute path")
    file = CounterFile(Path(settings.counter_file))
    try:
        client = DlmsClient(replace(asked, counter=file.first), os.urandom)
        kept = _Kept(client, file)
        return _dlms_line(settings, kept, shared, kept.close)
    except BaseException:
        file.close(file.first)
        raise


def _dlms_line(
    settings: DlmsSettings,
    client: "DlmsClient | _Kept",
    shared: SharedLines,
    let_go: Callable[[], None] = lambda: None,
) -> IndexSource:
    if settings.transport is not Transport.HDLC:  # no others are there, or each has a connection
        return _line(
            settings, client, rs485=settings.rs485, sends=True, memory=client, let_go=let_go
        )
    address = settings.logical, settings.physical
    return _shared_line(settings, "dlms", address, client, shared, memory=client, let_go=let_go)


class _Kept:
    """A DLMS client whose invocation counter is durable before it is used."""

    def __init__(self, client: DlmsClient, file: CounterFile) -> None:
        self._client, self._file = client, file

    @property
    def form(self) -> LineForm:
        return self._client.form

    @property
    def due_ns(self) -> int | None:
        return self._client.due_ns

    @property
    def is_busy(self) -> bool:
        return self._client.is_busy

    def receive(self, data: bytes, at_ns: int) -> list[Reading | Refusal]:
        return self._client.receive(data, at_ns)

    def speak(self, now_ns: int) -> bytes:
        words = self._client.speak(now_ns)
        try:
            # Before it is sent: a restart must not use its number again.
            self._file.keep(self._client.counter)
        except OSError as error:
            raise LineLost(f"cannot keep the invocation counter: {error.strerror}") from None
        return words

    def ask_past(self, from_s: int, to_s: int) -> None:
        self._client.ask_past(from_s, to_s)

    def take_past(self) -> list[Past | Refusal]:
        return self._client.take_past()

    def close(self) -> None:
        self._file.close(self._client.counter)


def _line(
    settings: LineSettings,
    conversation: Conversation,
    *,
    rs485: bool = False,
    sends: bool = False,
    memory: Remembering | None = None,
    let_go: Callable[[], None] = lambda: None,
) -> IndexLine:
    port = _open_port(settings, conversation.form.baud, rs485=rs485, sends=sends)
    return IndexLine(port, conversation, memory=memory, let_go=let_go)


def _shared_line(
    settings: D0Settings | DlmsSettings,
    protocol: str,
    address: object,
    conversation: TakingTurns,
    shared: SharedLines,
    *,
    gap_ns: int = 0,
    memory: Remembering | None = None,
    let_go: Callable[[], None] = lambda: None,
) -> SharedMeter:
    """A meter that is asked, where there may be others on its line."""
    _check_place(settings)
    device = os.path.realpath(settings.device) if settings.device else ""
    place = device or f"{settings.host}:{settings.port}"
    alike = (settings.baud, settings.rts, settings.dtr, settings.rs485)
    baud = conversation.form.baud
    return shared.join(
        SharedForm(place, protocol, alike, gap_ns),
        address,
        lambda: _open_port(settings, baud, rs485=settings.rs485, sends=True),
        conversation,
        memory,
        let_go,
    )


def _open_port(settings: LineSettings, baud: int, *, rs485: bool, sends: bool) -> Port:
    _check_place(settings)
    if not settings.device:
        return TcpPort(settings.host, settings.port)
    wiring = Wiring(settings.rts, settings.dtr, rs485, sends)
    return SerialPort(settings.device, baud, wiring)


def _check_place(settings: LineSettings) -> None:
    if bool(settings.device) == bool(settings.host):
        raise ConfigurationError("[source] needs device or host, and not both")
    if settings.host:
        _check_range("port", settings.port, 1, 65_535)


# --- What settings say. --------------------------------------------------------------------------


def _client_settings(settings: DlmsSettings) -> ClientSettings:
    if settings.host and settings.transport is Transport.OPTICAL:
        raise ConfigurationError("[source] an optical port needs device: its speed changes")
    if settings.device and settings.transport is Transport.WRAPPER:
        raise ConfigurationError("[source] the wrapper is for TCP: it needs host")
    _check_baud("baud", settings.baud)
    for name, value, least, most in (
        ("client", settings.client, 1, 127),
        ("logical", settings.logical, 1, 16_383),
        ("physical", settings.physical or 0, 0, 16_383),
        ("period_machine_ms", settings.period_machine_ms, 100, PERIOD_MAX_MS),
        ("answer_machine_ms", settings.answer_machine_ms, ANSWER_MIN_MS, ANSWER_MAX_MS),
        ("tries", settings.tries, 1, 10),
        ("frame_bytes", settings.frame_bytes, 32, 2_030),
    ):
        _check_range(name, value, least, most)
    if settings.address_size not in (2, 4):
        raise ConfigurationError(f"[source] address_size is 2 or 4, not {settings.address_size}")
    if settings.address_size == 2 and max(settings.logical, settings.physical or 0) > 127:
        raise ConfigurationError("[source] addresses above 127 need address_size = 4")
    return ClientSettings(
        transport=settings.transport,
        client=settings.client,
        logical=settings.logical,
        physical=settings.physical,
        address_size=settings.address_size,
        baud=settings.baud,
        terms=_terms(settings),
        counter_from=_code("counter_code", settings.counter_code),
        imported=_code("import_code", settings.import_code),
        exported=_code("export_code", settings.export_code),
        number=_code("number_code", settings.number_code),
        profile=_code("profile_code", settings.profile_code),
        period_ns=settings.period_machine_ms * NS_PER_MS,
        release=settings.release,
        unitless_exponent=_EXPONENTS[settings.unit_assumed],
        information_max=settings.frame_bytes,
        patience=Patience(settings.answer_machine_ms * NS_PER_MS, NS_PER_S, settings.tries),
    )


def _terms(settings: DlmsSettings) -> Terms:
    keys = _keys(settings)
    if settings.authentication is Authentication.LLS and not settings.password_source:
        raise ConfigurationError("[source] authentication lls needs password_source")
    password = b""
    if settings.password_source:
        password = _secret("password_source", settings.password_source, "password").encode()
    if keys is not None and not (settings.counter_file or settings.counter_code):
        raise ConfigurationError(
            "[source] with keys the invocation counter must outlast the program: name a"
            " counter_file, or the meter's own counter_code"
        )
    try:
        return Terms(
            settings.authentication,
            password,
            keys,
            _title("client_title", settings.client_title),
            settings.specific_tags,
        )
    except ValueError as error:
        raise ConfigurationError(f"[source] {error}") from None


def _keys(settings: DlmsSettings | DlmsPushSettings) -> Keys | None:
    encryption, authentication = (
        _key(name, getattr(settings, name))
        for name in ("encryption_key_source", "authentication_key_source")
    )
    if encryption is None:
        if authentication is not None:
            raise ConfigurationError("[source] lacks encryption_key_source beside the other key")
        return None
    return Keys(encryption, authentication)


def _key(name: str, source: str) -> bytes | None:
    if not source:
        return None
    place, is_credential = secret_source(name, source, "[source]")
    try:
        return read_hex_secret(place, "key", KEY_SIZE, is_credential=is_credential)
    except KeyLost as lost:
        raise ConfigurationError(f"[source] {name}: {lost}") from None


def _secret(name: str, source: str, what: str) -> str:
    place, is_credential = secret_source(name, source, "[source]")
    try:
        return read_secret(place, what, is_credential=is_credential)
    except KeyLost as lost:
        raise ConfigurationError(f"[source] {name}: {lost}") from None


def _title(name: str, text: str) -> bytes:
    title = _from_hex(text, TITLE_SIZE)
    if title is None:
        raise ConfigurationError(
            f"[source] {name} has {2 * TITLE_SIZE} hexadecimal digits, unlike {text!r}"
        )
    return title


def _from_hex(text: str, size: int) -> bytes | None:
    try:
        data = bytes.fromhex(text)
    except ValueError:
        return None
    return data if len(data) == size else None


def _code(name: str, text: str) -> bytes:
    """Six bytes of an OBIS code as people write it; none for an empty text."""
    if not text:
        return b""
    found = _OBIS.fullmatch(text)
    groups = [int(group or 255) for group in found.groups()] if found is not None else [256]
    if max(groups) > 255:
        raise ConfigurationError(f"[source] {name} is an OBIS code as 1-0:1.8.0, not {text!r}")
    return bytes(groups)


def _order(text: str) -> tuple[bytes, ...]:
    """The codes of a list's values; an empty one for each that does not matter."""
    codes = tuple(b"" if word == "-" else _code("list_order", word) for word in text.split())
    stated = [code for code in codes if code]
    if len(stated) != len(set(stated)):
        raise ConfigurationError("[source] list_order has an OBIS code twice")
    if codes and not any(map(register_of, stated)):
        raise ConfigurationError("[source] list_order names no register: 1-0:1.8.0 or 1-0:2.8.0")
    return codes


def _check_baud(name: str, baud: int) -> None:
    if baud not in SPEEDS:
        known = ", ".join(map(str, SPEEDS))
        raise ConfigurationError(f"[source] {name} is one of {known}, not {baud}")


def _check_range(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ConfigurationError(f"[source] {name} is from {least} to {most}, not {value}")
