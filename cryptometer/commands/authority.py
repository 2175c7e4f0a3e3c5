"""`cryptometer authority`: founds a community, registers and revokes its parties, broker included,
and signs how they share.

Each function does one command's work and returns what to tell the operator; the parsers at the end
only turn words into arguments.
"""

import argparse
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

from cryptometer import records
from cryptometer.agreed_terms import describe_terms
from cryptometer.authority_records import ChainPlace, CountingSource, Genesis
from cryptometer.commands import agreements
from cryptometer.commands import roll as rolls
from cryptometer.commands.bound import step_seconds
from cryptometer.commands.broker import INSTALLED
from cryptometer.commands.folder import (
    BrokerFile,
    CredentialKind,
    Folder,
    commit,
    found_folder,
    open_folder,
    write_derived,
)
from cryptometer.commands.meters import read_meters
from cryptometer.commands.quantities import duration_ms, energy_uwh, moment_ms
from cryptometer.commands.roll import Roll, Standing
from cryptometer.cose import RECORD_MAX
from cryptometer.enrolment import EnrolmentRequest
from cryptometer.errors import ConfigurationError, Reason, Rejected
from cryptometer.keys import PublicKey
from cryptometer.readable import utc
from cryptometer.record_fields import DIGEST, Role
from cryptometer.request_text import decode_request_text, is_request_text
from cryptometer.sharing_records import Agreement
from cryptometer.steps import MS_PER_S, step_of, step_start_ms
from hal import faults

TOKEN_STEPS = 4  # paper A, table IV: a voting token is valid for d = 4 market periods
QUORUM = 1  # one gateway makes the blocks


def init(
    path: Path,
    *,
    name: str,
    broker: BrokerFile,
    step_s: int,
    grace_ms: int,
    late_ms: int,
    token_uwh: int,
    first_step: int | None,
    now_ms: int,
) -> list[str]:
    """Founds a community in a folder of its own.

    Args:
        path: the folder.
        name: what people call the community.
        broker: where the broker is.
        step_s: the market step, seconds.
        grace_ms: how long after its end a step's block waits for closes, community time.
        late_ms: how late a record may be and still count, community time; whole steps.
        token_uwh: energy of one voting token, µWh.
        first_step: step of the first block; None for the one before the current step, so that a
            gateway can seal at once the block that holds the first registrations.
        now_ms: this machine's time, ms since the Unix epoch.

    Raises:
        ConfigurationError: an authority is there already, or a value cannot be.
    """
    late_steps, rest = divmod(late_ms, step_s * MS_PER_S)
    if rest:
        raise ConfigurationError(f"the late window is no whole number of steps of {step_s} s")
    first = step_of(now_ms, step_s) - 1 if first_step is None else first_step

    def genesis(authority: PublicKey) -> Genesis:
        return Genesis(
            name,
            authority,
            now_ms,
            first,
            step_s,
            grace_ms,
            late_steps,
            token_uwh,
            TOKEN_STEPS,
            QUORUM,
        )

    folder, said = found_folder(path, broker, genesis, _utc(now_ms))
    return [
        f"community {name}: {folder.roll.state.community.hex()}",
        f"{path / 'community.pub'} is what outsiders need; {path / 'authority.key'} is what none"
        " may see",
        _about_broker(folder),
        *said,
    ]


def register_party(
    path: Path,
    request: Path,
    role: Role,
    name: str,
    kind: CredentialKind | None,
    now_ms: int,
) -> list[str]:
    """Registers a gateway, VPP, member or node.

    Args:
        path: the authority's folder.
        request: the party's enrolment request.
        role: what the party is, and asked to be.
        name: what the community calls it.
        kind: its credential at the broker; None for the usual one.
        now_ms: this machine's time, ms since the Unix epoch.

    Raises:
        ConfigurationError: a file cannot be read, or the registration contradicts another.
        Rejected: the request does not hold.
    """
    if role is Role.METER:
        raise ConfigurationError("meters are registered with --meters, which describes them")
    key = read_request(request, role)
    with open_folder(path) as folder:
        first = _first_step(folder, now_ms)
        extended = rolls.registered(folder.roll, folder.signer, role, name, key, first, None)
        return _registered(folder, extended, [name], kind, now_ms)


