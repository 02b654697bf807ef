"""Regular load: clients that compare every reply with the expected one.

The clients use raw sockets and no client library, so that nothing is retried or hidden.
"""

import collections
import heapq
import json
import random
import selectors
import socket
import time

from redis_client import encode

from .workers import GRACE_SECONDS, MessageCounter, Workers, context

CONNECT_SECONDS = 5

NIL = b"$-1\r\n"
EMPTY = b"*0\r\n"

# `at` is monotonic time; `outcome` is "ok", "wrong" or "error".
Sample = collections.namedtuple("Sample", "kind at seconds replies outcome")


def bulk(text):
    return b"$%d\r\n%s\r\n" % (len(text), text.encode())


def array(texts):
    return b"*%d\r\n" % len(texts) + b"".join(map(bulk, texts))


def joined_chunks(body):
    """The chunks of an HTTP body without their lengths; None while the last is to come."""
    joined = bytearray()
    while (end := body.find(b"\r\n")) >= 0:
        length = int(body[:end], 16)
        if length == 0:
            return joined if body.endswith(b"\r\n\r\n") else None
        joined += body[end + 2 : end + 2 + length]
        body = body[end + 2 + length + 2 :]
    return None


class Operation:
    """Commands that a client sends at once. `replies` has for each the reply, and the one (`NIL` or
    `EMPTY`) that is right too after the keys may have been deleted."""

    def __init__(self, kind, commands, replies):
        self.kind = kind
        self.payload = b"".join(encode(*command) for command in commands)
        self.replies = replies


class Request:
    """A request over HTTP and the value that its JSON must have."""

    def __init__(self, kind, path, value):
        self.kind = kind
        self.payload = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode()
        self.value = value


class _Client:
    """A closed-loop client: one connection, one operation at a time, a pause after each."""

    def __init__(self, group, operations, pause, seed):
        self.group, self.operations, self.pause = group, operations, pause
        self.random = random.Random(seed)
        self.socket = None
        self.operation = None

    def connect(self):
        self.socket = socket.create_connection(("127.0.0.1", self.group.port), CONNECT_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.group.selector.register(self.socket, selectors.EVENT_READ, self)

    def close(self):
        if self.socket:
            self.group.selector.unregister(self.socket)
            self.socket.close()
            self.socket = None

    def send(self):
        self.operation = self.random.choice(self.operations)
        self.buffer = bytearray()
        self.received, self.outcome = 0, "ok"
        self.at = time.monotonic()
        try:
            if not self.socket:
                self.connect()
            self.socket.sendall(self.operation.payload)
        except OSError as error:
            self.disconnected(error)

    def disconnected(self, reason):
        self.close()
        if self.operation:
            self.note_error(reason)
            self.finish()

    def note_error(self, message):
        self.group.errors.note(f"{self.operation.kind}: {message}")
        if self.outcome == "ok":
            self.outcome = "error"

    def note_wrong(self, message):
        self.group.wrong.note(f"{self.operation.kind}: {message}")
        self.outcome = "wrong"

    def finish(self):
        seconds = time.monotonic() - self.at
        replies = max(self.received, 1)
        self.group.samples.append(Sample(self.operation.kind, self.at, seconds, replies, self.outcome))
        self.operation = None
        self.group.schedule(self)

    def readable(self):
        try:
            data = self.socket.recv(262144)
        except OSError as error:
            return self.disconnected(error)
        if self.operation is None and data:
            self.group.wrong.note(f"unexpected bytes: {bytes(data[:60])!r}")
            self.group.surplus += 1
            return self.close()
        if not data:
            return self.disconnected("the connection was closed")
        self.buffer += data
        return self.parse_http() if isinstance(self.operation, Request) else self.parse()

    def parse(self):
        replies = self.operation.replies
        while self.received < len(replies):
            expected, deleted = replies[self.received]
            if self.buffer.startswith(expected):
                del self.buffer[: len(expected)]
            elif self.buffer.startswith(deleted):
                if not self.group.may_be_deleted():
                    self.note_wrong(f"a key is gone: {deleted!r}")
                del self.buffer[: len(deleted)]
            elif self.buffer.startswith(b"-"):
                line, end, self.buffer = self.buffer.partition(b"\r\n")
                if not end:
                    self.buffer = line
                    return
                self.note_error(line.decode(errors="replace"))
            elif expected.startswith(self.buffer) or deleted.startswith(self.buffer):
                return
            else:
                self.note_wrong(f"{bytes(self.buffer[:60])!r} for {expected[:40]!r}")
                self.close()
                return self.finish()
            self.received += 1
        if self.buffer:
            self.note_wrong(f"more bytes than expected: {bytes(self.buffer[:60])!r}")
            self.close()
        self.finish()

    def parse_http(self):
        head, end, body = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return
        lines = head.decode("latin-1").split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:])
        if fields.get("transfer-encoding") == "chunked":
            body = joined_chunks(body)
        if body is None or len(body) < int(fields.get("content-length", 0)):
            return
        self.received = 1
        status = lines[0].split()[1]
        if status == "200":
            try:
                value = json.loads(bytes(body))
            except ValueError:
                value = bytes(body[:60])
            if value != self.operation.value:
                self.note_wrong(f"{str(value)[:60]} for {str(self.operation.value)[:40]}")
        elif status != "404":
            self.note_error(f"{lines[0]} {bytes(body[:90])!r}")
        elif not self.group.may_be_deleted():
            self.note_wrong("404")
        if fields.get("connection") == "close":
            self.close()
        self.finish()


