"""Compares two builds of lb for regressions, in interleaved rounds of one run. See `make compare`."""

import argparse
import pathlib
import signal
import sys
import time

import goals
import machine
import measure_http
import measure_resp
import peers
import redis_client
import report

CONNECTIONS = 50
PIPELINE = 16
IDLE_CLIENTS = 1000


def resp(target, pipeline, seconds):
    """Closed loop, with redis-benchmark."""
    rate = measure_resp.pilot(target, peers.HASH, CONNECTIONS, pipeline)
    requests = max(1, int(rate * seconds))
    return measure_resp.measure(target, peers.HASH, CONNECTIONS, pipeline, requests)


def half_load(target, reference, rate, seconds):
    """Open loop, at a rate that both builds get."""
    before = target.cpu_seconds()
    arguments = [target.port, reference, CONNECTIONS, rate, seconds, *peers.HASH]
    figures = machine.load("open", *arguments, seconds=seconds + 20)
    figures["cpu"] = (target.cpu_seconds() - before) * 1e6 / figures["requests"]
    return figures


def idle(target, reference):
    """Resident memory, on a process that has done nothing else."""
    crowd = machine.holding_load("idle", target.port, reference, IDLE_CLIENTS, *peers.SHORT)
    time.sleep(0.5)
    resident = machine.resident_kib(target.process.pid) / 1024
    machine.stop(crowd)
    return {"resident": resident}


# Rows of the table: case, figure, its name and its digits.
ROWS = [
    (case, figure, f"{name}: {what}", digits)
    for case, name in (("resp", "RESP"), ("pipelined", f"RESP, pipeline {PIPELINE}"), ("http", "HTTP GET"))
    for figure, what, digits in (
        ("rate", "requests/s", 0),
        ("p50", "p50 ms", 3),
        ("p99", "p99 ms", 3),
        ("cpu", "CPU µs a request", 1),
    )
] + [
    ("half", "cpu", "half load: CPU µs a request", 1),
    ("half", "p50", "half load: p50 ms", 3),
    ("half", "p99", "half load: p99 ms", 3),
    ("idle", "resident", f"{IDLE_CLIENTS} idle clients: resident MiB", 1),
]


def play_round(programs, servers, order, seconds):
    """The figures of both builds, by case."""
    ports = [server.port for server in servers]
    targets = {side: peers.start_lb(ports, program=program, folder=f"lb-{side}") for side, program in programs.items()}
    for target in targets.values():
        machine.wait_until(lambda: redis_client.ask(target.port, *peers.SHORT), target.process)
    found = {
        "idle": {side: idle(targets[side], ports[0]) for side in order},
        "resp": {side: resp(targets[side], 1, seconds) for side in order},
        "pipelined": {side: resp(targets[side], PIPELINE, seconds) for side in order},
        "http": {side: measure_http.measure(targets[side], [], seconds) for side in order},
    }
    rate = round(found["resp"]["before"]["rate"] / 2)
    found["half"] = {side: half_load(targets[side], ports[0], rate, seconds) for side in order}
    peers.stop_each(targets.values())
    return found


def table(rounds):
    rows = []
    for case, figure, name, digits in ROWS:
        before, after = ([found[case][side] for found in rounds] for side in ("before", "after"))
        ratio = goals.median(after, figure) / goals.median(before, figure) if goals.median(before, figure) else 0
        spreads = [report.spread([run[figure] for run in runs], digits) for runs in (before, after)]
        rows.append([name, *spreads, f"{ratio:.2f}"])
    return report.table(["median (min–max)", "before", "after", "after/before"], rows, "lrrr")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", required=True, type=pathlib.Path, help="the lb program to compare with")
    parser.add_argument("--after", default=peers.LB, type=pathlib.Path, help="the lb to judge (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, each with both programs (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3, help="duration of a measurement (default: %(default)s)")
    arguments = parser.parse_args()
    programs = {"before": arguments.before.resolve(), "after": arguments.after.resolve()}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("compare: ended by a signal"))
    machine.raise_file_limit()
    rounds = []
    try:
        servers = peers.start_servers()
        for turn in range(arguments.rounds):
            machine.say(f"round {turn + 1} of {arguments.rounds}")
            machine.idle_share("compare")
            order = ["before", "after"] if turn % 2 == 0 else ["after", "before"]
            rounds.append(play_round(programs, servers, order, arguments.seconds))
    finally:
        machine.stop_all()
    print(table(rounds), end="")


main()
