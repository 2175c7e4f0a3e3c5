"""The second golden ledger: the example of paper A, section IV-B2, and what may follow it.

In one step device A creates 15 kWh and device B 10 kWh, both go to the virtual power plant, and of
them X is given 8 and Y 17: five transactions, five leaves. In the next step B is late, under an
agreement that asks what X and Y consumed: the step has a first distribution, a supplement and a
correction.
"""

from collections.abc import Mapping
from fractions import Fraction

from cryptometer import metrology
from cryptometer.authority_records import CountingSource, Genesis, MeterDetails, Registration, Use
from cryptometer.chain_records import Batch, ChainRecord, Ending, RunStart, StepClose
from cryptometer.community import trust
from cryptometer.drafting import draft
from cryptometer.openings import Opening, commitment
from cryptometer.parts import split
from cryptometer.proposal import Proposal
from cryptometer.record_fields import ClockReading, Role
from cryptometer.records import Record
from cryptometer.settlement import Plant, Settlement
from cryptometer.sharing_records import Agreement, Claim, Distribution, Method
from cryptometer.steps import ClockSource, ClockState, step_start_ms
from tests.keys import signer
from tests.vectors.ledgers import Ledger

AUTHORITY, GATEWAY, VPP, X, Y, A, B = range(21, 28)
SIGNERS = {
    "example-authority": AUTHORITY,
    "example-gateway": GATEWAY,
    "example-vpp": VPP,
    "example-x": X,
    "example-y": Y,
    "example-a": A,
    "example-b": B,
}
STEP_S = 3600
FIRST_STEP = 490_896  # begins at 2026-01-01 00:00 UTC
CREATED_MS = 1_767_200_000_000
DEVICE_CLOCK = ClockReading(ClockSource.SYSTEM, ClockState.SYNCHRONISED, 8)
LOT_UWH = 5_000_000_000  # one pulse

# Transformers of 1000 A / 5 A and 20 kV / 100 V: 40 000, and a name plate of the secondary side:
# 3 · 57.735 V · 0.05 A · 40 000 · 2 % · 1 h = 6 928.2 Wh; a pulse is 40 000 / 8 000 = 5 kWh.
DETAILS = {
    name: MeterDetails(
        serial=serial,
        use=Use.GENERATION,
        source=CountingSource.PULSES,
        index_wh=0,
        accuracy_class="B",
        phases=3,
        voltage_mv=57_735,
        i_min_ma=50,
        i_max_ma=6_000,
        ratings_side=metrology.Side.SECONDARY,
        constant=Fraction(8_000),
        constant_side=metrology.Side.SECONDARY,
        ratio=Fraction(40_000),
        guard=Fraction(1),
        lot_pulses=1,
        coarse=False,
        exclusive=True,
    )
    for name, serial in (("a", "EX-A"), ("b", "EX-B"))
}

KWH = 10**9  # µWh
SHARED_STEP = FIRST_STEP + 2  # the step of paper A's example
LATE_STEP = FIRST_STEP + 3  # the step that B is late in
CONSUMED = {"x": 3 * KWH, "y": 9 * KWH}  # in LATE_STEP
CORRECTED = {"x": 4 * KWH, "y": 9 * KWH}
SALTS = {"x": bytes(range(32)), "y": bytes(range(32, 64))}


