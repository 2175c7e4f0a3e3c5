"""The answer to a Modbus RTU question among the bytes that came behind it.

A frame has no mark where it begins. What may be before it: a spike at the turn of the line, the
adapter's echo of the question, an answer of another meter or to an earlier question.
"""

from hal.index.modbus_map import Question

ERROR_BIT = 0x80  # of the function, where the meter says that it cannot
_ERROR_BYTES = 5  # address, function, code, checksum
_OTHER_BYTES = 5  # of an answer, beside its registers: and the number of bytes


def _remainder(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0xA001 if value & 1 else 0)
    return value


_TABLE = tuple(_remainder(value) for value in range(256))


def checksum(data: bytes) -> bytes:
    """CRC-16 of a frame, as it is sent (Modbus over serial line V1.02, 6.2.2)."""
    value = 0xFFFF
    for byte in data:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    return value.to_bytes(2, "little")


def find_answer(heard: bytes, address: int, question: Question) -> bytes:
    """The first whole frame that answers a question; empty if there is none. It may be the meter's
    word that it cannot answer."""
    answer = bytes([address, question.function, 2 * question.count])
    error = bytes([address, question.function | ERROR_BIT])
    for at in range(len(heard) - _ERROR_BYTES + 1):
        if heard.startswith(answer, at):
            size = _OTHER_BYTES + 2 * question.count
        elif heard.startswith(error, at):
            size = _ERROR_BYTES
        else:
            continue
        frame = heard[at : at + size]
        if len(frame) == size and checksum(frame[:-2]) == frame[-2:]:
            return frame
    return b""
