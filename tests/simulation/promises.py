"""What must hold of a community at any moment: promises A to H of DESIGN section 2, recomputed from
the published leaves and from what really happened at the meters. Each block is looked at once.
"""

from collections import Counter
from functools import partial

from cryptometer import audit, records, tiles
from cryptometer.block import Checked, check_block
from cryptometer.block_header import Balance, Header
from cryptometer.chain_records import Batch, ChainRecord, Mark, RunStart, StepClose
from cryptometer.community import Community, trust
from cryptometer.doubt import DRIFT_PPM
from cryptometer.energy_verdict import Verdict
from cryptometer.errors import Reason, Rejected
from cryptometer.merkle import HASH_BYTES, leaf_hash
from cryptometer.proof import verify_proof
from cryptometer.records import Record
from cryptometer.share_file import verify_share
from cryptometer.sharing_records import Agreement, Distribution
from cryptometer.state import State
from cryptometer.steps import MS_PER_S, NS_PER_MS, ClockState, step_start_ms
from cryptometer.tiles import CHECKPOINT_PATH, TILE_WIDTH, Tile
from gateway.prove import prove
from gateway.share import make_share
from tests.core.community import FIRST_STEP, PULSE_UWH, STEP_S
from tests.simulation.community import Board, Broken, Run, Site, true_step
from tests.simulation.sharing import Accounts

STEP_MS = STEP_S * MS_PER_S
# Beyond what a record says of its clock: a bound grows by 500 ppm, and a batch holds one step.
SLACK_MS = 500
# What an honest device may be refused for: records overtook each other, or it came too early.
PASSING = frozenset({"gap", "too-many", "unknown-key"})


