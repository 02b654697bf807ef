"""Clients that ask for a large value and don't read the reply, or read it very slowly."""

import select
import selectors
import socket
import time

from redis_client import encode

from . import judge
from .data import PAUSE_SECONDS, gets, hashes, requests
from .stage import data_file, scene
from .workers import Workers

CLIENTS, VALUE_BYTES = 900, 3_000_000
VALUE = f"redis.call('SET', 'large', string.rep('x', {VALUE_BYTES}))"
# Of those that read slowly: so many bytes in so many seconds.
STEP_BYTES, STEP_SECONDS = 2048, 0.2
# Most long replies that a Redis server may hold for the balancer: its places for long replies, and some that
# nobody knew to be long.
MAX_LONG_REPLIES = 24
# A process has so many clients, as the limit of open files is often 1024.
GROUP = 450


def _run_group(pipe, port, payload, count, reads):
    selector = selectors.DefaultSelector()
    ended, next_at = 0, time.monotonic()

    def connect():
        client = socket.create_connection(("127.0.0.1", port), 20)
        client.sendall(payload)
        client.setblocking(False)
        selector.register(client, selectors.EVENT_READ)

    for _ in range(count):
        connect()
    while not pipe.poll():
        select.select([pipe], [], [], STEP_SECONDS)
        for key, _ in selector.select(0) if reads else ():
            try:
                is_over = not key.fileobj.recv(STEP_BYTES)
            except OSError:
                is_over = True
            if is_over:
                # Those that were closed come again.
                ended += 1
                selector.unregister(key.fileobj)
                key.fileobj.close()
                connect()
    pipe.send(ended)


def play(stage, payload, reads):
    servers = stage.start_servers(data_file("large-string", [VALUE]))
    stage.start_lb(servers)
    stage.start_load([[(kind, PAUSE_SECONDS) for kind in [gets(), gets(), gets(4), hashes(), requests(), requests()]]])
    groups = CLIENTS // GROUP
    lazy = stage.keep(Workers(_run_group, [(stage.lb.port, payload, GROUP, reads)] * groups))
    most, end = [0] * len(servers), time.monotonic() + stage.seconds
    while time.monotonic() < end:
        for number, server in enumerate(servers):
            lines = server.ask("INFO", "memory").decode().split("\r\n")
            held = next(int(line.split(":")[1]) for line in lines if line.startswith("mem_clients_normal:"))
            most[number] = max(most[number], held)
        time.sleep(0.05)
    status = (stage.lb.process.pid, "VmHWM")
    with open(f"/proc/{status[0]}/status") as lines:
        peak = next(int(line.split()[1]) // 1024 for line in lines if line.startswith(status[1]))
    stage.stop_load(judge.STALL_SECONDS)
    ended = sum(count or 0 for count in lazy.stop())
    stage.report.add(f"Redis held {[held >> 20 for held in most]} MiB, lb {peak} MiB, {ended} clients closed")
    bound = MAX_LONG_REPLIES * VALUE_BYTES
    stage.report.require(max(most) < bound, f"Redis held {max(most) >> 20} MiB > {bound >> 20}")
    stage.report.add_states(stage.sampler, allowed=1)
    stage.check_released()


REDIS = encode("GET", "large")
HTTP = b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n"


@scene("unread-redis", f"{CLIENTS} Redis clients ask for 3 MB and read nothing")
def _(stage):
    play(stage, REDIS, reads=False)


@scene("unread-http", f"{CLIENTS} HTTP clients ask for 3 MB and read nothing")
def _(stage):
    play(stage, HTTP, reads=False)


@scene("trickle-redis", f"{CLIENTS} Redis clients read 3 MB at 10 KB/s")
def _(stage):
    play(stage, REDIS, reads=True)


@scene("trickle-http", f"{CLIENTS} HTTP clients read 3 MB at 10 KB/s")
def _(stage):
    play(stage, HTTP, reads=True)
