"""The rows of a CSV file that a grid operator gives, one after the other: bytes in, cells out.

What is wrong is named by its line. Memory is bounded, whatever the file's size.
"""

import csv
import difflib
import re
from collections.abc import Iterable, Iterator, Sequence

from cryptometer.curve_template import Template, texts
from cryptometer.errors import ConfigurationError, Reason, Rejected

LINE_MAX = 65_536  # bytes; a longer line is no row of a curve
_PREAMBLE_MAX = 100  # lines before the one that names the columns
_SHOWN = 10  # names in a message
_BOM = b"\xef\xbb\xbf"
# A text that a spreadsheet is kept from taking for a number.
_FORMULA = re.compile('="([^"]*)"')
_NO_TEXT = {
    b"PK\x03\x04": "is a workbook or an archive",
    b"\xd0\xcf\x11\xe0": "is an old workbook",
    b"\x1f\x8b": "is compressed",
    b"%PDF": "is a PDF",
    b"\xff\xfe": "is UTF-16",
    b"\xfe\xff": "is UTF-16",
}


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
        cells = [_plain(cell.strip()) for cell in cells]
        if any(cells):
            yield number, cells


def header_of(rows: Iterator[tuple[int, list[str]]], template: Template) -> list[str]:
    """The row that names the columns; what stands before it is not the curve's.

    Raises:
        ConfigurationError: no row near the file's beginning names the template's times.
    """
    if template.columns:
        return template.columns
    seen: list[str] = []
    for count, (_, cells) in enumerate(rows):
        if template.time in cells:
            while not cells[-1]:
                cells.pop()
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
    """Where a column stands, counted from 0; a name with a star before it is that of the one that
    ends so.

    Raises:
        ConfigurationError: there is no such column, or more than one.
    """
    if column.startswith("*"):
        places = [place for place, name in enumerate(header) if name.endswith(column[1:])]
    else:
        places = [place for place, name in enumerate(header) if name == column]
    if len(places) != 1:
        near = difflib.get_close_matches(column, header, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {some(header)}"
        said = "no" if not places else "more than one"
        raise ConfigurationError(f"the load curve has {said} column {column!r}; {hint}")
    return places[0]


class Columns:
    """Finds the columns that every row needs."""

    def __init__(self, header: Sequence[str], template: Template) -> None:
        self._header = header
        self._time = [place_of(header, template.time)]
        self._until = [place_of(header, template.until)] if template.until else []
        for column, places in (
            (template.time_of_day, self._time),
            (template.until_time_of_day, self._until),
        ):
            if column:
                places.append(place_of(header, column))
        self._position = place_of(header, template.position) if template.position else None
        self._only, self._must = (
            [(place_of(header, name), texts(wanted)) for name, wanted in cells.items()]
            for cells in (template.only, template.must)
        )
        self.known = {*self._time, *self._until, self._position}
        self.known |= {place for place, _ in (*self._only, *self._must)}

    def fit(self, line: int, cells: list[str]) -> list[str]:
        """The row, which has as many cells as there are columns; further ones may be empty."""
        width = len(self._header)
        if len(cells) < width or any(cells[width:]):
            raise wrong(line, f"it has {len(cells)} cells, not {width}: complete it")
        return cells

    def is_wanted(self, line: int, cells: Sequence[str]) -> bool:
        """Whether the row holds what the template's `only` asks for.

        Raises:
            Rejected: it does, and not what `must` asks for.
        """
        if not all(cells[place] in wanted for place, wanted in self._only):
            return False
        for place, wanted in self._must:
            if cells[place] not in wanted:
                raise wrong(
                    line,
                    f"{self._header[place]} is {cells[place][:40]!r} there, not {some(wanted)}: the"
                    " file needs another template, or `must` another text",
                )
        return True

    def time(self, cells: Sequence[str]) -> str:
        """The row's time, as text."""
        return " ".join(cells[place] for place in self._time)

    def until(self, cells: Sequence[str]) -> str:
        """The end of its interval, as text; empty where no column says it."""
        return " ".join(cells[place] for place in self._until)

    def position(self, cells: Sequence[str]) -> str:
        """How many intervals have passed since the row's day began, as text."""
        return "" if self._position is None else cells[self._position]


def _plain(cell: str) -> str:
    found = _FORMULA.fullmatch(cell)
    return found[1].strip() if found else cell


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
    if number == 1:
        for begins, said in _NO_TEXT.items():
            if line.startswith(begins):
                raise wrong(number, f"the file {said}: save it as CSV, UTF-8")
    return number, line.removeprefix(_BOM) if number == 1 else line
