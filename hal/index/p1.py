"""Telegrams of the P1 port: DSMR 4.2 and 5, e-MUCS 1.7 to 2 (Flanders, Wallonia, Brussels),
Luxembourg's and Austria's in clear text, and those of Hungary, Lithuania, Sweden and Switzerland.

Form: DSMR P1 companion standard 5.0.2 §5-6, after IEC 62056-21 mode D. A telegram without the
checksum of DSMR 4 is refused: nothing would tell a damaged digit from a true one, and where the
meter has none, of DSMR 2 or 3, hal.index.d0 reads it with the caveat that is due. So is one that is
ciphered (Luxembourg, Austria): decrypt it first.

The index is the total register where the meter has one, else the sum of its two tariffs, whichever
of them is the day's. Devices on the meter's M-Bus (0-1 to 0-9) are not this meter: they are not
looked at. In some countries a telegram names no meter: it counts only where that is known before.
"""

import re
from collections.abc import Iterable, Mapping

from cryptometer.steps import NS_PER_S
from hal.index.arrivals import Arrivals
from hal.index.local_time import read_local_time
from hal.index.reading import Caveat, Index, LineForm, Reading, Refusal, Refused

FORM = LineForm(115_200)

# A Belgian one with four M-Bus devices and thirteen months of peaks has 1,700 bytes; a Hungarian
# one 1,400.
TELEGRAM_MAX = 4_096
# It lasts a quarter of a second; what is open for longer is two halves.
TELEGRAM_NS_MAX = 5 * NS_PER_S

_CRC_POLYNOMIAL = 0xA001
_CLOSING_MAX = 8  # bytes after the "!": four digits, CR, LF
_GENERAL_GLO_CIPHERING = 0xDB  # DLMS UA 1000-2
_SYSTEM_TITLE_BYTES = 8
_LENGTH_OF_TWO_BYTES = 0x82
_CIPHER_HEADER = 2 + _SYSTEM_TITLE_BYTES + 3

_START = re.compile(rb"[/\xdb]")
_MAKER = re.compile(rb"/(?:[A-Za-z]{0,2}\Z|[A-Za-z]{3})")
_START_SIZE = 4
# A maker's own type may have a slash: what no letters follow begins nothing.
_STOP = re.compile(rb"!|%b|[^\x20-\x7e\r\n]" % _MAKER.pattern)
_CLOSED = re.compile(rb"[\n/]")
_CHECKSUM = re.compile(rb"[0-9A-Fa-f]{1,4}\r\n")  # some makers leave out leading zeros
# DSMR's own examples write a colon for a dot, and a dot for the star (1-0:99:97.0, 1-0:21.7.0.255).
_LINE = re.compile(
    r"([0-9]{1,3}-[0-9]{1,3}):([0-9]{1,3})[.:]([0-9]{1,3})[.:]([0-9]{1,3})"
    r"(?:[.*]255|([.*][0-9]{1,3}))?(\(.*\))"
)
_VALUES = re.compile(r"(?:\([^()]*\))+")
_KWH = re.compile(r"\(([0-9]{6,8})\.([0-9]{3})\*?(?i:kWh)\)")
_WH = re.compile(r"\(([0-9]{9,10})\*?(?i:Wh)\)")
_TIME = re.compile(r"\(([0-9]{12})([SW]?)\)")

_OWN_CHANNELS = ("0-0:", "1-0:", "1-1:", "1-3:")
_CLOCK = "0-0:1.0.0"
# The equipment's number; Luxembourg's and Hungary's meters state their logical device name.
_IDENTITIES = ("0-0:96.1.1", "0-0:42.0.0", "0-0:96.1.0")
# Sagemcom's meters in Switzerland have their registers on channel 1.
_IMPORT, _EXPORT = ("1-0:1.8.", "1-1:1.8."), ("1-0:2.8.", "1-1:2.8.")
_TARIFFS = 9


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_CRC_POLYNOMIAL if value & 1 else 0)  # noqa: PLW2901
        table.append(value)
    return tuple(table)


_CRC_TABLE = _crc_table()


def checksum(data: bytes) -> int:
    """CRC-16 of what stands from "/" to "!", both included: DSMR P1 5.0.2 §6.2."""
    crc, table = 0, _CRC_TABLE
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc


