"""Commands that take what an agreement may have from outside: coefficients, and measured losses."""

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from cryptometer.authority_records import Registration
from cryptometer.errors import Reason, Rejected
from cryptometer.metrology import kwh
from cryptometer.record_fields import Role
from cryptometer.step_table import read_coefficients, read_losses
from gateway.folder import Folder, open_folder, read_community
from gateway.private import PrivateStore
from hal.handing import IN_HELP, read_given

T = TypeVar("T")

_SHOWN = 20  # names that nobody is registered with


def add_commands(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    add_config: Callable[[argparse.ArgumentParser], None],
) -> None:
    """Gives the program's command line what this module does."""
    for name, said, columns, act in (
        (
            "coefficients",
            "take the weights by which steps are shared",
            "step;member;weight, or step;producer;member;weight",
            _coefficients,
        ),
        ("losses", "take the losses of steps, as measured", "step;kwh", _losses),
    ):
        parser = commands.add_parser(
            name,
            help=f"{said} (CSV)",
            description=f"Columns: {columns}. A step is its number, or the moment when it begins"
            " (ISO 8601, UTC). Of an agreement that has them from outside.",
        )
        parser.add_argument("file", type=Path, help=IN_HELP)
        add_config(parser)
        parser.set_defaults(act=act)


def _coefficients(arguments: argparse.Namespace) -> int:
    folder = open_folder(arguments.config)
    weights = _read(folder, arguments.file, read_coefficients)
    with closing(PrivateStore(folder.private)) as store:
        store.put_coefficients(weights)
    print(f"coefficients of {_steps(weights)}")
    for line in _doubtful(weights, _names(folder)):
        print(line)
    return 0


def _names(folder: Folder) -> set[str]:
    """Of members and meters, as registered so far."""
    with closing(folder.open_store(read_only=True)) as store:
        records = read_community(store).records
    bodies = [one.body for one in records if isinstance(one.body, Registration)]
    return {one.name for one in bodies if one.role in (Role.MEMBER, Role.METER)}


def _doubtful(
    weights: Mapping[int, Mapping[tuple[str, str], int]], registered: set[str]
) -> Iterator[str]:
    """What was taken and is perhaps not meant."""
    named = {name for some in weights.values() for place in some for name in place if name}
    if unknown := sorted(named - registered):
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        yield f"not registered so far: {', '.join(unknown[:_SHOWN])}{more}"
    idle = {step: some for step, some in weights.items() if not any(some.values())}
    if idle:
        yield f"all weights are 0, so that all is surplus, of {_steps(idle)}"


def _losses(arguments: argparse.Namespace) -> int:
    folder = open_folder(arguments.config)
    losses = _read(folder, arguments.file, read_losses)
    with closing(PrivateStore(folder.private)) as store:
        store.put_losses(losses)
    print(f"losses of {_steps(losses)}: {kwh(sum(losses.values()))}")
    return 0


def _read(folder: Folder, path: Path, read: Callable[[str, int], dict[int, T]]) -> dict[int, T]:
    with closing(folder.open_store(read_only=True)) as store:
        step_s = read_community(store).parameters.step_s
    try:
        return read(read_given(path).decode(), step_s)
    except UnicodeDecodeError:
        raise Rejected(Reason.MALFORMED, f"{path} is no UTF-8 text") from None
    except Rejected as refused:
        raise Rejected(refused.reason, f"{path}: {refused.detail}") from None


def _steps(known: Mapping[int, object]) -> str:
    if not known:
        return "no step"
    return f"{len(known)} steps, {min(known)} to {max(known)}"
