"""Links that are slow: one of three servers is reached by a relay that delays or trickles its replies."""

import functools
import socket
import threading
import time

import machine

from . import data, judge
from .load import NIL, Operation, Request, bulk
from .stage import data_file, scene
from .workers import context

LARGE_KEYS, LARGE_BYTES = 4, 100_000
LARGE_STRINGS = "for i = 1, %d do redis.call('SET', 'large:' .. i, string.rep(i, %d)) end"
# Between two reads of 100 KB by a client.
LARGE_PAUSE_SECONDS = 0.1
PIECE_BYTES = 16 * 1024
# A link that is slow passes on so many chunks a second, of a byte at least.
CHUNKS_A_SECOND = 200

# The name, the seconds by which each piece of replies is late, and how many bytes come a second.
LINKS = [
    ("1B", 0, 1),
    ("200B", 0, 200),
    ("5KB", 0, 5000),
    ("100KB", 0, 100_000),
    ("100ms", 0.1, 0),
    ("600ms", 0.6, 0),
    ("950ms", 0.95, 0),
]


class Relay:
    """A process that listens on `port` and passes bytes on to a server and back, at first as fast as it can."""

    def __init__(self, server_port):
        self.port = machine.free_port()
        self.late_seconds, self.bytes_a_second = context.Value("d", 0), context.Value("d", 0)
        arguments = (self.port, server_port, self.late_seconds, self.bytes_a_second)
        self.process = context.Process(target=_relay, args=arguments, daemon=True)
        self.process.start()
        machine.wait_until(lambda: socket.create_connection(("127.0.0.1", self.port), 1).close())

    def slow_down(self, late_seconds, bytes_a_second):
        self.late_seconds.value, self.bytes_a_second.value = late_seconds, bytes_a_second

    def kill(self):
        self.process.kill()
        self.process.join()


def _relay(port, server_port, late_seconds, bytes_a_second):
    machine.die_with_parent()
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    while True:
        client, _ = listener.accept()
        server = socket.create_connection(("127.0.0.1", server_port))
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        slowly = functools.partial(_slowly, client, late_seconds, bytes_a_second)
        for source, target, send in [(client, server, server.sendall), (server, client, slowly)]:
            threading.Thread(target=_pass, args=(source, target, send), daemon=True).start()


def _pass(source, target, send):
    try:
        while piece := source.recv(PIECE_BYTES):
            send(piece)
    except OSError:
        pass
    for one in (source, target):
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def _slowly(client, late_seconds, bytes_a_second, piece):
    if late_seconds.value:
        time.sleep(late_seconds.value)
    due = time.monotonic()
    while piece:
        rate = bytes_a_second.value
        length = max(1, int(rate / CHUNKS_A_SECOND)) if rate else len(piece)
        if rate:
            due += length / rate
            time.sleep(max(0, due - time.monotonic()))
        client.sendall(piece[:length])
        piece = piece[length:]


def _large_value(number):
    return str(number) * LARGE_BYTES


def _clients():
    """Regular clients of both protocols, and in a process of their own some that read 100 KB."""
    numbers = range(1, LARGE_KEYS + 1)
    commands = [Operation("100 KB", [("GET", f"large:{n}")], [(bulk(_large_value(n)), NIL)]) for n in numbers]
    requests = [Request("100 KB", f"/large:{n}", _large_value(n)) for n in numbers]
    large = [(commands, LARGE_PAUSE_SECONDS)] * 2 + [(requests, LARGE_PAUSE_SECONDS)] * 2
    return data.regular_clients(http=4) + [large]


def _play(stage, late_seconds, bytes_a_second):
    file = data_file("large-strings", [LARGE_STRINGS % (LARGE_KEYS, LARGE_BYTES)])
    servers = stage.start_servers(file)
    relay = stage.keep(Relay(servers[0].port))
    stage.start_lb([relay, *servers[1:]])
    stage.start_load(_clients())
    relay.slow_down(late_seconds, bytes_a_second)
    time.sleep(stage.seconds)
    relay.slow_down(0, 0)
    recovery = stage.wait_until_up(judge.RECOVERY_SECONDS)
    result = stage.stop_load(judge.STALL_SECONDS)
    for kind, name in [(True, "100 KB"), (False, "small")]:
        times = [sample.seconds for sample in result.samples if (sample.kind == "100 KB") == kind]
        stage.report.add(f"longest {name} {max(times, default=0):.2f} s")
    stage.report.add(f"up again after {recovery:.1f} s")
    stage.report.add_states(stage.sampler, allowed=1)
    stage.check_released()


def _add(name, late_seconds, bytes_a_second):
    what = f"replies are {late_seconds:.2f} s late" if late_seconds else f"{bytes_a_second} bytes a second come"
    scene(f"link-{name}", f"from one of three servers {what}")(lambda stage: _play(stage, late_seconds, bytes_a_second))


for link in LINKS:
    _add(*link)
