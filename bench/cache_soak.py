"""Reads through redis-lb's cache what is being written, with CACHE_FAULTS=1 while tracking connections fail. See `make cache-soak`."""

import os
import signal
import subprocess
import sys

import machine
import peers
import redis_client

MAX_SILENCE_MS = 1000


def start_servers():
    """A primary and two replicas. Replicas are writable, so that each can hold its own number."""
    options = ["--repl-diskless-sync-delay", "0", "--replica-read-only", "no"]
    primary = peers.start_redis("cache-primary", options=options)
    followers = ["--replicaof", "127.0.0.1", primary.port]
    replicas = [peers.start_redis(f"cache-replica{number}", options=[*options, *followers]) for number in (1, 2)]
    return [primary, *replicas]


def cache_soak():
    faults = os.environ.get("CACHE_FAULTS", "") not in ("", "0")
    servers = start_servers()
    ports = [server.port for server in servers]
    seen = [machine.free_port() for _ in ports] if faults else ports
    options = ["--cache", os.environ.get("CACHE_SIZE", "64mib"), "--cache-max-silence", f"{MAX_SILENCE_MS}ms"]
    words = ["cache", "--primary", ports[0], "--max-silence-ms", MAX_SILENCE_MS]
    for name, port in zip(seen, ports):
        words += ["--backend", f"127.0.0.1:{name}={port}"]
        words += ["--relay", f"{name}={port}"] if faults else []
    words += ["--reads", os.environ.get("CACHE_READS", "100000000")]
    words += ["--seconds", os.environ.get("CACHE_SECONDS", "3600"), "--faults", int(faults)]
    lb = peers.start_lb(seen, program=peers.LB, options=options)
    machine.wait_until(lambda: redis_client.ask(lb.port, "PING"), lb.process)
    print(f"redis-lb on port {lb.port}, Redis on {', '.join(map(str, ports))}", flush=True)
    load = subprocess.Popen([str(word) for word in [machine.LOAD, *words, "--lb", lb.port]])
    try:
        code = load.wait()
    finally:
        load.kill()
        load.wait()
    if lb.process.poll() is not None:
        sys.exit(f"cache-soak: redis-lb has ended with code {lb.process.returncode}")
    memory = machine.resident_kib(lb.process.pid) // 1024
    print(f"redis-lb used {lb.cpu_seconds():.1f} s of CPU and {memory} MiB of memory")
    return code


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("cache-soak: ended by a signal"))
    machine.raise_file_limit()
    try:
        code = cache_soak()
    finally:
        machine.stop_all()
    sys.exit(code)


main()
