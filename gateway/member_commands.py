"""The commands on what is kept of members outside the ledger: `consumption` and `member-data`."""

import argparse
import hashlib
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from cryptometer.authority_records import Registration, Use
from cryptometer.curve_template import GENERIC, Template, read_template
from cryptometer.errors import ConfigurationError, Rejected
from cryptometer.load_curve import LoadCurve, gaps, read_load_curve
from cryptometer.metrology import kwh
from cryptometer.openings import encode_openings
from cryptometer.readable import utc
from cryptometer.record_fields import NAME, Role
from cryptometer.state import State
from cryptometer.step_table import step_named
from cryptometer.steps import NS_PER_MS, step_of, step_start_ms
from gateway.consumption import Filed, Known, Person, Value
from gateway.folder import Folder, clear_scratch, open_folder, read_community
from gateway.private import PrivateStore
from gateway.private_chains import Binding, Metered, PrivateChains
from hal.files import MISPLACED, read_file
from hal.handing import IN_HELP, OUT_HELP, hand_out, open_given
from hal.zone import zone_named

TEXT_MAX = 2_000  # characters of a person's address
_SHOWN = 20  # gaps and corrections of one member after an import
_CHUNK = 65_536
_DIGEST = 16  # letters of a file's digest that are shown


def add_commands(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    add_config: Callable[[argparse.ArgumentParser], None],
) -> None:
    """Gives the program's command line what this module does."""
    consumption = commands.add_parser(
        "consumption", help="take and show what members consume; none of it enters the ledger"
    ).add_subparsers(required=True, metavar="COMMAND")

    imported = consumption.add_parser(
        "import",
        help="take a load curve (CSV)",
        description="Takes a load curve as CSV, whole or not at all. Without a template: a column"
        " `time` (UTC, begin of a quarter of an hour) and one of kWh for each member.",
    )
    imported.add_argument("file", type=Path, help=IN_HELP)
    imported.add_argument(
        "--template", type=Path, metavar="TOML", help="how the file is to be read"
    )
    imported.add_argument("--member", default="", metavar="NAME", help="whose curve it is")
    imported.add_argument(
        "--look", action="store_true", help="say what the file holds, and take nothing of it"
    )
    add_config(imported)
    imported.set_defaults(act=_import)

    shown = consumption.add_parser("show", help="a member's consumption, gaps and corrections")
    shown.add_argument("member")
    _add_bounds(shown)
    add_config(shown)
    shown.set_defaults(act=_show)

    bound = consumption.add_parser(
        "meter",
        help="say whose a meter for consumption is",
        description="Says whose consumption a meter tells. Of a member with several meters it is"
        " their sum. The ledger holds nothing of it.",
    )
    bound.add_argument("meter")
    whose = bound.add_mutually_exclusive_group(required=True)
    whose.add_argument("member", nargs="?")
    whose.add_argument("--nobody", action="store_true", help="nobody's any more")
    bound.add_argument(
        "--from", dest="first", metavar="STEP", help="the first step of which that is so"
    )
    add_config(bound)
    bound.set_defaults(act=_bind)

    listed = consumption.add_parser("meters", help="meters for consumption, and whose they are")
    add_config(listed)
    listed.set_defaults(act=_meters)

    openings = consumption.add_parser(
        "openings", help="write what opens the commitments to all members' consumption"
    )
    openings.add_argument("--out", type=Path, required=True, help=f"the file, {OUT_HELP}")
    _add_bounds(openings)
    add_config(openings)
    openings.set_defaults(act=_openings)

    data = commands.add_parser(
        "member-data", help="who a member is; kept outside the ledger, and erasable"
    ).add_subparsers(required=True, metavar="COMMAND")
    put = data.add_parser("set", help="say who a member is; what is not given stays")
    put.add_argument("member")
    put.add_argument("--display-name", metavar="TEXT", help="as on a bill")
    put.add_argument("--address", metavar="TEXT", help="where letters go")
    put.add_argument("--contact", metavar="TEXT", help="telephone, mail, whatever reaches him")
    add_config(put)
    put.set_defaults(act=_set)

    for name, act, said in (
        ("show", _show_person, "what is kept of a member"),
        ("erase", _erase, "erase a member's data, consumption and salts, for ever"),
    ):
        parser = data.add_parser(name, help=said)
        parser.add_argument("member")
        add_config(parser)
        parser.set_defaults(act=act)


def _add_bounds(parser: argparse.ArgumentParser) -> None:
    said = "its number, or the moment when it begins, like 2026-10-25T14:00Z"
    parser.add_argument("--from", dest="first", metavar="STEP", help=f"the first step: {said}")
    parser.add_argument("--to", dest="last", metavar="STEP", help="the last step, likewise")


def _bound(text: str | None, step_s: int) -> int | None:
    return None if text is None else step_named(text, step_s)


