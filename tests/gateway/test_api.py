"""The read API of version 1: real processes beside a real gateway's folder, asked over sockets by
members, an operator, a grid operator, and by those who have no business there."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from cryptometer.authority_records import Use
from cryptometer.community import encode_community
from cryptometer.record_fields import Role
from cryptometer.share_file import verify_share
from cryptometer.sharing_records import Method
from cryptometer.steps import NS_PER_MS
from gateway import exporting, openapi, reporting
from gateway.access import SECRET_BYTES, Grant, Holder, digest_of, make_token
from gateway.consumption import Person
from gateway.endpoints import JSON, MEMBERS, PROBLEM, PUBLIC, SHARE, Audience, Endpoint
from gateway.history import allotments, gather
from gateway.members_web import AT_ONCE_MAX, Members
from gateway.private import PrivateStore
from gateway.web import Web as PublicWeb
from tests.commands.outsider import called
from tests.core.community import DETAILS, FIRST_STEP, PULSE_UWH, STEP_S
from tests.gateway.kit import Premises
from tests.gateway.test_main import gateway
from tests.gateway.test_serve import Answer, Web, serving
from tests.keys import signer
from tests.test_peers import ask

ROOT = Path(__file__).parents[2]
NAMES = ("ada", "bo", "cy")
NOW_MS = time.time_ns() // NS_PER_MS
DAY_MS = 86_400_000
USED_UWH = 1_234_567
TOML = """\
[web]
port = 0
[members]
port = 0
points = "points.toml"
files = "laid-out"
"""
CUPS = ("ES0021000000000001RK", "ES0021000000000002RE", "ES0021000000000003WT")


class Works:
    """A gateway's folder, shared pro rata to consumption: a step that was given, one without
    energy, one that nobody closed, one that was closed late and brought nothing, one with late
    energy, one that waits."""

    def __init__(self, path: Path) -> None:
        self.premises = Premises(path, TOML, meters=2)
        self.folder = self.premises.folder
        self.premises.enrol()
        with (
            closing(self.folder.open_store()) as store,
            closing(PrivateStore(self.folder.private)) as private,
        ):
            site = self.premises.site(store)
            site.facts = private
            site.start()
            site.found()
            for at, name in enumerate(NAMES):
                member = site.authority.register(Role.MEMBER, name, signer(100 + at).public)
                site.node.take_authority([member.raw])
            details = replace(DETAILS, use=Use.STORAGE)
            out = site.authority.register(
                Role.METER, "battery-out", signer(99).public, meter=details
            )
            site.node.take_authority([out.raw])
            site.seal()
            terms = site.authority.agree(site.next_step + 1, NAMES, Method.PRO_RATA)
            site.node.take_authority([terms.raw])
            site.run([])
            self.first = site.next_step
            for at, name in enumerate(NAMES):
                used = {self.first + step: (at + 1) * USED_UWH for step in range(5)}
                private.put(name, used, f"file:{'ab' * 32}", NOW_MS)
            site.run([8], [])
            site.seal()
            late = site.next_step
            site.seal()
            for device in site.devices:
                site.send(*device.step(late))
            step = site.next_step
            one, other = site.devices
            site.send(*one.step(step, 6))
            site.seal()
            site.send(*other.step(step, 7))
            site.seal()
            site.run([5])
            self.newest = site.node.state.step
            private.set_person("ada", Person("Ada Lovelace", "12 St James's Square", "ada@x"))
            private.put("ada", {self.first: USED_UWH + 1}, f"file:{'cd' * 32}", NOW_MS)
            self.community = site.community()
        self.day = time.strftime("%Y-%m-%d", time.gmtime(self.first * STEP_S))
        lines = (f'{name} = "{cups}"\n' for name, cups in zip(NAMES, CUPS, strict=True))
        (path / "points.toml").write_text("".join(lines))
        (path / "laid-out").mkdir()
        (path / "laid-out" / "report.html").write_text("<p>as laid out</p>")
        (path / "laid-out" / ".hidden").write_text("not for anybody")
        (path / "laid-out" / "link").symlink_to(self.folder.key)
        self.tokens = {name: self.grant(Holder.MEMBER, name) for name in NAMES}
        self.tokens |= {one.value: self.grant(one) for one in (Holder.OPERATOR, Holder.DSO)}

    def grant(self, holder: Holder, member: str = "", until_ms: int = NOW_MS + DAY_MS) -> str:
        token, number = make_token(os.urandom)
        with closing(PrivateStore(self.folder.private)) as private:
            private.put_grant(Grant(number, holder, member, digest_of(token), NOW_MS, until_ms))
        return token

    def path_of(self, endpoint: Endpoint, member: str = "ada") -> str:
        """An endpoint's path with a question that has an answer here."""
        places = {"member": member, "meter": "m0", "step": self.first, "file": "report.html"}
        path = endpoint.path.format(**places)
        names = {one.name for one in endpoint.queries}
        if "period" not in names:
            return path
        if "storage" in names:
            return f"{path}?period={self.day}&storage=ada&meter=battery-out&efficiency=0.9"
        spain = "missing" in names
        return (
            f"{path}?period={self.day[:7]}&missing=alike" if spain else f"{path}?period={self.day}"
        )


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory) -> Works:
    return Works(tmp_path_factory.mktemp("api") / "gateway")


