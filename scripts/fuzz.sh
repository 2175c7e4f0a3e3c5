#!/bin/sh
# Makes .venv-fuzz: the coverage-guided fuzzer and what the project needs to run under it.
#
#   PYTHON  the interpreter to make it with; by default python3
set -eu
cd "$(dirname "$0")/.."

if ! sh scripts/listed.sh .venv-fuzz tests/fuzz/requirements.txt; then
    cat >&2 <<END
The fuzzer (atheris) has wheels for x86-64 Linux and CPython 3.11 to 3.13 only. This is
$(uname -m) with $("${PYTHON:-python3}" --version). Set PYTHON to such an interpreter, or
use another machine. The same decoders run everywhere, unguided:
    .venv/bin/python -m pytest tests/fuzz
END
    exit 1
fi
