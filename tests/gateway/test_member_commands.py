"""`consumption` and `member-data`: what they print, what they refuse, and that they work beside a
program that has the store open."""

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from cryptometer.authority_records import Use
from cryptometer.keys import PublicKey
from cryptometer.record_fields import Role
from cryptometer.steps import MS_PER_S, NS_PER_MS, step_of, step_start_ms
from gateway import main
from gateway.private import PrivateStore
from hal.files import hold
from hal.program import EXIT_CONFIGURATION
from tests.core.community import DETAILS, FIRST_STEP, STEP_S
from tests.gateway.kit import Premises
from tests.keys import signer

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"


@pytest.fixture
def premises(tmp_path: Path) -> Premises:
    """A gateway that has begun, with the member alice."""
    made = Premises(tmp_path / "gateway")
    key: PublicKey = signer(30).public
    made.chain.append(made.authority.register(Role.MEMBER, "alice", key))
    consumer = replace(DETAILS, use=Use.CONSUMPTION)
    made.chain.append(made.authority.register(Role.METER, "c0", signer(31).public, consumer))
    with closing(made.folder.open_store()) as store:
        made.site(store)
    return made


def run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    premises: Premises,
    *words: str | Path,
) -> tuple[int, str, str]:
    """Exit code, output and errors of the program."""
    line = ["cryptometer-gateway", *map(str, words), "--config", str(premises.path)]
    monkeypatch.setattr("sys.argv", line)
    code = main.main()
    out, err = capsys.readouterr()
    return code, out, err


