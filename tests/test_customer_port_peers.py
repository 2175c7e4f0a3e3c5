"""What other people's decoders say of Linky's frames and of P1 telegrams, whole ones and damaged
ones: enedis-tic and teleinfo, dsmr-parser. They run in an environment of their own.
"""

from collections import Counter
from dataclasses import replace
from random import Random

from hal.index.linky import LinkyDecoder, Mode
from hal.index.linky_meter import LinkyMeter, frame
from hal.index.p1 import P1Decoder
from hal.index.p1_meter import Country, P1Meter, telegram
from hal.index.reading import Index, Reading
from tests.hal.index.damage import damaged
from tests.test_peers import ask

EACH = 150  # of every kind
HORODATE = 13  # characters of a time stamp
YEAR_S = 365 * 86_400
OPTIONS = {"BASE": 1, "HC..": 2, "EJP.": 2, "BBR(": 6}


def linky_meter(random: Random, mode: Mode) -> LinkyMeter:
    option = random.choice(list(OPTIONS))
    registers = OPTIONS[option] if mode is Mode.HISTORIC else random.randint(1, 10)
    return LinkyMeter(
        mode,
        identity=f"{random.randrange(10**12):012}",
        imported_wh=tuple(random.randrange(10**8) for _ in range(registers)),
        exported_wh=random.choice((None, random.randrange(10**9))),
        at_s=1_767_225_600 + random.randrange(YEAR_S),
        power_va=random.randrange(-9_000, 9_000),
        phases=random.choice((1, 3)),
        option=option,
    )


def seven_bits(data: bytes) -> bytes:
    return bytes(byte & 0x7F for byte in data)


def linky_frames(seed: int) -> list[bytes]:
    random = Random(seed)
    meters = [linky_meter(random, mode) for mode in Mode for _ in range(EACH)]
    return [seven_bits(frame(meter)) for meter in meters]


def linky_reading(data: bytes) -> Reading | None:
    found = [one for one in LinkyDecoder().receive(data, 0) if isinstance(one, Reading)]
    return found[0] if found else None


def groups(one: Reading) -> dict[str, str]:
    """Labels and data, as a peer names them."""
    said = {label: text for label, text in one.fields if not label.startswith("STGE ")}
    address = "ADCO" if "OPTARIF" in said else "ADSC"
    total = {} if address == "ADCO" else {"EAST": one.imported, "EAIT": one.exported}
    written = {label: f"{index.value:09}" for label, index in total.items() if index is not None}
    return said | written | {address: one.identity}


def test_enedis_tic_and_teleinfo_read_every_group_of_every_frame_alike() -> None:
    frames = linky_frames(1)
    compared: Counter[str] = Counter()
    for data, answer in zip(frames, ask("tic_peer.py", [f.hex() for f in frames]), strict=True):
        one = linky_reading(data)
        assert one is not None
        own = groups(one)
        for peer, said in answer.items():
            if peer == "teleinfo" and "ADSC" in own:
                continue  # it knows no standard mode
            if peer == "enedis-tic" and "ADCO" in own and b"  \r" in data:
                assert isinstance(said, str)  # it cannot read a checksum that is a space
                compared["a checksum that is a space"] += 1
                continue
            assert said.keys() == own.keys(), peer
            for label, (text, at_s) in said.items():
                written = own[label] if at_s is None else own[label][HORODATE:].lstrip()
                assert written == text, label
                if label == "DATE":
                    assert at_s == one.meter_time_s
                compared[peer] += 1
    assert compared["enedis-tic"] > 50 * EACH
    assert compared["a checksum that is a space"] < 0.2 * EACH
    assert compared["teleinfo"] > 12 * EACH


def test_what_is_read_of_a_damaged_frame_no_peer_reads_otherwise() -> None:
    """The peer refuses a frame for any bad group; where it reads one, its indexes are the same."""
    frames = linky_frames(2)
    hurt = [seven_bits(came) for came, _ in damaged(frames, 1.0, Random(3))]
    verdicts: Counter[str] = Counter()
    for data, answer in zip(hurt, ask("tic_peer.py", [f.hex() for f in hurt]), strict=True):
        one, said = linky_reading(data), answer["enedis-tic"]
        refused = isinstance(said, str)
        if one is None:
            verdicts["neither" if refused else "only the peer"] += 1
        elif refused:
            verdicts["only this project"] += 1
        else:
            own = groups(one)
            assert all(own[label] == said[label][0] for label in own if label.startswith("EA"))
            verdicts["both"] += 1
    assert sum(verdicts.values()) == 2 * EACH
    assert verdicts["both"] > 0
    assert verdicts["only the peer"] < 0.05 * EACH


