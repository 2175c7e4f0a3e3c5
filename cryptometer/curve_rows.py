"""The rows of a CSV file that a grid operator gives, one after the other: bytes in, cells out.

What is wrong is named by its line. Memory is bounded, whatever the file's size.
"""

import csv
import difflib
from collections.abc import Iterable, Iterator, Sequence

from cryptometer.curve_template import Template
from cryptometer.errors import ConfigurationError, Reason, Rejected

LINE_MAX = 65_536  # bytes; a longer line is no row of a curve
_PREAMBLE_MAX = 100  # lines before the one that names the columns
_SHOWN = 10  # names in a message
_BOM = b"\xef\xbb\xbf"


def wrong(line: int, said: str) -> Rejected:
    """The refusal of a file for what stands in one of its lines."""
    return Rejected(Reason.MALFORMED, f"line {line} of the load curve: {said}")


def rows_of(chunks: Iterable[bytes], template: Template) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not empty, each with its line's number.

    Args:
        chunks: the file's bytes, in pieces of any size.
        template: encoding and separator of its text.

    Raises:
        Rejected: naming the line that is no row.
    """
    separator = template.separator
    for number, line in _lines(chunks):
        try:
            text = line.decode(template.encoding).rstrip("\r")
        except UnicodeDecodeError:
            raise wrong(
                number, f"it is no {template.encoding} text: set `encoding` in the template"
            ) from None
        if '"' in text:
            try:
                cells = next(csv.reader([text], delimiter=separator, strict=True))
            except csv.Error as error:
                raise wrong(number, f"it is no CSV: {error}") from None
        else:
            cells = text.split(separator)
        cells = [cell.strip() for cell in cells]
        if any(cells):
            yield number, cells


def header_of(rows: Iterator[tuple[int, list[str]]], template: Template) -> list[str]:
    """The row that names the columns; what stands before it is not the curve's.

    Raises:
        ConfigurationError: no row near the file's beginning names the template's times.
    """
    seen: list[str] = []
    for count, (_, cells) in enumerate(rows):
        if template.time in cells:
            return cells
        seen = seen or cells
        if count >= _PREAMBLE_MAX:
            break
    raise ConfigurationError(
        f"the load curve has no column {template.time!r}: it begins with {some(seen)}. Set `time`"
        " and `separator` in the template"
    )


def some(names: Sequence[str]) -> str:
    """The first of some names, for messages."""
    shown = ", ".join(repr(name[:40]) for name in names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown or "nothing"


def place_of(header: Sequence[str], column: str) -> int:
    """Where a column stands, counted from 0.

    Raises:
        ConfigurationError: there is no such column, or more than one.
    """
    found = header.count(column)
    if found != 1:
        near = difflib.get_close_matches(column, header, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {some(header)}"
        said = "no" if not found else "more than one"
        raise ConfigurationError(f"the load curve has {said} column {column!r}; {hint}")
    return header.index(column)


class Columns:
    """Finds the columns that every row needs."""

    def __init__(self, header: Sequence[str], template: Template) -> None:
        self._width = len(header)
        self._time = place_of(header, template.time)
        self._time_of_day = place_of(header, template.time_of_day) if template.time_of_day else None
        self._only = [(place_of(header, name), str(text)) for name, text in template.only.items()]
        self.known = {self._time, self._time_of_day, *(place for place, _ in self._only)}

    def fit(self, line: int, cells: list[str]) -> list[str]:
        """The row, which has as many cells as there are columns; further ones may be empty."""
        if len(cells) < self._width or any(cells[self._width :]):
            raise wrong(line, f"it has {len(cells)} cells, not {self._width}: complete it")
        return cells

    def is_wanted(self, cells: Sequence[str]) -> bool:
        """Whether the row holds what the template's `only` asks for."""
        return all(cells[place] == text for place, text in self._only)

    def time(self, cells: Sequence[str]) -> str:
        """The row's time, as text."""
        day = cells[self._time]
        return day if self._time_of_day is None else f"{day} {cells[self._time_of_day]}"


def _lines(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines, each with its number and without its end; none longer than LINE_MAX."""
    number = 0
    rest = b""
    for chunk in chunks:
        pieces = chunk.split(b"\n")
        for piece in pieces[:-1]:
            number += 1
            yield _line(number, rest + piece)
            rest = b""
        rest += pieces[-1]
        _line(number + 1, rest)
    if rest:
        yield _line(number + 1, rest)


def _line(number: int, line: bytes) -> tuple[int, bytes]:
    if len(line) > LINE_MAX:
        raise wrong(number, f"it is longer than {LINE_MAX} bytes: is it a CSV file?")
    return number, line.removeprefix(_BOM) if number == 1 else line
