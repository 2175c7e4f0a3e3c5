"""`cryptometer-gateway serve`: a real process beside a real store and ledger, asked over sockets by
those who want to know and by those who want to harm."""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from random import Random
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import gateway.web
from cryptometer.block_header import Header
from cryptometer.chain_records import ChainRecord
from cryptometer.commands.demo.processes import GATEWAY, program
from cryptometer.community import encode_community
from cryptometer.proof import verify_proof
from cryptometer.steps import step_start_ms
from cryptometer.tiles import CHECKPOINT_PATH
from gateway import answers, connections
from gateway.pages.document import POLICY
from gateway.sqlite_store import SqliteStore
from hal.program import EXIT_CONFIGURATION
from tests.commands.outsider import called
from tests.core.community import FIRST_STEP, STEP_S
from tests.gateway.kit import GRACE_MS, Premises, Site, content

ROOT = Path(__file__).parents[2]
ANSWER_MAX_S = 30
FLOOD_MAX_S = 120
SECOND = FIRST_STEP + 1


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] in {"application/json", "application/problem+json"}
        return json.loads(self.body)

    @property
    def problem(self) -> str:
        """What went wrong, in words; RFC 9457."""
        assert self.headers["content-type"] == "application/problem+json", self
        said = self.json
        assert said["status"] == self.status
        assert said["title"]
        return str(said["detail"])


class Web:
    """A server process."""

    def __init__(self, config: Path, *words: str) -> None:
        self.process = subprocess.Popen(
            program(GATEWAY, "serve", *words, "--config", config),
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)$", line)
        assert found is not None, line + self.process.stderr.read()
        self.port = int(found[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_MAX_S)) as connection:
            connection.request(method, path, headers=named)
            return answer_of(connection.getresponse())

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=ANSWER_MAX_S)

    def say(self, data: bytes, *, nothing_more: bool = False) -> bytes:
        """What comes back until the server closes the connection."""
        with self.connect() as line:
            line.sendall(data)
            if nothing_more:
                line.shutdown(socket.SHUT_WR)
            came = bytearray()
            while piece := line.recv(65_536):
                came += piece
            return bytes(came)

    def stop(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGTERM)
        _, said = self.process.communicate(timeout=30)
        return self.process.returncode, said


def answer_of(response: HTTPResponse) -> Answer:
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, response.read())


@contextmanager
def serving(config: Path, *words: str) -> Iterator[Web]:
    web = Web(config, *words)
    try:
        yield web
    finally:
        if web.process.poll() is None:
            code, said = web.stop()
            assert (code, said) == (0, "")  # no traceback, whatever was asked


class Works:
    """A gateway's folder with some blocks: a late record, a lot above V, refusals, one waiting."""

    def __init__(self, path: Path, toml: str = "[web]\nport = 0\n") -> None:
        self.premises = Premises(path, toml, meters=2)
        self.premises.enrol()
        with self.site() as site:
            site.found()
            site.run([8, 2], [3])
            first, step = site.device, site.next_step
            site.send(first.batch(step, 9))
            site.seal()
            site.send(first.close(step))
            site.send(first.batch(site.next_step, 1), b"\x00 no record")
            site.seal()
            site.send(first.batch(site.next_step + 1, 1))
            self.leaves = [leaf.raw for leaf in site.leaves()]
            self.step = site.node.state.step
        self.folder = self.premises.folder

    @contextmanager
    def site(self) -> Iterator[Site]:
        with closing(self.premises.folder.open_store()) as store:
            yield self.premises.site(store)


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory) -> Works:
    return Works(tmp_path_factory.mktemp("serve") / "gateway")


@pytest.fixture(scope="module")
def web(works: Works) -> Iterator[Web]:
    with serving(works.folder.path) as web:
        yield web


# --- The ledger. ---------------------------------------------------------------------------------