def register_meters(
    path: Path, listing: Path, kind: CredentialKind | None, now_ms: int
) -> list[str]:
    """Registers every meter of a TOML file, or none.

    Raises:
        ConfigurationError: a file cannot be read, a meter is too coarse or described wrongly.
        Rejected: a request does not hold.
    """
    text = _read_text(listing)
    with open_folder(path) as folder:
        step_s = folder.roll.genesis.step_s
        entries = read_meters(text, str(listing), step_s, now_ms)
        extended = folder.roll
        for entry in entries:
            key = read_request(listing.parent / entry.request, Role.METER)
            first = _first_step(folder, entry.from_ms)
            extended = rolls.registered(
                extended, folder.signer, Role.METER, entry.name, key, first, entry.details
            )
        said = [
            f"{entry.name}: lots of up to {entry.details.lot_pulses} pulses"
            + (", COARSE: every record is marked" if entry.details.coarse else "")
            for entry in entries
        ]
        names = [entry.name for entry in entries]
        chains = _about_chains(path, folder.roll, extended, names)
        return said + _registered(folder, extended, names, kind, now_ms) + chains


def revoke(path: Path, name: str, reason: str, last: ChainPlace | None, now_ms: int) -> list[str]:
    """Ends a party's key, its access to the broker, and its bundle.

    Args:
        path: the authority's folder.
        name: whose.
        reason: stands in the ledger.
        last: the last valid record of a meter's chain; without it, none that comes is valid.
        now_ms: this machine's time, ms since the Unix epoch.

    Raises:
        ConfigurationError: nobody has this name, or nothing would change.
    """
    with open_folder(path) as folder:
        extended = rolls.revoked(folder.roll, folder.signer, name, reason, last)
        after, said = commit(folder, extended, {}, _utc(now_ms))
        named = agreements.names_still(extended, name, now_ms)
        return [f"{name} is revoked", *named, *_next(after), *said]


def re_anchor(
    path: Path, meter: str, at: int, register: int, reason: str, now_ms: int
) -> list[str]:
    """Lets a meter's chain go on where it could not.

    Args:
        path: the authority's folder.
        meter: its name.
        at: sequence number of its next record.
        register: pulses that record starts from.
        reason: stands in the ledger.
        now_ms: this machine's time, ms since the Unix epoch.

    Raises:
        ConfigurationError: there is no such meter, or it is revoked.
    """
    with open_folder(path) as folder:
        extended = rolls.re_anchored(folder.roll, folder.signer, meter, at, register, reason)
        after, said = commit(folder, extended, {}, _utc(now_ms))
        return [
            f"{meter} goes on with record {at} from register {register}",
            f"the gateway tells the device; or hand it {_bundle(path, meter)}",
            f"next: give the gateway {path / 'authority.records'}",
            *_said_of(after, said),
        ]


def agree(path: Path, file: Path, now_ms: int) -> list[str]:
    """Signs the agreement by which energy is shared from a step on.

    Args:
        path: the authority's folder.
        file: the agreement, TOML.
        now_ms: this machine's time, ms since the Unix epoch.

    Raises:
        ConfigurationError: the file cannot be read, says what cannot be, names somebody who is not
            registered, or a step that may have its block already.
        Rejected: the community's state refuses it.
    """
    text, where = _read_text(file), str(file)
    with open_folder(path) as folder:
        draft = agreements.read_agreement(text, where, now_ms)
        agreements.check_parties(draft, folder.roll, where)
        step = agreements.first_step(draft, folder.roll, now_ms, where)
        extended = rolls.agreed(
            folder.roll, folder.signer, lambda at, previous: draft.agreement(at, previous, step)
        )
        after, said = commit(folder, extended, {}, _utc(now_ms))
        record = extended.records[-1]
        agreement = record.body
        assert isinstance(agreement, Agreement)  # noqa: S101 - `agreed` has just put it there
        begins = utc(step_start_ms(step, folder.roll.genesis.step_s))
        return [
            f"agreement {record.identity.hex()}",
            f"it holds from step {step} on, which begins at {begins}, until another takes its"
            " place",
            *(f"  {line}" for line in agreements.succeeds(extended, agreement)),
            *(f"  {line}" for line in describe_terms(agreement)),
            f"next: give the gateway {after.path / 'authority.records'} before {begins}: in a later"
            " block it has no effect, and must be signed again",
            *_said_of(after, said),
        ]


