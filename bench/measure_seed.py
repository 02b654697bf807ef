"""Loading a million rows into one Redis server, with seed and with redis-cli --pipe."""

import csv
import re
import threading
import time

import machine
import peers
import redis_client
from machine import HOME, RUN

ROWS = 1_000_000
ROUNDS = 3


def run(_servers, _seconds, say):
    table, commands = RUN / "million.csv", RUN / "million.resp"
    if not commands.exists():
        say("seed: generating a million rows")
        make_rows(table, commands)
    server = peers.start_redis("redis-seed")
    results = {"seed": [], "redis-cli --pipe": []}
    for turn in range(ROUNDS):
        say(f"seed, round {turn + 1} of {ROUNDS}")
        results["redis-cli --pipe"].append(pipe(server.port, commands))
        check_and_empty(server.port)
        results["seed"].append(seed(server.port, table))
        check_and_empty(server.port)
    machine.stop(server.process)
    return {"rows": ROWS, "targets": results, "failures": {}, "rounds": ROUNDS}


def make_rows(table, commands):
    """Repeats the rows of actors.csv with new ids, as CSV and as commands."""
    with open(HOME / "actors.csv", newline="") as file:
        head, *actors = list(csv.reader(file))
    with open(table, "w", newline="") as rows, open(str(commands) + ".new", "wb") as resp:
        writer = csv.writer(rows)
        writer.writerow(head)
        for number in range(1, ROWS + 1):
            values = actors[number % len(actors)][1:]
            writer.writerow([number, *values])
            words = ["HSET", f"actor:{number}"] + [word for pair in zip(head[1:], values) for word in pair]
            resp.write(redis_client.encode(*words))
    (RUN / "million.resp.new").rename(commands)


def check_and_empty(port):
    keys = redis_client.number(port, "DBSIZE")
    fields = redis_client.number(port, "HLEN", f"actor:{ROWS}")
    if (keys, fields) != (ROWS, 3):
        raise RuntimeError(f"{keys} keys and {fields} fields instead of {ROWS} and 3")
    redis_client.ask(port, "FLUSHALL", "SYNC")


def pipe(port, commands):
    start = time.monotonic()
    with open(commands, "rb") as file:
        answer = machine.run(["redis-cli", "-p", port, "--pipe"], 120, stdin=file)
    if f"errors: 0, replies: {ROWS}" not in answer:
        raise RuntimeError(answer)
    return {"write": time.monotonic() - start}


def seed(port, table):
    """The times that seed prints. Where it prints none for writing: from the first key to the last in Redis."""
    watcher = KeyCountWatcher(port)
    start = time.monotonic()
    text = machine.run([peers.SEED, table, "--backend", f"127.0.0.1:{port}"], 180)
    total = time.monotonic() - start
    head, line = [re.split(r"\s{2,}", line.strip()) for line in text.strip().splitlines()[:2]]
    named = dict(zip(head, line))
    written = next((named[name] for name in named if name.startswith("writ")), None)
    return {"write": float(written.split()[0]) if written else watcher.seconds(), "total": total}


class KeyCountWatcher:
    """Records when the server has its first key and its last one."""

    def __init__(self, port):
        self.port, self.first, self.last = port, None, None
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def watch(self):
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and self.last is None:
            keys = redis_client.number(self.port, "DBSIZE")
            if keys and self.first is None:
                self.first = time.monotonic()
            if keys == ROWS:
                self.last = time.monotonic()
            time.sleep(0.02)

    def seconds(self):
        self.thread.join()
        return self.last - self.first
