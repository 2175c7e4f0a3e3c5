"""A text as a QR code in characters, two rows of modules in a line. Knows no terminal."""

import segno

QUIET = 4  # modules of light around the code (ISO/IEC 18004 §6.3.8); readers count on them
_SIGNS = {(0, 0): " ", (1, 0): "▀", (0, 1): "▄", (1, 1): "█"}  # upper and lower module; 1 is dark
_BLACK_ON_WHITE, _PLAIN = "\x1b[30;107m", "\x1b[0m"


def draw(text: str) -> list[str]:
    """The lines of a text's QR code, error correction L or better; signs stand for dark modules."""
    rows = [bytes(row) for row in segno.make_qr(text, error="l").matrix_iter(border=QUIET)]
    if len(rows) % 2:
        rows.append(bytes(len(rows[0])))
    return [
        "".join(_SIGNS[pair] for pair in zip(upper, lower, strict=True))
        for upper, lower in zip(rows[::2], rows[1::2], strict=True)
    ]


def coloured(lines: list[str]) -> list[str]:
    """The lines black on white, whatever a terminal's own colours are."""
    return [f"{_BLACK_ON_WHITE}{line}{_PLAIN}" for line in lines]