def export(path: Path, now_ms: int) -> list[str]:
    """Writes again all that follows from the records: after a command was cut off, after a change
    of `broker.toml`, and once in a while, since it renews certificates in their last year.

    Raises:
        ConfigurationError: the folder is none, or does not fit together.
    """
    with open_folder(path) as folder:
        said = write_derived(folder, _utc(now_ms))
        records_there = len(folder.roll.records)
        return [f"{records_there} records; all that follows from them is written", *said]


def parse_place(text: str) -> ChainPlace:
    """A record of a chain as SEQUENCE:IDENTITY, the identity in hexadecimal.

    Raises:
        ConfigurationError: it is none.
    """
    sequence, _, identity = text.partition(":")
    try:
        if not (sequence.isascii() and sequence.isdecimal()):
            raise ValueError
        return ChainPlace(int(sequence), DIGEST.decode(bytes.fromhex(identity)))
    except (ValueError, Rejected):
        raise ConfigurationError(
            f"a record is SEQUENCE:IDENTITY, the identity in 64 hexadecimal digits; not {text!r}"
        ) from None


def read_request(path: Path, role: Role) -> PublicKey:
    """The key in an enrolment request, once its own signature and role are checked.

    Args:
        path: the request's file, which holds its bytes or its text; or, in place of a file's
            name, the text itself.
        role: what the party asks to be.

    Raises:
        ConfigurationError: it cannot be read, or asks for another role.
        Rejected: it is no enrolment request, or not signed by the key it names.
    """
    if is_request_text(path.name):
        raw, path = path.name.encode(), Path("the request")
    else:
        raw = _read_request_file(path)
    try:
        record = records.decode(_request_bytes(raw))
        body = record.body
        if not isinstance(body, EnrolmentRequest):
            raise Rejected(Reason.UNKNOWN_KIND, f"a {body.KIND} is no enrolment request")
        if record.key_id != body.key.thumbprint:
            raise Rejected(Reason.UNKNOWN_KEY, "signed by another key than the one it names")
        record.envelope.verify(body.key)
    except Rejected as refused:
        raise Rejected(refused.reason, f"{path}: {refused.detail}") from None
    if body.role is not role:
        raise ConfigurationError(f"{path} asks for the role {body.role}, not {role}")
    return body.key


def _read_request_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(2 * RECORD_MAX)  # what is longer is refused: no text or record is
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None


def _request_bytes(given: bytes) -> bytes:
    """The bytes of a request that was given as such, or as the text a QR code holds."""
    try:
        text = given.decode("utf-8-sig")  # some editors put a mark before a text
    except UnicodeDecodeError:
        return given
    return decode_request_text(text) if is_request_text(text) else given


def _registered(
    folder: Folder,
    extended: Roll,
    names: list[str],
    kind: CredentialKind | None,
    now_ms: int,
) -> list[str]:
    if kind is not None and not folder.address.tls:
        raise ConfigurationError(
            f"the broker {folder.address.url} is plain and knows no credentials; see broker.toml"
        )
    kinds = dict.fromkeys(names, kind or CredentialKind.CERTIFICATE)
    after, said = commit(folder, extended, kinds, _utc(now_ms))
    standings = extended.standings()
    lines = [
        f"{name} is registered, key {standings[name].key.thumbprint.hex()};"
        f" {_to_hand_out(folder.path, name, standings[name].role)}"
        for name in names
    ]
    if not any(one.role is Role.GATEWAY and not one.revoked for one in standings.values()):
        lines.append(
            "no gateway is registered yet: a bundle handed out before lacks its key, without which"
            " a device believes no acknowledgement"
        )
    return [*lines, *_next(after), *said]


