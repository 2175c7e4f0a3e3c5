"""When each of the bytes came that wait, and the sums that two protocols share."""

from hypothesis import given
from hypothesis import strategies as st

from hal.index.arrivals import Arrivals
from hal.index.crc16 import kermit, x25


@given(st.lists(st.one_of(st.binary(max_size=5), st.integers(0, 7)), max_size=30))
def test_each_byte_keeps_the_time_at_which_it_came(steps: list[bytes | int]) -> None:
    came, expected = Arrivals(), list[tuple[int, int]]()
    for at_ns, step in enumerate(steps):
        if isinstance(step, bytes):
            came.put(step, at_ns // 2)
            expected += [(value, at_ns // 2) for value in step]
        else:
            came.drop(min(step, len(expected)))
            del expected[:step]
        assert list(came.data) == [value for value, _ in expected]
        assert [came.came_ns(place) for place in range(len(expected))] == [
            at_ns for _, at_ns in expected
        ]


def test_the_sums_have_their_published_check_values() -> None:
    assert (x25(b"123456789"), kermit(b"123456789")) == (0x906E, 0x2189)
    assert (x25(b""), kermit(b"")) == (0, 0)
