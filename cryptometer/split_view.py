"""Two ledgers that the gateways of one community have signed: evidence, which anyone can check
offline, that not everyone is shown the same one. No clock, no ledger.

Whoever has been given something signed compares it with what another has been given: heads of a
ledger, which checkpoints, proofs and shares carry, and blocks' headers name. It says of neither
ledger that it is the true one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cryptometer import records
from cryptometer.block_header import Header
from cryptometer.community import Community
from cryptometer.errors import Reason, Rejected
from cryptometer.keys import PublicKey
from cryptometer.proof import carried_records, is_proof, signed_head
from cryptometer.records import Record
from cryptometer.share_file import MAGIC, decode_share


@dataclass(frozen=True, slots=True)
class SplitView:
    """Evidence, the signatures verified: one ledger has one root at each size."""

    size: int
    first: bytes
    second: bytes


def split_view(first: Mapping[int, bytes], second: Mapping[int, bytes]) -> SplitView:
    """What two files show of the ledgers they are of, by the heads that each carries.

    Raises:
        Rejected: BAD_PROOF: no evidence, and why.
    """
    common = sorted(first.keys() & second.keys())
    for size in common:
        if first[size] != second[size]:
            return SplitView(size, first[size], second[size])
    if common:
        raise Rejected(
            Reason.BAD_PROOF,
            f"no evidence: both are of ledgers that begin with the same {common[-1]} leaves",
        )
    raise Rejected(
        Reason.BAD_PROOF,
        "no evidence: they name no size of the ledger in common. Whoever has the ledger of one can"
        " compare the other's checkpoint with it: cryptometer audit --since",
    )


def signed_heads(data: bytes, community: Community) -> dict[int, bytes]:
    """The roots that a file's signed parts name, by the ledger's size.

    Args:
        data: a checkpoint, a proof, a share, or a header's record.
        community: whom to trust; keys that were revoked or replaced since count, too.

    Raises:
        Rejected: it is none of these, or a gateway has not signed it.
    """
    if data.startswith(MAGIC):
        share = decode_share(data)
        notes, carried = [share.checkpoint], [records.decode(leaf.raw) for leaf in share.leaves]
    elif is_proof(data):
        text = data.decode(errors="replace")
        notes, carried = [signed_head(text).encode()], carried_records(text)
    elif data.startswith(community.origin.encode()):
        notes, carried = [data], []
    else:
        notes, carried = [], [records.decode(data)]
    heads: dict[int, bytes] = {}
    for note in notes:
        head = community.open_checkpoint(note, revoked=True)
        heads[head.size] = head.root
    makers = community.maker_keys()
    for record in carried:
        if isinstance(record.body, Header):
            _check_maker(record, community.id, makers)
            heads[record.body.previous.size] = record.body.previous.root
    return heads


def _check_maker(header: Record, community: bytes, makers: Mapping[bytes, PublicKey]) -> None:
    key = makers.get(header.key_id)
    if key is None or header.community != community:
        raise Rejected(Reason.UNKNOWN_KEY, "a header that no gateway of this community has signed")
    header.envelope.verify(key)