def _to_hand_out(path: Path, name: str, role: Role) -> str:
    match role:
        case Role.VPP:
            return "the gateway signs for it with vpp.key, and needs nothing more"
        case Role.MEMBER:
            return f"who checks a share needs {path / 'community.pub'}"
        case _:
            return f"hand it {_bundle(path, name)}"


def _unit(standing: Standing) -> tuple[CountingSource, Fraction] | None:
    """What a meter's register counts; None of a party that is none."""
    return None if standing.details is None else standing.details.register_unit


def _about_chains(path: Path, before: Roll, after: Roll, names: list[str]) -> list[str]:
    """Which meters have a new key or another register, and whether their chain can go on with it.
    Where that stands in the ledger, the authority cannot know from its folder."""
    known, standings = before.standings(), after.standings()
    lines = []
    for name in names:
        if name not in known:
            continue
        anchor = (
            f"cryptometer authority re-anchor {path} {name}, with the record and the register that"
            " cryptometer-gateway status shows"
        )
        if _unit(known[name]) != _unit(standings[name]):
            lines.append(
                f"{name} has another register than before: its chain goes on rightly only behind a"
                f" re-anchor, given in the same sitting. next: {anchor}"
            )
        elif standings[name].key in known[name].keys:
            continue
        elif known[name].revoked:
            lines.append(
                f"{name} has a new key, and its old one is revoked: what that has signed and no"
                f" block holds yet goes in only behind a re-anchor. next: {anchor}"
            )
        else:
            lines.append(
                f"{name} has a new key: a board that made it with cryptometer-firmware successor"
                f" goes on with its chain. Another board, or a new card, does not; then next:"
                f" {anchor}"
            )
    return lines


def _next(folder: Folder) -> list[str]:
    """What makes a change known to gateway and broker."""
    lines = [f"next: give the gateway {folder.path / 'authority.records'}"]
    if folder.address.tls:
        lines.append(f"next: install {folder.path / 'mosquitto'} at the broker and reload it")
    return lines


def _said_of(folder: Folder, said: list[str]) -> list[str]:
    """What happened to credentials; the broker must know of it."""
    return [*said, *_next(folder)[1:]] if said else []


def _about_broker(folder: Folder) -> str:
    if folder.address.tls:
        return f"broker {folder.address.url}: its files are in {folder.path / 'mosquitto'}"
    return (
        f"broker {folder.address.url}: plain, without TLS or credentials: for a network you trust"
    )


def _bundle(path: Path, name: str) -> Path:
    return path / "bundles" / f"{name}.bundle"


def _first_step(folder: Folder, moment: int) -> int:
    """The step that holds a moment (ms since the Unix epoch), and never one before the first."""
    genesis = folder.roll.genesis
    return max(genesis.first_step, step_of(moment, genesis.step_s))


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is not UTF-8 text") from None


