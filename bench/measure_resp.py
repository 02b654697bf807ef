"""Throughput, latency and CPU over RESP, with redis-benchmark."""

import csv

import machine
import peers

# All combinations but one: 500 clients x 16 x 64 KiB are 500 MiB of outstanding replies, which would measure
# memory.
CASES = [
    (command, connections, pipeline)
    for command in (peers.HASH, peers.SHORT, peers.LONG)
    for connections in (1, 50, 500)
    for pipeline in (1, 16)
    if (command, connections, pipeline) != (peers.LONG, 500, 16)
]
ROUNDS = 7
MAX_REQUESTS = 3_000_000


def run(servers, seconds, say):
    failures = {}
    targets = peers.start_each(peers.RESP, servers, failures)
    cases = [
        {"command": " ".join(command), "connections": connections, "pipeline": pipeline, "targets": {}}
        for command, connections, pipeline in CASES
    ]
    for turn in range(ROUNDS):
        for case, (command, connections, pipeline) in zip(cases, CASES):
            share = 1 if command == peers.HASH else 0.6
            say(f"RESP, round {turn + 1} of {ROUNDS}: {case['command']}, {connections} clients, pipeline {pipeline}")
            for target in peers.in_turn(targets, turn, failures):
                runs = case["targets"].setdefault(target.name, [])
                try:
                    rate = runs[-1]["rate"] if runs else pilot(target, command, connections, pipeline)
                    requests = int(min(MAX_REQUESTS, max(rate * seconds * share, connections * pipeline * 4)))
                    runs.append(measure(target, command, connections, pipeline, requests, servers=servers))
                except RuntimeError as error:
                    failures[target.name] = f"{case['command']}, {connections} x {pipeline}: {error}"
    peers.stop_each(targets)
    return {"cases": cases, "failures": failures, "rounds": ROUNDS}


def pilot(target, command, connections, pipeline):
    """The rate of a short run, which serves as warm-up and sets the length of the next run."""
    requests = max(2000, 3 * connections * pipeline)
    return measure(target, command, connections, pipeline, requests)["rate"]


def measure(target, command, connections, pipeline, requests, more=(), servers=()):
    """`total_cpu` is that of the target and of the servers behind it."""
    used = {target.process.pid, *(server.process.pid for server in servers)}
    before, total = target.cpu_seconds(), sum(map(machine.cpu_seconds, used))
    options = ["-h", "127.0.0.1", "-p", target.port, "-c", connections, "-P", pipeline, "-n", requests, "--csv", *more]
    lines = machine.run(["redis-benchmark", *options, *command], 60).splitlines()
    cpu, total = target.cpu_seconds() - before, sum(map(machine.cpu_seconds, used)) - total
    head, values = list(csv.reader(lines))[-2:]
    figures = dict(zip(head, values))
    return {
        "rate": float(figures["rps"]),
        "p50": float(figures["p50_latency_ms"]),
        "p99": float(figures["p99_latency_ms"]),
        "cpu": cpu * 1e6 / requests,
        "total_cpu": total * 1e6 / requests,
    }
