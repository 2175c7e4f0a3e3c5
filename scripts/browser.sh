#!/bin/sh
# Installs a browser without a window, a font, and what takes printed pages apart, and sees that the
# browser starts. It comes with the machine's own apt (Debian 12 or newer).
#
#   CRYPTOMETER_BROWSER  another browser of the Chromium family
set -eu
cd "$(dirname "$0")/.."

# Whose names stand where the tests look for it; the first one is its package's name, too.
ask() {
    python3 -B -c "from tests.browser.chromium import NAMES, find_browser; print($1)"
}

missing=
ask 'find_browser()' >/dev/null 2>&1 || missing="$missing $(ask 'NAMES[0]')"
command -v pdftotext >/dev/null 2>&1 || missing="$missing poppler-utils"
[ -d /usr/share/fonts/truetype/dejavu ] || missing="$missing fonts-dejavu-core"
# shellcheck disable=SC2086  # a list of words
[ -z "$missing" ] || sh scripts/packages.sh $missing

browser=$(ask 'find_browser()')
sandbox=
[ "$(id -u)" -ne 0 ] || sandbox=--no-sandbox # it does not build one for root
# shellcheck disable=SC2086  # one word, or none
"$browser" --headless $sandbox --disable-gpu --dump-dom about:blank >/dev/null 2>&1 || {
    echo "$browser does not start here; CRYPTOMETER_BROWSER names another one" >&2
    exit 1
}
