"""HTML out of values: nothing that is text becomes anything else."""

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from gateway.pages.document import POLICY, document
from gateway.pages.markup import Markup, aligned, markup, name_of, table, tag


class Read(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


_TEXTS = st.text(st.one_of(st.sampled_from("<>&\"'/;=\u202e"), st.characters(codec="utf-8")))
# What a parser of HTML changes by itself.
_PLAIN = _TEXTS.filter(lambda text: "\r" not in text and "\0" not in text)


@given(_PLAIN, _PLAIN)
def test_text_and_attributes_are_what_they_were(text: str, value: str) -> None:
    read = Read(tag("p", text, title=value))
    assert read.text == text
    assert read.tags == [("p", [("title", value)])]


@given(_PLAIN)
def test_a_page_and_its_tables_have_no_element_that_a_text_brought(text: str) -> None:
    whole = document(text, table(text, [text, "x kWh"], [[text, "1"]], notes=True), name_of(text))
    names = {name for name, _ in Read(whole).tags}
    assert names == {
        "html", "head", "meta", "title", "style", "body", "main", "div", "table", "caption",
        "thead", "tbody", "tr", "th", "td", "bdi",
    }  # fmt: skip


def test_markup_stands_as_it_is_and_only_markup() -> None:
    assert markup(Markup("<b>"), "<b>") == "<b>&lt;b&gt;"
    assert tag("a", "x", href="#1", aria_label="y", class_="z") == (
        '<a href="#1" aria-label="y" class="z">x</a>'
    )


def test_decimals_stand_below_one_another() -> None:
    header = ["meter", "a kWh", "b"]
    rows = [["x", "1.5", "1.5"], ["y", "", "2"], ["z", "-0.125", "3"]]
    assert aligned(header, rows, "kWh") == [
        ["x", "1.500", "1.5"], ["y", "", "2"], ["z", "-0.125", "3"],
    ]  # fmt: skip


def test_the_policy_lets_a_page_use_its_own_style_and_nothing_else() -> None:
    assert "unsafe" not in POLICY
    assert "default-src 'none'" in POLICY
    assert "frame-ancestors 'none'" in POLICY
