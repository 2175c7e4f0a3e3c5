#!/bin/sh
# Makes .kernel: QEMU, and a Linux with gpio-sim to run in it. Does nothing if it is there.
#
#   PYTHON=.venv/bin/python sh scripts/kernel.sh
#
# Neither Debian 12's kernel nor Debian 13's has gpio-sim; that of 13's backports has. No kernel of
# Debian has interrupt-cnt: the modules are built from the same kernel's sources, with the compiler
# that built it. All of it is fetched by an apt of its own: nothing is installed. Where the archive
# is, the machine's own apt knows. The package rpi-lgpio, which needs a chip, comes along.
set -eu
cd "$(dirname "$0")/.."

suite=trixie
folder=$PWD/.kernel
wired=tests/kernel/wired.c

sbin() { # what Debian keeps from everyone's PATH
    PATH="$PATH:/usr/sbin:/sbin" command -v "$1"
}

missing=
sbin qemu-system-x86_64 >/dev/null || missing="$missing qemu-system-x86"
[ -x /bin/busybox ] && ! ldd /bin/busybox >/dev/null 2>&1 || missing="$missing busybox-static"
sbin mke2fs >/dev/null || missing="$missing e2fsprogs"
command -v make >/dev/null || missing="$missing make"
command -v ld >/dev/null || missing="$missing binutils"
# shellcheck disable=SC2086  # a list of words
[ -z "$missing" ] || sh scripts/packages.sh $missing

pack() { # the root file system that a boot has in memory
    cp tests/kernel/init "$folder/root/init"
    chmod 755 "$folder/root/init"
    (cd "$folder/root" && find . | /bin/busybox cpio -o -H newc 2>/dev/null) |
        gzip -1 >"$folder/initramfs"
}
# Last: a folder with this file was made whole.
made_by=$(cat scripts/kernel.sh "$wired" constraints.txt && "$PYTHON" -VV)
if [ "$made_by" = "$(cat "$folder/made-by" 2>/dev/null)" ]; then
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
deb [arch=amd64 signed-by=$keys] $archive $suite-backports main
LIST
: >"$folder/apt/status"
apart() { # apart TOOL ...: apt that knows this suite and its backports, and installs nothing
    tool=$1
    shift
    "$tool" -o Dir::Etc::SourceList="$folder/apt/sources.list" -o Dir::Etc::SourceParts=- \
        -o Dir::State::Lists="$folder/apt/lists" -o Dir::State::Status="$folder/apt/status" \
        -o Dir::Cache="$folder/apt/cache" -o APT::Architecture=amd64 \
        -o APT::Architectures=amd64 -o APT::Sandbox::User=root "$@"
}
echo "fetching a kernel with gpio-sim ..."
apart apt-get update --quiet=2 >&2
# Debian keeps a kernel and its modules in several packages of one version.
parts=$(apart apt-cache depends --recurse --no-pre-depends --no-recommends --no-suggests \
    --no-conflicts --no-breaks --no-replaces --no-enhances "linux-image-amd64/$suite-backports" |
    grep -E '^linux-(image|binary|modules)-[0-9].*-amd64$' | sort -u)
