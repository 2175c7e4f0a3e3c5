"""A number that was used is never given out again, whenever the program ends."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer.errors import ConfigurationError
from hal.counter_file import BLOCK, CounterFile
from tests.core.strategies import examples


def test_a_new_file_begins_at_0_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "counter"
    file = CounterFile(path)
    assert file.first == 0
    file.close(0)
    assert path.stat().st_mode & 0o777 == 0o600
    assert CounterFile(path).first == 0


def test_a_run_that_ends_well_gives_back_what_it_did_not_use(tmp_path: Path) -> None:
    file = CounterFile(tmp_path / "counter")
    file.keep(5)
    assert (tmp_path / "counter").read_text() == f"{5 + BLOCK:010}\n"
    file.close(6)
    assert CounterFile(tmp_path / "counter").first == 6


@given(runs=st.lists(st.tuples(st.lists(st.integers(1, 2 * BLOCK), max_size=4), st.booleans())))
@examples(60)
def test_no_number_is_used_twice_however_runs_end(
    tmp_path_factory: pytest.TempPathFactory,
    runs: list[tuple[list[int], bool]],
) -> None:
    path = tmp_path_factory.mktemp("counter") / "counter"
    used = 0  # all numbers before it may have been
    for messages, ends_well in runs:
        file = CounterFile(path)
        assert file.first >= used
        unused = file.first
        for count in messages:
            unused += count
            file.keep(unused)
        used = unused
        if ends_well:
            file.close(unused)
        else:
            file.abandon()


def test_a_number_that_somebody_wrote_is_where_it_goes_on(tmp_path: Path) -> None:
    (tmp_path / "counter").write_text("  70000 \n")
    file = CounterFile(tmp_path / "counter")
    assert file.first == 70_000
    file.close(70_001)
    assert (tmp_path / "counter").read_text() == "0000070001\n"


@pytest.mark.parametrize("content", [b"x", b"-1", b"\n", b"\xff\xff", b"1" * 30])
def test_a_file_without_a_number_is_refused_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "counter").write_bytes(content)
    with pytest.raises(ConfigurationError, match="write one into it that is greater than any used"):
        CounterFile(tmp_path / "counter")


def test_two_meters_do_not_count_in_one_file(tmp_path: Path) -> None:
    file = CounterFile(tmp_path / "counter")
    with pytest.raises(ConfigurationError, match="another meter counts in it"):
        CounterFile(tmp_path / "counter")
    file.close(0)


def test_a_file_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot open .*: No such file"):
        CounterFile(tmp_path / "none" / "counter")