class Told:
    """Runs commands of one gateway."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        premises: Premises,
    ) -> None:
        self.premises = premises
        self._with = (monkeypatch, capsys, premises)

    def __call__(self, *words: str | Path) -> str:
        code, out, err = run(*self._with, *words)
        assert (code, err) == (0, "")
        return out

    def refused(self, *words: str | Path) -> str:
        code, out, err = run(*self._with, *words)
        assert (code, out) == (EXIT_CONFIGURATION, "")
        [line] = err.splitlines()
        return line.removeprefix("cryptometer-gateway: ")


@pytest.fixture
def told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], premises: Premises
) -> Told:
    return Told(monkeypatch, capsys, premises)


def curve(told: Told, name: str, *values: str) -> Path:
    """A generic file: a row for each step from the first; of alice and of bob."""
    lines = ["time,alice,bob"]
    for step, value in enumerate(values, FIRST_STEP):
        seconds = step_start_ms(step, STEP_S) // MS_PER_S
        minutes, hours = seconds // 60 % 60, seconds // 3600 % 24
        day = _day(seconds)
        lines.append(f"{day}T{hours:02}:{minutes:02}Z,{value},1.5")
    return told.premises.put(name, "\n".join(lines).encode())


def _day(seconds: int) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"


def test_a_curve_is_taken_beside_a_program_that_has_the_store_open(told: Told) -> None:
    with closing(PrivateStore(told.premises.folder.private)) as held:
        out = told("consumption", "import", curve(told, "a.csv", "0.25", "", "0.5"))
        first, gap, second, unregistered = out.splitlines()
        assert first.startswith(f"alice: steps {FIRST_STEP} to {FIRST_STEP + 2}, ")
        assert first.endswith("2 new, 0 known, 0 corrected, 0.750 kWh")
        assert gap.startswith(f"  step {FIRST_STEP + 1}  ")
        assert gap.endswith("  not known")
        assert second.startswith("bob: ")
        assert unregistered == "not registered as members so far: bob"
        assert held.of(FIRST_STEP) == {"alice": 250_000_000, "bob": 1_500_000_000}
        assert held.of(FIRST_STEP + 1) == {"bob": 1_500_000_000}


def test_a_correction_is_shown_and_what_it_corrects_stays_to_be_seen(told: Told) -> None:
    told("consumption", "import", curve(told, "a.csv", "0.25", "", "0.5"))
    out = told("consumption", "import", curve(told, "b.csv", "0.3", "0.1", "0.5"))
    assert "1 new, 1 known, 1 corrected" in out
    assert f"  step {FIRST_STEP} corrected: 0.300 kWh, was 0.250 kWh" in out
    shown = told("consumption", "show", "alice").splitlines()
    assert shown[0].startswith(f"step {FIRST_STEP}  ")
    assert "0.300 kWh  file " in shown[0]
    assert shown[1].startswith("  was 0.250 kWh  file ")
    assert shown[-1] == "0.900 kWh in 3 steps, 0 steps not known, 1 corrected"
    told("consumption", "import", curve(told, "c.csv", "0.3"))
    part = told(
        "consumption", "show", "alice", "--from", str(FIRST_STEP + 2), "--to", str(FIRST_STEP + 9)
    )
    assert f"steps {FIRST_STEP + 3} to {FIRST_STEP + 9}  " in part
    assert "1 steps, 7 steps not known, 0 corrected" in part
    assert "nothing is known" in told("consumption", "show", "carol")


def test_a_file_that_is_wrong_anywhere_changes_nothing(told: Told) -> None:
    said = told.refused("consumption", "import", curve(told, "a.csv", "0.25", "-1"))
    assert said.startswith("malformed: line 3 of the load curve: -1 is negative")
    assert not told.premises.folder.private.exists()
    missing = told.premises.path / "none.csv"
    assert f"cannot read {missing}" in told.refused("consumption", "import", missing)


def test_templates_are_read_and_refused(told: Told) -> None:
    file = told.premises.put("h.csv", b"Horodate;Valeur\n2026-10-25T01:30:00+02:00;400\n")
    out = told(
        "consumption", "import", file, "--template", EXAMPLES / "curve-enedis.toml",
        "--member", "alice",
    )  # fmt: skip
    assert "2 new, 0 known, 0 corrected, 0.200 kWh, divided evenly" in out
    wrong = told.premises.put("t.toml", b"time = 'x'\nzone = 'Mars'")
    said = told.refused("consumption", "import", file, "--template", wrong)
    assert "lacks 'stamp'" in said
    wrong = told.premises.put("t.toml", b"time = ")
    assert "is not TOML" in told.refused("consumption", "import", file, "--template", wrong)
    other = (EXAMPLES / "curve-enedis.toml").read_text().replace("Europe/Paris", "Mars")
    wrong = told.premises.put("t.toml", other.encode())
    said = told.refused("consumption", "import", file, "--template", wrong, "--member", "alice")
    assert "there is no time zone 'Mars'" in said


def test_a_file_can_be_looked_at_and_nothing_of_it_is_taken(told: Told) -> None:
    template = (EXAMPLES / "curve-fluvius.toml").read_text()
    whose = template + '[members]\n541448800000000001 = "alice"\n'
    asked = told.premises.put("t.toml", whose.encode())
    file = told.premises.put(
        "f.csv",
        b"Van (datum);Van (tijdstip);Tot (datum);Tot (tijdstip);EAN-code;Register;Volume;Eenheid\n"
        b'15-01-2026;00:00:00;15-01-2026;00:15:00;="541448800000000001";Afname Nacht;0,25;kWh\n'
        b'15-01-2026;00:15:00;15-01-2026;00:30:00;="541448800000000001";Afname Nacht;;kWh\n'
        b'15-01-2026;00:15:00;15-01-2026;00:30:00;="541448800000000001";Injectie Nacht;9;kWh\n'
        b'15-01-2026;00:30:00;15-01-2026;00:45:00;="541448800000000009";Afname Nacht;1;kWh\n',
    )
    words: list[str | Path] = ["consumption", "import", file, "--template", asked]
    held, gap, left_out, rows, nothing = told(*words, "--look").splitlines()
    assert held.startswith("alice: 2026-01-15 00:00 to 2026-01-15 00:30 in Europe/Brussels, steps ")
    assert held.endswith(": 1 have a value, 0.250 kWh")
    assert gap.startswith("  step ")
    assert left_out == "left out, for [members] does not list them: 541448800000000009"
    assert rows == "left out, for `only` does not want them: 1 rows"
    assert nothing == "nothing was taken"
    assert not told.premises.folder.private.exists()
    assert "1 new, 0 known, 0 corrected, 0.250 kWh" in told(*words)


def test_of_many_gaps_the_first_are_shown_where_a_file_is_looked_at(told: Told) -> None:
    file = curve(told, "a.csv", *["0.25", ""] * 25)
    lines = told("consumption", "import", file, "--look").splitlines()
    assert sum(line.endswith("not known") for line in lines) == 20
    assert "  and 5 more gaps" in lines


def test_member_data_are_kept_shown_and_erased(told: Told) -> None:
    assert "nobody has said who alice is" in told("member-data", "show", "alice")
    told("member-data", "set", "alice", "--display-name", "Alice Martin")
    told("member-data", "set", "alice", "--address", "1 rue des Tilleuls")
    told("consumption", "import", curve(told, "a.csv", "0.25", "0.25"))
    shown = told("member-data", "show", "alice")
    assert "display name  Alice Martin\n" in shown
    assert "address       1 rue des Tilleuls\n" in shown
    assert "contact       -\n" in shown
    assert "consumption   2 steps\n" in shown
    ledger = {file: file.read_bytes() for file in told.premises.path.rglob("*") if file.is_file()}
    del ledger[told.premises.folder.private]
    erased = told("member-data", "erase", "alice")
    assert "erased 2 values of consumption, 0 salts, 0 records of meters and who it is" in erased
    assert f"Of steps up to {step_of(time.time_ns() // NS_PER_MS, STEP_S)}, 0 of" in erased
    assert "alice is taken to have consumed what was given" in erased
    assert "For you to erase: backups from before; the files that were imported" in erased
    for file, content in ledger.items():
        assert file.read_bytes() == content
    assert b"Martin" not in told.premises.folder.private.read_bytes()
    assert "nothing is known" in told("consumption", "show", "alice")
    assert "2 steps, 0 steps not known" in told("consumption", "show", "bob")


def test_whoever_erases_is_told_which_files_still_name_the_member(told: Told) -> None:
    folder = told.premises.folder
    with folder.file.open("a") as file:
        file.write('[members]\npoints = "points.toml"\n')
    points = folder.path / "points.toml"
    points.write_text('bob = "12345678901234"\n')
    assert "points.toml" not in told("member-data", "erase", "alice")
    points.write_text('alice = "12345678901234"\n')
    assert f"{points} names alice: take that line out." in told("member-data", "erase", "alice")
    folder.scratch.mkdir()
    (folder.scratch / "private.db").write_bytes(b"alice")
    with hold(folder.backup_lock):
        assert "A backup is being made" in told("member-data", "erase", "alice")
    assert "A backup is being made" not in told("member-data", "erase", "alice")
    assert not folder.scratch.exists()


def test_what_cannot_be_a_member_or_a_text_is_refused(told: Told) -> None:
    assert "no member's name" in told.refused("member-data", "show", "Alice")
    assert "no member's name" in told.refused("consumption", "show", "a b")
    assert "give --display-name" in told.refused("member-data", "set", "alice")
    said = told.refused("member-data", "set", "alice", "--contact", "a\nb")
    assert "up to 2000 letters in one line" in said


# --- What an agreement has from outside. ---------------------------------------------------------


def test_coefficients_and_losses_are_taken_for_the_plant(
    told: Told, premises: Premises, tmp_path: Path
) -> None:
    weights = tmp_path / "weights.csv"
    weights.write_text("step;member;weight\n7;alice;0,25\n8;alice;1\n")
    said = told("coefficients", weights)
    assert "coefficients of 2 steps, 7 to 8" in said
    assert len(said.splitlines()) == 1
    losses = tmp_path / "losses.csv"
    losses.write_text("step,kwh\n7,0.5\n")
    assert "losses of 1 steps, 7 to 7: 0.500 kWh" in told("losses", losses)
    weights.write_text("step;producer;member;weight\n9;m0;alice;0\n9;m0;bop;0\n")
    said = told("coefficients", weights)
    assert "not registered so far: bop" in said, "perhaps a slip of the pen"
    assert "all is surplus, of 1 steps, 9 to 9" in said
    weights.write_text("step;member;weight\n8;alice;2\n")
    told("coefficients", weights)
    with closing(PrivateStore(premises.folder.private)) as store:
        assert store.coefficients(7) == {("", "alice"): 250_000_000}
        assert store.coefficients(8) == {("", "alice"): 2 * 10**9}
        assert store.losses_uwh(7) == 500_000_000
        assert store.losses_uwh(8) is None
        assert store.steps_changed_since(0) == ([7, 8, 9], 4)
        assert store.steps_changed_since(1) == ([7, 8, 9], 4)
        assert store.steps_changed_since(3) == ([8], 4)


def test_whose_a_meter_for_consumption_is_is_said_and_shown(told: Told) -> None:
    assert told("consumption", "meter", "c0", "alice") == "c0: alice's from step 0 on\n"
    assert told("consumption", "meter", "c0", "--nobody", "--from", "1900009") == (
        "c0: nobody's from step 1900009 on\n"
    )
    shown = told("consumption", "meters")
    assert shown == (
        "meter c0  alice's, nobody's from step 1900009 on\n"
        "  not heard: its registration stands in no block yet\n"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("m0", "alice"), 'm0 is for generation; register it with use = "consumption"'),
        (("m9", "alice"), "m9 is not registered"),
        (("c0", "zoe"), "no member zoe is registered"),
        (("c0", "Zoe!"), "no member's name"),
        (("C0", "alice"), "no meter's name"),
    ],
)
def test_what_cannot_be_bound_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    premises: Premises,
    words: tuple[str, str],
    said: str,
) -> None:
    code, _, err = run(monkeypatch, capsys, premises, "consumption", "meter", *words)
    assert code == EXIT_CONFIGURATION
    assert said in err


def test_a_meter_that_is_someones_already_needs_the_step_from_which_it_is_anothers(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    premises: Premises,
) -> None:
    words = ("consumption", "meter", "c0", "alice")
    assert run(monkeypatch, capsys, premises, *words)[0] == 0
    code, _, err = run(monkeypatch, capsys, premises, *words)
    assert code == EXIT_CONFIGURATION
    assert "c0 is alice's from step 0 on: say --from STEP" in err
