"""Throughput over 1, 2 and 3 backends, each of which answers one read a millisecond."""

import machine
import measure_resp
import peers
import redis_client

CONNECTIONS = 60
DELAY_MICROSECONDS = 1000
ROUNDS = 3


def run(servers, seconds, say):
    relays, ports = [], []
    for server in servers:
        ports.append(machine.free_port())
        relays.append(machine.holding_load("relay", ports[-1], server.port, DELAY_MICROSECONDS))
    results = {backends: [] for backends in ("1", "2", "3")}
    for turn in range(ROUNDS):
        say(f"slow backends, round {turn + 1} of {ROUNDS}")
        for backends, runs in results.items():
            target = peers.start_lb(ports[: int(backends)])
            machine.wait_until(lambda: redis_client.ask(target.port, *peers.SHORT))
            requests = int(seconds * 900 * int(backends))
            runs.append(measure_resp.measure(target, peers.SHORT, CONNECTIONS, 1, requests))
            machine.stop(target.process)
    for relay in relays:
        machine.stop(relay)
    return {"targets": results, "failures": {}, "rounds": ROUNDS}
