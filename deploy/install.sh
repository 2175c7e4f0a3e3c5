#!/bin/sh
# Installs a board's firmware or a gateway as a service, on Debian or Raspberry Pi OS, 64 bit.
#
#   sudo sh deploy/install.sh meter|gateway
#
# Running it again installs the present version over the old one. It never touches keys, data or
# an existing configuration.
set -eu
cd "$(dirname "$0")/.."

case "${1:-}" in
meter)
    extra=firmware,gpio user=cryptometer state=/var/lib/cryptometer unit=cryptometer-firmware
    ;;
gateway)
    extra=gateway user=cryptometer-gateway state=/var/lib/cryptometer-gateway
    unit=cryptometer-gateway
    ;;
*)
    echo "usage: sudo sh deploy/install.sh meter|gateway" >&2
    exit 2
    ;;
esac
if [ "$(id -u)" -ne 0 ]; then
    echo "please run it with sudo: it adds a user and a service" >&2
    exit 1
fi

python3 -c 'import ensurepip' 2>/dev/null || sh scripts/packages.sh python3-venv
[ -x /opt/cryptometer/bin/python ] || python3 -m venv /opt/cryptometer
PIP_CONSTRAINT=constraints.txt /opt/cryptometer/bin/python -m pip install \
    --quiet --disable-pip-version-check --upgrade ".[$extra]"
# sudo looks there and not in /opt.
install -d /usr/local/bin
for program in cryptometer cryptometer-firmware cryptometer-gateway; do
    [ ! -x "/opt/cryptometer/bin/$program" ] ||
        ln -sfn "/opt/cryptometer/bin/$program" "/usr/local/bin/$program"
done

# The unit names both groups, and a missing one would keep it from starting.
for group in dialout gpio; do
    getent group "$group" >/dev/null || groupadd --system "$group"
done
getent passwd "$user" >/dev/null ||
    useradd --system --user-group --home-dir "$state" --shell /usr/sbin/nologin "$user"
install -d -o "$user" -g "$user" -m 0750 "$state"

as_user() { # with the service's own rights, so that nothing there belongs to root
    setpriv --reuid "$user" --regid "$user" --init-groups "$@"
}
if [ "$1" = meter ]; then
    # So that a command run as this user reaches the line as the service does.
    usermod --append --groups dialout,gpio "$user"
    install -D -m 0644 deploy/udev/60-cryptometer-gpio.rules \
        /etc/udev/rules.d/60-cryptometer-gpio.rules
    [ -e /etc/cryptometer/meter.toml ] ||
        install -D -m 0644 deploy/examples/meter.toml /etc/cryptometer/meter.toml
    # A key in a token leaves only its request here.
    [ -e "$state/device.key" ] || [ -e "$state/device.request" ] ||
        as_user /opt/cryptometer/bin/cryptometer-firmware init --state "$state"
else
    [ -e "$state/gateway.key" ] ||
        as_user /opt/cryptometer/bin/cryptometer-gateway init "$state"
    # The web side reads with the group's rights; a store of an earlier version was closed to it.
    getent passwd cryptometer-web >/dev/null ||
        useradd --system --user-group --home-dir / --shell /usr/sbin/nologin cryptometer-web
    find "$state" -maxdepth 1 -name 'store.sqlite*' -exec chmod g+r {} +
    # The members' side alone may read what is a member's; the gateway makes the file if need be.
    getent passwd cryptometer-members >/dev/null ||
        useradd --system --user-group --home-dir / --shell /usr/sbin/nologin cryptometer-members
    [ -e "$state/private.db" ] ||
        as_user /opt/cryptometer/bin/cryptometer-gateway access list --config "$state" >/dev/null
    chgrp cryptometer-members "$state/private.db"
    chmod 0640 "$state/private.db"
    install -m 0644 deploy/systemd/cryptometer-gateway-web.service \
        deploy/systemd/cryptometer-gateway-members.service /etc/systemd/system/
fi
install -m 0644 "deploy/systemd/$unit.service" /etc/systemd/system/
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    echo "installed; once enrolled: systemctl enable --now $unit"
else
    echo "installed; systemd does not run here"
fi
