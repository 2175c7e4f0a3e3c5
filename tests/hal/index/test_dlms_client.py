"""DLMS meters that are asked: the client against a simulated meter, and against worse."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptometer.steps import NS_PER_MS, NS_PER_S
from hal.index.axdr import encode_length
from hal.index.ciphering import (
    GENERAL_GLO,
    Keys,
    decode_protected,
    encode_protected,
    open_protected,
    seal_protected,
)
from hal.index.dlms_answering import AnsweringMeter, MeterSettings
from hal.index.dlms_association import Authentication, Terms
from hal.index.dlms_client import (
    PAST_QUESTIONS_MAX,
    ClientSettings,
    DlmsClient,
    Transport,
)
from hal.index.dlms_link import Patience
from hal.index.dlms_meter import Told
from hal.index.hdlc import Frame, HdlcReceiver
from hal.index.plausible import Limits, Plausible
from hal.index.reading import (
    Caveat,
    Index,
    LineForm,
    Parity,
    Past,
    Reading,
    Refusal,
    Refused,
    Register,
    Remembering,
)
from tests.hal.index.damage import WAYS

KEYS = Keys(bytes(range(16)), bytes(range(16, 32)))
PASSWORD = b"12345678"
NOW_S, QUARTER_S = 1_790_000_000, 900
PERIOD_NS = 10 * NS_PER_S
COUNTER_FROM = bytes((0, 0, 43, 1, 0, 255))
Outcome = list[Reading | Refusal]
Wire = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Way:
    """To a meter."""

    transport: Transport = Transport.HDLC
    authentication: Authentication = Authentication.NONE
    keys: Keys | None = None
    specific: bool = False
    physical: int | None = 17
    release: bool = False

    @property
    def terms(self) -> Terms:
        password = PASSWORD if self.authentication is Authentication.LLS else b""
        return Terms(self.authentication, password, self.keys, specific=self.specific)


WAYS_THERE = [
    Way(transport, authentication, keys, specific, physical, release)
    for transport in Transport
    for authentication in Authentication
    for keys in (None, KEYS)
    for specific in (False, True)
    for physical in (None, 17)
    for release in (False, True)
    if (keys is not None or not (specific or authentication is Authentication.HLS_GMAC))
    and (transport is Transport.HDLC or physical is None)
]
CLEAR = Way(Transport.WRAPPER, physical=None)
SEALED = Way(Transport.WRAPPER, Authentication.HLS_GMAC, KEYS, physical=None)


def named(way: Way) -> str:
    sealed = "clear" if way.keys is None else "specific" if way.specific else "general"
    rest = ("-bus" if way.physical is not None else "") + ("-release" if way.release else "")
    return f"{way.transport}-{way.authentication}-{sealed}{rest}"


def tell(at_s: int | None) -> Told:
    at_s = NOW_S if at_s is None else at_s
    return Told(at_s // QUARTER_S, at_s // QUARTER_S * 2, 100, at_s)


def client_of(way: Way, random: Random, **changes: object) -> DlmsClient:
    chosen = ClientSettings(
        way.transport,
        client=1,
        physical=way.physical,
        terms=way.terms,
        release=way.release,
        period_ns=PERIOD_NS,
    )
    return DlmsClient(replace(chosen, **changes), random.randbytes)  # type: ignore[arg-type]


def meter_of(way: Way, random: Random, **changes: object) -> AnsweringMeter:
    chosen = MeterSettings(
        transport=way.transport,
        physical=way.physical,
        authentication=way.authentication,
        password=PASSWORD,
        keys=way.keys,
    )
    return AnsweringMeter(replace(chosen, **changes), tell, random.randbytes)  # type: ignore[arg-type]


def same(data: bytes) -> bytes:
    return data


@dataclass
class Line:
    """A client and a meter, and what is between them."""

    client: DlmsClient
    meter: AnsweringMeter
    there: Wire = same
    back: Wire = same
    at_ns: int = 0
    sent: list[bytes] = field(default_factory=list)
    forms: list[LineForm] = field(default_factory=list)

    def run(self, until_ns: int) -> Iterator[Reading | Refusal]:
        came = b""
        while self.at_ns < until_ns:
            yield from self.client.receive(came, self.at_ns)
            said = self.client.speak(self.at_ns)
            if self.client.form not in self.forms[-1:]:
                self.forms.append(self.client.form)
            if said:
                self.sent.append(said)
            self.at_ns += 20 * NS_PER_MS
            came = self.back(self.meter.receive(self.there(said), self.at_ns)) if said else b""
            if not came:
                due_ns = self.client.due_ns
                self.at_ns = max(self.at_ns, until_ns if due_ns is None else due_ns)


def line_of(way: Way, **changes: object) -> Line:
    random = Random(1)
    return Line(client_of(way, random, **changes), meter_of(way, random))


def readings(found: Iterable[Reading | Refusal]) -> list[Reading]:
    return [one for one in found if isinstance(one, Reading)]


def refused(found: Iterable[Reading | Refusal]) -> list[Refused]:
    return [one.reason for one in found if isinstance(one, Refusal)]


# --- Every way to a meter. -----------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS_THERE, ids=named)
def test_every_way_gives_a_reading_in_every_period(way: Way) -> None:
    line = line_of(way)
    found = list(line.run(100 * NS_PER_S))
    assert refused(found) == []
    assert len(readings(found)) in (9, 10)
    for one in readings(found):
        assert one.identity == "1KFM0200"
        assert (one.imported, one.exported) == (
            Index(NOW_S // QUARTER_S),
            Index(NOW_S // QUARTER_S * 2),
        )
        assert one.meter_time_s == NOW_S
        assert one.caveats == frozenset()
        assert 0 <= one.began_ns < one.ended_ns


@pytest.mark.parametrize("way", WAYS_THERE[::3], ids=named)
def test_the_profile_fills_what_nobody_listened_to(way: Way) -> None:
    line = line_of(way)
    first_s = NOW_S // QUARTER_S * QUARTER_S - 2 * 86_400
    line.client.ask_past(first_s, NOW_S)
    assert refused(line.run(60 * NS_PER_S)) == []
    rows = line.client.take_past()
    assert line.client.take_past() == []
    assert [row.at_s for row in rows if isinstance(row, Past)] == list(
        range(first_s, NOW_S, QUARTER_S)
    )
    for row in rows:
        assert isinstance(row, Past)
        assert row.imported == Index(row.at_s // QUARTER_S)
        assert row.exported == Index(row.at_s // QUARTER_S * 2)
        assert row.identity == "1KFM0200"


@pytest.mark.parametrize("way", [SEALED, replace(SEALED, transport=Transport.OPTICAL)], ids=named)
def test_the_public_client_reads_the_counter_first(way: Way) -> None:
    line = line_of(way, counter_from=COUNTER_FROM)
    assert len(readings(line.run(35 * NS_PER_S))) >= 3
    used = line.client.counter
    later_ns = line.at_ns + 200 * NS_PER_S  # an optical port listens for a sign-on again
    client = client_of(way, Random(2), counter_from=COUNTER_FROM)
    again = Line(client, line.meter, at_ns=later_ns)
    found = list(again.run(later_ns + 35 * NS_PER_S))
    assert refused(found) == []
    assert again.client.counter > used


def test_a_client_that_forgot_its_counter_is_refused_by_the_meter() -> None:
    line = line_of(SEALED)
    list(line.run(35 * NS_PER_S))
    again = Line(client_of(SEALED, Random(2)), line.meter)
    assert set(refused(again.run(35 * NS_PER_S))) <= {Refused.NOT_AUTHENTIC, Refused.METER_ERROR}
    remembering = Line(client_of(SEALED, Random(3), counter=line.client.counter), line.meter)
    assert refused(remembering.run(35 * NS_PER_S)) == []


@pytest.mark.parametrize("way", [way for way in WAYS_THERE if way.keys is not None], ids=named)
def test_no_invocation_counter_is_used_twice(way: Way) -> None:
    line = line_of(way, counter=5)
    list(line.run(60 * NS_PER_S))
    counters = [counter for said in line.sent for counter in counters_in(said)]
    assert len(counters) > 9
    assert sorted(counters) == list(range(5, line.client.counter))


def counters_in(said: bytes) -> list[int]:
    """Of what a client sent: those of its messages, and that of its reply to a challenge."""
    messages = [said[8:]]
    if said[:1] == b"\x7e":
        frames = HdlcReceiver().receive(said, 0)
        messages = [one.information[3:] for one in frames if isinstance(one, Frame)]
    found = []
    for message in messages:
        at = message.find(b"\x21\x1f\x30")  # sealed in the request for an association
        if message[:1] in (b"\x60", b"\x62") and at >= 0:
            found.append(int.from_bytes(message[at + 3 : at + 7], "big"))
        if message[:1] and message[0] in (GENERAL_GLO, 0xC8, 0xCB):
            general = message[0] == GENERAL_GLO
            protected, _ = decode_protected(message, 1, general=general)
            found.append(protected.counter)
            clear = open_protected(protected, Terms().title, KEYS)
            if clear[0] == 0xC3:
                found.append(int.from_bytes(clear[-16:-12], "big"))
    return found


def test_it_is_a_conversation_that_remembers_and_wants_to_be_called_at_once() -> None:
    client: Remembering = client_of(CLEAR, Random(1))
    assert client.due_ns == 0


def test_what_is_asked_of_the_past_is_bounded() -> None:
    client = client_of(CLEAR, Random(1))
    client.ask_past(0, 10 * 366 * 86_400)
    assert len(client._questions) == PAST_QUESTIONS_MAX


def test_nothing_is_logged_or_printed(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        list(line_of(SEALED).run(35 * NS_PER_S))
    assert caplog.records == []
    assert capsys.readouterr().out == ""


# --- Links. --------------------------------------------------------------------------------------


def test_an_optical_port_is_signed_on_to_at_300_baud_and_read_at_its_own_speed() -> None:
    line = line_of(Way(Transport.OPTICAL, physical=None, release=True))
    assert len(readings(line.run(25 * NS_PER_S))) >= 2
    slow, fast = LineForm(300, 7, Parity.EVEN), LineForm(9_600)
    assert line.forms[:4] == [slow, fast, slow, fast]
    assert line.sent[:2] == [b"/?!\r\n", b"\x06252\r\n"]


def test_an_optical_port_is_not_asked_for_more_than_the_line_can() -> None:
    line = line_of(Way(Transport.OPTICAL, physical=None), baud=2_400)
    assert len(readings(line.run(25 * NS_PER_S))) >= 2
    assert line.sent[1] == b"\x06232\r\n"
    assert line.forms[1] == LineForm(2_400)


def test_an_optical_port_that_switches_without_a_word_is_followed() -> None:
    def back(data: bytes) -> bytes:
        return b"" if data.startswith(b"\x06") else data

    line = line_of(Way(Transport.OPTICAL, physical=None))
    line.back = back
    found = list(line.run(25 * NS_PER_S))
    assert refused(found) == []
    assert len(readings(found)) >= 2


def test_an_optical_port_without_mode_e_is_unsupported() -> None:
    line = line_of(Way(Transport.OPTICAL, physical=None))
    line.back = lambda data: data.replace(b"\\2", b"  ")
    assert set(refused(line.run(25 * NS_PER_S))) == {Refused.UNSUPPORTED}


def test_parity_bits_in_a_sign_on_are_ignored() -> None:
    def back(data: bytes) -> bytes:
        return bytes(byte | 0x80 for byte in data) if data[:1] in (b"/", b"\x06") else data

    line = line_of(Way(Transport.OPTICAL, physical=None))
    line.back = back
    assert len(readings(line.run(25 * NS_PER_S))) >= 2


@pytest.mark.parametrize("size", [32, 60, 128, 300])
def test_questions_and_answers_go_in_as_many_frames_as_were_agreed_on(size: int) -> None:
    way = Way(Transport.HDLC, Authentication.HLS_GMAC, KEYS)
    random = Random(1)
    line = Line(client_of(way, random), meter_of(way, random, information_max=size))
    line.client.ask_past(NOW_S - 86_400, NOW_S)
    found = list(line.run(60 * NS_PER_S))
    assert refused(found) == []
    assert len(line.client.take_past()) == 96
    for said in line.sent:
        [frame] = HdlcReceiver().receive(said, 0)
        assert isinstance(frame, Frame)
        assert len(frame.information) <= size


@pytest.mark.parametrize("transport", Transport)
def test_a_silent_meter_is_told_and_asked_again_after_a_pause(transport: Transport) -> None:
    line = line_of(Way(transport, physical=None))
    line.there = lambda _: b""
    found = list(line.run(100 * NS_PER_S))
    assert set(refused(found)) == {Refused.SILENT}
    assert 2 <= len(found) <= 12
    line.there = same
    assert len(readings(line.run(500 * NS_PER_S))) >= 5


@pytest.mark.parametrize("lost", range(12))
@pytest.mark.parametrize("direction", ["there", "back"])
def test_a_frame_that_is_lost_is_made_up_for(lost: int, direction: str) -> None:
    count = [0]

    def wire(data: bytes) -> bytes:
        count[0] += bool(data)
        return b"" if count[0] == lost + 1 else data

    line = line_of(Way(Transport.HDLC, Authentication.HLS_GMAC, KEYS))
    setattr(line, direction, wire)
    found = list(line.run(60 * NS_PER_S))
    assert refused(found) == []
    assert len(readings(found)) >= 5


def test_a_bus_that_echoes_what_is_sent_is_read() -> None:
    line = line_of(Way())
    line.back = lambda data: (line.sent[-1] if line.sent else b"") + data
    found = list(line.run(60 * NS_PER_S))
    assert refused(found) == []
    assert len(readings(found)) >= 5


def test_the_first_byte_of_an_answer_may_come_late_and_the_rest_slowly() -> None:
    random, way = Random(1), Way()
    client, meter = client_of(way, random), meter_of(way, random)
    found, at_ns = client.receive(b"", 0), 0
    for _ in range(40):
        answer = meter.receive(client.speak(at_ns), at_ns)
        at_ns += 2 * NS_PER_S
        for byte in answer:
            found += client.receive(bytes([byte]), at_ns)
            at_ns += 100 * NS_PER_MS
        if not answer:
            found += client.receive(b"", at_ns)
    assert refused(found) == []
    assert len(readings(found)) >= 2


# --- Refusals. -----------------------------------------------------------------------------------


def run_against(way: Way, back: Wire, **changes: object) -> Outcome:
    line = line_of(way, **changes)
    line.back = back
    return list(line.run(60 * NS_PER_S))


def test_a_wrong_password_is_refused() -> None:
    way = Way(Transport.WRAPPER, Authentication.LLS, physical=None)
    random = Random(1)
    terms = Terms(Authentication.LLS, b"wrong")
    line = Line(client_of(way, random, terms=terms), meter_of(way, random))
    assert set(refused(line.run(30 * NS_PER_S))) == {Refused.NOT_AUTHENTIC}


@pytest.mark.parametrize("authentication", [Authentication.NONE, Authentication.HLS_GMAC])
@pytest.mark.parametrize("which", [0, 1])
def test_a_meter_with_other_keys_is_refused(authentication: Authentication, which: int) -> None:
    assert KEYS.authentication is not None
    other = Keys(bytes(16), KEYS.authentication) if which else Keys(KEYS.encryption, bytes(16))
    way = Way(Transport.WRAPPER, authentication, KEYS, physical=None)
    random = Random(1)
    line = Line(client_of(way, random), meter_of(replace(way, keys=other), random))
    found = list(line.run(30 * NS_PER_S))
    assert set(refused(found)) == {Refused.NOT_AUTHENTIC}
    assert not readings(found)


def test_a_meter_that_knows_no_keys_refuses() -> None:
    random = Random(1)
    line = Line(client_of(SEALED, random), meter_of(Way(Transport.WRAPPER, physical=None), random))
    assert set(refused(line.run(30 * NS_PER_S))) == {Refused.METER_ERROR}


def aare(data: bytes) -> bool:
    return data[8:9] == b"\x61"


def with_message(data: bytes, message: bytes) -> bytes:
    return data[:6] + len(message).to_bytes(2, "big") + message


def test_a_challenge_that_is_ours_sent_back_is_refused() -> None:
    line = line_of(SEALED)
    ours: list[bytes] = []

    def there(data: bytes) -> bytes:
        if data[8:9] == b"\x60":
            at = data.index(b"\xac\x12\x80\x10") + 4
            ours[:] = [data[at : at + 16]]
        return data

    def back(data: bytes) -> bytes:
        if not aare(data):
            return data
        at = data.index(b"\xaa\x12\x80\x10") + 4
        return data[:at] + ours[0] + data[at + 16 :]

    line.there, line.back = there, back
    assert set(refused(line.run(30 * NS_PER_S))) == {Refused.NOT_AUTHENTIC}


def test_another_authentication_than_was_asked_for_is_refused() -> None:
    def without_mechanism(data: bytes) -> bytes:
        if not aare(data):
            return data
        message = data[8:]
        for part in (
            bytes((0x88, 2, 7, 0x80)),
            bytes((0x89, 7, 0x60, 0x85, 0x74, 5, 8, 2, 5)),
            message[message.index(b"\xaa\x12") :][:20],
        ):
            message = message.replace(part, b"")
        return with_message(data, bytes((0x61, len(message) - 2)) + message[2:])

    found = run_against(SEALED, without_mechanism)
    assert set(refused(found)) == {Refused.NOT_AUTHENTIC}


def test_what_is_granted_in_clear_under_keys_is_refused() -> None:
    clear = bytes.fromhex("0800065f1f0400401015 0200 0007")

    def unsealed(data: bytes) -> bytes:
        if not aare(data):
            return data
        message = data[8 : data.index(b"\xbe\x23\x04\x21")]
        message += bytes((0xBE, len(clear) + 2, 4, len(clear))) + clear
        return with_message(data, bytes((0x61, len(message) - 2)) + message[2:])

    way = replace(SEALED, authentication=Authentication.NONE)
    assert set(refused(run_against(way, unsealed))) == {Refused.NOT_AUTHENTIC}


def test_an_answer_that_is_played_again_is_refused() -> None:
    kept: list[bytes] = []

    def back(data: bytes) -> bytes:
        if data[8:9] != bytes([GENERAL_GLO]):
            return data
        kept.append(data)
        return kept[6] if len(kept) > 8 else data

    assert Refused.NOT_AUTHENTIC in refused(run_against(SEALED, back))


def test_an_altered_answer_is_refused() -> None:
    def back(data: bytes) -> bytes:
        if data[8:9] != bytes([GENERAL_GLO]):
            return data
        return data[:-1] + bytes([data[-1] ^ 1])

    found = run_against(SEALED, back)
    assert set(refused(found)) == {Refused.NOT_AUTHENTIC}
    assert not readings(found)


def test_an_answer_in_clear_to_a_sealed_question_is_refused() -> None:
    def back(data: bytes) -> bytes:
        if data[8:9] != bytes([GENERAL_GLO]):
            return data
        return with_message(data, bytes.fromhex("c401c10006000000ff"))

    found = run_against(replace(SEALED, authentication=Authentication.NONE), back)
    assert set(refused(found)) == {Refused.NOT_AUTHENTIC}


def test_another_meter_that_knows_the_keys_does_not_answer_in_its_place() -> None:
    def back(data: bytes) -> bytes:
        if data[8:9] != bytes([GENERAL_GLO]):
            return data
        protected, _ = decode_protected(data[8:], 1, general=True)
        clear = open_protected(protected, protected.title, KEYS)
        title = b"SIM\0\0\0\0\x09"
        other = seal_protected(clear, protected.control, protected.counter, title, KEYS)
        return with_message(data, encode_protected(other, GENERAL_GLO))

    found = run_against(replace(SEALED, authentication=Authentication.NONE), back)
    assert set(refused(found)) == {Refused.NOT_AUTHENTIC}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("c401c100", Refused.INCOMPLETE),  # no value
        ("c401c1000600000001ff", Refused.FORM),  # something after it
        ("c401c10007", Refused.FORM),  # no A-XDR
        ("c401c1001300", Refused.UNSUPPORTED),  # a compact array
        ("c401c20006000000ff", Refused.FORM),  # to another question
        ("c402c10000000002000101", Refused.FORM),  # a block after none
        ("c403c1000100060000", Refused.UNSUPPORTED),  # a list that nobody asked for
        ("c701c10000", Refused.FORM),  # an action
        ("0f000000000006000000ff", Refused.FORM),  # a notification
        ("0e010600", Refused.METER_ERROR),
        ("", Refused.FORM),
    ],
)
def test_an_answer_that_is_none_is_refused_by_its_name(answer: str, reason: Refused) -> None:
    def back(data: bytes) -> bytes:
        return with_message(data, bytes.fromhex(answer)) if data[8:9] == b"\xc4" else data

    outcome = refused(run_against(CLEAR, back))
    expected = {reason, Refused.FORM} if reason is Refused.INCOMPLETE else {reason}
    assert outcome
    assert set(outcome) <= expected


def test_a_register_that_the_meter_lacks_is_not_asked_for_again() -> None:
    line = line_of(CLEAR, exported=bytes((1, 0, 22, 8, 0, 255)))
    found = list(line.run(60 * NS_PER_S))
    assert refused(found) == []
    assert all(one.exported is None and one.imported for one in readings(found))
    assert sum(bytes((22, 8, 0, 255, 2)) in said for said in line.sent) == 1


def test_a_register_that_fails_once_is_asked_for_again() -> None:
    failures = [2]

    def back(data: bytes) -> bytes:
        if data[8:14] == bytes.fromhex("c401c1000600") and failures[0]:
            failures[0] -= 1
            return with_message(data, bytes.fromhex("c401c10102"))  # temporary failure
        return data

    found = run_against(CLEAR, back)
    assert refused(found) == [Refused.METER_ERROR] * 2
    assert all(one.imported and one.exported for one in readings(found))
    assert len(readings(found)) >= 3


@pytest.mark.parametrize("transport", [Transport.HDLC, Transport.OPTICAL])
def test_a_link_that_is_given_up_is_taken_down(transport: Transport) -> None:
    random = Random(1)
    way = Way(transport, Authentication.LLS, physical=None)
    line = Line(
        client_of(way, random, terms=Terms(Authentication.LLS, b"wrong")), meter_of(way, random)
    )
    found = list(line.run(60 * NS_PER_S))
    assert set(refused(found)) == {Refused.NOT_AUTHENTIC}
    assert len(found) >= 3
    frames = [one for said in line.sent for one in HdlcReceiver().receive(said, 0)]
    disconnections = [one for one in frames if isinstance(one, Frame) and one.control == 0x53]
    assert len(disconnections) == len(found)


@pytest.mark.parametrize("release", [False, True])
def test_a_meter_that_was_exchanged_is_known_by_its_own_number(release: bool) -> None:
    way = Way(release=release)
    line = line_of(way)
    assert {one.identity for one in readings(line.run(35 * NS_PER_S))} == {"1KFM0200"}
    line.meter = meter_of(way, Random(2), number="2KFM0300")
    found = list(line.run(120 * NS_PER_S))
    assert {one.identity for one in readings(found)} == {"2KFM0300"}


def test_a_meter_without_any_register_has_no_index() -> None:
    line = line_of(CLEAR, exported=b"", imported=bytes((1, 0, 21, 8, 0, 255)))
    assert set(refused(line.run(60 * NS_PER_S))) == {Refused.NO_INDEX}


def test_a_register_without_a_unit_is_marked() -> None:
    def back(data: bytes) -> bytes:
        return with_message(data, b"\xc4\x01\xc1\x01\x04") if b"\x02\x02\x0f" in data else data

    [*_, last] = readings(run_against(CLEAR, back, unitless_exponent=1))
    assert last.caveats == {Caveat.UNIT_ASSUMED}
    assert last.imported == Index(NOW_S // QUARTER_S, 1)


def test_a_refused_association_is_told_with_its_reason() -> None:
    refusing = bytes.fromhex("611fa109060760857405080101a203020101a305a10302010dbe0604040e010600")

    def back(data: bytes) -> bytes:
        return with_message(data, refusing) if aare(data) else data

    [first, *_] = run_against(CLEAR, back)
    assert isinstance(first, Refusal)
    assert first.reason is Refused.NOT_AUTHENTIC
    assert "authentication failed" in first.detail


def test_a_long_association_response_is_read() -> None:
    def back(data: bytes) -> bytes:
        if not aare(data):
            return data
        body = data[10:]
        body = body[: body.index(b"\xbe")] + b"\xbd\x60" + bytes(0x60) + body[body.index(b"\xbe") :]
        return with_message(data, b"\x61" + encode_length(len(body)) + body)

    found = run_against(CLEAR, back)
    assert len(readings(found)) >= 5


@pytest.mark.parametrize(
    "rows",
    [
        # columns are missing
        "0101 0201 090c07ea0914010f0f0000ffc400",
        # no time
        "0101 0203 00 0600000001 0600000002",
        # back in time
        "0102 0203 090c07ea0914010f0f0000ffc400 0600000001 0600000002"
        "     0203 090c07ea0914010f000000ffc400 0600000001 0600000002",
        # the first row leaves a value out
        "0101 0203 090c07ea0914010f0f0000ffc400 00 0600000002",
    ],
)
def test_rows_that_are_none_are_refused_and_readings_go_on(rows: str) -> None:
    def back(data: bytes) -> bytes:
        if data[8:12] in (b"\xc4\x02\xc1\x00", b"\xc4\x01\xc1\x00") and b"\x02\x03\x09\x0c" in data:
            return with_message(data, b"\xc4\x01\xc1\x00" + bytes.fromhex(rows))
        return data

    line = line_of(CLEAR)
    line.back = back
    line.client.ask_past(NOW_S - 900, NOW_S)
    found = list(line.run(60 * NS_PER_S))
    [refusal] = line.client.take_past()
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Refused.FORM
    assert refused(found) == []


def test_nulls_stand_for_what_the_row_before_says() -> None:
    rows = (
        "0103 0203 090c07ea0914010f0f0000ffc400 0600000001 0600000002"
        "     0203 00 0600000005 00"
        "     0203 00 00 00"
    )

    def back(data: bytes) -> bytes:
        if data[8:9] == b"\xc4" and b"\x02\x03\x09\x0c" in data:
            return with_message(data, b"\xc4\x01\xc1\x00" + bytes.fromhex(rows))
        return data

    line = line_of(CLEAR)
    line.back = back
    first_s = 1_789_913_700
    line.client.ask_past(first_s, first_s + 1_800)
    list(line.run(30 * NS_PER_S))
    assert line.client.take_past() == [
        Past("1KFM0200", Index(1), Index(2), first_s),
        Past("1KFM0200", Index(5), Index(2), first_s + 900),
        Past("1KFM0200", Index(5), Index(2), first_s + 1_800),
    ]


# --- Whatever comes. -----------------------------------------------------------------------------


@given(st.sampled_from(WAYS_THERE), st.lists(st.binary(max_size=60), max_size=12))
@settings(max_examples=60, deadline=None)
def test_no_answer_raises(way: Way, answers: list[bytes]) -> None:
    client, at_ns = client_of(way, Random(1)), 0
    client.receive(b"", at_ns)
    for answer in answers:
        client.speak(at_ns)
        at_ns += NS_PER_S
        assert not readings(client.receive(answer, at_ns))


@given(
    st.sampled_from([way for way in WAYS_THERE if not way.release]),
    st.integers(0, 40),
    st.binary(max_size=40),
    st.integers(0, 2**32),
)
@settings(max_examples=120, deadline=None)
def test_no_damaged_answer_raises_or_gives_a_wrong_index(
    way: Way, which: int, noise: bytes, seed: int
) -> None:
    """TCP loses nothing; there it is a message in its wrapper that is damaged, which only keys
    can tell."""
    random, count = Random(seed), [0]

    def back(data: bytes) -> bytes:
        count[0] += 1
        if count[0] != which + 1 or not data:
            return data
        hurt = random.choice(WAYS)(data, random)
        return hurt if random.random() < 0.5 else noise

    line = line_of(way)
    line.back = back
    for one in readings(line.run(40 * NS_PER_S)):
        if way.transport is not Transport.WRAPPER or way.keys is not None:
            assert one.imported in (Index(NOW_S // QUARTER_S), None)
            assert one.exported in (Index(NOW_S // QUARTER_S * 2), None)


@given(st.sampled_from(WAYS_THERE), st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_any_chunks_give_the_same_readings(way: Way, seed: int) -> None:
    chunks = Random(seed)
    random = Random(1)
    client, meter = client_of(way, random), meter_of(way, random)
    found, at_ns, answer = client.receive(b"", 0), 0, b""
    while at_ns < 25 * NS_PER_S:
        said = client.speak(at_ns)
        answer = meter.receive(said, at_ns) if said else b""
        at_ns += 20 * NS_PER_MS
        while answer:
            size = chunks.randint(1, 9)
            found += client.receive(answer[:size], at_ns)
            answer = answer[size:]
        if not said:
            due_ns = client.due_ns
            at_ns = max(at_ns, 25 * NS_PER_S if due_ns is None else due_ns)
            found += client.receive(b"", at_ns)
    plain = line_of(way)
    assert [replace(one, began_ns=0, ended_ns=0) for one in readings(found)] == [
        replace(one, began_ns=0, ended_ns=0) for one in readings(plain.run(25 * NS_PER_S))
    ]


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_an_hour_on_a_bad_bus_gives_no_wrong_index(share: float) -> None:
    """Share: of the readings' exchanges that are damaged somewhere, of ten frames and more each."""
    random = Random(7)
    exported = [98_760]

    def grown(at_s: int | None) -> Told:
        if at_s is None:
            exported[0] += random.choice((0, 1, 2))
        return Told(123_450, exported[0], -100, NOW_S)

    def wire(data: bytes) -> bytes:
        if not data or random.random() >= share / 10:
            return data
        return random.choice(WAYS)(data, random)

    way = Way(Transport.HDLC, Authentication.HLS_GMAC, KEYS)
    chosen = MeterSettings(
        transport=way.transport, physical=17, authentication=way.authentication, keys=KEYS
    )
    patience = Patience(answer_ns=500 * NS_PER_MS, pause_ns=200 * NS_PER_MS)
    client = client_of(way, random, patience=patience, counter_from=COUNTER_FROM)
    line = Line(client, AnsweringMeter(chosen, grown, random.randbytes), wire, wire)
    gate = Plausible(Limits("1KFM0200", Register.EXPORT, 36_000))
    believed: list[int] = []
    for one in line.run(3_600 * NS_PER_S):
        for accepted in readings(gate.judge(one)) if isinstance(one, Reading) else []:
            assert accepted.exported is not None
            assert 98_760 <= accepted.exported.value <= exported[0]
            believed.append(accepted.exported.value)
    assert believed == sorted(believed)
    assert len(believed) >= 0.95 * 360
