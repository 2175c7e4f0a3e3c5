#!/bin/sh
# Makes an environment from a list of pinned packages. Does nothing if it is there and its list has
# not changed.
#
#   sh scripts/listed.sh FOLDER LIST
#
#   PYTHON  the interpreter to make it with; by default python3
set -eu
cd "$(dirname "$0")/.."

folder=$1
list=$2
if cmp -s "$list" "$folder/made-from"; then
    exit 0
fi
rm -rf "$folder"
"${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$list"
# Last: a list that stands here was installed whole.
cp "$list" "$folder/made-from"
