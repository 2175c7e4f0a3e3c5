"""Which readings of a meter are believed, one after the other: no bytes, but what its decoder lets
through.
"""

from itertools import pairwise

from cryptometer.errors import Reason, Rejected
from cryptometer.steps import NS_PER_MS
from hal.index.plausible import SLACK_UNITS, Before, Limits, Plausible
from hal.index.reading import Caveat, Index, Reading, Refusal, Register
from tests.fuzz.scene import FalseAcceptance
from tests.fuzz.target import Target

_POWER_W = 36_000
_UWH_PER_NS = _POWER_W * 10**6 / (3_600 * 10**9)
_SIZE = 6  # bytes of one reading
_EXPONENTS = (0, 1, -3, 3)
_NAMES = ("7", "8", "")


def _readings(data: bytes) -> list[Reading]:
    """Six bytes each: how it is said, how much later than the one before, and how much more."""
    found, at_ns, wh = [], 0, 10_000
    for at in range(0, len(data) - _SIZE + 1, _SIZE):
        how, part = data[at], data[at + 1 : at + _SIZE]
        at_ns += int.from_bytes(part[:2], "big") * 10 * NS_PER_MS
        wh = max(0, wh + int.from_bytes(part[2:4], "big", signed=True))
        exponent = _EXPONENTS[how >> 4 & 3]
        value = wh * 1_000 // 10 ** (exponent + 3) + (part[4] if exponent < 0 else 0)
        found.append(
            Reading(
                _NAMES[(how >> 2 & 3) % len(_NAMES)],
                None,
                None if how & 0xC0 == 0xC0 else Index(value, exponent),
                at_ns,
                at_ns,
                caveats=frozenset({Caveat.WEAK_CHECK} if how & 1 else ()),
            )
        )
    return found


def _read_series(data: bytes) -> None:
    """What is believed came, in its order and once; never goes back, nor grows faster than the
    greatest power gives; is of one meter; and if its check is weak, something follows it."""
    name = ("7", "")[data[0] & 1] if data else "7"
    before = Before(Index(10_000), 0) if data[:1] > b"\x7f" else None
    judge = Plausible(Limits(name, Register.EXPORT, _POWER_W), before)
    came = _readings(data[1:])
    found: list[Reading] = []
    known: set[int] = set()  # what came and is not believed yet, each by itself
    for one in came:
        known.add(id(one))
        outcome = judge.judge(one)
        told = [each for each in outcome if isinstance(each, Reading)]
        if len(outcome) > 2 or len(told) > 1 or any(_detail(each) > 200 for each in outcome):
            raise FalseAcceptance("more than there is to say")
        for each in told:
            is_weak = Caveat.WEAK_CHECK in each.caveats
            if (is_weak and each is one) or not (is_weak or each is one):
                raise FalseAcceptance(f"{each} is believed where {one} came")
            if id(each) not in known:
                raise FalseAcceptance(f"{each} never came, or is believed twice")
            known.remove(id(each))
        found += told
    _check(found, name, before)
    if not found:
        raise Rejected(Reason.MALFORMED, "nothing is believed")


def _detail(one: Reading | Refusal) -> int:
    return len(one.detail) if isinstance(one, Refusal) else 0


def _check(found: list[Reading], name: str, before: Before | None) -> None:
    # A meter that has said no number yet may say one; then it must.
    names = list(dict.fromkeys(one.identity for one in found))
    states = "".join("n" if one.identity else "-" for one in found)
    if len(set(names) - {""}) > 1 or "n-" in states or (name and set(names) - {name}):
        raise FalseAcceptance(f"{names} are more than one meter")
    indexes = [(before.index, before.since_ns)] if before is not None else []
    indexes += [(one.exported, one.began_ns) for one in found if one.exported is not None]
    if len(indexes) != len(found) + (before is not None):
        raise FalseAcceptance("a reading without an index")
    first: dict[int, int] = {}
    for index, at_ns in indexes:
        first.setdefault(index.uwh, at_ns)
    for (one, _), (other, at_ns) in pairwise(indexes):
        slack = SLACK_UNITS * max(one.unit_uwh, other.unit_uwh)
        most = (at_ns - first[one.uwh]) * _UWH_PER_NS + slack
        if not 0 <= other.uwh - one.uwh <= most + 1:
            raise FalseAcceptance(f"{other} after {one}, within {at_ns - first[one.uwh]} ns")


def _series() -> list[bytes]:
    strong = b"".join(bytes((0, 0, 100, 0, 5, 0)) for _ in range(6))
    weak = b"".join(bytes((1, 0, 100, 0, 5, 0)) for _ in range(6))
    back = bytes((0, 0, 100, 0xFF, 0xF0, 0))
    return [b"\0" + strong, b"\1" + weak, b"\x80" + strong + back + weak + strong]


BELIEVED: tuple[Target, ...] = (
    Target("believed", ("hal.index.plausible.Plausible.judge",), _read_series, _series),
)
