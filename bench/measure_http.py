"""Throughput, latency and CPU of redis-lb and Webdis over HTTP, with wrk."""

import re
import urllib.request

import machine
import peers

CONNECTIONS = 50
ROUNDS = 7
PATHS = {"redis-lb": "/actor:1", "redis-lb-cache": "/actor:1", "webdis": "/HGETALL/actor:1"}
CASES = {"keep-alive": [], "new connection": ["-H", "Connection: close"]}
UNITS = {"us": 1e-3, "ms": 1, "s": 1e3}


def run(servers, seconds, say):
    failures = {}
    targets = peers.start_each(peers.HTTP, servers, failures)
    cases = {name: {target.name: [] for target in targets} for name in CASES}
    for target in targets:
        with urllib.request.urlopen(url(target), timeout=10) as answer:
            if b"Ellingworth" not in answer.read():
                failures[target.name] = "the response does not contain the actor"
    for turn in range(ROUNDS):
        for name, options in CASES.items():
            say(f"HTTP, round {turn + 1} of {ROUNDS}: {name}")
            for target in peers.in_turn(targets, turn, failures):
                try:
                    cases[name][target.name].append(measure(target, options, seconds))
                except RuntimeError as error:
                    failures[target.name] = f"{name}: {error}"
    peers.stop_each(targets)
    return {"cases": cases, "failures": failures, "rounds": ROUNDS}


def url(target):
    return f"http://127.0.0.1:{target.port}{PATHS[target.name]}"


def measure(target, options, seconds):
    before = target.cpu_seconds()
    duration = max(1, round(seconds))
    command = ["wrk", "-t", 1, "-c", CONNECTIONS, "-d", duration, "--latency", *options, url(target)]
    text = machine.run(command, duration + 20)
    cpu = target.cpu_seconds() - before
    if "Non-2xx" in text or "Socket errors" in text:
        raise RuntimeError(" ".join(line.strip() for line in text.splitlines() if "Non-2xx" in line or "errors" in line))
    requests = int(re.search(r"(\d+) requests in", text)[1])
    return {
        "rate": float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]),
        "p50": percentile(text, 50),
        "p99": percentile(text, 99),
        "cpu": cpu * 1e6 / requests,
    }


def percentile(text, which):
    value, unit = re.search(rf"{which}%\s+([\d.]+)(us|ms|s)", text).groups()
    return float(value) * UNITS[unit]