class _Group:
    """The clients of one load process."""

    def __init__(self, port, clients, deleted_at, seed):
        self.port, self.deleted_at = port, deleted_at
        self.selector = selectors.DefaultSelector()
        self.samples, self.errors, self.wrong, self.surplus = [], MessageCounter(), MessageCounter(), 0
        self.due, self.number, self.stopping = [], 0, False
        self.random = random.Random(seed)
        self.clients = [
            _Client(self, operations, pause, seed * 10007 + number)
            for number, (operations, pause) in enumerate(clients)
        ]

    def may_be_deleted(self):
        return time.monotonic() >= self.deleted_at.value

    def schedule(self, client):
        if not self.stopping:
            self.number += 1
            pause = client.pause * (0.5 + self.random.random())
            heapq.heappush(self.due, (time.monotonic() + pause, self.number, client))

    def run(self, pipe):
        for client in self.clients:
            self.schedule(client)
        self.selector.register(pipe.fileno(), selectors.EVENT_READ)
        deadline = None
        while True:
            now = time.monotonic()
            if self.stopping and (now > deadline or not any(client.operation for client in self.clients)):
                break
            while self.due and self.due[0][0] <= now:
                heapq.heappop(self.due)[2].send()
                now = time.monotonic()
            wait = max(0, min(0.2, self.due[0][0] - now)) if self.due else 0.2
            for key, _ in self.selector.select(wait):
                if key.data is None:
                    self.stopping, deadline, self.due = True, time.monotonic() + GRACE_SECONDS, []
                    self.selector.unregister(pipe.fileno())
                elif key.data.socket:
                    key.data.readable()
        for client in self.clients:
            client.disconnected("unanswered at the end")
        return self.samples, self.errors, self.wrong, self.surplus


def _run_group(pipe, port, clients, deleted_at, seed):
    pipe.send(_Group(port, clients, deleted_at, seed).run(pipe))


class Load:
    """Groups of clients, each in a process; a client is its operations and its pause in seconds."""

    def __init__(self, port, groups):
        # From this time on, keys may be deleted.
        self.deleted_at = context.Value("d", float("inf"))
        arguments = [(port, clients, self.deleted_at, seed) for seed, clients in enumerate(groups)]
        self.workers = Workers(_run_group, arguments)
        self.kill = self.workers.kill

    def stop(self):
        """Ends the load and returns its `Result`."""
        result = Result()
        for found in self.workers.stop():
            if found is None:
                result.messages["a load process ended early"] += 1
                result.surplus += 1
                continue
            samples, errors, wrong, surplus = found
            result.samples += samples
            result.messages += errors + wrong
            result.surplus += surplus
        return result


class Result:
    """Samples of all clients, and messages of what went wrong."""

    def __init__(self):
        self.samples, self.surplus, self.messages = [], 0, collections.Counter()

    def replies(self):
        return sum(sample.replies for sample in self.samples)

    def wrong(self):
        return sum(sample.outcome == "wrong" for sample in self.samples) + self.surplus

    def errors(self):
        return sum(sample.outcome == "error" for sample in self.samples)

    def quantile(self, share, since=0):
        times = sorted(sample.seconds for sample in self.samples if sample.at >= since)
        return times[min(len(times) - 1, int(len(times) * share))] if times else 0

    def longest(self):
        return self.quantile(1)
