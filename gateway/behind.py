"""Whether a newer ledger than the store's is out: in the ledger's files, or kept by the broker.

Files that are older than the store are brought up to it; the store is never brought back.
"""

from cryptometer.community import Community
from cryptometer.errors import Rejected
from cryptometer.record_fields import Checkpoint
from cryptometer.state import State
from cryptometer.tiles import TILE_WIDTH
from gateway.ledger import Ledger
from gateway.store import Store


class Behind(Exception):  # noqa: N818 - a state of the world, not a fault in the code
    """There is a newer ledger than ours; going on would fork it. The message says what to do."""


def check_files(store: Store, ledger: Ledger, community: Community, state: State) -> list[str]:
    """Brings the ledger's files up to the store's state; returns those that were written anew.

    Raises:
        Behind: the files hold what the store does not, or the store cannot mend them any more.
        Rejected: a file is damaged.
    """
    ours = state.checkpoint
    signed = ledger.checkpoint()
    published = Checkpoint(0, b"")
    if signed is not None:
        try:
            # Whoever had signed it before his key was revoked: it is our own folder.
            published = community.open_checkpoint(signed, revoked=True)
        except Rejected as refused:
            raise Rejected(
                refused.reason, f"the ledger's checkpoint file: {refused.detail}"
            ) from None
    if published.size > ours.size:
        raise Behind(
            f"the ledger's files hold {published.size} leaves, the store {ours.size}."
            " Restore a newer backup: cryptometer-gateway restore, with these files as --ledger"
        )
    if published.size == ours.size and signed is not None and published != ours:
        raise Behind(
            f"the ledger's files hold {ours.size} leaves that are not those of the store."
            " Restore both from one backup: cryptometer-gateway restore"
        )
    newest = store.blocks(1)
    kept = dict(store.staged())
    try:
        if published.size < ours.size and newest:
            # From the bundle's begin, where the store still has it: no file is built upon.
            whole = published.size - published.size % TILE_WIDTH
            begin = whole if whole in kept else published.size
            staged = [kept[leaf] for leaf in range(begin, ours.size) if leaf in kept]
            if begin + len(staged) != ours.size:
                raise Behind(
                    f"the ledger's files hold {published.size} leaves, the store has let go of"
                    f" those up to {ours.size - len(staged)}. Restore the files from a backup"
                )
            ledger.publish(begin, staged, newest[0].note)
        return ledger.recover(state.frontier, kept)
    except Rejected as refused:
        raise Rejected(
            refused.reason,
            f"the ledger's files: {refused.detail}. Put back that file from a mirror or a"
            " backup, or restore: cryptometer-gateway restore",
        ) from None


def check_retained(signed: bytes, community: Community, state: State) -> None:
    """Looks at the checkpoint that the broker keeps.

    Raises:
        Behind: it is of a newer ledger than the store's.
    """
    try:
        # Of every gateway, or of this one under an earlier key: whoever signed it, a newer
        # ledger is there. Not of a revoked key: its thief could stop us with it.
        checkpoint = community.open_checkpoint(signed)
    except Rejected:
        return  # the broker is trusted with nothing but delivery
    ours = state.checkpoint
    if checkpoint.size > ours.size or (checkpoint.size == ours.size and checkpoint != ours):
        raise Behind(
            f"the broker keeps a checkpoint of {checkpoint.size} leaves, and the store has"
            f" {ours.size}. Restore a newer backup: cryptometer-gateway restore, with"
            " the newest of the ledger's files as --ledger"
        )


def full_bundles(size: int) -> int:
    """How many of the leaves stand in files that are never written again. The store keeps the
    others' bytes: a partial bundle that is damaged is written anew from them."""
    return size - size % TILE_WIDTH
