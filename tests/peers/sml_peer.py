"""Reads SML files with smllib and pysml. In: files in hexadecimal, and which sum they bear. Out,
for each file and library: the server id and both registers as value and exponent, or why there is
none.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import sml  # type: ignore[import-not-found]
from smllib import SmlStreamReader  # type: ignore[import-not-found]

REGISTERS = ("0100010800ff", "0100020800ff")


def by_smllib(file: bytes, sum_name: str) -> list[Any]:
    reader = SmlStreamReader(crc=sum_name)
    reader.add(file)
    frame = reader.get_frame()
    if frame is None:
        raise ValueError("no file")
    found: dict[str, list[Any]] = {}
    server = ""
    for message in frame.parse_frame():
        body = message.message_body
        for entry in getattr(body, "val_list", []):
            if entry.obis in REGISTERS:
                found[str(entry.obis)] = [entry.value, entry.scaler or 0]
        server = getattr(body, "server_id", server)
    return [server, *(found.get(code) for code in REGISTERS)]


def by_pysml(file: bytes, _: str) -> list[Any]:
    _, frame = sml.SmlBase.find_frame(file)
    if frame is None:
        raise ValueError("no file")
    found: dict[str, Any] = {}
    for message in frame:
        body = message["messageBody"]
        if isinstance(body, sml.SmlGetListResponse):
            found |= {one["objName"]: one.get("value") for one in body["valList"]}
    # Its values are scaled already.
    values = [found.get(f"1-0:{group}.8.0*255") for group in (1, 2)]
    return [None, *([value, None] if value is not None else None for value in values)]


def answer(read: Callable[[bytes, str], list[Any]], file: bytes, sum_name: str) -> object:
    try:
        return read(file, sum_name)
    except Exception as error:  # noqa: BLE001 - the libraries raise many kinds on bad bytes
        return f"refused: {type(error).__name__}"


json.dump(
    [
        {
            "smllib": answer(by_smllib, bytes.fromhex(file), sum_name),
            "pysml": answer(by_pysml, bytes.fromhex(file), sum_name),
        }
        for file, sum_name in json.load(sys.stdin)
    ],
    sys.stdout,
)
