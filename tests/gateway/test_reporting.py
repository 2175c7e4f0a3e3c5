"""`cryptometer-gateway report`: the accuracy of a gateway's own ledger as files, and readings of
displays that are kept for it."""

import csv
import json
from contextlib import closing
from pathlib import Path
from shutil import copytree

import pytest

from cryptometer.community import encode_community
from gateway.backup import backup, restore
from gateway.exports.displays import encode_seen
from gateway.folder import open_folder
from gateway.reporting import read_seen
from tests.core.community import DETAILS, FIRST_STEP, Village
from tests.gateway.exports.shared import as_folder
from tests.gateway.exports.test_accuracy_page import Page
from tests.gateway.exports.watched import seen_at, watched
from tests.gateway.kit import Premises
from tests.gateway.test_exporting import PERIOD
from tests.gateway.test_main import gateway, refused

READ = ("--at", "2024-03-09T23:07+01:00")


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a gateway in whose blocks everything happens."""
    path = tmp_path_factory.mktemp("accuracy") / "gateway"
    as_folder(watched()[0], path)
    return path


@pytest.fixture
def worked(tmp_path: Path) -> Premises:
    """A gateway with two meters and a few blocks."""
    made = Premises(tmp_path / "gateway", meters=2)
    made.enrol()
    with closing(made.folder.open_store()) as store:
        site = made.site(store)
        site.found()
        site.run([3], [5, 2], [1])
    return made


def report(path: Path, out: Path, *more: str) -> str:
    """Makes a report; returns what is said beside."""
    done = gateway("report", "accuracy", *PERIOD, "--out", out, "--config", path, *more)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_same_ledger_gives_the_same_page_table_and_json(ledger: Path, tmp_path: Path) -> None:
    for suffix in ("html", "csv", "json"):
        one, two = tmp_path / f"one.{suffix}", tmp_path / f"two.{suffix}"
        said = report(ledger, one)
        report(ledger, two)
        assert one.read_bytes() == two.read_bytes()
        assert one.stat().st_mode & 0o777 == 0o644
        assert said.splitlines()[-1] == f"{one}: {len(one.read_text())} characters"
    page = Page((tmp_path / "one.html").read_text())
    for line in said.splitlines()[:-1]:
        assert line in page.text
    assert len(json.loads((tmp_path / "one.json").read_text())["rows"]) == 3 * (96 - 2 - 64)


def test_an_outsider_makes_the_same_page_of_copied_files(ledger: Path, tmp_path: Path) -> None:
    """With nothing but the ledger's files and the authority's word of whose they are."""
    copied, pub = tmp_path / "ledger", tmp_path / "community.pub"
    copytree(open_folder(ledger).ledger, copied)
    pub.write_text(encode_community(watched()[0].community()))
    report(ledger, tmp_path / "one.html")
    words = ("--ledger", copied, "--community", pub, "--out")
    done = gateway("report", "accuracy", *PERIOD, *words, tmp_path / "two.html")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    seen = seen_at(watched()[1].start, 10, "shed", DETAILS.index_wh + 13)
    (tmp_path / "readings.csv").write_text(encode_seen([seen]))
    more = ("--readings", tmp_path / "readings.csv")
    said = gateway("report", "accuracy", *PERIOD, *words, tmp_path / "three.html", *more).stdout
    assert "shed was compared with its display, 1 time" in said


def test_copied_files_that_are_not_whole_are_told(ledger: Path, tmp_path: Path) -> None:
    words = ("report", "accuracy", *PERIOD, "--out", tmp_path / "x.html", "--ledger")
    assert "one needs the other" in refused(*words, tmp_path)
    pub = tmp_path / "community.pub"
    assert "is no ledger's folder" in refused(*words, tmp_path, "--community", pub)
    pub.write_bytes(b"\xff")
    at = open_folder(ledger).ledger
    assert "is no community.pub" in refused(*words, at, "--community", pub)
    other = Village(meters=0, name="another")
    pub.write_text(encode_community(other.community()))
    assert gateway(*words, at, "--community", pub).returncode != 0
    assert not (tmp_path / "x.html").exists()


def test_a_display_that_is_entered_is_compared_from_then_on(
    worked: Premises, tmp_path: Path
) -> None:
    at = ("--at", "2024-03-09T16:32:30Z")  # within the third step, behind its lots
    wh = DETAILS.index_wh + 1
    words = ("report", "reading", "m1", *at, "--config", worked.path)
    said = gateway(*words, "--wh", "7").stdout
    assert said == "m1: 7 Wh at 2024-03-09T16:32Z kept\n"
    said = gateway(*words, "--wh", str(wh)).stdout
    assert said == f"m1: {wh} Wh at 2024-03-09T16:32Z kept, in place of 7 Wh\n"
    assert [one.wh for one in read_seen(worked.folder.readings)] == [wh]
    assert worked.folder.readings.stat().st_mode & 0o777 == 0o644
    report(worked.path, tmp_path / "a.csv")
    lines = [line for line in (tmp_path / "a.csv").read_text().splitlines() if line[:1] != "#"]
    [row] = [row for row in csv.DictReader(lines) if row["kind"] == "display"]
    assert (row["meter"], row["compared_counted_uwh"]) == ("m1", "1000000")
    assert (row["difference_uwh"], row["within"]) == ("0", "yes")


def test_readings_are_in_the_backup(worked: Premises, tmp_path: Path) -> None:
    gateway("report", "reading", "m0", *READ, "--wh", "5", "--config", worked.path)
    backup(worked.folder, tmp_path / "all.backup")
    restore(tmp_path / "all.backup", tmp_path / "again", None)
    assert (tmp_path / "again" / "readings.csv").read_bytes() == worked.folder.readings.read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("m7", *READ, "--wh", "1"), "no meter 'm7' is registered; there are: m0, m1"),
        (("m0", "--at", "soon", "--wh", "1"), "no moment"),
        (("m0", "--at", "2024-03-09T23:07", "--wh", "1"), "could be any zone's"),
        (("m0", "--at", "1969-03-09T23:07Z", "--wh", "1"), "a display shows"),
        (("m0", *READ, "--wh", "-1"), "a display shows"),
        (("m0", *READ, "--wh", "1", "--digit-wh", "0"), "its last digit"),
    ],
)
def test_a_reading_that_is_none_is_told(
    worked: Premises, words: tuple[str, ...], said: str
) -> None:
    assert said in refused("report", "reading", *words, "--config", worked.path)
    assert not worked.folder.readings.exists()


def test_a_file_of_another_kind_and_damaged_readings_are_told(
    worked: Premises, tmp_path: Path
) -> None:
    words = ("report", "accuracy", *PERIOD, "--config", worked.path, "--out")
    assert "ends in none of .html, .csv, .json" in refused(*words, tmp_path / "x.pdf")
    worked.folder.readings.write_text("meter;at_ms;wh;digit_wh\nm0;1;x;1\n")
    assert "readings.csv: line 2 is no reading" in refused(*words, tmp_path / "x.html")
    worked.folder.readings.write_bytes(b"\xff\xfe")
    assert "readings.csv: " in refused(*words, tmp_path / "x.html")
    assert FIRST_STEP % 96 == 64  # so that the day of the period holds what these tests need
