"""Tables that somebody gives for steps: coefficients by which energy is shared, losses as measured.
Text in, integers out: a decimal keeps every digit.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from cryptometer.errors import Reason, Rejected
from cryptometer.record_fields import NAME, STEP

DIGITS = 9  # of a decimal, behind the point
_SCALE = 1_000_000_000
_DECIMAL = re.compile(r"(\d{1,9})(?:[.,](\d{1,9}))?")
_LINE_END = re.compile(r"\r\n|\r|\n")  # as an editor counts lines, and no other sign of Unicode's
_COEFFICIENTS = (["step", "member", "weight"], ["step", "producer", "member", "weight"])
_LOSSES = ["step", "kwh"]


def read_coefficients(text: str, step_s: int) -> dict[int, dict[tuple[str, str], int]]:
    """Weights of steps by producer ("" for any) and member, each 10^9 times what the table says.

    Args:
        text: lines of `step;member;weight` or `step;producer;member;weight`, behind a line with
            these names; separated by commas or semicolons. A step is its number, or the moment
            when it begins (ISO 8601, UTC).

    Raises:
        Rejected: MALFORMED, naming the line and what it should be.
    """
    found: dict[int, dict[tuple[str, str], int]] = {}
    for line, row in _rows(text, _COEFFICIENTS):
        step = _step(line, row["step"], step_s)
        producer = _name(line, row["producer"]) if row.get("producer") else ""
        place = (producer, _name(line, row["member"]))
        if place in found.setdefault(step, {}):
            raise _wrong(line, f"a second weight of {row['member']} in step {step}")
        found[step][place] = _number(line, row["weight"])
    return found


def read_losses(text: str, step_s: int) -> dict[int, int]:
    """Losses of steps, µWh, out of lines of `step;kwh`; the rest as `read_coefficients`."""
    found: dict[int, int] = {}
    for line, row in _rows(text, [_LOSSES]):
        step = _step(line, row["step"], step_s)
        if step in found:
            raise _wrong(line, f"a second value of step {step}")
        found[step] = _number(line, row["kwh"])  # 10^9 µWh are a kWh
    return found


def _rows(text: str, forms: Sequence[list[str]]) -> Iterator[tuple[int, Mapping[str, str]]]:
    lines = _LINE_END.split(text.removeprefix("\ufeff"))
    separator = ";" if ";" in next(filter(None, lines), "") else ","
    names: list[str] = []
    for number, cells in _cells(lines, separator):
        if not cells:
            continue
        if not names:
            names = [cell.strip() for cell in cells]
            if names not in forms:
                wanted = " or ".join(separator.join(form) for form in forms)
                raise _wrong(number, f"it should name the columns: {wanted}")
            continue
        if len(cells) != len(names):
            raise _wrong(number, f"{len(cells)} values for {len(names)} columns")
        yield number, dict(zip(names, (cell.strip() for cell in cells), strict=True))
    if not names:
        raise _wrong(1, "the file is empty")


def _cells(lines: Sequence[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    """Each row's values, with the number of the line on which it begins: a value in quotes may go
    on over several."""
    # With their ends: "1" and "0" on two lines are no 10.
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=separator)
    begin = 1
    try:
        for cells in reader:
            yield begin, cells
            begin = reader.line_num + 1
    except csv.Error:
        raise _wrong(reader.line_num, "a value is too long") from None


def step_named(text: str, step_s: int) -> int:
    """A step by its number, or by the moment when it begins (ISO 8601 with its zone).

    Raises:
        Rejected: MALFORMED, it is neither.
    """
    if text.isascii() and text.isdecimal() and len(text) <= 13:
        step, rest = int(text), 0
    else:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise _malformed(
                f"{text!r:.40} is neither a step nor a moment at which one begins, like"
                " 2026-10-25T14:00Z"
            ) from None
        offset = moment.utcoffset()
        if offset is None:
            raise _malformed(f"{text} does not say of which zone it is: append Z for UTC")
        # As a span: in UTC, a moment of the first or the last year may have no date.
        since = moment.replace(tzinfo=None) - datetime(1970, 1, 1) - offset  # noqa: DTZ001
        whole, part = divmod(since, timedelta(seconds=1))
        step, rest = divmod(whole, step_s)
        rest = rest or int(bool(part))
    if rest or not 0 <= step <= STEP.high:
        raise _malformed(f"no step of {step_s} s begins at {text}")
    return step


def _step(line: int, text: str, step_s: int) -> int:
    try:
        return step_named(text, step_s)
    except Rejected as refused:
        raise _wrong(line, refused.detail) from None


def _name(line: int, text: str) -> str:
    try:
        return NAME.decode(text)
    except Rejected:
        raise _wrong(line, f"{text!r:.80} is no name") from None


def _number(line: int, text: str) -> int:
    match = _DECIMAL.fullmatch(text)
    if match is None or not text.isascii():
        raise _wrong(line, f"{text!r:.40} is no number with up to {DIGITS} digits on each side")
    return int(match[1]) * _SCALE + int((match[2] or "").ljust(DIGITS, "0"))


def _wrong(line: int, said: str) -> Rejected:
    return _malformed(f"line {line}: {said}")


def _malformed(said: str) -> Rejected:
    return Rejected(Reason.MALFORMED, said)
