"""The accuracy page in a real browser, made by the real command from a real ledger."""

import json
import re
from collections import Counter
from dataclasses import replace
from datetime import UTC, date
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from gateway.exports.accuracy_page import Period, accuracy_html
from gateway.exports.measured import Measured, MeterStep
from gateway.exports.source import Source
from tests.browser.chromium import Browser, Page
from tests.browser.looks import check_looks, check_quiet, printed
from tests.core.community import Village
from tests.gateway.exports.shared import as_folder
from tests.gateway.exports.watched import measure, watched
from tests.gateway.test_main import gateway

OPENED_MAX_S = 2.0  # of the browser's own processor time
A4_POINTS = 596
DAYS = ("2024-03-09", "2024-03-10")
HOSTILE = '<script>document.title="had"</script>\u202ekcab\u2067 \u05d0\u05d1 <img src=x> '


def report(folder: Path, period: str, out: Path) -> None:
    words = ("--period", period, "--zone", "UTC", "--config", folder, "--out", out)
    done = gateway("report", "accuracy", *words)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pages of two days and of their month, and the same as JSON."""
    path = tmp_path_factory.mktemp("accuracy")
    as_folder(watched()[0], path / "gateway")
    for period in (*DAYS, "2024-03"):
        for suffix in ("html", "json"):
            report(path / "gateway", period, path / f"{period}.{suffix}")
    return path


@pytest.mark.parametrize("period", [DAYS[1], "2024-03"])
def test_it_fits_is_read_and_asks_nobody(browser: Browser, made: Path, period: str) -> None:
    check_looks(browser, (made / f"{period}.html").as_uri())


# --- What the plots show. ---

_PLOT = """[...document.querySelectorAll('svg')].map(plot => [
  plot.getAttribute('aria-label'),
  [...plot.querySelectorAll('text[text-anchor=end]')].map(one => [
    one.textContent, one.getBBox().y + one.getBBox().height / 2]),
  Object.fromEntries([...plot.querySelectorAll('path[class]')].map(one => [
    one.getAttribute('class'), one.getAttribute('d')])),
  [...plot.querySelectorAll('path:is(.grid,.axis)')].map(one => one.getAttribute('d'))])"""
_UNITS = {"MWh": 10**12, "kWh": 10**9, "Wh": 10**6, "mWh": 10**3, "µWh": 1}


def uwh_of(label: str) -> float:
    number, unit = label.split()
    return float(number) * _UNITS[unit]


def plots_of(page: Page) -> dict[str, tuple[list[tuple[float, float]], dict[str, str]]]:
    """By name: its labels with the heights of their lines, as drawn; and what is drawn."""
    found = {}
    for name, labels, paths, lines in page.evaluate(_PLOT):
        heights = [float(re.split(r"[ H]", line)[1]) for line in lines if "H" in line]
        if all(text.endswith("Wh") for text, _ in labels):
            values = [uwh_of(text) for text, _ in labels]
            found[name] = (list(zip(values, heights, strict=True)), paths)
        else:
            found[name] = ([], paths)
    return found


def value_at(scale: list[tuple[float, float]], y: float) -> float:
    (low, low_y), (high, high_y) = scale[0], scale[-1]
    return low + (high - low) * (y - low_y) / (high_y - low_y)


@pytest.mark.parametrize("period", DAYS)
def test_bars_dots_and_crosses_stand_where_the_table_says(
    browser: Browser, made: Path, period: str
) -> None:
    rows: list[dict[str, Any]] = json.loads((made / f"{period}.json").read_text())["rows"]
    with browser.page() as page:
        page.open((made / f"{period}.html").as_uri())
        plots = plots_of(page)
    compared = 0
    for meter in ("hall", "roof", "shed"):
        own = [row for row in rows if row["meter"] == meter and row["kind"] == "step"]
        closed = [row for row in own if "energy_uwh" in row]
        scale, paths = plots[f"{meter}: energy of each step"]
        bars = re.findall(r"M([\d.]+) ([\d.]+)V([\d.]+)H([\d.]+)", paths["bar"])
        assert len(bars) == len(closed)
        step_px = abs(value_at(scale, 0) - value_at(scale, 0.2))  # a place is a tenth of a pixel
        for bar, row in zip(bars, closed, strict=True):
            assert abs(value_at(scale, float(bar[2])) - row["energy_uwh"]) <= step_px
        assert ("gap" in paths) == (len(closed) < len(own))
        late = plots[f"{meter}: lateness"][1]
        assert late["dot"].count("M") == sum(row["state"] == "closed" for row in closed)
        assert late.get("wrong", "").count("M") == sum(row["state"] == "late" for row in closed)
        told = [row for row in own if "difference_uwh" in row]
        if not told:
            assert f"{meter}: difference and bound" not in plots
            continue
        compared += 1
        scale, paths = plots[f"{meter}: difference and bound"]
        dots = re.findall(r"M([\d.]+) ([\d.]+)h0", paths["dot"])
        good = [row for row in told if row["within"]]
        assert len(dots) == len(good)
        assert paths.get("wrong", "").count("M") == len(told) - len(good)
        for dot, row in zip(dots, good, strict=True):
            assert abs(value_at(scale, float(dot[1])) - row["difference_uwh"]) <= step_px
        boxes = re.findall(r"M[\d.]+ ([\d.]+)H[\d.]+V", paths["band"])
        for box, row in zip(boxes, told, strict=True):
            assert abs(value_at(scale, float(box)) - row["bound_uwh"]) <= step_px
    assert compared == 1


def test_what_is_drawn_is_seen(browser: Browser, made: Path) -> None:
    """Every mark has a place on the screen, within its plot."""
    marks = """[...document.querySelectorAll('svg path')].filter(path => {
      const one = path.getBoundingClientRect(), all = path.closest('svg').getBoundingClientRect();
      const stroke = getComputedStyle(path).stroke, fill = getComputedStyle(path).fill;
      return one.width + one.height === 0 || one.left < all.left || one.right > all.right + 1
        || one.top < all.top || one.bottom > all.bottom + 1
        || (stroke === 'none' && fill === 'none');
    }).length"""
    with browser.page() as page:
        page.open((made / f"{DAYS[1]}.html").as_uri())
        assert page.evaluate("document.querySelectorAll('svg path').length") > 50
        assert page.evaluate(marks) == 0


def test_the_verdict_comes_first_and_the_checkpoint_with_it(browser: Browser, made: Path) -> None:
    values = json.loads((made / f"{DAYS[1]}.json").read_text())
    with browser.page() as page:
        page.open((made / f"{DAYS[1]}.html").as_uri())
        first = page.evaluate(
            "[...document.querySelectorAll('body *')].filter(one => one.innerText"
            " && one.getBoundingClientRect().bottom < innerHeight).map(one => one.innerText)"
        )
        text = "\n".join(first)
        assert values["said"][0] in text
        assert f"size {values['source']['checkpoint']['size']}" in text
        assert values["source"]["checkpoint"]["root"][:16] in text
        page.evaluate("document.querySelector('a[href=\"#made-from\"]').click()")
        assert page.evaluate("location.hash") == "#made-from"
        assert page.evaluate(
            "document.getElementById('made-from').getBoundingClientRect().top < innerHeight"
        )


# --- On paper. ---


@pytest.mark.parametrize("period", [DAYS[1], "2024-03"])
def test_on_a4_no_plot_is_cut_and_nothing_runs_off(
    browser: Browser, made: Path, tmp_path: Path, period: str
) -> None:
    labels = (
        "[...document.querySelectorAll('figure')].map(one => ["
        "one.querySelector('figcaption').textContent,"
        "[...one.querySelectorAll('svg text')].map(text => text.textContent)])"
    )
    with browser.page() as page:
        page.open((made / f"{period}.html").as_uri())
        figures = page.evaluate(labels)
        pages = printed(page, tmp_path)
    assert len(figures) == 7
    left = dict(figures)
    for words in pages:
        text = "".join(unescape(word) for word, _, _ in words)
        on_it = [one for one in left if one.replace(" ", "") in text]
        wanted = Counter(word for one in on_it for label in left.pop(one) for word in label.split())
        # All of a plot's labels are where its caption is.
        assert wanted <= Counter(unescape(word) for word, _, _ in words)
        assert all(low >= 0 and high <= A4_POINTS for _, low, high in words)
    assert left == {}


# --- Much, and hostile. ---


def months_of_ten(measured: Measured) -> Measured:
    """Ten meters over a month of quarter hours: the steps of one, again and again."""
    first = 1_709_251_200 // 900  # 2024-03-01T00:00Z
    steps = range(first, first + 31 * 96)

    def moved(one: MeterStep, meter: str, step: int) -> MeterStep:
        by = step - one.step
        compared = tuple(
            replace(found, meter=meter, step=found.step + by, since_step=found.since_step + by)
            for found in one.compared
        )
        block = None if one.block is None else one.block + by
        since = None if one.since_step is None else one.since_step + by
        return replace(
            one, meter=meter, step=step, block=block, since_step=since, compared=compared
        )

    [roof] = [meter for meter in measured.meters if meter.name == "roof"]
    meters = [
        replace(
            roof,
            name=f"m{at}",
            steps=tuple(moved(roof.steps[n % 48], f"m{at}", step) for n, step in enumerate(steps)),
        )
        for at in range(10)
    ]
    return Measured(steps, tuple(meters), 0)


def test_a_month_of_ten_meters_opens_in_two_seconds(browser: Browser, tmp_path: Path) -> None:
    village, steps = watched()
    source = Source(village.id, "Rue", village.state.checkpoint, village.state.step, 900)
    month = months_of_ten(measure(village, steps))
    assert sum(len(meter.steps) for meter in month.meters) == 29_760
    days = (date(2024, 3, 1), date(2024, 4, 1))
    file = tmp_path / "month.html"
    file.write_text(accuracy_html(month, source, Period("2024-03", "UTC", UTC, days)))
    with browser.page() as page:
        page.tell("Performance.enable", timeDomain="threadTicks")
        page.open(file.as_uri())
        metrics = page.tell("Performance.getMetrics")["metrics"]
        [took_s] = [one["value"] for one in metrics if one["name"] == "TaskDuration"]
        print(f"{file.stat().st_size} bytes, {took_s:.2f} s")
        assert took_s < OPENED_MAX_S
        check_quiet(page, file.as_uri())


def test_a_hostile_name_is_text(browser: Browser, tmp_path: Path) -> None:
    name = HOSTILE + "x" * (120 - len(HOSTILE))
    village = Village(meters=0, name=name)
    device = village.add_meter("roof", serial="<b>&quot;\u202e1" + "9" * 40)
    village.block()
    village.send(device.run_start(village.next_step), *device.step(village.next_step, 8))
    village.block()
    as_folder(village, tmp_path / "gateway")
    report(tmp_path / "gateway", DAYS[0], tmp_path / "page.html")
    url = (tmp_path / "page.html").as_uri()
    check_looks(browser, url)
    with browser.page() as page:
        page.open(url)
        title = page.evaluate("document.title")
        assert title.startswith('Accuracy of <script>document.title="had"</script>')
        assert page.evaluate("document.querySelectorAll('script,img,b').length") == 0
        assert "<script>" in page.text
        assert "<b>&quot;" in page.text
        assert "\u202e" not in page.text
