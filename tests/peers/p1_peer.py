"""Reads telegrams of P1 ports with dsmr-parser. Runs in .venv-peers, without the project.

Reads [[name of the specification, telegram as hex], ...] as JSON; writes for each {name of a value:
text or, of a time, unix seconds} or "refused: why".
"""

import json
import logging
import sys
from datetime import datetime

from dsmr_parser import telegram_specifications  # type: ignore[import-not-found]
from dsmr_parser.parsers import TelegramParser  # type: ignore[import-not-found]

WANTED = (
    "P1_MESSAGE_TIMESTAMP",
    "EQUIPMENT_IDENTIFIER",
    "BELGIUM_EQUIPMENT_IDENTIFIER",
    "LUXEMBOURG_EQUIPMENT_IDENTIFIER",
    "ELECTRICITY_IMPORTED_TOTAL",
    "ELECTRICITY_EXPORTED_TOTAL",
    "ELECTRICITY_USED_TARIFF_1",
    "ELECTRICITY_USED_TARIFF_2",
    "ELECTRICITY_DELIVERED_TARIFF_1",
    "ELECTRICITY_DELIVERED_TARIFF_2",
    "CURRENT_ELECTRICITY_USAGE",
    "CURRENT_ELECTRICITY_DELIVERY",
)


def read(specification: str, telegram: bytes) -> dict[str, str | int]:
    parser = TelegramParser(getattr(telegram_specifications, specification))
    found = parser.parse(telegram.decode("ascii"), throw_ex=True)
    said: dict[str, str | int] = {}
    for name in WANTED:
        if hasattr(found, name):
            value = getattr(found, name).value
            is_time = isinstance(value, datetime)
            said[name] = int(value.timestamp()) if is_time else str(value)
    return said


def main() -> None:
    logging.disable()
    answers: list[dict[str, str | int] | str] = []
    for specification, telegram in json.load(sys.stdin):
        try:
            answers.append(read(specification, bytes.fromhex(telegram)))
        except Exception as error:  # noqa: BLE001 - it has many, and any is a refusal
            answers.append(f"refused: {type(error).__name__}: {error}")
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
