#!/bin/sh
# Makes .venv with the project and one of its extras; does nothing if that stands already.
#
#   sh scripts/environment.sh demo|test
#
#   PYTHON  the interpreter to make it with; by default the first of 3.11 or newer found
set -eu
cd "$(dirname "$0")/.."
extra=$1
venv=.venv

new_enough() {
    command -v "$1" >/dev/null 2>&1 &&
        "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    for one in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if new_enough "$one"; then
            echo "$one"
            return
        fi
    done
    echo "Python 3.11 or newer is needed, and was not found (or set PYTHON)" >&2
    exit 1
}

# What was installed follows from these files, this folder and the interpreter.
wanted=$(cat pyproject.toml constraints.txt; pwd)
stamp=$venv/installed-$extra
if [ -x "$venv/bin/python" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    # Debian ships ensurepip apart.
    "$python" -c 'import ensurepip' 2>/dev/null || sh scripts/packages.sh python3-venv
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi
echo "installing into $venv ..."
# The variable, not the option: it holds for what builds the project too.
PIP_CONSTRAINT=constraints.txt "$venv/bin/python" -m pip install \
    --quiet --disable-pip-version-check --editable ".[$extra]"
# Last: an environment with this file was installed whole.
printf '%s' "$wanted" >"$stamp"