def test_people_are_shown_where_the_energy_is_and_how_to_check_it(works: Works, web: Web) -> None:
    answer = web.get("/")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.headers["content-security-policy"] == POLICY
    text = answer.body.decode()
    site = web.get("/api/1/community").json["checkpoint"]
    assert f"size {site['size']}" in text
    assert site["root"] in text
    assert "cryptometer audit ADDRESS" in text
    assert re.findall(r'href="/blocks/(\d+)"', text)[0] == str(works.step)
    for path in re.findall(r'href="([^"]*)"', text):
        assert web.get(path).status == 200
    assert web.get("/", If_None_Match=answer.headers["etag"]).status == 304


def test_every_file_of_the_ledger_is_served_as_it_stands(works: Works, web: Web) -> None:
    files = [path for path in works.folder.ledger.rglob("*") if path.is_file()]
    assert len(files) >= 3
    for file in files:
        path = str(file.relative_to(works.folder.ledger))
        answer = web.get(f"/{path}")
        assert (answer.status, answer.body) == (200, file.read_bytes())
        head = web.get(f"/{path}", "HEAD")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == str(len(answer.body))
        if path == CHECKPOINT_PATH:
            assert answer.headers["content-type"] == "text/plain; charset=utf-8"
            assert answer.headers["cache-control"] == "no-cache"
        else:
            assert answer.headers["content-type"] == "application/octet-stream"
            assert "immutable" in answer.headers["cache-control"]
        again = web.get(f"/{path}", If_None_Match=answer.headers["etag"])
        assert (again.status, again.body) == (304, b"")
        assert web.get(f"/{path}", If_None_Match='"other"').status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/../gateway.key", "/tile/../../gateway.key", "/tile/%2e%2e/%2e%2e/gateway.key",
        "/tile/0/..%2f..%2f..%2fgateway.key", "/tile//etc/passwd", "/tile/0/%00", "/tile/0/000/",
        "/tile/0/0", "/tile/0/x000", "/tile/64/000", "/tile/00/000", "/tile/-1/0", "/tile/0/000.p",
        "/tile/0/000.p/9999", "/tile/entries/000.p/../000", "/tile/0/\u0660\u0660\u0660",
        "/tile/0/001", "/tile/7/000", "/gateway.toml", "/store.sqlite", "//", "/checkpoint/",
        "/tile", "/ledger/checkpoint", "/tile/0/" + "x000/" * 2000 + "000",
    ],
)  # fmt: skip
def test_nothing_else_of_the_folder_can_be_had(web: Web, path: str) -> None:
    sent = path.encode("utf-8").replace(b" ", b"%20")
    came = web.say(b"GET " + sent + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert re.match(rb"HTTP/1\.1 (404|400|307) ", came), came[:200]
    assert b"-----BEGIN" not in came
    assert b"root:" not in came


def test_no_path_that_anybody_thinks_of_is_a_fault_of_ours(web: Web) -> None:
    """Paths put together from what the routes know and what they do not."""
    random = Random(7)
    parts = [
        *("tile", "entries", "0", "000", "x000", "000.p", "19", "blocks", "records", "proofs"),
        *("m0", "1", str(SECOND), "-1", "..", ".", "", "%2e%2e", "%00", "%ff", "%0d%0a", "~"),
        *("'", "?raw", "?newest=1", "?newest=%00", "#", ";", "f" * 64, "9" * 40, "checkpoint"),
    ]
    with closing(HTTPConnection("127.0.0.1", web.port, timeout=ANSWER_MAX_S)) as connection:
        for _ in range(400):
            path = "/" + "/".join(random.choices(parts, k=random.randint(1, 5)))
            connection.request("GET", path)
            answer = answer_of(connection.getresponse())
            assert answer.status in (200, 307, 400, 404), (path, answer)
            assert b"PRIVATE" not in answer.body


def test_an_audit_over_it_finds_what_an_audit_of_the_folder_finds(
    works: Works, web: Web, tmp_path: Path
) -> None:
    pub, state = tmp_path / "community.pub", tmp_path / "kept"
    pub.write_text(encode_community(works.premises.community()))
    expected = called("audit", works.folder.path, "--community", pub)
    assert expected.lines[-1] == "the ledger holds"
    assert called("audit", web.url, "--community", pub, "--state", state) == expected
    again = called("audit", web.url, "--community", pub, "--state", state).lines
    assert again[-2].startswith("since last     0 blocks, 0 leaves")


def test_a_tile_client_that_is_not_ours_verifies_the_ledger_over_it(tmp_path: Path) -> None:
    """`tests/peers/stranger.py` knows the layout from C2SP tlog-tiles, and none of our code: tiles
    of two levels, partial and full, all from the server."""
    premises = Premises(tmp_path / "gateway", "[web]\nport = 0\n")
    premises.enrol()
    with closing(premises.folder.open_store()) as store:
        site = premises.site(store)
        site.found()
        while site.node.state.frontier.size < 300:
            site.run([1])
        checkpoint = site.node.state.checkpoint
    pub = tmp_path / "community.pub"
    pub.write_text(encode_community(premises.community()))
    with serving(premises.path) as web:
        done = subprocess.run(
            [ROOT / ".venv-peers/bin/python", "-I", ROOT / "tests/peers/stranger.py", pub, web.url],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["size"], said["root"]) == (checkpoint.size, checkpoint.root.hex())


# --- Blocks, records, proofs. --------------------------------------------------------------------


def test_a_block_says_what_its_header_says(works: Works, web: Web) -> None:
    listed = web.get("/blocks").json["blocks"]
    assert [one["step"] for one in listed] == list(range(works.step, FIRST_STEP - 1, -1))
    assert web.get("/blocks?newest=2").json["blocks"] == listed[:2]
    with works.site() as site:
        for checked in site.blocks():
            header = checked.header.body
            assert isinstance(header, Header)
            said = web.get(f"/blocks/{header.step}").json
            assert {name: said[name] for name in listed[0]} in listed
            assert said["header"] == checked.header.identity.hex()
            assert said["flow_uwh"]["registered"] == str(header.flow.registered)
            assert said["balance_uwh"]["waiting"] == str(header.balance.waiting)
            assert said["tokens"] == header.flow.tokens
            assert (said["late"], said["late_steps_max"]) == header.late
            assert said["meters"] == dict(zip(("expected", "heard"), header.meters, strict=True))
            assert (
                sum(said["kinds"].values())
                == header.leaves + 1
                == said["size"] - said["first_leaf"]
            )
            assert (
                site.community().open_checkpoint(said["checkpoint"].encode()).size == said["size"]
            )
    assert listed[0]["begins"].endswith("Z")


def test_where_all_energy_is_is_told_without_anyones_consumption(works: Works, web: Web) -> None:
    said = web.get("/sharing").json
    with works.site() as site:
        state = site.node.state
    assert said["balance_uwh"]["registered"] == str(state.balance.registered)
    assert (said["members"], said["shared"]) == ([], None)
    assert [one["step"] for one in said["waiting"]] == sorted(state.settlements)
    assert all(one["asks"] == ["no-agreement"] for one in said["waiting"])


def test_a_record_is_told_by_its_place_and_by_its_identity(works: Works, web: Web) -> None:
    with works.site() as site:
        for checked in site.blocks():
            header = checked.header.body
            for verdict in checked.verdicts:
                body = verdict.record.body
                if not isinstance(body, ChainRecord):
                    continue
                place = f"/records/{body.meter}/{body.sequence}"
                said = web.get(place).json
                assert said["identity"] == verdict.record.identity.hex()
                assert web.get(f"/records/{said['identity']}").json == said
                counted = {"counted": True}
                if verdict.reason is not None:
                    counted = {"counted": False, "reason": verdict.reason}  # type: ignore[dict-item]
                assert said["verdict"] == counted
                assert said["block_step"] == getattr(header, "step", None)
                assert said["says"]["meter"] == body.meter
                assert said["readable"][0].endswith(body.KIND.value)
                for raw in (web.get(f"{place}?raw"), web.get(place, Accept="application/cose")):
                    assert raw.headers["content-type"] == "application/cose"
                    assert raw.body == verdict.record.raw
    verdicts = [web.get(f"/records/m0/{at}").json["verdict"]["counted"] for at in range(8)]
    assert False in verdicts
    assert True in verdicts


def test_a_proof_convinces_an_outsider(works: Works, web: Web) -> None:
    community = works.premises.community()
    identity = web.get("/records/m1/1").json["identity"]
    for what in ("m1/1", identity):
        answer = web.get(f"/proofs/{what}")
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        proven = verify_proof(answer.body.decode(), community)
        assert proven.record.identity.hex() == identity
    proven = verify_proof(web.get(f"/proofs/{SECOND}").body.decode(), community)
    assert isinstance(proven.record.body, Header)


def test_comparisons_with_a_second_source_are_told_step_by_step_and_added(tmp_path: Path) -> None:
    premises = Premises(tmp_path / "gateway", "[web]\nport = 0\n")
    premises.enrol()
    with closing(premises.folder.open_store()) as store:
        site = premises.site(store)
        site.found()
        site.send(site.device.run_start(site.next_step))
        for counted, index in ((8, 5_000), (16, 5_001), (24, 5_001)):
            step = site.next_step
            said = {"counting": False, "unit_uwh": 10**6, "counted": counted}
            told = site.device.batch(step, 8), site.device.reading(step, index, **said)
            site.send(*told, site.device.close(step))
            site.seal()
        newest = site.node.state.step
    with serving(premises.folder.path) as web:
        answer = web.get("/comparisons/m0").json
        assert answer["meter"] == "m0"
        assert [one["step"] for one in answer["comparisons"]] == [newest, newest - 1]
        last, before = answer["comparisons"]
        assert (before["counted_uwh"], before["index_uwh"]) == ("800000", "1000000")
        assert (before["difference_uwh"], before["difference_ppm"]) == ("-200000", -200_000)
        assert (before["bound_uwh"], before["mpe_ppm"], before["within"]) == (
            "1100000",
            20_000,
            True,
        )
        assert last["difference_ppm"] is None
        whole = answer["total"]
        assert (whole["counted_uwh"], whole["index_uwh"]) == ("1600000", "1000000")
        assert (whole["comparisons"], whole["outside"], whole["within"]) == (2, 0, True)
        assert len(web.get("/comparisons/m0?newest=1").json["comparisons"]) == 1
        assert "no meter has this name" in web.get("/comparisons/nobody").problem
        assert web.get("/comparisons/m0?newest=0").status == 400
        read = figures(web)
        assert read["cryptometer_meter_compared_within", ("m0",)] == 1


def test_what_is_not_there_says_what_to_do(works: Works, web: Web) -> None:
    waiting = web.get("/records/m0/8")
    assert waiting.status == 404
    assert waiting.problem == "m0/8 waits for its block; ask again after the step's end"
    assert waiting.headers["retry-after"] == "60"
    for path, words in (
        ("/records/m0/99", "there is no record m0/99 here"),
        ("/records/nobody/0", "there is no record nobody/0"),
        ("/records/" + "0" * 64, "there is no record 000"),
        ("/records/m0", "neither METER/SEQUENCE"),
        ("/records/m0/-1", "neither METER/SEQUENCE"),
        ("/records/m0/1e3", "neither METER/SEQUENCE"),
        ("/records/m0/" + "9" * 18, "there is no record"),
        ("/records/m0/" + "9" * 30, "neither METER/SEQUENCE"),
        ("/records/" + "g" * 64, "neither METER/SEQUENCE"),
        ("/records/" + "x" * 3000, "no meter has such a name"),
        ("/records/%00%ff'--/1", "there is no record"),
        ("/proofs/m0/8", "waits for its block"),
        ("/proofs/m0/99", "there is no record"),
        ("/proofs/1", "there is no 1 here"),
        (f"/blocks/{works.step + 1}", "/blocks lists"),
        ("/blocks/x", "a step is a decimal number"),
        ("/blocks/" + "9" * 5000, "a step is a decimal number"),
        ("/nothing", "docs/operations.md"),
    ):
        answer = web.get(path)
        assert answer.status == 404, path
        assert words in answer.problem, (path, answer.problem)
    for newest in ("0", "-1", "x", "1001", "1" * 400, ""):
        assert web.get(f"/blocks?newest={newest}").status == 400


def test_only_reading_is_allowed(web: Web) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"):
        for path in ("/checkpoint", f"/blocks/{SECOND}", "/metrics", "/tile/0/000.p/19"):
            answer = web.get(path, method)
            assert (answer.status, answer.problem) == (
                405,
                "this is read access: GET and HEAD only",
            )
            assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}


