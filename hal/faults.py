"""Named points at which a program can be made to die, so that tests reach every one of them.

The code that must survive a death names its points; nothing happens there unless `arm` was called.
"""

import os
import signal
from enum import StrEnum

CRASH_VARIABLE = "CRYPTOMETER_CRASH_AT"  # "<point>" or "<point>:<n>", at the n-th passage


class Point(StrEnum):
    """Between any two of these steps a machine may stop."""

    FILE_APPEND = "file.append"  # before the write
    FILE_APPENDED = "file.appended"  # given, not durable
    FILE_SYNCED = "file.synced"
    FILE_PUT_WRITTEN = "file.put-written"  # the new content is durable under another name
    FILE_PUT_RENAMED = "file.put-renamed"  # the new name may not be durable yet
    KEY_MOVED = "key.moved"  # a key has another name, which may not be durable yet
    FILE_TRUNCATED = "file.truncated"
    FILE_REMOVED = "file.removed"
    DEVICE_SIGNED = "device.signed"  # a record is signed, not yet in the outbox
    DEVICE_SNAPSHOT = "device.snapshot"  # a new journal segment stands beside the old one
    GUARD_NOTED = "guard.noted"  # what the guard's count becomes is noted; it is not that yet
    DEVICE_PUBLISH = "device.publish"  # durable, about to be published
    STORE_COMMIT = "store.commit"  # before the commit
    STORE_COMMITTED = "store.committed"  # stored, not yet acknowledged
    PRIVATE_COMMIT = "private.commit"  # before a commit of the private store
    PRIVATE_COMMITTED = "private.committed"  # kept there; the gateway's own store may not know yet
    LEDGER_TILES = "ledger.tiles"  # new tiles stand, the checkpoint is still the old one
    LEDGER_CHECKPOINT = "ledger.checkpoint"  # the checkpoint stands, not yet published


_armed: dict[Point, int] = {}


def arm(setting: str | None) -> None:
    """Makes the program kill itself at a point; does nothing for None.

    Raises:
        ValueError: no such point.
    """
    if setting:
        name, _, passage = setting.partition(":")
        _armed[Point(name)] = int(passage or 1)


def passing(point: Point) -> None:
    """Marks that execution passes `point`."""
    if point in _armed:
        _armed[point] -= 1
        if _armed[point] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
