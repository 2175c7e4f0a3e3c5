"""Backup and restore. A backup is one file: keys, store and ledger of one moment.

A restored store lacks what came after the backup. It is brought forward from the ledger's files as
far as they go, and begins a new epoch, so that devices send again what it has lost.
"""

import io
import os
import sqlite3
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import batched
from pathlib import Path, PurePosixPath

from cryptometer import records
from cryptometer.block import check_block
from cryptometer.community import Community
from cryptometer.errors import ConfigurationError, Reason, Rejected
from cryptometer.records import AuthorityRecord, Checkpoint, Header, Record
from cryptometer.tiles import (
    CHECKPOINT_PATH,
    TILE_WIDTH,
    Read,
    encode_bundle,
    levels_of,
    read_entries,
    read_tile,
    tiles_of,
)
from gateway.filing import file_block
from gateway.folder import Folder, open_folder, read_community
from gateway.ledger import Ledger
from gateway.sqlite_store import SqliteStore, connect, set_epoch
from gateway.store import Changes
from hal.files import DiskTree, make_folder, put_file, sync_folder

_STATE_FILES = ("gateway.key", "vpp.key", "gateway.request", "vpp.request", "gateway.bundle")
_TOML, _STORE = "gateway.toml", "store.sqlite"
_LEDGER, _BROKER, _IMPORTS = "ledger", "broker", "imports"
_WRITTEN_TOGETHER = 256  # ledger files; bounds memory, and their folders are synced together
