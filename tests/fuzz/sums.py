"""The sums of what meters send, by arithmetic of its own: judged with, and made right again in
inputs that were changed, so that what stands behind a sum is reached.
"""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache

X25, ARC = 0x8408, 0xA001  # polynomials, lowest bit first

_P1 = re.compile(rb"(/[^!/]{3,}!)[0-9A-Fa-f]{1,4}(?=\r\n)")
_TIC = re.compile(rb"(?<=\n)([^\r\n\x02\x03]+)([\t ])[^\r\n\x02\x03](?=\r)")
_BLOCK = re.compile(rb"\x02([^\x02]*?!\r\n\x03)(?s:.)")
_ESCAPE = b"\x1b" * 4
_SML_BEGIN, _SML_END = _ESCAPE + b"\x01" * 4, _ESCAPE + b"\x1a"
_FLAG = 0x7E


def divide(data: bytes, preset: int, polynomial: int = X25) -> int:
    """The rest of a division of sixteen bits, lowest bit first."""
    rest, table = preset, _rests(polynomial)
    for byte in data:
        rest = rest >> 8 ^ table[(rest ^ byte) & 0xFF]
    return rest


@lru_cache(maxsize=2)
def _rests(polynomial: int) -> tuple[int, ...]:
    found = []
    for byte in range(256):
        rest = byte
        for _ in range(8):
            rest = rest >> 1 ^ (polynomial if rest & 1 else 0)
        found.append(rest)
    return tuple(found)


def x25(data: bytes) -> bytes:
    """As it is sent: the low byte first."""
    return (divide(data, 0xFFFF) ^ 0xFFFF).to_bytes(2, "little")


def tic(summed: bytes) -> int:
    """Of a group of Linky's: six bits, made a character."""
    return (sum(summed) & 0x3F) + 0x20


def block(summed: bytes) -> int:
    """The block check of IEC 62056-21."""
    left = 0
    for byte in summed:
        left ^= byte
    return left


def hdlc_frames(data: bytes) -> Iterator[tuple[int, int]]:
    """Where frames of HDLC whose length leads to a flag begin and end, both flags included;
    whatever their sums are."""
    at = 0
    while at + 3 < len(data):
        size = (data[at + 1] & 7) << 8 | data[at + 2]
        end = at + size + 2
        is_one = data[at] == _FLAG and data[at + 1] & 0xF0 == 0xA0 and size >= 7
        if is_one and end <= len(data) and data[end - 1] == _FLAG:
            yield at, end
            at = end - 1
        else:
            at += 1


def hdlc_parts(frame: bytes) -> tuple[int, bytes]:
    """How long a frame's header is, from behind its flag to its control field; and what it carries,
    without the sums."""
    at = 3
    for _ in range(2):
        while at < len(frame) and not frame[at] & 1:
            at += 1
        at += 1
    return at, frame[at + 3 : -3]


def is_whole(frame: bytes) -> bool:
    """Whether both sums of a frame of HDLC agree."""
    header, _ = hdlc_parts(frame)
    heads = x25(frame[1 : header + 1]) == frame[header + 1 : header + 3]
    return heads and x25(frame[1:-3]) == frame[-3:-1]


def mbus_frames(data: bytes) -> Iterator[tuple[int, int]]:
    """Where long frames of EN 13757-2 begin and end, whatever their sums are. A length that is too
    small for any is one of 256 more."""
    at = 0
    while at + 6 < len(data):
        end = at + 6 + data[at + 1] + (256 if data[at + 1] <= 5 else 0)
        if data[at] == data[at + 3] == 0x68 and data[at + 1] == data[at + 2] and end <= len(data):
            yield at, end
            at = end
        else:
            at += 1


# --- Made right again. ---------------------------------------------------------------------------


def right_again(data: bytes) -> bytes:
    """`data` with the sums that its format has, where it is of one."""
    for mark, mend in _MENDS:
        if mark in data:
            return mend(data)
    return data