# --- Health and figures. -------------------------------------------------------------------------


def scaled(step: int, later_ms: int) -> str:
    """A configuration whose clock stands so long after the start of a step, now."""
    now_ms = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000_000
    origin_ms = step_start_ms(step, STEP_S) + later_ms
    return (
        "[web]\nport = 0\n[clock]\ndriver = 'scaled'\nspeed = 1\n"
        f"origin_ms = {origin_ms}\nanchor_ms = {now_ms}\n"
    )


def test_a_gateway_that_does_its_work_is_healthy(works: Works, tmp_path: Path) -> None:
    config = works.folder.path / "healthy.toml"
    config.write_text(scaled(works.step + 1, 60_000))
    with serving(config) as web:
        answer = web.get("/healthz")
        assert (answer.status, answer.json["reasons"]) == (200, [])
        assert answer.json["healthy"] is True
        assert answer.json["step"] == works.step
        assert figures(web)["cryptometer_healthy", ()] == 1


def test_a_block_that_does_not_come_makes_it_unwell(works: Works) -> None:
    config = works.folder.path / "overdue.toml"
    config.write_text(scaled(works.step + 2, GRACE_MS + 100_000))
    with serving(config) as web:
        answer = web.get("/healthz")
        assert answer.status == 503
        [reason] = answer.json["reasons"]
        assert reason.startswith(f"the block of step {works.step + 1} is overdue by 10")
        assert "log of cryptometer-gateway" in reason


