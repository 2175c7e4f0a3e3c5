"""What the API is asked: a token and a question; and its file of supply points."""

from base64 import b64decode, b64encode
from urllib.parse import parse_qsl

from gateway.access import Grant, Holder, admit, admit_person, digest_of, make_token
from gateway.endpoints import MEMBERS, PUBLIC
from gateway.exporting import read_points
from gateway.pages.paths import PAGES
from gateway.questions import WronglyAsked
from tests.fuzz.scene import FalseAcceptance
from tests.fuzz.target import BY_MESSAGE, Target, scratch, text_of

_TOKEN, _NUMBER = make_token(lambda size: bytes(range(size)))
_GRANT = Grant(_NUMBER, Holder.MEMBER, "ada", digest_of(_TOKEN), 0, 2)
_ENDPOINTS = {one.name: one for one in (*PAGES, *PUBLIC, *MEMBERS)}
_LONGEST = 100  # letters of any value that is let through


def _read_question(data: bytes) -> None:
    """Lines: an endpoint's name, a header's value, places, queries."""
    name, header, places, queries, *_ = [*text_of(data).split("\n"), "", "", "", ""]
    grant = admit(header, lambda number: _GRANT if number == _NUMBER else None, 1)
    if grant is not None and header.lower() != f"bearer {_TOKEN}" and _TOKEN not in header:
        raise FalseAcceptance(f"admitted by {header!r}")
    grant = admit_person(header, lambda number: _GRANT if number == _NUMBER else None, 1)
    if grant is not None and _TOKEN.encode() not in b64decode(header[6:]):
        raise FalseAcceptance(f"admitted by {header!r}")
    endpoint = _ENDPOINTS.get(name)
    if endpoint is None:
        raise WronglyAsked("no endpoint")
    given = dict(parse_qsl(places, keep_blank_values=True))
    whole = {one.name: given.get(one.name, "") for one in endpoint.places}
    asked = endpoint.read(whole, dict(parse_qsl(queries, keep_blank_values=True)))
    known = {one.name: one for one in (*endpoint.queries, *endpoint.places)}
    for what, value in asked.items():
        schema = known[what].schema
        if schema["type"] == "integer":
            right = isinstance(value, int) and schema["minimum"] <= value <= schema["maximum"]
        else:
            right = isinstance(value, str) and value.isprintable() and len(value) <= _LONGEST
        if not right or ".." in str(value).split("/"):
            raise FalseAcceptance(f"{what} is {value!r}")


def _read_points(data: bytes) -> None:
    points = read_points(scratch("points.toml", data))
    if not all(isinstance(one, str) for pair in points.items() for one in pair):
        raise FalseAcceptance(f"supply points {points}")


API: tuple[Target, ...] = (
    Target(
        "api-question",
        ("gateway.access.admit", "gateway.access.admit_person", "gateway.endpoints.Endpoint.read"),
        _read_question,
        lambda: [
            f"meter\nBearer {_TOKEN}\nmember=ada\nfrom=7&to=9".encode(),
            f"coefficients_es\nbearer {_TOKEN}\n\nperiod=2026-03&zone=Europe/Madrid&first_hour=0"
            "&hour_digits=4&missing=alike".encode(),
            b"file\n\nfile=report-2026.html\n",
            b"me\nBasic " + b64encode(f"ada:{_TOKEN}".encode()) + b"\n\n",
            b"month\n\nmember=ada&month=2026-03\n",
            b"own_load_curve\nBasic x\nmember=a-1\nperiod=2026-03-29&form=local&zone=UTC",
        ],
        (*BY_MESSAGE, WronglyAsked),
    ),
    Target(
        "supply-points",
        ("gateway.exporting.read_points", "gateway.exporting.read_toml"),
        _read_points,
        lambda: [b'ada = "ES0021000000000001RK"\nbo = "12345678901234"\n'],
        BY_MESSAGE,
    ),
)
