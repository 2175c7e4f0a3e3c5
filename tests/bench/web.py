"""The web side of a gateway with a thousand meters: what an answer costs its process; and an audit
over it, whole and gone on with.
"""

import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path

from cryptometer.audit import audit
from cryptometer.commands.demo.processes import GATEWAY, program
from cryptometer.commands.http_ledger import HttpLedger
from tests.bench.crowd import crowd, deliver, in_turn, timed, whole_step
from tests.bench.figures import MS_PER_S, Figure, process_cpu_s, process_memory_mb
from tests.gateway.kit import Premises, Site

METERS = 1_000
BATCHES = 4
LOTS = 20
TIMES = 1_000  # for what is quick: the processor's time of a process is told in 10 ms
FEW = 20
FRESH_S = 1.05  # figures are told anew after a second


def figures() -> Iterator[Figure]:
    """The area's figures."""
    with (
        tempfile.TemporaryDirectory(prefix="cryptometer-bench-") as folder,
        crowd(Path(folder) / "gateway", METERS) as (premises, site),
    ):
        for _ in range(2):
            _block(site)
        with _served(premises) as (pid, port):
            yield from _answers(pid, port, site)
            yield from _audits(site, port)
            yield Figure("web: memory after that", process_memory_mb(pid), "MB", most=200)


def _block(site: Site) -> None:
    deliver(site, in_turn(whole_step(site, BATCHES, LOTS)))
    site.seal()


@contextmanager
def _served(premises: Premises) -> Iterator[tuple[int, int]]:
    premises.folder.file.write_text("[web]\nport = 0\n")
    words = program(GATEWAY, "serve", "--config", premises.path)
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            found = re.search(r":(\d+)$", process.stderr.readline())
            assert found is not None
            yield process.pid, int(found[1])
        finally:
            process.terminate()


def _answers(pid: int, port: int, site: Site) -> Iterator[Figure]:
    step, size = site.node.state.step, site.node.state.frontier.size
    index, width = divmod(size, 256)
    tile = f"/tile/entries/{index - 1:03d}"
    with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:

        def ask(path: str, times: int, pause_s: float = 0.0) -> tuple[float, float]:
            """Processor ms and wall ms of an answer."""
            cpu_s, wall_s = process_cpu_s(pid), 0.0
            for _ in range(times):
                time.sleep(pause_s)
                begin = time.perf_counter()
                connection.request("GET", path)
                response = connection.getresponse()
                response.read()
                wall_s += time.perf_counter() - begin
                assert response.status == 200, path
            used_s = process_cpu_s(pid) - cpu_s
            return used_s / times * MS_PER_S, wall_s / times * MS_PER_S

        first = ask(f"/blocks/{step}", 1)
        records = METERS * (BATCHES + 1)
        yield Figure(f"web: a block of {records:,} records, first", first[1], "ms", most=5_000)
        for what, path, times, most in (
            ("the same again", f"/blocks/{step}", FEW, 500),
            ("checkpoint", "/checkpoint", TIMES, 20),
            ("256 entries", tile, TIMES, 30),
            ("a record", "/records/m500/3", FEW, 500),
            ("a proof", "/proofs/m500/3", FEW, 500),
        ):
            cpu_ms, wall_ms = ask(path, times)
            yield Figure(f"web: {what}, processor", cpu_ms, "ms", most=most)
            yield Figure(f"web: {what}, on the wall", wall_ms, "ms", most=10 * most)
        cpu_ms, wall_ms = ask("/metrics", 5, FRESH_S)
        name = f"web: figures of {METERS:,} meters told anew"
        yield Figure(f"{name}, processor", cpu_ms, "ms", most=1_000)
        yield Figure(f"{name}, on the wall", wall_ms, "ms", most=5_000)
        assert width


def _audits(site: Site, port: int) -> Iterator[Figure]:
    community = site.community()
    with HttpLedger(f"http://127.0.0.1:{port}") as ledger:
        whole, took = timed(lambda: audit(ledger.read, community))
        size = whole.checkpoint.size
        yield Figure(f"audit over HTTP, {size:,} leaves", took.wall_s, "s", most=120)
        for device in site.devices:
            site.send(device.close(site.next_step))
        site.seal()
        after, took = timed(lambda: audit(ledger.read, community, resume=whole))
        gained = after.checkpoint.size - size
        name = f"audit gone on with, {gained:,} new leaves behind {size:,}"
        yield Figure(name, took.wall_s, "s", most=30)
        _, took = timed(lambda: audit(ledger.read, community, resume=after))
        yield Figure("audit gone on with, nothing new", took.wall_s * MS_PER_S, "ms", most=2_000)
    assert after.state == site.node.state
