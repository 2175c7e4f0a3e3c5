"""What a member sees of his share: a month by days, a day by steps, and of a step why it is what it
is, the file that proves it and the command that checks the file. Values in, HTML out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from fractions import Fraction

from cryptometer.community import Community
from cryptometer.explaining import explain_share
from cryptometer.local_calendar import LocalStep
from cryptometer.metrology import UWH_PER_KWH, kwh, number
from cryptometer.share_file import Share
from gateway.exports.allotments import Allotment
from gateway.exports.plots import Span, energy_plot
from gateway.exports.source import Source, one_line
from gateway.pages.document import document
from gateway.pages.markup import (
    Markup,
    aligned,
    facts,
    figure,
    markup,
    name_of,
    table,
    tag,
)

_MEASURES = ("given kWh", "consumed kWh", "covered %", "from the grid kWh")
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Whose:
    """Whose page it is.

    Attributes:
        member: as registered.
        called: what somebody has said the member is called, or "".
        zone_name: of local days.
        source: the ledger.
    """

    member: str
    called: str
    zone_name: str
    source: Source

    @property
    def path(self) -> str:
        return f"/members/{self.member}"


@dataclass(frozen=True, slots=True)
class Sum:
    """Some steps of a member, added up.

    Attributes:
        steps: of which there is a block and an agreement.
        given_uwh: over those that are known.
        later_uwh: the part of it that came later than the first value.
        waiting: how many are not known yet.
        consumed_uwh, covered_uwh: what was consumed, and given, in the steps of which both are
            known.
        unknown: how many steps' consumption is not known.
    """

    steps: int
    given_uwh: int
    later_uwh: int
    waiting: int
    consumed_uwh: int
    covered_uwh: int
    unknown: int

    @property
    def is_compared(self) -> bool:
        return self.unknown < self.steps


def sum_of(found: Sequence[Allotment]) -> Sum:
    """What some steps come to."""
    both = [one for one in found if one.market_uwh is not None]
    return Sum(
        len(found),
        sum(one.total_uwh or 0 for one in found),
        sum(given.energy_uwh for one in found for given in one.later),
        sum(one.total_uwh is None for one in found),
        sum(one.consumption_uwh or 0 for one in both),
        sum(one.total_uwh or 0 for one in both),
        sum(one.consumption_uwh is None for one in found),
    )


# --- A month, by days. ---------------------------------------------------------------------------


def month_page(
    whose: Whose,
    first: date,
    days: Mapping[date, Sequence[Allotment]],
    register_uwh: int,
    months: tuple[date | None, date | None],
) -> str:
    """A local month.

    Args:
        first: its first day.
        days: those of which there is anything, in order.
        register_uwh: of the virtual generation meter, as of the newest block.
        months: the month before and the one behind, as far as there are any.
    """
    every = [one for found in days.values() for one in found]
    total, sums = sum_of(every), {day: sum_of(found) for day, found in days.items()}
    title = f"{whose.member}, {first:%B %Y}"
    links = [
        tag("a", f"{words} {month:%B %Y}", href=f"{whose.path}/months/{month:%Y-%m}", rel=rel)
        for month, words, rel in zip(months, ("before:", "next:"), ("prev", "next"), strict=True)
        if month is not None
    ]
    return document(
        title,
        _nav(whose, links),
        _heading(whose, f"{first:%B %Y}"),
        _lead(whose),
        _said(total, "in this month"),
        *_days_plot(whose, first, sums),
        tag("h2", "Days"),
        _days(whose, sums),
        tag("h2", "In all"),
        facts(
            [
                ("virtual generation meter", f"{kwh(register_uwh)}, as of the newest block"),
                (
                    "every step of the month",
                    tag(
                        "a",
                        "as a table (CSV)",
                        href=f"{whose.path}/months/{first:%Y-%m}/virtual-meter.csv",
                    ),
                ),
            ]
        ),
        _how_to_read(),
        *_made_from(whose.source),
    )


def _days_plot(whose: Whose, first: date, sums: Mapping[date, Sum]) -> Iterator[Markup]:
    if not sums:
        return
    end = (first + 31 * _DAY).replace(day=1)
    span = Span(
        range(first.toordinal(), end.toordinal()),
        tuple((day, str(date.fromordinal(day).day)) for day in _every_other(first, end)),
    )
    known = {day: found for day, found in sums.items() if found.waiting < found.steps}
    gaps = [day.toordinal() for day in sums if day not in known]
    consumed = [
        (day.toordinal(), found.consumed_uwh) for day, found in sums.items() if found.is_compared
    ]
    title = f"{whose.member}: energy of each day"
    plot = energy_plot(
        title, span, [(day.toordinal(), found.given_uwh) for day, found in known.items()], gaps,
        consumed,
    )  # fmt: skip
    yield figure(plot, title, _caption(whose, "day", bool(consumed), len(gaps)))


def _every_other(first: date, end: date) -> range:
    return range(first.toordinal(), end.toordinal(), 2)


def _caption(whose: Whose, what: str, is_compared: bool, gaps: int) -> str:
    line = " Line: what you consumed." if is_compared else ""
    waits = f" Shaded: not known yet, {_count(gaps, what)}." if gaps else ""
    return f"Bars: what you were given, each {what}.{line}{waits} Local time, {whose.zone_name}."


def _days(whose: Whose, sums: Mapping[date, Sum]) -> Markup:
    header = ["day", *_MEASURES, "notes"]
    rows = [
        [
            tag("a", f"{day:%a %d}", href=f"{whose.path}/days/{day.isoformat()}"),
            *_measures(found),
            "; ".join(_notes(found)),
        ]
        for day, found in sums.items()
    ]
    return _table("What you were given, day by day", header, rows)


def _notes(found: Sum) -> Iterator[str]:
    if found.waiting:
        yield f"{_count(found.waiting, 'step')} not known yet"
    if found.later_uwh:
        yield f"of it {_kwh(found.later_uwh)} kWh came later"
    if found.is_compared and found.unknown:
        yield f"consumption of {_count(found.unknown, 'step')} is not known"


# --- A day, by steps. ----------------------------------------------------------------------------


def day_page(
    whose: Whose,
    day: date,
    places: Sequence[LocalStep],
    found: Sequence[Allotment],
    days: tuple[date | None, date | None],
) -> str:
    """A local day.

    Args:
        places: its steps.
        found: of those of which there is anything, in order.
        days: the day before and the one behind, as far as there are any.
    """
    at = {place.step: place for place in places}
    span = Span(
        range(places[0].step, places[-1].step + 1),
        tuple(
            (place.step, f"{place.begins:%H:%M}")
            for place in places
            if place.begins.minute == 0 and place.begins.hour % 3 == 0
        ),
    )
    given = [(one.step, one.total_uwh) for one in found if one.total_uwh is not None]
    used = [(one.step, one.consumption_uwh) for one in found if one.consumption_uwh is not None]
    gaps = [one.step for one in found if one.total_uwh is None]
    title = f"{whose.member}: energy of each step"
    words = f"{day:%A} {day.day} {day:%B %Y}"
    links = [
        tag("a", f"{said} {one.isoformat()}", href=f"{whose.path}/days/{one.isoformat()}", rel=rel)
        for one, said, rel in zip(days, ("before:", "next:"), ("prev", "next"), strict=True)
        if one is not None
    ]
    month = tag("a", f"{day:%B %Y}", href=f"{whose.path}/months/{day:%Y-%m}")
    return document(
        f"{whose.member}, {words}",
        _nav(whose, [month, *links]),
        _heading(whose, words),
        _lead(whose),
        _said(sum_of(found), "on this day"),
        figure(
            energy_plot(title, span, given, gaps, used),
            title,
            _caption(whose, "step", bool(used), len(gaps)),
        ),
        tag("h2", "Steps"),
        _table(
            "What you were given, step by step",
            ["begins", *_MEASURES, "notes"],
            [_step_row(whose, at[one.step], one) for one in found],
        ),
        _how_to_read(),
        *_made_from(whose.source),
    )


def _step_row(whose: Whose, place: LocalStep, one: Allotment) -> list[str]:
    begins = f"{place.begins:%H:%M%z}"
    path = f"{whose.path}/steps/{one.step}"
    notes = [
        f"{_kwh(later.energy_uwh)} kWh of it came later, in the block of step {later.block}"
        for later in one.later
    ]
    total = one.total_uwh
    return [
        begins if total is None else tag("a", begins, href=path),
        "" if total is None else _kwh(total),
        "" if one.consumption_uwh is None else _kwh(one.consumption_uwh),
        "" if total is None else _covered(total, one.consumption_uwh),
        "" if one.market_uwh is None else _kwh(one.market_uwh),
        "not known yet" if total is None else "; ".join(notes),
    ]


# --- A step. -------------------------------------------------------------------------------------


def step_page(
    whose: Whose,
    share: Share,
    community: Community,
    needs: Mapping[str, int] | None,
    begins: datetime,
) -> str:
    """Why a share is what it is, from one that was verified.

    Args:
        needs: what members consumed, as far as who asks may know it.
        begins: the step, in local time.
    """
    step_s = whose.source.step_s
    when = f"{begins:%Y-%m-%d %H:%M%z}"
    name = f"{share.member}-{share.step}.share"
    agreement = share.agreement
    known = needs or {}
    is_recomputed = not agreement.needs_consumption or all(
        one in known for one in agreement.members
    )
    links = [
        tag("a", f"{begins:%B %Y}", href=f"{whose.path}/months/{begins:%Y-%m}"),
        tag("a", begins.date().isoformat(), href=f"{whose.path}/days/{begins.date().isoformat()}"),
    ]
    lines = list(explain_share(share, needs))
    verdict = "recomputed from everyone's consumption" if is_recomputed else (
        "sums proven; the rule asks what others consumed, which is nobody else's to see"
    )  # fmt: skip
    return document(
        f"{whose.member}, step {share.step}",
        _nav(whose, links),
        _heading(whose, when),
        _lead(whose),
        tag(
            "div",
            tag(
                "p",
                f"You were given {kwh(share.energy_uwh)} in the {step_s // 60} minutes from {when}"
                f" on, step {share.step}.",
            ),
            tag("p", f"Checked by this gateway as you could check it: {verdict}."),
            class_="said good",
        ),
        tag("h2", "Why so much"),
        tag("ul", *(tag("li", line) for line in lines)),
        tag("h2", "The way of the energy"),
        _table(
            "From which meters it came, and in which block it was given",
            [
                "meter",
                "serial number",
                "brought kWh",
                "signed records",
                "lots",
                "given in the block of step",
                "to you kWh",
            ],
            [
                [
                    source.meter,
                    name_of(one_line(source.serial)),
                    _kwh(source.energy_uwh),
                    str(source.records),
                    str(source.lots),
                    str(one.block_step) if at == 0 else "",
                    _kwh(one.energy_uwh) if at == 0 else "",
                ]
                for one in share.given
                for at, source in enumerate(one.sources)
            ],
        ),
        tag("h2", "Check it yourself"),
        tag(
            "p",
            "One file holds the signed records of the meters, the distribution, and the proofs that"
            " they stand in the ledger. It needs no network, and not this gateway's word:",
        ),
        tag(
            "ol",
            tag(
                "li",
                tag("a", f"Download {name}", href=f"{whose.path}/steps/{share.step}/share"),
                ". What you consumed may be in it: it is yours to give away.",
            ),
            tag(
                "li",
                "Have ",
                tag("code", "community.pub"),
                " from the authority, not from here; a newer one if the command asks for it.",
            ),
            tag(
                "li",
                "Run ",
                tag("pre", tag("code", f"cryptometer verify {name} --community community.pub")),
            ),
        ),
        facts(
            [
                ("community", tag("code", community.id.hex())),
                ("it must say", f"{share.member}, step {share.step}, {kwh(share.energy_uwh)}"),
            ]
        ),
        *_made_from(whose.source),
    )


# --- Beside them. --------------------------------------------------------------------------------


def front_page(
    source: Source, members: Sequence[tuple[str, int]], months: Sequence[date], zone_name: str
) -> str:
    """For who may read everyone's: operator and grid operator.

    Args:
        members: with the registers of their virtual generation meters, µWh.
        months: of which there are blocks, newest first.
    """
    name = one_line(source.name)
    return document(
        f"Members of {name}",
        _exit([]),
        tag("h1", "Members of ", name_of(name)),
        tag("p", f"Months and days are those of {zone_name}.", class_="soft"),
        _table(
            "All members, with their virtual generation meters",
            ["member", "virtual generation kWh"],
            [
                [tag("a", member, href=f"/members/{member}"), _kwh(register_uwh)]
                for member, register_uwh in members
            ],
        ),
        tag("h2", "How well meters were counted"),
        tag(
            "ul",
            *(
                tag("li", tag("a", f"{month:%B %Y}", href=f"/accuracy/{month:%Y-%m}"))
                for month in months
            ),
        ),
        *_made_from(source),
    )


def message_page(title: str, said: str, *, home: bool = True) -> str:
    """Why there is no page."""
    links = [tag("a", "To the beginning", href="/")] if home else []
    return document(title, tag("h1", title), tag("p", said), *(tag("p", link) for link in links))


# --- Small parts. --------------------------------------------------------------------------------


def _nav(whose: Whose, links: Sequence[Markup]) -> Markup:
    return _exit([tag("a", whose.member, href=whose.path), *links])


def _exit(links: Sequence[Markup]) -> Markup:
    every = [*links, tag("a", "sign out", href="/sign-out", class_="last")]
    return tag("nav", *every, aria_label="pages")


def _heading(whose: Whose, when: str) -> Markup:
    called = one_line(whose.called)
    own = markup(name_of(called), " (", whose.member, ")") if called else markup(whose.member)
    return tag("h1", own, f", {when}")


def _lead(whose: Whose) -> Markup:
    name = one_line(whose.source.name)
    return tag("p", "Your share of what ", name_of(name), " produced.", class_="soft")


def _said(total: Sum, when: str) -> Markup:
    lines = [f"You were given {kwh(total.given_uwh)} {when}."]
    if total.steps == 0:
        lines = [f"No agreement names you in a block {when}."]
    if total.is_compared and total.consumed_uwh:
        lines.append(
            f"You consumed {kwh(total.consumed_uwh)}: {_percent(total)} % of it is covered, and"
            f" {kwh(max(0, total.consumed_uwh - total.covered_uwh))} came from the grid."
        )
    if total.is_compared and total.unknown:
        lines.append(
            f"Of {_count(total.unknown, 'step')} nobody has said yet what you consumed: they are"
            " not in that comparison."
        )
    elif total.steps and not total.is_compared:
        lines.append("What you consumed is not known here.")
    if total.waiting:
        lines.append(
            f"{_count(total.waiting, 'step')} {_is(total.waiting)} not known yet: their energy"
            " waits at the virtual power plant, or no meter has been heard."
        )
    if total.later_uwh:
        lines.append(f"{kwh(total.later_uwh)} of it came later than the step's own block.")
    return tag("div", *(tag("p", line) for line in lines), class_="said")


def _how_to_read() -> Markup:
    return tag(
        "p",
        "A ",
        tag("em", "step"),
        " is a market period. ",
        tag("em", "Given"),
        " is your virtual generation meter: what the community's agreement gave you. ",
        tag("em", "From the grid"),
        " is consumed minus given, the computed market-face meter; below 0 you were given more than"
        " you consumed. An empty field is not known; a 0 was measured or given.",
        class_="soft",
    )


def _made_from(source: Source) -> Iterator[Markup]:
    checkpoint = source.checkpoint
    yield tag("h2", "What this page was made from")
    yield facts(
        [
            ("checkpoint", tag("code", f"size {checkpoint.size}, root {checkpoint.root.hex()}")),
            ("newest block", tag("code", f"of step {source.step}")),
        ]
    )


def _measures(found: Sum) -> list[str]:
    given = "" if found.waiting == found.steps else _kwh(found.given_uwh)
    if not found.is_compared:
        return [given, "", "", ""]
    consumed, covered = found.consumed_uwh, found.covered_uwh
    return [given, _kwh(consumed), _covered(covered, consumed), _kwh(consumed - covered)]


def _covered(given_uwh: int, consumed_uwh: int | None) -> str:
    if not consumed_uwh:
        return ""
    return number(Fraction(100 * given_uwh, consumed_uwh))


def _percent(total: Sum) -> str:
    return number(Fraction(100 * total.covered_uwh, total.consumed_uwh))


def _table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    notes = header[-1] == "notes"
    return table(caption, header, aligned(header, rows, "kWh"), notes=notes)


def _kwh(uwh: int) -> str:
    """Kilowatt-hours, exact, with three decimals at least."""
    whole, rest = divmod(abs(uwh), UWH_PER_KWH)
    return f"{'-' if uwh < 0 else ''}{whole}.{f'{rest:09d}'.rstrip('0'):0<3}"


def _count(amount: int, what: str) -> str:
    return f"{amount} {what}{'' if amount == 1 else 's'}"


def _is(amount: int) -> str:
    return "is" if amount == 1 else "are"