class _RefusedError(Exception):
    def __init__(self, reason: Refused, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


# --- A telegram. ---------------------------------------------------------------------------------


def _read_lines(telegram: bytes) -> dict[str, str]:
    """The meter's own objects: OBIS code, and its values with their brackets.

    Raises:
        _RefusedError: a line is written otherwise, or an object that counts is there twice.
    """
    head, *lines = telegram.decode("ascii").split("\r\n")
    if lines[-1:] != ["!"]:
        raise _RefusedError(Refused.FORM, "the end mark does not stand on a line of its own")
    objects = {"/": head[1:]}
    is_own = True
    for line in lines[:-1]:
        # The reading of a device on the M-Bus may have a line of its own (DSMR 3, §5.3).
        if not line or (not is_own and _VALUES.fullmatch(line)):
            continue
        found = _LINE.fullmatch(line)
        if found is None or not _VALUES.fullmatch(found[6]):
            raise _RefusedError(Refused.FORM, f"a line that is none: {line[:40]!r}")
        channel, *groups, period, values = found.groups()
        code = f"{channel}:{'.'.join(groups)}{period or ''}"
        is_own = code.startswith(_OWN_CHANNELS)
        if not is_own:
            continue
        if code in objects and _counts(code):
            raise _RefusedError(Refused.FORM, f"the telegram has {code} twice")
        objects[code] = values
    return objects


def _counts(code: str) -> bool:
    return code.startswith((*_IMPORT, *_EXPORT)) or code == _CLOCK or code in _IDENTITIES


def _identity(objects: Mapping[str, str], *, is_unnamed: bool) -> str:
    for code in _IDENTITIES:
        written = objects.get(code, "()")[1:-1]
        if written and is_unnamed:
            detail = f"the telegram names meter {written[:40]}, where one without a number is"
            raise _RefusedError(Refused.OTHER_METER, detail)
        if written:
            return _plain(written)
    if is_unnamed and not objects.keys() & set(_IDENTITIES):
        return ""
    raise _RefusedError(Refused.NO_IDENTITY, "the telegram does not say which meter it is of")


def _plain(written: str) -> str:
    """Characters that are written as hexadecimal digits, as DSMR has it; else as it is."""
    try:
        characters = bytes.fromhex(written).decode("ascii")
    except ValueError:
        return written
    return characters if re.fullmatch("[!-~]+", characters) else written


def _index(objects: Mapping[str, str], registers: Iterable[str]) -> Index | None:
    """Of the first channel that has it.

    Raises:
        _RefusedError: as `_register`.
    """
    found = (_register(objects, register) for register in registers)
    return next((index for index in found if index is not None), None)


def _register(objects: Mapping[str, str], register: str) -> Index | None:
    """The total, or the tariffs' sum; None where it has neither.

    Raises:
        _RefusedError: a number is written otherwise, or the total is not the sum.
    """
    tariffs = {
        tariff: _watt_hours(code, objects[code])
        for tariff in range(_TARIFFS + 1)
        if (code := f"{register}{tariff}") in objects
    }
    total_wh = tariffs.pop(0, None)
    sum_wh = sum(tariffs.values())
    has_both = {1, 2} <= tariffs.keys()
    if total_wh is None:
        return Index(sum_wh) if has_both else None
    # Each register is cut off after its last digit.
    if has_both and abs(total_wh - sum_wh) > len(tariffs):
        detail = f"{register}0 is {total_wh} Wh, and its tariffs together are {sum_wh} Wh"
        raise _RefusedError(Refused.FORM, detail)
    return Index(total_wh)


def _watt_hours(code: str, values: str) -> int:
    if found := _KWH.fullmatch(values):
        return int(found[1] + found[2])
    if found := _WH.fullmatch(values):
        return int(found[1])
    raise _RefusedError(Refused.FORM, f"{code} is no energy: {values[:40]!r}")


def _clock(objects: Mapping[str, str]) -> tuple[int | None, bool]:
    """Its time, unix seconds, and whether it has lost it. Without S or W it cannot be placed."""
    if _CLOCK not in objects:
        return None, False
    found = _TIME.fullmatch(objects[_CLOCK])
    if found is None:
        raise _RefusedError(Refused.FORM, f"{_CLOCK} is no time: {objects[_CLOCK][:40]!r}")
    at_s = read_local_time(found[1], is_summer=found[2] == "S")
    return (at_s if found[2] else None), at_s is None


def _read(
    telegram: bytes, closing: bytes, began_ns: int, ended_ns: int, *, is_unnamed: bool
) -> Reading:
    """
    Args:
        telegram: from "/" to "!".
        closing: the rest of the last line.
        is_unnamed: whether the meter names itself nowhere.

    Raises:
        _RefusedError: what it cannot be read for.
    """
    if closing.strip() == b"":
        detail = "a telegram without a checksum; those of DSMR 2 and 3 are D0 (9600 baud, pushed)"
        raise _RefusedError(Refused.UNSUPPORTED, detail)
    if not _CHECKSUM.fullmatch(closing) or int(closing, 16) != checksum(telegram):
        raise _RefusedError(Refused.CHECKSUM, "the telegram's CRC is another")
    objects = _read_lines(telegram)
    identity = _identity(objects, is_unnamed=is_unnamed)
    imported, exported = _index(objects, _IMPORT), _index(objects, _EXPORT)
    if imported is None and exported is None:
        raise _RefusedError(Refused.NO_INDEX, "the telegram has no register of energy")
    meter_time_s, is_lost = _clock(objects)
    caveats = frozenset({Caveat.CLOCK_DEGRADED} if is_lost else ())
    fields = tuple(
        (code, values[1:-1] if values.count("(") == 1 else values)
        for code, values in objects.items()
    )
    return Reading(identity, imported, exported, began_ns, ended_ns, meter_time_s, caveats, fields)


# --- The line. -----------------------------------------------------------------------------------


class P1Decoder:
    """Finds telegrams."""

    form = FORM

    def __init__(self, *, is_unnamed: bool = False) -> None:
        """
        Args:
            is_unnamed: the meter's telegrams say nowhere which meter they are of, as in Sweden and
                Austria: such a one counts, and its reading's identity is empty; one that names a
                meter is another meter's.
        """
        self._is_unnamed = is_unnamed
        self._came = Arrivals()  # begins with the start of a telegram, if with anything
        self._looked = 1  # how many of its bytes hold no end
        self._is_between = False  # telegrams follow each other: what comes now is of one

    def receive(self, data: bytes, at_ns: int) -> list[Reading | Refusal]:
        found: list[Reading | Refusal] = []
        came = self._came
        if came.data and at_ns - came.came_ns(0) > TELEGRAM_NS_MAX:
            self._let_go(len(came.data))
            found.append(Refusal(Refused.INCOMPLETE, "a telegram without an end", at_ns))
        came.put(data, at_ns)
        while self._seek(at_ns, found):
            step = self._skip if came.data[0] == _GENERAL_GLO_CIPHERING else self._take
            if not step(at_ns, found):
                break
        return found

    def _let_go(self, size: int) -> None:
        self._came.drop(size)
        self._looked = 1

    def _seek(self, at_ns: int, found: list[Reading | Refusal]) -> bool:
        """Lets go of what precedes a start; whether there is one."""
        waiting = self._came.data
        start = _START.search(waiting)
        skipped = len(waiting) if start is None else start.start()
        ends = waiting.count(b"!", 0, skipped)
        known = ends if self._is_between else ends - 1  # the first was joined in its middle
        if known > 0:
            refusal = Refusal(Refused.INCOMPLETE, "the end of a telegram without its start", at_ns)
            found += [refusal] * known
        self._is_between |= ends > 0
        if skipped:
            self._let_go(skipped)
        return start is not None

    def _skip(self, at_ns: int, found: list[Reading | Refusal]) -> bool:
        """Lets go of a ciphered telegram, whose bytes may look like anything; whether to go on."""
        begun, length_at = self._came.data, 2 + _SYSTEM_TITLE_BYTES
        size = _CIPHER_HEADER + int.from_bytes(begun[length_at + 1 : _CIPHER_HEADER], "big")
        if (
            begun[1:2] not in (b"", bytes([_SYSTEM_TITLE_BYTES]))
            or begun[length_at : length_at + 1] not in (b"", bytes([_LENGTH_OF_TWO_BYTES]))
            or size > TELEGRAM_MAX
        ):
            self._let_go(1)
            return True
        if len(begun) < max(size, _CIPHER_HEADER + 1):
            return False
        detail = "a ciphered telegram (general-glo-ciphering): decrypt it first"
        return self._refuse(Refused.UNSUPPORTED, detail, size, at_ns, found)

    def _take(self, at_ns: int, found: list[Reading | Refusal]) -> bool:
        """Takes one telegram out, if it is there or nothing can become one; whether to go on."""
        begun = self._came.data
        if not _MAKER.match(begun):
            self._let_go(1)
            return True
        stop = _STOP.search(begun, self._looked)
        self._looked = len(begun) if stop is None else stop.start()
        if self._looked >= TELEGRAM_MAX:
            detail = f"a telegram of more than {TELEGRAM_MAX} bytes"
            return self._refuse(Refused.TOO_LONG, detail, self._looked, at_ns, found)
        if stop is None:
            return False
        if stop[0][:1] == b"/" and len(stop[0]) < _START_SIZE:
            return False
        if stop[0][:1] == b"/":
            detail = "a telegram began before the one before it had ended"
            return self._refuse(Refused.INCOMPLETE, detail, stop.start(), at_ns, found)
        if stop[0] != b"!":
            detail = f"a byte that no telegram has: 0x{stop[0].hex()}"
            return self._refuse(Refused.FORM, detail, stop.start(), at_ns, found)
        size = stop.end()
        end = _CLOSED.search(begun, size, size + _CLOSING_MAX)
        if end is None and len(begun) < size + _CLOSING_MAX:
            return False
        if end is None or end[0] == b"/":
            detail = "a telegram without the end of its last line"
            return self._refuse(Refused.INCOMPLETE, detail, size, at_ns, found)
        began_ns = self._came.came_ns(0)
        try:
            read = _read(
                bytes(begun[:size]),
                bytes(begun[size : end.end()]),
                began_ns,
                at_ns,
                is_unnamed=self._is_unnamed,
            )
        except _RefusedError as why:
            return self._refuse(why.reason, str(why), end.end(), at_ns, found)
        self._let_go(end.end())
        self._is_between = True
        found.append(read)
        return True

    def _refuse(
        self, reason: Refused, detail: str, size: int, at_ns: int, found: list[Reading | Refusal]
    ) -> bool:
        """Lets go of what is refused, and goes on."""
        self._let_go(size)
        self._is_between = False
        found.append(Refusal(reason, detail, at_ns))
        return True