def figures(web: Web) -> dict[tuple[str, tuple[str, ...]], float]:
    """Every sample, by its name and the values of its labels (in order of the labels' names), as
    Prometheus' own parser reads them."""
    answer = web.get("/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


def test_the_figures_are_those_of_the_store(works: Works, web: Web) -> None:
    found = figures(web)
    with closing(works.folder.open_store(read_only=True)) as store:
        state = store.state()
        assert state is not None
        contacts = store.contacts()
    assert found["cryptometer_block_step", ()] == works.step
    assert found["cryptometer_blocks_total", ()] == works.step - FIRST_STEP + 1
    assert found["cryptometer_ledger_leaves", ()] == state.frontier.size
    assert found["cryptometer_ledger_published_leaves", ()] == state.frontier.size
    assert found["cryptometer_records_pending", ()] == 1
    assert found["cryptometer_records_total", ("malformed", "refused")] == 1
    records_by = {
        label: n for (name, label), n in found.items() if name == "cryptometer_records_total"
    }
    aside = {reason: n for (reason, verdict), n in records_by.items() if verdict == "quarantined"}
    assert aside == {"lot-above-v": 1}
    counted = found["cryptometer_records_total", ("", "counted")]
    assert counted == state.frontier.size - (works.step - FIRST_STEP + 1) - 1
    assert found["cryptometer_meter_late_records_total", ("m0",)] == 1
    for contact in contacts:
        label = (contact.meter,)
        assert (
            found["cryptometer_meter_last_heard_timestamp_seconds", label] == contact.at_ms / 1000
        )
        assert (
            found["cryptometer_meter_clock_error_seconds", label] == contact.clock_error_ms / 1000
        )
    assert found["cryptometer_energy_watt_hours", ("registered",)] == state.balance.registered / 1e6
    assert ("cryptometer_block_punctuality_seconds", ("0.99",)) in found


def test_an_answer_is_of_one_moment_though_a_block_is_made_meanwhile(tmp_path: Path) -> None:
    works = Works(tmp_path / "gateway")
    with works.site() as site, gateway.web.Web(works.folder)._store() as store:
        before = content(store)
        site.seal()
        assert content(store) == before != content(site.store)


class _Emptied(dict[Any, Any]):
    """What was kept is gone at once, as when another thread empties it."""

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        self.clear()


def test_a_block_is_counted_though_another_question_empties_what_was_kept(works: Works) -> None:
    web = gateway.web.Web(works.folder)
    web._counted = _Emptied()
    told = web._ask(lambda site: answers.block(site, SECOND, web._kinds))
    assert told == web._ask(lambda site: answers.block(site, SECOND))


def test_every_figure_is_listed_for_the_operator(web: Web) -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    listed = set(re.findall(r"^\| `(cryptometer_[a-z_]+)", text, re.MULTILINE))
    answer = web.get("/metrics").body.decode()
    told = {family.name for family in text_string_to_metric_families(answer)}
    told |= {f"{name}_total" for name in told if f"# TYPE {name}_total counter" in answer}
    assert listed == {name for name in told if f"# TYPE {name} " in answer}


# --- A store that cannot be had. -----------------------------------------------------------------


def test_without_a_block_or_a_store_it_says_so_and_comes_to_itself(tmp_path: Path) -> None:
    premises = Premises(tmp_path / "gateway", "[web]\nport = 0\n")
    with serving(premises.path) as web:
        assert web.get("/healthz").status == 503
        [reason] = web.get("/healthz").json["reasons"]
        assert "import authority.records" in reason
        assert web.get("/checkpoint").problem == "the ledger has no block yet"
        assert web.get("/blocks").status == 503
        assert web.get("/metrics").status == 503
        premises.enrol()
        with closing(premises.folder.open_store()) as store:
            site = premises.site(store)
            assert web.get("/blocks").json == {"blocks": []}
            time.sleep(1.1)
            assert "there is no block yet" in web.get("/healthz").json["reasons"][0]
            assert web.get("/metrics").status == 200
            site.found()
            # Read beside the writer.
            assert web.get(f"/blocks/{FIRST_STEP}").json["step"] == FIRST_STEP
        premises.folder.store.rename(tmp_path / "away")
        assert "/healthz says why" in web.get("/blocks").problem
        time.sleep(1.1)  # the same moment's answer is told again
        [reason] = web.get("/healthz").json["reasons"]
        assert "there is no store" in reason
        (tmp_path / "away").rename(premises.folder.store)
        assert web.get("/blocks").status == 200


def test_damaged_files_are_told_and_end_nothing(tmp_path: Path) -> None:
    works = Works(tmp_path / "gateway")
    entries = max(works.folder.ledger.glob("tile/entries/000.p/*"), key=lambda one: int(one.name))
    with serving(works.folder.path) as web:
        entries.write_bytes(entries.read_bytes()[:-5])
        answer = web.get("/records/m0/1")
        assert answer.status == 500
        assert "000.p" in answer.problem
        assert web.get("/healthz").status == 503
        (works.folder.ledger / CHECKPOINT_PATH).write_text("nothing")
        assert web.get(f"/blocks/{SECOND}").status == 500
        entries.unlink()
        assert web.get("/checkpoint").body == b"nothing"


def test_a_record_without_an_index_is_looked_for_no_longer_than_allowed(tmp_path: Path) -> None:
    works = Works(tmp_path / "gateway")
    with closing(sqlite3.connect(works.folder.store)) as connection, connection:
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)"
            " INSERT INTO leaves SELECT 'z', i, randomblob(32), 1 FROM n"
        )
    with closing(SqliteStore(works.folder.store, read_only=True, find_max_s=0.0)) as store:
        from gateway.store import SearchTooLong

        with pytest.raises(SearchTooLong):
            store.find(bytes(32))
        assert store.leaf_at("m0", 0) is not None  # the limit is that search's alone
    with closing(SqliteStore(works.folder.store, read_only=True, find_max_s=60)) as store:
        assert store.find(bytes(32)) is None


