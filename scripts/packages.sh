#!/bin/sh
# Installs the Debian packages that are missing, with sudo when not root.
#
#   sh scripts/packages.sh [PACKAGE ...]    by default those the tests need
set -eu

missing=
want() { # want PACKAGE COMMAND: /usr/sbin is where Debian puts daemons
    PATH="$PATH:/usr/sbin:/sbin" command -v "$2" >/dev/null 2>&1 || missing="$missing $1"
}

if [ $# -gt 0 ]; then
    missing=$*
else
    want mosquitto mosquitto
    want mosquitto-clients mosquitto_pub
    want openssl openssl
    # Another reader of Modbus meters.
    want mbpoll mbpoll
    # A token in software, for keys in tokens.
    want softhsm2 softhsm2-util
    # A TPM in software, and what its Python package is compiled against.
    want swtpm swtpm
    [ -f /usr/include/tss2/tss2_esys.h ] || missing="$missing libtss2-dev"
    want pkg-config pkg-config
    python3 -c 'import os, sysconfig
os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null || missing="$missing python3-dev"
    want systemd systemd-analyze
    # The disk that fails (tests/faults) is compiled by its tests.
    want gcc gcc
    [ -f /usr/include/dlfcn.h ] || missing="$missing libc6-dev"
fi
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null 2>&1; then
    echo "please install:$missing (this system has no apt-get)" >&2
    exit 1
fi
as_root=
if [ "$(id -u)" -ne 0 ]; then
    as_root=sudo
fi
echo "installing the packages:$missing"
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086  # a list of words
$as_root apt-get install --yes --quiet --no-install-recommends $missing >/dev/null 2>&1 || {
    $as_root apt-get update --quiet >/dev/null
    $as_root apt-get install --yes --quiet --no-install-recommends $missing
}
