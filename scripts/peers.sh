#!/bin/sh
# Makes .venv-peers: the independent libraries that tests compare with.
#
#   PYTHON  the interpreter to make it with; by default python3
set -eu
exec sh "$(dirname "$0")/listed.sh" .venv-peers tests/peers/requirements.txt
