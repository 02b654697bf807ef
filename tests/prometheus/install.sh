#!/usr/bin/env bash
#
# Gets prometheus and promtool for the tests, where they are missing: the programs of Debian's package, unpacked
# into target/prometheus. The package is not installed, so no service is started and nothing is left of it elsewhere.
# Safe to run again, and then fast.

set -euo pipefail

CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."
FOLDER="$PWD/target/prometheus"

die() {
    printf 'tests/prometheus/install.sh: %s\n' "$*" >&2
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
    PATH="$FOLDER/usr/bin:$PATH"
    promtool --version >/dev/null 2>&1 && prometheus --version >/dev/null 2>&1
}

# Into the folder at hand.
download() { apt-get download --quiet --quiet prometheus; }

if (are_there); then
    exit 0
fi
command -v apt-get >/dev/null || die "prometheus and promtool are missing; install them, then run this again."
rm -rf "$FOLDER"
mkdir -p "$FOLDER"
echo "unpacking prometheus and promtool for the tests into target/prometheus"
cd "$FOLDER"
# apt fetches as another user, who may have no right to write here: it says so, and fetches as root.
if ! download 2>/dev/null; then
    as_root apt-get update || true
    download || die "Debian's package prometheus can't be downloaded."
fi
dpkg-deb --extract prometheus_*.deb .
rm -f prometheus_*.deb
(are_there) || die "the programs of the package prometheus don't run."
