"""`cryptometer inspect`: prints what a file says, whatever of ours it is. It checks no signature.

`verify` and `audit` check; this shows, also what they refuse.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from cryptometer import cbor, records
from cryptometer.authority_records import Genesis
from cryptometer.block_header import Header
from cryptometer.commands.sources import ledger_folder, ledger_reader, read_file
from cryptometer.community import decode_community
from cryptometer.enrolment import Bundle
from cryptometer.errors import ConfigurationError, Reason, Rejected
from cryptometer.note import decimal
from cryptometer.proof import carried_records
from cryptometer.readable import describe_record, summarise_record
from cryptometer.records import Record
from cryptometer.tiles import (
    CHECKPOINT_PATH,
    TILE_WIDTH,
    Read,
    read_entries,
    split_bundle,
    tiles_of,
)

_COSE_SIGN1 = b"\x84"  # how a record begins: an array of four
_CHECKPOINT = b"cryptometer/1/"
_CBOR_ARRAY, _CBOR_ARRAY_END = 0x81, 0x9B


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Registers `inspect`."""
    parser = subparsers.add_parser(
        "inspect",
        help="print a record, block, proof or bundle",
        description="Prints a record, an enrolment request, a bundle, authority.records,"
        " community.pub, a proof, a ledger's entries or, with --step, one block of a ledger."
        " It shows what is written and checks no signature: see verify and audit.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a file, or a ledger's folder")
    parser.add_argument("--step", type=int, help="of a ledger: the block of this step")
    parser.add_argument("--brief", action="store_true", help="one line a record")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    path: Path = arguments.file
    try:
        if path.is_dir():
            shown, step_s = _from_ledger(path, arguments.step)
        elif arguments.step is not None:
            raise ConfigurationError("--step asks for a block: name the ledger's folder")
        else:
            shown, step_s = _from_file(read_file(path)), None
    except Rejected as refused:
        raise Rejected(refused.reason, f"{path}: {refused.detail}") from None
    for number, record in enumerate(shown):
        if arguments.brief:
            print(summarise_record(record))
        else:
            print("\n".join([""] * bool(number) + describe_record(record, step_s)))
    return 0


def _from_file(data: bytes) -> list[Record]:
    """The records in a file of ours.

    Raises:
        Rejected: it is none, or is damaged.
    """
    if data.startswith(b"c2sp.org/tlog-proof@"):
        return carried_records(_text(data))
    if b"-----BEGIN CRYPTOMETER COMMUNITY-----" in data:
        community = decode_community(_text(data))
        return [community.genesis, *community.records]
    # Entries first: the length of a large one may begin like an array.
    if entries := _entries(data):
        return [_decode(raw, f"entry {at}") for at, raw in enumerate(entries)]
    if data[:1] == _COSE_SIGN1:
        return _with_carried(records.decode(data))
    if data and _CBOR_ARRAY <= data[0] <= _CBOR_ARRAY_END:
        match cbor.decode(data):
            case [*raws] if raws and all(isinstance(raw, bytes) for raw in raws):
                return [_decode(raw, f"record {at}") for at, raw in enumerate(raws)]  # type: ignore[arg-type]  # checked just above
    if data.startswith(_CHECKPOINT):
        raise Rejected(Reason.MALFORMED, "a checkpoint holds no record; audit checks it")
    what = "no record, proof, bundle or other file of a community" if data else "it is empty"
    raise Rejected(Reason.MALFORMED, what)


def _entries(data: bytes) -> list[bytes]:
    """The entries of a ledger's entry bundle; none if it is something else."""
    try:
        entries = split_bundle(data)
    except Rejected:
        return []
    return entries if any(raw[:1] == _COSE_SIGN1 for raw in entries) else []


def _decode(raw: bytes, place: str) -> Record:
    try:
        return records.decode(raw)
    except Rejected as refused:
        raise Rejected(refused.reason, f"{place}: {refused.detail}") from None


def _with_carried(record: Record) -> list[Record]:
    """A record, and those a bundle carries."""
    if not isinstance(record.body, Bundle):
        return [record]
    carried = [record.body.genesis, *record.body.records]
    return [record, *(records.decode(raw) for raw in carried)]


def _from_ledger(path: Path, step: int | None) -> tuple[list[Record], int | None]:
    """A block's records, in order of its leaves, and the length of a step, seconds."""
    read = ledger_reader(ledger_folder(path))
    step_s: int | None = None
    first: int | None = None
    block: list[Record] = []
    newest: Header | None = None
    for record in _leaves(read):
        block.append(record)
        if isinstance(record.body, Genesis):
            step_s = record.body.step_s
        if isinstance(record.body, Header):
            newest = record.body
            first = newest.step if first is None else first
            if newest.step == step:
                return block, step_s
            block = []
    if newest is None or first is None:
        raise ConfigurationError(f"the ledger in {path} has no block yet")
    has = f"the ledger has those of steps {first} to {newest.step}"
    if step is None:
        raise ConfigurationError(f"name a block with --step; {has}")
    raise ConfigurationError(f"there is no block of step {step}; {has}")


def _leaves(read: Read) -> Iterator[Record]:
    size = _size(read(CHECKPOINT_PATH) or b"")
    for tile in tiles_of(None, 0, size):
        for at, raw in enumerate(read_entries(tile, read)):
            yield _decode(raw, f"leaf {tile.index * TILE_WIDTH + at}")


def _size(checkpoint: bytes) -> int:
    """The size a checkpoint states; only `audit` asks who signed it."""
    lines = checkpoint.split(b"\n")
    size = decimal(lines[1].decode(errors="replace")) if len(lines) > 2 else None
    if size is None:
        raise Rejected(Reason.BAD_CHECKPOINT, "the ledger's checkpoint is not one")
    return size


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Rejected(Reason.MALFORMED, "not UTF-8 text") from None
