"""A meter's local time in western and central Europe, where the meter itself says whether it is
summer time (directive 2000/84/EC): French, Belgian, Dutch and Luxembourgish meters.
"""

from calendar import monthcalendar
from datetime import UTC, datetime, timedelta, timezone

WINTER = timezone(timedelta(hours=1))
SUMMER = timezone(timedelta(hours=2))
_MARCH, _OCTOBER = 3, 10


def read_local_time(digits: str, *, is_summer: bool) -> int | None:
    """Unix seconds of `YYMMDDhhmmss`; None for what no calendar has."""
    year, month, day, hour, minute, second = (int(digits[at : at + 2]) for at in range(0, 12, 2))
    zone = SUMMER if is_summer else WINTER
    try:
        at = datetime(2000 + year, month, day, hour, minute, second, tzinfo=zone)
    except ValueError:
        return None
    return int(at.timestamp())


def write_local_time(at_s: int) -> tuple[str, bool]:
    """`YYMMDDhhmmss` of unix seconds, and whether it is summer time."""
    at = datetime.fromtimestamp(at_s, UTC)
    is_summer = _change(at.year, _MARCH) <= at < _change(at.year, _OCTOBER)
    local = at.astimezone(SUMMER if is_summer else WINTER)
    return f"{local:%y%m%d%H%M%S}", is_summer


def _change(year: int, month: int) -> datetime:
    """01:00 UTC on the month's last Sunday."""
    sunday = max(week[-1] for week in monthcalendar(year, month))
    return datetime(year, month, sunday, 1, tzinfo=UTC)
