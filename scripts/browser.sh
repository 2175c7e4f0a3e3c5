#!/bin/sh
# Installs a browser without a window, a font, and what takes printed pages apart, and sees that the
# browser starts. It comes with the machine's own apt (Debian 12 or newer).
#
#   CRYPTOMETER_BROWSER  another browser of the Chromium family
set -eu
cd "$(dirname "$0")/.."

find_browser() {
    for name in ${CRYPTOMETER_BROWSER:-} chromium-headless-shell chromium google-chrome; do
        ! command -v "$name" >/dev/null 2>&1 || { echo "$name"; return; }
    done
}

missing=
[ -n "$(find_browser)" ] || missing="$missing chromium-headless-shell"
command -v pdftotext >/dev/null 2>&1 || missing="$missing poppler-utils"
[ -d /usr/share/fonts/truetype/dejavu ] || missing="$missing fonts-dejavu-core"
# shellcheck disable=SC2086  # a list of words
[ -z "$missing" ] || sh scripts/packages.sh $missing

browser=$(find_browser)
sandbox=
[ "$(id -u)" -ne 0 ] || sandbox=--no-sandbox # it does not build one for root
# shellcheck disable=SC2086  # one word, or none
"$browser" --headless $sandbox --disable-gpu --dump-dom about:blank >/dev/null 2>&1 || {
    echo "$browser does not start here; CRYPTOMETER_BROWSER names another one" >&2
    exit 1
}
