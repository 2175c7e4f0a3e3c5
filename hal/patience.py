"""A store of keys may hang: a token in mid-signature, a TPM's driver in mid-command. Whoever asks
it waits so long and no longer, for a board has lines to look at meanwhile.

The call itself cannot be broken off. It goes on in a thread of its own, and until it comes back no
other is made; what it brings then is dropped.
"""

import threading
from collections.abc import Callable
from typing import TypeVar

from cryptometer.keys import KeyLost, PublicKey
from hal.ports import Guard, StoredKey

# Tokens take a fifth of a second for a signature, a TPM that tests itself first two seconds. Half
# of what a service manager's watchdog waits would be the most.
PATIENCE_S = 5.0

T = TypeVar("T")


class Patience:
    """Calls one store, one call at a time."""

    def __init__(self, where: str, patience_s: float = PATIENCE_S) -> None:
        """`where`: the store, for people."""
        self._where = where
        self._patience_s = patience_s
        self._calling: threading.Thread | None = None

    def within(self, call: Callable[[], T]) -> T:
        """What the call returns, or raises.

        Raises:
            KeyLost: it takes too long, or an earlier one has not come back yet.
        """
        if self._calling is not None and self._calling.is_alive():
            raise KeyLost(f"the {self._where} has not answered yet")
        brought: list[T] = []
        failed: list[BaseException] = []

        def run() -> None:
            try:
                brought.append(call())
            except BaseException as error:  # noqa: BLE001 - raised by whoever waits
                failed.append(error)

        # A daemon: the program's end does not wait for it.
        self._calling = threading.Thread(target=run, daemon=True)
        self._calling.start()
        self._calling.join(self._patience_s)
        if brought:
            return brought[0]
        if failed:
            raise failed[0]
        raise KeyLost(f"the {self._where} does not answer")


class PatientKey:
    """A private key in a store that may hang: `hal.ports.StoredKey`."""

    def __init__(self, key: StoredKey, patience_s: float = PATIENCE_S) -> None:
        self._key = key
        self._patience = Patience(key.where, patience_s)

    @property
    def public(self) -> PublicKey:
        return self._key.public

    @property
    def where(self) -> str:
        return self._key.where

    def sign(self, data: bytes) -> bytes:
        return self._patience.within(lambda: self._key.sign(data))

    def trouble(self) -> str:
        try:
            return self._patience.within(self._key.trouble)
        except KeyLost as lost:
            return str(lost)


class PatientGuard:
    """A count in a store that may hang: `hal.ports.Guard`. One that was to be advanced and did not
    answer may have been."""

    def __init__(self, guard: Guard, where: str, patience_s: float = PATIENCE_S) -> None:
        self._guard = guard
        self._patience = Patience(where, patience_s)

    def read(self) -> int | None:
        return self._patience.within(self._guard.read)

    def advance(self) -> None:
        self._patience.within(self._guard.advance)
