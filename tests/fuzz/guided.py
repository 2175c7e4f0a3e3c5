"""One target under the coverage-guided fuzzer, until it fails or its time is over.

.venv-fuzz/bin/python -m tests.fuzz.guided TARGET [libFuzzer's options and corpus folders]
"""

import sys
from importlib import import_module
from random import Random
from typing import Any

PATIENCE = 10.0  # instrumented code is slower

# Of another environment, and of no type: mypy sees this module where it is not installed.
atheris: Any = import_module("atheris")

with atheris.instrument_imports(include=["cryptometer", "firmware", "gateway", "hal"]):
    from tests.fuzz.mutate import Mutator
    from tests.fuzz.scene import held
    from tests.fuzz.sums import right_again
    from tests.fuzz.targets import TARGETS


def main() -> None:
    [target] = [one for one in TARGETS if one.name == sys.argv[1]]
    seeds, keys = target.seeds(), held()

    def read(data: bytes) -> None:
        target.accepts(data, PATIENCE)

    def change(data: bytes, size_max: int, seed: int) -> bytes:
        draw = Random(seed)
        if draw.random() < 0.4:
            changed = bytes(atheris.Mutate(data, size_max))
            return (right_again(changed) if draw.random() < 0.5 else changed)[:size_max]
        return Mutator(draw, keys, seeds).mutate(data or draw.choice(seeds), size_max)

    # libFuzzer has a shell call it again by its first argument, to choose among inputs.
    again = f"{sys.executable} -m tests.fuzz.guided {target.name}"
    atheris.Setup([again, *sys.argv[2:]], read, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
