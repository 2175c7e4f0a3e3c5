"""Plots as SVG, drawn here: no script, no font, no address; the same values give the same bytes.

Places are whole tenths of a unit, reckoned in integers. Colours are the page's: a plot names
classes only.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from html import escape
from itertools import pairwise

from cryptometer.metrology import number

WIDTH, HEIGHT = 7_200, 2_000  # tenths
LEFT, RIGHT, TOP, BOTTOM = 760, 60, 120, 300
_INNER = WIDTH - LEFT - RIGHT
_TICKS = 5
_CROSS = 35
# The times that a wait is compared with, ms: the axis goes evenly from each to the next.
_WAITS = (
    (0, "0"),
    (1_000, "1 s"),
    (10_000, "10 s"),
    (60_000, "1 min"),
    (900_000, "15 min"),
    (3_600_000, "1 h"),
    (86_400_000, "1 day"),
    (30 * 86_400_000, "30 days"),
    (1_000 * 86_400_000, "1000 days"),
)
_UNITS = ((10**12, "MWh"), (10**9, "kWh"), (10**6, "Wh"), (10**3, "mWh"), (1, "µWh"))


@dataclass(frozen=True, slots=True)
class Span:
    """Steps side by side: the horizontal axis.

    Attributes:
        ticks: steps that bear a label at their beginning.
    """

    steps: range
    ticks: tuple[tuple[int, str], ...]

    def x(self, step: int) -> int:
        """Where a step begins, tenths; one behind the last ends the axis."""
        inside = min(max(step, self.steps.start), self.steps.stop) - self.steps.start
        return LEFT + _INNER * inside // max(1, len(self.steps))

    def middle(self, step: int) -> int:
        return (self.x(step) + self.x(step + 1)) // 2


@dataclass(frozen=True, slots=True)
class Band:
    """What a difference may be between two steps: up to `bound_uwh` either way."""

    since_step: int
    step: int
    bound_uwh: int


@dataclass(frozen=True, slots=True)
class Dot:
    """A value at a step; one that is `wrong` is a cross, not a dot."""

    step: int
    value: int
    wrong: bool


def energy_plot(
    title: str,
    span: Span,
    energy_uwh: Sequence[tuple[int, int]],
    gaps: Iterable[int],
    line_uwh: Sequence[tuple[int, int]] = (),
) -> str:
    """A bar for each step; steps without a value are shaded.

    Args:
        energy_uwh: steps with their energy, µWh, in order.
        gaps: steps without one, in order.
        line_uwh: another energy, drawn as a line over the bars.
    """
    top = max((energy for _, energy in (*energy_uwh, *line_uwh)), default=0)
    scale = _Linear(0, max(top, 1))
    bars = "".join(
        f"M{_t(span.x(step))} {_t(scale.y(0))}V{_t(scale.y(energy))}"
        f"H{_t(span.x(step + 1))}V{_t(scale.y(0))}z"
        for step, energy in energy_uwh
    )
    line = "".join(
        f"M{_t(span.x(step))} {_t(scale.y(energy))}H{_t(span.x(step + 1))}"
        for step, energy in line_uwh
    )
    drawn = [*_gaps(span, gaps), _path("bar", bars), _path("line", line)]
    return _figure(title, span, scale, drawn)


def difference_plot(
    title: str, span: Span, bands: Sequence[Band], dots: Sequence[Dot], gaps: Iterable[int]
) -> str:
    """Differences, µWh, over the band that is permitted."""
    reach = max([1, *(band.bound_uwh for band in bands), *(abs(dot.value) for dot in dots)])
    scale = _Linear(-reach, reach)
    boxes = "".join(
        f"M{_t(span.x(band.since_step + 1))} {_t(scale.y(band.bound_uwh))}"
        f"H{_t(span.x(band.step + 1))}V{_t(scale.y(-band.bound_uwh))}"
        f"H{_t(span.x(band.since_step + 1))}z"
        for band in bands
    )
    edges = "".join(
        f"M{_t(span.x(band.since_step + 1))} {_t(scale.y(bound_uwh))}H{_t(span.x(band.step + 1))}"
        for band in bands
        for bound_uwh in (band.bound_uwh, -band.bound_uwh)
    )
    band = [_path("band", boxes), _path("edge", edges)]
    return _figure(title, span, scale, [*_gaps(span, gaps), *band, *_dots(span, scale, dots)])


def wait_plot(title: str, span: Span, dots: Sequence[Dot], gaps: Iterable[int]) -> str:
    """How long steps waited, ms, from a second to years."""
    scale = _Waits(max((dot.value for dot in dots), default=0))
    return _figure(title, span, scale, [*_gaps(span, gaps), *_dots(span, scale, dots)])


class _Scale:
    """A vertical axis."""

    ticks: Sequence[tuple[int, str]]

    def y(self, value: int) -> int:
        """Where a value lies, tenths."""
        raise NotImplementedError


class _Linear(_Scale):
    """Energies, in the unit that keeps labels short."""

    def __init__(self, low_uwh: int, high_uwh: int) -> None:
        self._low, self._high = low_uwh, high_uwh
        each = _round_step(high_uwh - low_uwh)
        first = -(-low_uwh // each)
        values = [at * each for at in range(first, high_uwh // each + 1)]
        worth, unit = next(one for one in _UNITS if one[0] <= max(high_uwh, 1))
        self.ticks = [(value, f"{number(Fraction(value, worth))} {unit}") for value in values]

    def y(self, value: int) -> int:
        inner = HEIGHT - TOP - BOTTOM
        return TOP + inner * (self._high - value) // (self._high - self._low)


class _Waits(_Scale):
    """Times, from one of `_WAITS` to the next in equal distances."""

    def __init__(self, most_ms: int) -> None:
        count = 4  # up to a quarter of an hour at least: so that meters look alike
        while count < len(_WAITS) - 1 and _WAITS[count][0] < most_ms:
            count += 1
        self.ticks = _WAITS[: count + 1]

    def y(self, value: int) -> int:
        inner, count = HEIGHT - TOP - BOTTOM, len(self.ticks) - 1
        value = min(max(value, 0), self.ticks[-1][0])
        for at, ((low, _), (high, _)) in enumerate(pairwise(self.ticks)):
            if value <= high:
                up = inner * (at * (high - low) + value - low) // (count * (high - low))
                return HEIGHT - BOTTOM - up
        raise AssertionError  # the value is within the last of them


def _round_step(reach: int) -> int:
    """A round distance between ticks: 1, 2 or 5 times a power of ten."""
    each = 1
    while True:
        for factor in (1, 2, 5):
            if reach <= _TICKS * factor * each:
                return factor * each
        each *= 10


def _figure(title: str, span: Span, scale: _Scale, drawn: Iterable[str]) -> str:
    bottom = HEIGHT - BOTTOM
    lines = [
        f'<svg viewBox="0 0 {_t(WIDTH)} {_t(HEIGHT)}" role="img" aria-label="{escape(title)}">',
        f"<title>{escape(title)}</title>",
    ]
    for value, label in scale.ticks:
        y = scale.y(value)
        kind = "axis" if value == 0 else "grid"
        lines.append(_path(kind, f"M{_t(LEFT)} {_t(y)}H{_t(WIDTH - RIGHT)}"))
        lines.append(_label(LEFT - 60, y + 40, "end", label))
    lines += [one for one in drawn if one]
    for step, label in span.ticks:
        x = span.x(step)
        lines.append(_path("axis", f"M{_t(x)} {_t(bottom)}v6"))
        lines.append(_label(x, bottom + 190, "middle", label))
    return "\n".join([*lines, "</svg>"])


def _dots(span: Span, scale: _Scale, dots: Iterable[Dot]) -> list[str]:
    good, wrong = [], []
    for dot in dots:
        x, y = span.middle(dot.step), scale.y(dot.value)
        if dot.wrong:
            arm = _t(2 * _CROSS)
            wrong.append(f"M{_t(x - _CROSS)} {_t(y - _CROSS)}l{arm} {arm}m-{arm} 0l{arm} -{arm}")
        else:
            good.append(f"M{_t(x)} {_t(y)}h0")
    return [_path("dot", "".join(good)), _path("wrong", "".join(wrong))]


def _gaps(span: Span, gaps: Iterable[int]) -> list[str]:
    """A box for each run of steps."""
    runs: list[list[int]] = []
    for step in gaps:
        if runs and runs[-1][1] == step:
            runs[-1][1] = step + 1
        else:
            runs.append([step, step + 1])
    bottom = _t(HEIGHT - BOTTOM)
    boxes = (
        f"M{_t(span.x(first))} {_t(TOP)}H{_t(span.x(end))}V{bottom}H{_t(span.x(first))}z"
        for first, end in runs
    )
    return [_path("gap", "".join(boxes))]


def _path(kind: str, path: str) -> str:
    return f'<path class="{kind}" d="{path}"/>' if path else ""


def _label(x: int, y: int, anchor: str, text: str) -> str:
    return f'<text x="{_t(x)}" y="{_t(y)}" text-anchor="{anchor}">{escape(text)}</text>'


def _t(tenths: int) -> str:
    """Tenths as a decimal."""
    whole, rest = divmod(abs(tenths), 10)
    return f"{'-' if tenths < 0 else ''}{whole}" + (f".{rest}" if rest else "")
