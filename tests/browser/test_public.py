"""What the public side shows to people, in a real browser, from the real process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import Browser
from tests.browser.looks import check_looks
from tests.gateway.test_serve import Web, Works, serving


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    works = Works(tmp_path_factory.mktemp("public") / "gateway")
    with serving(works.folder.path) as web:
        yield web


def test_the_first_page_fits_is_read_and_asks_nobody_else(browser: Browser, web: Web) -> None:
    check_looks(browser, f"{web.url}/")


def test_from_the_first_page_everything_else_is_a_click_away(
    browser: Browser, web: Web, tmp_path: Path
) -> None:
    with browser.page() as page:
        page.open(f"{web.url}/")
        text = page.text
        page.click("tbody a")
        assert page.url.startswith(f"{web.url}/blocks/")
        assert '"step":' in page.text
        page.open(f"{web.url}/")
        page.click("a[href='/checkpoint']")
        root = page.text.splitlines()[2]
        assert len(root) == 44  # base64 of a hash
        assert page.complaints == []
    assert "cryptometer audit" in text
