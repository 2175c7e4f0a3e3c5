"""The agreement an authority signs, as a TOML file says it: text in, an agreement out.

Every number is read exactly: TOML's floats arrive as the text they were written with.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm
from typing import TypeVar

from cryptometer.commands.quantities import moment_ms
from cryptometer.commands.roll import Roll, check_name
from cryptometer.errors import ConfigurationError
from cryptometer.readable import utc
from cryptometer.record_fields import Role
from cryptometer.settings import read_settings, setting
from cryptometer.settlement import in_force
from cryptometer.sharing_records import CLAIMS_MAX, Agreement, Claim, Method
from cryptometer.steps import step_of, step_start_ms

T = TypeVar("T")

KEY_MAX = 2**32  # what an agreement can state
PRIORITY_MAX = 255
ROUNDS_MAX = 64
MEASURED = "measured"

_PART = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(%?)")
_DECIMAL = re.compile(r"[0-9]{1,10}(?:\.[0-9]{1,9})?")
_KEYWORDS = {"from": "from_"}  # words that Python keeps for itself


@dataclass(frozen=True, slots=True)
class AgreementSettings:
    """The file's own settings; the members follow in tables `[[member]]`."""

    method: Method = setting("by what members share: pro-rata, keys, equal or coefficients")
    surplus_to: str = setting("whose account has what no member gets; any name")
    vpp: str = setting("the virtual power plant that distributes by it", "vpp")
    from_: str = setting(
        "the first step it holds in: the one that holds this time; left out: the earliest that is"
        " sure to lie behind the block that holds the agreement",
        "",
    )
    from_step: int | None = setting("instead of a time, the number of that step", None)
    capped: bool | None = setting(
        "nobody gets more than he consumed in the step; always so by pro-rata", None
    )
    rounds: int = setting(
        "how often it is shared; 2: what a member could not use once more, among the others of his"
        " priority",
        1,
    )
    losses: str = setting(
        'the part that is lost on its way: "2 %", 0.02, or "measured" where each step\'s losses are'
        " stated",
        "",
    )
    fee: str = setting('the part that `fee_to` has: "1 %" or 0.01', "")
    fee_to: str = setting("whose account has the fee", "")


@dataclass(frozen=True, slots=True)
class MemberSettings:
    """One table `[[member]]`: what a member may claim. A member may have several."""

    name: str = setting("the member, as it is registered")
    key: str = setting("his key, relative to those of the others; with method = 'keys'", "")
    priority: int = setting("0 is served first; a higher number has what those before leave", 0)
    producer: str = setting("the meter of whose energy alone this is a claim", "")


@dataclass(frozen=True, slots=True)
class Draft:
    """An agreement as a file says it; its place in the authority's chain is for the roll.

    Attributes:
        from_ms: a moment in its first step, ms since the Unix epoch.
        from_step: or that step; None in both: the earliest.
    """

    settings: AgreementSettings
    claims: tuple[Claim, ...]
    from_ms: int | None
    from_step: int | None
    losses: Fraction | None
    fee: Fraction | None

    @property
    def are_losses_stated(self) -> bool:
        return self.settings.losses == MEASURED

    @property
    def is_capped(self) -> bool:
        return bool(self.settings.capped) or self.settings.method is Method.PRO_RATA

    def agreement(self, sequence: int, previous: bytes, from_step: int) -> Agreement:
        """What the authority signs, at its place in its chain."""
        settings = self.settings
        return Agreement(
            sequence,
            previous,
            vpp=settings.vpp,
            from_step=from_step,
            method=settings.method,
            capped=self.is_capped,
            rounds=settings.rounds,
            claims=self.claims,
            surplus_to=settings.surplus_to,
            are_losses_stated=self.are_losses_stated,
            losses=self.losses,
            fee=self.fee,
            fee_to=settings.fee_to or None,
        )


def read_agreement(text: str, where: str, now_ms: int) -> Draft:
    """Reads an agreement.

    Args:
        text: the file's content.
        where: the file's name, for messages.
        now_ms: what "now" means, ms since the Unix epoch.

    Raises:
        ConfigurationError: the first thing that is wrong, and what to do.
    """
    try:
        document = tomllib.loads(text, parse_float=str)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{where} is not TOML: {error}") from None
    tables = document.pop("member", None)
    settings = _read_settings(document, where)
    if not isinstance(tables, list) or not tables:
        raise ConfigurationError(f"{where} names its members in tables [[member]]; there is none")
    members = [_read_member(table, where, number) for number, table in enumerate(tables, 1)]
    for name, value in (("vpp", settings.vpp), ("surplus_to", settings.surplus_to)):
        _check_name(value, f"{where} {name}")
    if settings.fee_to:
        _check_name(settings.fee_to, f"{where} fee_to")
    _check_rule(settings, members, where)
    losses = None if settings.losses == MEASURED else _part(settings.losses, f"{where} losses")
    fee = _part(settings.fee, f"{where} fee")
    if (fee is None) != (not settings.fee_to):
        raise ConfigurationError(f"{where}: fee and fee_to go together, how much and to whom")
    if (losses or 0) + (fee or 0) > 1:
        raise ConfigurationError(f"{where}: losses and fee are more than all there is")
    from_ms = moment_ms(settings.from_, f"{where} from", now_ms) if settings.from_ else None
    if from_ms is not None and settings.from_step is not None:
        raise ConfigurationError(f"{where} says its first step twice: leave from or from_step out")
    claims = _claims(settings, members, where)
    return Draft(settings, claims, from_ms, settings.from_step, losses, fee)


