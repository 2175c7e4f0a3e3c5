"""The long run, short: a week of what `make year` lives through, held to the same limits."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.simulation.year import JOURNAL_MAX, OUTBOX_MAX, Reading, breaches, run

METERS = 3
DAYS = 6


def test_some_days_of_a_few_meters_take_the_room_that_is_documented(tmp_path: Path) -> None:
    assert breaches(run(tmp_path, DAYS, 1, METERS)) == []


def reading(day: int) -> Reading:
    """As it should be."""
    leaves = 1_000 * day
    content = 330 * leaves
    return Reading(
        day=day,
        leaves=leaves,
        raw_bytes=content - 34 * leaves,
        memory_bytes=40_000_000,
        free_bytes=4_000_000,
        descriptors=50,
        journal_bytes=JOURNAL_MAX,
        outbox_bytes=OUTBOX_MAX,
        store_bytes=70 * leaves,
        wal_bytes=4_000_000,
        ledger_bytes=content + 100_000,
        ledger_files=10 * day,
        board_start_s=0.2,
        gateway_start_s=0.01,
    )


YEAR = [reading(day) for day in range(30, 361, 30)]


def test_what_is_as_documented_is_not_complained_about() -> None:
    assert breaches(YEAR) == []


@pytest.mark.parametrize(
    ("name", "grown"),
    [
        ("memory_bytes", 44_000_000),
        ("free_bytes", 9_000_000),
        ("descriptors", 51),
        ("journal_bytes", JOURNAL_MAX + 1),
        ("outbox_bytes", OUTBOX_MAX + 1),
        ("store_bytes", 40_000_000),
        ("wal_bytes", 9_000_000),
        ("ledger_bytes", 130_000_000),
        ("ledger_bytes", 100_000_000),
        ("board_start_s", 3.0),
        ("gateway_start_s", 3.0),
    ],
)
def test_what_grows_otherwise_is_named(name: str, grown: Any) -> None:
    changed = [*YEAR[:-1], replace(YEAR[-1], **{name: grown})]
    assert len(breaches(changed)) >= 1
