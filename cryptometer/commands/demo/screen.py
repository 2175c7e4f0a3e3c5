"""What the demonstration shows: tables that live on a terminal, plain lines elsewhere."""

import sys
from datetime import UTC, datetime
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from cryptometer.commands.demo.community import STEP_S
from cryptometer.commands.demo.watch import BlockView, Watch
from cryptometer.steps import step_start_ms

_PER_SECOND = 4


class Screen(Protocol):
    """Where progress is shown."""

    def say(self, text: str) -> None: ...
    def show(self, watch: Watch, fresh: list[BlockView]) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Lines:
    """Plain lines: one for each block, with what each meter has given so far."""

    def say(self, text: str) -> None:
        print(text, flush=True)

    def show(self, watch: Watch, fresh: list[BlockView]) -> None:
        for block in fresh:
            print(
                f"block {step_time(block.step)}  records {block.records}  heard {block.heard}"
                f"  late {block.late}  punctuality {block.punctual}",
                flush=True,
            )
            for name, view in watch.meters.items():
                print(
                    f"  {name}  pulses emitted {view.emitted}, signed {view.signed}"
                    f" in {view.lots} lots",
                    flush=True,
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        sys.stdout.flush()


class Tables:
    """Live tables."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=_PER_SECOND)

    def say(self, text: str) -> None:
        self._live.console.print(text, highlight=False, markup=False)

    def show(self, watch: Watch, fresh: list[BlockView]) -> None:  # noqa: ARG002 - all is redrawn
        meters = Table("meter", title="pulses to lots")
        for title in ("pulses emitted", "pulses signed", "lots", "steps closed"):
            meters.add_column(title, justify="right")
        for name, view in watch.meters.items():
            counts = (view.emitted, view.signed, view.lots, view.closes)
            meters.add_row(name, *map(str, counts))
        blocks = Table("block of the step", title="blocks")
        for title in ("records", "heard", "late", "punctuality", "ledger"):
            blocks.add_column(title, justify="right")
        for block in watch.blocks:
            values = (block.records, block.heard, block.late, block.punctual, block.size)
            blocks.add_row(step_time(block.step), *map(str, values))
        self._live.update(Group(meters, blocks))

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()


def open_screen() -> Screen:
    """Tables on a terminal, lines elsewhere."""
    console = Console()
    return Tables(console) if console.is_terminal and not console.is_dumb_terminal else Lines()


def step_time(step: int) -> str:
    """When a step begins: UTC, in the community's time."""
    moment = datetime.fromtimestamp(step_start_ms(step, STEP_S) // 1000, UTC)
    return f"{moment:%Y-%m-%d %H:%M}Z"
