"""DLMS/COSEM: frames, values, and telegrams that meters send by themselves."""

from random import Random

from cryptometer.errors import Reason, Rejected
from cryptometer.steps import NS_PER_MS, NS_PER_S
from hal.index.axdr import (
    Datum,
    Malformed,
    MeterClock,
    Tag,
    decode_clock,
    decode_data,
    decode_miswritten,
    encode_clock,
    encode_data,
    encode_length,
)
from hal.index.ciphering import Keys, decode_protected
from hal.index.dlms_answering import AnsweringMeter, MeterSettings
from hal.index.dlms_association import Authentication, Terms
from hal.index.dlms_client import ClientSettings, DlmsClient, Transport
from hal.index.dlms_meter import Layout, Style, Told, notification, telegram
from hal.index.dlms_push import Framing, PushDecoder, PushSettings
from hal.index.hdlc import (
    Address,
    Frame,
    HdlcReceiver,
    Parameters,
    decode_parameters,
    has_header,
)
from hal.index.objects import read_list
from hal.index.reading import Index, Reading, Refusal
from tests.fuzz.scene import FalseAcceptance
from tests.fuzz.sums import hdlc_frames, hdlc_parts, is_whole, mbus_frames
from tests.fuzz.target import Target

_KEYS = Keys(bytes(16), bytes(range(16)))
_SMALL = 2_000
_TOLD = Told(123_450, 98_760, -1_500, 1_790_000_000)


def _read_frames(data: bytes) -> None:
    """A line; what carries parameters of a link has them read."""
    receiver = HdlcReceiver()
    found = [*receiver.receive(data, 1), *receiver.receive(b"", 2 * NS_PER_S)]
    frames = [one for one in found if isinstance(one, Frame)]
    for frame in frames:
        if frame.encode() not in data or not is_whole(frame.encode()):
            raise FalseAcceptance(f"{frame} was not there")
        try:
            decode_parameters(frame.information)
        except ValueError:
            continue
    if len(data) < _SMALL:
        one_by_one = HdlcReceiver()
        again = [one for byte in data for one in one_by_one.receive(bytes([byte]), 1)]
        if [*again, *one_by_one.receive(b"", 2 * NS_PER_S)] != found:
            raise FalseAcceptance("other chunks give other frames")
    if frames and not has_header(data):
        raise FalseAcceptance("a frame without a header")
    if not frames:
        raise Rejected(Reason.MALFORMED, "no frame")


def _read_values(data: bytes) -> None:
    try:
        datum, end = decode_data(data)
    except Malformed:
        try:
            datum, end = decode_miswritten(data)
        except Malformed as bad:
            raise Rejected(Reason.MALFORMED, str(bad)) from None
    else:
        again, size = decode_data(encode_data(datum))
        # A boolean, a length and a number that is none may be written in more ways than one.
        if (repr(again), size) != (repr(datum), len(encode_data(datum))):
            raise FalseAcceptance(f"{datum} is written as another value")
    if end > len(data):
        raise FalseAcceptance("more was read than there is")
    read_list(datum)
    read_list(datum, (bytes((1, 0, 1, 8, 0, 255)),) * len(datum.elements))
    if datum.tag is Tag.OCTET_STRING:
        _read_clock(datum.octets)


def _read_clock(raw: bytes) -> None:
    try:
        clock: MeterClock = decode_clock(raw)
    except Malformed as bad:
        raise Rejected(Reason.MALFORMED, str(bad)) from None
    if clock.unix_s is not None and clock.unix_s >= 0:
        deviation_min = int.from_bytes(raw[9:11], "big", signed=True)
        if decode_clock(encode_clock(clock.unix_s, deviation_min)).unix_s != clock.unix_s:
            raise FalseAcceptance(f"{clock} is written as another time")


