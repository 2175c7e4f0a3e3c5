"""A community that shares, as a gateway's folder: its blocks stand in the ledger's files, and its
authority's records in the store."""

from contextlib import closing
from pathlib import Path

from cryptometer import records
from cryptometer.authority_records import AuthorityRecord, Genesis
from cryptometer.sharing_records import Claim, Method
from gateway.folder import Folder, initialise, open_folder
from gateway.founding import found_store
from hal.files import DiskTree
from tests.core.community import Village

MEMBERS = ("ann", "max", "zoe")
CLAIMS = (Claim("ann", 1, 0), Claim("max", 3, 0), Claim("zoe", 0, 0))


def shares(steps: int) -> tuple[Village, int]:
    """A village of two generators and three members by fixed keys, and the first step that it
    shares. In that one m1 comes a step late; the second brings nothing, the others are distributed
    whole but for the last, which waits."""
    village = Village(meters=2)
    village.add_members(*MEMBERS, "grid")
    village.block()
    village.agree(*CLAIMS, method=Method.KEYS)
    village.block()
    first = village.next_step
    m0, m1 = village.devices
    village.send(m0.run_start(first), m1.run_start(first), *m0.step(first, 8))
    village.share()
    village.block()
    village.send(*m1.step(first, 4), *m0.step(first + 1), *m1.step(first + 1))
    village.share()
    village.block()
    for step in range(first + 2, first + steps - 1):
        village.send(*m0.step(step, 1 + step % 8), *m1.step(step, 2))
        village.share()
        village.block()
    village.send(*m0.step(first + steps - 1, 1))
    village.block()
    return village, first


def as_folder(village: Village, path: Path) -> Folder:
    """The folder of a gateway that made these blocks."""
    initialise(path)
    folder = open_folder(path)
    leaves = [records.decode(raw) for raw in village.leaves]
    authority = [one.raw for one in leaves if isinstance(one.body, Genesis | AuthorityRecord)]
    with closing(folder.open_store()) as store:
        found_store(store, authority)
    DiskTree(folder.ledger).put_all(village.files())
    return folder
