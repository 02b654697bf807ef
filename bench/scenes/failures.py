"""Servers that freeze, die and come back."""

import signal
import threading
import time

import redis_client

from . import judge
from .data import SMALL_KEYS, gets, hashes, requests, small_data
from .stage import data_file, scene

LENGTHS = [1, 64, 65, 1000, 10_000]
# How long to wait for pipelines that were sent before all servers freeze, and after it.
BEFORE_SECONDS, AFTER_SECONDS = 30, 6


def play_rounds(stage, event, seconds):
    """Calls the event with each server in turn, under load; a round takes about so many seconds."""
    servers = stage.start_servers(data_file("small"))
    stage.start_lb(servers)
    stage.start_load()
    rounds = max(1, min(len(servers), int(stage.seconds // seconds)))
    slowest = 0
    for number in range(rounds):
        event(servers[(number + 1) % len(servers)])
        slowest = max(slowest, stage.wait_until_up(judge.RECOVERY_SECONDS + 5))
        time.sleep(1)
    stage.stop_load(judge.FAILOVER_SECONDS)
    stage.report.add(f"rounds {rounds}, up again after {slowest:.1f} s")
    stage.report.require(slowest < judge.RECOVERY_SECONDS, f"not up {slowest:.1f} s after the event")
    stage.report.add_states(stage.sampler, allowed=1)
    stage.check_released()


@scene("frozen", "one of three servers stops for 5 s while its clients send quick reads")
def _(stage):
    def event(server):
        server.signal(signal.SIGSTOP)
        time.sleep(5)
        server.signal(signal.SIGCONT)

    play_rounds(stage, event, 10)


@scene("killed", "one of three servers is killed, and starts again after 3 s")
def _(stage):
    def event(server):
        server.kill()
        time.sleep(3)
        server.start()

    play_rounds(stage, event, 8)


@scene("empty-restart", "one of three servers is killed, starts without data, and is filled after 4 s")
def _(stage):
    def event(server):
        server.kill()
        server.start(with_data=False)
        server.wait()
        time.sleep(4)
        with redis_client.Connection(server.port) as connection:
            connection.pipeline(small_data())

    play_rounds(stage, event, 8)


@scene("rolling", "a server restarts every 2 s beside 200 clients")
def _(stage):
    servers = stage.start_servers(data_file("small"))
    stage.start_lb(servers)
    kinds = [gets(), gets(), gets(4), hashes(), requests()]
    stage.start_load([[(kinds[number % 5], 0.1) for number in range(100)] for _ in range(2)])
    restarts, end = 0, time.monotonic() + stage.seconds
    while time.monotonic() < end:
        next_at = time.monotonic() + 2
        server = servers[restarts % 3]
        server.kill()
        server.start()
        restarts += 1
        time.sleep(max(0, next_at - time.monotonic()))
    time.sleep(2)
    stage.stop_load(judge.FAILOVER_SECONDS)
    stage.report.add(f"restarts {restarts}")
    stage.report.add_states(stage.sampler)
    stage.check_released()


class Pipeline(threading.Thread):
    """A pipeline of GETs on a connection of its own. `has_backend`: a read before it reserves a backend."""

    def __init__(self, name, port, length, has_backend=True):
        super().__init__(name=name, daemon=True)
        self.length, self.errors, self.values, self.failure = length, 0, 0, ""
        self.connection = redis_client.Connection(port, timeout=60)
        if has_backend:
            self.connection.ask("GET", "key:1")

    def run(self):
        self.at = time.monotonic()
        commands = [redis_client.encode("GET", f"key:{n % SMALL_KEYS + 1}") for n in range(self.length)]
        try:
            self.connection.socket.sendall(b"".join(commands))
            for _ in commands:
                is_error = redis_client.read_reply(self.connection.stream).startswith(b"-")
                self.errors += is_error
                self.values += not is_error
        except (OSError, ValueError) as error:
            self.failure = str(error) or type(error).__name__
        self.end_at = time.monotonic()

    def judge(self, report, since):
        """Requires all replies within a bounded time after `since`."""
        replies = self.errors + self.values
        report.require(replies == self.length, f"{self.name}: only {replies} replies")
        report.require(not self.failure, f"{self.name}: {self.failure}")
        if self.is_alive():
            return
        seconds = max(0, self.end_at - since)
        report.add(f"{self.name}: {seconds:.2f} s")
        report.require(seconds <= judge.ALL_FROZEN_SECONDS, f"{self.name} took {seconds:.2f} s")


def join(pipelines, seconds):
    deadline = time.monotonic() + seconds
    for pipeline in pipelines:
        pipeline.join(max(0, deadline - time.monotonic()))


@scene("all-frozen", "all servers stop: pipelines of 1 to 10,000 GETs, sent just before and after that")
def _(stage):
    servers = stage.start_servers(data_file("small"))
    lb = stage.start_lb(servers)
    sampler = stage.start_sampler(interval=0.02)
    report = stage.report
    before = [Pipeline(f"before {length}", lb.port, length) for length in LENGTHS]
    after = [Pipeline(f"session {length}", lb.port, length) for length in LENGTHS]
    frozen = time.monotonic()
    for server in servers:
        server.signal(signal.SIGSTOP)
    for pipeline in before:
        pipeline.start()
    join(before, BEFORE_SECONDS)
    while (none_up := sampler.first(lambda states: "up" not in states)) is None and time.monotonic() < frozen + 30:
        time.sleep(0.05)
    report.require(none_up is not None, "a frozen backend stays up")
    none_up = none_up or time.monotonic()
    report.add(f"none up after {none_up - frozen:.2f} s")
    for pipeline in after:
        pipeline.start()
    join(after, AFTER_SECONDS)
    for length in LENGTHS:
        pipeline = Pipeline(f"new {length}", lb.port, length, has_backend=False)
        pipeline.start()
        pipeline.join(AFTER_SECONDS)
        after.append(pipeline)
    # A backend may be not up because a read failed. Only "down" shows that health checks failed.
    down = sampler.first(lambda states: all(state == "down" for state in states))
    report.add(f"all down after {down - frozen:.2f} s" if down else "never all down")
    report.require(down is not None, "a frozen backend is not down")
    for pipeline in before:
        pipeline.judge(report, since=down or none_up)
    for pipeline in after:
        pipeline.judge(report, since=pipeline.at)
        report.require(pipeline.errors > 0, f"{pipeline.name}: no error")
    for server in servers:
        server.signal(signal.SIGCONT)
    report.add(f"up again after {stage.wait_until_up(judge.RECOVERY_SECONDS):.1f} s")
    report.require(lb.not_up() == 0, "not up again")
    again = Pipeline("again", lb.port, 1000)
    again.run()
    report.require(again.values == 1000, f"{again.errors} errors of 1000 after all servers run again")
    sampler.stop()
    for pipeline in before + after + [again]:
        pipeline.connection.close()
    stage.check_released()