# --- Those who want to harm. ---------------------------------------------------------------------


def test_a_request_that_is_none_or_too_large_is_refused(web: Web) -> None:
    for data in (
        b"\x16\x03\x01\x02\x00",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * 100_000 + b"\r\n\r\n",
    ):
        came = web.say(data, nothing_more=True)
        assert came == b"" or came.startswith(b"HTTP/1.1 4"), came[:100]
    assert web.get("/checkpoint").status == 200


def test_a_body_that_nobody_wants_is_refused_and_the_connection_ended(web: Web) -> None:
    for head in (b"Content-Length: 10000000000", b"Transfer-Encoding: chunked"):
        came = web.say(b"GET /checkpoint HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n")
        assert came.startswith(b"HTTP/1.1 400")
        assert b"has no body" in came
    assert resident_mb(web.process.pid) < 200
    assert web.get("/checkpoint", Content_Length="0").status == 200


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) / 1024


def test_clients_that_rest_are_sent_away_and_do_not_keep_others_out(web: Web) -> None:
    """Half of them say nothing, half say a byte now and then; more come than are let in."""
    begun = time.monotonic()
    lines = [web.connect() for _ in range(300)]
    for at, line in enumerate(lines):
        if at % 2:
            line.sendall(b"GET /checkpoint HTTP/1.1\r\nHost: x\r\n")
    dripping = set(lines[1::2])
    still_refused = True
    while time.monotonic() < begun + ANSWER_MAX_S and (dripping or still_refused):
        time.sleep(0.5)
        for line in list(dripping):
            try:
                line.sendall(b"X")
            except OSError:
                dripping.discard(line)
        try:
            still_refused = web.get("/checkpoint").status != 200
        except OSError:
            still_refused = True
    assert not dripping
    assert not still_refused
    for line in lines:
        line.close()
    assert web.get("/checkpoint").status == 200


