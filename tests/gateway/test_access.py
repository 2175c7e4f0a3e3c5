"""Tokens: what is kept of them, what they let their holder read, and the command that makes
them."""

import re
import sqlite3
from base64 import b64encode
from contextlib import closing

from hypothesis import given
from hypothesis import strategies as st

from gateway.access import Grant, Holder, admit, admit_person, digest_of, make_token
from gateway.private import PrivateStore
from tests.gateway.test_member_commands import Told, premises, told  # noqa: F401 - fixtures

NOW_MS = 1_800_000_000_000
TOKEN, NUMBER = make_token(lambda size: bytes(range(size)))
GRANT = Grant(NUMBER, Holder.MEMBER, "ada", digest_of(TOKEN), NOW_MS - 1, NOW_MS + 1)


def find(number: str) -> Grant | None:
    return GRANT if number == NUMBER else None


def test_a_token_admits_until_its_time_is_over() -> None:
    assert TOKEN.startswith(f"cm1_{NUMBER}_")
    for header in (f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER  {TOKEN} "):
        assert admit(header, find, NOW_MS) == GRANT
    assert admit(f"Bearer {TOKEN}", find, NOW_MS + 1) is None
    assert admit(f"Bearer {TOKEN}", lambda _: None, NOW_MS) is None


@given(st.one_of(st.none(), st.text(), st.text().map(lambda text: f"Bearer {text}")))
def test_whatever_else_is_said_admits_nobody(header: str | None) -> None:
    assert admit(header, lambda _: GRANT, NOW_MS) is None


@given(st.integers(0, len(TOKEN) - 1), st.characters())
def test_a_token_with_another_letter_anywhere_admits_nobody(at: int, letter: str) -> None:
    other = TOKEN[:at] + letter + TOKEN[at + 1 :]
    if other != TOKEN:
        assert admit(f"Bearer {other}", lambda _: GRANT, NOW_MS) is None


def basic(text: str) -> str:
    return f"Basic {b64encode(text.encode()).decode()}"


def test_a_browser_says_the_token_as_the_password_with_any_name() -> None:
    for header in (basic(f":{TOKEN}"), basic(f"ada:{TOKEN}"), basic(f"ä:{TOKEN}").lower()[:6] +
                   basic(f"ä:{TOKEN}")[6:]):  # fmt: skip
        assert admit_person(header, find, NOW_MS) == GRANT
    assert admit_person(basic(f":{TOKEN}"), find, NOW_MS + 1) is None
    for other in (f"{TOKEN}:", TOKEN, f"a:b:{TOKEN}", f"ada:{TOKEN} ", f"ada:{TOKEN}\n"):
        assert admit_person(basic(other), find, NOW_MS) is None


def test_neither_way_admits_what_is_said_in_the_others() -> None:
    assert admit_person(f"Bearer {TOKEN}", find, NOW_MS) is None
    assert admit(basic(f"ada:{TOKEN}"), find, NOW_MS) is None


@given(
    st.one_of(
        st.none(),
        st.text(),
        st.text().map(lambda text: f"Basic {text}"),
        st.text(st.characters(codec="utf-8")).map(basic),
        st.binary().map(lambda data: f"Basic {b64encode(data).decode()}"),
    )
)
def test_whatever_else_a_browser_says_admits_nobody(header: str | None) -> None:
    assert admit_person(header, lambda _: GRANT, NOW_MS) is None


def test_what_a_grant_lets_its_holder_read() -> None:
    office = [Grant("1", one, "", bytes(32), 0, 1) for one in (Holder.OPERATOR, Holder.DSO)]
    assert [one.may_read("bo") and one.may_read(None) for one in office] == [True, True]
    assert [one.may_read_person("bo") for one in office] == [True, False]
    assert (GRANT.may_read("ada"), GRANT.may_read_person("ada")) == (True, True)
    assert (GRANT.may_read("bo"), GRANT.may_read(""), GRANT.may_read(None)) == (False,) * 3
    assert not GRANT.may_read_person("bo")


# --- The command. --------------------------------------------------------------------------------


def test_access_is_granted_listed_and_revoked(told: Told) -> None:  # noqa: F811
    assert "nobody may read" in told("access", "list")
    line, token = told("access", "grant", "alice", "--until", "2099-12-31").splitlines()
    assert re.fullmatch(
        r"[0-9a-f]{12}: member alice, until 2099-12-31T00:00:00\S*Z\. The token, shown this once:",
        line,
    )
    number = line[:12]
    told("access", "grant", "--operator")
    told("access", "grant", "--dso")
    with closing(PrivateStore(told.premises.folder.private)) as store:
        grant = store.grant(number)
        assert grant is not None
        assert admit(f"Bearer {token}", store.grant, NOW_MS) == grant
        assert [one.holder for one in store.grants()] == ["member", "operator", "dso"]
    listed = told("access", "list")
    assert token not in listed
    assert f"{number}  member alice, until 2099-12-31" in listed
    assert told("access", "revoke", number) == f"{number}: revoked\n"
    assert "alice" not in told("access", "list")
    assert "there is no grant" in told.refused("access", "revoke", number)


def test_what_would_be_a_slip_is_refused(told: Told) -> None:  # noqa: F811
    assert "there are: alice" in told.refused("access", "grant", "alcie")
    assert "is no time" in told.refused("access", "grant", "alice", "--until", "soon")
    assert "is over already" in told.refused("access", "grant", "alice", "--until", "2020-01-01")
    assert "shown" in told("access", "grant", "alice")
    with closing(sqlite3.connect(told.premises.folder.private)) as connection, connection:
        connection.execute("UPDATE access SET until_ms = 0")
    assert told("access", "list").rstrip().endswith("OVER")
