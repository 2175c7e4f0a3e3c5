"""The members' pages in a real browser, served by the real process; asked by members, by who may
read everyone's, and by those who have no business there."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cryptometer.community import encode_community
from tests.browser.chromium import Browser, Login, Page
from tests.browser.looks import check_looks, check_quiet
from tests.commands.outsider import process
from tests.core.community import PULSE_UWH
from tests.gateway.test_api import USED_UWH, Works
from tests.gateway.test_serve import Web, serving


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory) -> Works:
    works = Works(tmp_path_factory.mktemp("members") / "gateway")
    with (works.folder.path / "gateway.toml").open("a") as config:
        config.write('zone = "Europe/Brussels"\n')
    return works


@pytest.fixture(scope="module")
def web(works: Works) -> Iterator[Web]:
    with serving(works.folder.path, "--members") as web:
        yield web


@contextmanager
def elsewhere(html: str) -> Iterator[tuple[int, list[str]]]:
    """Another web server on this machine: its port, and what it was asked, as it came."""
    heard: list[str] = []

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(f"{self.path}\n{self.headers}")
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *_: object) -> None:
            pass

    other = ThreadingHTTPServer(("127.0.0.1", 0), Other)
    thread = threading.Thread(target=other.serve_forever)
    thread.start()
    try:
        yield other.server_port, heard
    finally:
        other.shutdown()
        thread.join()
        other.server_close()


@contextmanager
def signed_in(browser: Browser, works: Works, who: str) -> Iterator[Page]:
    with browser.page() as page:
        page.answers_questions(login_of(works, who))
        yield page


def login_of(works: Works, who: str) -> Login:
    return Login("whoever", works.tokens[who])


def rows_of(page: Page, table: int = 0) -> list[list[str]]:
    rows: list[list[str]] = page.evaluate(
        f"[...document.querySelectorAll('table')[{table}].tBodies[0].rows]"
        ".map(row => [...row.cells].map(cell => cell.innerText))"
    )
    return rows


# --- What a member sees. -------------------------------------------------------------------------


def test_a_member_goes_from_the_month_to_the_file_that_proves_a_step(
    browser: Browser, works: Works, web: Web, tmp_path: Path
) -> None:
    """With a name that is any and the token as the password, and nothing but clicks from there."""
    with signed_in(browser, works, "bo") as page:
        page.open(f"{web.url}/")
        assert page.challenges == 1
        assert "You were given" in page.text
        [day] = rows_of(page)
        given_uwh = round(float(day[1]) * 10**9)
        assert given_uwh > 16 * PULSE_UWH // 3
        page.click("tbody th a")
        assert re.search(r"/members/bo/days/2024-03-\d\d$", page.url)
        rows = rows_of(page)
        assert sum(round(float(row[1] or 0) * 10**9) for row in rows) == given_uwh
        first = next(row for row in rows if float(row[1] or 0) > 0)
        assert round(float(first[1]) * 10**9) == 16 * PULSE_UWH // 3
        assert round(float(first[2]) * 10**9) == 2 * USED_UWH
        assert first[0].endswith("+0100")
        page.click(f"a[href='/members/bo/steps/{works.first}']")
        text = page.text
        assert "in proportion to what each consumed" in text
        assert "Not proven" in text
        assert "ada" not in text
        command = page.evaluate("document.querySelector('pre').innerText")
        file = browser.folder / f"bo-{works.first}.share"
        page.evaluate("document.querySelector('a[href$=\"/share\"]').click()")
        page.until(file.exists)
        # Word for word what the page says, where the file has been downloaded to.
        (browser.folder / "community.pub").write_text(encode_community(works.community))
        words = command.split()
        assert words[:2] == ["cryptometer", "verify"]
        places = [str(browser.folder / one) for one in (words[2], words[4])]
        done = process("verify", places[0], words[3], places[1])
        assert any("bo" in line for line in done.lines)
        assert page.challenges == 1
        assert page.complaints == []
        assert {asked.partition("/members")[0] for asked, _ in page.asked} == {
            f"{web.url}/",
            web.url,
        }


def paths_of(works: Works) -> list[str]:
    day = works.day
    own = f"/members/ada/months/{day[:7]}", f"/members/ada/days/{day}"
    return ["/", "/members/ada", *own, f"/members/ada/steps/{works.first}"]


@pytest.mark.parametrize("which", range(5))
def test_each_page_fits_is_read_and_asks_nobody_else(
    browser: Browser, works: Works, web: Web, which: int
) -> None:
    path = paths_of(works)[which]
    check_looks(browser, f"{web.url}{path}", login_of(works, "ada" if which else "operator"))


def test_the_grid_operator_begins_with_all_members_and_the_accuracy_report(
    browser: Browser, works: Works, web: Web
) -> None:
    with signed_in(browser, works, "dso") as page:
        page.open(f"{web.url}/")
        assert [row[0] for row in rows_of(page)] == ["ada", "bo", "cy"]
        page.click("a[href^='/accuracy/']")
        assert page.text.startswith("Accuracy of Rue des Tilleuls")
        assert page.evaluate("document.querySelectorAll('svg').length") > 0
        page.open(f"{web.url}/members/ada")
        assert "Lovelace" not in page.text  # the operator alone is told who a member is
        page.open(f"{web.url}/members/ada/steps/{works.first}")
        assert "recomputed from everyone's consumption" in page.text
        assert page.complaints == []
    with signed_in(browser, works, "ada") as page:
        page.open(f"{web.url}/members/ada")
        assert "Ada Lovelace (ada)" in page.text


# --- Who is let in, and where the token goes. ----------------------------------------------------


def test_nobody_is_let_in_without_a_token_and_no_page_is_anothers(
    browser: Browser, works: Works, web: Web
) -> None:
    with browser.page() as page:
        page.answers_questions(None)
        page.open(f"{web.url}/members/ada")
        assert "This needs a token" in page.text
        assert page.statuses[-1][1] == 401
    with signed_in(browser, works, "bo") as page:
        page.open(f"{web.url}/members/ada")
        assert (page.statuses[-1][1], "for something else" in page.text) == (403, True)
        page.open(f"{web.url}/accuracy/2024-03")
        assert page.statuses[-1][1] == 403


def test_the_token_is_in_no_address_page_or_store_and_goes_nowhere_else(
    browser: Browser, works: Works, web: Web
) -> None:
    """Another port of the same host is another place: a cookie would have gone there, too."""
    token = works.tokens["ada"]
    with elsewhere("") as (port, heard), signed_in(browser, works, "ada") as page:
        page.open(f"{web.url}/members/ada")
        assert page.evaluate("document.cookie") == ""
        assert token not in page.evaluate("document.documentElement.outerHTML + location.href")
        # As if somebody had put a link there.
        link = f"<a id=out href='http://127.0.0.1:{port}/'>x</a>"
        page.evaluate(f'document.body.insertAdjacentHTML("beforeend", "{link}")')
        page.click("#out")
        assert heard
        assert not any(token in asked for asked, _ in page.asked)
        for one in heard:
            assert not re.search("authorization|referer|cookie|members", one, re.IGNORECASE)


def test_another_site_learns_nothing_and_frames_nothing(
    browser: Browser, works: Works, web: Web, tmp_path: Path
) -> None:
    """Its page is in the same browser, which is signed in."""
    where = f"{web.url}/members/ada/steps/{works.first}"
    html = (
        f"<iframe src='{where}'></iframe><img id=i src='{where}'><script src='{where}'></script>"
        f"<a id=a href='{where}'>x</a>"
    )
    with elsewhere(html) as (port, _), signed_in(browser, works, "ada") as page:
        page.open(where)
        # Another site, not only another port: the browser tells them apart by their hosts.
        page.open(f"http://localhost:{port}/")
        statuses = [status for url, status in page.statuses if url == where]
        assert statuses[0] == 200
        assert len(statuses) > 1
        assert set(statuses[1:]) <= {401, 403}
        assert page.evaluate("document.getElementById('i').naturalWidth") == 0
        answer = f"fetch('{where}', {{credentials: 'include'}}).then(() => 1, () => 0)"
        assert page.evaluate(answer) == 0
        page.click("#a")  # whoever follows a link is still himself
        assert "Why so much" in page.text


def test_whoever_signs_out_is_asked_again(browser: Browser, works: Works, web: Web) -> None:
    with signed_in(browser, works, "ada") as page:
        page.open(f"{web.url}/members/ada")
        page.click("nav .last")
        assert "You are signed out" in page.text
        page.open(f"{web.url}/members/ada")
        assert "This needs a token" in page.text
        assert page.statuses[-1][1] == 401


def test_a_page_can_neither_run_nor_fetch_whatever_gets_into_it(
    browser: Browser, works: Works, web: Web
) -> None:
    """Its policy holds: what stands in the page as if somebody had got it there does nothing."""
    with signed_in(browser, works, "ada") as page:
        page.open(f"{web.url}/members/ada")
        check_quiet(page, f"{web.url}/members/ada")
        added = (
            '<img src="http://127.0.0.1:9/x"><style>main{display:none}</style>'
            '<form action="http://127.0.0.1:9/"><button>go</button></form>'
            "<p onclick=\"document.title='had'\">x</p>"
        )
        page.evaluate(
            f"document.body.insertAdjacentHTML('beforeend', {added!r});"
            "document.querySelector('body > p').click();"
            "document.querySelector('form button').click()"
        )
        page.until(lambda: len(page.complaints) >= 3)
        assert page.evaluate("document.title") != "had"
        assert page.evaluate("getComputedStyle(document.querySelector('main')).display") == "block"
        assert page.url == f"{web.url}/members/ada"
        assert all("Content Security Policy" in one for one in page.complaints)


# --- What is asked wrongly. ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/members/nobody", 404), ("/members/ada/months/2024-13", 400),
        ("/members/ada/days/2024-02-31", 400), ("/members/ada/days/9999-12-31", 400),
        ("/members/ada/days/0001-01-01", 400), ("/members/ada/days/1999-01-01", 200),
        ("/members/ada/months/2999-01", 200), ("/members/ada/steps/7", 404),
        ("/members/ada?x=1", 400), ("/members/ada/steps/99999999999999", 400),
        ("/accuracy/2024-13", 400),
    ],
)  # fmt: skip
def test_what_there_is_not_is_told_on_a_page(
    browser: Browser, works: Works, web: Web, path: str, status: int
) -> None:
    with signed_in(browser, works, "operator") as page:
        page.open(f"{web.url}{path}")
        assert page.statuses[-1][1] == status
        assert page.evaluate("document.querySelectorAll('h1').length") == 1
