"""Golden files of exports, beside the tests; CRYPTOMETER_GOLDEN=write makes them anew."""

import os
from pathlib import Path

from cryptometer.record_fields import Checkpoint
from gateway.exports.source import Source

FOLDER = Path(__file__).parent / "golden"
QUARTER_S = 900
SOURCE = Source(
    bytes(range(32)), "Rue des Tilleuls", Checkpoint(4_711, bytes(range(32, 64))), 1_975_500, 900
)


def is_golden(name: str, text: str) -> bool:
    """Whether a text is what its golden file holds, byte for byte."""
    file = FOLDER / name
    if os.environ.get("CRYPTOMETER_GOLDEN") == "write":
        FOLDER.mkdir(exist_ok=True)
        file.write_bytes(text.encode())
    return file.read_bytes() == text.encode()