def first_step(draft: Draft, roll: Roll, now_ms: int, where: str) -> int:
    """The first step an agreement holds in: as its file says, or the earliest that is sure.

    Raises:
        ConfigurationError: a block that may stand already would have to hold it.
    """
    genesis = roll.genesis
    said = draft.from_step
    if draft.from_ms is not None:
        said = step_of(draft.from_ms, genesis.step_s)
    possible = earliest(roll, now_ms)
    if said is None:
        # Whoever signs at the end of a quarter of an hour has all of the next to hand it over.
        return possible + 1 if _has_gateway(roll) else possible
    if said < possible:
        begins = f"{utc(step_start_ms(possible, genesis.step_s))[:16]}Z"
        raise ConfigurationError(
            f"{where}: step {said} has begun, or has its block, and nothing is retroactive: from"
            f" step {possible} on ({begins}) is possible; or leave from out"
        )
    return said


def earliest(roll: Roll, now_ms: int) -> int:
    """The earliest step an agreement signed now may hold from: behind the block of the running
    step. Where there is no gateway yet, no block is made, and the first one holds the agreement."""
    genesis = roll.genesis
    first = genesis.first_step
    if not _has_gateway(roll):
        return first + 1
    return max(first, step_of(now_ms, genesis.step_s)) + 1


def check_parties(draft: Draft, roll: Roll, where: str) -> None:
    """Refuses names that nobody is registered with, all of them at once.

    Raises:
        ConfigurationError: with what to do.
    """
    standings = roll.standings()
    wanted = {
        Role.VPP: {draft.settings.vpp},
        Role.MEMBER: {claim.member for claim in draft.claims},
        Role.METER: {claim.producer for claim in draft.claims if claim.producer is not None},
    }
    for role, names in wanted.items():
        # Energy of a revoked meter may still come late.
        known = {
            one.name
            for one in standings.values()
            if one.role is role and (role is Role.METER or not one.revoked)
        }
        if unknown := sorted(names - known):
            there = ", ".join(sorted(known)) or "none"
            raise ConfigurationError(
                f"{where}: no {role} is registered as {', '.join(unknown)}; registered are"
                f" {there:.400}. Register first: cryptometer authority register"
            )


def succeeds(roll: Roll, agreement: Agreement) -> Iterator[str]:
    """Which agreements of the chain this one takes the place of, in words."""
    for agreed in reversed(roll.state.agreements):
        if agreed.agreement == agreement:
            continue
        before = agreed.agreement.from_step
        if before >= agreement.from_step:
            yield f"it also takes the place of the agreement from step {before} on"
        else:
            yield f"until then the agreement from step {before} on holds"
            return


def names_still(roll: Roll, name: str, now_ms: int) -> Iterator[str]:
    """Where agreements that hold now, or will, name somebody who has been revoked, in words: their
    rule goes on as it was signed."""
    role = roll.standings()[name].role
    agreements = roll.state.agreements
    now = step_of(now_ms, roll.genesis.step_s) + 1
    begins = {now, *(one.agreement.from_step for one in agreements)}
    for step in sorted(step for step in begins if step >= now):
        agreed = in_force(agreements, step)
        if agreed is None:
            continue
        since = f"the agreement from step {agreed.agreement.from_step} on"
        instead = "until another takes its place. next: cryptometer authority agree"
        if role is Role.MEMBER and name in agreed.agreement.members:
            yield f"{since} still gives {name} a share, {instead}"
        if role is Role.VPP and name == agreed.agreement.vpp:
            yield f"by {since} nobody but {name} distributes: energy waits there {instead}"


def _has_gateway(roll: Roll) -> bool:
    return any(one.role is Role.GATEWAY for one in roll.standings().values())


def _read_settings(document: Mapping[str, object], where: str) -> AgreementSettings:
    plain: dict[str, object] = {}
    for key, value in document.items():
        if key in {"losses", "fee"} and type(value) is int:
            plain[key] = str(value)
        elif key == "from" and hasattr(value, "isoformat"):
            plain["from_"] = value.isoformat()  # TOML has times of its own
        else:
            plain[_KEYWORDS.get(key, key)] = value
    settings = _read(AgreementSettings, plain, where)
    if not 1 <= settings.rounds <= ROUNDS_MAX:
        raise ConfigurationError(f"{where} rounds is from 1 to {ROUNDS_MAX}, not {settings.rounds}")
    return settings


