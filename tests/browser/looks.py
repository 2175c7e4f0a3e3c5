"""What must hold for every page that people are shown, asked of the browser itself."""

import re
import subprocess
from itertools import pairwise
from pathlib import Path

from tests.browser.chromium import DESK_PX, PHONE_PX, Browser, Login, Page

CONTRAST_MIN = 4.5  # WCAG 2.2, 1.4.3: text that is not large

# Every piece of text whose colour is too near to what lies behind it.
_PALE = """(() => {
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => {
    const [r, g, b] = parts(colour).map(c => c / 255)
      .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if ((parts(colour)[3] ?? 1) === 1) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const found = [];
  for (const element of document.body.querySelectorAll('*')) {
    const own = [...element.childNodes].some(one => one.nodeType === 3 && one.data.trim());
    if (!own || ['STYLE', 'TITLE', 'title'].includes(element.nodeName)) continue;
    const style = getComputedStyle(element);
    const ink = element.namespaceURI.endsWith('svg') ? style.fill : style.color;
    const [low, high] = [light(ink), light(behind(element))].sort((one, two) => one - two);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < LEAST) found.push([element.nodeName, element.textContent.slice(0, 40), ratio]);
  }
  return found;
})()"""

# What is wider than the window, but for what scrolls within a box of its own.
_TOO_WIDE = """[...document.body.querySelectorAll('*')]
  .filter(one => !one.closest('.wide') && one.getBoundingClientRect().right > innerWidth + 1)
  .map(one => one.outerHTML.slice(0, 80))"""

_HEADINGS = "[...document.querySelectorAll('h1,h2,h3,h4')].map(one => Number(one.nodeName[1]))"
_TABLES = """[...document.querySelectorAll('table')].map(one => [
  one.caption ? one.caption.textContent : '',
  [...one.querySelectorAll('th')].every(th => th.scope),
  one.closest('[tabindex="0"][role="region"][aria-label]') !== null])"""


def check_looks(browser: Browser, url: str, login: Login | None = None) -> None:
    """Fits a phone and a desk, light and dark, can be read, is ordered, and asks nobody else."""
    for width_px in (PHONE_PX, DESK_PX):
        for scheme in ("light", "dark"):
            with browser.page(width_px=width_px, scheme=scheme) as page:
                if login is not None:
                    page.answers_questions(login)
                page.open(url)
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
                assert page.evaluate(_TOO_WIDE) == []
                assert page.evaluate(_PALE.replace("LEAST", str(CONTRAST_MIN))) == []
                dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
                assert (dark != "rgb(255, 255, 255)") == (scheme == "dark")
                check_quiet(page, url)
    check_order(browser, url, login)


def check_quiet(page: Page, url: str) -> None:
    """Nothing was asked of anybody but for this page, and nothing is wrong."""
    assert {asked.partition("#")[0] for asked, _ in page.asked} == {url}
    assert page.complaints == []


def check_order(browser: Browser, url: str, login: Login | None = None) -> None:
    """Somebody who does not see it, or has no mouse, gets through it."""
    with browser.page() as page:
        if login is not None:
            page.answers_questions(login)
        page.open(url)
        levels = page.evaluate(_HEADINGS)
        assert levels.count(1) == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))
        for caption, has_scopes, can_scroll in page.evaluate(_TABLES):
            assert caption
            assert has_scopes
            assert can_scroll
        roles = page.roles()
        assert page.evaluate("document.documentElement.lang") == "en"
        assert [role for role, _ in roles].count("main") == 1
        plots = page.evaluate("document.querySelectorAll('svg').length")
        names = [name for role, name in roles if role == "image"]
        assert len(names) == plots
        assert all(names)
        assert all(name for role, name in roles if role in {"link", "region"})
        places = page.evaluate("document.querySelectorAll('a[href],[tabindex=\"0\"]').length")
        seen = set()
        for _ in range(min(places, 12)):
            page.press("Tab")
            at = page.evaluate(
                "(() => { const one = document.activeElement, style = getComputedStyle(one);"
                " const all = [...document.querySelectorAll('*')];"
                " return [all.indexOf(one), style.outlineStyle, one === document.body]; })()"
            )
            assert at[1:] == ["solid" if not at[2] else "none", at[2]]
            seen.add(at[0])
        assert len(seen) == min(places, 12)


def printed(page: Page, folder: Path) -> list[list[tuple[str, float, float]]]:
    """The pages as printed on A4: each word, and where it begins and ends across, in points."""
    file = folder / "page.pdf"
    file.write_bytes(page.pdf())
    text = subprocess.run(
        ["pdftotext", "-bbox", file, "-"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    word = re.compile(r'<word xMin="([\d.-]+)"[^>]*xMax="([\d.-]+)"[^>]*>(.*?)</word>')
    return [
        [(said, float(low), float(high)) for low, high, said in word.findall(part)]
        for part in text.split("<page ")[1:]
    ]