[ -n "$parts" ] || {
    echo "$suite-backports has no kernel for amd64" >&2
    exit 1
}
# shellcheck disable=SC2086  # a list of words
(cd "$folder/apt" && apart apt-get download --quiet=2 $parts >&2)
unpack() {
    for part in "$folder"/apt/*.deb; do
        dpkg-deb --extract "$part" "$folder/unpacked"
    done
    rm "$folder"/apt/*.deb
}
unpack
modules=$(echo "$folder"/unpacked/usr/lib/modules/*)
release=$(basename "$modules")

echo "building its interrupt counter ..."
fetch() { # fetch PACKAGE ...: into the folder from which they are unpacked
    (cd "$folder/apt" && apart apt-get download --quiet=2 "$@" >&2)
}
version=$(echo "$release" | cut -d . -f 1-2)
fetch "linux-source-$version"
mkdir "$folder/counter"
names=$(for name in counter-core.c counter-sysfs.c counter-sysfs.h counter-chrdev.c \
    counter-chrdev.h interrupt-cnt.c; do echo "linux-source-$version/drivers/counter/$name"; done)
# The sources are 150 MB: reading ends when these are found, and breaks off what writes them.
# shellcheck disable=SC2086  # a list of words
dpkg-deb --fsys-tarfile "$folder"/apt/linux-source-*.deb 2>/dev/null |
    tar --extract --to-stdout "./usr/src/linux-source-$version.tar.xz" 2>/dev/null |
    tar --extract --xz --directory "$folder/counter" --strip-components 3 --occurrence=1 $names
rm "$folder"/apt/*.deb
# shellcheck disable=SC2046  # a list of words
fetch "linux-headers-$release" "linux-headers-${release%-amd64}-common" \
    "linux-kbuild-${release%-amd64}" gcc-14-x86-64-linux-gnu cpp-14-x86-64-linux-gnu \
    binutils-x86-64-linux-gnu libbinutils libsframe1 libjansson4 \
    libc6 libelf1t64 libgmp10 libisl23 libmpc3 libmpfr6 libstdc++6 libgcc-s1 libzstd1 zlib1g
unpack
usr=$folder/unpacked/usr
libraries=$usr/lib/x86_64-linux-gnu
foreign="$libraries/ld-linux-x86-64.so.2 --library-path $libraries"
words() { # words FILE WORD ...: a program that is these words, and those given to it
    file=$1
    shift
    # shellcheck disable=SC2016  # the program's own
    printf '#!/bin/sh\nexec %s "$@"\n' "$*" >"$file"
    chmod 755 "$file"
}
# The programs are of another Debian than this machine may be: each runs on its own libraries.
tools=$usr/lib/linux-kbuild-${release%-amd64}
mv "$tools/scripts/basic/fixdep" "$tools/scripts/basic/fixdep.elf"
words "$tools/scripts/basic/fixdep" "$foreign $tools/scripts/basic/fixdep.elf"
rm "$tools/scripts/mod/modpost" "$tools/tools/objtool/objtool"
words "$tools/scripts/mod/modpost" "$foreign $tools/scripts/mod/modpost.real-lsb-64"
words "$tools/tools/objtool/objtool" "$foreign $tools/tools/objtool/objtool.real-x86"
mkdir "$folder/assembler"
ln -s "$usr/bin/x86_64-linux-gnu-as" "$folder/assembler/as"
words "$folder/cc" "$foreign $usr/bin/x86_64-linux-gnu-gcc-14" \
    "-wrapper $(echo "$foreign" | tr ' ' ,) -B$folder/assembler/"
headers=$usr/src/linux-headers-$release
cat >"$headers/Makefile" <<MAKE
KBUILD_OUTPUT = $headers
include $usr/src/linux-headers-${release%-amd64}-common/Makefile
MAKE
cp "$wired" "$folder/counter/wired.c"
cat >"$folder/counter/Makefile" <<MAKE
obj-m := counter.o interrupt-cnt.o wired.o
counter-y := counter-core.o counter-sysfs.o counter-chrdev.o
MAKE
# Type information would need one more program, and the kernel does without.
make -C "$headers" M="$folder/counter" CC="$folder/cc" CONFIG_DEBUG_INFO_BTF_MODULES= \
    modules >"$folder/counter.log" 2>&1 || {
    cat "$folder/counter.log" >&2
    exit 1
}
mkdir "$modules/kernel/counter"
for name in counter interrupt-cnt wired; do
    strip --strip-debug "$folder/counter/$name.ko"
    xz --stdout "$folder/counter/$name.ko" >"$modules/kernel/counter/$name.ko.xz"
done

"$PYTHON" -m pip install --quiet --disable-pip-version-check --target "$folder/python" \
    --constraint constraints.txt rpi-lgpio

# A root that lives in memory: busybox, the modules in the order of their needs, tests/kernel/init.
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
for module in virtio_pci virtio_blk 9pnet_virtio 9p ext4 configfs gpio-sim interrupt-cnt wired; do
    load "$module"
done >"$root/modules/order"
mv "$modules/vmlinuz" "$folder/vmlinuz"
rm -rf "$folder/apt" "$folder/unpacked" "$folder/counter" "$folder/assembler" "$folder/cc"
pack
trap - EXIT
printf '%s' "$made_by" >"$folder/made-by"
