"""What an export was made from. Each names it: in the file, or where a layout has no room for
comments in a file beside it."""

import json
from dataclasses import dataclass

from cryptometer.metrology import UWH_PER_KWH
from cryptometer.record_fields import Checkpoint

SIDECAR_SUFFIX = ".source.json"


@dataclass(frozen=True, slots=True)
class Source:
    """A ledger as far as it was read.

    Attributes:
        community: the community's id, 32 bytes.
        name: what it is called.
        checkpoint: the tree head under which everything exported stands.
        step: of the newest block under it.
        step_s: length of its market steps, seconds.
    """

    community: bytes
    name: str
    checkpoint: Checkpoint
    step: int
    step_s: int

    def values(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            "community": self.community.hex(),
            "name": self.name,
            "checkpoint": {
                "size": self.checkpoint.size,
                "root": self.checkpoint.root.hex(),
            },
            "newest_step": self.step,
            "step_s": self.step_s,
        }

    def comments(self, *more: str) -> list[str]:
        """As lines that begin with #, for CSV."""
        checkpoint = self.checkpoint
        lines = [
            f"community {self.community.hex()} {one_line(self.name)}",
            f"checkpoint size {checkpoint.size} root {checkpoint.root.hex()}",
            f"newest block of step {self.step}, steps of {self.step_s} s",
            *more,
        ]
        return [f"# {line}" for line in lines]


def sidecar(source: Source, file: str, **more: object) -> str:
    """The content of FILE.source.json: what FILE was made from, and whatever else its layout
    cannot say."""
    return to_json({"file": file, **source.values(), **more})


def to_json(value: object) -> str:
    """JSON that is the same for the same value: keys as they come, two blanks, a last line end."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def to_csv(comments: list[str], header: list[str], rows: list[list[str]]) -> str:
    """Comma-separated values as RFC 4180 has them, but for the lines of comments before."""
    lines = [*comments, ",".join(header), *(",".join(map(quoted, row)) for row in rows)]
    return "\n".join(lines) + "\n"


def quoted(text: str, delimiter: str = ",") -> str:
    """A field, in quotation marks if it needs them."""
    if any(letter in text for letter in (delimiter, '"', "\n", "\r")):
        doubled = text.replace('"', '""')
        return f'"{doubled}"'
    return text


def no_formula(text: str) -> str:
    """What a stranger called something, as a field that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def one_line(text: str) -> str:
    """What people called something, without what would end a line of comments."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def kwh_text(uwh: int | None) -> str:
    """Kilowatt-hours with all nine decimals, exact; nothing where nothing is known."""
    if uwh is None:
        return ""
    whole, rest = divmod(abs(uwh), UWH_PER_KWH)
    return f"{'-' if uwh < 0 else ''}{whole}.{rest:09d}"


def uwh_text(uwh: int | None) -> str:
    """Micro-watt-hours; nothing where nothing is known."""
    return "" if uwh is None else str(uwh)