def _import(arguments: argparse.Namespace) -> int:
    folder = open_folder(arguments.config)
    template = _template(arguments.template)
    step_s, registered = _community(folder)
    digest = hashlib.sha256()
    curve = read_load_curve(
        _chunks(arguments.file, digest.update),
        template,
        zone_named(template.zone),
        step_s,
        arguments.member,
    )
    if arguments.look:
        for name in curve.members:
            print("\n".join(_held(curve, name, template, step_s)))
        print("\n".join([*_left_out(curve, registered), "nothing was taken"]))
        return 0
    source = f"file:{digest.hexdigest()}"
    received_ms = time.time_ns() // NS_PER_MS
    with closing(PrivateStore(folder.private)) as store:
        filed = store.put_all(
            {name: series.energies_uwh for name, series in curve.members.items()},
            source,
            received_ms,
            is_spread=curve.is_spread,
        )
    for name, one in filed.items():
        for line in _taken(curve, name, one, step_s):
            print(line)
    for line in _left_out(curve, registered):
        print(line)
    return 0


def _template(path: Path | None) -> Template:
    if path is None:
        return GENERIC
    try:
        return read_template(tomllib.loads(read_file(path).decode()), str(path))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from None


def _community(folder: Folder) -> tuple[int, set[str]]:
    """The length of a step, and the names of the members that are registered."""
    with closing(folder.open_store(read_only=True)) as store:
        community = read_community(store)
    bodies = [record.body for record in community.records]
    names = {
        body.name for body in bodies if isinstance(body, Registration) and body.role is Role.MEMBER
    }
    return community.parameters.step_s, names


def _chunks(path: Path, see: Callable[[bytes], None]) -> Iterator[bytes]:
    """A file's bytes, piece by piece; each is shown to `see`."""
    try:
        with open_given(path) as file:
            while chunk := file.read(_CHUNK):
                see(chunk)
                yield chunk
    except MISPLACED as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None


def _held(curve: LoadCurve, name: str, template: Template, step_s: int) -> Iterator[str]:
    """What a file says of a member, in local time, too: whoever looks has a bill in his hand."""
    series = curve.members[name]
    zone = zone_named(template.zone)
    first, last = (
        f"{datetime.fromtimestamp(step * step_s, zone):%Y-%m-%d %H:%M}"
        for step in (series.first, series.last + 1)
    )
    yield (
        f"{name}: {first} to {last} in {template.zone}, steps {series.first} to {series.last}:"
        f" {len(series.energies_uwh)} have a value, {kwh(sum(series.energies_uwh.values()))}"
    )
    missing = series.gaps()
    for begin, end in missing[:_SHOWN]:
        yield f"  {_gap(begin, end, step_s)}"
    if len(missing) > _SHOWN:
        yield f"  and {len(missing) - _SHOWN} more gaps"


def _taken(curve: LoadCurve, name: str, filed: Filed, step_s: int) -> Iterator[str]:
    series = curve.members[name]
    yield (
        f"{name}: steps {series.first} to {series.last}, {_begin(series.first, step_s)} to"
        f" {_begin(series.last + 1, step_s)}: {filed.new} new, {filed.same} known,"
        f" {len(filed.corrections)} corrected, {kwh(sum(series.energies_uwh.values()))}"
        + (", divided evenly over the steps of each interval" if curve.is_spread else "")
    )
    missing = series.gaps()
    for first, last in missing[:_SHOWN]:
        yield f"  {_gap(first, last, step_s)}"
    for one in filed.corrections[:_SHOWN]:
        yield f"  step {one.step} corrected: {kwh(one.after_uwh)}, was {kwh(one.before_uwh)}"
    rest = max(0, len(missing) - _SHOWN) + max(0, len(filed.corrections) - _SHOWN)
    if rest:
        yield f"  and {rest} more gaps or corrections: cryptometer-gateway consumption show {name}"


def _left_out(curve: LoadCurve, registered: set[str]) -> Iterator[str]:
    if curve.left_out:
        shown = ", ".join(curve.left_out[:_SHOWN])
        more = f" and {len(curve.left_out) - _SHOWN} more" if len(curve.left_out) > _SHOWN else ""
        yield f"left out, for [members] does not list them: {shown}{more}"
    if curve.rows_left_out:
        yield f"left out, for `only` does not want them: {curve.rows_left_out} rows"
    if unknown := sorted(curve.members.keys() - registered):
        yield f"not registered as members so far: {', '.join(unknown)}"


