"""Keys that are deleted or expire while clients read them."""

import time

import machine
import redis_client

from . import judge
from .data import MANY_STRINGS
from .stage import data_file, scene

EVERY_KEY = "for _, k in ipairs(redis.call('KEYS', '*')) do %s end"
WRITE_INTERVAL_SECONDS = 0.015


def make_replicas(servers):
    for server in servers:
        server.ask("CONFIG", "SET", "repl-diskless-sync-delay", "0")
    for replica in servers[1:]:
        replica.ask("REPLICAOF", "127.0.0.1", servers[0].port)

    def require_links():
        for replica in servers[1:]:
            if b"master_link_status:up" not in replica.ask("INFO", "replication"):
                raise RuntimeError("a replica has no link")

    machine.wait_until(require_links)


def play(stage, how, with_replicas, one_away):
    servers = stage.start_servers(data_file("many", [MANY_STRINGS % 20_000]))
    if with_replicas:
        make_replicas(servers)
    stage.start_lb(servers)
    load = stage.start_load()
    if one_away:
        servers[2].kill()
        time.sleep(3)
    # Replicas get the writes from their primary.
    written = servers[:1] if with_replicas else servers[:2] if one_away else servers
    writers = [redis_client.Connection(server.port) for server in written]

    def write(*words):
        for writer in writers:
            writer.ask(*words)

    expire_at = int(time.time() * 1000) + 1500
    if how == "expire":
        write("EVAL", EVERY_KEY % f"redis.call('PEXPIREAT', k, {expire_at})", 0)
    with load.deleted_at.get_lock():
        load.deleted_at.value = time.monotonic() - 0.05
    if how == "flushall":
        write("FLUSHALL")
    elif how == "delete":
        write("EVAL", EVERY_KEY % "redis.call('DEL', k)", 0)
    number, end = 0, time.monotonic() + max(5, min(stage.seconds, 12))
    while time.monotonic() < end:
        next_at = time.monotonic() + WRITE_INTERVAL_SECONDS
        number += 1
        write("SET", f"tick:{number}", "x")
        time.sleep(max(0, next_at - time.monotonic()))
    stage.stop_load(judge.STALL_SECONDS)
    stage.report.add_states(stage.sampler)
    stage.check_released()


def add_scenes():
    events = {"flushall": "FLUSHALL", "expire": "all keys expire at once", "delete": "all keys are deleted"}
    for how, event in events.items():
        for kind, where in (("replicas", "a primary with two replicas"), ("independent", "three independent servers")):
            for suffix, away in (("", ""), ("-away", ", one of them down")):

                def play_one(stage, how=how, kind=kind, suffix=suffix):
                    play(stage, how, kind == "replicas", bool(suffix))

                scene(f"{how}-{kind}{suffix}", f"{event}, then a SET every 15 ms: {where}{away}")(play_one)


add_scenes()
