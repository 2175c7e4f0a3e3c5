"""Reads QR codes with zxing-cpp. In: rows of modules, 1 for dark. Out: the texts found."""

import json
import sys

import zxingcpp  # type: ignore[import-not-found]

SCALE = 4  # pixels a module


def pixels(rows: list[list[int]]) -> memoryview:
    image = bytearray()
    for row in rows:
        line = b"".join((b"\x00" if module else b"\xff") * SCALE for module in row)
        image += line * SCALE
    width, height = len(rows[0]) * SCALE, len(rows) * SCALE
    return memoryview(bytes(image)).cast("B", (height, width))


# Of this kind only: a key may hold, by chance, what looks like bars of another.
found = zxingcpp.read_barcodes(pixels(json.load(sys.stdin)), formats=zxingcpp.BarcodeFormat.QRCode)
json.dump([code.text for code in found], sys.stdout)
