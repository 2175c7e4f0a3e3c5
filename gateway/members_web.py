"""`cryptometer-gateway serve --members`: read access by HTTP to what is a member's, for who has a
token (docs/decisions/0045). A process of its own, and a user of its own: it alone of the web sides
may read the private store. It writes nothing.
"""

import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import TypeAlias

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cryptometer.errors import ConfigurationError
from cryptometer.local_calendar import steps_of_day
from cryptometer.openings import Opening, Openings
from cryptometer.record_fields import Role
from cryptometer.share_file import Share, verify_share
from cryptometer.state import State
from cryptometer.steps import NS_PER_MS
from gateway import exporting, history, member_answers, reporting
from gateway.access import Grant, admit
from gateway.answers import Absent, Json, Site
from gateway.endpoints import MEMBERS, Audience, Endpoint
from gateway.exports.allotments import Allotment, totals_by_step
from gateway.exports.france import Template, coefficients_fr, read_template
from gateway.exports.load_curve import load_curve_local, load_curve_utc
from gateway.exports.settlement import settlement_csv
from gateway.exports.source import Source, sidecar
from gateway.exports.spain import CoefficientFile, Layout, coefficients_es
from gateway.exports.virtual_meter import virtual_meter_csv, virtual_meter_json
from gateway.folder import Folder
from gateway.pages.document import POLICY
from gateway.private import PrivateStore
from gateway.private_reading import open_opening
from gateway.questions import Asked, WronglyAsked
from gateway.reader import (
    PROBLEMS,
    Bodiless,
    Reader,
    Unavailable,
    alive,
    answer,
    asked_of,
)
from gateway.share import make_share
from hal.zone import zone_named

AT_ONCE_MAX = 4  # questions by one token: none keeps the others from the workers
BUSY_MS = 2_000  # an import holds the private store for some milliseconds at a time
FILE_MAX_BYTES = 2**26
_UTC = "UTC"
# Nothing of a member's may outlast his erasure in somebody's cache.
_PRIVATE = {
    "Cache-Control": "private, no-store",
    "Vary": "Authorization",
    "X-Content-Type-Options": "nosniff",
}
# A page that is shown by whoever asks: its own style is all that it may use.
_NOTHING_FETCHED = {"Content-Security-Policy": POLICY}


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, by whom: its holder may have the answer."""

    endpoint: Endpoint
    grant: Grant
    asked: Asked

    @property
    def member(self) -> str:
        return str(self.asked["member"])

    def number(self, name: str) -> int | None:
        value = self.asked.get(name)
        return None if value is None else int(value)

    def text(self, name: str, default: str = "") -> str:
        return str(self.asked.get(name, default))


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer's bytes."""

    data: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


Make: TypeAlias = Callable[[Question], Reply]
Admit: TypeAlias = Callable[[str | None, Callable[[str], Grant | None], int], Grant | None]


