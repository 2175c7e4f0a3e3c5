"""`cryptometer-gateway serve --members` for people: pages out of the same answers, behind the same
tokens (docs/decisions/0048). The browser asks for the token itself, as a password: it stands in no
address, no page, no cookie and no log, and is sent to this origin alone. No page has a script.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cryptometer.local_calendar import LocalStep, local_steps, month_days, steps_of_day
from cryptometer.share_file import verify_share
from cryptometer.state import State
from gateway import history, member_answers, reporting
from gateway.access import admit_person
from gateway.answers import Site
from gateway.endpoints import Endpoint
from gateway.exporting import days_of
from gateway.exports.allotments import Allotment
from gateway.exports.virtual_meter import virtual_meter_csv
from gateway.folder import Folder
from gateway.members_web import (
    Make,
    Members,
    Question,
    Reply,
    check_known,
    names_of,
    told_to_asker,
)
from gateway.pages.document import PAGE_HEADERS
from gateway.pages.member import (
    Whose,
    day_page,
    front_page,
    message_page,
    month_page,
    step_page,
)
from gateway.pages.paths import PAGES
from gateway.reader import PROBLEMS, serve_app
from hal.zone import zone_named

MONTHS_LISTED = 24
_DAY = timedelta(days=1)
_HTML = "text/html; charset=utf-8"
_CHALLENGE = {"WWW-Authenticate": 'Basic realm="cryptometer members", charset="UTF-8"'}
_HEADERS = {
    **PAGE_HEADERS,
    # Nothing of a member's may outlast his erasure in somebody's cache.
    "Cache-Control": "private, no-store",
    "Vary": "Authorization",
    # A page's address says whose it is, and of when.
    "Referrer-Policy": "no-referrer",
    # A browser sends the password along with whatever another site has it ask for.
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_WHO = (
    "This needs a token that is in force. Give it as the password; as the name, whatever you like."
    " Tokens come from the operator of the community."
)


def serve_members(folder: Folder) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code.

    Raises:
        ConfigurationError: it cannot listen there, or a file that the configuration names is wrong.
    """
    settings, members = folder.config.members, MembersPages(folder)
    what = f"members of {folder.ledger}"
    return serve_app(what, settings.host, settings.port, "members", members.app)


