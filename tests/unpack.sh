#!/usr/bin/env bash
#
# Gets prometheus, promtool and nginx for the tests, where they are missing: the programs of Debian's packages, unpacked
# into target/unpacked. The packages are not installed, so no service is started and nothing is left of them elsewhere.
# Safe to run again, and then fast.

set -euo pipefail

CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
FOLDER="$PWD/target/unpacked"

die() {
    printf 'tests/unpack.sh: %s\n' "$*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

are_there() {
    PATH="$FOLDER/usr/bin:$FOLDER/usr/sbin:$PATH:/usr/sbin"
    promtool --version && prometheus --version && nginx -v
} >/dev/null 2>&1

# Into the folder at hand.
download() { apt-get download --quiet --quiet prometheus nginx; }

if (are_there); then
    exit 0
fi
command -v apt-get >/dev/null || die "prometheus, promtool and nginx are missing; install them, then run this again."
rm -rf "$FOLDER"
mkdir -p "$FOLDER"
echo "unpacking prometheus, promtool and nginx for the tests into target/unpacked"
cd "$FOLDER"
# apt fetches as another user, who may have no right to write here: it says so, and fetches as root.
if ! download 2>/dev/null; then
    as_root apt-get update || true
    download || die "Debian's packages prometheus and nginx can't be downloaded."
fi
for package in *.deb; do
    dpkg-deb --extract "$package" .
done
rm -f ./*.deb
(are_there) || die "the programs of the packages prometheus and nginx don't run."