class Members(Reader):
    """The answers of one gateway's folder to who has a token."""

    def __init__(self, folder: Folder) -> None:
        super().__init__(folder)
        self._asking: Counter[str] = Counter()
        settings = folder.config.members
        # A wrong file is found at the start, not by who asks first.
        self._points = _points(folder, settings.points)
        self._template = _template(folder, settings.template)
        self._files = folder.path / settings.files if settings.files else None

    def app(self, address: str) -> Starlette:
        """The routes. All answer GET and HEAD alone."""
        makers: dict[str, Make] = {
            "me": self._me,
            "members": self._members,
            "member": self._member,
            "meter": self._meter,
            "consumption": self._consumption,
            "share": self._share,
            "why": self._why,
            "own_virtual_meter_csv": partial(self._virtual_meter, make=virtual_meter_csv),
            "own_virtual_meter_json": partial(self._virtual_meter, make=virtual_meter_json),
            "own_load_curve": self._own_load_curve,
            "virtual_meters_csv": partial(self._virtual_meter, make=virtual_meter_csv),
            "virtual_meters_json": partial(self._virtual_meter, make=virtual_meter_json),
            "meter_load_curve": self._meter_load_curve,
            "accuracy_page": partial(self._accuracy, make=reporting.Asked.html),
            "accuracy_csv": partial(self._accuracy, make=reporting.Asked.csv),
            "accuracy_json": partial(self._accuracy, make=reporting.Asked.json),
            "settlement": self._settlement,
            "storage": self._storage,
            "coefficients_es": self._spain,
            "coefficients_es_source": self._spain_source,
            "coefficients_fr": self._france,
            "files": self._list_files,
            "file": self._file,
        }
        routes = [Route(one.path, self._handler(one, makers[one.name])) for one in MEMBERS]
        return Starlette(
            routes=[*routes, *self._pages()],
            exception_handlers=PROBLEMS,
            middleware=[Middleware(Bodiless)],
            lifespan=lambda _: alive(f"serving members at {address}"),
        )

    # --- Who asks. ---

    def _handler(self, endpoint: Endpoint, make: Make) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            authorization = request.headers.get("authorization")
            grant = await self._work(lambda: self._admitted(admit, authorization))
            if grant is None:
                raise HTTPException(
                    401,
                    "this needs a token that is in force: Authorization: Bearer TOKEN",
                    {"WWW-Authenticate": 'Bearer realm="cryptometer"'},
                )
            return await self._answered(request, endpoint, make, grant)

        return handle

    def _pages(self) -> list[Route]:
        """Routes beside the API's."""
        return []

    async def _answered(
        self,
        request: Request,
        endpoint: Endpoint,
        make: Make,
        grant: Grant,
        headers: Mapping[str, str] = _PRIVATE,
    ) -> Response:
        """The answer to who is known."""
        if not _lets(grant, endpoint.audience, request.path_params.get("member")):
            # The same whether or not there is such a member.
            raise HTTPException(403, "this token is for something else; /api/1/me says for what")
        question = Question(endpoint, grant, asked_of(endpoint, request))
        with self._turn(grant):
            reply = await self._work(lambda: make(question), is_long=endpoint.is_long)
        return answer(request, reply.data, endpoint.kind, {**headers, **reply.headers})

    def _admitted(self, how: Admit, authorization: str | None) -> Grant | None:
        if not self._folder.private.exists():
            return None  # nobody was given a token yet
        with self._private() as private:
            return how(authorization, private.grant, time.time_ns() // NS_PER_MS)

    @contextmanager
    def _turn(self, grant: Grant) -> Iterator[None]:
        if self._asking[grant.number] >= AT_ONCE_MAX:
            raise HTTPException(
                429, f"{AT_ONCE_MAX} questions are being answered already", {"Retry-After": "1"}
            )
        self._asking[grant.number] += 1
        try:
            yield
        finally:
            self._asking[grant.number] -= 1
            if not self._asking[grant.number]:
                del self._asking[grant.number]

    @contextmanager
    def _private(self) -> Iterator[PrivateStore]:
        # Opened for each answer: what was erased or revoked is gone with the next question.
        try:
            private = PrivateStore(self._folder.private, busy_ms=BUSY_MS, read_only=True)
        except ConfigurationError as error:
            raise Unavailable(str(error)) from None
        with closing(private):
            yield private

    # --- One member. ---

    def _me(self, question: Question) -> Reply:
        return json_reply(member_answers.holder(question.grant))

    def _members(self, _question: Question) -> Reply:
        return self._told(lambda _, state: member_answers.members(names_of(state), state))

    def _member(self, question: Question) -> Reply:
        member, person = question.member, None
        if question.grant.may_read_person(member):
            with self._private() as private:
                person = private.person(member)

        def make(_: Site, state: State) -> Json:
            check_known(state, member)
            return member_answers.member(member, state, person)

        return self._told(make)

    def _meter(self, question: Question) -> Reply:
        member, last = question.member, question.number("to")

        def make(site: Site, state: State) -> Json:
            check_known(state, member)
            steps = _steps(question, state)
            used = self._used(member, steps)
            found = history.allotments(site, state, steps, used)
            own = [one for one in found if one.member == member]
            rows = member_answers.meter_rows(own, state.genesis.step_s)
            return {"member": member, **member_answers.page(steps, state, last), "rows": rows}

        return self._told(make)

    def _consumption(self, question: Question) -> Reply:
        member, last = question.member, question.number("to")

        def make(_: Site, state: State) -> Json:
            check_known(state, member)
            steps = _steps(question, state)
            with self._private() as private:
                known = list(private.curve(member, steps.start, steps.stop - 1))
            rows = member_answers.consumption_rows(known, state.genesis.step_s)
            return {"member": member, **member_answers.page(steps, state, last), "rows": rows}

        return self._told(make)

    def _share(self, question: Question) -> Reply:
        data = self._ask(lambda site: self._shared(question, site))
        name = f"{question.member}-{question.asked['step']}.share"
        return Reply(data, {"Content-Disposition": f'attachment; filename="{name}"'})

    def _why(self, question: Question) -> Reply:
        def make(site: Site) -> Json:
            share = verify_share(self._shared(question, site), site.community)
            openings = self._openings(question, site, share)
            return member_answers.why(share, site.community, openings)

        return json_reply(self._ask(make))

    def _openings(self, question: Question, site: Site, share: Share) -> Openings:
        """What opens all members' consumption, for who may know it."""
        openings: dict[tuple[int, str], list[Opening]] = {}
        if question.grant.is_of_the_office:
            for one in share.given[-1].whole.commitments:
                opening = self._opening(site, one.member, share.step, one.digest)
                if opening is not None:
                    openings[share.step, one.member] = [opening]
        return openings

    def _shared(self, question: Question, site: Site) -> bytes:
        member, step = question.member, question.number("step") or 0
        opens = partial(self._opening, site, member, step)
        try:
            return make_share(member, step, site.store, site.read, site.community, opens)
        except ConfigurationError as error:
            raise Absent(str(error)) from None

    def _opening(self, site: Site, member: str, step: int, digest: bytes) -> Opening | None:
        return open_opening(
            self._folder.private, site.community.id, member, step, digest, read_only=True
        )

    def _used(self, member: str, steps: range) -> dict[int, Mapping[str, int]]:
        """What a member consumed, by step."""
        with self._private() as private:
            return {
                known.step: {member: known.value.energy_uwh}
                for known in private.curve(member, steps.start, steps.stop - 1)
            }

    def _told(self, make: Callable[[Site, State], Json]) -> Reply:
        return json_reply(self._ask_whole(make))

    # --- Files. ---

    def _virtual_meter(
        self, question: Question, *, make: Callable[[list[Allotment], Source], str]
    ) -> Reply:
        found, source = self._gathered(question, with_consumption=True)
        return Reply(make(found, source).encode())

    def _own_load_curve(self, question: Question) -> Reply:
        found, source = self._gathered(question)
        member = question.member
        totals = totals_by_step(found)
        energy_uwh = {step: members[member] for step, members in totals.items()}
        return _curve(question, f"what member {member} was given", energy_uwh, source)

    def _meter_load_curve(self, question: Question) -> Reply:
        meter = question.text("meter")
        with told_to_asker():
            found = exporting.gather(
                self._folder, question.text("period"), question.text("zone", _UTC)
            )
            exporting.check_meter(found.state, meter)
        energy_uwh = found.gathered.energy_uwh.get(meter, {})
        since = found.gathered.since.get(meter, {})
        return _curve(question, f"meter {meter}", energy_uwh, found.source, since)

    def _accuracy(self, question: Question, *, make: Callable[[reporting.Asked], str]) -> Reply:
        with told_to_asker():
            period, zone = question.text("period"), question.text("zone", _UTC)
            asked = reporting.measure(self._folder, period, zone)
        return Reply(make(asked).encode(), _NOTHING_FETCHED)

    def _settlement(self, question: Question) -> Reply:
        def make(site: Site, state: State) -> str:
            gathered = history.gather(site, state, _steps_of(question, state))
            return settlement_csv(gathered.accounts(state), history.source_of(site, state))

        with told_to_asker():
            return Reply(self._ask_whole(make).encode())

    def _storage(self, question: Question) -> Reply:
        when = (question.text("period"), question.text("zone", _UTC))
        with told_to_asker():
            text = exporting.storage_of(
                self._folder,
                when,
                question.text("storage"),
                question.text("meter"),
                exporting.efficiency_named(question.text("efficiency", "1")),
            )
        return Reply(text.encode())

    def _spain(self, question: Question) -> Reply:
        made, _ = self._spanish(question)
        return Reply(made.text.encode())

    def _spain_source(self, question: Question) -> Reply:
        made, source = self._spanish(question)
        text = sidecar(
            source,
            "coefficients-es.txt",
            zone=question.text("zone", _UTC),
            hours=made.hours,
            first_hour=_spanish_layout(question).first_hour,
            idle=list(made.idle),
            missing=list(made.missing),
        )
        return Reply(text.encode())

    def _spanish(self, question: Question) -> tuple[CoefficientFile, Source]:
        found, source = self._gathered(question)
        zone = zone_named(question.text("zone", _UTC))
        day, _ = exporting.days_of(question.text("period"))
        with told_to_asker():
            made = coefficients_es(
                day.year,
                day.month,
                totals_by_step(found),
                self._all_points(),
                source.step_s,
                zone,
                accept_missing=question.text("missing") == "alike",
                layout=_spanish_layout(question),
            )
        return made, source

    def _france(self, question: Question) -> Reply:
        days, zone = _days(question), zone_named(question.text("zone", _UTC))

        def make(site: Site, state: State) -> str:
            steps = _steps_of(question, state)
            gathered = history.gather(site, state, steps)
            return coefficients_fr(
                totals_by_step(gathered.allotments(state, {})),
                gathered.produced_uwh,
                self._all_points(),
                days,
                zone,
                history.source_of(site, state),
                self._template,
            )

        with told_to_asker():
            return Reply(self._ask_whole(make).encode())

    def _gathered(
        self, question: Question, *, with_consumption: bool = False
    ) -> tuple[list[Allotment], Source]:
        """What members were given in a period: the one that is asked for, or all of them."""
        member = question.asked.get("member")

        def make(site: Site, state: State) -> tuple[list[Allotment], Source]:
            steps = _steps_of(question, state)
            used: dict[int, Mapping[str, int]] = {}
            if with_consumption and member is not None:
                used = self._used(str(member), steps)
            elif with_consumption:
                with self._private() as private:
                    used = {step: private.of(step) for step in steps}
            found = history.allotments(site, state, steps, used)
            own = [one for one in found if member in (None, one.member)]
            if member is not None and not own:
                raise Absent("no agreement names the member in a block of that period")
            return own, history.source_of(site, state)

        with told_to_asker():
            return self._ask_whole(make)

    def _all_points(self) -> dict[str, str]:
        if not self._points:
            raise Absent("supply points are not configured: points in [members] of gateway.toml")
        return self._points

    def _list_files(self, _question: Question) -> Reply:
        found: list[Json] = [
            {"file": one.name, "bytes": one.stat().st_size} for one in _laid_out(self._files)
        ]
        return json_reply({"files": found})

    def _file(self, question: Question) -> Reply:
        name = question.text("file")
        for one in _laid_out(self._files):
            if one.name == name:
                return Reply(
                    one.read_bytes(), {"Content-Disposition": f'attachment; filename="{name}"'}
                )
        raise Absent("there is no such file; /api/1/files lists those there are")


def _lets(grant: Grant, audience: Audience, member: str | None) -> bool:
    match audience:
        case Audience.ANYBODY | Audience.HOLDER:
            return True
        case Audience.MEMBER:
            return grant.may_read(member)
        case Audience.OFFICE:
            return grant.may_read(None)


def names_of(state: State) -> list[str]:
    return sorted(name for role, name in state.parties if role is Role.MEMBER)


def check_known(state: State, member: str) -> None:
    if (Role.MEMBER, member) not in state.parties:
        raise Absent("no member has this name; /api/1/members lists those there are")


def json_reply(value: Json) -> Reply:
    return Reply(json.dumps(value, ensure_ascii=False).encode())


def _steps(question: Question, state: State) -> range:
    first, last = question.number("from"), question.number("to")
    if first is not None and last is not None and first > last:
        raise WronglyAsked("from is behind to")
    return member_answers.steps_asked(state, first, last)


@contextmanager
def told_to_asker() -> Iterator[None]:
    """What a file cannot be made of is told to who asked for it: a zone that there is not, hours
    that were not distributed yet."""
    try:
        yield
    except ConfigurationError as error:
        raise WronglyAsked(str(error)) from None


def _days(question: Question) -> tuple[date, date]:
    with told_to_asker():
        return exporting.days_of(question.text("period"))


def _steps_of(question: Question, state: State) -> range:
    """The steps of a period that may have a block."""
    first, end = _days(question)
    zone, step_s = zone_named(question.text("zone", _UTC)), state.genesis.step_s
    begin, stop = (steps_of_day(day, step_s, zone).start for day in (first, end))
    return range(max(begin, state.genesis.first_step), min(stop, state.step + 1))


def _curve(
    question: Question,
    what: str,
    energy_uwh: Mapping[int, int],
    source: Source,
    since: Mapping[int, int] | None = None,
) -> Reply:
    make = load_curve_local if question.text("form") == "local" else load_curve_utc
    zone = zone_named(question.text("zone", _UTC))
    with told_to_asker():
        return Reply(make(what, energy_uwh, _days(question), zone, source, since).encode())


def _spanish_layout(question: Question) -> Layout:
    first_hour = question.number("first_hour")
    return Layout(
        first_hour=1 if first_hour is None else first_hour,
        hour_digits=question.number("hour_digits") or 1,
    )


def _points(folder: Folder, name: str) -> dict[str, str]:
    return exporting.read_points(folder.path / name) if name else {}


def _template(folder: Folder, name: str) -> Template:
    return read_template(exporting.read_toml(folder.path / name)) if name else Template()


def _laid_out(folder: Path | None) -> list[Path]:
    """The files of a folder that can be asked for by their names."""
    if folder is None or not folder.is_dir():
        return []
    [place] = next(one for one in MEMBERS if one.name == "file").places
    found = []
    for one in sorted(folder.iterdir()):
        try:
            place.read(one.name)
        except WronglyAsked:
            continue
        if one.is_file() and not one.is_symlink() and one.stat().st_size <= FILE_MAX_BYTES:
            found.append(one)
    return found