def _utc(ms: int) -> datetime:
    return datetime.fromtimestamp(ms // MS_PER_S, UTC)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


# --- The command line. ---------------------------------------------------------------------------

Act: TypeAlias = Callable[[argparse.Namespace], list[str]]


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Registers `authority init|register|revoke|re-anchor|agree|export`."""
    parser = subparsers.add_parser(
        "authority", help="found a community, register and revoke its parties"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    one = _command(commands, "init", "found a community", _init)
    one.add_argument("--name", required=True, help="what people call the community")
    one.add_argument(
        "--broker",
        default="mqtt://127.0.0.1:1883",
        metavar="URL",
        help="mqtts://host:port, or a plain broker for a demo (default: %(default)s)",
    )
    one.add_argument(
        "--broker-folder",
        default=INSTALLED,
        metavar="PATH",
        help="where its files will lie on its machine (default: %(default)s)",
    )
    one.add_argument("--step", default="15m", help="market step (default: %(default)s)")
    one.add_argument("--grace", default="5s", help="wait for closes (default: %(default)s)")
    one.add_argument("--late", default="35d", help="late window (default: %(default)s)")
    one.add_argument("--token", default="1kWh", help="a voting token (default: %(default)s)")
    one.add_argument(
        "--first-step",
        metavar="TIME",
        help="the step of the first block holds this time, ISO 8601 (default: the step before"
        " the current one)",
    )

    one = _command(commands, "register", "register a party, or the meters of a file", _register)
    one.add_argument(
        "request", type=Path, nargs="?", help="the party's enrolment request, or its text"
    )
    roles = [role.value for role in Role if role is not Role.METER]
    one.add_argument("--role", choices=roles, help="what the party is")
    one.add_argument("--name", help="what the community calls it")
    one.add_argument("--meters", type=Path, metavar="FILE", help="TOML tables [[meter]]")
    one.add_argument(
        "--credential",
        choices=[kind.value for kind in CredentialKind],
        help="how it proves to the broker who it is (default: certificate)",
    )

    one = _command(commands, "revoke", "end a party's key and its access to the broker", _revoke)
    one.add_argument("name", help="whose key it is, as registered")
    one.add_argument("--reason", required=True, help="stands in the ledger")
    one.add_argument(
        "--last", metavar="SEQUENCE:IDENTITY", help="the last valid record of a meter's chain"
    )

    one = _command(commands, "re-anchor", "let a meter's chain go on", _re_anchor)
    one.add_argument("meter")
    one.add_argument("--at", type=int, required=True, help="sequence number of its next record")
    one.add_argument("--register", type=int, required=True, help="pulses it starts from")
    one.add_argument("--reason", required=True, help="stands in the ledger")

    one = _command(commands, "agree", "sign how energy is shared from a step on", _agree)
    one.add_argument("file", type=Path, metavar="FILE", help="the agreement, TOML")

    _command(commands, "export", "write again all that follows from the records", _export)


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    doc: str,
    act: Act,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=doc, description=doc)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the authority's folder")
    parser.set_defaults(run=_run, act=act)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    faults.arm(os.environ.get(faults.CRASH_VARIABLE))
    for line in arguments.act(arguments):
        print(line)
    return 0


def _init(arguments: argparse.Namespace) -> list[str]:
    now_ms = _now_ms()
    step_s = step_seconds(arguments.step)
    first_step = None
    if arguments.first_step is not None:
        first_step = step_of(moment_ms(arguments.first_step, "--first-step", now_ms), step_s)
    return init(
        arguments.folder,
        name=arguments.name,
        broker=BrokerFile(arguments.broker, arguments.broker_folder),
        step_s=step_s,
        grace_ms=duration_ms(arguments.grace, "--grace"),
        late_ms=duration_ms(arguments.late, "--late"),
        token_uwh=energy_uwh(arguments.token, "--token"),
        first_step=first_step,
        now_ms=now_ms,
    )


def _register(arguments: argparse.Namespace) -> list[str]:
    kind = None if arguments.credential is None else CredentialKind(arguments.credential)
    party = (arguments.request, arguments.role, arguments.name)
    if arguments.meters is not None and party == (None, None, None):
        return register_meters(arguments.folder, arguments.meters, kind, _now_ms())
    if arguments.meters is not None or None in party:
        raise ConfigurationError(
            "register DIR REQUEST --role ROLE --name NAME, or register DIR --meters FILE"
        )
    request, role, name = party
    return register_party(arguments.folder, request, Role(role), name, kind, _now_ms())


def _revoke(arguments: argparse.Namespace) -> list[str]:
    last = None if arguments.last is None else parse_place(arguments.last)
    return revoke(arguments.folder, arguments.name, arguments.reason, last, _now_ms())


def _re_anchor(arguments: argparse.Namespace) -> list[str]:
    return re_anchor(
        arguments.folder,
        arguments.meter,
        arguments.at,
        arguments.register,
        arguments.reason,
        _now_ms(),
    )


def _agree(arguments: argparse.Namespace) -> list[str]:
    return agree(arguments.folder, arguments.file, _now_ms())


def _export(arguments: argparse.Namespace) -> list[str]:
    return export(arguments.folder, _now_ms())
