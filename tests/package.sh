#!/usr/bin/env bash
# Tries the Debian package as an operator would, in a fresh Debian root that systemd has booted, in namespaces of its own:
# installs it, breaks and mends its configuration, upgrades, removes, installs again and purges it. `make test-deb` runs
# it, after `make deb`. Needs root, for debootstrap and the namespaces.
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
root=$work/root
machine=
unpacked=$work/unpacked
cache=$PWD/target/package-cache
mkdir -p "$root" "$cache"

clean_up() {
    # The first process of the namespaces ends with this one, and all others with that, as do their mounts.
    if [ -n "$machine" ]; then
        kill -KILL "$machine" 2>/dev/null || true
        wait "$machine" 2>/dev/null || true
    fi
    rm -rf --one-file-system "$work"
}
trap clean_up EXIT

wait_until() {
    for _ in $(seq 100); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.2
    done
    in_root journalctl -u redis-lb.service -u redis-lb.socket -n 40 --no-pager >&2 || true
    fail "this does not happen: $*"
}

# Boots the root, in a network without other machines. Nothing of the machine around can be changed from within: it gets no
# device but harmless ones, and the kernel's settings only to read.
boot() {
    unshare --net --pid --mount --uts --ipc --cgroup --fork --kill-child bash -eu -s "$root" <<'INSIDE' &
mount --make-rprivate /
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for name in null zero full random urandom tty; do
    touch "dev/$name"
    mount --bind "/dev/$name" "dev/$name"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
for name in fd:fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do ln -s "/proc/self/${name#*:}" "dev/${name%:*}"; done
mount -t tmpfs tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run
ip link set lo up
pivot_root . mnt
umount -l mnt
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot . /lib/systemd/systemd --system </dev/null >/dev/null 2>&1
INSIDE
    machine=$!
}

is_booted() {
    first=$(pgrep -P "$machine") && in_root systemctl is-active -q multi-user.target
}

in_root() {
    nsenter -t "$first" --net --pid --mount --uts --ipc --cgroup --root="/proc/$first/root" \
        env -i -C / PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C "$@"
}

# The files of the root, but for what apt and dpkg note, what does not outlive a boot, and the files of users, who stay.
files() {
    in_root find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /run -o -path /var/lib/dpkg \
        -o -path /var/lib/apt -o -path /var/cache -o -path /var/log -o -path /var/lib/systemd \) -prune -o -print |
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

echo "== its documents"
(
    cd "$unpacked/usr/share/doc/redis-lb"
    grep -noE '\]\([^):]+\)|(src|srcset)="[^":]+"' README.md CHANGELOG.md CONTRIBUTING.md docs/*.md |
        sed -E 's/^([^:]*):[0-9]+:[^("]*["(]([^)"#]*).*/\1 \2/' | sort -u | while read -r document link; do
            [ -z "$link" ] || [ -e "$(dirname "$document")/$link" ] || echo "$document: $link"
        done
) >"$work/dead"
[ ! -s "$work/dead" ] || fail "links of the documents lead nowhere: $(cat "$work/dead")"

echo "== a fresh Debian root ($suite)"
debootstrap --variant=minbase --cache-dir="$cache" --include=adduser,curl,iproute2,redis-server,systemd \
    "$suite" "$root" "$mirror" >"$cache/log" || { tail "$cache/log"; fail "debootstrap fails"; }
# What runs by the clock would write files between two looks.
chroot "$root" systemctl mask -q apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer
boot
first=
wait_until is_booted
files >"$work/before"
listen=$(sed -n 's/^ListenStream=\(.\+\)/\1/p' "$unpacked/usr/lib/systemd/system/redis-lb.socket")
url=http://$listen

echo "== install"
cp "$package" "$root/var/tmp/package.deb"
in_root apt-get install -y -q /var/tmp/package.deb
user=$(in_root systemctl show -p User --value redis-lb.service)
in_root getent passwd "$user" >/dev/null || fail "there is no user $user"
for unit in redis-lb.socket redis-lb.service; do
    in_root systemctl is-enabled -q "$unit" || fail "$unit is not enabled"
    in_root systemctl is-active -q "$unit" || fail "$unit does not run"
    said=$(in_root systemd-analyze verify "/usr/lib/systemd/system/$unit" 2>&1) || fail "$unit: $said"
    [ -z "$said" ] || fail "$unit: $said"
done

echo "== run"
for port in 1111 2222 3333; do
    in_root redis-server --port "$port" --save '' --daemonize yes --dir /tmp --logfile '' >/dev/null
done
for port in 1111 2222 3333; do wait_until in_root redis-cli -p "$port" ping; done
in_root seed /usr/share/doc/redis-lb/examples/actors.csv >/dev/null 2>&1