# --- P1. -----------------------------------------------------------------------------------------

SPECIFICATIONS = {
    Country.NETHERLANDS: ("V5", "EQUIPMENT_IDENTIFIER"),
    Country.BELGIUM: ("BELGIUM_FLUVIUS", "BELGIUM_EQUIPMENT_IDENTIFIER"),
    Country.LUXEMBOURG: ("LUXEMBOURG_SMARTY", "LUXEMBOURG_EQUIPMENT_IDENTIFIER"),
}


def p1_meters(seed: int) -> list[P1Meter]:
    random = Random(seed)
    return [
        P1Meter(
            country,
            identity=f"E{random.randrange(10**16):016}",
            imported_wh=(random.randrange(10**8), random.randrange(10**8)),
            exported_wh=(random.randrange(10**8), random.randrange(10**8)),
            at_s=1_767_225_600 + random.randrange(YEAR_S),
            power_w=random.randrange(-17_000, 17_000),
            mbus=random.randrange(5),
            months=random.randrange(1, 14),
            failures=random.randrange(11),
        )
        for country in Country
        for _ in range(EACH)
    ]


def p1_reading(data: bytes) -> Reading | None:
    found = [one for one in P1Decoder().receive(data, 0) if isinstance(one, Reading)]
    return found[0] if found else None


def energy(said: dict[str, str], way: str, total: str) -> Index:
    """What the peer read, as the sum of tariffs or as the total."""
    texts = [said[f"ELECTRICITY_{way}_TARIFF_{t}"] for t in (1, 2)
             if f"ELECTRICITY_{way}_TARIFF_{t}" in said]  # fmt: skip
    texts = texts or [said[f"ELECTRICITY_{total}_TOTAL"]]
    return Index(sum(int(text.replace(".", "")) for text in texts))


def test_dsmr_parser_reads_every_telegram_alike() -> None:
    meters = p1_meters(4)
    asked = [[SPECIFICATIONS[one.country][0], telegram(one).hex()] for one in meters]
    for meter, said in zip(meters, ask("p1_peer.py", asked), strict=True):
        one = p1_reading(telegram(meter))
        assert one is not None
        number = said[SPECIFICATIONS[meter.country][1]]
        assert bytes.fromhex(number).decode() == one.identity == meter.identity
        assert said["P1_MESSAGE_TIMESTAMP"] == one.meter_time_s == meter.at_s
        assert energy(said, "USED", "IMPORTED") == one.imported
        assert energy(said, "DELIVERED", "EXPORTED") == one.exported
        assert (
            f"{float(said['CURRENT_ELECTRICITY_USAGE']):06.3f}*kW" == dict(one.fields)["1-0:1.7.0"]
        )


def test_dsmr_parser_refuses_every_damaged_telegram_that_is_refused_here() -> None:
    """But for what stands around a whole one: it searches for what it knows."""
    meters = p1_meters(5)
    hurt = [came for came, _ in damaged(map(telegram, meters), 1.0, Random(6))]
    asked = [
        [SPECIFICATIONS[one.country][0], bytes(byte & 0x7F for byte in came).hex()]
        for one, came in zip(meters, hurt, strict=True)
    ]
    verdicts: Counter[str] = Counter()
    for (_, data), said in zip(asked, ask("p1_peer.py", asked), strict=True):
        one, refused = p1_reading(bytes.fromhex(data)), isinstance(said, str)
        if one is not None and not refused:
            assert energy(said, "USED", "IMPORTED") == one.imported
        verdicts["neither" if one is None and refused
                 else "only the peer" if one is None
                 else "only this project" if refused else "both"] += 1  # fmt: skip
    assert verdicts["neither"] > 0.9 * len(meters)
    assert not verdicts["only this project"]


def test_a_peer_lets_pass_what_the_form_refuses_here() -> None:
    """So labels, lengths and characters are the project's own work."""
    meter = replace(linky_meter(Random(7), Mode.STANDARD), exported_wh=32_781)
    data = seven_bits(frame(meter)).replace(b"EAIT\t000032781\t", b"EAIT\t  000032781\t")
    [answer] = ask("tic_peer.py", [data.hex()])
    assert answer["enedis-tic"]["EAIT"][0] == "  000032781"
    assert linky_reading(data) is None
