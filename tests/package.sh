#!/usr/bin/env bash
# Tries the Debian package as an operator would, in a fresh Debian root: installs it, runs it as its unit says, upgrades,
# removes and purges it. `make test-deb` runs it, after `make deb`. Needs root, for chroot and a network of its own.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

fail() {
    echo "tests/package.sh: $*" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || fail "run it as root: sudo make test-deb"
for program in debootstrap lintian mandoc unshare; do
    command -v "$program" >/dev/null || fail "$program is missing: apt-get install debootstrap lintian mandoc util-linux"
done
package=$(echo target/debian/redis-lb_*.deb)
[ -f "$package" ] || fail "there is no package: run make deb"

# The mirror and the release are those of this machine. Packages that were fetched once are kept.
suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
mirror=$(apt-get indextargets --format '$(REPO_URI)' "Codename: $suite" "Component: main" | head -n 1)
[ -n "$mirror" ] || fail "apt knows no mirror of $suite: run apt-get update"
work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
root=$work/root
unpacked=$work/unpacked
cache=$PWD/target/package-cache
mkdir -p "$root" "$cache"

in_root() {
    chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C "$@"
}

# The files of the root, but for what apt and dpkg note, what does not outlive a boot, and the files of users, who stay.
files() {
    in_root find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /run -o -path /var/lib/dpkg \
        -o -path /var/lib/apt -o -path /var/cache -o -path /var/log \) -prune -o -print |
        grep -vE '^/etc/(passwd|shadow|group|gshadow|subuid|subgid)-?$' | LC_ALL=C sort
}

# Fails unless what is there now is what was there before and these files.
expect_left() {
    local what=$1 before=$2
    shift 2
    diff <({ cat "$before"; printf '%s\n' "$@"; } | sed '/^$/d' | LC_ALL=C sort) <(files) ||
        fail "after $what there is more (>) or less (<) than expected"
}

echo "== the package itself"
lintian --fail-on error --allow-root "$package" || fail "lintian finds errors"
dpkg-deb -R "$package" "$unpacked"
for page in "$unpacked"/usr/share/man/man1/*.gz; do
    zcat "$page" | mandoc -T lint -W warning || fail "$(basename "$page") has mistakes"
done

echo "== a fresh Debian root ($suite)"
debootstrap --variant=minbase --cache-dir="$cache" --include=adduser,curl,iproute2,redis-server,systemd \
    "$suite" "$root" "$mirror" >"$cache/log" || { tail "$cache/log"; fail "debootstrap fails"; }
files >"$work/before"

echo "== install"
cp "$package" "$root/tmp/"
in_root apt-get install -y -q "/tmp/$(basename "$package")"
in_root getent passwd redis-lb >/dev/null || fail "there is no user redis-lb"
for unit in redis-lb.socket redis-lb.service; do
    in_root systemctl is-enabled -q "$unit" || fail "$unit is not enabled"
    said=$(in_root systemd-analyze verify "/usr/lib/systemd/system/$unit" 2>&1) || fail "$unit: $said"
    [ -z "$said" ] || fail "$unit: $said"
done

# Runs what the unit says, as the user that it names, with the socket that systemd would pass on, in a network without
# other machines; three Redis servers are where the default has them. $1 is the limit of clients that must be in effect.
serve() {
    cp actors.csv "$root/tmp/"
    unshare --net --pid --fork --kill-child chroot "$root" bash -eu -s "$1" <<'INSIDE'
mount -t proc proc /proc
trap 'umount -l /proc' EXIT
unit=/usr/lib/systemd/system/redis-lb.service
setting() { sed -n "s/^$1=-\?//p" "$unit"; }
wait_until() {
    for _ in $(seq 100); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    echo "this does not happen: $*" >&2
    cat /tmp/lb.log >&2
    exit 1
}
ip link set lo up
for port in 1111 2222 3333; do
    redis-server --port "$port" --save '' --daemonize yes --dir /tmp --logfile "" >/dev/null
done
for port in 1111 2222 3333; do wait_until redis-cli -p "$port" ping; done
seed /tmp/actors.csv >/dev/null 2>&1

user=$(setting User)
install -d -o "$user" -g "$user" "/run/$(setting RuntimeDirectory)"
listen=$(sed -n 's/^ListenStream=//p' /usr/lib/systemd/system/redis-lb.socket)
variables=$(setting Environment; grep -hv '^#' "$(setting EnvironmentFile)")
# shellcheck disable=SC2046,SC2086 # Words.
systemd-socket-activate -l "$listen" $(printf -- '-E %s ' $variables) \
    setpriv --reuid="$user" --regid="$user" --clear-groups --no-new-privs --bounding-set=-all $(setting ExecStart) \
    >/tmp/lb.log 2>&1 &
lb=$!
status() { curl -sf "http://$listen/-/status.json"; }
are_up() { [ "$(status | grep -o '"state":"up"' | wc -l)" -ge 3 ]; }
wait_until are_up
curl -sf "http://$listen/actor:1" | grep -q Ellingworth
[ "$(redis-cli -p "${listen##*:}" hget actor:1 last_name)" = Ellingworth ]
status | grep -q "\"max\":$1}" || { echo "max-clients is not $1" >&2; exit 1; }
[ "$(stat -c %U "/proc/$lb")" = "$user" ] || { echo "lb does not run as $user" >&2; exit 1; }
lb ctl --control /run/redis-lb/control status
kill "$lb"
wait "$lb" || { cat /tmp/lb.log >&2; exit 1; }
rm -rf /run/redis-lb
INSIDE
}

echo "== run"
serve 4096

echo "== upgrade, with a configuration that was changed"
echo 'LB_MAX_CLIENTS=77' >>"$root/etc/default/redis-lb"
sed -i '1i fall = 5' "$root/etc/redis-lb/redis-lb.toml"
changed=$(cat "$root/etc/default/redis-lb" "$root/etc/redis-lb/redis-lb.toml" | sha256sum)
sed -i 's/^Version: .*/&.1/' "$unpacked/DEBIAN/control"
echo '# The newer package says more here.' >>"$unpacked/etc/default/redis-lb"
(cd "$unpacked" && find usr etc -type f -print0 | xargs -0 md5sum >DEBIAN/md5sums)
dpkg-deb -b "$unpacked" "$root/tmp/newer.deb" >/dev/null
in_root apt-get install -y -q -o Dpkg::Options::=--force-confold /tmp/newer.deb
in_root dpkg-query -W -f '${Version}\n' redis-lb | grep -q '\.1$' || fail "it is not upgraded"
now=$(cat "$root/etc/default/redis-lb" "$root/etc/redis-lb/redis-lb.toml" | sha256sum)
[ "$changed" = "$now" ] || fail "the upgrade has changed the configuration"
[ "$(in_root stat -c '%a %G' /etc/redis-lb/redis-lb.toml)" = "640 redis-lb" ] ||
    fail "the upgrade has changed who may read the configuration"
serve 77

echo "== remove"
in_root apt-get remove -y -q redis-lb
expect_left "remove" "$work/before" /etc/default/redis-lb /etc/default/redis-lb.dpkg-dist /etc/redis-lb \
    /etc/redis-lb/redis-lb.toml

echo "== purge"
in_root apt-get purge -y -q redis-lb
expect_left "purge" "$work/before" ""
in_root getent passwd redis-lb >/dev/null || fail "the user redis-lb should stay"

echo "tests/package.sh: all is as it should be"
