"""What pure functions of the product said once in a simulation. Many parties there ask the same of
the same bytes: the device, the door, the block, the auditors. The answer is computed once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from cryptometer import records
from cryptometer.errors import Rejected
from cryptometer.keys import Algorithm, PublicKey
from cryptometer.records import Record

# Of one run: a hundred steps of six boards come to three thousand. At a limit all is forgotten.
VERDICTS_MAX = 10_000

_Asked = tuple[Algorithm, bytes, bytes, bytes]


@contextmanager
def verifying_once() -> Iterator[None]:
    """While it lasts a signature is verified once for each key, signature and signed bytes, every
    bit of them, by whatever `PublicKey.verify` is now: a defect put there is remembered too.
    """
    verify = PublicKey.verify
    verdicts: dict[_Asked, Rejected | None] = {}

    def remember(key: PublicKey, signature: bytes, data: bytes) -> None:
        asked = (key.algorithm, key.coordinates, signature, data)
        if asked not in verdicts:
            if len(verdicts) >= VERDICTS_MAX:
                verdicts.clear()
            verdicts[asked] = _verdict(key, signature, data)
        refused = verdicts[asked]
        if refused is not None:
            raise Rejected(refused.reason, refused.detail)

    def _verdict(key: PublicKey, signature: bytes, data: bytes) -> Rejected | None:
        try:
            verify(key, signature, data)
        except Rejected as refused:
            return refused
        return None

    with patch.object(PublicKey, "verify", remember):
        yield


class Reading:
    """Records as the checkers decode them: what one has read, the next need not read again. The
    programs that are checked decode all for themselves."""

    def __init__(self) -> None:
        self._decode = records.decode
        self._read: dict[bytes, Record] = {}

    def decode(self, raw: bytes) -> Record:
        """As `records.decode`."""
        record = self._read.get(raw)
        if record is None:
            record = self._read[raw] = self._decode(raw)
        return record
