"""What pure functions of the product said once in a simulation. Many parties there ask the same of
the same bytes: the device, the door, the block, the auditors. The answer is computed once.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Generic, TypeVar
from unittest.mock import patch

from cryptometer import cose, records
from cryptometer.cose import Envelope
from cryptometer.errors import Rejected
from cryptometer.keys import PublicKey
from cryptometer.records import Record
from hal.keyfile import FileKey

# Of one run: a hundred steps of six boards come to three thousand. At a limit all is forgotten.
ANSWERS_MAX = 10_000

Said = TypeVar("Said")


class _Memory(Generic[Said]):
    """What one function answered, refusals among it."""

    def __init__(self, ask: Callable[..., Said]) -> None:
        self._ask = ask
        self._answers: dict[Hashable, tuple[Said] | Rejected] = {}

    def recall(self, asked: Hashable, *arguments: Any) -> Said:
        """What the function says of `arguments`, which `asked` holds every bit of."""
        answer = self._answers.get(asked)
        if answer is None:
            if len(self._answers) >= ANSWERS_MAX:
                self._answers.clear()
            answer = self._answers[asked] = self._hear(arguments)
        if isinstance(answer, Rejected):
            raise Rejected(answer.reason, answer.detail)
        return answer[0]

    def learn(self, asked: Hashable, said: Said) -> None:
        """Keeps an answer that is known without asking."""
        self._answers.setdefault(asked, (said,))

    def _hear(self, arguments: tuple[Any, ...]) -> tuple[Said] | Rejected:
        try:
            return (self._ask(*arguments),)
        except Rejected as refused:
            return refused


@contextmanager
def remembering() -> Iterator[None]:
    """While it lasts a signature is verified once for each key, signature and signed bytes, and a
    record read once for each of its bytes, every bit of them, by whatever the functions are now: a
    defect put there is remembered too. What they give is frozen, so that all may hold it. What a
    key has signed here is known to verify: that its library's two halves agree is not in question.
    """
    verdicts = _Memory[None](PublicKey.verify)
    envelopes = _Memory[Envelope](cose.open_seal)
    bodies = _Memory[Record](records.decode_body)
    wholes = _Memory[Record](records.decode)

    def verify(key: PublicKey, signature: bytes, data: bytes) -> None:
        # As a number: an enumeration's own hash costs more than the rest.
        asked = (int(key.algorithm), key.coordinates, signature, data)
        verdicts.recall(asked, key, signature, data)

    sign_anew = FileKey.sign

    def sign(key: FileKey, data: bytes) -> bytes:
        signature = sign_anew(key, data)
        own = key.public
        verdicts.learn((int(own.algorithm), own.coordinates, signature, data), None)
        return signature

    with ExitStack() as stack:
        for where, name, once in (
            (FileKey, "sign", sign),
            (PublicKey, "verify", verify),
            (cose, "open_seal", lambda raw: envelopes.recall(raw, raw)),
            (records, "decode_body", lambda envelope: bodies.recall(envelope, envelope)),
            (records, "decode", lambda raw: wholes.recall(raw, raw)),
        ):
            stack.enter_context(patch.object(where, name, once))
        yield
