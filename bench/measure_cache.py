"""Reads that the near cache answers: throughput, latency, and CPU of the proxy and of Redis."""

import urllib.request

import machine
import measure_http
import measure_resp
import peers
import redis_client

ROUNDS = 7
SLOW_MICROSECONDS = 1000
SLOW_CLIENTS = 500
# Keys that are not there, hardly any of which is read twice.
NO_HITS = ("-r", 10_000_000)
MISSING = ("GET", "missing:__rand_int__")


def run(servers, seconds, say):
    failures = {}
    targets = peers.start_each([*peers.RESP, peers.CACHED, "webdis"], servers, failures)
    relays, slow = start_slow(servers)
    by_name = {target.name: target for target in [*targets, slow]}
    resp = [name for name in [*peers.RESP, peers.CACHED] if name in by_name]
    http = [name for name in ("redis-lb", peers.CACHED, "webdis") if name in by_name]

    def hits(pipeline):
        return lambda target: timed(target, peers.HASH, 50, pipeline, seconds, servers)

    def no_hits(target):
        return timed(target, MISSING, 50, 1, seconds, servers, NO_HITS)

    def one_key(target):
        return timed(target, peers.SHORT, SLOW_CLIENTS, 1, seconds, servers)

    plan = {
        "`HGETALL`, 50 clients": (resp, hits(1)),
        "`HGETALL`, 50 clients, pipeline 16": (resp, hits(16)),
        "no hits, 50 clients": (["redis-lb", peers.CACHED], no_hits),
        "one hot key, 500 clients": ([peers.CACHED, "slow"], one_key),
        "HTTP": (http, lambda target: measure_http.measure(target, [], seconds)),
        "HTTP, If-None-Match": (http, lambda target: measure_http.measure(target, if_none_match(target), seconds)),
    }
    cases = {case: {name: [] for name in names} for case, (names, _) in plan.items()}
    for turn in range(ROUNDS):
        for case, (names, measure) in plan.items():
            say(f"cache, round {turn + 1} of {ROUNDS}: {case}")
            for target in peers.in_turn([by_name[name] for name in names if name in by_name], turn, failures):
                try:
                    cases[case][target.name].append(measure(target))
                except RuntimeError as error:
                    failures[target.name] = f"{case}: {error}"
    peers.stop_each([*targets, slow])
    for relay in relays:
        machine.stop(relay)
    return {"cases": cases, "failures": failures, "rounds": ROUNDS}


def timed(target, command, connections, pipeline, seconds, servers, more=()):
    """A run of about that time; the last rate of this case sets its length."""
    rates = target.rates = getattr(target, "rates", {})
    case = (command, connections, pipeline)
    if case not in rates:
        rates[case] = measure_resp.pilot(target, command, connections, pipeline)
    requests = int(min(measure_resp.MAX_REQUESTS, max(rates[case] * seconds, connections * pipeline * 4)))
    found = measure_resp.measure(target, command, connections, pipeline, requests, more, servers)
    rates[case] = found["rate"]
    return found


def start_slow(servers):
    """redis-lb with its cache, before three relays that answer one read at a time, a millisecond each."""
    relays, ports = [], []
    for server in servers:
        ports.append(machine.free_port())
        relays.append(machine.holding_load("relay", ports[-1], server.port, SLOW_MICROSECONDS))
    slow = peers.start_lb(ports, folder="slow", options=peers.CACHE)
    slow.name = "slow"
    machine.wait_until(lambda: redis_client.ask(slow.port, *peers.SHORT))
    return relays, slow


def if_none_match(target):
    with urllib.request.urlopen(measure_http.url(target), timeout=10) as answer:
        return ["-H", f"If-None-Match: {answer.headers['ETag']}"]
