#!/usr/bin/env bash
#
# Starts the three Redis servers that redis-lb reads from and fills them with
# the rows of actors.csv. Safe to run again: what already runs is kept.
#
# Works with bash 3.2, the version that macOS has.

set -euo pipefail

HOST=127.0.0.1
PRIMARY=1111
PORTS="1111 2222 3333"
REVERSED="3333 2222 1111"
START_SECONDS=10 # how long a server may take until it answers
LINK_SECONDS=30  # how long a replica may take to copy its primary
STOP_SECONDS=5   # how long a server may take to end by itself

CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
STATE="$PWD/.redis"

usage() {
    cat <<'TEXT'
Usage: bash load_data.sh [--replicas] [-- SEED_ARGUMENT...]
       bash load_data.sh --stop
       bash load_data.sh --install
       bash load_data.sh --help

Starts Redis on 127.0.0.1, ports 1111, 2222 and 3333, and loads actors.csv.
Redis is installed first (apt or Homebrew) if this computer lacks it.

  --replicas  make 2222 and 3333 replicas of 1111;
              without it all three are independent
  --stop      end the servers that this script started
  --install   install Redis if this computer lacks it, and start nothing
  --help      show this text

What follows -- is handed to the loader unchanged.
Logs and pid files are kept in the folder .redis/, one subfolder per port.
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

# --- looking at a server -----------------------------------------------------

# Prints the pid of our server on port $1; fails if it does not run. A pid file
# alone proves nothing: the server may have been killed, and its number given
# to another process since.
our_pid() {
    local pid='' args file
    file=$(pid_file "$1")
    [ -r "$file" ] || return 1
    read -r pid <"$file" || true # read also fails when the line end is missing
    case $pid in
        '' | *[!0-9]*) return 1 ;;
    esac
    args=$(process_title "$pid" 2>/dev/null) || return 1
    # The second form is what is shown until Redis has set its own title. The
    # spaces keep port 1111 from matching 11110.
    case "/$args " in
        */redis-server\ "$HOST:$1 "* | */redis-server\ "--port $1 "*) printf '%s' "$pid" ;;
        *) return 1 ;;
    esac
}

# Small Linux images lack ps, macOS lacks /proc.
process_title() {
    if [ -d /proc/self ]; then
        tr '\0' ' ' <"/proc/$1/cmdline"
    else
        ps -ww -p "$1" -o args=
    fi
}

is_ours() { our_pid "$1" >/dev/null; }

# The subshell closes the connection again, and hides bash's own message when
# it is refused.
port_is_open() {
    (exec 3<>"/dev/tcp/$HOST/$1") 2>/dev/null
}

# Not redis-cli, which would wait for ever on a frozen server.
answers_ping() {
    (
        exec 3<>"/dev/tcp/$HOST/$1" || exit 1
        printf 'PING\r\n' >&3
        IFS= read -r -t 1 reply <&3 || exit 1
        [ "$reply" = $'+PONG\r' ]
    ) 2>/dev/null
}

# --- what has to be there first ----------------------------------------------

require_cargo() {
    have cargo || die "cargo is needed to build the loader and was not found." \
        "Install Rust (https://rustup.rs), open a new terminal and run this again."
}

# Looks at every port before anything is started, so that a refusal leaves the
# computer as it was.
require_ports() {
    local port refused=no
    for port in $PORTS; do
        if is_ours "$port" || ! port_is_open "$port"; then
            continue
        fi
        refused=yes
        complain "port $port is in use by a program that this script did not start."
        if answers_ping "$port"; then
            complain "  It is a Redis server. If you can spare it: redis-cli -p $port shutdown nosave"
        else
            complain "  To see which program it is: lsof -nP -iTCP:$port -sTCP:LISTEN"
        fi
    done
    if [ "$refused" = yes ]; then
        die "nothing was started. Free the port, then run this again."
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
        die "Redis is not installed. Type this, then run this again: $(install_hint)"
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
        printf 'brew install redis (or what your system uses to install software)'
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
        die "Redis is not installed. Type this as root, then run this again: apt-get install $package"
    fi
    say "Redis is not installed; installing it: apt-get update, apt-get install -y $package"
    # One unreachable source fails the update, though the package may be known.
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

# The package starts a server of its own on port 6379, now and at every boot.
# Nobody asked for that one. Called only if there was no such service before.
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
    # A replica writes its primary's data to dump.rdb, which a new server would
    # load: old rows would come back.
    rm -f "$(pid_file "$port")" "$STATE/$port/dump.rdb"
    # --port comes first: our_pid looks for it there. Without the last option a
    # new replica would wait some seconds for others to join it.
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

# is_ours as well: if another program took the port in the meantime, an answer
# would be that program's.
wait_for_answer() {
    local deadline=$((SECONDS + START_SECONDS))
    until is_ours "$1" && answers_ping "$1"; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            die "$HOST:$1 does not answer after $START_SECONDS seconds; see $(log_file "$1")." \
                "To end it: bash load_data.sh --stop"
        fi
        sleep 0.1
    done
}

# --- roles ---------------------------------------------------------------------

# Prints "master", or "slave HOST PORT" (these are Redis's own words).
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
    # redis-cli exits with 0 on an error reply too, so the reply is what counts.
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

# Without this the loader could be done before the replica has begun to copy.
wait_for_link() {
    local deadline=$((SECONDS + LINK_SECONDS))
    until redis-cli -h "$HOST" -p "$1" info replication | grep '^master_link_status:up' >/dev/null; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            die "$HOST:$1 is not in step with $HOST:$PRIMARY after $LINK_SECONDS seconds; see $(log_file "$1")"
        fi
        sleep 0.1
    done
}

# Set on every run, because servers may be left over from a run with the other
# choice.
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

# Sends signal $2 to our server on port $1. The pid is looked up and verified
# anew each time, as the server may have ended meanwhile.
signal_server() {
    local pid
    pid=$(our_pid "$1") || return 0
    kill -s "$2" "$pid" || true # what matters is whether the server then ends
}

stop_server() {
    local port=$1 how=stopped
    if is_ours "$port"; then
        signal_server "$port" TERM
        if ! wait_until_gone "$port"; then
            signal_server "$port" KILL # the only signal that ends a frozen process
            how="stopped by force"
            wait_until_gone "$port" || return 1
        fi
        say "$HOST:$port $how"
    else
        say "$HOST:$port not running"
    fi
    rm -f "$(pid_file "$port")"
}

# Replicas first: a primary that ends waits for replicas that lag behind.
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
            bad_usage "$only cannot be combined with anything else"
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
    [ -e target/release/seed ] || say "(first the program is compiled, which takes a minute or two)"
    exec cargo run --quiet --release --locked --bin seed -- "$@"
}

main "$@"
