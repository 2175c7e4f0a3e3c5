#!/bin/sh
# Makes .kernel: QEMU, and a Linux with gpio-sim to run in it. Does nothing if it is there.
#
#   sh scripts/kernel.sh
#
# Neither Debian 12's kernel nor Debian 13's has gpio-sim; that of 13's backports has. Only this one
# package is taken from there, by an apt of its own: nothing of it is installed. Where its archive
# is, the machine's own apt knows.
set -eu
cd "$(dirname "$0")/.."

suite=trixie-backports
folder=$PWD/.kernel

sbin() { # what Debian keeps from everyone's PATH
    PATH="$PATH:/usr/sbin:/sbin" command -v "$1"
}

missing=
sbin qemu-system-x86_64 >/dev/null || missing="$missing qemu-system-x86"
[ -x /bin/busybox ] && ! ldd /bin/busybox >/dev/null 2>&1 || missing="$missing busybox-static"
sbin mke2fs >/dev/null || missing="$missing e2fsprogs"
# shellcheck disable=SC2086  # a list of words
[ -z "$missing" ] || sh scripts/packages.sh $missing

pack() { # the root file system that a boot has in memory
    cp tests/kernel/init "$folder/root/init"
    chmod 755 "$folder/root/init"
    (cd "$folder/root" && find . | /bin/busybox cpio -o -H newc 2>/dev/null) |
        gzip -1 >"$folder/initramfs"
}
# Last: a folder with this file was made whole.
if cmp -s scripts/kernel.sh "$folder/made-by"; then
    pack
    exit 0
fi

archive=$(apt-get indextargets --format '$(REPO_URI)' \
    'Created-By: Packages' 'Origin: Debian' 'Component: main' | grep -v security | head -n 1)
[ -n "$archive" ] || {
    echo "apt knows no archive of Debian's main on this machine" >&2
    exit 1
}
keys=/usr/share/keyrings/debian-archive-keyring.gpg

rm -rf "$folder"
mkdir -p "$folder/apt/lists/partial" "$folder/apt/cache/archives/partial" "$folder/unpacked"
trap 'rm -rf "$folder"' EXIT
cat >"$folder/apt/sources.list" <<LIST
deb [arch=amd64 signed-by=$keys] $archive $suite main
LIST
: >"$folder/apt/status"
backports() { # backports TOOL ...: apt that knows the one suite, and installs nothing
    tool=$1
    shift
    "$tool" -o Dir::Etc::SourceList="$folder/apt/sources.list" -o Dir::Etc::SourceParts=- \
        -o Dir::State::Lists="$folder/apt/lists" -o Dir::State::Status="$folder/apt/status" \
        -o Dir::Cache="$folder/apt/cache" -o APT::Architecture=amd64 \
        -o APT::Architectures=amd64 -o APT::Sandbox::User=root "$@"
}
echo "fetching a kernel with gpio-sim ..."
backports apt-get update --quiet=2 >&2
# Debian keeps a kernel and its modules in several packages of one version.
parts=$(backports apt-cache depends --recurse --no-pre-depends --no-recommends --no-suggests \
    --no-conflicts --no-breaks --no-replaces --no-enhances linux-image-amd64 |
    grep -E '^linux-(image|binary|modules)-[0-9].*-amd64$' | sort -u)
[ -n "$parts" ] || {
    echo "$suite has no kernel for amd64" >&2
    exit 1
}
# shellcheck disable=SC2086  # a list of words
(cd "$folder/apt" && backports apt-get download --quiet=2 $parts >&2)
for part in "$folder"/apt/*.deb; do
    dpkg-deb --extract "$part" "$folder/unpacked"
done

# A root that lives in memory: busybox, the modules in the order of their needs, tests/kernel/init.
modules=$(echo "$folder"/unpacked/usr/lib/modules/*)
root=$folder/root
mkdir -p "$root/bin" "$root/modules"
cp /bin/busybox "$root/bin/busybox"
load() { # load MODULE: takes it and all it needs, once
    for have in $loaded; do
        [ "$have" != "$1" ] || return 0
    done
    # In names of modules - and _ are one; what is built into the kernel has no file.
    file=$(find "$modules/kernel" -name "$(echo "$1" | sed 's/[-_]/[-_]/g').ko.xz")
    [ -n "$file" ] || return 0
    xz --decompress --stdout "$file" >"$root/modules/$1.ko"
    needs=$(tr '\0' '\n' <"$root/modules/$1.ko" | sed -n 's/^depends=//p' | tr ',' ' ')
    loaded="$loaded $1"
    for need in $needs; do
        load "$need"
    done
    echo "$1"
}
loaded=
for module in virtio_pci virtio_blk 9pnet_virtio 9p ext4 configfs gpio-sim; do
    load "$module"
done >"$root/modules/order"
mv "$modules/vmlinuz" "$folder/vmlinuz"
basename "$modules" >"$folder/release"
rm -rf "$folder/apt" "$folder/unpacked"
pack
trap - EXIT
cp scripts/kernel.sh "$folder/made-by"
