"""The addresses of the members' pages: what they may be asked, and whom they are for. Values of the
kind that the API has (`gateway.openapi`), and no part of its document."""

from gateway.endpoints import CSV, HTML, SHARE, Audience, Endpoint

FRONT = "/"
_OWN = "/members/{member}"

PAGES: tuple[Endpoint, ...] = (
    Endpoint("front", FRONT, "Where to begin.", HTML, audience=Audience.HOLDER),
    Endpoint(
        "newest_month",
        _OWN,
        "The newest month of a member, by days.",
        HTML,
        audience=Audience.MEMBER,
        is_long=True,
    ),
    Endpoint(
        "month",
        f"{_OWN}/months/{{month}}",
        "A month of a member, by days.",
        HTML,
        audience=Audience.MEMBER,
        is_long=True,
    ),
    Endpoint(
        "month_csv",
        f"{_OWN}/months/{{month}}/virtual-meter.csv",
        "The same, by steps, as a file.",
        CSV,
        audience=Audience.MEMBER,
        is_long=True,
    ),
    Endpoint(
        "day",
        f"{_OWN}/days/{{day}}",
        "A day of a member, by steps.",
        HTML,
        audience=Audience.MEMBER,
    ),
    Endpoint(
        "step",
        f"{_OWN}/steps/{{step}}",
        "Why a member got what he got, and how to check it.",
        HTML,
        audience=Audience.MEMBER,
    ),
    Endpoint(
        "share",
        f"{_OWN}/steps/{{step}}/share",
        "The file that proves it.",
        SHARE,
        audience=Audience.MEMBER,
    ),
    Endpoint(
        "accuracy",
        "/accuracy/{month}",
        "The accuracy report of a month.",
        HTML,
        audience=Audience.OFFICE,
        is_long=True,
    ),
)
