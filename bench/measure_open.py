"""Latency of open-loop requests, at shares of the rate that HAProxy reaches."""

import statistics

import machine
import measure_resp
import peers

CONNECTIONS = 50
SHARES = (30, 50, 70, 90)
ROUNDS = 7


def run(servers, seconds, say):
    failures = {}
    targets = peers.start_each(peers.RESP, servers, failures)
    by_name = {target.name: target for target in targets}
    # Without HAProxy the rates are shares of what redis-lb reaches.
    measured = by_name.get("haproxy") or by_name["redis-lb"]
    say(f"open loop: throughput of {measured.name}")
    rates = [measure_resp.measure(measured, peers.HASH, CONNECTIONS, 1, 100_000)["rate"] for _ in range(5)]
    saturation = statistics.median(rates)
    loads = {str(share): {target.name: [] for target in targets} for share in SHARES}
    for turn in range(ROUNDS):
        for share in SHARES:
            rate = round(saturation * share / 100)
            say(f"open loop, round {turn + 1} of {ROUNDS}: {share} %, {rate} requests/s")
            for target in peers.in_turn(targets, turn, failures):
                try:
                    arguments = [target.port, servers[0].port, CONNECTIONS, rate, seconds]
                    found = machine.load("open", *arguments, *peers.HASH, seconds=seconds + 20)
                    loads[str(share)][target.name].append(found)
                except RuntimeError as error:
                    failures[target.name] = f"{share} %: {error}"
    peers.stop_each(targets)
    return {"of": measured.name, "saturation": saturation, "loads": loads, "failures": failures, "rounds": ROUNDS}
