"""Measures, prints each figure beside its limit, and says in its exit code whether all hold.

python -m tests.bench [AREA ...]
"""

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from types import ModuleType

from tests.bench import (
    audits,
    blocks,
    board,
    card,
    ingest,
    line,
    mixed,
    processes,
    punctuality,
    rivals,
    shares,
    signing,
    speaking,
    web,
)
from tests.bench.figures import Figure

# Each takes less than two minutes on two free cores, the rivals less than three.
AREAS: dict[str, ModuleType] = {
    "processes": processes,
    "line": line,
    "board": board,
    "mixed": mixed,
    "rivals": rivals,
    "card": card,
    "signing": signing,
    "speaking": speaking,
    "ingest": ingest,
    "blocks": blocks,
    "shares": shares,
    "audit": audits,
    "punctuality": punctuality,
    "web": web,
}


def main() -> int:
    """Exit code 1: a limit is broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("areas", nargs="*", metavar="AREA", help=f"of {', '.join(AREAS)}")
    chosen: list[str] = parser.parse_args().areas or list(AREAS)
    unknown = set(chosen) - set(AREAS)
    if unknown:
        parser.error(f"no area {', '.join(sorted(unknown))}")
    begin = time.monotonic()
    over = 0
    for figure in _figures(chosen):
        print(figure.line(), flush=True)
        over += not figure.holds
    print(f"{time.monotonic() - begin:.0f} s; limits broken: {over}")
    return 1 if over else 0


def _figures(chosen: list[str]) -> Iterator[Figure]:
    with ProcessPoolExecutor(max_workers=1) as pool:
        # Simulated days take a core for a minute; the processes, mostly waiting, leave one free.
        pending = card.measure(pool) if "card" in chosen else None
        for name, area in AREAS.items():
            if area is card and pending is not None:
                yield from pending.figures()
            elif name in chosen:
                yield from area.figures()


if __name__ == "__main__":
    sys.exit(main())
