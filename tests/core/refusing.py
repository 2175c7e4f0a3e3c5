"""How tests state that something is refused: with this reason, and with these words."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cryptometer.errors import Reason, Rejected


@contextmanager
def refusing(reason: Reason, *words: str) -> Iterator[None]:
    """What is inside raises Rejected with `reason`, and its detail holds every one of `words`."""
    with pytest.raises(Rejected) as refused:
        yield
    assert refused.value.reason is reason, refused.value
    for word in words:
        assert word in refused.value.detail, refused.value