def _read_telegrams(data: bytes) -> None:
    """The first byte says the framing, and whether the key is known."""
    choice = data[0] if data else 0
    keys = _KEYS if choice & 0x10 else None
    framing = list(Framing)[choice % len(Framing)]
    decoder = PushDecoder(PushSettings(framing, keys))
    found = [*decoder.receive(data[1:], 1), *decoder.receive(b"", 60 * NS_PER_S)]
    readings = [one for one in found if isinstance(one, Reading)]
    carried = _carried(data[1:], framing) if readings and keys is None else b""
    for reading in readings:
        for index in (reading.imported, reading.exported):
            if index is not None and index.uwh < 0:
                raise FalseAcceptance(f"{index} is less than nothing")
            if index is not None and keys is None:
                _check_said(index, carried)
    if keys is not None and readings and data[1:] not in {one[1:] for one in _telegrams()}:
        _check_sealed(readings)
    if not readings:
        raise Rejected(Reason.MALFORMED, str([one for one in found if isinstance(one, Refusal)]))


def _carried(data: bytes, framing: Framing) -> bytes:
    """What the frames whose sums are right carry, one behind the other."""
    if framing is Framing.HDLC:
        frames = [data[begin:end] for begin, end in hdlc_frames(data)]
        parts = [hdlc_parts(frame)[1] for frame in frames if is_whole(frame)]
        return b"".join(part[3:] if part[:1] == b"\xe6" else part for part in parts)
    if framing is Framing.MBUS:
        long = [data[begin:end] for begin, end in mbus_frames(data)]
        return b"".join(one[9:-2] for one in long if sum(one[4:-2]) % 256 == one[-2])
    return data