class Ledgerwatch:
    """The ledger as an outsider rebuilds it, block by block, and what it says of each meter."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.community: Community = trust(
            site.authority.genesis.raw,
            [site.gateway_registration.raw, site.vpp_registration.raw],
        )
        self.accounts = Accounts(site.books, site.id)
        self.state: State = self.community.state
        self.heads = {0: self.state.checkpoint.root}
        self.in_blocks: Counter[str] = Counter()
        self.declared: Counter[tuple[str, int]] = Counter()
        self.blocks = 0
        self.late = 0
        self._signed: bytes | None = None
        self._identities: set[bytes] = set()
        self._next: dict[str, int] = {}
        self._bounds: dict[tuple[str, int], int] = {}  # the widest a meter has stated in a step
        self._newest: dict[str, tuple[int, int]] = {}  # step and bound of a meter's newest record
        self._open: dict[tuple[str, int], int] = {}
        self._transferred: Counter[str] = Counter()
        self._tokens = 0
        self._takes: Counter[str] = Counter()  # where in a board's takes the next batch begins
        self._chain: list[tuple[str, int]] = []
        self._gaps: dict[str, tuple[int, int]] = {}  # the newest a meter has declared, UTC ms

    def heard(self, board: Board) -> int:
        """Pulses of a meter in blocks, and those known by name that never will be."""
        return self.in_blocks[board.name] + board.dropped.refused

    def look(self) -> None:
        """Reads what was published since the last look."""
        signed = self._site.shelf.files.get(CHECKPOINT_PATH)
        if signed is None or signed is self._signed:
            return
        self._signed = signed
        try:
            checkpoint = self.community.open_checkpoint(signed)
            self._read(checkpoint.size)
        except Rejected as refused:
            raise Broken("E", f"the published ledger does not hold: {refused}") from refused
        if self.state.checkpoint != checkpoint:
            raise Broken("E", "the published leaves do not give the published checkpoint")

    def _read(self, size: int) -> None:
        begin = self.state.frontier.size
        if size < begin:
            raise Broken("E", f"the ledger had {begin} leaves and has {size}")
        block: list[Record] = []
        for index in range(begin // TILE_WIDTH, -(-size // TILE_WIDTH)):
            width = min(TILE_WIDTH, size - index * TILE_WIDTH)
            entries = tiles.read_entries(Tile(None, index, width), self._site.shelf.read)
            hashes = tiles.read_tile(Tile(0, index, width), self._site.shelf.read)
            for offset in range(max(0, begin - index * TILE_WIDTH), width):
                raw = entries[offset]
                if leaf_hash(raw) != hashes[offset * HASH_BYTES : (offset + 1) * HASH_BYTES]:
                    raise Broken("E", "a leaf is not the one its tile holds")
                block.append(records.decode(raw))
                if isinstance(block[-1].body, Header):
                    # Every signature is verified here, by an auditor's own reading of the block.
                    self._take(check_block(self.state, block))
                    block = []
        if block:
            raise Broken("E", "no header ends the newest block")

    def _take(self, checked: Checked) -> None:
        header = checked.header.body
        assert isinstance(header, Header)
        expected = self.state.step + 1 if self.blocks else FIRST_STEP
        if header.step != expected:
            raise Broken("E", f"a block of step {header.step} where {expected} is due")
        self.state = checked.state
        self.blocks += 1
        self.late += header.late[0]
        for verdict in checked.verdicts:
            match verdict.record.body:
                case ChainRecord() as body:
                    self._take_record(verdict, body)
                case Distribution() as given:
                    self._complain(self.accounts.take_distribution(verdict, given))
                case Agreement() as agreed:
                    self._complain(self.accounts.take_agreement(verdict, agreed, header.step))
        head = checked.state.checkpoint
        self.heads[head.size] = head.root
        self._check_energy(header)

    def _take_record(self, verdict: Verdict, body: ChainRecord) -> None:
        board = self._site.board(body.meter)
        if verdict.reason is not None:
            promise = "B" if verdict.reason is Reason.LOT_ABOVE_V else "D"
            raise Broken(
                promise, f"{body.meter} is quarantined at step {body.step}: {verdict.reason}"
            )
        identity = verdict.record.identity
        if identity in self._identities or body.sequence != self._next.get(body.meter, 0):
            raise Broken(
                "D", f"{body.meter} has record {body.sequence} at the wrong place, or twice"
            )
        self._identities.add(identity)
        self._next[body.meter] = body.sequence + 1
        is_behind_anchor = body.previous in self._site.anchored
        for refused in board.dropped.arrive(
            verdict.record, self.state.step, behind_anchor=is_behind_anchor
        ):
            if board.keeps(refused):
                raise Broken("D", f"{body.meter} keeps what was dropped, and does not say it anew")
            # Known by name all the same: a gateway keeps it as evidence.
            assert isinstance(refused.body, ChainRecord)
            self._hear(refused.body)
        self._hear(body)
        self._chain.append((body.meter, body.sequence))
        match body:
            case Batch():
                self._take_batch(board, body)
            case StepClose():
                self._take_close(board, body, identity)
            case RunStart():
                self._check_run(board, body)

    def _hear(self, body: ChainRecord) -> None:
        """What a record states beside its energy."""
        self._note_bound(body)
        for mark, amount in zip(body.marks[::2], body.marks[1::2], strict=True):
            self.declared[body.meter, mark] += amount

    def _take_batch(self, board: Board, batch: Batch) -> None:
        limit = self._site.limits.get(batch.registration, 0)
        is_allowed = batch.declared(Mark.OVERSIZE) is not None and board.outbox.was_full
        if max(batch.pulses) > limit and not is_allowed:
            raise Broken("B", f"{board.name} has a lot of {max(batch.pulses)} pulses, V is {limit}")
        if max(batch.closed_ms) > STEP_MS:
            raise Broken("B", f"{board.name} has a lot that crosses its step")
        first = self.heard(board)
        self.in_blocks[board.name] += sum(batch.pulses)
        last = self.heard(board)
        if last > board.truth.given:
            raise Broken(
                "A", f"{last} pulses of {board.name} were heard, {board.truth.given} were given"
            )
        self._open[board.name, batch.step] = (
            self._open.get((board.name, batch.step), 0) + last - first
        )
        self._check_times(board, batch, first, last)

    def _check_times(self, board: Board, batch: Batch, first: int, last: int) -> None:
        """The pulses of a lot came in its step: by the true time, within the bound it states."""
        takes, truth = board.truth.takes, board.truth
        at = self._takes[board.name]
        while at and takes[at - 1][0] > first:
            at -= 1
        while at < len(takes) and takes[at][0] <= first:
            at += 1
        bound_ms = self._bounds[board.name, batch.step]
        begin_ms = step_start_ms(batch.step, STEP_S)
        while at < len(takes):
            after, taken_ns, boot = takes[at]
            if self._is_known(board, boot, batch.step, true_step(taken_ns)):
                taken_ms = taken_ns // NS_PER_MS
                if not begin_ms - bound_ms <= taken_ms <= begin_ms + STEP_MS + bound_ms:
                    raise Broken(
                        "B",
                        f"{board.name} says step {batch.step} of pulse {first}, which came"
                        f" {(taken_ms - begin_ms) / MS_PER_S} s after the step's begin",
                    )
            if after >= last:
                break
            at += 1
        self._takes[board.name] = min(at, len(truth.takes))

    def _is_known(self, board: Board, boot: bytes, *steps: int) -> bool:
        truth = board.truth
        return boot in truth.dated and truth.doubtful.isdisjoint(steps)

    def _note_bound(self, body: ChainRecord) -> None:
        """How far off a meter's clock may have been in a step, by its own records. A run start
        looks back to what an earlier run dated, whose bound had grown since its last record."""
        place, bound_ms = (body.meter, body.step), body.clock.error_ms + SLACK_MS
        if isinstance(body, RunStart):
            step, earlier_ms = self._newest.get(body.meter, (body.step, 0))
            grown_ms = (body.step + 1 - step) * STEP_MS * DRIFT_PPM // 1_000_000
            bound_ms = max(bound_ms, earlier_ms + grown_ms)
        self._newest[body.meter] = (body.step, body.clock.error_ms + SLACK_MS)
        self._bounds[place] = max(self._bounds.get(place, 0), bound_ms)

    def _bound_ms(self, board: Board, first: int, last: int) -> int:
        """The widest bound a meter has stated for its clock in these steps."""
        return max(self._bounds.get((board.name, step), 0) for step in range(first, last + 1))

    def _take_close(self, board: Board, close: StepClose, identity: bytes) -> None:
        moved = self._open.pop((board.name, close.step), 0)
        before, token = self._transferred[board.name], self.state.genesis.token_uwh
        after = before + moved * PULSE_UWH
        self.accounts.take_close(identity, close.step, board.name, moved * PULSE_UWH)
        self._transferred[board.name] = after
        self._tokens += after // token - before // token
        seen = close.checkpoint
        if seen is not None and self.heads.get(seen.size) != seen.root:
            raise Broken(
                "E", f"{board.name} was shown a ledger of {seen.size} leaves, not this one"
            )
        if close.step in board.truth.doubtful:
            return
        # A run's begin may have been dated before a clock answered that bounds the close better.
        bound_ms = self._bound_ms(board, close.step - 1, close.step)
        begin_ms = step_start_ms(close.step, STEP_S)
        for begin, end in zip(close.watched[::2], close.watched[1::2], strict=True):
            self._check_watched(board, begin_ms + begin, begin_ms + end, bound_ms)

    def _check_watched(self, board: Board, begin_ms: int, end_ms: int, bound_ms: int) -> None:
        """Nobody says that he watched while the program was not there."""
        runs = board.truth.runs
        if any(run.boot not in board.truth.dated for run in runs if _near(run, begin_ms, end_ms)):
            return
        for run in runs:
            opened, looked = run.open_ns // NS_PER_MS, run.look_ns // NS_PER_MS
            if opened - bound_ms <= begin_ms and end_ms <= looked + bound_ms:
                return
        raise Broken(
            "C",
            f"{board.name} claims to have watched from {begin_ms} to {end_ms}, give or take"
            f" {bound_ms} ms, and did not",
        )

    def _check_run(self, board: Board, start: RunStart) -> None:
        """The interval declared as not watched covers the gap: together with that of the run
        before, where that run watched nothing."""
        truth = board.truth
        unwatched_ms = self._note_gap(start)
        if start.step in truth.doubtful or start.clock.state is ClockState.UNKNOWN:
            return
        bound_ms = start.clock.error_ms + SLACK_MS
        near = [
            one for one in truth.runs if abs(one.open_ns // NS_PER_MS - start.at_ms) <= bound_ms
        ]
        if any(run.boot not in truth.dated for run in near):
            return
        if not near:
            if all(run.boot in truth.dated for run in truth.runs) and not truth.doubtful:
                raise Broken("C", f"{board.name} declares a run at {start.at_ms} that never was")
            return
        earlier = [run.before for run in near]
        if start.unwatched_ms is None:
            # A first run, as far as the card knows: what came before it died unsynced.
            # Runs that never knew the time begin at the first moment known, as if none were before.
            known = [one for one in earlier if one is not None and one.boot in truth.dated]
            if any(one.is_durable for one in known):
                raise Broken(
                    "C", f"{board.name} declares a first run at {start.at_ms}, and is wrong"
                )
            return
        looks = [one.look_ns for one in earlier if one is not None and one.boot in truth.dated]
        if len(looks) < len(near) or not truth.doubtful.isdisjoint(map(true_step, looks)):
            return
        # The last look was dated by the run before, as well as that run knew the time.
        bound_ms = self._bound_ms(board, unwatched_ms // STEP_MS - 1, start.step)
        latest_ms = max(looks) // NS_PER_MS + bound_ms
        if unwatched_ms > latest_ms:
            raise Broken(
                "C",
                f"{board.name} declares {unwatched_ms} to {start.at_ms} as not watched;"
                f" its last look was at {latest_ms - bound_ms}",
            )

    def _note_gap(self, start: RunStart) -> int:
        """Where the time begins that a meter says, up to this run, it has not watched."""
        begin_ms = start.at_ms if start.unwatched_ms is None else start.unwatched_ms
        before = self._gaps.get(start.meter)
        if before is not None and begin_ms == before[1]:
            begin_ms = before[0]
        self._gaps[start.meter] = (begin_ms, start.at_ms)
        return begin_ms

    def _check_energy(self, header: Header) -> None:
        """Promise F, from the pulses in the leaves alone."""
        balance = header.balance
        accounts = self.accounts
        registered = self.in_blocks.total() * PULSE_UWH
        transferred = self._transferred.total()
        found = Balance(
            registered,
            registered - transferred,
            accounts.waiting,
            accounts.allocated,
            accounts.total("losses"),
            accounts.total("fee"),
            accounts.total("surplus"),
            0,
        )
        if balance != found or transferred != accounts.transferred:
            raise Broken("F", f"step {header.step} states {balance}, the leaves give {found}")

    def _complain(self, what: str) -> None:
        if what:
            raise Broken("F", what)

    @property
    def set_aside(self) -> Counter[str]:
        """What an audit is to find without effect: agreements that came too late."""
        late = self.accounts.late_agreements
        return Counter({Reason.NOT_VALID_AT_STEP.value: late} if late else {})

    def check_given(self) -> None:
        """Promise F: nothing that could be given is kept back."""
        self._complain(self.accounts.owed())

    def prove_share(self) -> None:
        """Promise G: whatever a member was given in a step proves offline, with the community's
        public keys, and is what distributions gave."""
        accounts, draw = self.accounts, self._site.books.draw
        if not accounts.by_step:
            return
        step = draw.choice(sorted(accounts.by_step))
        account = accounts.by_step[step]
        member = draw.choice(sorted(account.members))
        authority = self._site.store.authority()
        knows = trust(authority[0], authority[1:])
        opens = partial(self._site.books.opening, self._site.id, step, member)
        try:
            data = make_share(member, step, self._site.store, self._site.shelf.read, knows, opens)
            share = verify_share(data, self.community)
        except Exception as error:
            raise Broken("G", f"the share of {member} in {step} is not proven: {error}") from error
        if (share.member, share.step, share.energy_uwh) != (member, step, account.members[member]):
            raise Broken(
                "G",
                f"{share.energy_uwh} µWh of {member} in {step} are proven, and"
                f" {account.members[member]} were given",
            )

    def prove_one(self) -> None:
        """Promise G: any record proves offline, with the community's public keys."""
        if not self._chain:
            return
        meter, sequence = self._site.draw.choice(self._chain)
        knows = self._site.registered()
        try:
            text = prove(f"{meter}/{sequence}", self._site.store, self._site.shelf.read, knows)
            proven = verify_proof(text, self.community)
        except Exception as error:
            raise Broken("G", f"{meter}/{sequence} is not proven: {error}") from error
        body = proven.record.body
        if not isinstance(body, ChainRecord) or (body.meter, body.sequence) != (meter, sequence):
            raise Broken("G", f"{meter}/{sequence}: another record is proven")

    def audit(self) -> audit.Report:
        """The whole ledger by an independent audit, which begins from nothing but its files."""
        try:
            report = audit.audit(self._site.shelf.read, self.community)
        except Rejected as refused:
            raise Broken("E", f"the audit refuses the ledger: {refused}") from refused
        # A gateway that was down takes agreements in when it is back: the audit says so of each.
        found = [one for one in report.findings if not one.startswith("the agreement from step")]
        if found or report.state != self.state:
            raise Broken("E", f"the audit finds {found}")
        return report


def _near(run: Run, begin_ms: int, end_ms: int) -> bool:
    return run.open_ns // NS_PER_MS <= end_ms and begin_ms <= run.look_ns // NS_PER_MS + STEP_MS
