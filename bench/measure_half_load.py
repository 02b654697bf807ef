"""Latency of open-loop requests, at half the rate that HAProxy reaches."""

import statistics

import machine
import measure_resp
import peers

CONNECTIONS = 50
ROUNDS = 5


def run(servers, seconds, say):
    failures = {}
    targets = peers.start_each(peers.RESP, servers, failures)
    by_name = {target.name: target for target in targets}
    # Without HAProxy the rate is half of what redis-lb reaches.
    measured = by_name.get("haproxy") or by_name["redis-lb"]
    say(f"half load: throughput of {measured.name}")
    rates = [measure_resp.measure(measured, peers.HASH, CONNECTIONS, 1, 100_000)["rate"] for _ in range(3)]
    rate = round(statistics.median(rates) / 2)
    results = {target.name: [] for target in targets}
    for turn in range(ROUNDS):
        say(f"half load, round {turn + 1} of {ROUNDS}: {rate} requests/s")
        for target in peers.without(targets, failures):
            try:
                arguments = [target.port, servers[0].port, CONNECTIONS, rate, seconds]
                results[target.name].append(machine.load("open", *arguments, *peers.HASH, seconds=seconds + 20))
            except RuntimeError as error:
                failures[target.name] = str(error)
    peers.stop_each(targets)
    return {"of": measured.name, "rate": rate, "targets": results, "failures": failures, "rounds": ROUNDS}
