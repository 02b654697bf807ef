"""How throughput, latency and CPU grow with clients, with the size of values, with the hit rate, and with slow backends."""

import machine
import measure_resp
import peers
import redis_client

ROUNDS = 3
CLIENTS = (1, 10, 100, 1000, 5000, 9500)
SIZES = (16, 256, 4096, 65536, 1048576)
HITS = (0, 25, 50, 75, 90, 100)
BACKENDS = (1, 2, 4, 8)
SLOW_MICROSECONDS = 1000
# Keys that are read again and again, beside others that are read once.
HOT_KEYS = 100
NAMES = ["redis-lb", peers.CACHED, "haproxy"]


def run(servers, seconds, say):
    failures = {}
    for server in servers:
        for size in SIZES:
            redis_client.ask(server.port, "SET", f"string:{size}", "x" * size)
        for key in range(HOT_KEYS):
            redis_client.ask(server.port, "SET", f"hot:{key}", "x" * 64)
    targets = peers.start_each(NAMES, servers, failures)

    def clients(target, number):
        return closed(target, peers.HASH, number, seconds)

    def sizes(target, size):
        return closed(target, ("GET", f"string:{size}"), 50, seconds)

    def hits(target, share):
        before = target.cpu_seconds()
        found = machine.load("mixed", target.port, 50, seconds, share, HOT_KEYS, seconds=seconds + 20)
        return {**found, "cpu": (target.cpu_seconds() - before) * 1e6 / found["requests"]}

    growths = {}
    for name, steps, measure in (("clients", CLIENTS, clients), ("size", SIZES, sizes), ("hits", HITS, hits)):
        growths[name] = {target.name: {str(step): [] for step in steps} for target in targets}
        for turn in range(ROUNDS):
            for step in steps:
                say(f"growth, round {turn + 1} of {ROUNDS}: {name} {step}")
                for target in peers.in_turn(targets, turn, failures):
                    try:
                        growths[name][target.name][str(step)].append(measure(target, step))
                    except RuntimeError as error:
                        failures[f"{target.name}, {name} {step}"] = str(error)
    peers.stop_each(targets)
    growths["backends"] = slow_backends(servers, seconds, say)
    return {"growths": growths, "failures": failures, "rounds": ROUNDS}


def closed(target, command, connections, seconds):
    rate = measure_resp.pilot(target, command, connections, 1)
    requests = int(max(rate * seconds, connections * 4))
    return measure_resp.measure(target, command, connections, 1, requests)


def slow_backends(servers, seconds, say):
    relays, ports = [], []
    for number in range(max(BACKENDS)):
        ports.append(machine.free_port())
        relays.append(machine.holding_load("relay", ports[-1], servers[number % 3].port, SLOW_MICROSECONDS))
    results = {"redis-lb": {str(count): [] for count in BACKENDS}}
    for turn in range(ROUNDS):
        for count in BACKENDS:
            say(f"growth, round {turn + 1} of {ROUNDS}: {count} slow backends")
            target = peers.start_lb(ports[:count])
            machine.wait_until(lambda: redis_client.ask(target.port, *peers.SHORT))
            requests = int(seconds * 900 * count)
            results["redis-lb"][str(count)].append(measure_resp.measure(target, peers.SHORT, 80, 1, requests))
            machine.stop(target.process)
    for relay in relays:
        machine.stop(relay)
    return results
