"""Reads telegrams of Norwegian and Swedish meters with amshan. In: lines of frames in hexadecimal.
Out, for each: what each of its good frames says of the meter's number and its two registers, in Wh.
"""

import json
import sys
from typing import Any

from han.autodecoder import AutoDecoder  # type: ignore[import-not-found]
from han.hdlc import HdlcFrameReader  # type: ignore[import-not-found]

ASKED = ("meter_id", "active_power_import_total", "active_power_export_total")


def read(line: bytes) -> list[Any]:
    found = []
    for frame in HdlcFrameReader(False, False).read(line):
        if frame.is_valid:
            said = AutoDecoder().decode_message_payload(frame.payload)
            found.append(None if said is None else [said.get(name) for name in ASKED])
    return found


def main() -> None:
    json.dump([read(bytes.fromhex(line)) for line in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    main()
