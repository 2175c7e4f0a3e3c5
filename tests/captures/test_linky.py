"""Frames that Linky meters sent: each file gives what its publisher states, and no more."""

import json
from pathlib import Path
from typing import Any

import pytest

from hal.index.linky import LinkyDecoder
from hal.index.reading import Caveat, Index, Reading, Refusal, Refused
from tests.captures.place import CAPTURES

WHOLE = [
    "std_mono_enedis.bin",
    "std_mono_enedis_bad_pcoup.bin",
    "hist_enedis.bin",
    "hist_mono_tempo_10frames.bin",
]


@pytest.fixture(scope="module")
def linky() -> Path:
    """The folder of frames."""
    folder = CAPTURES / "linky"
    if not folder.is_dir():
        pytest.fail(f"no captured frames in {folder}: set CRYPTOMETER_CAPTURES to their folder")
    return folder


def receive(file: Path, size: int = 1 << 20) -> tuple[list[Reading], list[Refusal]]:
    """What a decoder makes of the file, handed over in pieces of that size."""
    data, decoder = file.read_bytes(), LinkyDecoder()
    found = [
        one
        for at in range(0, len(data), size)
        for one in decoder.receive(data[at : at + size], at_ns=at)
    ]
    return (
        [one for one in found if isinstance(one, Reading)],
        [one for one in found if isinstance(one, Refusal)],
    )


def stated(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(f"{file}.expect.json").read_bytes())
    return found


def groups_in(one: Reading) -> int:
    """How many good groups its frame had."""
    own = [name for name, _ in one.fields if not name.startswith("STGE ")]
    is_standard = "OPTARIF" not in own
    return 1 + len(own) + is_standard * sum(i is not None for i in (one.imported, one.exported))


@pytest.mark.parametrize("name", WHOLE)
def test_every_frame_and_every_good_group_is_read(linky: Path, name: str) -> None:
    expected = stated(linky / name)
    readings, refusals = receive(linky / name)
    assert len(readings) == expected["complete_frames"]
    assert sum(groups_in(one) for one in readings) == expected["groups_ok"]
    assert len(refusals) == len(expected["groups_bad"])
    for refusal, bad in zip(refusals, expected["groups_bad"], strict=True):
        assert repr(bad["label"]) in refusal.detail
    for one in readings:
        assert Caveat.WEAK_CHECK in one.caveats
        assert ("VTIC" in dict(one.fields)) == (expected["mode"] == "standard")


@pytest.mark.parametrize("name", [*WHOLE, "std_mono_producer.bin"])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_it_does_not_matter_how_a_frame_is_cut(linky: Path, name: str, size: int) -> None:
    in_pieces, _ = receive(linky / name, size)
    at_once, _ = receive(linky / name)
    assert [(one.imported, one.exported, one.fields) for one in in_pieces] == [
        (one.imported, one.exported, one.fields) for one in at_once
    ]


def test_the_consumer_says_its_address_its_clock_and_its_index(linky: Path) -> None:
    [one], _ = receive(linky / "std_mono_enedis.bin")
    fields = dict(one.fields)
    assert one.identity == "031664001115"
    assert (one.imported, one.exported) == (Index(0), None)
    assert fields["DATE"] == "E170915101601"
    assert one.meter_time_s == 1_505_463_361  # 08:16:01 UTC
    assert fields["PRM"] == "00000000000000"
    assert fields["SMAXSN"] == "E170915100926 00000"


def test_a_bad_group_leaves_the_others_usable(linky: Path) -> None:
    [good], [] = receive(linky / "std_mono_enedis.bin")
    [one], [refusal] = receive(linky / "std_mono_enedis_bad_pcoup.bin")
    assert refusal.reason is Refused.CHECKSUM
    assert one.imported == good.imported
    assert {*good.fields} - {*one.fields} == {("PCOUP", "02")}


def test_the_historic_frame_gives_its_base_register(linky: Path) -> None:
    [one], [] = receive(linky / "hist_enedis.bin")
    assert (one.identity, one.imported) == ("812164417227", Index(104))


def test_the_sum_of_six_registers_rises(linky: Path) -> None:
    readings, [] = receive(linky / "hist_mono_tempo_10frames.bin")
    registers = ("BBRHCJB", "BBRHPJB", "BBRHCJW", "BBRHPJW", "BBRHCJR", "BBRHPJR")
    sums = [sum(int(dict(one.fields)[label]) for label in registers) for one in readings]
    assert [one.imported for one in readings] == [Index(wh) for wh in sums]
    assert sums == sorted(sums)
    assert dict(readings[0].fields)["BBRHCJB"] == "018328856"
    assert {one.identity for one in readings} == {"021861348497"}
    assert all(2_830 <= int(dict(one.fields)["PAPP"]) <= 2_860 for one in readings)


def test_only_the_producers_whole_frame_counts(linky: Path) -> None:
    expected = stated(linky / "std_mono_producer.bin")
    [one], [] = receive(linky / "std_mono_producer.bin")
    assert one.exported == Index(expected["EAIT"])
    assert one.imported == Index(expected["EAST"])
    assert int(dict(one.fields)["SINSTI"]) == expected["SINSTI"]
    assert dict(one.fields)["NGTF"] == "PRODUCTEUR"
    assert dict(one.fields)["STGE producer"] == "yes"
    assert groups_in(one) == 46
