"""`cryptometer-gateway export`: files out of a gateway's own ledger, the same ones each time."""

import csv
import json
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cryptometer import records
from cryptometer.authority_records import AuthorityRecord
from cryptometer.community import Community, trust
from cryptometer.errors import Rejected
from cryptometer.keys import Algorithm
from gateway.exporting import _serials, go_through
from gateway.exports.gathering import Gathered
from gateway.exports.ocmf import key_text
from gateway.private import PrivateStore
from hal.keyfile import create_key, load_key
from hal.program import EXIT_CONFIGURATION
from tests.core.community import FIRST_STEP, PULSE_UWH, STEP_S, Village, flip
from tests.gateway.exports.shared import MEMBERS, as_folder, shares
from tests.gateway.exports.test_spain import POINTS
from tests.gateway.exports.test_storage import House
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


@pytest.mark.parametrize("words", [("load-curve",), ("ocmf", "--key", "KEY")])
def test_a_meter_that_is_not_registered_is_told(
    worked: Premises, tmp_path: Path, words: tuple[str, ...]
) -> None:
    create_key(tmp_path / "KEY", Algorithm.ES256)
    named = [str(tmp_path / word) if word == "KEY" else word for word in words]
    said = refused(
        "export", *named, "--meter", "m7", *PERIOD, "--out", tmp_path / "x",
        "--config", worked.path,
    )  # fmt: skip
    assert said == "no meter 'm7' is registered; there are: m0, m1"


def whole_community(village: Village) -> Community:
    """As a gateway's store founds it: with every record of the authority."""
    leaves = [records.decode(raw) for raw in village.leaves]
    authority = [one.raw for one in leaves if isinstance(one.body, AuthorityRecord)]
    return trust(village.authority.genesis.raw, authority)


def test_a_block_that_is_published_meanwhile_only_begins_the_reading_anew() -> None:
    village, first = shares(4)
    before = village.files()
    community = whole_community(village)
    village.block()
    files, reads = [before], 0

    def read(path: str) -> bytes | None:
        nonlocal reads
        reads += 1
        if reads == 3:  # the checkpoint was read twice: by the one who asks, and by the audit
            files[0] = village.files()
        return files[0].get(path)

    report, gathered = go_through(
        read, community, lambda: Gathered(range(first, first + 4), _serials(community))
    )
    assert report.checkpoint == village.state.checkpoint
    assert gathered.energy_uwh["m0"][first] == 8 * PULSE_UWH


def test_a_ledger_that_does_not_hold_is_exported_nowhere() -> None:
    village, first = shares(3)
    community = whole_community(village)
    files = village.files()
    [entries] = [path for path in files if "entries" in path]
    files[entries] = flip(files[entries], 8 * len(files[entries]) - 9)
    with pytest.raises(Rejected):
        go_through(
            files.get, community, lambda: Gathered(range(first, first + 3), _serials(community))
        )


def test_a_step_of_which_lots_were_set_aside_has_no_ocmf_record_and_the_others_have(
    tmp_path: Path,
) -> None:
    village = Village()
    first = village.next_step
    device = village.device
    village.send(device.run_start(first), *device.step(first, 3))
    village.block()
    village.send(device.batch(first + 1, 9), *device.step(first + 1, 2))  # nine are above V
    village.block()
    village.send(*device.step(first + 2, 4))
    village.block()
    folder = as_folder(village, tmp_path / "gateway")
    create_key(tmp_path / "other.key", Algorithm.ES256)
    out = tmp_path / "closes.ocmf"
    words = ("export", "ocmf", "--meter", "m0", *PERIOD, "--key", tmp_path / "other.key")
    done = gateway(*words, "--out", out, "--config", folder.path)
    assert done.returncode == 0
    assert f"left out: step {first + 1} of m0: its registers differ by 0.0011" in done.stdout
    pages = [json.loads(line.split("|")[1])["PG"] for line in out.read_text().splitlines()]
    assert pages == [f"T{first}", f"T{first + 2}"]


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