def _show(arguments: argparse.Namespace) -> int:
    folder = open_folder(arguments.config)
    member = _member(arguments.member)
    step_s, _ = _community(folder)
    asked_first, asked_last = _bound(arguments.first, step_s), _bound(arguments.last, step_s)
    with closing(PrivateStore(folder.private)) as store:
        known = list(store.curve(member, asked_first, asked_last))
    if not known:
        print(f"nothing is known of the consumption of {member} there")
        return 0
    first = known[0].step if asked_first is None else asked_first
    last = known[-1].step if asked_last is None else asked_last
    missing = gaps([one.step for one in known], first, last)
    lines = [(one.step, _shown(one, step_s)) for one in known]
    lines += [(begin, _gap(begin, end, step_s)) for begin, end in missing]
    for _, line in sorted(lines):
        print(line)
    total = sum(one.value.energy_uwh for one in known)
    unknown = sum(end - begin + 1 for begin, end in missing)
    print(
        f"{kwh(total)} in {len(known)} steps, {unknown} steps not known,"
        f" {sum(bool(one.earlier) for one in known)} corrected"
    )
    return 0


def _bind(arguments: argparse.Namespace) -> int:
    folder = open_folder(arguments.config)
    meter = _name(arguments.meter, "meter")
    member = "" if arguments.nobody else _member(arguments.member)
    uses, members = _registered(folder)
    if uses.get(meter) is not Use.CONSUMPTION:
        found = f"is for {uses[meter]}" if meter in uses else "is not registered"
        raise ConfigurationError(f'{meter} {found}; register it with use = "consumption"')
    if member and member not in members:
        raise ConfigurationError(f"no member {member} is registered")
    with closing(PrivateChains(folder.private)) as store:
        known = [one for one in store.bindings() if one.meter == meter]
        if known and arguments.first is None:
            whose = known[-1].member or "nobody"
            raise ConfigurationError(
                f"{meter} is {whose}'s from step {known[-1].from_step} on: say --from STEP"
            )
        first = _bound(arguments.first, _community(folder)[0]) or 0
        store.bind(meter, member, first, time.time_ns() // NS_PER_MS)
    print(f"{meter}: {member or 'nobody'}'s from step {first} on")
    return 0


def _registered(folder: Folder) -> tuple[dict[str, Use], set[str]]:
    """What each registered meter is for, and the members."""
    with closing(folder.open_store(read_only=True)) as store:
        community = read_community(store)
    bodies = [one.body for one in community.records if isinstance(one.body, Registration)]
    uses = {one.name: one.meter.use for one in bodies if one.meter is not None}
    return uses, {one.name for one in bodies if one.role is Role.MEMBER}


def _meters(arguments: argparse.Namespace) -> int:
    folder = open_folder(arguments.config)
    uses, _ = _registered(folder)
    with closing(PrivateChains(folder.private)) as store:
        metered = {one.account.name: one for one in store.metered()}
        bindings = store.bindings()
    for name in sorted(name for name, use in uses.items() if use is Use.CONSUMPTION):
        whose = [one for one in bindings if one.meter == name]
        print(f"meter {name}  {', '.join(map(_whose, whose)) or 'nobody has said whose it is'}")
        for line in _told(metered.get(name)):
            print(f"  {line}")
    return 0


def _whose(binding: Binding) -> str:
    since = f" from step {binding.from_step} on" if binding.from_step else ""
    return f"{binding.member or 'nobody'}'s{since}"


def _told(metered: Metered | None) -> Iterator[str]:
    if metered is None:
        yield "not heard: its registration stands in no block yet"
        return
    account = metered.account
    step = "none" if account.closed_step is None else str(account.closed_step)
    yield (
        f"last step    {step}, {kwh(account.transferred_uwh)} in closed steps,"
        f" {kwh(account.quarantined_uwh)} quarantined"
    )
    yield (
        f"register     {account.head.register or 0} pulses, next record {account.head.sequence},"
        f" {metered.waiting} wait, {metered.kept} kept"
    )
    if metered.aside:
        causes = ", ".join(f"{reason} {count}" for reason, count in metered.aside.items())
        yield f"quarantined  {causes}"
    if metered.evidence:
        yield f"evidence     {metered.evidence} records signed against its own chain"


def _openings(arguments: argparse.Namespace) -> int:
    folder = open_folder(arguments.config)
    step_s, _ = _community(folder)
    first, last = _bound(arguments.first, step_s), _bound(arguments.last, step_s)
    with closing(PrivateStore(folder.private)) as store:
        openings = store.openings(first, last)
    return hand_out(
        arguments.out,
        "".join(encode_openings(openings)).encode(),
        f"{sum(map(len, openings.values()))} openings. They tell what members consumed: for whoever"
        " may know; cryptometer audit --openings recomputes the rule with them",
    )


def _shown(known: Known, step_s: int) -> str:
    lines = [f"step {known.step}  {_begin(known.step, step_s)}  {_said(known.value)}"]
    lines += [f"  was {_said(value)}" for value in reversed(known.earlier)]
    return "\n".join(lines)


def _said(value: Value) -> str:
    kind, _, name = value.source.partition(":")
    source = f"{kind} {name[:_DIGEST] if kind == 'file' else name}"
    mark = ", part of a longer interval" if value.is_spread else ""
    return f"{kwh(value.energy_uwh)}  {source}, received {utc(value.received_ms)}{mark}"


def _gap(first: int, last: int, step_s: int) -> str:
    return (
        f"step{f's {first} to {last}' if last > first else f' {first}'}  {_begin(first, step_s)} to"
        f" {_begin(last + 1, step_s)}  not known"
    )


def _begin(step: int, step_s: int) -> str:
    return f"{utc(step_start_ms(step, step_s))[:16]}Z"


def _set(arguments: argparse.Namespace) -> int:
    folder = open_folder(arguments.config)
    member = _member(arguments.member)
    given = {
        name: _text(value)
        for name in ("display_name", "address", "contact")
        if (value := getattr(arguments, name)) is not None
    }
    if not given:
        raise ConfigurationError("give --display-name, --address or --contact")
    with closing(PrivateStore(folder.private)) as store:
        store.set_person(member, replace(store.person(member) or Person(), **given))
    print(f"{member}: {', '.join(given)} kept")
    return 0


def _show_person(arguments: argparse.Namespace) -> int:
    folder = open_folder(arguments.config)
    member = _member(arguments.member)
    with closing(PrivateStore(folder.private)) as store:
        person = store.person(member)
        steps = sum(1 for _ in store.curve(member, None, None))
    if person is None:
        print(f"nobody has said who {member} is")
    else:
        for name in ("display_name", "address", "contact"):
            print(f"{name.replace('_', ' '):13} {getattr(person, name) or '-'}")
    print(f"consumption   {steps} steps")
    return 0


def _erase(arguments: argparse.Namespace) -> int:
    folder = open_folder(arguments.config)
    member = _member(arguments.member)
    until, owed = _owed(folder, member)
    with closing(PrivateStore(folder.private)) as store:
        erased = store.erase(member, until)
    print(
        f"{member}: erased {erased.values} values of consumption, {erased.salts} salts,"
        f" {erased.records} records of meters and"
        f" {'who it is' if erased.person else 'no personal data'}"
        f"{', and its access' if erased.tokens else ''}."
    )
    for line in [*owed, *_left_to_erase(folder, member)]:
        print(line)
    return 0


def _owed(folder: Folder, member: str) -> tuple[int | None, list[str]]:
    """The last step for which nobody is to wait for a member who is erased now, and what is to be
    said of distributions without him."""
    with closing(folder.open_store(read_only=True)) as store:
        state = store.state()
    if state is None:
        return None, []
    until = max(state.step, step_of(time.time_ns() // NS_PER_MS, state.genesis.step_s))
    waiting = sum(
        bool(one.waiting) and _asks_of(state, step, member)
        for step, one in state.settlements.items()
    )
    said = [
        f"Of steps up to {until}, {waiting} of which wait at the virtual power plant, {member} is"
        " taken to have consumed what was given of them so far, and is given no more."
    ]
    if _asks_of(state, until + 1, member):
        said.append(
            f"The agreement in force still names {member}: what later steps bring waits for what"
            f" {member} consumes. Have the authority sign one without."
        )
    return until, said


def _asks_of(state: State, step: int, member: str) -> bool:
    """Whether the step's agreement asks what the member consumed."""
    agreed = state.agreed(step)
    return (
        agreed is not None
        and agreed.agreement.needs_consumption
        and member in agreed.agreement.members
    )


def _left_to_erase(folder: Folder, member: str) -> Iterator[str]:
    """Where else somebody may have written of a member."""
    points = folder.config.members.points
    if points and _names(folder.path / points, member):
        yield f"{folder.path / points} names {member}: take that line out."
    try:
        clear_scratch(folder)
    except ConfigurationError:
        yield "A backup is being made at this moment: it is one from before."
    yield (
        "For you to erase: backups from before; the files that were imported, and what their"
        " templates list in [members]; files of supply points, of openings, and what was exported."
        " A file that names the member, imported again, brings it back."
    )


def _names(path: Path, member: str) -> bool:
    try:
        return member in tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return True  # nobody can say that it does not


def _member(name: str) -> str:
    return _name(name, "member")


def _name(name: str, whose: str) -> str:
    try:
        return NAME.decode(name)
    except Rejected:
        raise ConfigurationError(
            f"{name[:63]!r} is no {whose}'s name: it has a to z, 0 to 9 and hyphens"
        ) from None


def _text(text: str) -> str:
    if len(text) > TEXT_MAX or not text.isprintable():
        raise ConfigurationError(f"a text has up to {TEXT_MAX} letters in one line")
    return text
