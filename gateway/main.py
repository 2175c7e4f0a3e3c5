"""`cryptometer-gateway`: the command line."""

import argparse
import json
import os
import sqlite3
import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from cryptometer.errors import ConfigurationError
from cryptometer.openings import Opening
from cryptometer.step_table import step_named
from gateway import exporting, reporting
from gateway.access_commands import add_commands as add_access_commands
from gateway.fact_commands import add_commands as add_fact_commands
from gateway.folder import (
    Folder,
    import_file,
    initialise,
    open_folder,
    prepare_successor,
    read_community,
)
from gateway.member_commands import add_commands as add_member_commands
from hal import faults, screen
from hal.files import DiskTree, check_owner
from hal.handing import OUT_HELP, hand_out
from hal.program import EXIT_FAILED, add_version, run

DEFAULT = Path("/var/lib/cryptometer-gateway")
STEP_HELP = "its number, or the moment when it begins, like 2026-10-25T14:00Z"
EXIT_BEHIND = 3  # there is a newer ledger than ours: starting again mends nothing


def main() -> int:
    """Entry point of the console script."""
    faults.arm(os.environ.get(faults.CRASH_VARIABLE))
    arguments = _parser().parse_args()
    from gateway.behind import Behind  # noqa: PLC0415

    # A failed write or commit ends the program cleanly; the next start recovers.
    return run(
        "cryptometer-gateway",
        lambda: int(arguments.act(arguments)),
        (Behind, EXIT_BEHIND),
        (OSError, EXIT_FAILED),
        (sqlite3.Error, EXIT_FAILED),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cryptometer-gateway",
        description="Verifies a community's signed lots, seals one block per market step, and"
        " publishes the ledger.",
    )
    add_version(parser)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    init = commands.add_parser("init", help="make a gateway's folder, keys and requests")
    init.add_argument("folder", type=Path, help="to be made")
    init.set_defaults(act=lambda arguments: _print(initialise(arguments.folder)))

    successor = commands.add_parser("successor", help="make the key that is to replace this one")
    _add_config(successor)
    successor.set_defaults(act=lambda arguments: _print(prepare_successor(_folder(arguments))))

    imported = commands.add_parser("import", help="take a bundle, or the authority's records")
    imported.add_argument(
        "files",
        type=Path,
        nargs="+",
        help="gateway.bundle, authority.records or both; - is standard input",
    )
    _add_config(imported)
    imported.set_defaults(act=_import)

    run = commands.add_parser("run", help="receive, verify, seal, publish")
    _add_config(run)
    run.set_defaults(act=_run)

    status = commands.add_parser("status", help="meters, blocks and punctuality")
    status.add_argument("--json", action="store_true", help="for programs")
    screen.add_watch(status)
    _add_config(status)
    status.set_defaults(act=_status)

    serve = commands.add_parser("serve", help="let others read ledger, blocks and figures by HTTP")
    serve.add_argument(
        "--members",
        action="store_true",
        help="in place of what is public: what is a member's, to who has a token",
    )
    _add_config(serve)
    serve.set_defaults(act=_serve)

    prove = commands.add_parser("prove", help="write the proof that a record or block stands")
    prove.add_argument("what", help="METER/SEQUENCE, a record's identity in hex, or a step")
    prove.add_argument("--out", type=Path, required=True, help=f"the .tlog-proof file, {OUT_HELP}")
    _add_config(prove)
    prove.set_defaults(act=_prove)

    exporting.add_commands(commands, DEFAULT)
    reporting.add_commands(commands, DEFAULT)

    share = commands.add_parser("share", help="write the proof of a member's share of a step")
    share.add_argument("member")
    share.add_argument("step", help=STEP_HELP)
    share.add_argument("--out", type=Path, required=True, help=f"the .share file, {OUT_HELP}")
    _add_config(share)
    share.set_defaults(act=_share)

    asked = commands.add_parser("why", help="say why a member got what he got in a step")
    asked.add_argument("member")
    asked.add_argument("step", help=STEP_HELP)
    _add_config(asked)
    asked.set_defaults(act=_why)

    backup = commands.add_parser("backup", help="write keys, store and ledger to one file")
    backup.add_argument("--out", type=Path, required=True, help="the file; it holds private keys")
    _add_config(backup)
    backup.set_defaults(act=_backup)

    restore = commands.add_parser("restore", help="make a folder from a backup, in a new epoch")
    restore.add_argument("backup", type=Path, help="what `backup` wrote")
    restore.add_argument("folder", type=Path, help="an empty one, or none yet")
    restore.add_argument("--ledger", type=Path, help="ledger files newer than the backup's")
    restore.set_defaults(act=_restore)

    add_member_commands(commands, _add_config)
    add_fact_commands(commands, _add_config)
    add_access_commands(commands, _add_config)
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, default=DEFAULT, help="gateway.toml, or the folder that holds it"
    )


