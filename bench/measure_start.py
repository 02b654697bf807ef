"""Time from the start of lb to its first response to a GET."""

import socket
import time

import machine
import peers

RUNS = 15
REQUEST = b"GET /actor:1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def run(servers, _seconds, say):
    say(f"start to first response, {RUNS} times")
    return {"milliseconds": [measure(servers) for _ in range(RUNS)], "failures": {}}


def measure(servers):
    port = machine.free_port()
    start = time.monotonic()
    target = peers.start_lb([server.port for server in servers], port)
    while not answers(port):
        if time.monotonic() - start > 10:
            raise RuntimeError("lb does not answer")
        time.sleep(0.001)
    passed = time.monotonic() - start
    machine.stop(target.process)
    return passed * 1e3


def answers(port):
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(REQUEST)
            return connection.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False
