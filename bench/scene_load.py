"""Load for the scenes: clients that compare every reply with what it must be.

Each group of clients is a process of its own, so that a busy one does not slow the others' clocks.
Raw sockets, no client library: nothing is retried or hidden but where a client says so.
"""

import collections
import heapq
import json
import multiprocessing
import random
import re
import select
import selectors
import socket
import time

CONNECT_SECONDS = 5
# How long clients wait for replies that are under way when the load ends.
GRACE_SECONDS = 20
# Different texts of errors and of wrong replies that are kept, each with its count.
MAX_TEXTS = 20
TEXT_BYTES = 120

# What redis-py 8 does by default: it gives up on a reply after 5 s of silence and sends the command
# again on a new connection, up to 10 times, after a pause that doubles from 10 ms up to 1 s.
GIVE_UP_SECONDS = 5
RETRIES = 10
FIRST_PAUSE_SECONDS = 0.01
MAX_PAUSE_SECONDS = 1

NIL = b"$-1\r\n"
NONE = b"*0\r\n"

_context = multiprocessing.get_context("fork")

# `at` and `seconds` in the system's monotonic time; outcome: "ok", "wrong" or "error".
Sample = collections.namedtuple("Sample", "kind at seconds replies outcome")
# One try of a slow read; `first` is when its client first asked. Outcome: "ok", "wrong", "error",
# "lost" (the connection ended) or "gave up".
Try = collections.namedtuple("Try", "kind first at seconds outcome")


def encode(*words):
    words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def bulk(text):
    return b"$%d\r\n%s\r\n" % (len(text), text.encode())


def array(texts):
    return b"*%d\r\n" % len(texts) + b"".join(map(bulk, texts))


class Texts:
    """Counted examples of what went wrong; numbers in them are left out, so that examples are few."""

    def __init__(self):
        self.counts = collections.Counter()

    def add(self, text):
        text = re.sub(r"\d+", "N", str(text))[:TEXT_BYTES]
        if text in self.counts or len(self.counts) < MAX_TEXTS:
            self.counts[text] += 1


class Operation:
    """What a client sends at once, and for each reply the bytes that it may be; the last may be `NIL`
    or `NONE`, which count as right only once the keys may be gone."""

    def __init__(self, kind, commands, replies):
        self.kind = kind
        self.payload = b"".join(encode(*command) for command in commands)
        self.replies = replies


class Request:
    """One request over HTTP, and what its JSON must say."""

    def __init__(self, kind, path, value):
        self.kind = kind
        self.payload = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode()
        self.value = value


