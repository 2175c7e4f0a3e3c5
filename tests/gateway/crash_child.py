"""The program that `test_sqlite_crash` kills: a real store, a real ledger folder, the gateway's
node, and two devices that send from the first unacknowledged record.

It says on standard output what leaves it, after it was made durable: `ack METER SEQUENCE` and
`checkpoint SIZE`.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from cryptometer.records import Record
from gateway.effects import Effect, Publish
from gateway.sqlite_store import SqliteStore
from hal import faults
from hal.files import DiskTree
from tests.core.community import FIRST_STEP
from tests.gateway.kit import GRACE_MS, Site, acknowledgements

STORE, LEDGER = "store.sqlite", "ledger"
METERS = 2


class Crew:
    """The devices, and what each has signed: the same in every run."""

    def __init__(self, site: Site) -> None:
        self._devices = site.devices
        self._step = FIRST_STEP
        self.signed: dict[str, list[Record]] = {device.name: [] for device in site.devices}

    def work(self, until: int) -> None:
        """They sign all up to a step."""
        while self._step < until:
            self._step += 1
            for number, device in enumerate(self._devices):
                signed = self.signed[device.name]
                if not signed:
                    signed.append(device.run_start(self._step))
                lots = [1 + (self._step + number) % 8] * (self._step % 3)
                signed += device.step(self._step, *lots)


def run(folder: Path, until: int) -> None:
    """Makes the blocks up to that of step `until`."""
    with closing(SqliteStore(folder / STORE)) as store:
        site = Site(METERS, store=store, tree=DiskTree(folder / LEDGER))
        crew = Crew(site)
        site.at(site.next_step + 1)
        say(site, site.start())
        words = acknowledgements(site.node.connected(site.clock.now()), site.key)
        heard = {name: word.sequence for name, word in words.items()}
        while site.next_step <= until:
            step = site.next_step
            crew.work(step)
            for name, records in crew.signed.items():
                for record in records[heard.get(name, 0) :]:
                    say(site, site.send(record))
                    heard[name] = heard.get(name, 0) + 1
            site.at(step + 1, 2 * GRACE_MS)
            say(site, site.tick())


def say(site: Site, effects: Sequence[Effect]) -> None:
    for effect in effects:
        if not isinstance(effect, Publish):
            continue
        for name, word in acknowledgements([effect], site.key).items():
            print("ack", name, word.sequence, flush=True)
        if effect.topic == f"{site.topic}/checkpoint":
            size = site.community().open_checkpoint(effect.payload).size
            print("checkpoint", size, flush=True)


if __name__ == "__main__":
    faults.arm(os.environ.get(faults.CRASH_VARIABLE))
    run(Path(sys.argv[1]), int(sys.argv[2]))
