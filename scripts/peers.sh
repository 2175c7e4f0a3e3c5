#!/bin/sh
# Makes .venv-peers: the independent libraries that tests compare with. Does nothing if it is there
# and its list has not changed.
#
#   PYTHON  the interpreter to make it with; by default python3
set -eu
cd "$(dirname "$0")/.."

folder=.venv-peers
list=tests/peers/requirements.txt
if cmp -s "$list" "$folder/made-from"; then
    exit 0
fi
rm -rf "$folder"
"${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$list"
# Last: a list that stands here was installed whole.
cp "$list" "$folder/made-from"
