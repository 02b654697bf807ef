"""Starts Redis, redis-lb and the other proxies."""

import re
import socket
import string

import certificates
import machine
import redis_client
from machine import CORES, HOME, RUN

LB = HOME / "target/release/lb"
SEED = HOME / "target/release/seed"
MAX_CLIENTS = 12000
# HAProxy needs two open files for each client, and refuses to start with too few.
MAX_HAPROXY_CLIENTS = min(MAX_CLIENTS, machine.raise_file_limit() // 2 - 50)

HASH = ("HGETALL", "actor:327")
SHORT = ("GET", "string:64")
LONG = ("GET", "string:65536")

# Targets in the order of the tables. "direct" is one of the Redis servers, without a proxy.
RESP = ["direct", "redis-lb", "haproxy", "nginx", "nutcracker", "envoy"]
HTTP = ["redis-lb", "webdis"]
# redis-lb with its near cache.
CACHED = "redis-lb-cache"
CACHE = ["--cache", "64mib"]


class Target:
    def __init__(self, name, port, process, tls_port=None):
        self.name, self.port, self.process, self.tls_port = name, port, process, tls_port

    def cpu_seconds(self):
        return machine.cpu_seconds(self.process.pid)


def start_redis(name, tls=False, options=()):
    port, tls_port = machine.free_port(), machine.free_port() if tls else None
    command = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    if tls:
        command += ["--tls-port", tls_port, "--tls-auth-clients", "no"]
        command += ["--tls-cert-file", certificates.CERTIFICATE, "--tls-key-file", certificates.KEY]
        command += ["--tls-ca-cert-file", certificates.CERTIFICATE]
    process = machine.start(name, command + ["--maxclients", MAX_CLIENTS, *options])
    machine.wait_until(lambda: redis_client.ask(port, "PING"))
    return Target("direct", port, process, tls_port)


def start_servers(tls=False):
    """Three servers with the same data: the actors, a short string and a long one."""
    servers = [start_redis(f"redis{number}{'-tls' * tls}", tls) for number in (1, 2, 3)]
    backends = [word for server in servers for word in ("--backend", f"127.0.0.1:{server.port}")]
    machine.run([SEED, HOME / "actors.csv", *backends], 60)
    for server in servers:
        for length in (64, 65536):
            redis_client.ask(server.port, "SET", f"string:{length}", "x" * length)
    return servers


def start_lb(backends, port=None, program=LB, folder="redis-lb", options=()):
    """`backends` are ports, or addresses."""
    port = port or machine.free_port()
    command = [program, "--quiet", "--listen", f"127.0.0.1:{port}", "--max-clients", MAX_CLIENTS, *options]
    for backend in backends:
        command += ["--backend", f"127.0.0.1:{backend}" if isinstance(backend, int) else backend]
    return Target("redis-lb", port, machine.start(folder, command))


# TLS towards clients.
LB_TLS = ["--tls-cert", certificates.CERTIFICATE, "--tls-key", certificates.KEY]


def tls_backends(servers):
    """The options and addresses of `lb` for TLS towards Redis."""
    return ["--backend-tls-ca", certificates.CERTIFICATE], [f"rediss://127.0.0.1:{server.tls_port}" for server in servers]


def start_peer(name, backends):
    configuration = next((HOME / "bench/peers").glob(f"{name}.*"))
    port = machine.free_port()
    values = {"PORT": port, "CORES": CORES, "FILES": machine.raise_file_limit(), "MAX_CLIENTS": MAX_HAPROXY_CLIENTS}
    values.update(CERTIFICATE=certificates.CERTIFICATE, KEY=certificates.KEY, BOTH=certificates.BOTH)
    values.update({f"BACKEND_{number}": backend for number, backend in enumerate(backends, 1)})
    folder = RUN / "run" / name
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / configuration.name
    file.write_text(string.Template(configuration.read_text()).substitute(values))
    return Target(name, port, machine.start(name, _command(name.split("-")[0], file)))


def _command(name, file):
    folder = file.parent
    if name == "haproxy":
        return ["haproxy", "-db", "-f", file]
    if name == "nginx":
        return ["nginx", "-p", f"{folder}/", "-c", file, "-e", "nginx.log"]
    if name == "nutcracker":
        statistics = ["-a", "127.0.0.1", "-s", machine.free_port()]
        return ["nutcracker", "-c", file, "-o", folder / "nutcracker.log", "-p", folder / "pid", *statistics]
    if name == "envoy":
        options = ["--concurrency", CORES, "--log-level", "warn", "--disable-hot-restart"]
        return [_envoy(), "-c", file, *options]
    return [name, file]


def _envoy():
    found = sorted((RUN / "venv").glob("lib/python*/site-packages/envoy/_bin/envoy"))
    if not found:
        raise FileNotFoundError("not installed")
    return found[0]


def start(name, servers):
    """Starts a target and checks that it answers as Redis does."""
    ports = [server.port for server in servers]
    if name == "direct":
        return servers[0]
    if name in ("redis-lb", CACHED):
        target = start_lb(ports, folder=name, options=CACHE * (name == CACHED))
        target.name = name
    else:
        target = start_peer(name, ports)
    try:
        if name == "webdis":
            machine.wait_until(lambda: socket.create_connection(("127.0.0.1", target.port)).close())
        else:
            _compare(target.port, ports[0])
    except (OSError, RuntimeError) as error:
        machine.stop(target.process)
        log = (RUN / "run" / name / "log").read_text().strip().splitlines()
        raise RuntimeError(f"{error}; {log[-1][:200] if log else 'its log is empty'}") from None
    return target


def _compare(port, reference):
    machine.wait_until(lambda: redis_client.ask(port, *SHORT))
    for command in (HASH, SHORT, LONG):
        if redis_client.ask(port, *command) != redis_client.ask(reference, *command):
            raise RuntimeError(f"its reply to {' '.join(command)} differs from that of Redis")


def start_each(names, servers, failures):
    """The targets that start; `failures` gets the reason for each that does not."""
    targets = []
    for name in names:
        try:
            targets.append(start(name, servers))
        except (OSError, RuntimeError) as error:
            failures[name] = str(error)
    return targets


def without(targets, failures):
    """The targets that have not failed; another failure could take another long wait."""
    return [target for target in targets if target.name not in failures]


def in_turn(targets, turn, failures):
    """The targets that have not failed, each of them the first in its turn."""
    targets = without(targets, failures)
    first = turn % len(targets) if targets else 0
    return targets[first:] + targets[:first]


def stop_each(targets):
    for target in targets:
        if target.name != "direct":
            machine.stop(target.process)


def versions():
    found = {"redis-lb": machine.run([LB, "--version"], 10).split()[1]}
    try:
        found["redis-lb"] += ", commit " + machine.run(["git", "-C", HOME, "rev-parse", "--short", "HEAD"], 10).strip()
    except (OSError, RuntimeError):
        pass  # not a Git repository
    packages = ["redis-server", "haproxy", "nginx", "nutcracker", "webdis", "wrk"]
    found.update({package: machine.package_version(package) for package in packages})
    try:
        found["envoy"] = re.search(r"/(\d+\.\d+\.\d+)/", machine.run([_envoy(), "--version"], 10))[1]
    except (OSError, RuntimeError, TypeError):
        found["envoy"] = "unknown"
    return found
