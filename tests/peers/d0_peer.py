"""Reads messages with the package iec62056-21. In: data messages and identifications in
hexadecimal, device addresses and speeds. Out: address, value and unit of each data set, or why
there is none; and what the package itself would say to a meter.
"""

import json
import sys
from typing import Any

from iec62056_21.messages import (  # type: ignore[import-not-found]
    AckOptionSelectMessage,
    IdentificationMessage,
    ReadoutDataMessage,
    RequestMessage,
)


def read(message: bytes) -> Any:
    if message.startswith(b"/"):
        found = IdentificationMessage.from_bytes(message)
        return [found.manufacturer, found.switchover_baudrate_char, found.identification]
    lines = ReadoutDataMessage.from_bytes(message).data_block.data_lines
    return [[one.address, one.value, one.unit] for line in lines for one in line.data_sets]


def answer(message: bytes) -> object:
    try:
        return read(message)
    except Exception as error:  # noqa: BLE001 - it raises many kinds on bad bytes
        return f"refused: {type(error).__name__}"


def said(address: str, baud_character: str) -> list[str]:
    """What it would say to a meter itself."""
    choice = AckOptionSelectMessage(baud_char=baud_character, mode_char="0")
    return [RequestMessage(device_address=address).to_bytes().hex(), choice.to_bytes().hex()]


question = json.load(sys.stdin)
json.dump(
    {
        "messages": [answer(bytes.fromhex(one)) for one in question["messages"]],
        "said": [said(*one) for one in question["said"]],
    },
    sys.stdout,
)