def _check_said(index: Index, carried: bytes) -> None:
    """The number stands there as it was counted, unless blocks may have cut it."""
    if len(carried) > _SMALL:
        return
    raw = index.value.to_bytes((index.value.bit_length() + 7) // 8, "big")
    if raw not in carried and _BLOCK not in carried:
        raise FalseAcceptance(f"{index} was not said")


_BLOCK = b"\xe0"


def _check_sealed(readings: list[Reading]) -> None:
    """Whatever is around it: only what the meter sealed is read."""
    indexes = {(one.imported, one.exported) for one in readings}
    for style in _STYLES:
        decoder = PushDecoder(PushSettings(style.framing, style.keys))
        for one in decoder.receive(telegram(_TOLD, style, 1), 1):
            if isinstance(one, Reading):
                indexes.discard((one.imported, one.exported))
    if indexes:
        raise FalseAcceptance(f"{indexes}, which nobody sealed")


_STYLES = [
    Style(layout=layout, framing=framing, keys=keys, part=90, block=block)
    for layout in Layout
    for framing in Framing
    for keys in (None, _KEYS)
    for block in (0, 80)
    if not (block and framing in (Framing.WRAPPER, Framing.MBUS))
]


def _telegrams() -> list[bytes]:
    return [
        bytes([list(Framing).index(style.framing) | (0x10 if style.keys else 0)])
        + telegram(_TOLD, style, 1)
        for style in _STYLES
    ]


def _frames() -> list[bytes]:
    client, server = Address(16), Address(1, 17, 4)
    link = Frame(client, server, 0x73, Parameters(512, 512).encode()).encode()
    return [link, link[:-1] + Frame(server, client, 0x10, b"\xe6\xe6\x00\x7e").encode()]


def _values() -> list[bytes]:
    said = [notification(_TOLD, Style(layout=layout)) for layout in Layout]
    bodies = [one[one.index(b"\xff\xc4\x00") + 3 :] for one in said]
    clock = Datum(Tag.OCTET_STRING, encode_clock(1_790_000_000, -120, 0x80))
    bare = bytes.fromhex("010202020003010001 0800ff0206004afa8202020003010002 0800ff020600000034")
    vienna = bytes.fromhex(
        "020a 0906 0006190900ff 0902 3131 0904 01020300 0905 07ea010101"
        "06 00000005 06 00000006 06 00000000 06 00000000 06 00000000 06 00000000"
    )
    return [*bodies, encode_data(clock), bare, vienna]


def _read_protected(data: bytes) -> None:
    try:
        protected, end = decode_protected(data, 0, general=True)
    except ValueError as bad:
        raise Rejected(Reason.MALFORMED, str(bad)) from None
    if end > len(data) or len(protected.title) not in (0, 8):
        raise FalseAcceptance(f"{protected} was not there")


def _sealed() -> list[bytes]:
    title = b"SIM12345"
    return [encode_length(len(title)) + title + bytes((23, 0x30)) + bytes(4 + 18)]


_WAYS = (
    (Transport.WRAPPER, Terms()),
    (Transport.WRAPPER, Terms(Authentication.HLS_GMAC, keys=_KEYS)),
    (Transport.HDLC, Terms(Authentication.LLS, b"12345678")),
    (Transport.OPTICAL, Terms()),
)
_INDEXES = {Index(_TOLD.imported_wh), Index(_TOLD.exported_wh)}


def _client(way: int) -> tuple[DlmsClient, MeterSettings]:
    transport, terms = _WAYS[way % len(_WAYS)]
    settings = ClientSettings(transport, client=1, terms=terms)
    meter = MeterSettings(
        transport=transport,
        authentication=terms.authentication,
        password=terms.password,
        keys=terms.keys,
    )
    client = DlmsClient(settings, Random(1).randbytes)
    client.ask_past(_TOLD.unix_s - 1_000, _TOLD.unix_s)
    return client, meter


def _read_answers(data: bytes) -> None:
    """The first byte chooses the way to the meter; then each answer behind its length."""
    client, meter = _client(data[0] if data else 0)
    readings: list[Reading] = []
    at, at_ns, said = 1, 0, b""
    client.receive(b"", at_ns)
    while at < len(data):
        client.speak(at_ns)
        at_ns += 10 * NS_PER_MS
        size = int.from_bytes(data[at : at + 2], "big")
        found = client.receive(data[at + 2 : at + 2 + size], at_ns)
        readings += [one for one in found if isinstance(one, Reading)]
        said += data[at + 2 : at + 2 + size]
        at += 2 + size
    carried = _carried(said, Framing.HDLC) if readings else b""
    for reading in readings:
        indexes = {one for one in (reading.imported, reading.exported) if one is not None}
        if any(one.uwh < 0 for one in indexes):
            raise FalseAcceptance(f"{reading} has less than nothing")
        if meter.keys is not None and not indexes <= _INDEXES:
            raise FalseAcceptance(f"{reading}, which nobody sealed")
        if meter.transport is not Transport.WRAPPER:
            for index in indexes:
                _check_said(index, carried)
    if not readings:
        raise Rejected(Reason.MALFORMED, "no reading")


def _answers() -> list[bytes]:
    found = []
    for way in range(len(_WAYS)):
        client, settings = _client(way)
        meter = AnsweringMeter(settings, lambda _: _TOLD, Random(2).randbytes)
        said, answer, at_ns, read = bytes([way]), b"", 0, 0
        while not read:
            read = len(client.receive(answer, at_ns))
            answer = meter.receive(client.speak(at_ns), at_ns)
            at_ns += 10 * NS_PER_MS
            said += len(answer).to_bytes(2, "big") + answer if not read else b""
        found.append(said)
    return found


DLMS: tuple[Target, ...] = (
    Target("dlms-answers", ("hal.index.dlms_client.DlmsClient",), _read_answers, _answers),
    Target(
        "hdlc",
        (
            "hal.index.hdlc.HdlcReceiver",
            "hal.index.hdlc.decode_parameters",
            "hal.index.hdlc.has_header",
        ),
        _read_frames,
        _frames,
    ),
    Target(
        "axdr",
        (
            "hal.index.axdr.decode_data",
            "hal.index.axdr.decode_miswritten",
            "hal.index.axdr.decode_length",
            "hal.index.axdr.decode_clock",
            "hal.index.objects.read_list",
        ),
        _read_values,
        _values,
    ),
    Target(
        "dlms-protected",
        ("hal.index.ciphering.decode_protected", "hal.index.ciphering.open_protected"),
        _read_protected,
        _sealed,
    ),
    Target("dlms-push", ("hal.index.dlms_push.PushDecoder",), _read_telegrams, _telegrams),
)