class _Client:
    """One connection, one operation at a time, a pause between two."""

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

    def begin(self):
        self.operation = self.random.choice(self.operations)
        self.buffer = bytearray()
        self.found, self.outcome = 0, "ok"
        self.at = time.monotonic()
        try:
            if not self.socket:
                self.connect()
            self.socket.sendall(self.operation.payload)
        except OSError as error:
            self.lose(error)

    def lose(self, why):
        self.group.errors.add(f"{self.operation.kind if self.operation else 'idle'}: {why}")
        self.close()
        self.outcome = "error" if self.outcome == "ok" else self.outcome
        self.end()

    def doubt(self, what):
        self.group.wrong.add(f"{self.operation.kind if self.operation else 'idle'}: {what}")
        self.outcome = "wrong"

    def end(self):
        if self.operation:
            seconds = time.monotonic() - self.at
            self.group.samples.append(Sample(self.operation.kind, self.at, seconds, max(self.found, 1), self.outcome))
        self.operation = None
        self.group.schedule(self)

    def readable(self):
        try:
            data = self.socket.recv(262144)
        except OSError as error:
            return self.lose(error)
        if self.operation is None:  # between two operations nothing may come
            if data:
                self.outcome = "ok"
                self.group.wrong.add(f"bytes that nobody asked for: {bytes(data[:60])!r}")
                self.group.surplus += 1
            self.close()
            return None
        if not data:
            return self.lose("the connection was closed")
        self.buffer += data
        if isinstance(self.operation, Request):
            return self.parse_http()
        return self.parse()

    def parse(self):
        replies = self.operation.replies
        while self.found < len(replies):
            allowed = replies[self.found]
            whole = next((one for one in allowed if self.buffer.startswith(one)), None)
            if whole is not None:
                if len(allowed) > 1 and whole is allowed[-1] and not self.group.may_be_gone():
                    self.doubt(f"a key is gone: {whole!r}")
                del self.buffer[: len(whole)]
            elif self.buffer.startswith(b"-"):
                line, end, _ = self.buffer.partition(b"\r\n")
                if not end:
                    return
                self.group.errors.add(f"{self.operation.kind}: {line.decode(errors='replace')}")
                self.outcome = "error" if self.outcome == "ok" else self.outcome
                del self.buffer[: len(line) + 2]
            elif any(one.startswith(self.buffer) for one in allowed):
                return
            else:
                self.doubt(f"{bytes(self.buffer[:60])!r} for {allowed[0][:40]!r}")
                self.close()
                return self.end()
            self.found += 1
        if self.buffer:
            self.doubt(f"more than was asked for: {bytes(self.buffer[:60])!r}")
            self.close()
        self.end()

    def parse_http(self):
        head, end, body = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return
        lines = head.decode("latin-1").split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:])
        if len(body) < int(fields.get("content-length", 0)):
            return
        self.found = 1
        status = lines[0].split()[1]
        if status == "200":
            try:
                value = json.loads(bytes(body))
            except ValueError:
                value = bytes(body[:60])
            if value != self.operation.value:
                self.doubt(f"{str(value)[:60]} for {str(self.operation.value)[:40]}")
        elif status == "404":
            if not self.group.may_be_gone():
                self.doubt("404")
        else:
            self.outcome = "error"
            self.group.errors.add(f"{self.operation.kind}: {lines[0]} {bytes(body[:90])!r}")
        if fields.get("connection") == "close":
            self.close()
        self.end()


class _Group:
    """What runs in a load process."""

    def __init__(self, port, clients, gone_at, seed):
        self.port, self.gone_at = port, gone_at
        self.selector = selectors.DefaultSelector()
        self.samples, self.errors, self.wrong, self.surplus = [], Texts(), Texts(), 0
        self.due, self.number, self.ends = [], 0, False
        # Which client begins when is part of the load, so it follows from the seed alone.
        self.random = random.Random(seed)
        self.clients = [
            _Client(self, operations, pause, seed * 10007 + number)
            for number, (operations, pause) in enumerate(clients)
        ]

    def may_be_gone(self):
        return time.monotonic() >= self.gone_at.value

    def schedule(self, client):
        if not self.ends:
            self.number += 1
            pause = client.pause * (0.5 + self.random.random())
            heapq.heappush(self.due, (time.monotonic() + pause, self.number, client))

    def run(self, stop):
        for client in self.clients:
            self.schedule(client)
        stop_fd = stop.fileno()
        self.selector.register(stop_fd, selectors.EVENT_READ, None)
        deadline = None
        while True:
            now = time.monotonic()
            if self.ends and (now > deadline or not any(client.operation for client in self.clients)):
                break
            while self.due and self.due[0][0] <= now and not self.ends:
                heapq.heappop(self.due)[2].begin()
                now = time.monotonic()
            wait = 0.2 if self.ends or not self.due else max(0, min(0.2, self.due[0][0] - now))
            for key, _ in self.selector.select(wait):
                if key.data is not None:
                    if key.data.socket:
                        key.data.readable()
                elif not self.ends:
                    self.ends, deadline, self.due = True, time.monotonic() + GRACE_SECONDS, []
                    self.selector.unregister(stop_fd)
        for client in self.clients:
            if client.operation:
                client.lose("unanswered at the end")
            client.close()
        return self.samples, self.errors.counts, self.wrong.counts, self.surplus


def _run_group(pipe, port, clients, gone_at, seed):
    pipe.send(_Group(port, clients, gone_at, seed).run(pipe))


