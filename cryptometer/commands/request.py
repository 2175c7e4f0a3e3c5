"""`cryptometer request`: makes the key of a party that runs no program of its own, such as a
member, and the enrolment request by which the authority registers it."""

import argparse
import platform
import time
from pathlib import Path

from cryptometer import __version__, records
from cryptometer.enrolment import EnrolmentRequest
from cryptometer.keys import Signer
from cryptometer.record_fields import Role
from hal.files import put_file
from hal.keyfile import create_key, load_key

SOFTWARE = f"cryptometer {__version__}"
ROLES = (Role.MEMBER, Role.NODE)
_HOST_MAX = 120  # characters that a request can state


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Registers `request`."""
    parser = subparsers.add_parser(
        "request",
        help="make a member's key, and the request to be registered",
        description="Makes DIR/ROLE.key, which nobody else may see, and DIR/ROLE.request, which the"
        " authority is given. A key that is there is never overwritten: its request is written"
        " again.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="made when missing")
    parser.add_argument(
        "--role",
        choices=[role.value for role in ROLES],
        default=Role.MEMBER.value,
        help="what the party asks to be (default: %(default)s)",
    )
    parser.set_defaults(run=_run)


def make_request(folder: Path, role: Role, now_ms: int) -> str:
    """Makes key and request; returns a line on them.

    Args:
        folder: where; made when missing.
        role: what the party asks to be.
        now_ms: this machine's time, ms since the Unix epoch.

    Raises:
        ConfigurationError: what stands in the key's place is no key.
    """
    at = folder / f"{role}.key"
    key: Signer = load_key(at) if at.exists() else create_key(at)
    request = EnrolmentRequest(role, key.public, platform.node()[:_HOST_MAX], SOFTWARE, now_ms)
    target = at.with_suffix(".request")
    put_file(target, records.seal(request, None, key).raw, mode=0o644)
    return (
        f"{role} {key.public.thumbprint.hex()}\n"
        f"Give {target} to the authority, and tell it these digits by another way; keep {at}"
    )


def _run(arguments: argparse.Namespace) -> int:
    print(make_request(arguments.folder, Role(arguments.role), time.time_ns() // 1_000_000))
    return 0
