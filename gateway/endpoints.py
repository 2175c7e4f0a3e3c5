"""The read API of version 1: its paths, what each may be asked, what it answers, who may ask. Both
web sides make their routes from these values and read questions by them, and `openapi` says the
same to programs: none of the three can say what the others do not. Pure.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from gateway.community_answers import WAITING_MAX
from gateway.member_answers import STEPS
from gateway.questions import (
    FORM,
    FROM,
    NEWEST,
    PERIOD,
    PLACES,
    SPAIN,
    STEP_MAX,
    STORAGE,
    TO,
    ZONE,
    Asked,
    Query,
    Schema,
    WronglyAsked,
    number,
)
from gateway.schemas import BALANCE, ENERGY, INT, PAGE, STR, WHERE, list_of, object_of, ref

ROOT = "/api/1"
JSON = "application/json"
PROBLEM = "application/problem+json"
CSV = "text/csv; charset=utf-8"
TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"
SHARE = "application/vnd.cryptometer.share"
BYTES = "application/octet-stream"


class Audience(Enum):
    """Who may ask."""

    ANYBODY = "anybody"
    HOLDER = "whoever has a token"
    MEMBER = "the member, the operator, the DSO"
    OFFICE = "the operator, the DSO"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path.

    Attributes:
        name: of the operation; a handler answers under it.
        schema: of the answer, where it is JSON.
        is_long: it may take many seconds, so that one of its kind is answered at a time.
    """

    name: str
    path: str
    said: str
    kind: str = JSON
    schema: Schema | None = None
    queries: tuple[Query, ...] = ()
    audience: Audience = Audience.ANYBODY
    is_long: bool = False

    @property
    def places(self) -> tuple[Query, ...]:
        """The values in its path."""
        return tuple(PLACES[name] for name in re.findall(r"\{(\w+)\}", self.path))

    def read(self, places: Mapping[str, str], queries: Mapping[str, str]) -> Asked:
        """What a question asks.

        Raises:
            WronglyAsked: naming what is wrong and what may be asked.
        """
        known = {one.name: one for one in self.queries}
        for name in queries:
            if name not in known:
                listed = ", ".join(known) or "nothing"
                raise WronglyAsked(f"{name[:40]!r} cannot be asked here; {listed} can")
        for one in self.queries:
            if one.is_required and one.name not in queries:
                raise WronglyAsked(f"{one.name} lacks: {one.said}")
        found = {name: known[name].read(text) for name, text in queries.items()}
        return found | {one.name: one.read(places[one.name]) for one in self.places}


def _of_period(
    name: str,
    path: str,
    said: str,
    kind: str = JSON,
    schema: Schema | None = None,
    more: tuple[Query, ...] = (),
    audience: Audience = Audience.OFFICE,
) -> Endpoint:
    """What is made anew of a local day or month, from the ledger."""
    queries = (PERIOD, ZONE, *more)
    return Endpoint(name, path, said, kind, schema, queries, audience, is_long=True)


PUBLIC: tuple[Endpoint, ...] = (
    Endpoint("openapi", f"{ROOT}/openapi.json", "This document.", schema={"type": "object"}),
    Endpoint(
        "community", f"{ROOT}/community", "The community's parameters.", schema=ref("Community")
    ),
    Endpoint("checkpoint", f"{ROOT}/checkpoint", "The newest signed tree head.", TEXT),
    Endpoint(
        "blocks",
        f"{ROOT}/blocks",
        "The newest blocks, latest first.",
        schema=object_of(blocks=list_of(ref("BlockRow"))),
        queries=(NEWEST,),
    ),
    Endpoint("block", f"{ROOT}/blocks/{{step}}", "The block of a step.", schema=ref("Block")),
    Endpoint(
        "meters",
        f"{ROOT}/meters",
        "Every meter that was registered.",
        schema=object_of(meters=list_of(ref("Meter")), **WHERE),
    ),
    Endpoint(
        "comparisons",
        f"{ROOT}/meters/{{meter}}/comparisons",
        "What was counted of a meter against the index of its second source, latest first.",
        schema=ref("Comparisons"),
        queries=(NEWEST,),
    ),
    Endpoint(
        "balance",
        f"{ROOT}/balance",
        "Where all energy ever registered is: the first amount is the sum of the others.",
        schema=object_of(balance_uwh=object_of(**BALANCE), **WHERE),
    ),
    Endpoint(
        "agreement",
        f"{ROOT}/agreement",
        "The agreement by which a step is shared.",
        schema=ref("Agreement"),
        queries=(number("step", "of which step; without it the next one", 0, STEP_MAX),),
    ),
    Endpoint(
        "waiting",
        f"{ROOT}/waiting",
        "Energy that waits at the virtual power plant, by step, and what its agreement asks for; at"
        f" most {WAITING_MAX} steps at once.",
        schema=ref("Waiting"),
        queries=(number("from", "the first step", 0, STEP_MAX),),
    ),
)

_OWN = f"{ROOT}/members/{{member}}"