def test_a_flood_of_questions_does_not_keep_the_writer_from_its_blocks(tmp_path: Path) -> None:
    """Twelve clients ask without pause for what costs most, while blocks are made beside them: each
    answer is one of a whole block, and no commit waits for a reader or fails."""
    works = Works(tmp_path / "gateway")
    ended = threading.Event()
    wrong: list[object] = []
    answered: Counter[int] = Counter()

    def ask(port: int, paths: Sequence[str]) -> None:
        with closing(HTTPConnection("127.0.0.1", port, timeout=ANSWER_MAX_S)) as connection:
            while not ended.is_set():
                for path in paths:
                    connection.request("GET", path)
                    answer = answer_of(connection.getresponse())
                    answered[answer.status] += 1
                    if answer.status not in (200, 404, 503):
                        wrong.append((path, answer))

    with serving(works.folder.path) as web, works.site() as site:
        clients = [
            threading.Thread(target=ask, args=[web.port, paths])
            for paths in (
                ["/metrics", "/healthz"],
                [f"/blocks/{SECOND}", "/blocks?newest=1000"],
                ["/records/" + "0" * 64, "/records/m0/1"],
                ["/proofs/m0/1", "/checkpoint"],
            )
            for _ in range(3)
        ]
        for client in clients:
            client.start()
        try:
            before = site.node.state.step
            until = time.monotonic() + FLOOD_MAX_S
            longest_s = 0.0
            while sum(answered.values()) < 400 or site.node.state.step < before + 20:
                begun = time.monotonic()
                assert begun < until
                assert all(client.is_alive() for client in clients)
                site.seal()
                longest_s = max(longest_s, time.monotonic() - begun)
                assert longest_s < 4  # of SQLite's patience with a lock, which is five
                found = web.get(f"/blocks/{site.node.state.step}")
                assert found.json["step"] == site.node.state.step
        finally:
            ended.set()
            for client in clients:
                client.join()
        assert not wrong
        assert answered[200] > 100
        assert site.audit().state == site.node.state


