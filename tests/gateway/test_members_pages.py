"""The members' pages over sockets: who is let in, what a browser is told beside, what is refused.
What they look like a real browser says (tests/browser)."""

import re
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing

import pytest

from gateway.access import Holder
from gateway.endpoints import Audience
from gateway.members_pages import MembersPages
from gateway.pages.document import POLICY
from gateway.pages.paths import PAGES
from gateway.private import PrivateStore
from tests.gateway.test_api import Works, asked
from tests.gateway.test_serve import Answer, Web, serving


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory) -> Works:
    return Works(tmp_path_factory.mktemp("pages") / "gateway")


@pytest.fixture(scope="module")
def members(works: Works) -> Iterator[Web]:
    with serving(works.folder.path, "--members") as web:
        yield web


def path_of(works: Works, path: str) -> str:
    return path.format(member="ada", step=works.first, month=works.day[:7], day=works.day)


def shown(web: Web, path: str, token: str, method: str = "GET", **headers: str) -> Answer:
    password = b64encode(f"ada:{token}".encode()).decode()
    return web.get(path, method, Authorization=f"Basic {password}", **headers)


def test_each_page_is_for_whom_it_says(works: Works, members: Web) -> None:
    for one in PAGES:
        path = path_of(works, one.path)
        office = one.audience is Audience.OFFICE
        for who, status in (
            ("ada", 403 if office else 200), ("bo", 200 if one.name == "front" else 403),
            ("operator", 200), ("dso", 200),
        ):  # fmt: skip
            answer = shown(members, path, works.tokens[who])
            assert (answer.status, one.path) == (status, one.path)
            if status == 200:
                assert answer.headers["content-type"] == one.kind
        for refused in (members.get(path), asked(members, path, works.tokens["ada"])):
            assert refused.status == 401
            assert refused.headers["www-authenticate"].startswith("Basic realm=")
            assert b"token" in refused.body
        assert shown(members, path, works.tokens["operator"], "POST").status == 405


def test_the_api_takes_no_password_and_the_pages_no_bearer(works: Works, members: Web) -> None:
    """A browser sends passwords by itself: what it is tricked into must reach no program's door."""
    answer = shown(members, "/api/1/me", works.tokens["ada"])
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_every_answer_tells_the_browser_to_keep_and_run_nothing(works: Works, members: Web) -> None:
    paths = [path_of(works, one.path) for one in PAGES]
    answers = [shown(members, path, works.tokens["operator"]) for path in paths]
    answers += [members.get("/"), members.get("/sign-out"), shown(members, "/?x=1", "")]
    answers.append(shown(members, "/members/nobody", works.tokens["dso"]))
    for answer in answers:
        said = answer.headers
        assert said["content-security-policy"] == POLICY
        assert said["cache-control"] == "private, no-store"
        assert said["referrer-policy"] == "no-referrer"
        assert said["x-content-type-options"] == "nosniff"
        assert said["cross-origin-resource-policy"] == "same-origin"
        assert "set-cookie" not in said
        text = answer.body.decode(errors="replace")
        assert not re.search(r"<script|<form|<img|<iframe| on\w+=|https?:", text)


def test_an_outsider_learns_of_no_member_and_no_community(works: Works, members: Web) -> None:
    known, unknown = (members.get(f"/members/{name}") for name in ("ada", "nobody"))
    assert (known.status, known.body) == (unknown.status, unknown.body)
    assert b"Tilleuls" not in known.body
    known, unknown = (
        shown(members, f"/members/{name}", works.tokens["bo"]) for name in ("ada", "nobody")
    )
    assert (known.status, known.body) == (unknown.status, unknown.body) == (403, known.body)


@pytest.mark.parametrize(
    ("site", "mode", "to", "status"),
    [
        ("none", "navigate", "document", 200), ("same-origin", "navigate", "document", 200),
        ("cross-site", "navigate", "document", 200), ("cross-site", "navigate", "iframe", 403),
        ("cross-site", "no-cors", "image", 403), ("same-site", "cors", "empty", 403),
        ("same-site", "no-cors", "script", 403), ("?", "?", "?", 403),
    ],
)  # fmt: skip
def test_what_another_site_asks_by_a_members_browser_is_refused(
    works: Works, members: Web, site: str, mode: str, to: str, status: int
) -> None:
    said = {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": mode, "Sec_Fetch_Dest": to}
    assert shown(members, "/members/ada", works.tokens["ada"], **said).status == status


def test_signing_out_is_a_refusal_whoever_asks(works: Works, members: Web) -> None:
    answer = shown(members, "/sign-out", works.tokens["ada"])
    assert (answer.status, b"You are signed out" in answer.body) == (401, True)
    assert answer.headers["www-authenticate"].startswith("Basic realm=")


def test_a_token_that_was_revoked_shows_nothing_from_then_on(works: Works, members: Web) -> None:
    token = works.grant(Holder.MEMBER, "cy")
    assert shown(members, "/", token).status == 200
    with closing(PrivateStore(works.folder.private)) as private:
        private.revoke(token.split("_")[1])
    assert shown(members, "/", token).status == 401


def test_every_page_has_a_route_and_no_page_is_in_the_api(works: Works) -> None:
    routes = {route.path for route in MembersPages(works.folder).app("here").routes}  # type: ignore[attr-defined]
    assert {one.path for one in PAGES} | {"/sign-out"} == {
        path for path in routes if not path.startswith("/api/")
    }
    assert len({one.name for one in PAGES}) == len(PAGES)