def _mend_sml(data: bytes) -> bytes:
    begin = data.find(_SML_BEGIN)
    end = data.find(_ESCAPE, begin + len(_SML_BEGIN))
    while end >= 0 and data.startswith(_ESCAPE * 2, end):
        end = data.find(_ESCAPE, end + 2 * len(_ESCAPE))
    if begin < 0 or not data.startswith(_SML_END, end) or end + 8 > len(data):
        return data
    inner = _mend_messages(data[begin + 8 : end].replace(_ESCAPE * 2, _ESCAPE))
    file = _SML_BEGIN + inner.replace(_ESCAPE, _ESCAPE * 2) + data[end : end + 6]
    is_kermit = data[end + 6 : end + 8] == divide(file, 0).to_bytes(2, "big")
    total = divide(file, 0).to_bytes(2, "big") if is_kermit else x25(file)
    return data[:begin] + file + total + _mend_sml(data[end + 8 :])


def _mend_messages(inner: bytes) -> bytes:
    """Each message: a list of six, whose fifth item is the sum of what is before it."""
    place, at = bytearray(inner), 0
    try:
        while at < len(inner) and inner[at] == 0x76:
            begin, at = at, at + 1
            for _ in range(4):
                at = _item_end(inner, at)
            if inner[at] == 0x63:
                place[at + 1 : at + 3] = x25(bytes(place[begin:at]))
            at += 4
    except (IndexError, RecursionError):
        return inner
    return bytes(place)


def _item_end(data: bytes, at: int) -> int:
    """Where the item that begins at `at` ends."""
    kind, size, heads = data[at] >> 4 & 7, data[at] & 0xF, 1
    while data[at + heads - 1] & 0x80:
        size = size << 4 | data[at + heads] & 0xF
        heads += 1
    if kind != 7:
        return at + max(size, heads)
    at += heads
    for _ in range(size):
        at = _item_end(data, at)
    return at


def _mend_p1(data: bytes) -> bytes:
    return _P1.sub(lambda found: found[1] + b"%04X" % divide(found[1], 0, ARC), data)


def _mend_block(data: bytes) -> bytes:
    bare = bytes(byte & 0x7F for byte in data)
    mended = _BLOCK.sub(lambda found: b"\x02" + found[1] + bytes([block(found[1])]), bare)
    return _with_parity(mended) if bare != data else mended


def _mend_tic(data: bytes) -> bytes:
    bare = bytes(byte & 0x7F for byte in data)
    mended = _TIC.sub(_right_group, bare)
    return _with_parity(mended) if bare != data else mended


def _right_group(found: re.Match[bytes]) -> bytes:
    label, separator = found[1], found[2]
    return label + separator + bytes([tic(label + separator if separator == b"\t" else label)])


def _with_parity(bare: bytes) -> bytes:
    return bytes(byte | (byte.bit_count() & 1) << 7 for byte in bare)


def _mend_hdlc(data: bytes) -> bytes:
    place = bytearray(data)
    for begin, end in hdlc_frames(data):
        header, _ = hdlc_parts(data[begin:end])
        if begin + header + 3 <= end:
            place[begin + header + 1 : begin + header + 3] = x25(
                bytes(place[begin + 1 : begin + header + 1])
            )
        place[end - 3 : end - 1] = x25(bytes(place[begin + 1 : end - 3]))
    return bytes(place)


def _mend_mbus(data: bytes) -> bytes:
    place = bytearray(data)
    for begin, end in mbus_frames(data):
        place[end - 2 : end] = bytes([sum(data[begin + 4 : end - 2]) % 256, 0x16])
    return bytes(place)


_MENDS: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (_SML_BEGIN, _mend_sml),
    (b"!\r\n\x03", _mend_block),
    (b"\xa1\x8d\x0a\x03", _mend_block),
    (b"*kWh)\r\n", _mend_p1),
    (b"\r\x03", _mend_tic),
    (b"\x8d\x03", _mend_tic),
    (b"\x7e\xa0", _mend_hdlc),
    (b"\x7e\xa8", _mend_hdlc),
    (b"\xe6\xe7\x00", _mend_hdlc),
    (b"\x68", _mend_mbus),
)
