"""Reads Linky's frames with enedis-tic (both modes) and teleinfo (historic mode). Runs in
.venv-peers, without the project.

Reads [frame as hex, ...] as JSON, each from STX to ETX in seven bits; writes for each
{"enedis-tic": {label: [data, unix seconds or null]} or "refused: why", "teleinfo": the same}.
"""

import json
import logging
import sys
from collections.abc import Callable, Iterator

from enedis_tic.link_layer import FrameFactory  # type: ignore[import-not-found]
from teleinfo.base_vendor import BASE_vendor  # type: ignore[import-not-found]
from teleinfo.parser import Parser  # type: ignore[import-not-found]

Said = dict[str, tuple[str, int | None]]


def by_enedis_tic(frame: bytes) -> Said:
    groups = FrameFactory(frame.decode("ascii")).to_dict()
    return {
        label: (one["data"], int(one["datetime"].timestamp()) if one["datetime"] else None)
        for label, one in groups.items()
    }


class Line(BASE_vendor):  # type: ignore[misc]
    """Characters for teleinfo, which drops what precedes the second frame."""

    def __init__(self, frame: bytes) -> None:
        self._characters = iter("\x02" + frame.decode("ascii"))

    def read_char(self) -> str:
        return next(self._characters)

    def __iter__(self) -> Iterator[str]:
        return self._characters

    def __next__(self) -> str:
        return next(self._characters)


def by_teleinfo(frame: bytes) -> Said:
    groups = Parser(Line(frame)).get_frame()
    if not groups:
        raise ValueError("no group")
    return {label: (data, None) for label, data in groups.items()}


def verdict(read: Callable[[bytes], Said], frame: bytes) -> Said | str:
    try:
        return read(frame)
    except Exception as error:  # noqa: BLE001 - each library has its own, and any is a refusal
        return f"refused: {type(error).__name__}: {error}"


def main() -> None:
    logging.disable()
    answers = []
    for asked in json.load(sys.stdin):
        frame = bytes.fromhex(asked)
        answers.append(
            {
                "enedis-tic": verdict(by_enedis_tic, frame),
                "teleinfo": verdict(by_teleinfo, frame),
            }
        )
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
