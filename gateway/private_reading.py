"""The private store opened for one question, also where there is none or it may not be read."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from cryptometer.errors import ConfigurationError
from cryptometer.openings import Opening, commitment
from gateway.lacking import Facts
from gateway.private import PrivateStore
from gateway.store import StoreFailed
from gateway.vpp import NoFacts


def open_opening(
    path: Path, community: bytes, member: str, step: int, digest: bytes, *, read_only: bool = False
) -> Opening | None:
    """What opens a commitment to a member's consumption, also where that was corrected since; None
    where it is not known, or erased.

    Raises:
        ConfigurationError, StoreFailed: as `PrivateStore`.
    """
    if not path.exists():
        return None
    with closing(PrivateStore(path, read_only=read_only)) as store:
        for known in store.curve(member, step, step):
            for need in (one.energy_uwh for one in (known.value, *reversed(known.earlier))):
                salt = store.known_salt(member, step, need)
                if salt and commitment(community, step, member, need, salt) == digest:
                    return Opening(need, salt)
    return None


@contextmanager
def open_facts(path: Path) -> Iterator[Facts | None]:
    """What is known of members, to be read; None where this user may not, or it is damaged."""
    if not path.exists():
        yield NoFacts()
        return
    try:
        store = PrivateStore(path)
    except (StoreFailed, ConfigurationError):
        yield None
        return
    with closing(store):
        yield store