MEMBERS: tuple[Endpoint, ...] = (
    Endpoint(
        "me",
        f"{ROOT}/me",
        "Whose token it is.",
        schema=ref("Holder"),
        audience=Audience.HOLDER,
    ),
    Endpoint(
        "members",
        f"{ROOT}/members",
        "All members, with the registers of their virtual generation meters.",
        schema=object_of(
            members=list_of(object_of(member=STR, virtual_generation_uwh=ENERGY)), newest_step=INT
        ),
        audience=Audience.OFFICE,
    ),
    Endpoint(
        "member",
        _OWN,
        "A member's register, and who it is as far as somebody has said; the DSO is not told who.",
        schema=ref("Member"),
        audience=Audience.MEMBER,
    ),
    Endpoint(
        "meter",
        f"{_OWN}/meter",
        "The virtual generation meter and, where consumption is known, the computed market-face"
        f" meter, step by step; {STEPS} steps unless asked.",
        schema=object_of(member=STR, **PAGE, rows=list_of(ref("MeterRow"))),
        queries=(FROM, TO),
        audience=Audience.MEMBER,
    ),
    Endpoint(
        "consumption",
        f"{_OWN}/consumption",
        "What is known of the member's consumption, with what was corrected. A step that is not"
        " listed is not known.",
        schema=object_of(member=STR, **PAGE, rows=list_of(ref("ConsumptionRow"))),
        queries=(FROM, TO),
        audience=Audience.MEMBER,
    ),
    Endpoint(
        "share",
        f"{_OWN}/steps/{{step}}/share",
        "The file that proves the member's share of a step offline: cryptometer verify.",
        SHARE,
        audience=Audience.MEMBER,
    ),
    Endpoint(
        "why",
        f"{_OWN}/steps/{{step}}/why",
        "Why the member got what he got, in plain words. A member is told what follows from his own"
        " consumption; operator and DSO have the rule recomputed.",
        schema=ref("Why"),
        audience=Audience.MEMBER,
    ),
    _of_period(
        "own_virtual_meter_csv",
        f"{_OWN}/exports/virtual-meter.csv",
        "The member's meters of a local day or month.",
        CSV,
        audience=Audience.MEMBER,
    ),
    _of_period(
        "own_virtual_meter_json",
        f"{_OWN}/exports/virtual-meter.json",
        "The same as JSON.",
        schema={"type": "object"},
        audience=Audience.MEMBER,
    ),
    _of_period(
        "own_load_curve",
        f"{_OWN}/exports/load-curve.csv",
        "What the member was given in a local day or month, as a load curve.",
        CSV,
        more=(FORM,),
        audience=Audience.MEMBER,
    ),
    _of_period(
        "virtual_meters_csv",
        f"{ROOT}/exports/virtual-meter.csv",
        "All members' meters of a local day or month.",
        CSV,
    ),
    _of_period(
        "virtual_meters_json",
        f"{ROOT}/exports/virtual-meter.json",
        "The same as JSON.",
        schema={"type": "object"},
    ),
    _of_period(
        "meter_load_curve",
        f"{ROOT}/exports/meters/{{meter}}/load-curve.csv",
        "What a meter's step closes transferred in a local day or month. It goes through all"
        " blocks: seconds for a month of ten meters.",
        CSV,
        more=(FORM,),
    ),
    _of_period(
        "accuracy_page",
        f"{ROOT}/reports/accuracy.html",
        "The accuracy report of a local day or month, as a page. It goes through all blocks.",
        HTML,
    ),
    _of_period(
        "accuracy_csv",
        f"{ROOT}/reports/accuracy.csv",
        "The same as a table: a line for each meter and step.",
        CSV,
    ),
    _of_period(
        "accuracy_json",
        f"{ROOT}/reports/accuracy.json",
        "The same as JSON.",
        schema={"type": "object"},
    ),
    _of_period(
        "settlement",
        f"{ROOT}/exports/settlement.csv",
        "Where the energy of each step of a local day or month went: to members, losses, the fee's"
        " beneficiary, and the account that has the surplus.",
        CSV,
    ),
    _of_period(
        "storage",
        f"{ROOT}/exports/storage.csv",
        "Whose energy a storage holds, and each movement of a local day or month. It goes through"
        " all blocks.",
        CSV,
        more=STORAGE,
    ),
    Endpoint(
        "coefficients_es",
        f"{ROOT}/exports/coefficients-es.txt",
        "The Spanish file of coefficients of a month: CUPS;hour;coefficient.",
        TEXT,
        queries=SPAIN,
        audience=Audience.OFFICE,
        is_long=True,
    ),
    Endpoint(
        "coefficients_es_source",
        f"{ROOT}/exports/coefficients-es.source.json",
        "What that file was made from, and which of its hours were idle or missing.",
        schema={"type": "object"},
        queries=SPAIN,
        audience=Audience.OFFICE,
        is_long=True,
    ),
    _of_period(
        "coefficients_fr",
        f"{ROOT}/exports/coefficients-fr.csv",
        "Coefficients for a French grid operator, by the configured template; its layout is not"
        " verified.",
        CSV,
    ),
    Endpoint(
        "files",
        f"{ROOT}/files",
        "Files that the operator has laid out, as OCMF records and reports.",
        schema=object_of(files=list_of(object_of(file=STR, bytes=INT))),
        audience=Audience.OFFICE,
    ),
    Endpoint(
        "file",
        f"{ROOT}/files/{{file}}",
        "One of them.",
        BYTES,
        audience=Audience.OFFICE,
    ),
)
