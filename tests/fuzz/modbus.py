"""Maps of Modbus meters, and what registers say under them."""

from fractions import Fraction
from pathlib import Path

import hal.index
from cryptometer.errors import Reason, Rejected
from hal.index.modbus_frame import find_answer
from hal.index.modbus_map import (
    INDEX_MAX_WH,
    REGISTERS_MAX,
    Asked,
    MeterMap,
    Question,
    check_vector,
    decode_index,
    decode_name,
    encode_index,
    encode_name,
    read_map,
)
from hal.index.reading import Reading
from tests.fuzz.scene import FalseAcceptance
from tests.fuzz.target import BY_MESSAGE, Target, text_of
from tests.hal.modbus_end import crc, framed

_FOLDER = Path(hal.index.__file__).with_name("maps")
_MAPS = [read_map(file.read_text(), file.stem) for file in sorted(_FOLDER.glob("*.toml"))]


def _read_map(data: bytes) -> None:
    meter_map = read_map(text_of(data), "fuzz")
    for vector in meter_map.vectors:
        check_vector(meter_map, vector)
    _check(meter_map, [0] * meter_map.registers)
    shapes = [(one.function, one.count) for one in (*meter_map.index, *meter_map.probes)]
    if len(set(shapes)) != len(shapes):
        raise FalseAcceptance("an answer that fits two questions")
    names = [one.question for one in (meter_map.serial, meter_map.model) if one is not None]
    others = [(one.function, one.count) for one in names if one not in meter_map.probes]
    if set(others) & set(shapes[-2:]):
        raise FalseAcceptance("a name's answer that fits the probe")


def _read_registers(data: bytes) -> None:
    """The first byte chooses the map, the rest are its answers."""
    meter_map = _MAPS[data[0] % len(_MAPS)] if data else _MAPS[0]
    registers = [int.from_bytes(data[at : at + 2], "big") for at in range(1, len(data), 2)]
    for name in (meter_map.serial, meter_map.model):
        if name is not None and (text := decode_name(name, registers)) is not None:
            if decode_name(name, encode_name(name, text)) != text:
                raise FalseAcceptance(f"{text!r} is written as another name")
            return
    if not _check(meter_map, registers):
        raise Rejected(Reason.MALFORMED, "no index")


def _check(meter_map: MeterMap, registers: list[int]) -> bool:
    constant = Fraction(1000)
    found = decode_index(meter_map, registers, "7", Asked(1, 2), constant)
    if not isinstance(found, Reading):
        return False
    indexes = [one for one in (found.imported, found.exported) if one is not None]
    if not all(0 <= one.uwh <= INDEX_MAX_WH * 10**6 for one in indexes):
        raise FalseAcceptance(f"{found} is no index")
    said = [
        Fraction(one.uwh, 10**6) if one else Fraction(0) for one in (found.imported, found.exported)
    ]
    encode_index(meter_map, said[0], said[1], constant)
    return True


def _seeds() -> list[bytes]:
    return [
        bytes([place]) + b"".join(word.to_bytes(2, "big") for word in vector.index)
        for place, meter_map in enumerate(_MAPS)
        for vector in meter_map.vectors
        if vector.refused is None
    ]


def _read_frame(data: bytes) -> None:
    """Address, function and number of registers, then what came."""
    if len(data) < 3:
        raise Rejected(Reason.MALFORMED, "no question")
    question = Question(3 + data[1] % 2, 0, 1 + data[2] % REGISTERS_MAX)
    found = find_answer(data[3:], data[0], question)
    if not found:
        raise Rejected(Reason.MALFORMED, "no answer")
    whole = [5, 5 + 2 * question.count]
    if found not in data[3:] or len(found) not in whole or found[0] != data[0]:
        raise FalseAcceptance(f"{found.hex()} answers {question}")
    if crc(found[:-2]) != found[-2:]:
        raise FalseAcceptance(f"{found.hex()} has a wrong checksum")


def _frames() -> list[bytes]:
    body = bytes([7, 4, 8]) + bytes(range(8))
    return [
        bytes([7, 1, 3]) + framed(body),
        bytes([7, 1, 3]) + b"\x00\x07" + framed(body) + b"\xff",
        bytes([7, 0, 3]) + framed(bytes([7, 0x83, 2])),
    ]


MODBUS: tuple[Target, ...] = (
    Target("modbus-frame", ("hal.index.modbus_frame.find_answer",), _read_frame, _frames),
    Target(
        "modbus-map",
        ("hal.index.modbus_map.read_map", "hal.index.modbus_map.read_constant"),
        _read_map,
        lambda: [file.read_bytes() for file in sorted(_FOLDER.glob("*.toml"))],
        BY_MESSAGE,
    ),
    Target(
        "modbus-registers",
        ("hal.index.modbus_map.decode_index", "hal.index.modbus_map.decode_name"),
        _read_registers,
        _seeds,
    ),
)
