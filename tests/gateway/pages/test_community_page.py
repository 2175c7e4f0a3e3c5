"""What everybody is shown: a golden page, and a name that breaks nothing."""

from dataclasses import replace

from cryptometer.block_header import Balance
from gateway.pages.community import BLOCKS_SHOWN, community_page
from gateway.store import BlockRow
from tests.gateway.exports.golden import SOURCE, is_golden
from tests.gateway.exports.test_accuracy_page import Page

KWH = 10**9
BALANCE = Balance(
    registered=36 * KWH, untransferred=KWH, waiting=2 * KWH, allocated=3 * KWH, losses=4 * KWH,
    fees=5 * KWH, surplus=6 * KWH, quarantined=15 * KWH,
)  # fmt: skip
NEWEST = [
    BlockRow(
        SOURCE.step - at, 100 * at, 100 * at + 9, (SOURCE.step - at + 1) * 900_000 + 5_432, 8,
        at % 2, 3, 3 - at % 3 // 2, at == 2, "",
    )
    for at in range(30)
]  # fmt: skip


def test_the_page_is_the_golden_one() -> None:
    assert is_golden("community.html", community_page(SOURCE, BALANCE, NEWEST))


def test_it_says_where_all_energy_is_and_no_more_blocks_than_a_screen_holds() -> None:
    page = Page(community_page(SOURCE, BALANCE, NEWEST))
    rows = page.table("step")
    assert len(rows) == BLOCKS_SHOWN
    assert rows[2]["made"] == "caught up"
    assert rows[0]["sealed after s"] == "5.4"
    for amount in (1, 2, 3, 4, 5, 6, 15, 36):
        assert f"{amount}.000 kWh" in page.text


def test_no_name_becomes_markup() -> None:
    named = replace(SOURCE, name="<script>\u202e&")
    page = Page(community_page(named, BALANCE, []))
    assert "script" not in {tag for tag, _ in page.tags}
    assert "\u202e" not in page.text
