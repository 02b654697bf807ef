"""Memory of 10,000 idle clients, and the latency of an active client among them."""

import time

import machine
import peers

CLIENTS = 10_000
RATE = 1000


def run(servers, seconds, say):
    failures, results = {}, {}
    for name in peers.RESP[1:]:
        clients = min(CLIENTS, peers.MAX_HAPROXY_CLIENTS - 50) if name == "haproxy" else CLIENTS
        say(f"idle clients: {clients} at {name}")
        targets = peers.start_each([name], servers, failures)
        if targets:
            try:
                results[name] = measure(targets[0], servers[0].port, clients, seconds)
            except RuntimeError as error:
                failures[name] = f"{clients} clients: {error}"
            peers.stop_each(targets)
    return {"targets": results, "failures": failures, "rate": RATE}


def measure(target, reference, clients, seconds):
    pid = target.process.pid
    alone = active(target, reference, seconds)
    before, stacks_before = machine.resident_kib(pid), machine.kernel_stacks_kib()
    crowd = machine.holding_load("idle", target.port, reference, clients, *peers.SHORT)
    try:
        time.sleep(1)
        after, stacks_after = machine.resident_kib(pid), machine.kernel_stacks_kib()
        among = active(target, reference, seconds)
    finally:
        machine.stop(crowd)
    return {
        "clients": clients,
        "resident": (after - before) / clients,
        "stack": max(0, stacks_after - stacks_before) / clients,
        "alone_p99": alone["p99"],
        "among_p99": among["p99"],
    }


def active(target, reference, seconds):
    return machine.load("open", target.port, reference, 1, RATE, seconds, *peers.SHORT, seconds=seconds + 20)
