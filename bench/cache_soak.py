"""Reads through redis-lb's cache what is being written, with CACHE_FAULTS=1 while tracking connections fail. See `make cache-soak`."""

import os

import machine
import peers
import redis_client
import soak_run

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
    return soak_run.load("cache-soak", lb, ports, [*words, "--lb", lb.port])


soak_run.main("cache-soak", cache_soak)