class Example(Ledger):
    """Its six blocks: founding; agreements and the devices' start; paper A's example; a step with
    one device only; what came late; a correction."""

    def __init__(self) -> None:
        super().__init__(GATEWAY)
        self._chains: dict[str, tuple[int, bytes, int]] = {}
        self.before: dict[str, Settlement] = {}  # the step's account when each was drafted
        genesis = self.seal("example-genesis", _genesis(), AUTHORITY)
        self.community_id = genesis.identity
        registrations = self._registrations(genesis)
        self.community = trust(genesis.raw, [registrations[0].raw, registrations[1].raw])
        self.commit("example-header-1", [genesis, *registrations], self.community.state)
        agreements = self._agreements(registrations[-1])
        starts = [self._start(meter) for meter in ("a", "b")]
        self._next("example-header-2", [*agreements, *starts])
        self._paper()
        self._one_device()
        self._late()
        self._correction()

    def shares(self) -> dict[str, bytes]:
        """What proves to X what the paper's example gave him, and to Y what the late step did."""
        devices = ("example-registration-a", "example-registration-b")
        return {
            "x": self.share_of(
                "x",
                SHARED_STEP,
                (
                    "example-create-a",
                    "example-transfer-a",
                    "example-create-b",
                    "example-transfer-b",
                    "distribution",
                    "example-header-3",
                ),
                (*devices, "agreement"),
            ),
            "y": self.share_of(
                "y",
                LATE_STEP,
                (
                    "example-create-a-4",
                    "example-transfer-a-4",
                    "distribution-pro-rata",
                    "example-header-4",
                    "example-create-b-late",
                    "example-transfer-b-late",
                    "distribution-supplement",
                    "example-header-5",
                    "distribution-correction",
                    "example-header-6",
                ),
                (*devices, "agreement-pro-rata"),
                Opening(CORRECTED["y"], SALTS["y"]),
            ),
        }

    def _registrations(self, genesis: Record) -> list[Record]:
        made: list[Record] = []
        for sequence, (role, name, by) in enumerate(
            (
                (Role.GATEWAY, "gate", GATEWAY),
                (Role.VPP, "vpp", VPP),
                (Role.MEMBER, "x", X),
                (Role.MEMBER, "y", Y),
                (Role.METER, "a", A),
                (Role.METER, "b", B),
            ),
            start=1,
        ):
            previous = made[-1] if made else genesis
            key, details = signer(by).public, DETAILS.get(name)
            body = Registration(sequence, previous.identity, role, name, key, FIRST_STEP, details)
            made.append(self.seal(f"example-registration-{name}", body, AUTHORITY))
        return made

    def _agreements(self, newest: Record) -> list[Record]:
        """Eight parts to X and seventeen to Y; from the step after that on, by consumption."""
        keys = (Claim("x", 8, 0), Claim("y", 17, 0))
        equal = (Claim("x", 1, 0), Claim("y", 1, 0))
        first = self.seal(
            "agreement",
            Agreement(
                7, newest.identity, "vpp", SHARED_STEP, Method.KEYS, False, 1, keys, "grid", False
            ),
            AUTHORITY,
        )
        second = self.seal(
            "agreement-pro-rata",
            Agreement(
                8, first.identity, "vpp", LATE_STEP, Method.PRO_RATA, True, 3, equal, "grid", False,
                Fraction(1, 100), Fraction(1, 200), "tilleuls",
            ),
            AUTHORITY,
        )  # fmt: skip
        return [first, second]

    def _start(self, meter: str) -> Record:
        step = FIRST_STEP + 1
        registration = self.by_name[f"example-registration-{meter}"].identity
        start = self.seal(
            f"example-run-start-{meter}",
            RunStart(
                meter, 0, registration, DEVICE_CLOCK, (), 0, step,
                step_start_ms(step, STEP_S) + 1_000, "cryptometer-firmware 0.1.0", Ending.FIRST,
            ),
            SIGNERS[f"example-{meter}"],
        )  # fmt: skip
        self._chains[meter] = (1, start.identity, 0)
        return start

    def _create(self, name: str, meter: str, step: int, lots: int) -> Record:
        """ "Create": as many lots, of a pulse each."""
        sequence, previous, register = self._chains[meter]
        registration = self.by_name[f"example-registration-{meter}"].identity
        times = [part for lot in range(1, lots + 1) for part in (1, 600_000 * lot)]
        batch = self.seal(
            name,
            Batch(
                meter, sequence, previous, DEVICE_CLOCK, (), register, step,
                registration, tuple(times),
            ),
            SIGNERS[f"example-{meter}"],
        )  # fmt: skip
        self._chains[meter] = (sequence + 1, batch.identity, register + lots)
        return batch

    def _transfer(self, name: str, meter: str, step: int, lots: int) -> Record:
        """ "Transfer to VPP": of the lots that the step had."""
        sequence, previous, register = self._chains[meter]
        close = self.seal(
            name,
            StepClose(
                meter, sequence, previous, DEVICE_CLOCK, (), register - lots, step,
                register, (0, 3_600_000), self.blocks[-1].state.checkpoint,
            ),
            SIGNERS[f"example-{meter}"],
        )  # fmt: skip
        self._chains[meter] = (sequence + 1, close.identity, register)
        return close

    def _distribution(
        self,
        name: str,
        leaves: list[Record],
        step: int,
        needs: Mapping[str, int] | None = None,
    ) -> Distribution:
        """What the plant gives of a step, behind these leaves of the next block."""
        state = self.blocks[-1].state
        proposal = Proposal(state, state.step + 1)
        for record in leaves:
            assert isinstance(record.body, ChainRecord)
            proposal.add(record, record.body)
        agreed = state.agreed(step)
        assert agreed is not None
        commitments = {
            name: commitment(state.community, step, name, amount, SALTS[name])
            for name, amount in (needs or {}).items()
        }
        self.before[name] = proposal.settlements()[step]
        whole = draft(agreed, self.before[name], needs=needs, commitments=commitments)
        assert whole is not None
        return split(whole, state.plant("vpp"))[0]

    def _next(self, header: str, leaves: list[Record]) -> None:
        self.commit(header, leaves, self.blocks[-1].state)

    def _paper(self) -> None:
        """Five transactions: create, transfer, create, transfer, distribute."""
        leaves = [
            self._create("example-create-a", "a", SHARED_STEP, 3),
            self._transfer("example-transfer-a", "a", SHARED_STEP, 3),
            self._create("example-create-b", "b", SHARED_STEP, 2),
            self._transfer("example-transfer-b", "b", SHARED_STEP, 2),
        ]
        shared = self.seal(
            "distribution", self._distribution("distribution", leaves, SHARED_STEP), VPP
        )
        self._next("example-header-3", [*leaves, shared])

    def _one_device(self) -> None:
        leaves = [
            self._create("example-create-a-4", "a", LATE_STEP, 2),
            self._transfer("example-transfer-a-4", "a", LATE_STEP, 2),
        ]
        body = self._distribution("distribution-pro-rata", leaves, LATE_STEP, CONSUMED)
        self._next("example-header-4", [*leaves, self.seal("distribution-pro-rata", body, VPP)])

    def _late(self) -> None:
        leaves = [
            self._transfer("example-transfer-a-5", "a", LATE_STEP + 1, 0),
            self._create("example-create-b-late", "b", LATE_STEP, 1),
            self._transfer("example-transfer-b-late", "b", LATE_STEP, 1),
            self._transfer("example-transfer-b-5", "b", LATE_STEP + 1, 0),
        ]
        body = self._distribution("distribution-supplement", leaves, LATE_STEP, CONSUMED)
        self._next("example-header-5", [*leaves, self.seal("distribution-supplement", body, VPP)])

    def _correction(self) -> None:
        """The plant gives paper A's 25 kWh once more, which moves nothing; then X has consumed
        more than was known, and gets of the surplus."""
        first = self.by_name["distribution"].body
        assert isinstance(first, Distribution)
        body = self._distribution("distribution-correction", [], LATE_STEP, CORRECTED)
        plant = self.blocks[-1].state.plant("vpp")
        (again,) = split(first, plant)
        repeated = self.seal("distribution-repeated", again, VPP)
        (behind,) = split(body, Plant("vpp", plant.sequence + 1, repeated.identity))
        self._next(
            "example-header-6", [repeated, self.seal("distribution-correction", behind, VPP)]
        )


def _genesis() -> Genesis:
    return Genesis(
        name="A and B, X and Y",
        authority=signer(AUTHORITY).public,
        created_ms=CREATED_MS,
        first_step=FIRST_STEP,
        step_s=STEP_S,
        grace_ms=5_000,
        late_steps=840,
        token_uwh=KWH,
        token_steps=24,
        quorum=1,
    )
