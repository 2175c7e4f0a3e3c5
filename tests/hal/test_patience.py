"""A store of keys that hangs keeps nobody waiting, and is asked again once it has come back."""

import threading
import time
from collections.abc import Iterator

import pytest

from cryptometer.keys import KeyLost
from hal.patience import Patience, PatientGuard, PatientKey
from tests.keys import signer

PATIENCE_S = 0.05
LONG_S = 10.0


class Store:
    """A key and a count that can be made to hang."""

    where = "token 'meter'"

    def __init__(self) -> None:
        self._inner = signer(10)
        self.public = self._inner.public
        self.answers = threading.Event()
        self.answers.set()
        self.asked = 0
        self.count = 0

    def _ask(self) -> None:
        self.asked += 1
        self.answers.wait(LONG_S)

    def sign(self, data: bytes) -> bytes:
        self._ask()
        return self._inner.sign(data)

    def trouble(self) -> str:
        self._ask()
        return ""

    def read(self) -> int | None:
        self._ask()
        return self.count

    def advance(self) -> None:
        self._ask()
        self.count += 1


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store()
    yield made
    made.answers.set()  # no thread stays behind


def come_back(patience: Patience, store: Store) -> None:
    store.answers.set()
    assert patience._calling is not None
    patience._calling.join(LONG_S)


def test_what_the_store_brings_is_handed_on(store: Store) -> None:
    key, guard = PatientKey(store), PatientGuard(store, "counter")
    store.public.verify(key.sign(b"data"), b"data")
    guard.advance()
    assert (guard.read(), key.trouble(), key.where, key.public) == (
        1,
        "",
        "token 'meter'",
        store.public,
    )


def test_what_it_raises_is_raised(store: Store) -> None:
    def fail() -> int:
        raise KeyLost("there is no token")

    with pytest.raises(KeyLost, match="there is no token"):
        Patience("token").within(fail)
    with pytest.raises(ZeroDivisionError):
        Patience("token").within(lambda: 1 // 0)


def test_a_store_that_hangs_is_waited_for_once_and_asked_again_when_it_is_back(
    store: Store,
) -> None:
    key = PatientKey(store, PATIENCE_S)
    store.answers.clear()
    with pytest.raises(KeyLost, match="does not answer"):
        key.sign(b"first")
    begun_s = time.monotonic()
    for _ in range(1_000):
        with pytest.raises(KeyLost, match="has not answered yet"):
            key.sign(b"second")
    assert time.monotonic() - begun_s < LONG_S / 2
    assert key.trouble() == "the token 'meter' has not answered yet"
    assert store.asked == 1, "what hangs is asked for nothing else"
    come_back(key._patience, store)
    store.public.verify(key.sign(b"second"), b"second")


def test_a_count_that_hangs_may_have_been_advanced(store: Store) -> None:
    guard = PatientGuard(store, "TPM's counter", PATIENCE_S)
    store.answers.clear()
    with pytest.raises(KeyLost, match="the TPM's counter does not answer"):
        guard.advance()
    come_back(guard._patience, store)
    assert guard.read() == 1
