"""The two sums of 16 bits that optical ports and HDLC use, both of the polynomial 0x1021, lowest
bit first: X-25 (ISO/IEC 13239, RFC 1662) and Kermit.
"""

from binascii import crc_hqx

_MIRRORED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def x25(data: bytes) -> int:
    """The frame check sequence of ISO/IEC 13239. Its low byte is sent first."""
    return _sum(data, 0xFFFF) ^ 0xFFFF


def kermit(data: bytes) -> int:
    """The same without presets."""
    return _sum(data, 0)


def _sum(data: bytes, preset: int) -> int:
    # `binascii` has it highest bit first, and in C: as fast as a table in Python is slow.
    high, low = divmod(crc_hqx(data.translate(_MIRRORED), preset), 256)
    return _MIRRORED[low] << 8 | _MIRRORED[high]