status() { in_root curl -sf "$url/-/status.json"; }
are_up() { [ "$(status | grep -o '"state":"up"' | wc -l)" -ge 3 ]; }
# Fails unless lb serves as it should, with this limit of clients.
expect_served() {
    wait_until are_up
    in_root curl -sf "$url/actor:1" | grep Ellingworth >/dev/null || fail "HTTP has not the data"
    [ "$(in_root redis-cli -p "${listen##*:}" hget actor:1 last_name)" = Ellingworth ] || fail "Redis has not the data"
    status | grep "\"max\":$1}" >/dev/null || fail "max-clients is not $1"
    in_root lb ctl status >/dev/null
    [ "$(stat -c %u "/proc/$(pgrep -f -P "$first" '^/usr/bin/lb$')")" = "$(in_root id -u "$user")" ] ||
        fail "lb does not run as $user"
}
expect_served 4096
memory=$(in_root curl -sf "$url/-/metrics" | sed -n 's/^redis_lb_client_memory_max_bytes \([0-9]*\).*/\1/p')
total=$(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo)
[ "$memory" -gt $((total * 1024 / 5)) ] || fail "the unit hides the memory of the machine: $memory"

echo "== a mistake in the configuration, and its end"
sed -i '$a LB_MAX_CLIENTS=many' "$root/etc/default/redis-lb"
in_root systemctl restart redis-lb && fail "a wrong value starts"
in_root curl -s -m 3 "$url/actor:1" >/dev/null && fail "nobody serves"
names_it() { in_root journalctl -u redis-lb.service -p err --no-pager | grep LB_MAX_CLIENTS; }
wait_until names_it ||
    fail "the journal does not name the wrong value"
sed -i '$s/.*/LB_MAX_CLIENTS=77/' "$root/etc/default/redis-lb"
in_root systemctl restart redis-lb.socket redis-lb.service || fail "the corrected file does not start"
expect_served 77

echo "== restarts refuse nobody"
in_root sh -c "for i in \$(seq 200); do curl -sf -m 20 -o /dev/null $url/actor:1 || exit 1; done" &
asking=$!
in_root systemctl restart redis-lb
in_root systemctl reload redis-lb
in_root systemctl restart redis-lb
wait "$asking" || fail "a client gets no answer while lb is restarted"
# Who was being answered loses that answer; nobody is refused (exit code 7).
in_root sh -c "for i in \$(seq 200); do curl -s -m 20 -o /dev/null $url/actor:1 || [ \$? != 7 ] || exit 1; done" &
asking=$!
in_root systemctl kill -s KILL redis-lb
wait "$asking" || fail "a client is refused when lb is killed"
expect_served 77

echo "== upgrade, with a configuration that was changed"
sed -i '1i fall = 5' "$root/etc/redis-lb/redis-lb.toml"
changed=$(cat "$root/etc/default/redis-lb" "$root/etc/redis-lb/redis-lb.toml" | sha256sum)
sed -i 's/^Version: .*/&.1/' "$unpacked/DEBIAN/control"
echo '# The newer package says more here.' >>"$unpacked/etc/default/redis-lb"
(cd "$unpacked" && find usr etc -type f -print0 | xargs -0 md5sum >DEBIAN/md5sums)
dpkg-deb -b "$unpacked" "$root/var/tmp/newer.deb" >/dev/null
in_root apt-get install -y -q -o Dpkg::Options::=--force-confold /var/tmp/newer.deb
in_root dpkg-query -W -f '${Version}\n' redis-lb | grep '\.1$' >/dev/null || fail "it is not upgraded"
now=$(cat "$root/etc/default/redis-lb" "$root/etc/redis-lb/redis-lb.toml" | sha256sum)
[ "$changed" = "$now" ] || fail "the upgrade has changed the configuration"
[ "$(in_root stat -c '%a %G' /etc/redis-lb/redis-lb.toml)" = "640 redis-lb" ] ||
    fail "the upgrade has changed who may read the configuration"
expect_served 77

echo "== remove"
in_root apt-get remove -y -q redis-lb
expect_left "remove" "$work/before" /etc/default/redis-lb /etc/default/redis-lb.dpkg-dist /etc/redis-lb \
    /etc/redis-lb/redis-lb.toml /var/tmp/package.deb /var/tmp/newer.deb
in_root curl -s "$url/" && fail "lb runs after its removal"

echo "== install again"
in_root apt-get install -y -q -o Dpkg::Options::=--force-confold /var/tmp/newer.deb
expect_served 77

echo "== purge"
in_root apt-get purge -y -q redis-lb
expect_left "purge" "$work/before" /var/tmp/package.deb /var/tmp/newer.deb
in_root getent passwd redis-lb >/dev/null || fail "the user redis-lb should stay"

echo "tests/package.sh: all is as it should be"
