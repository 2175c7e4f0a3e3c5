"""`cryptometer-gateway export`: files out of a gateway's own ledger, the same ones each time."""

import csv
import json
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.exports.ocmf import key_text
from hal.keyfile import create_key, load_key
from hal.program import EXIT_CONFIGURATION
from tests.core.community import FIRST_STEP, PULSE_UWH, STEP_S
from tests.gateway.kit import Premises
from tests.gateway.test_main import gateway, refused
from tests.test_peers import ask

DAY = datetime.fromtimestamp(FIRST_STEP * STEP_S, UTC).date()
PERIOD = ("--period", DAY.isoformat(), "--zone", "UTC")


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Premises:
    """A gateway with two meters that has made a day's first blocks; m1 is silent in one of them."""
    made = Premises(tmp_path_factory.mktemp("exports") / "gateway", meters=2)
    made.enrol()
    with closing(made.folder.open_store()) as store:
        site = made.site(store)
        site.found()
        site.run([3], [5, 2])
        step = site.next_step
        site.send(*site.devices[0].step(step, 8))
        site.seal()
        site.run([], [1])
    return made


def export(premises: Premises, *words: str | Path) -> str:
    done = gateway("export", *words, "--config", premises.path)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def curve(premises: Premises, out: Path, meter: str, *more: str) -> list[dict[str, str]]:
    export(premises, "load-curve", "--meter", meter, *PERIOD, "--out", out, *more)
    lines = [line for line in out.read_text().splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


@pytest.mark.parametrize("form", ["utc", "local"])
def test_a_load_curve_holds_what_the_closes_transferred(
    worked: Premises, tmp_path: Path, form: str
) -> None:
    rows = curve(worked, tmp_path / "curve.csv", "m0", "--form", form)
    assert len(rows) == 96
    known = {int(row["step"]): row["energy_uwh"] for row in rows if row["energy_uwh"]}
    assert known == {
        FIRST_STEP + 1 + at: str(pulses * PULSE_UWH) for at, pulses in enumerate([3, 7, 8, 0, 1])
    }


def test_a_step_that_was_not_closed_is_a_gap(worked: Premises, tmp_path: Path) -> None:
    rows = curve(worked, tmp_path / "curve.csv", "m1")
    values = {int(row["step"]): row["energy_uwh"] for row in rows}
    assert values[FIRST_STEP + 3] == ""
    assert values[FIRST_STEP + 4] == "0"


def test_the_same_ledger_gives_the_same_bytes_and_names_its_checkpoint(
    worked: Premises, tmp_path: Path
) -> None:
    curve(worked, tmp_path / "one.csv", "m0")
    curve(worked, tmp_path / "two.csv", "m0")
    text = (tmp_path / "one.csv").read_text()
    assert text == (tmp_path / "two.csv").read_text()
    with closing(worked.folder.open_store(read_only=True)) as store:
        state = store.state()
    assert state is not None
    checkpoint = state.checkpoint
    assert f"# checkpoint size {checkpoint.size} root {checkpoint.root.hex()}\n" in text


def test_step_closes_become_ocmf_records_that_a_verifier_accepts(
    worked: Premises, tmp_path: Path
) -> None:
    said = refused(
        "export", "ocmf", "--meter", "m0", *PERIOD, "--out", tmp_path / "x",
        "--config", worked.path,
    )  # fmt: skip
    assert "cryptometer-gateway export ocmf-key" in said
    public = export(worked, "ocmf-key").splitlines()[-1]
    assert public == key_text(load_key(worked.folder.state / "ocmf.key").public)
    out = tmp_path / "closes.ocmf"
    export(worked, "ocmf", "--meter", "m1", *PERIOD, "--out", out)
    records = out.read_text().splitlines()
    answers = ask("ocmf_peer.py", [[record, public] for record in records])
    assert [one["verdict"] for one in answers] == ["VALID"] * 4
    pages = [int(one["page"][1:]) - FIRST_STEP for one in answers]
    assert pages == [1, 2, 4, 5]
    # What nobody closed lies between the end of one record and the begin of the next but one.
    times = [[reading[0] for reading in one["readings"]] for one in answers]
    assert times[2][0] == times[1][1]
    export(worked, "ocmf", "--meter", "m1", *PERIOD, "--out", tmp_path / "closes.xml")
    assert ask("ocmf_peer.py", ["xml", str(tmp_path / "closes.xml")]) == [["VALID"] * 4]
    again = tmp_path / "again.ocmf"
    export(worked, "ocmf", "--meter", "m1", *PERIOD, "--out", again)
    assert again.read_bytes() == out.read_bytes()


def test_an_ed25519_key_signs_no_ocmf(worked: Premises, tmp_path: Path) -> None:
    create_key(tmp_path / "other.key")
    said = refused(
        "export", "ocmf", "--meter", "m0", *PERIOD, "--key", tmp_path / "other.key",
        "--out", tmp_path / "x", "--config", worked.path,
    )  # fmt: skip
    assert "P-256" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--period", "2026-13", "--zone", "UTC"), "no calendar has the month"),
        (("--period", "2026-02-30", "--zone", "UTC"), "a local day, month or year"),
        (("--period", "soon", "--zone", "UTC"), "a local day, month or year"),
        (("--period", "2026", "--zone", "Europe/Bruxelles"), "no time zone"),
        (("--period", "2026", "--zone", "../etc"), "no time zone"),
    ],
)
def test_a_period_or_zone_that_is_none_is_told(
    worked: Premises, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    told = refused(
        "export", "load-curve", "--meter", "m0", *words, "--out", tmp_path / "x",
        "--config", worked.path,
    )  # fmt: skip
    assert said in told


def test_without_a_format_it_says_which_there_are() -> None:
    done = gateway("export")
    assert done.returncode == EXIT_CONFIGURATION
    assert json.dumps(done.stderr).count("FORMAT") >= 1
