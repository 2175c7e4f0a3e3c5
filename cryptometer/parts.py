"""One distribution as records: split into parts where one record does not hold it, and joined."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cryptometer.errors import Reason, Rejected
from cryptometer.settlement import Plant
from cryptometer.sharing_records import PARTS_MAX, Distribution, Part

# Of what a part lists; the rest of a record, its signature included, takes less than 1 KiB.
_PART_BYTES = 60_000
_INPUT_BYTES = 56
_NUMBERS_BYTES = 24  # of an output, beside its name
_DIGEST_BYTES = 40  # of a commitment, beside its name
_COEFFICIENT_BYTES = 9
_LISTS = ("inputs", "outputs", "commitments", "coefficients")


def split(whole: Distribution, plant: Plant) -> list[Distribution]:
    """A distribution as the next records of the plant's chain, as many as it takes; all but the
    first still lack their `previous`, which is the identity of the one before."""
    pieces: list[_Piece] = [_Piece()]
    for name, item, size in _listed(whole):
        if pieces[-1].size + size > _PART_BYTES:
            pieces.append(_Piece())
        pieces[-1].add(name, item, size)
    if len(pieces) > PARTS_MAX:
        raise ValueError(f"a distribution of {len(pieces)} parts")
    parts = []
    for number, piece in enumerate(pieces, 1):
        is_last = number == len(pieces)
        parts.append(
            replace(
                whole,
                sequence=plant.sequence + number - 1,
                previous=plant.previous,
                part=Part(number, len(pieces)),
                inputs=tuple(piece.lists["inputs"]),
                outputs=tuple(piece.lists["outputs"]),
                commitments=tuple(piece.lists["commitments"]),
                coefficients=tuple(piece.lists["coefficients"]),
                losses_uwh=whole.losses_uwh if is_last else 0,
                fee_uwh=whole.fee_uwh if is_last else 0,
                surplus_uwh=whole.surplus_uwh if is_last else 0,
                from_surplus_uwh=whole.from_surplus_uwh if is_last else 0,
            )
        )
    return parts


def join(parts: Sequence[Distribution]) -> Distribution:
    """One distribution as a whole, from all its parts in the order of their numbers.

    Raises:
        Rejected: INCOMPLETE: they are not that.
    """
    first, last = parts[0], parts[-1]
    same = {(one.vpp, one.step, one.supplement, one.agreement, one.part.parts) for one in parts}
    numbers = [one.part.number for one in parts]
    if len(same) > 1 or numbers != list(range(1, first.part.parts + 1)):
        raise Rejected(Reason.INCOMPLETE, f"parts {numbers} of {first.part.parts}")
    for one in parts[:-1]:
        if one.losses_uwh or one.fee_uwh or one.surplus_uwh or one.from_surplus_uwh:
            raise Rejected(Reason.INCOMPLETE, "losses, fee and surplus stand in the last part")
    return replace(
        last,
        sequence=first.sequence,
        previous=first.previous,
        part=Part(1, 1),
        inputs=tuple(item for one in parts for item in one.inputs),
        outputs=tuple(item for one in parts for item in one.outputs),
        commitments=tuple(item for one in parts for item in one.commitments),
        coefficients=tuple(item for one in parts for item in one.coefficients),
    )


class _Piece:
    """What one part lists, while it is gathered."""

    def __init__(self) -> None:
        self.size = 0
        self.lists: dict[str, list[Any]] = {name: [] for name in _LISTS}

    def add(self, name: str, item: object, size: int) -> None:
        self.lists[name].append(item)
        self.size += size


def _listed(whole: Distribution) -> list[tuple[str, object, int]]:
    """All that a distribution lists: of which list, and its size in bytes at most."""
    return [
        *(("inputs", one, _INPUT_BYTES) for one in whole.inputs),
        *(("outputs", one, len(one.member) + _NUMBERS_BYTES) for one in whole.outputs),
        *(("commitments", one, len(one.member) + _DIGEST_BYTES) for one in whole.commitments),
        *(("coefficients", one, _COEFFICIENT_BYTES) for one in whole.coefficients),
    ]