@pytest.fixture(scope="module")
def web(works: Works) -> Iterator[Web]:
    with serving(works.folder.path) as web:
        yield web


@pytest.fixture(scope="module")
def members(works: Works) -> Iterator[Web]:
    with serving(works.folder.path, "--members") as web:
        yield web


def asked(web: Web, path: str, token: str, method: str = "GET") -> Answer:
    return web.get(path, method, Authorization=f"Bearer {token}")


# --- The document. -------------------------------------------------------------------------------


def test_the_document_is_one_and_every_answer_is_as_it_says(
    works: Works, web: Web, members: Web
) -> None:
    """Judged by a validator that is not ours; every path, as everybody who may ask."""
    answers: list[list[Any]] = []

    def keep(endpoint: Endpoint, answer: Answer, expected: int = 200) -> None:
        assert answer.status == expected, (endpoint.path, answer)
        kind = answer.headers["content-type"]
        assert kind == (endpoint.kind if expected == 200 else PROBLEM)
        if kind in (JSON, PROBLEM):
            answers.append([endpoint.path, expected, kind, json.loads(answer.body)])

    for endpoint in PUBLIC:
        keep(endpoint, web.get(works.path_of(endpoint)))
        keep(endpoint, web.get(f"{endpoint.path.format(step=1, meter='m0')}?no=1"), 400)
    for endpoint in MEMBERS:
        path = works.path_of(endpoint)
        for token in (works.tokens["operator"], works.tokens["dso"]):
            keep(endpoint, asked(members, path, token))
        may = endpoint.audience is not Audience.OFFICE
        keep(endpoint, asked(members, path, works.tokens["ada"]), 200 if may else 403)
        keep(endpoint, members.get(path), 401)
    document = web.get("/api/1/openapi.json").json
    assert document == json.loads(json.dumps(openapi.document()))
    assert ask("openapi_peer.py", {"document": document, "answers": answers}) == []
    strange = [["/api/1/community", 200, JSON, {"name": 7}]]
    assert ask("openapi_peer.py", {"document": document, "answers": strange}) != []


def test_every_route_is_in_the_document_and_nothing_else_is(works: Works) -> None:
    routes = {
        route.path  # type: ignore[attr-defined]
        for app in (PublicWeb(works.folder).app("here"), Members(works.folder).app("here"))
        for route in app.routes
    }
    listed = set(openapi.document()["paths"])
    assert {path for path in routes if path.startswith("/api/")} == listed
    names = [one.name for one in (*PUBLIC, *MEMBERS)]
    assert len(set(names)) == len(names)


def test_only_reading_is_allowed(works: Works, web: Web, members: Web) -> None:
    for endpoint in MEMBERS:
        answer = asked(members, works.path_of(endpoint), works.tokens["operator"], "POST")
        assert answer.status == 405
    assert web.get("/api/1/balance", "DELETE").status == 405


# --- What is public. -----------------------------------------------------------------------------


