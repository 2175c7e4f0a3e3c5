"""HTML out of values: text is escaped where it becomes part of a page, and nowhere else."""

from collections.abc import Iterable, Sequence
from html import escape


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def markup(*parts: str) -> Markup:
    """Parts behind one another; what is no `Markup` is text."""
    return Markup("".join(part if isinstance(part, Markup) else escape(part) for part in parts))


def tag(name: str, *parts: str, **attributes: str) -> Markup:
    """An element. A trailing _ of an attribute's name is dropped, others become -."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
    )
    return Markup(f"<{name}{said}>{markup(*parts)}</{name}>")


def name_of(text: str) -> Markup:
    """What people have called something, which may be written in any direction and must not turn
    what stands beside it."""
    return tag("bdi", text)


def table(
    caption: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    left: int = 1,
    notes: bool = False,
) -> Markup:
    """A table that is scrolled by itself where it is too wide, with the keys as well.

    Args:
        caption: for who does not see what stands around it.
        left: how many columns are text; the first names its row.
        notes: whether the last is text, too, and may take several lines.
    """

    def kind(at: int) -> dict[str, str]:
        if at < left:
            return {"class_": "l"}
        return {"class_": "l wrap"} if notes and at == len(header) - 1 else {}

    head = [tag("th", cell, scope="col", **kind(at)) for at, cell in enumerate(header)]
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row", **kind(0)),
            *(tag("td", cell, **kind(at)) for at, cell in enumerate(row) if at),
        )
        for row in rows
    ]
    return wide(
        caption,
        tag(
            "table",
            tag("caption", caption),
            tag("thead", tag("tr", *head)),
            Markup("\n"),
            tag("tbody", Markup("\n"), *(markup(one, Markup("\n")) for one in body)),
        ),
    )


def wide(what: str, part: str) -> Markup:
    """What may be wider than the window."""
    return tag("div", part, class_="wide", role="region", aria_label=what, tabindex="0")


def figure(plot: str, title: str, said: str) -> Markup:
    """A plot, and below it what it shows."""
    return tag("figure", wide(title, Markup(plot)), tag("figcaption", said), Markup("\n"))


def facts(pairs: Iterable[tuple[str, str]]) -> Markup:
    """What each of some things is."""
    return tag("dl", *(markup(tag("dt", what), tag("dd", said)) for what, said in pairs))


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], unit: str) -> list[list[str]]:
    """Rows whose columns of this unit have as many decimals as their longest number needs, so that
    points stand below one another."""
    made = [list(row) for row in rows]
    for at, title in enumerate(header):
        if not title.endswith(unit):
            continue
        decimals = max((len(_decimals(row[at])) for row in made), default=0)
        for row in made:
            if row[at] and not isinstance(row[at], Markup):
                row[at] += "0" * (decimals - len(_decimals(row[at])))
    return made


def _decimals(number: str) -> str:
    return number.partition(".")[2]
