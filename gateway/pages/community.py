"""What everybody sees of a community: where its energy is, its newest blocks, and how to check all
of it. Values in, HTML out."""

from collections.abc import Sequence

from cryptometer.block_header import Balance
from cryptometer.metrology import kwh
from cryptometer.readable import utc
from cryptometer.steps import step_start_ms
from gateway.exports.source import Source, one_line
from gateway.pages.document import document
from gateway.pages.markup import Markup, facts, name_of, table, tag
from gateway.store import BlockRow

BLOCKS_SHOWN = 24

_ELSEWHERE = (
    ("/checkpoint", "the signed checkpoint"),
    ("/blocks", "the newest blocks, for programs"),
    ("/sharing", "what was shared, and what waits"),
    ("/api/1/openapi.json", "everything that can be asked (OpenAPI)"),
)


def community_page(source: Source, balance: Balance, newest: Sequence[BlockRow]) -> str:
    """The page.

    Args:
        newest: blocks, latest first.
    """
    name = one_line(source.name)
    return document(
        name,
        tag("h1", name_of(name)),
        tag("p", "An energy community, as its signed ledger tells.", class_="soft"),
        _said(source, balance, newest),
        tag("h2", "Where the energy is"),
        facts([(what, kwh(amount)) for what, amount in _places(balance)]),
        tag("h2", "The newest blocks"),
        _blocks(source, newest),
        tag("h2", "Check it yourself"),
        tag(
            "p",
            "One command reads the whole ledger from this address, and checks every signature,"
            " chain, energy, total and hash. It believes the authority's keys alone: have ",
            tag("code", "community.pub"),
            " from the authority, not from here.",
        ),
        tag("pre", tag("code", "cryptometer audit ADDRESS --community community.pub")),
        facts(
            [
                ("community", tag("code", source.community.hex())),
                ("checkpoint", tag("code", f"size {source.checkpoint.size}")),
                ("root", tag("code", source.checkpoint.root.hex())),
            ]
        ),
        tag("h2", "For programs"),
        tag("ul", *(tag("li", tag("a", said, href=path)) for path, said in _ELSEWHERE)),
    )


def _said(source: Source, balance: Balance, newest: Sequence[BlockRow]) -> Markup:
    ends = utc(step_start_ms(source.step + 1, source.step_s))[:16]
    lines = [
        f"{kwh(balance.registered)} were registered until {ends}Z, the end of step {source.step}.",
        f"{kwh(balance.allocated)} of it were given to members.",
    ]
    caught_up = sum(row.caught_up for row in newest)
    if caught_up:
        lines.append(f"Made late, since the gateway did not run: {caught_up} of the blocks below.")
    return tag("div", *(tag("p", line) for line in lines), class_="said")


def _places(balance: Balance) -> list[tuple[str, int]]:
    return [
        ("registered", balance.registered),
        ("not yet transferred", balance.untransferred),
        ("at the virtual power plant", balance.waiting),
        ("given to members", balance.allocated),
        ("losses", balance.losses),
        ("fees", balance.fees),
        ("surplus", balance.surplus),
        ("set aside", balance.quarantined),
    ]


def _blocks(source: Source, newest: Sequence[BlockRow]) -> Markup:
    header = ["step", "began (UTC)", "records", "late", "meters heard", "sealed after s", "made"]
    return table(
        "The newest blocks", header, [_block(source, row) for row in newest[:BLOCKS_SHOWN]]
    )


def _block(source: Source, row: BlockRow) -> list[str]:
    after_ms = row.sealed_ms - step_start_ms(row.step + 1, source.step_s)
    return [
        tag("a", str(row.step), href=f"/blocks/{row.step}"),
        utc(step_start_ms(row.step, source.step_s))[:16].replace("T", " "),
        str(row.records),
        str(row.late),
        f"{row.heard} of {row.expected}",
        f"{after_ms // 1000}.{after_ms % 1000 // 100}",
        "caught up" if row.caught_up else "in time",
    ]
