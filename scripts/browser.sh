#!/bin/sh
# Installs a browser without a window, a font, and what takes printed pages apart; does nothing if
# they are there. The browser comes with the machine's own apt (Debian 12 or newer).
#
#   CRYPTOMETER_BROWSER  another browser of the Chromium family
set -eu
cd "$(dirname "$0")/.."

missing=
found=
for name in ${CRYPTOMETER_BROWSER:-} chromium-headless-shell chromium google-chrome; do
    ! command -v "$name" >/dev/null 2>&1 || found=$name
done
[ -n "$found" ] || missing="$missing chromium-headless-shell"
command -v pdftotext >/dev/null 2>&1 || missing="$missing poppler-utils"
[ -d /usr/share/fonts/truetype/dejavu ] || missing="$missing fonts-dejavu-core"
# shellcheck disable=SC2086  # a list of words
[ -z "$missing" ] || sh scripts/packages.sh $missing