class Load:
    """Groups of clients, each in a process; `clients` are (operations, pause in seconds)."""

    def __init__(self, port, groups):
        # From this moment on, keys may be gone.
        self.gone_at = _context.Value("d", float("inf"))
        self.processes = []
        for seed, clients in enumerate(groups):
            ours, theirs = _context.Pipe()
            process = _context.Process(target=_run_group, args=(theirs, port, clients, self.gone_at, seed), daemon=True)
            process.start()
            theirs.close()
            self.processes.append((process, ours))

    def stop(self):
        """Ends the load; returns its samples and examples of what went wrong."""
        for _, pipe in self.processes:
            pipe.send("stop")
        result = Result()
        for process, pipe in self.processes:
            try:
                if not pipe.poll(GRACE_SECONDS + 30):
                    raise EOFError
                samples, errors, wrong, surplus = pipe.recv()
                result.samples += samples
                result.error_texts += errors
                result.wrong_texts += wrong
                result.surplus += surplus
            except EOFError:
                result.wrong_texts["a load process ended early"] += 1
                result.surplus += 1
            process.join(5)
            process.kill()
        return result

    def kill(self):
        for process, _ in self.processes:
            process.kill()


class Result:
    def __init__(self):
        self.samples, self.surplus = [], 0
        self.error_texts, self.wrong_texts = collections.Counter(), collections.Counter()

    def operations(self):
        return sum(sample.replies for sample in self.samples)

    def wrong(self):
        return sum(sample.outcome == "wrong" for sample in self.samples) + self.surplus

    def errors(self):
        return sum(sample.outcome == "error" for sample in self.samples)

    def longest(self):
        return max((sample.seconds for sample in self.samples), default=0)

    def quantile(self, share, since=0):
        times = sorted(sample.seconds for sample in self.samples if sample.at >= since)
        return times[min(len(times) - 1, int(len(times) * share))] if times else 0


# --- clients that ask for what takes long --------------------------------------------


class SlowRead:
    """A command that keeps a server busy. `reply`: its bytes, or those of a reply whose elements may
    come in any order; `None` where any reply will do."""

    def __init__(self, kind, command, reply, in_order=True, may_be_refused=False):
        self.kind, self.payload = kind, encode(*command)
        self.may_be_refused = may_be_refused
        self.any = reply is None
        reply = reply or b""
        self.head, self.length = reply[: reply.find(b"\r\n") + 2], len(reply)
        self.mark = reply if in_order else digits(reply)
        self.in_order = in_order

    def is_right(self, reply):
        if self.any:
            return True
        return len(reply) == self.length and (reply if self.in_order else digits(reply)) == self.mark


def digits(data):
    """Does not depend on the order of elements, and is quick for 50 MB."""
    return [data.count(b"%d" % digit) for digit in range(10)]


class SlowRequest:
    """A value over HTTP that keeps a server busy."""

    def __init__(self, kind, path, body=None):
        self.kind = kind
        self.payload = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode()
        self.length, self.mark = (len(body), digits(body)) if body else (None, None)
        self.may_be_refused = False

    def is_right(self, body):
        return self.length is None or (len(body) == self.length and digits(body) == self.mark)


def read_reply(connection, read):
    """The whole reply of a slow read, or the line of its error; raises `OSError`."""
    data = bytearray()
    while True:
        chunk = connection.recv(1 << 20)
        if not chunk:
            raise ConnectionResetError("the connection was closed")
        data += chunk
        if data.startswith(b"-"):
            if data.endswith(b"\r\n"):
                return bytes(data)
        elif read.any:
            if data.endswith(b"\r\n"):
                return bytes(data)
        elif len(data) >= read.length or not data.startswith(read.head[: len(data)]):
            return bytes(data)


