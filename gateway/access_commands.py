"""The command `access`: who may read by the API what is a member's."""

import argparse
import os
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime

from cryptometer.authority_records import Registration
from cryptometer.errors import ConfigurationError
from cryptometer.readable import utc
from cryptometer.record_fields import Role
from cryptometer.steps import MS_PER_S, NS_PER_MS
from gateway.access import Grant, Holder, digest_of, make_token
from gateway.folder import Folder, open_folder, read_community
from gateway.private import PrivateStore

LASTS_MS = 366 * 86_400 * MS_PER_S  # unless told otherwise: what nobody renews ends


def add_commands(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    add_config: Callable[[argparse.ArgumentParser], None],
) -> None:
    """Gives the program's command line what this module does."""
    access = commands.add_parser(
        "access", help="who may read members' data by HTTP: give tokens, and take them back"
    ).add_subparsers(required=True, metavar="COMMAND")

    grant = access.add_parser(
        "grant",
        help="make a token",
        description="Makes a token and shows it once: only its hash is kept. Hand it over as you"
        " would a password.",
    )
    whom = grant.add_mutually_exclusive_group(required=True)
    whom.add_argument("member", nargs="?", help="who reads what is his own")
    whom.add_argument(
        "--operator", action="store_true", help="for who runs the gateway: everything"
    )
    whom.add_argument(
        "--dso", action="store_true", help="for the grid operator: all energy, nobody's address"
    )
    grant.add_argument(
        "--until", metavar="TIME", help="when it ends (ISO 8601, UTC); default: in a year"
    )
    add_config(grant)
    grant.set_defaults(act=_grant)

    revoke = access.add_parser("revoke", help="take a token back, at once")
    revoke.add_argument("number", help="of the grant, as `list` shows it")
    add_config(revoke)
    revoke.set_defaults(act=_revoke)

    listed = access.add_parser("list", help="who may read, and until when")
    add_config(listed)
    listed.set_defaults(act=_list)


def _grant(arguments: argparse.Namespace) -> int:
    folder = open_folder(arguments.config)
    holder = (
        Holder.OPERATOR if arguments.operator else Holder.DSO if arguments.dso else Holder.MEMBER
    )
    member = arguments.member or ""
    if holder is Holder.MEMBER:
        _check_member(folder, member)
    now_ms = time.time_ns() // NS_PER_MS
    until_ms = now_ms + LASTS_MS if arguments.until is None else _moment_ms(arguments.until)
    if until_ms <= now_ms:
        raise ConfigurationError(f"{arguments.until} is over already")
    token, number = make_token(os.urandom)
    with closing(PrivateStore(folder.private)) as store:
        store.put_grant(Grant(number, holder, member, digest_of(token), now_ms, until_ms))
    print(f"{number}: {_whom(holder, member)}, until {utc(until_ms)}. The token, shown this once:")
    print(token)
    return 0


def _revoke(arguments: argparse.Namespace) -> int:
    folder = open_folder(arguments.config)
    with closing(PrivateStore(folder.private)) as store:
        if not store.revoke(arguments.number):
            raise ConfigurationError(
                f"there is no grant {arguments.number[:63]!r}: cryptometer-gateway access list"
            )
    print(f"{arguments.number}: revoked")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    folder = open_folder(arguments.config)
    now_ms = time.time_ns() // NS_PER_MS
    with closing(PrivateStore(folder.private)) as store:
        grants = store.grants()
    for one in grants:
        over = "  OVER" if one.until_ms <= now_ms else ""
        print(f"{one.number}  {_whom(one.holder, one.member)}, until {utc(one.until_ms)}{over}")
    if not grants:
        print("nobody may read by HTTP what is a member's: cryptometer-gateway access grant")
    return 0


def _whom(holder: Holder, member: str) -> str:
    return f"member {member}" if holder is Holder.MEMBER else holder.value


def _check_member(folder: Folder, member: str) -> None:
    """A slip of the pen would give a token to nobody."""
    with closing(folder.open_store(read_only=True)) as store:
        community = read_community(store)
    names = {
        body.name
        for body in (record.body for record in community.records)
        if isinstance(body, Registration) and body.role is Role.MEMBER
    }
    if member not in names:
        known = ", ".join(sorted(names)) or "none"
        raise ConfigurationError(
            f"no member {member[:63]!r} is registered; there are: {known:.1000}"
        )


def _moment_ms(text: str) -> int:
    """Ms since the Unix epoch of a moment or a day's beginning, in UTC unless it says otherwise."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(
            f"{text[:63]!r} is no time: give 2027-12-31, or 2027-12-31T12:00:00Z"
        ) from None
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * MS_PER_S)
