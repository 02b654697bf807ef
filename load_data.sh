#!/usr/bin/env bash
#
# Starts the three Redis servers that redis-lb reads from and fills them with
# the rows of actors.csv. Safe to run again: servers that run already are kept.
#
# Works with bash 3.2, the version of macOS.

set -euo pipefail

HOST=127.0.0.1
PRIMARY=1111
PORTS="1111 2222 3333"
REVERSED="3333 2222 1111"
START_SECONDS=10 # for a server to answer after its start
LINK_SECONDS=30  # for a replica to copy its primary
STOP_SECONDS=5   # for a server to end after SIGTERM

CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
STATE="$PWD/.redis"

usage() {
    cat <<'TEXT'
Usage: bash load_data.sh [--replicas] [-- SEED_ARGUMENT...]
       bash load_data.sh --stop
       bash load_data.sh --install
       bash load_data.sh --help

Starts Redis on 127.0.0.1, ports 1111, 2222 and 3333, and loads actors.csv.
Installs Redis first (apt or Homebrew) if this computer does not have it.

  --replicas  make 2222 and 3333 replicas of 1111
              (default: all three are independent)
  --stop      stop the servers that this script started
  --install   only install Redis, if this computer does not have it
  --help      show this text

The loader gets the arguments after -- unchanged.
Logs and pid files are in the folder .redis/, one subfolder for each port.
TEXT
}

say() { printf '%s\n' "$*"; }
complain() { printf 'load_data.sh: %s\n' "$*" >&2; }
die() {
    complain "$@"
    exit 1
}
bad_usage() {
    complain "$@"
    usage >&2
    exit 2
}
have() { command -v "$1" >/dev/null 2>&1; }

pid_file() { printf '%s' "$STATE/$1/redis.pid"; }
log_file() { printf '%s' "$STATE/$1/redis.log"; }

# --- the state of a server ---------------------------------------------------

# Prints the pid of our server on port $1; fails if it does not run. The pid file
# alone proves nothing: the server may have been killed and its pid reused.
our_pid() {
    local pid='' args file
    file=$(pid_file "$1")
    [ -r "$file" ] || return 1
    read -r pid <"$file" || true # read fails if the line has no end
    case $pid in
        '' | *[!0-9]*) return 1 ;;
    esac
    args=$(process_title "$pid" 2>/dev/null) || return 1
    # The second form is the title until Redis has set its own. The spaces keep
    # port 1111 from matching 11110.
    case "/$args " in
        */redis-server\ "$HOST:$1 "* | */redis-server\ "--port $1 "*) printf '%s' "$pid" ;;
        *) return 1 ;;
    esac
}

# Small Linux images have no ps, macOS has no /proc.
process_title() {
    if [ -d /proc/self ]; then
        tr '\0' ' ' <"/proc/$1/cmdline"
    else
        ps -ww -p "$1" -o args=
    fi
}

is_ours() { our_pid "$1" >/dev/null; }

# The subshell closes the connection, and hides bash's message if it is refused.
port_is_open() {
    (exec 3<>"/dev/tcp/$HOST/$1") 2>/dev/null
}

# Uses no redis-cli, which would wait without end for a frozen server.
answers_ping() {
    (
        exec 3<>"/dev/tcp/$HOST/$1" || exit 1
        printf 'PING\r\n' >&3
        IFS= read -r -t 1 reply <&3 || exit 1
        [ "$reply" = $'+PONG\r' ]
    ) 2>/dev/null
}

# --- requirements ------------------------------------------------------------

require_cargo() {
    have cargo || die "cargo, which builds the loader, was not found." \
        "Install Rust (https://rustup.rs), open a new terminal and run this again."
}

# Checks all ports before any server starts, so that a failure changes nothing.
require_ports() {
    local port refused=no
    for port in $PORTS; do
        if is_ours "$port" || ! port_is_open "$port"; then
            continue
        fi
        refused=yes
        complain "port $port is in use by a program that this script did not start."
        if answers_ping "$port"; then
            complain "  It is a Redis server. To stop it: redis-cli -p $port shutdown nosave"
        else
            complain "  To find the program: lsof -nP -iTCP:$port -sTCP:LISTEN"
        fi
    done
    if [ "$refused" = yes ]; then
        die "no server was started. Free the port, then run this again."
    fi
}

