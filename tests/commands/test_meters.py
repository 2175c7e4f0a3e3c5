"""The TOML of meters: exact numbers in, registrations out; faults are named with their meter."""

from fractions import Fraction

import pytest

from cryptometer.authority_records import CountingSource, MeterDetails, Use
from cryptometer.commands.meters import MeterEntry, read_meters
from cryptometer.errors import ConfigurationError
from cryptometer.metrology import Side

STEP_S = 900
NOW_MS = 1_769_860_800_000
PLAIN = {
    "name": '"pv-1"',
    "request": '"pv-1.request"',
    "serial": '"MID-1"',
    "use": '"generation"',
    "class": '"B"',
    "phases": "3",
    "voltage_v": "230",
    "i_min_a": "0.25",
    "i_max_a": "65",
    "index_kwh": "1234.567",
    "constant": "10000",
}


def table(**changes: str) -> str:
    """A meter's table; a setting that is changed to nothing is left out."""
    kept = {key: value for key, value in (PLAIN | changes).items() if value}
    return "[[meter]]\n" + "".join(f"{key} = {value}\n" for key, value in kept.items())


def read(text: str, step_s: int = STEP_S) -> list[MeterEntry]:
    return read_meters(text, "meters.toml", step_s, NOW_MS)


def test_a_meter_is_read_exactly() -> None:
    assert read(table()) == [
        MeterEntry(
            "pv-1",
            "pv-1.request",
            NOW_MS,
            MeterDetails(
                serial="MID-1",
                use=Use.GENERATION,
                source=CountingSource.PULSES,
                index_wh=1_234_567,
                accuracy_class="B",
                phases=3,
                voltage_mv=230_000,
                i_min_ma=250,
                i_max_ma=65_000,
                ratings_side=Side.PRIMARY,
                constant=Fraction(10_000),
                constant_side=Side.PRIMARY,
                ratio=Fraction(1),
                guard=Fraction(1),
                lot_pulses=8,
                coarse=False,
                exclusive=True,
            ),
        )
    ]


@pytest.mark.parametrize(
    ("field", "text", "attribute", "value"),
    [
        ("constant", "0.1", "constant", Fraction(1, 10)),  # no float between the file and us
        ("constant", '"2500/3"', "constant", Fraction(2500, 3)),
        ("voltage_v", "230.1", "voltage_mv", 230_100),
        ("voltage_v", '"230"', "voltage_mv", 230_000),
        ("index_kwh", "999999999.999", "index_wh", 999_999_999_999),
        ("guard", "0.1", "guard", Fraction(1, 10)),
        ("exclusive", "false", "exclusive", False),
        ("use", '"storage"', "use", Use.STORAGE),
    ],
)
def test_every_number_keeps_all_its_digits(
    field: str, text: str, attribute: str, value: object
) -> None:
    [entry] = read(table(accept_coarse="true", **{field: text}))
    assert getattr(entry.details, attribute) == value


def test_energy_per_pulse_stands_for_the_constant() -> None:
    [entry] = read(table(constant="", kwh_per_pulse="0.0003"))
    assert entry.details.constant == Fraction(10_000, 3)
    assert entry.details.lot_pulses == 2


def test_a_secondary_side_takes_the_ratio() -> None:
    sides = {"ratings_side": '"secondary"', "constant_side": '"secondary"', "ratio": "50"}
    [entry] = read(table(**sides))
    assert (entry.details.ratio, entry.details.lot_pulses) == (Fraction(50), 8)
    [entry] = read(table(ratings_side='"secondary"', ratio="50"))
    assert entry.details.lot_pulses == 431


def test_the_first_step_may_be_told_as_text_or_as_a_time_of_toml() -> None:
    for text in ('"2026-01-31T12:00:00Z"', "2026-01-31T13:00:00+01:00", '"now"'):
        [entry] = read(table(**{"from": text}))
        assert entry.from_ms == NOW_MS


def test_a_coarse_meter_is_refused_unless_accepted() -> None:
    with pytest.raises(ConfigurationError, match=r"meter 'pv-1': the meter is too coarse.*1160"):
        read(table(constant="1000"))
    [entry] = read(table(constant="1000", accept_coarse="true"))
    assert (entry.details.lot_pulses, entry.details.coarse) == (1, True)
    [entry] = read(table(accept_coarse="true"))
    assert (entry.details.lot_pulses, entry.details.coarse) == (8, False)


def test_an_index_has_no_lots_and_its_last_digit_says_what_it_is_worth() -> None:
    for text, constant in (("1", 1_000), ("0.1", 10_000), ("10", 100)):
        [entry] = read(table(source="'index'", constant="", resolution_wh=text))
        assert entry.details.source is CountingSource.INDEX
        assert entry.details.constant == constant
        assert entry.details.lot_pulses == 1
        assert not entry.details.coarse


def test_the_bound_is_that_of_the_communitys_step() -> None:
    [entry] = read(table(), step_s=3600)
    assert entry.details.lot_pulses == 34


def test_meters_keep_the_order_of_the_file() -> None:
    names = ["b", "a", "c"]
    text = "".join(table(name=f'"{name}"') for name in names)
    assert [entry.name for entry in read(text)] == names


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"holds tables \[\[meter\]\] and nothing else"),
        ("[meter]\nname = 'x'", "holds tables"),
        ("meter = []", "holds tables"),
        ("meter = [1]", "meter 1 is not a table"),
        ("x = 1\n" + table(), "and nothing else"),
        ("[[meter]", "is not TOML"),
        (table() + table(), "meter 'pv-1' stands there twice"),
        (table(serial=""), "meter 'pv-1' lacks 'serial'"),
        (table(name=""), "meter 1 lacks 'name'"),
        (table(**{"class": ""}), "lacks 'class'"),
        (table(constant=""), "needs either constant or kwh_per_pulse"),
        (table(kwh_per_pulse="0.0001"), "needs either constant or kwh_per_pulse"),
        (table(source="'index'"), "needs resolution_wh"),
        (table(source="'index'", constant=""), "needs resolution_wh"),
        (table(resolution_wh="1"), "goes with source = 'index'"),
        (table(constnat="1"), "no setting 'constnat'; did you mean 'constant'"),
        (table(**{"class": '"D"'}), r"class is one of A, B, C, not 'D'"),
        (table(use='"solar"'), "use is one of generation"),
        (table(phases="4"), "phases is from 1 to 3, not 4"),
        (table(phases="3.0"), "phases is of type int"),
        (table(voltage_v="0"), "above zero"),
        (table(i_min_a="0.0001"), "at most three decimals of amperes"),
        (table(i_max_a="0.1"), "I_max is below I_min"),
        (table(index_kwh="-1"), "index_kwh is a decimal number"),
        (table(index_kwh="1e3"), "index_kwh is a decimal number"),
        (table(constant="true"), "constant is of type str, not True"),
        (table(constant='"0"'), "constant is a positive number"),
        (table(guard="1.1"), "guard is above 0"),
        (table(ratio="50"), "has no effect"),
        (table(ratings_side='"secondary"'), "needs the ratio of the transformers"),
        (table(**{"from": "2026-01-31T12:00:00"}), 'from is "now" or a time with its offset'),
        (table(**{"from": "2026-01-31"}), 'from is "now" or a time with its offset'),
        (table(**{"from": "1"}), "from is of type str"),
    ],
)
def test_what_is_wrong_is_named(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as refused:
        read(text)
    assert "meters.toml" in str(refused.value)
    assert "class_" not in str(refused.value)
    assert "from_" not in str(refused.value)