def _folder(arguments: argparse.Namespace) -> Folder:
    return open_folder(arguments.config)


def _import(arguments: argparse.Namespace) -> int:
    folder = _folder(arguments)
    check_owner(folder.state)
    for source in arguments.files:
        print(import_file(folder, source))
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from gateway.service import serve  # noqa: PLC0415

    return serve(_folder(arguments))


def _status(arguments: argparse.Namespace) -> int:
    folder = _folder(arguments)
    return screen.show(lambda: _describe(folder, as_json=arguments.json), arguments.watch)


def _describe(folder: Folder, *, as_json: bool) -> str:
    from gateway.private_reading import open_facts  # noqa: PLC0415
    from gateway.report import describe, make_report  # noqa: PLC0415

    with (
        closing(folder.open_store(read_only=True)) as store,
        store.one_moment(),
        open_facts(folder.private) as facts,
    ):
        state = store.state()
        if state is None:
            raise ConfigurationError(
                "there is no block yet: import the authority's files, then run the gateway"
            )
        report = make_report(store, state, facts)
    return json.dumps(asdict(report)) if as_json else "\n".join(describe(report))


def _serve(arguments: argparse.Namespace) -> int:
    # Each in a process of its own: the public side knows no way to the private store.
    if arguments.members:
        from gateway.members_pages import serve_members  # noqa: PLC0415

        return serve_members(_folder(arguments))
    from gateway.web import serve  # noqa: PLC0415

    return serve(_folder(arguments))


def _prove(arguments: argparse.Namespace) -> int:
    from gateway.prove import prove  # noqa: PLC0415

    folder = _folder(arguments)
    with closing(folder.open_store(read_only=True)) as store:
        community = read_community(store)
        text = prove(arguments.what, store, DiskTree(folder.ledger).read, community)
    return hand_out(arguments.out, text.encode(), "check it with cryptometer verify", 0o644)


def _share(arguments: argparse.Namespace) -> int:
    from gateway.private_reading import open_opening  # noqa: PLC0415
    from gateway.share import make_share  # noqa: PLC0415
    from gateway.store import StoreDamaged  # noqa: PLC0415

    folder, member = _folder(arguments), arguments.member
    with closing(folder.open_store(read_only=True)) as store:
        community = read_community(store)
        step = step_named(arguments.step, community.parameters.step_s)

        def opens(digest: bytes) -> Opening | None:
            try:
                return open_opening(folder.private, community.id, member, step, digest)
            except (StoreDamaged, ConfigurationError) as error:
                print(f"nothing of what {member} consumed is in it: {error}", file=sys.stderr)
                return None

        data = make_share(member, step, store, DiskTree(folder.ledger).read, community, opens)
    # It may open what the member consumed: for his eyes, and those he shows it to.
    return hand_out(arguments.out, data, "check it with cryptometer verify")


def _why(arguments: argparse.Namespace) -> int:
    from gateway.private_reading import open_facts  # noqa: PLC0415
    from gateway.why import why  # noqa: PLC0415

    folder = _folder(arguments)
    with (
        closing(folder.open_store(read_only=True)) as store,
        store.one_moment(),
        open_facts(folder.private) as facts,
    ):
        community = read_community(store)
        read = DiskTree(folder.ledger).read
        step = step_named(arguments.step, community.parameters.step_s)
        lines = why(arguments.member, step, store, read, community, facts)
    return _print("\n".join(lines))


def _backup(arguments: argparse.Namespace) -> int:
    from gateway.backup import backup  # noqa: PLC0415

    return _print(backup(_folder(arguments), arguments.out))


def _restore(arguments: argparse.Namespace) -> int:
    from gateway.backup import restore  # noqa: PLC0415

    return _print(restore(arguments.backup, arguments.folder, arguments.ledger))


def _print(text: str) -> int:
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