# --- installing Redis ----------------------------------------------------------

has_redis() { have redis-server && have redis-cli; }

require_redis() {
    if has_redis; then
        return
    fi
    if have apt-get; then
        install_with_apt
    elif have brew; then
        say "Redis is not installed; installing it: brew install redis"
        brew install redis || die "the installation failed; see the messages above."
    else
        die "Redis is not installed. Install it, then run this again: $(install_hint)"
    fi
    hash -r
    has_redis || die "Redis was installed, but redis-server or redis-cli is not in PATH."
}

install_hint() {
    if have dnf; then
        printf 'sudo dnf install redis'
    elif have zypper; then
        printf 'sudo zypper install redis'
    elif have pacman; then
        printf 'sudo pacman -S redis'
    elif have apk; then
        printf 'sudo apk add redis'
    else
        printf 'brew install redis (or use the package manager of your system)'
    fi
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

install_with_apt() {
    local package=redis-server service_is_new=yes
    if have redis-server; then
        package=redis-tools # only redis-cli is missing
    fi
    if [ "$package" != redis-server ] || redis_service_exists; then
        service_is_new=no
    fi
    if [ "$(id -u)" -ne 0 ] && ! have sudo; then
        die "Redis is not installed. Install it as root, then run this again: apt-get install $package"
    fi
    say "Redis is not installed; installing it: apt-get update, apt-get install -y $package"
    # One unreachable source fails the update, but the package may be known already.
    as_root apt-get update || complain "apt-get update failed; trying to install anyway."
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y "$package" ||
        die "the installation failed; see the messages above."
    if [ "$service_is_new" = yes ]; then
        stop_packaged_service
    fi
}

systemd_runs() { [ -d /run/systemd/system ]; }

redis_service_exists() {
    if [ -e /etc/init.d/redis-server ]; then
        return 0
    fi
    systemd_runs && systemctl cat redis-server.service >/dev/null 2>&1
}

# The package starts a server on port 6379, now and at every boot, which is not
# needed here. Called only if that service did not exist before.
stop_packaged_service() {
    if systemd_runs; then
        as_root systemctl disable --now redis-server.service >/dev/null 2>&1 || true
    else
        as_root service redis-server stop >/dev/null 2>&1 || true
        as_root update-rc.d redis-server disable >/dev/null 2>&1 || true
    fi
}

# --- starting ------------------------------------------------------------------

start_server() {
    local port=$1
    if is_ours "$port"; then
        wait_for_answer "$port"
        say "$HOST:$port already running"
        return
    fi
    mkdir -p "$STATE/$port"
    # A replica saves its primary's data to dump.rdb. A new server would load that
    # file, and old rows would return.
    rm -f "$(pid_file "$port")" "$STATE/$port/dump.rdb"
    # our_pid expects --port first. Without the last option a new replica would
    # wait some seconds for other replicas.
    redis-server --port "$port" --bind "$HOST" --daemonize yes \
        --save '' --appendonly no \
        --dir "$STATE/$port" \
        --pidfile "$(pid_file "$port")" \
        --logfile "$(log_file "$port")" \
        --repl-diskless-sync-delay 0 ||
        die "$HOST:$port could not be started; see the message above or $(log_file "$port")"
    wait_for_answer "$port"
    say "$HOST:$port started"
}

# Checks is_ours too, because another program may have taken the port meanwhile.
wait_for_answer() {
    local deadline=$((SECONDS + START_SECONDS))
    until is_ours "$1" && answers_ping "$1"; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            die "$HOST:$1 does not answer after $START_SECONDS seconds; see $(log_file "$1")." \
                "To stop it: bash load_data.sh --stop"
        fi
        sleep 0.1
    done
}

# --- roles ---------------------------------------------------------------------

# Prints "master" or "slave HOST PORT", the terms of Redis.
role_of() {
    redis-cli -h "$HOST" -p "$1" role | awk '
        NR == 1 { role = $0 }
        NR == 2 || NR == 3 { where = where " " $0 }
        END { print (role == "slave" ? role where : role) }'
}

# Usage: set_role PORT WANTED_ROLE REPLICAOF_ARGUMENT REPLICAOF_ARGUMENT
set_role() {
    local reply
    if [ "$(role_of "$1")" = "$2" ]; then
        return
    fi
    # redis-cli exits with 0 even after an error reply, so the reply decides.
    reply=$(redis-cli -h "$HOST" -p "$1" replicaof "$3" "$4")
    case $reply in
        OK*) ;;
        *) die "$HOST:$1 refused its new role: $reply" ;;
    esac
    if [ "$3" = no ]; then
        say "$HOST:$1 is independent again"
    else
        say "$HOST:$1 is now a replica of $3:$4"
    fi
}