def read_answer(connection):
    """Status and body of an answer over HTTP."""
    with connection.makefile("rb", 1 << 20) as stream:
        line = stream.readline()
        if not line:
            raise ConnectionResetError("the connection was closed")
        fields = {}
        while True:
            field = stream.readline().strip().decode("latin-1").lower()
            if not field:
                break
            name, _, value = field.partition(": ")
            fields[name] = value
        status = int(line.split()[1])
        if "content-length" in fields:
            body = stream.read(int(fields["content-length"]))
            if len(body) < int(fields["content-length"]):
                raise ConnectionResetError("the answer broke off")
            return status, body
        body = []
        while fields.get("transfer-encoding") == "chunked":
            length = int(stream.readline() or b"x", 16)
            chunk = stream.read(length + 2)
            if len(chunk) < length + 2:
                raise ConnectionResetError("the answer broke off")
            body.append(chunk[:-2])
            if length == 0:
                break
        return status, b"".join(body)


def _ask_slowly(connection, read):
    """Outcome and text of one try."""
    connection.sendall(read.payload)
    if isinstance(read, SlowRequest):
        status, reply = read_answer(connection)
        if status != 200:
            return "error", f"{status} {reply[:90]!r}"
    else:
        reply = read_reply(connection, read)
        if reply.startswith(b"-"):
            return ("ok" if read.may_be_refused else "error"), reply[:90].decode(errors="replace").strip()
    if not read.is_right(reply):
        return "wrong", f"{len(reply)} bytes for {read.length}: {reply[:40]!r}"
    return "ok", ""


def _run_slow(pipe, port, reads, pause, give_up, seed):
    chance = random.Random(seed)
    tries, texts, connection = [], Texts(), None
    number = seed
    while not pipe.poll():
        read = reads[number % len(reads)]
        number += 1
        first = time.monotonic()
        for attempt in range(RETRIES + 1):
            at = time.monotonic()
            try:
                if connection is None:
                    connection = socket.create_connection(("127.0.0.1", port), CONNECT_SECONDS)
                    connection.settimeout(give_up)
                outcome, text = _ask_slowly(connection, read)
            except TimeoutError:
                outcome, text = "gave up", f"gave up after {give_up} s of silence"
            except (OSError, ValueError) as error:
                outcome, text = "lost", str(error)
            tries.append(Try(read.kind, first, at, time.monotonic() - at, outcome))
            if outcome != "ok":
                texts.add(f"{read.kind}: {text}")
            if outcome in ("lost", "gave up", "wrong"):
                if connection:
                    connection.close()
                connection = None
            if outcome not in ("lost", "gave up") or pipe.poll():
                break
            select.select([pipe], [], [], min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**attempt) * chance.random())
        if not pipe.poll():
            # After an error a program does something else for a moment.
            select.select([pipe], [], [], pause if outcome == "ok" else max(pause, 0.5))
    if connection:
        connection.close()
    pipe.send((tries, texts.counts))


class SlowLoad:
    """Clients that ask for slow reads one after the other, each in a process, as redis-py 8 does."""

    def __init__(self, port, clients, pause=0.05, give_up=GIVE_UP_SECONDS):
        self.processes = []
        for seed, reads in enumerate(clients):
            ours, theirs = _context.Pipe()
            process = _context.Process(target=_run_slow, args=(theirs, port, reads, pause, give_up, seed), daemon=True)
            process.start()
            theirs.close()
            self.processes.append((process, ours))

    def stop(self):
        tries, texts = [], collections.Counter()
        for _, pipe in self.processes:
            pipe.send("stop")
        for process, pipe in self.processes:
            try:
                if pipe.poll(GRACE_SECONDS + 40):
                    more, counts = pipe.recv()
                    tries += more
                    texts += counts
            except EOFError:
                texts["a slow client ended early"] += 1
            process.join(5)
            process.kill()
        return sorted(tries, key=lambda one: one.at), texts

    def kill(self):
        for process, _ in self.processes:
            process.kill()


def _burn():
    while True:
        pass


class Burner:
    """Keeps one core busy."""

    def __init__(self):
        self.process = _context.Process(target=_burn, daemon=True)
        self.process.start()

    def kill(self):
        self.process.kill()
        self.process.join()