class MembersPages(Members):
    """The API of members, and their pages."""

    def __init__(self, folder: Folder) -> None:
        super().__init__(folder)
        self._zone_name = folder.config.members.zone
        self._zone = zone_named(self._zone_name)

    def _pages(self) -> list[Route]:
        makers: dict[str, Make] = {
            "front": self._front,
            "newest_month": self._newest_month,
            "month": self._month,
            "month_csv": self._month_csv,
            "day": self._day,
            "step": self._step,
            "share": self._share,
            "accuracy": self._month_accuracy,
        }
        pages = [Route(one.path, self._page(one, makers[one.name])) for one in PAGES]
        return [*pages, Route("/sign-out", _sign_out)]

    def _page(self, endpoint: Endpoint, make: Make) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            try:
                _check_from(request)
                authorization = request.headers.get("authorization")
                grant = await self._work(lambda: self._admitted(admit_person, authorization))
                if grant is None:
                    return _message(401, "Who are you?", _WHO, home=False, headers=_CHALLENGE)
                return await self._answered(request, endpoint, make, grant, _HEADERS)
            except _TOLD as error:
                return _told(request, error)

        return handle

    # --- What is on them. ---

    def _front(self, question: Question) -> Reply:
        if not question.grant.is_of_the_office:
            return self._newest_month(_of(question, question.grant.member))

        def make(site: Site, state: State) -> str:
            members = [(name, state.accounts.get(name, 0)) for name in names_of(state)]
            first, newest = (self._day_of(one, state) for one in _ends(state))
            months: list[date] = []
            day = newest.replace(day=1)
            while day >= first.replace(day=1) and len(months) < MONTHS_LISTED:
                months.append(day)
                day = (day - _DAY).replace(day=1)
            source = history.source_of(site, state)
            return front_page(source, members, months, self._zone_name)

        return self._made(make)

    def _newest_month(self, question: Question) -> Reply:
        return self._month_of(question, lambda state: self._day_of(state.step, state))

    def _month(self, question: Question) -> Reply:
        with told_to_asker():
            day, _ = days_of(question.text("month"))
        return self._month_of(question, lambda _: day)

    def _month_of(self, question: Question, day_in: Callable[[State], date]) -> Reply:
        def make(site: Site, state: State) -> str:
            check_known(state, question.member)
            first, end = _month_around(day_in(state))
            days: dict[date, list[Allotment]] = {}
            places, found = self._found(question, site, state, first, end)
            for one in found:
                days.setdefault(places[one.step].day, []).append(one)
            known_from, newest = (self._day_of(step, state) for step in _ends(state))
            before = (first - _DAY).replace(day=1)
            months = (before if first > known_from else None, end if end <= newest else None)
            register_uwh = state.accounts.get(question.member, 0)
            whose = self._whose(question, site, state)
            return month_page(whose, first, days, register_uwh, months)

        return self._made(make)

    def _month_csv(self, question: Question) -> Reply:
        month = question.text("month")
        asked = {**question.asked, "period": month, "zone": self._zone_name}
        reply = self._virtual_meter(replace(question, asked=asked), make=virtual_meter_csv)
        name = f"{question.member}-{month}.csv"
        return Reply(reply.data, {"Content-Disposition": f'attachment; filename="{name}"'})

    def _day(self, question: Question) -> Reply:
        with told_to_asker():
            day, end = days_of(question.text("day"))

        def make(site: Site, state: State) -> str:
            check_known(state, question.member)
            places, found = self._found(question, site, state, day, end)
            known_from, newest = (self._day_of(step, state) for step in _ends(state))
            days = (day - _DAY if day > known_from else None, end if end <= newest else None)
            whose = self._whose(question, site, state)
            return day_page(whose, day, list(places.values()), found, days)

        return self._made(make)

    def _step(self, question: Question) -> Reply:
        def make(site: Site, state: State) -> str:
            share = verify_share(self._shared(question, site), site.community)
            openings = self._openings(question, site, share)
            needs = member_answers.needs_known(share, site.community, openings)
            whose = self._whose(question, site, state)
            begins = self._local(share.step, state)
            return step_page(whose, share, site.community, needs, begins)

        return self._made(make)

    def _month_accuracy(self, question: Question) -> Reply:
        with told_to_asker():
            asked = reporting.measure(self._folder, question.text("month"), self._zone_name)
        return Reply(asked.html().encode())

    # --- What they are made of. ---

    def _made(self, make: Callable[[Site, State], str]) -> Reply:
        with told_to_asker():
            return Reply(self._ask_whole(make).encode())

    def _found(
        self, question: Question, site: Site, state: State, first: date, end: date
    ) -> tuple[dict[int, LocalStep], list[Allotment]]:
        """The steps of some local days, and the member's of those that have a block."""
        step_s, member = state.genesis.step_s, question.member
        places = {one.step: one for one in local_steps(first, end, step_s, self._zone)}
        lowest, newest = _ends(state)
        begin = steps_of_day(first, step_s, self._zone).start
        steps = range(max(begin, lowest), min(begin + len(places), newest + 1))
        found = history.allotments(site, state, steps, self._used(member, steps))
        return places, [one for one in found if one.member == member]

    def _whose(self, question: Question, site: Site, state: State) -> Whose:
        member, person = question.member, None
        if question.grant.may_read_person(member):
            with self._private() as private:
                person = private.person(member)
        called = "" if person is None else person.display_name
        return Whose(member, called, self._zone_name, history.source_of(site, state))

    def _local(self, step: int, state: State) -> datetime:
        return datetime.fromtimestamp(step * state.genesis.step_s, UTC).astimezone(self._zone)

    def _day_of(self, step: int, state: State) -> date:
        return self._local(step, state).date()


def _of(question: Question, member: str) -> Question:
    return replace(question, asked={**question.asked, "member": member})


def _ends(state: State) -> tuple[int, int]:
    """The first step of the community, and that of its newest block."""
    return state.genesis.first_step, state.step


def _month_around(day: date) -> tuple[date, date]:
    return month_days(day.year, day.month)


# --- Who asks from where. ------------------------------------------------------------------------


def _check_from(request: Request) -> None:
    """Refuses what another site has a member's browser ask for, but for following a link: it would
    come with his token, and from how long it takes that site could learn something.

    Raises:
        HTTPException: it came so.
    """
    said = request.headers
    if said.get("sec-fetch-site", "none") in ("none", "same-origin"):
        return
    followed = ("navigate", "document")
    if (said.get("sec-fetch-mode"), said.get("sec-fetch-dest")) != followed:
        raise HTTPException(403, "another site had your browser ask for this")


async def _sign_out(_request: Request) -> Response:
    """A browser that is told that its password is wrong forgets it."""
    said = "Press Cancel where your browser asks: then it has forgotten your token."
    return _message(401, "You are signed out", said, headers=_CHALLENGE)


# --- Errors, for people. -------------------------------------------------------------------------

_TOLD = tuple(kind for kind in PROBLEMS if kind is not Exception)


def _told(request: Request, error: Exception) -> Response:
    """What the API would say, as a page."""
    kind = next(one for one in type(error).__mro__ if one in PROBLEMS)
    problem = PROBLEMS[kind](request, error)
    said = json.loads(bytes(problem.body))
    kept = {name: problem.headers[name] for name in ("retry-after",) if name in problem.headers}
    return _message(problem.status_code, str(said["title"]), str(said["detail"]), headers=kept)


def _message(
    status: int, title: str, said: str, *, home: bool = True, headers: dict[str, str] | None = None
) -> Response:
    page = message_page(title, said, home=home).encode()
    return Response(page, status, {**_HEADERS, **(headers or {})}, _HTML)