# Without this the loader could finish before the replica starts to copy.
wait_for_link() {
    local deadline=$((SECONDS + LINK_SECONDS))
    until redis-cli -h "$HOST" -p "$1" info replication | grep '^master_link_status:up' >/dev/null; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            die "$HOST:$1 has no link to its primary $HOST:$PRIMARY after $LINK_SECONDS seconds; see $(log_file "$1")"
        fi
        sleep 0.1
    done
}

# Sets roles on every run, because servers may still have those of another run.
set_roles() {
    local port
    for port in $PORTS; do
        if [ "$1" = yes ] && [ "$port" != "$PRIMARY" ]; then
            set_role "$port" "slave $HOST $PRIMARY" "$HOST" "$PRIMARY"
            wait_for_link "$port"
        else
            set_role "$port" master no one
        fi
    done
}

# --- stopping --------------------------------------------------------------------

wait_until_gone() {
    local deadline=$((SECONDS + STOP_SECONDS))
    while is_ours "$1"; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            return 1
        fi
        sleep 0.1
    done
}

# Sends signal $2 to our server on port $1. Verifies the pid each time, because the
# server may have ended meanwhile.
signal_server() {
    local pid
    pid=$(our_pid "$1") || return 0
    kill -s "$2" "$pid" || true # the caller checks whether the server ends
}

stop_server() {
    local port=$1 how=stopped
    if is_ours "$port"; then
        signal_server "$port" TERM
        if ! wait_until_gone "$port"; then
            signal_server "$port" KILL # a frozen process ends only by this signal
            how="stopped by force"
            wait_until_gone "$port" || return 1
        fi
        say "$HOST:$port $how"
    else
        say "$HOST:$port not running"
    fi
    rm -f "$(pid_file "$port")"
}

# Stops replicas first, because a primary waits for slow replicas before it ends.
stop_servers() {
    local port status=0
    for port in $REVERSED; do
        if ! stop_server "$port"; then
            complain "$HOST:$port could not be stopped."
            status=1
        fi
    done
    return "$status"
}

# ---------------------------------------------------------------------------------

main() {
    local replicas=no only='' port
    while [ "$#" -gt 0 ]; do
        case $1 in
            --replicas) replicas=yes ;;
            --stop | --install) only=${only:+two of }$1 ;;
            --help | -h)
                usage
                return
                ;;
            --)
                shift
                break
                ;;
            *) bad_usage "unknown option: $1" ;;
        esac
        shift
    done

    if [ -n "$only" ]; then
        if [ "$replicas" = yes ] || [ "$#" -gt 0 ]; then
            bad_usage "$only cannot be combined with other arguments"
        fi
        case $only in
            --stop) stop_servers ;;
            --install) require_redis ;;
            *) bad_usage "--stop and --install cannot be combined" ;;
        esac
        return
    fi

    require_cargo
    require_ports
    require_redis
    for port in $PORTS; do
        start_server "$port"
    done
    set_roles "$replicas"

    say "loading actors.csv"
    [ -e target/release/seed ] || say "(compiling it first, which takes a minute or two)"
    # That names other servers, whose keys the actors would replace.
    unset LB_BACKENDS
    exec cargo run --quiet --release --locked --bin seed -- "$@"
}

main "$@"