# --- What members were given. ---


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The folder of a gateway whose community shares, and its first shared step."""
    path = tmp_path_factory.mktemp("shared") / "gateway"
    village, first = shares(12)
    folder = as_folder(village, path)
    with closing(PrivateStore(folder.private)) as private:
        private.put("max", {first: 10 * PULSE_UWH, first + 11: 5}, "file:a", 0)
    return path, first


def made(path: Path, *words: str | Path) -> str:
    """Makes a file twice, and gives its content: the same each time, for its owner alone."""
    out = Path(words[-1])
    contents = []
    for _ in range(2):
        done = gateway("export", *words[:-1], "--out", out, "--config", path)
        assert (done.returncode, done.stderr) == (0, "")
        contents.append(out.read_text())
    assert contents[0] == contents[1]
    assert out.stat().st_mode & 0o077 == 0
    return contents[0]


def test_virtual_meters_show_first_values_and_what_came_later(
    shared: tuple[Path, int], tmp_path: Path
) -> None:
    path, first = shared
    text = made(path, "virtual-meter", *PERIOD, tmp_path / "all.csv")
    rows = list(csv.DictReader(line for line in text.splitlines() if line[0] != "#"))
    assert {row["member"] for row in rows} == set(MEMBERS)
    mine = {int(row["step"]): row for row in rows if row["member"] == "max"}
    assert sorted(mine) == list(range(first, first + 12))
    assert mine[first]["first_uwh"] == str(6 * PULSE_UWH)
    assert mine[first]["later_blocks"] == f"{first + 1}:{3 * PULSE_UWH}"
    assert mine[first + 1]["virtual_generation_kwh"] == "0.000000000"
    assert mine[first + 11]["virtual_generation_kwh"] == ""
    consumed = {
        step: row["consumption_uwh"] for step, row in mine.items() if row["consumption_uwh"]
    }
    assert consumed == {first: str(10 * PULSE_UWH), first + 11: "5"}
    market = {step: row["market_face_uwh"] for step, row in mine.items() if row["market_face_uwh"]}
    assert market == {first: str(PULSE_UWH)}
    values = json.loads(
        made(path, "virtual-meter", "--member", "max", *PERIOD, tmp_path / "m.json")
    )
    assert [row["virtual_generation_kwh"] or "" for row in values["rows"]] == [
        row["virtual_generation_kwh"] for row in mine.values()
    ]


def test_a_members_load_curve_is_its_virtual_meter(
    shared: tuple[Path, int], tmp_path: Path
) -> None:
    path, first = shared
    text = made(path, "load-curve", "--member", "ann", *PERIOD, tmp_path / "ann.csv")
    rows = list(csv.DictReader(line for line in text.splitlines() if line[0] != "#"))
    values = {int(row["step"]): row["energy_uwh"] for row in rows}
    assert len(values) == 96
    assert values[first] == str(3 * PULSE_UWH)
    assert values[first + 1] == "0"
    assert values[first + 11] == ""


def test_the_spanish_file_comes_with_its_source(shared: tuple[Path, int], tmp_path: Path) -> None:
    path, _ = shared
    points = tmp_path / "points.toml"
    points.write_text("".join(f'{name} = "{POINTS[name]}"\n' for name in MEMBERS))
    idle = tmp_path / "idle.toml"
    idle.write_text("ann = 1\nmax = 3\n")
    month = ("--period", DAY.isoformat()[:7], "--points", points, "--idle", idle)
    out = tmp_path / "es.txt"
    done = gateway("export", "coefficients-es", *month, "--out", out, "--config", path)
    assert done.returncode == EXIT_CONFIGURATION
    assert "not distributed yet" in done.stderr
    assert not out.exists()
    lines = made(path, "coefficients-es", *month, "--accept-missing", out).splitlines()
    beside = json.loads((tmp_path / "es.txt.source.json").read_text())
    assert beside["file"] == "es.txt"
    assert beside["checkpoint"]["size"] > 0
    assert len(lines) == 3 * beside["hours"]
    assert {line.partition(";")[2].partition(";")[2] for line in lines} == {
        "0,250000",
        "0,750000",
        "0,000000",
    }
    # An hour of which every step was distributed is neither idle nor missing.
    assert len(beside["idle"]) + len(beside["missing"]) in range(
        beside["hours"] - 3, beside["hours"]
    )


def test_the_french_file_has_the_columns_of_its_template(
    shared: tuple[Path, int], tmp_path: Path
) -> None:
    path, first = shared
    points = tmp_path / "points.toml"
    points.write_text("".join(f'{name} = "0{at}"\n' for at, name in enumerate(MEMBERS)))
    template = tmp_path / "template.toml"
    template.write_text('comments = false\n[columns]\nS = "step"\nP = "point"\nC = "coefficient"\n')
    day = (*PERIOD, "--points", points, "--template", template)
    lines = made(path, "coefficients-fr", *day, tmp_path / "fr.csv").splitlines()
    assert lines[0] == "S;P;C"
    assert f"{first};01;0,750000" in lines
    assert f"{first + 11};01;" in lines
    assert json.loads((tmp_path / "fr.csv.source.json").read_text())["file"] == "fr.csv"


@pytest.mark.parametrize(
    ("words", "content", "said"),
    [
        (("virtual-meter", "--member", "eve"), None, "no agreement names 'eve'"),
        (("coefficients-es",), "ann = 1", "ann has a text"),
        (("coefficients-es",), "ann =", "is not TOML"),
        (("coefficients-es",), 'ann = "ES1"', "is no CUPS"),
        (("coefficients-fr",), 'ann = "1"', "max was given energy"),
    ],
)
def test_what_cannot_be_exported_is_told(
    shared: tuple[Path, int],
    tmp_path: Path,
    words: tuple[str, ...],
    content: str | None,
    said: str,
) -> None:
    path, _ = shared
    more: list[str | Path] = []
    if content is not None:
        (tmp_path / "points.toml").write_text(content)
        more = ["--points", tmp_path / "points.toml"]
    period = ("--period", DAY.isoformat()[:7], "--zone", "UTC")
    out = tmp_path / "x"
    assert said in refused("export", *words, *more, *period, "--out", out, "--config", path)
    assert not out.exists()


def test_without_a_format_it_says_which_there_are() -> None:
    done = gateway("export")
    assert done.returncode == EXIT_CONFIGURATION
    assert json.dumps(done.stderr).count("FORMAT") >= 1


def test_whose_energy_a_storage_holds_is_a_file_of_its_own(tmp_path: Path) -> None:
    house = House()
    house.step(6, 0, ada=1, bo=2, battery=9)
    house.step(0, 2, ada=5, bo=5, battery=0)
    folder = as_folder(house.village, tmp_path / "gateway")
    words = ("--efficiency", "0.9", *PERIOD)
    out = tmp_path / "storage.csv"
    text = made(folder.path, *_storage("battery", "battery-out"), *words, out)
    assert "efficiency 9/10" in text
    assert [line.split(",")[3:] for line in text.splitlines()[-2:]] == [
        ["charge", "ada", "2700000", "2700000"],
        ["discharge", "ada", "-2000000", "700000"],
    ]
    # Nothing of it is asked of what members consumed: it stays when somebody is erased.
    with closing(PrivateStore(folder.private)) as private:
        private.put("ada", {FIRST_STEP: 7}, "file:a", 0)
    assert made(folder.path, *_storage("battery", "battery-out"), *words, out) == text
    for names, said in (
        (("battery", "m9"), "no meter 'm9'"),
        (("battery", "roof"), "roof is for generation"),
        (("eve", "battery-out"), "no agreement names 'eve'"),
    ):
        told = refused("export", *_storage(*names), *words, "--out", out, "--config", folder.path)
        assert said in told


def _storage(member: str, meter: str) -> tuple[str, ...]:
    return ("storage", "--member", member, "--meter", meter)
