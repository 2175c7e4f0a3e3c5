"""The ledger that audits are measured on holds, and is what its figures say."""

from pathlib import Path

from cryptometer.audit import audit
from cryptometer.chain_records import Batch, StepClose
from cryptometer.commands.sources import ledger_reader
from cryptometer.sharing_records import Distribution
from cryptometer.tiles import CHECKPOINT_PATH
from tests.bench.long_ledger import LOTS, METERS, STEPS_A_DAY, make
from tests.core.community import LOT_PULSES, PULSE_UWH

STEPS = STEPS_A_DAY + 2


def test_a_ledger_that_was_published_day_by_day_holds(tmp_path: Path) -> None:
    made = make(tmp_path, STEPS)
    report = audit(ledger_reader(tmp_path), made.community)
    assert report.state == made.state
    assert report.kinds[Batch.KIND] == report.kinds[StepClose.KIND] == METERS * STEPS
    assert report.kinds[Distribution.KIND] == report.rules["recomputed"] == STEPS
    assert not report.quarantined
    balance = report.state.balance
    assert balance.allocated == balance.registered == STEPS * METERS * LOTS * LOT_PULSES * PULSE_UWH
    assert made.size == sum(one.stat().st_size for one in tmp_path.rglob("*") if one.is_file())
    assert (tmp_path / CHECKPOINT_PATH).is_file()
