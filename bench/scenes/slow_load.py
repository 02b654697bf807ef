"""Slow load: clients that send reads which keep a server busy.

They retry as redis-py 8 does by default: after 5 s of silence a client closes its connection and sends the
read again on a new one, up to 10 times, after a pause that doubles from 10 ms to 1 s.
"""

import collections
import http.client
import random
import select
import socket
import time

from redis_client import encode

from .workers import MessageCounter, Workers

READ_TIMEOUT_SECONDS = 5
RETRIES = 10
FIRST_PAUSE_SECONDS = 0.01
MAX_PAUSE_SECONDS = 1
# Pause after an error: a program would do something else for a moment.
ERROR_PAUSE_SECONDS = 0.5

# One attempt at a slow read; `first` is the time of the read's first attempt. `outcome` is "ok", "wrong",
# "error", "lost" (the connection was closed) or "gave up" (after the read timeout).
Attempt = collections.namedtuple("Attempt", "kind first at seconds outcome")


def digit_counts(data):
    """A checksum that does not depend on the order of elements, and is quick for 50 MB."""
    return [data.count(b"%d" % digit) for digit in range(10)]


class SlowCommand:
    """A command that keeps a server busy, and its expected reply; None accepts every reply."""

    def __init__(self, kind, command, reply, in_order=True, may_be_refused=False):
        self.kind, self.payload, self.may_be_refused = kind, encode(*command), may_be_refused
        self.accepts_all, reply = reply is None, reply or b""
        self.head, self.length = reply[: reply.find(b"\r\n") + 2], len(reply)
        self.checksum = bytes if in_order else digit_counts
        self.expected = self.checksum(reply)

    def connect(self, port, timeout):
        return socket.create_connection(("127.0.0.1", port), timeout)

    def ask(self, connection):
        """Outcome and message of one attempt."""
        connection.sendall(self.payload)
        reply = self._read(connection)
        if reply.startswith(b"-"):
            outcome = "ok" if self.may_be_refused else "error"
            return outcome, reply[:90].decode(errors="replace").strip()
        if self.accepts_all or (len(reply) == self.length and self.checksum(reply) == self.expected):
            return "ok", ""
        return "wrong", f"{len(reply)} bytes instead of {self.length}: {reply[:40]!r}"

    def _read(self, connection):
        """The whole reply, or as much as shows that it is wrong."""
        data = bytearray()
        while True:
            chunk = connection.recv(1 << 20)
            if not chunk:
                raise ConnectionResetError("the connection was closed")
            data += chunk
            if data.startswith(b"-") or self.accepts_all:
                if data.endswith(b"\r\n"):
                    return bytes(data)
            elif len(data) >= self.length or not data.startswith(self.head[: len(data)]):
                return bytes(data)


class SlowRequest:
    """A request over HTTP that keeps a server busy, and its expected body."""

    def __init__(self, kind, path, body):
        self.kind, self.path = kind, path
        self.expected = len(body), digit_counts(body)

    def connect(self, port, timeout):
        return http.client.HTTPConnection("127.0.0.1", port, timeout)

    def ask(self, connection):
        """Outcome and message of one attempt."""
        connection.request("GET", self.path)
        with connection.getresponse() as response:
            body = response.read()
        if response.status != 200:
            return "error", f"{response.status} {body[:90]!r}"
        if (len(body), digit_counts(body)) == self.expected:
            return "ok", ""
        return "wrong", f"{len(body)} bytes instead of {self.expected[0]}: {body[:40]!r}"


def _run_client(pipe, port, reads, pause, timeout, seed):
    chance = random.Random(seed)
    attempts, messages, connection = [], MessageCounter(), None
    number = seed
    while not pipe.poll():
        read = reads[number % len(reads)]
        number += 1
        first = time.monotonic()
        for retry in range(RETRIES + 1):
            at = time.monotonic()
            try:
                connection = connection or read.connect(port, timeout)
                outcome, message = read.ask(connection)
            except TimeoutError:
                outcome, message = "gave up", f"gave up after {timeout} s of silence"
            except (OSError, ValueError, http.client.HTTPException) as error:
                outcome, message = "lost", str(error) or type(error).__name__
            attempts.append(Attempt(read.kind, first, at, time.monotonic() - at, outcome))
            if outcome != "ok":
                messages.note(f"{read.kind}: {message}")
            if outcome in ("lost", "gave up", "wrong") and connection:
                connection.close()
                connection = None
            if outcome not in ("lost", "gave up") or pipe.poll():
                break
            select.select([pipe], [], [], min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**retry) * chance.random())
        if not pipe.poll():
            select.select([pipe], [], [], pause if outcome == "ok" else max(pause, ERROR_PAUSE_SECONDS))
    pipe.send((attempts, messages))


class SlowLoad:
    """Closed-loop clients with slow reads, each in a process; a client is a list of reads."""

    def __init__(self, port, clients, pause=0.05, timeout=READ_TIMEOUT_SECONDS):
        self.workers = Workers(_run_client, [(port, reads, pause, timeout, seed) for seed, reads in enumerate(clients)])
        self.kill = self.workers.kill

    def stop(self):
        """Ends the load; returns its attempts by time, and messages with their counts."""
        attempts, messages = [], collections.Counter()
        for found in self.workers.stop():
            if found is None:
                messages["a slow client ended early"] += 1
                continue
            attempts += found[0]
            messages += found[1]
        return sorted(attempts, key=lambda attempt: attempt.at), messages