def test_balance_meters_and_waiting_add_up(works: Works, web: Web) -> None:
    said = web.get("/api/1/balance").json
    amounts = {name: int(text) for name, text in said["balance_uwh"].items()}
    assert amounts.pop("registered") == sum(amounts.values()) == 39 * PULSE_UWH
    assert said["newest_step"] == works.newest
    meters = web.get("/api/1/meters").json["meters"]
    assert [one["meter"] for one in meters] == ["battery-out", "m0", "m1"]
    assert sum(int(one["registered_uwh"]) for one in meters) == 39 * PULSE_UWH
    waiting = web.get("/api/1/waiting").json
    [step] = waiting["steps"]
    assert (step["step"], step["asks"]) == (works.newest, ["consumption"])
    assert waiting["waiting_uwh"] == step["energy_uwh"] == str(amounts["waiting"])
    assert web.get(f"/api/1/waiting?from={works.newest + 1}").json["steps"] == []


def test_the_agreement_in_force_is_told_in_words_too(works: Works, web: Web) -> None:
    said = web.get("/api/1/agreement").json
    assert (said["method"], said["step"]) == ("pro-rata", works.newest + 1)
    assert [one["member"] for one in said["claims"]] == list(NAMES)
    assert said["readable"][0].startswith("The rule: in proportion to what each consumed")
    assert web.get(f"/api/1/agreement?step={FIRST_STEP}").status == 404