def test_a_connection_is_kept_for_the_next_question(web: Web) -> None:
    with closing(HTTPConnection("127.0.0.1", web.port, timeout=ANSWER_MAX_S)) as connection:
        connection.connect()
        first = connection.sock
        quickest_s = ANSWER_MAX_S + 0.0
        for _ in range(20):
            begun = time.monotonic()
            connection.request("GET", "/checkpoint")
            assert answer_of(connection.getresponse()).status == 200
            assert connection.sock is first
            quickest_s = min(quickest_s, time.monotonic() - begun)
        # Never an answer that waits for its own receipt (Nagle's algorithm against the 40 ms that
        # the other side may take).
        assert quickest_s < 0.035


# --- The process. --------------------------------------------------------------------------------


def test_it_ends_in_order_and_says_where_it_cannot_listen(works: Works, tmp_path: Path) -> None:
    with serving(works.folder.path) as web:
        config = works.folder.path / "taken.toml"
        config.write_text(f"[web]\nport = {web.port}\n")
        done = subprocess.run(
            program(GATEWAY, "serve", "--config", config),
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == EXIT_CONFIGURATION
        assert done.stderr == (
            f"cryptometer-gateway: cannot listen on 127.0.0.1, port {web.port}:"
            " Address already in use; see [web] in gateway.toml\n"
        )
        assert web.stop() == (0, "")


def test_a_signal_that_came_before_the_first_question_ends_it(works: Works) -> None:
    with connections.listen("127.0.0.1", 0) as listening:
        app = gateway.web.Web(works.folder).app("here")
        ended = threading.Thread(
            target=connections.run, args=(app, listening, [signal.SIGTERM]), daemon=True
        )
        ended.start()
        ended.join(ANSWER_MAX_S)
        assert not ended.is_alive()
    with serving(works.folder.path) as web:
        assert web.stop() == (0, "")


def test_the_service_manager_hears_that_it_serves_and_that_it_lives(
    works: Works, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(ANSWER_MAX_S)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        with serving(works.folder.path) as web:
            said = [manager.recv(1_000).decode() for _ in range(4)]
            assert sum(f"READY=1\nSTATUS=serving at {web.url}" in one for one in said) == 1
            assert sum(one.startswith("WATCHDOG=1") for one in said) == 3
        last = ""
        while "STOPPING=1" not in last:
            last = manager.recv(1_000).decode()


def test_it_reads_what_belongs_to_another_user_and_no_key(tmp_path: Path) -> None:
    """As the unit runs it: a user of its own in the gateway's group, in a folder it cannot write.
    The gateway has ended in order, so that there is no write-ahead log to read from."""
    reader = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from contextlib import closing\n"
        "folder = Path(sys.argv[1])\n"
        "from gateway.folder import open_folder\n"
        "from gateway.web import Web\n"
        "opened = open_folder(folder)\n"
        "if os.getuid() == 0:\n"
        "    os.setgroups([65534]); os.setgid(65534); os.setuid(65534)\n"
        "with closing(opened.open_store(read_only=True)) as store:\n"
        "    print(len(store.blocks(9)), store.depths().pending)\n"
        "try:\n"
        "    opened.key.read_bytes()\n"
        "except PermissionError:\n"
        "    print('no key')\n"
    )
    works = Works(tmp_path / "gateway")
    folder = works.folder.path
    assert not list(folder.glob("store.sqlite-*"))
    before = {path: path.stat() for path in (folder, *folder.parents) if path != Path("/")}
    as_root = os.getuid() == 0  # otherwise the reader is the same user, who may not write either
    try:
        for path in before:
            if path.stat().st_uid == os.getuid() and not path.stat().st_mode & 0o001:
                path.chmod(path.stat().st_mode | 0o011)
        folder.chmod(0o550)
        if as_root:
            os.chown(folder, -1, 65534)
            os.chown(folder / "store.sqlite", -1, 65534)
        done = subprocess.run(
            [sys.executable, "-c", reader, folder],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    finally:
        for path, stat in before.items():
            path.chmod(stat.st_mode & 0o7777)
    told = f"{works.step - FIRST_STEP + 1} 1\n" + ("no key\n" if as_root else "")
    assert (done.stdout, done.stderr) == (told, "")