def _read_member(table: object, where: str, number: int) -> MemberSettings:
    if not isinstance(table, dict):
        raise ConfigurationError(f"{where}: member {number} is not a table [[member]]")
    named = f"{where}: member {table.get('name', number)!r}"
    plain = {
        key: str(value) if key == "key" and type(value) is int else value
        for key, value in table.items()
    }
    member = _read(MemberSettings, plain, named)
    _check_name(member.name, f"{named} name")
    if member.producer:
        _check_name(member.producer, f"{named} producer")
    if not 0 <= member.priority <= PRIORITY_MAX:
        raise ConfigurationError(
            f"{named} priority is from 0 to {PRIORITY_MAX}, not {member.priority}"
        )
    return member


def _read(kind: type[T], plain: Mapping[str, object], where: str) -> T:
    try:
        return read_settings(kind, plain, where)
    except ConfigurationError as error:
        message = str(error)
        for word, field in _KEYWORDS.items():
            message = re.sub(rf"\b{field}(?!\w)", word, message)
        raise ConfigurationError(message) from None


def _check_rule(settings: AgreementSettings, members: Sequence[MemberSettings], where: str) -> None:
    """What would be signed and mean nothing, or something else than it seems to."""
    if len(members) > CLAIMS_MAX:
        raise ConfigurationError(f"{where}: an agreement has at most {CLAIMS_MAX} claims")
    if settings.method is Method.PRO_RATA and settings.capped is False:
        raise ConfigurationError(
            f"{where}: by pro-rata nobody gets more than he consumed: leave capped = false out, or"
            " share by keys"
        )
    capped = settings.capped or settings.method is Method.PRO_RATA
    if settings.rounds > 1 and not capped:
        raise ConfigurationError(
            f"{where}: rounds share anew what a member could not use, so they need capped = true"
        )
    # Weights from outside may be 0 for all of a priority.
    hands_on = capped or settings.method is Method.COEFFICIENTS
    if not hands_on and len({one.priority for one in members}) > 1:
        raise ConfigurationError(
            f"{where}: those of the first priority would get everything; priorities need capped ="
            " true"
        )
    seen: set[tuple[str, int, str]] = set()
    for one in members:
        claim = (one.name, one.priority, one.producer)
        if claim in seen:
            raise ConfigurationError(
                f"{where}: member {one.name!r} stands there twice with the same priority and"
                " producer"
            )
        seen.add(claim)
        if bool(one.key) != (settings.method is Method.KEYS):
            what = (
                "needs a key: its part, relative to those of the others"
                if settings.method is Method.KEYS
                else f"has a key, which {settings.method} does not ask: leave it out"
            )
            raise ConfigurationError(f"{where}: member {one.name!r} {what}")


def _claims(
    settings: AgreementSettings, members: Sequence[MemberSettings], where: str
) -> tuple[Claim, ...]:
    keys = [1] * len(members)
    if settings.method is Method.KEYS:
        keys = _whole_keys([_key(one, where) for one in members], where)
    return tuple(
        Claim(one.name, key, one.priority, one.producer or None)
        for one, key in zip(members, keys, strict=True)
    )


def _key(member: MemberSettings, where: str) -> Fraction:
    if _DECIMAL.fullmatch(member.key) is None:
        raise ConfigurationError(
            f"{where}: member {member.name!r} key is a number like 30 or 12.5, not {member.key!r}"
        )
    return Fraction(member.key)


def _whole_keys(keys: Sequence[Fraction], where: str) -> list[int]:
    """The same proportions in whole numbers; whole ones stay as they are."""
    if all(key.denominator == 1 for key in keys):
        whole = [key.numerator for key in keys]
    else:
        scale = lcm(*(key.denominator for key in keys))
        scaled = [int(key * scale) for key in keys]
        whole = [key // gcd(*scaled) for key in scaled]
    if not any(whole):
        raise ConfigurationError(f"{where}: every key is 0, so nobody would get anything")
    if max(whole) > KEY_MAX:
        raise ConfigurationError(
            f"{where}: the keys have too many digits; give them fewer decimals"
        )
    return whole


def _part(text: str, where: str) -> Fraction | None:
    """A part of the whole: "2 %", "0.02"; None where there is none."""
    if not text:
        return None
    match = _PART.fullmatch(text)
    part = None if match is None else Fraction(match[1]) / (100 if match[2] else 1)
    if part is None or part > 1:
        raise ConfigurationError(f'{where} is a part of all, like "2 %" or 0.02; not {text!r}')
    return part or None


def _check_name(name: str, where: str) -> None:
    try:
        check_name(name)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from None
