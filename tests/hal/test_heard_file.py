"""What was heard is not heard again, whenever the program ends, and for few writes."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer.errors import ConfigurationError
from cryptometer.steps import NS_PER_S
from hal.heard_file import KEEP_NS, HeardFile
from tests.core.strategies import examples

KEY, TITLE = bytes(range(16)), b"SIM\0\0\0\0\7"


def test_a_new_file_has_heard_nothing_and_is_its_owners_alone(tmp_path: Path) -> None:
    file = HeardFile(tmp_path / "heard", KEY)
    assert (file.title, file.counter) == (b"", -1)
    file.close()
    assert (tmp_path / "heard").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "heard").read_bytes()


@given(
    runs=st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(1, 2**20), st.integers(1, KEEP_NS)), max_size=5),
            st.booleans(),
        ),
        max_size=5,
    )
)
@examples(60)
def test_a_run_knows_what_was_heard_up_to_the_bound_and_never_more(
    tmp_path_factory: pytest.TempPathFactory,
    runs: list[tuple[list[tuple[int, int]], bool]],
) -> None:
    path = tmp_path_factory.mktemp("heard") / "heard"
    at_ns, counter = 0, -1
    for messages, ends_well in runs:
        file = HeardFile(path, KEY)
        assert file.counter <= counter  # it shuts out no message of the meter
        known = file.counter
        heard: list[tuple[int, int]] = []
        for later, pause_ns in messages:
            counter, at_ns = counter + later, at_ns + pause_ns
            file.keep(TITLE, counter, at_ns)
            heard.append((at_ns, counter))
        if ends_well:
            file.close()
            least = max([known, *(one for _, one in heard)])
        else:
            file.abandon()
            # All but those of the last minutes; the first of a run always.
            kept = [one for when, one in heard if when <= at_ns - KEEP_NS]
            least = max([known, *kept, *(one for _, one in heard[:1])])
        again = HeardFile(path, KEY)
        assert least <= again.counter <= counter
        assert again.title == (TITLE if again.counter >= 0 else b"")
        again.abandon()
        counter = max(again.counter, counter)


def test_a_telegram_a_second_costs_a_write_each_five_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs = 0

    def sync(_: int) -> None:
        nonlocal syncs
        syncs += 1

    file = HeardFile(tmp_path / "heard", KEY)
    monkeypatch.setattr(os, "fsync", sync)
    for second in range(86_400):
        file.keep(TITLE, second, second * NS_PER_S)
    assert syncs == 86_400 * NS_PER_S // KEEP_NS == 288
    file.close()


def test_under_another_key_a_counter_begins_anew(tmp_path: Path) -> None:
    file = HeardFile(tmp_path / "heard", KEY)
    file.keep(TITLE, 70_000, 0)
    file.close()
    assert KEY.hex() not in (tmp_path / "heard").read_text()
    other = HeardFile(tmp_path / "heard", bytes(16))
    assert (other.title, other.counter) == (b"", -1)
    other.close()
    # Nothing was heard under it: the file still knows the first.
    assert HeardFile(tmp_path / "heard", KEY).counter == 70_000


@pytest.mark.parametrize("content", [b"7\n", b"\n", b"\xff" * 9, b"0" * 64])
def test_a_file_of_something_else_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "heard").write_bytes(content)
    with pytest.raises(ConfigurationError, match="name another file"):
        HeardFile(tmp_path / "heard", KEY)
    assert (tmp_path / "heard").read_bytes() == content


def test_two_meters_have_not_one_file(tmp_path: Path) -> None:
    file = HeardFile(tmp_path / "heard", KEY)
    with pytest.raises(ConfigurationError, match="another meter counts in it"):
        HeardFile(tmp_path / "heard", KEY)
    file.close()