def test_the_public_side_knows_no_way_to_the_private_store() -> None:
    program = (
        "import sys, gateway.web\n"
        "names = ('gateway.private', 'gateway.members_web')\n"
        "print([name for name in names if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_the_public_side_answers_nothing_of_a_members(works: Works, web: Web) -> None:
    for endpoint in MEMBERS:
        answer = asked(web, works.path_of(endpoint), works.tokens["operator"])
        assert answer.status == 404
    told = b"".join(web.get(works.path_of(endpoint)).body for endpoint in PUBLIC)
    for word in (b"Lovelace", b"St James", b"ada@x", str(2 * USED_UWH).encode()):
        assert word not in told


# --- Who may ask. --------------------------------------------------------------------------------


def test_a_member_reads_his_own_and_nobody_elses(works: Works, members: Web) -> None:
    """And is not told whether somebody else is there."""
    for endpoint in MEMBERS:
        if endpoint.audience is Audience.OFFICE:
            assert asked(members, works.path_of(endpoint), works.tokens["ada"]).status == 403
        if endpoint.audience is not Audience.MEMBER:
            continue
        other = asked(members, works.path_of(endpoint, "bo"), works.tokens["ada"])
        nobody = asked(members, works.path_of(endpoint, "nobody"), works.tokens["ada"])
        none = asked(members, works.path_of(endpoint, "%00%ff"), works.tokens["ada"])
        assert other.status == nobody.status == none.status == 403
        assert other.body == nobody.body == none.body
        assert asked(members, works.path_of(endpoint, "nobody"), works.tokens["dso"]).status == 404


def test_without_a_token_in_force_nothing_is_told(works: Works, members: Web) -> None:
    token = works.tokens["ada"]
    over = works.grant(Holder.OPERATOR, until_ms=NOW_MS)
    wrong = [
        "", "Bearer", "Bearer ", f"Basic {token}", token, f"Bearer {token}0",
        f"Bearer {token[:-1]}", f"Bearer cm1_{'0' * 12}_{'0' * 64}",
        f"Bearer {token[:-1]}{'1' if token[-1] == '0' else '0'}", f"Bearer {over}",
        f"Bearer {token.upper()}", f"Bearer {token} {token}",
        "Bearer \u00e9", f"Bearer {make_token(os.urandom)[0]}",
    ]  # fmt: skip
    bodies = set()
    for endpoint in MEMBERS:
        for header in wrong:
            path = works.path_of(endpoint)
            answer = members.get(path, Authorization=header.encode().decode("latin-1"))
            assert answer.status == 401
            assert answer.headers["www-authenticate"].startswith("Bearer")
            bodies.add(answer.body)
    assert len(bodies) == 1
    assert members.get(f"/api/1/me?token={token}").status == 401
    assert members.get("/api/1/me", Authorization=f"bearer  {token} ").status == 200


def test_a_token_says_whose_it_is_until_it_is_revoked(works: Works, members: Web) -> None:
    token = works.grant(Holder.MEMBER, "cy")
    said = asked(members, "/api/1/me", token).json
    assert (said["holder"], said["member"]) == ("member", "cy")
    with closing(PrivateStore(works.folder.private)) as private:
        assert private.revoke(said["number"])
        assert not private.revoke(said["number"])
    assert asked(members, "/api/1/me", token).status == 401
    # Nothing that would let anybody in stands in the file.
    content = works.folder.private.read_bytes()
    for one in works.tokens.values():
        assert one.encode() not in content
        assert one[-2 * SECRET_BYTES :].encode() not in content
        assert bytes.fromhex(one[-2 * SECRET_BYTES :]) not in content


def test_who_a_member_is_the_grid_operator_is_not_told(works: Works, members: Web) -> None:
    own = asked(members, "/api/1/members/ada", works.tokens["ada"]).json
    assert own["person"]["display_name"] == "Ada Lovelace"
    assert asked(members, "/api/1/members/ada", works.tokens["operator"]).json == own
    assert asked(members, "/api/1/members/ada", works.tokens["dso"]).json["person"] is None
    listed = asked(members, "/api/1/members", works.tokens["dso"]).json["members"]
    assert [one["member"] for one in listed] == list(NAMES)
    given = sum(int(one["virtual_generation_uwh"]) for one in listed)
    assert given == (16 + 6 + 7) * PULSE_UWH


def test_no_answer_may_be_kept(works: Works, members: Web) -> None:
    for endpoint in MEMBERS:
        for token in (works.tokens["operator"], "none"):
            answer = asked(members, works.path_of(endpoint), token)
            assert "no-store" in answer.headers["cache-control"]
        assert (
            asked(members, works.path_of(endpoint), works.tokens["operator"]).headers["vary"]
            == "Authorization"
        )


def test_one_token_has_so_many_questions_at_once_and_no_more(works: Works) -> None:
    web = Members(works.folder)
    grant, other = (
        Grant(number, Holder.DSO, "", bytes(32), NOW_MS, NOW_MS + DAY_MS) for number in ("a", "b")
    )
    turns = [web._turn(grant) for _ in range(AT_ONCE_MAX)]
    for turn in turns:
        turn.__enter__()
    with pytest.raises(HTTPException) as refused, web._turn(grant):
        pass
    assert refused.value.status_code == 429
    with web._turn(other):
        pass
    for turn in turns:
        turn.__exit__(None, None, None)
    with web._turn(grant):
        pass
    assert not web._asking


def test_no_question_that_anybody_thinks_of_is_a_fault_of_ours(
    works: Works, web: Web, members: Web
) -> None:
    """Questions put together from what the paths know and what they do not."""
    random = Random(11)
    parts = [
        *("members", "ada", "bo", "meter", "consumption", "steps", str(works.first)),
        *("share", "why", "exports", "virtual-meter.csv", "load-curve.csv", "meters"),
        *("coefficients-es.txt", "m0", "files", "report.html", "me", "-1", "..", "%2e%2e"),
        *("%00", "%ff", "~", "9" * 30, ""),
    ]
    queries = [
        *("from=0", f"to={works.newest}", "from=99999999999", "period=2024-03"),
        *("period=2024-02-30", "period=0000-00", "period=9999-12", "period=2024-03-09"),
        *("zone=Europe/Paris", "zone=../x", "zone=/etc/passwd", "zone=Pacific/Apia"),
        *("form=local", "missing=alike", "first_hour=0", "hour_digits=4", "newest=1"),
        *("step=1", "%ff=%ff", "=", "&", "a" * 500),
    ]
    tokens = [works.tokens["operator"], works.tokens["ada"], "none"]
    for _ in range(200):
        path = "/api/1/" + "/".join(random.choices(parts, k=random.randint(1, 5)))
        if random.random() < 0.5:
            path = works.path_of(random.choice(MEMBERS)).partition("?")[0]
        question = "&".join(random.choices(queries, k=random.randint(0, 3)))
        side = random.choice([web, members, members])
        answer = asked(side, f"{path}?{question}", random.choice(tokens))
        assert answer.status in (200, 307, 400, 401, 403, 404), (path, question, answer)
        assert b"PRIVATE" not in answer.body


# --- What a member is told. ----------------------------------------------------------------------


def test_history_by_the_index_is_what_an_export_gathers_from_all_blocks(works: Works) -> None:
    web = Members(works.folder)
    everything = exporting.gather(works.folder, works.day, "UTC", with_consumption=True)
    steps = range(FIRST_STEP, works.newest + 3)
    with closing(PrivateStore(works.folder.private)) as private:
        used = {step: private.of(step) for step in steps}
    found = web._ask_whole(lambda site, state: allotments(site, state, steps, used))
    assert found == everything.allotments
    assert {one.total_uwh is None for one in found} == {True, False}
    assert {len(one.later) for one in found} >= {0, 1}
    produced = web._ask_whole(lambda site, state: gather(site, state, steps).produced_uwh)
    assert produced == everything.gathered.produced_uwh


def test_a_members_meter_is_told_step_by_step_and_page_by_page(works: Works, members: Web) -> None:
    path, token = "/api/1/members/bo/meter", works.tokens["bo"]
    whole = asked(members, path, token).json
    assert (whole["from"], whole["to"], whole["next_from"]) == (FIRST_STEP, works.newest, None)
    rows = {row["step"]: row for row in whole["rows"]}
    first = rows[works.first]
    assert first["virtual_generation_uwh"] == str(16 * PULSE_UWH // 3)
    assert first["consumption_uwh"] == str(2 * USED_UWH)
    assert first["market_face_uwh"] == str(2 * USED_UWH - 16 * PULSE_UWH // 3)
    assert rows[works.first + 1]["virtual_generation_uwh"] == "0"
    assert rows[works.first + 2]["virtual_generation_uwh"] is None
    assert rows[works.first + 3]["first"]["block_step"] == works.first + 4
    assert len(rows[works.first + 4]["later"]) == 1
    assert rows[works.newest]["virtual_generation_uwh"] is None
    paged = []
    at: int | None = FIRST_STEP
    while at is not None:
        page = asked(members, f"{path}?from={at}&to={min(at + 1, works.newest)}", token).json
        paged += page["rows"]
        at = page["to"] + 1 if page["to"] < works.newest else None
    assert paged == whole["rows"]
    for wrong in ("from=2&to=1", "from=x", "from=-1", "from=1&from=2", "to=9999999999999", "x=1"):
        assert asked(members, f"{path}?{wrong}", token).status == 400


def test_consumption_is_told_with_what_was_corrected(works: Works, members: Web) -> None:
    said = asked(members, "/api/1/members/ada/consumption", works.tokens["ada"]).json
    first = said["rows"][0]
    assert (first["step"], first["energy_uwh"]) == (works.first, str(USED_UWH + 1))
    assert [one["energy_uwh"] for one in first["earlier"]] == [str(USED_UWH)]
    assert first["source"] == f"file:{'cd' * 32}"


def test_a_share_proves_itself_and_why_is_told_to_whom_it_concerns(
    works: Works, members: Web
) -> None:
    path = f"/api/1/members/bo/steps/{works.first}"
    answer = asked(members, f"{path}/share", works.tokens["bo"])
    assert answer.headers["content-type"] == SHARE
    share = verify_share(answer.body, works.community)
    assert (share.member, share.used_uwh) == ("bo", 2 * USED_UWH)
    own = asked(members, f"{path}/why", works.tokens["bo"]).json
    assert own["energy_uwh"] == str(share.energy_uwh)
    assert not own["is_rule_recomputed"]
    assert any(line.startswith("Not proven") for line in own["lines"])
    assert not any("ada" in line or "cy" in line for line in own["lines"])
    # Also of a step of which somebody's consumption was corrected since.
    whole = asked(members, f"{path}/why", works.tokens["dso"]).json
    assert whole["is_rule_recomputed"]
    assert any("Recomputed: the rule gives bo" in line for line in whole["lines"])
    waits = asked(members, f"/api/1/members/bo/steps/{works.newest}/share", works.tokens["bo"])
    assert (waits.status, "waits" in waits.problem) == (404, True)


def test_files_are_those_that_the_commands_write(works: Works, members: Web) -> None:
    def written(*words: str) -> bytes:
        out = works.folder.path / "out"
        ran("export", *words, "--zone", "UTC", "--out", str(out))
        return out.read_bytes()

    def ran(*words: str) -> None:
        done = gateway(*words, "--config", works.folder.path)
        assert done.returncode == 0, done.stderr

    def had(path: str, whose: str = "operator") -> bytes:
        answer = asked(members, f"/api/1/{path}", works.tokens[whose])
        assert answer.status == 200, answer
        return answer.body

    day, points = works.day, ["--points", str(works.folder.path / "points.toml")]
    period = ["--period", day]
    assert had(f"exports/virtual-meter.csv?period={day}") == written("virtual-meter", *period)
    assert had(f"members/ada/exports/virtual-meter.csv?period={day}&zone=UTC", "ada") == written(
        "virtual-meter", "--member", "ada", *period
    )
    assert had(f"members/ada/exports/load-curve.csv?period={day}&form=local", "ada") == written(
        "load-curve", "--member", "ada", "--form", "local", *period
    )
    assert had(f"exports/meters/m0/load-curve.csv?period={day}") == written(
        "load-curve", "--meter", "m0", *period
    )
    assert had(f"exports/coefficients-fr.csv?period={day}") == written(
        "coefficients-fr", *points, *period
    )
    battery = "storage=ada&meter=battery-out&efficiency=9/10"
    assert had(f"exports/storage.csv?period={day}&{battery}") == written(
        "storage", "--member", "ada", "--meter", "battery-out", "--efficiency", "0.9", *period
    )
    for wrong, said in (
        (battery.replace("9/10", "11/10"), "at most 1"),
        (battery.replace("battery-out", "m0"), "is for generation"),
        (battery.replace("ada", "eve"), "no agreement names"),
    ):
        path = f"/api/1/exports/storage.csv?period={day}&{wrong}"
        answer = asked(members, path, works.tokens["operator"])
        assert (answer.status, said in answer.problem) == (400, True)
    assert had(f"exports/settlement.csv?period={day}") == written("settlement", *period)
    month = ["--period", day[:7]]
    assert had(f"exports/coefficients-es.txt?period={day[:7]}&missing=alike") == written(
        "coefficients-es", *points, "--accept-missing", *month
    )
    from_zero = f"exports/coefficients-es.source.json?period={day[:7]}&missing=alike&first_hour=0"
    written("coefficients-es", *points, "--accept-missing", "--first-hour", "0", *month)
    beside = json.loads((works.folder.path / "out.source.json").read_bytes())
    assert json.loads(had(from_zero)) == beside | {"file": "coefficients-es.txt"}
    refused = asked(
        members, f"/api/1/exports/coefficients-es.txt?period={day[:7]}", works.tokens["dso"]
    )
    assert (refused.status, "not distributed yet" in refused.problem) == (400, True)
    zone = asked(
        members, f"/api/1/exports/virtual-meter.csv?period={day}&zone=Mars", works.tokens["dso"]
    )
    assert (zone.status, "no time zone" in zone.problem) == (400, True)
    assert had("files") == json.dumps({"files": [{"file": "report.html", "bytes": 18}]}).encode()
    assert had("files/report.html", "dso") == b"<p>as laid out</p>"
    for name in ("link", ".hidden", "..", "gateway.key", "nothing"):
        assert asked(members, f"/api/1/files/{name}", works.tokens["dso"]).status in (400, 404)


def test_the_accuracy_report_is_that_of_the_command(works: Works, members: Web) -> None:
    made = reporting.measure(works.folder, works.day, "UTC")
    for suffix, text in (("html", made.html()), ("csv", made.csv()), ("json", made.json())):
        path = f"/api/1/reports/accuracy.{suffix}?period={works.day}"
        answer = asked(members, path, works.tokens["dso"])
        assert (answer.status, answer.body) == (200, text.encode())
        assert asked(members, path, works.tokens["ada"]).status == 403
        refused = asked(members, f"{path}&zone=Mars", works.tokens["operator"])
        assert (refused.status, "no time zone" in refused.problem) == (400, True)


def test_the_private_store_is_only_read(works: Works, members: Web) -> None:
    before = works.folder.private.read_bytes()
    for endpoint in MEMBERS:
        asked(members, works.path_of(endpoint), works.tokens["operator"])
    assert works.folder.private.read_bytes() == before
    with (
        closing(PrivateStore(works.folder.private, read_only=True)) as private,
        pytest.raises(OSError, match="readonly"),
    ):
        private.erase("ada")


# --- Erasure. ------------------------------------------------------------------------------------


def test_who_was_erased_is_nowhere_in_the_api_and_the_ledger_holds(tmp_path: Path) -> None:
    works = Works(tmp_path / "gateway")
    pub = tmp_path / "community.pub"
    pub.write_text(encode_community(works.community))
    needles = [b"Lovelace", b"James", b"ada@x", str(USED_UWH).encode(), str(USED_UWH + 1).encode()]
    with serving(works.folder.path, "--members") as web:

        def told() -> bytes:
            paths = [works.path_of(one) for one in MEMBERS]
            bodies = [asked(web, path, works.tokens["operator"]).body for path in paths]
            return re.sub(rb'"(?:first|later|virtual|market)[^,}]*', b"", b"".join(bodies))

        before = told()
        assert all(needle in before for needle in needles)
        done = subprocess.run(
            [sys.executable, "-m", "gateway.main", "member-data", "erase", "ada", "--config",
             str(works.folder.path)],
            cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        assert "and its access" in done.stdout
        after = told()
        assert not [needle for needle in needles if needle in after]
        assert asked(web, "/api/1/me", works.tokens["ada"]).status == 401
        path = f"/api/1/members/ada/steps/{works.first}/share"
        answer = asked(web, path, works.tokens["operator"])
        share = verify_share(answer.body, works.community)
        assert (share.used_uwh, share.energy_uwh) == (None, -(-16 * PULSE_UWH // 6))
        why = asked(web, path.replace("/share", "/why"), works.tokens["dso"]).json
        assert not why["is_rule_recomputed"]
        others = asked(web, "/api/1/members/bo/consumption", works.tokens["bo"]).json
        assert len(others["rows"]) == 5
    assert called("audit", works.folder.path, "--community", pub).lines[-1] == "the ledger holds"


# --- A folder that lacks something. --------------------------------------------------------------


def test_without_a_block_or_a_private_store_it_says_so(tmp_path: Path) -> None:
    premises = Premises(tmp_path / "gateway", TOML.replace('points = "points.toml"', ""))
    with serving(premises.path, "--members") as web:
        assert web.get("/api/1/me", Authorization="Bearer x").status == 401
        assert not premises.folder.private.exists()
        token, number = make_token(os.urandom)
        grant = Grant(number, Holder.OPERATOR, "", digest_of(token), NOW_MS, NOW_MS + DAY_MS)
        with closing(PrivateStore(premises.folder.private)) as private:
            private.put_grant(grant)
        assert asked(web, "/api/1/me", token).status == 200
        assert asked(web, "/api/1/members", token).status == 503
        premises.enrol()
        with closing(premises.folder.open_store()) as store:
            site = premises.site(store)
            assert asked(web, "/api/1/members", token).json["members"] == []
            site.found()
            assert asked(web, "/api/1/members", token).json["newest_step"] == FIRST_STEP
        day = time.strftime("%Y-%m-%d", time.gmtime(FIRST_STEP * STEP_S))
        answer = asked(web, f"/api/1/exports/coefficients-fr.csv?period={day}", token)
        assert (answer.status, "points" in answer.problem) == (404, True)
        premises.folder.private.write_bytes(b"no store at all " * 100)
        assert asked(web, "/api/1/me", token).status == 503


def test_a_wrong_file_of_supply_points_is_found_at_the_start(tmp_path: Path) -> None:
    premises = Premises(tmp_path / "gateway", TOML)
    done = subprocess.run(
        [sys.executable, "-m", "gateway.main", "serve", "--members", "--config", premises.path],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "points.toml" in done.stderr
