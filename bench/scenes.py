"""Plays scenes in which a client or an event could take service away from other clients, and judges them.

    python3 bench/scenes.py [--lb PATH] [--seconds N] [--peer haproxy] [SCENE…]
    python3 bench/scenes.py --list

Each scene starts Redis servers and an `lb` of its own on free ports of loopback, loads them with clients
that compare every reply, and prints a line: what was measured, and where a bound was missed. A name that
begins several scenes' plays all of them. The exit code is 1 if any bound was missed. See `make scenes`.
"""

import argparse
import collections
import ctypes
import json
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import traceback

import machine
import peers
import redis_client
import scene_load
from scene_load import NIL, NONE, Load, Operation, Request, SlowLoad, SlowRead, SlowRequest, array, bulk

# Bounds. Stalls are those of the other clients.
STALL_SECONDS = 1.3  # beside slow reads, poison and scripts
FAILOVER_SECONDS = 1.2  # when servers freeze or die
ALL_FROZEN_SECONDS = 1.2
P99_FACTOR, P99_EXTRA_SECONDS = 2, 0.005  # against a run in which another process burns one core
SLOW_FACTOR, SLOW_EXTRA_SECONDS = 1.3, 1  # against a slow read's own time and that of those before it
MAX_DEATHS = 2
# How long leases may take to be given back after the load, and servers to be up after a scene's event.
AFTER_SECONDS = 10
# More than any scene takes beyond its --seconds.
SCENE_EXTRA_SECONDS = 240

NUMBERS = 1_500_000
FIELDS = 2_000_000
MEMBERS = 400_000
SMALL_KEYS, USERS = 1000, 100
MANY_KEYS = 300_000
WATCHED_KEYS = 100_000
SAMPLE_SECONDS = 0.1
# How long a server may take to read its file, on a busy machine.
LOAD_SECONDS = 60

FOLDER = machine.RUN / "scenes"

SCENES = {}


class TooLong(Exception):
    """A scene has taken more time than it may."""


def scene(name, about):
    def add(function):
        SCENES[name] = (function, about)
        return function

    return add


def die_with_parent():
    """Whatever we start ends with us, also if we are killed (Linux: PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


# --- servers ---------------------------------------------------------------------------


class Server:
    """A Redis server in a folder of its own, without persistence but for the file it starts with."""

    def __init__(self, name, file=None, options=(), limit_bytes=None):
        self.name, self.options, self.limit_bytes = name, [str(word) for word in options], limit_bytes
        self.port = machine.free_port()
        self.file = file
        self.process = None
        self.start(file)

    def start(self, file="its own"):
        folder = FOLDER / self.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "dump.rdb").unlink(missing_ok=True)
        file = self.file if file == "its own" else file
        if file:
            os.link(file, folder / "dump.rdb")  # a server replaces this file, it never writes into it
        command = ["redis-server", "--port", self.port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        if self.limit_bytes:
            command = ["prlimit", f"--as={self.limit_bytes}", "--core=0", *command]
        self.process = machine.start(
            f"scene-{os.getpid()}-{self.name}", [*command, "--dir", folder, *self.options], preexec_fn=die_with_parent
        )

    def wait(self):
        """Until it has read its file."""
        deadline = time.monotonic() + LOAD_SECONDS
        while True:
            try:
                self.ask("PING")
                return self
            except (OSError, RuntimeError) as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{self.name} does not answer: {error}; see its log") from None
            time.sleep(0.02)

    def ask(self, *words):
        return redis_client.ask(self.port, *words)

    def signal(self, number):
        os.kill(self.process.pid, number)

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            if self.process in machine._running:
                machine._running.remove(self.process)


class Direct:
    """A connection to one server that may take its time."""

    def __init__(self, port, seconds=120):
        self.socket = socket.create_connection(("127.0.0.1", port), seconds)
        self.stream = self.socket.makefile("rb", 1 << 20)

    def ask(self, *words):
        self.socket.sendall(scene_load.encode(*words))
        return redis_client._read(self.stream)

    def send_all(self, commands):
        """Many commands, of which none may fail."""
        commands = iter(commands)
        while True:
            batch = [command for _, command in zip(range(2000), commands)]
            if not batch:
                return
            self.socket.sendall(b"".join(scene_load.encode(*command) for command in batch))
            for _ in batch:
                reply = redis_client._read(self.stream)
                if reply.startswith(b"-"):
                    raise RuntimeError(reply.decode().strip())

    def timed(self, *words):
        """The reply, and the median of three times in seconds. A PING says where the reply ends."""
        times, payload = [], scene_load.encode(*words) + scene_load.encode("PING")
        for _ in range(3):
            start, reply = time.monotonic(), bytearray()
            self.socket.sendall(payload)
            while not reply.endswith(b"+PONG\r\n"):
                chunk = self.socket.recv(1 << 20)
                if not chunk:
                    raise ConnectionResetError("the connection was closed")
                reply += chunk
            times.append(time.monotonic() - start)
        return bytes(reply[: -len(b"+PONG\r\n")]), statistics.median(times)

    def close(self):
        self.stream.close()
        self.socket.close()


def small_data():
    for number in range(1, SMALL_KEYS + 1):
        yield "SET", f"key:{number}", f"value {number}"
    for number in range(1, USERS + 1):
        yield "HSET", f"user:{number}", *(word for pair in user(number).items() for word in pair)


def user(number):
    return {"name": f"user {number}", "born": str(1900 + number), "town": f"town {number % 7}"}


# What a scene needs beside the small data; numbers are mixed, so that sorting them takes its time.
BIG_LIST = "for i = 1, %d do redis.call('RPUSH', '%s', (i * 7919 + %d) %% 1500007) end"
BIG_HASH = "for i = 1, %d do redis.call('HSET', '%s', 'field:' .. i, i * 7919 %% 1000003) end"
BIG_SET = "for i = 1, %d do redis.call('SADD', '%s', 'member:' .. (i + %d)) end"
BIG_SORTED_SET = "for i = 1, %d do redis.call('ZADD', '%s', i * 7919 %% 1000003, 'member:' .. (i + %d)) end"
MORE_KEYS = "for i = 1, %d do redis.call('SET', 'many:' .. i, i) end"


def data_file(name, scripts=()):
    """A file with the small data and what the scripts make, kept for other scenes of this run."""
    file = FOLDER / f"{name}.rdb"
    if file.exists():
        return file
    FOLDER.mkdir(parents=True, exist_ok=True)
    maker = Server("maker").wait()
    try:
        direct = Direct(maker.port)
        direct.send_all(small_data())
        for script in scripts:
            reply = direct.ask("EVAL", script, 0)
            if reply.startswith(b"-"):
                raise RuntimeError(reply.decode().strip())
        if direct.ask("SAVE") != b"+OK\r\n":
            raise RuntimeError("the data could not be saved")
        direct.close()
        os.replace(FOLDER / "maker/dump.rdb", file)
    finally:
        maker.kill()
    return file


# --- lb --------------------------------------------------------------------------------


class Lb:
    def __init__(self, path, servers, options=(), name="lb"):
        self.port = machine.free_port()
        command = [path, "--quiet", "--listen", f"127.0.0.1:{self.port}", "--max-clients", 2000, *options]
        for server in servers:
            command += ["--backend", f"127.0.0.1:{server.port}"]
        self.servers = servers
        self.process = machine.start(f"scene-{os.getpid()}-{name}", command, preexec_fn=die_with_parent)
        machine.wait_until(self._all_up)
        self.threads, self.files = self.takes()

    def _all_up(self):
        if self.process.poll() is not None:
            raise RuntimeError("lb has ended; see its log")
        if self.not_up() > 0:
            raise RuntimeError("a backend is not up")

    def status(self):
        connection = socket.create_connection(("127.0.0.1", self.port), 2)
        with connection:
            connection.sendall(b"GET /-/status.json?since=4000000000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            connection.settimeout(2)
            status, body = scene_load.read_answer(connection)
        if status != 200:
            raise RuntimeError(f"status {status}")
        return json.loads(body)

    def states(self):
        return [backend["state"] for backend in self.status()["backends"]]

    def not_up(self):
        return sum(state != "up" for state in self.states())

    def takes(self):
        """Threads and open files."""
        folder = pathlib.Path(f"/proc/{self.process.pid}")
        if not folder.exists():
            return 0, 0
        return len(list((folder / "task").iterdir())), len(list((folder / "fd").iterdir()))

    def kill(self):
        self.process.kill()
        self.process.wait()
        if self.process in machine._running:
            machine._running.remove(self.process)


class Sampler(threading.Thread):
    """Looks at the states of all backends ten times a second."""

    def __init__(self, lb, every=SAMPLE_SECONDS):
        super().__init__(daemon=True)
        self.lb, self.every = lb, every
        self.samples, self.failed, self.over = [], 0, threading.Event()
        self.start()

    def run(self):
        while not self.over.wait(self.every):
            at = time.monotonic()
            try:
                self.samples.append((at, self.lb.states()))
            except (OSError, RuntimeError, ValueError):
                self.failed += 1

    def end(self):
        self.over.set()
        self.join()

    def most_not_up(self):
        return max((sum(state != "up" for state in states) for _, states in self.samples), default=0)

    def seconds_not_up(self, count):
        """How long at least so many were not up, in all."""
        return sum(
            later - at
            for (at, states), (later, _) in zip(self.samples, self.samples[1:])
            if sum(state != "up" for state in states) >= count
        )

    def first(self, condition):
        return next((at for at, states in self.samples if condition(states)), None)


# --- load of the others ----------------------------------------------------------------


def gets():
    return [Operation("GET", [("GET", f"key:{n}")], [(bulk(f"value {n}"), NIL)]) for n in range(1, SMALL_KEYS + 1)]


def fours():
    numbers = [range(n, n + 4) for n in range(1, SMALL_KEYS - 4)]
    return [
        Operation("4 GETs", [("GET", f"key:{n}") for n in four], [(bulk(f"value {n}"), NIL) for n in four])
        for four in numbers
    ]


def hashes():
    return [
        Operation(
            "HGETALL",
            [("HGETALL", f"user:{n}")],
            [(array([word for pair in user(n).items() for word in pair]), NONE)],
        )
        for n in range(1, USERS + 1)
    ]


def pages():
    return [Request("GET /key", f"/key:{n}", f"value {n}") for n in range(1, SMALL_KEYS + 1)] + [
        Request("GET /user", f"/user:{n}", user(n)) for n in range(1, USERS + 1)
    ]


PAUSE_SECONDS = 0.004


def others(pause=PAUSE_SECONDS, http=0):
    """Six with GETs, one with pipelines of four, one with HGETALL; and some over HTTP."""
    clients = [(gets(), pause) for _ in range(6)] + [(fours(), pause), (hashes(), pause)]
    return [clients + [(pages(), pause) for _ in range(http)]]


# --- what a scene says -----------------------------------------------------------------


class Report:
    """One line for a scene: figures, then the bounds that were missed."""

    def __init__(self, name):
        self.name, self.figures, self.missed, self.texts = name, [], [], collections.Counter()

    def load(self, result, stall, most_errors=0):
        operations = result.operations()
        self.figures += [
            f"operations {operations}",
            f"wrong {result.wrong()}",
            f"errors {result.errors()}",
            f"longest {result.longest() * 1000:.0f} ms",
            f"p50 {result.quantile(0.5) * 1000:.2f} ms",
            f"p99 {result.quantile(0.99) * 1000:.2f} ms",
        ]
        self.bound(operations > 100, "hardly any operation")
        self.bound(result.wrong() == 0, f"{result.wrong()} wrong")
        self.bound(result.errors() <= most_errors, f"{result.errors()} errors > {most_errors}")
        self.bound(result.longest() < stall, f"stall of {result.longest() * 1000:.0f} ms > {stall * 1000:.0f}")
        self.texts += result.error_texts + result.wrong_texts

    def say(self, figure):
        self.figures.append(figure)

    def bound(self, is_kept, otherwise):
        if not is_kept:
            self.missed.append(otherwise)

    def line(self):
        verdict = "MISSED: " + "; ".join(self.missed) if self.missed else "ok"
        return f"{self.name}: {', '.join(self.figures)} – {verdict}"


class Stage:
    """What a scene gets: the flags, its report, and an end to all that it started."""

    def __init__(self, name, arguments):
        self.arguments, self.report = arguments, Report(name)
        self.seconds = arguments.seconds
        self.started = []

    def keep(self, thing):
        self.started.append(thing)
        return thing

    def servers(self, file, count=3, **options):
        servers = []
        for number in range(1, count + 1):
            servers.append(self.keep(Server(f"redis{number}", file, **options)))
        for server in servers:
            server.wait()
        return servers

    def lb(self, servers, options=()):
        """The balancer; and a client of a Redis server to which nothing happens: what it has to wait is
        the computer's fault."""
        control = self.keep(Server("control", data_file("small")).wait())
        self.control = self.load(control.port, [[(gets(), PAUSE_SECONDS)]])
        return self.keep(Lb(self.arguments.lb, servers, options))

    def load(self, port, groups):
        return self.keep(Load(port, groups))

    def slow(self, port, clients, **options):
        return self.keep(SlowLoad(port, clients, **options))

    def sampler(self, lb, **options):
        sampler = Sampler(lb, **options)
        self.started.append(sampler)
        return sampler

    def afterwards(self, lb, seconds=AFTER_SECONDS):
        """Leases, threads and files are given back. Says also what a client without a balancer saw."""
        control = self.control.stop()
        self.report.say(
            f"without lb: longest {control.longest() * 1000:.0f} ms, p99 {control.quantile(0.99) * 1000:.2f} ms"
        )
        deadline = time.monotonic() + seconds
        leases = None
        while time.monotonic() < deadline:
            try:
                leases = sum(backend["leases"] for backend in lb.status()["backends"])
            except (OSError, RuntimeError, ValueError):
                leases = "unknown"
            if leases == 0:
                break
            time.sleep(0.1)
        threads, files = lb.takes()
        self.report.say(f"left: leases {leases}, threads {lb.threads}→{threads}, files {lb.files}→{files}")
        self.report.bound(leases == 0, f"{leases} leases left after {seconds} s")
        self.report.bound(lb.process.poll() is None, "lb has ended")

    def end(self):
        for thing in reversed(self.started):
            if isinstance(thing, Sampler):
                thing.over.set()
            else:
                thing.kill()


# --- 1: slow reads ---------------------------------------------------------------------


def sort_reads(servers, keys):
    """A slow read for each key, and how long it takes on a Redis server alone."""
    direct = Direct(servers[0].port)
    reads, own = [], 0
    for key in keys:
        command = ("SORT_RO", key, "ALPHA", "LIMIT", 0, 1)
        reply, seconds = direct.timed(*command)
        reads.append(SlowRead("SORT_RO", command, reply))
        own = max(own, seconds)
    direct.close()
    return reads, {"SORT_RO": own}


def base_p99(stage, port, groups):
    """p99 of the load while another process burns one core, and without slow reads."""
    burner = stage.keep(scene_load.Burner())
    load = stage.load(port, groups)
    time.sleep(max(5, stage.seconds / 8))
    result = load.stop()
    burner.kill()
    return result.quantile(0.99)


def judge_slow(stage, tries, texts, own):
    """Each slow read against its own time and that of those that were before it."""
    report = stage.report
    count = collections.Counter(one.outcome for one in tries)
    report.say("alone " + ", ".join(f"{kind} {seconds:.2f} s" for kind, seconds in own.items()))
    late, worst = 0, (0, 0)
    for one in tries:
        if one.outcome not in ("ok", "gave up"):
            continue
        # Others that were under way when this one was sent, and one more that a client gave up and
        # that may still have run.
        before = sum(
            own[other.kind] for other in tries if other.at < one.at < other.at + other.seconds and other is not one
        )
        given_up = [
            own[other.kind]
            for other in tries
            if other.outcome in ("gave up", "lost") and 0 <= one.at - (other.at + other.seconds) < 2 * own[other.kind]
        ]
        bound = SLOW_FACTOR * (own[one.kind] + before + max(given_up, default=0)) + SLOW_EXTRA_SECONDS
        late += one.seconds > bound  # one that was given up may have had more time
        if one.seconds - bound > worst[0] - worst[1] or worst == (0, 0):
            worst = (one.seconds, bound)
    reads = collections.defaultdict(list)
    for one in tries:
        reads[(one.kind, one.first)].append(one)
    longest = max((some[-1].at + some[-1].seconds - some[0].first for some in reads.values()), default=0)
    report.say(
        f"slow: {count['ok']} answered, worst {worst[0]:.2f} s (bound {worst[1]:.2f}), "
        f"{count['gave up']} given up, {count['lost']} lost, {count['error']} errors, longest with tries {longest:.1f} s"
    )
    report.bound(count["ok"] > 0, "no slow read was answered")
    report.bound(late == 0, f"{late} slow reads late (worst {worst[0]:.2f} s > {worst[1]:.2f})")
    bad = count["error"] + count["lost"] + count["wrong"]
    report.bound(bad == 0, f"{bad} slow reads failed")
    report.texts += texts


def play_slow(stage, servers, clients, own, groups, **options):
    """The others' load, with slow clients after a few seconds."""
    lb = stage.lb(servers)
    base = base_p99(stage, lb.port, groups)
    sampler = stage.sampler(lb)
    load = stage.load(lb.port, groups)
    time.sleep(3)
    begin = time.monotonic()
    slow = stage.slow(lb.port, clients, **{"give_up": stage.arguments.give_up, **options})
    time.sleep(stage.seconds)
    tries, texts = slow.stop()
    time.sleep(1)
    result = load.stop()
    sampler.end()
    stage.report.load(result, STALL_SECONDS)
    # The first answer at the latest says how slow the kind is; until then it is unknown.
    known = max((min([one.at + one.seconds for one in tries if one.kind == kind], default=begin) for kind in own))
    # Before and afterwards, as others may use the computer, too; but not while a slow read still runs.
    deadline = time.monotonic() + AFTER_SECONDS
    while time.monotonic() < deadline and (lb.not_up() or not all(map(_answers, servers))):
        time.sleep(0.1)
    if time.monotonic() < deadline:
        base = max(base, base_p99(stage, lb.port, groups))
    p99, bound = result.quantile(0.99, known), P99_FACTOR * base + P99_EXTRA_SECONDS
    stage.report.say(f"p99 once known {p99 * 1000:.2f} ms (base {base * 1000:.2f}, bound {bound * 1000:.2f})")
    stage.report.bound(p99 <= bound, f"p99 {p99 * 1000:.2f} ms > {bound * 1000:.2f}")
    judge_slow(stage, tries, texts, own)
    most = sampler.most_not_up()
    stage.report.say(f"most not up {most}, two for {sampler.seconds_not_up(2):.1f} s, status failed {sampler.failed}")
    stage.report.bound(most < 2, f"{most} backends not up")
    stage.afterwards(lb, AFTER_SECONDS + min(60, 3 * max(own.values())))
    lb.kill()


def play_peer(stage, servers, clients, groups):
    """The slow scene through another proxy, for comparison; it has no bounds."""
    peer = peers.start(stage.arguments.peer, [peers.Target("direct", server.port, server.process) for server in servers])
    load = stage.load(peer.port, groups)
    slow = stage.slow(peer.port, clients)
    time.sleep(stage.seconds)
    tries, texts = slow.stop()
    result = load.stop()
    machine.stop(peer.process)
    report = Report(f"{stage.report.name} by {stage.arguments.peer}")
    report.load(result, float("inf"), float("inf"))
    count = collections.Counter(one.outcome for one in tries)
    report.say(f"slow: {dict(count)}, longest {max((one.seconds for one in tries), default=0):.2f} s")
    report.texts = result.error_texts + result.wrong_texts + texts
    print(report.line().rpartition(" – ")[0], flush=True)


def slow_sort(stage, keys, clients):
    scripts = [BIG_LIST % (NUMBERS, key, at) for at, key in enumerate(keys)]
    servers = stage.servers(data_file(f"sort{len(keys)}", scripts))
    reads, own = sort_reads(servers, keys)
    each = [[reads[number % len(reads)]] for number in range(clients)]
    if stage.arguments.peer:
        play_peer(stage, servers, each, others())
    play_slow(stage, servers, each, own, others())


@scene("slow-sort", "one client with SORT_RO of 1.5 million numbers, eight others")
def _(stage):
    slow_sort(stage, ["big"], 1)


@scene("slow-sort-3", "three such clients, one key")
def _(stage):
    slow_sort(stage, ["big"], 3)


@scene("slow-sort-keys", "three such clients, a key each")
def _(stage):
    slow_sort(stage, ["big1", "big2", "big3"], 3)


def slow_http(stage, clients):
    servers = stage.servers(data_file("hash", [BIG_HASH % (FIELDS, "bighash")]))
    alone = stage.keep(Lb(stage.arguments.lb, servers, name="lb-alone"))
    times = []
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", alone.port), 60) as connection:
            start = time.monotonic()
            connection.sendall(SlowRequest("HTTP", "/bighash").payload)
            status, body = scene_load.read_answer(connection)
            times.append(time.monotonic() - start)
            if status != 200 or len(body) < FIELDS * 10:
                raise RuntimeError(f"alone, the hash was answered with {status} and {len(body)} bytes")
    alone.kill()
    read, own = SlowRequest("HTTP", "/bighash", body), {"HTTP": statistics.median(times)}
    # HTTP clients such as curl don't give up.
    play_slow(stage, servers, [[read]] * clients, own, others(http=3), give_up=60)


@scene("slow-http", "a hash of 2 million fields over HTTP in a loop, others over HTTP and the Redis protocol")
def _(stage):
    slow_http(stage, 1)


@scene("slow-http-3", "three such clients")
def _(stage):
    slow_http(stage, 3)


@scene("slow-mix", "SUNION, ZUNION, LRANGE, HGETALL, MGET and WATCH of what is big, two clients")
def _(stage):
    scripts = [BIG_LIST % (NUMBERS, "biglist", 0), BIG_HASH % (FIELDS // 2, "bighash"), MORE_KEYS % MANY_KEYS]
    for number in (1, 2):
        scripts.append(BIG_SET % (MEMBERS, f"bigset{number}", number * MEMBERS // 2))
        scripts.append(BIG_SORTED_SET % (MEMBERS // 2, f"bigzset{number}", number * MEMBERS // 4))
    servers = stage.servers(data_file("mix", scripts))
    direct, reads, own = Direct(servers[0].port), [], {}
    for command, in_order in [
        (("SUNION", "bigset1", "bigset2"), False),
        (("ZUNION", "2", "bigzset1", "bigzset2"), True),
        (("LRANGE", "biglist", "0", "-1"), True),
        (("HGETALL", "bighash"), False),
        (("MGET", *(f"many:{n}" for n in range(1, MANY_KEYS + 1))), True),
        (("WATCH", *(f"many:{n}" for n in range(1, WATCHED_KEYS + 1))), True),
    ]:
        name = command[0]
        if name == "WATCH":
            # Takes Redis half a minute: it looks for each key among all before it.
            start = time.monotonic()
            reply = direct.ask(*command[: WATCHED_KEYS // 10 + 1])
            own[name] = (time.monotonic() - start) * 100
            direct.ask("UNWATCH")
        else:
            reply, own[name] = direct.timed(*command)
        reads.append(SlowRead(name, command, reply, in_order, may_be_refused=name == "WATCH"))
    direct.close()
    play_slow(stage, servers, [reads, reads[3:] + reads[:3]], own, others())


# --- 2: servers that freeze, die and come back -----------------------------------------


def play_rounds(stage, event, seconds, stall=FAILOVER_SECONDS):
    """Each server in turn meets the event, which gets `lb` and the server, under load."""
    servers = stage.servers(data_file("small"))
    lb = stage.lb(servers)
    sampler = stage.sampler(lb)
    load = stage.load(lb.port, others())
    time.sleep(3)  # far more than 30 reads of each kind
    rounds = max(1, min(len(servers), int(stage.seconds // seconds)))
    slowest = 0
    for number in range(rounds):
        event(servers[(number + 1) % len(servers)])
        start = time.monotonic()
        while lb.not_up() and time.monotonic() < start + AFTER_SECONDS + 5:
            time.sleep(0.1)
        slowest = max(slowest, time.monotonic() - start)
        time.sleep(1)
    result = load.stop()
    sampler.end()
    stage.report.load(result, stall)
    stage.report.say(f"rounds {rounds}, up again after {slowest:.1f} s")
    stage.report.bound(slowest < AFTER_SECONDS, f"not up {slowest:.1f} s after the end")
    most = sampler.most_not_up()
    stage.report.say(f"most not up {most}")
    stage.report.bound(most < 2, f"{most} backends not up")
    stage.afterwards(lb)


@scene("frozen", "one of three servers stops for 5 s, kinds that are known to be quick")
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


@scene("empty-restart", "one of three servers is killed, starts without data, and is loaded after 4 s")
def _(stage):
    def event(server):
        server.kill()
        server.start(None)
        server.wait()
        time.sleep(4)
        direct = Direct(server.port)
        direct.send_all(small_data())
        direct.close()

    play_rounds(stage, event, 8)


@scene("rolling", "a server restarts every 2 s, 200 clients")
def _(stage):
    servers = stage.servers(data_file("small"))
    lb = stage.lb(servers)
    sampler = stage.sampler(lb)
    kinds = [gets(), gets(), fours(), hashes(), pages()]
    load = stage.load(lb.port, [[(kinds[number % 5], 0.1) for number in range(100)] for _ in range(2)])
    time.sleep(3)
    restarts, end = 0, time.monotonic() + stage.seconds
    while time.monotonic() < end:
        next_at = time.monotonic() + 2
        server = servers[restarts % 3]
        server.kill()
        server.start()
        restarts += 1
        time.sleep(max(0, next_at - time.monotonic()))
    time.sleep(2)
    result = load.stop()
    sampler.end()
    stage.report.load(result, FAILOVER_SECONDS)
    stage.report.say(f"restarts {restarts}, most not up {sampler.most_not_up()}, two for {sampler.seconds_not_up(2):.1f} s")
    stage.afterwards(lb)


# --- 3: all are frozen -----------------------------------------------------------------

LENGTHS = [1, 64, 65, 1000, 10_000]
# How long pipelines that were sent before the freeze, and afterwards, are waited for.
FROZEN_SECONDS, SENT_SECONDS = 30, 6


class Pipeline(threading.Thread):
    """One pipeline of GETs on a connection of its own: when it ended, and how many errors came."""

    def __init__(self, port, length, has_backend=True):
        super().__init__(daemon=True)
        self.length, self.errors, self.values, self.text = length, 0, 0, ""
        self.lost = ""
        self.connection = socket.create_connection(("127.0.0.1", port), 5)
        self.connection.settimeout(60)
        self.stream = self.connection.makefile("rb", 1 << 20)
        if has_backend:
            self.ask(1)

    def ask(self, length):
        self.connection.sendall(b"".join(scene_load.encode("GET", f"key:{n % SMALL_KEYS + 1}") for n in range(length)))
        for _ in range(length):
            line = self.stream.readline()
            if not line:
                raise ConnectionResetError("the connection was closed")
            if line.startswith(b"-"):
                self.errors += 1
                self.text = line.decode(errors="replace").strip()
            else:
                self.values += 1
                self.stream.read(int(line[1:]) + 2)

    def run(self):
        self.errors, self.values = 0, 0
        self.at = time.monotonic()
        try:
            self.ask(self.length)
        except (OSError, ValueError) as error:
            self.lost = str(error) or type(error).__name__
        self.end_at = time.monotonic()

    def close(self):
        try:
            self.connection.shutdown(socket.SHUT_RDWR)  # also while its thread waits for a reply
        except OSError:
            pass
        self.connection.close()

    def answered(self):
        return self.errors + self.values


@scene("all-frozen", "all servers stop: pipelines of 1 to 10,000 GETs, sent just before and afterwards")
def _(stage):
    servers = stage.servers(data_file("small"))
    lb = stage.lb(servers)
    sampler = stage.sampler(lb, every=0.02)
    report = stage.report
    # Pipelines that are sent at the moment of the freeze, on sessions that have a backend.
    before = [Pipeline(lb.port, length) for length in LENGTHS]
    after = [Pipeline(lb.port, length) for length in LENGTHS]
    frozen = time.monotonic()
    for server in servers:
        server.signal(signal.SIGSTOP)
    for pipeline in before:
        pipeline.start()
    _join(before, FROZEN_SECONDS)
    while time.monotonic() < frozen + 30 and sampler.first(lambda states: "up" not in states) is None:
        time.sleep(0.05)
    none_up = sampler.first(lambda states: "up" not in states)
    report.bound(none_up is not None, "a frozen backend stays up")
    none_up = none_up or time.monotonic()
    report.say(f"none up after {none_up - frozen:.2f} s")
    sent_now = [(f"session {pipeline.length}", pipeline) for pipeline in after]
    for _, pipeline in sent_now:
        pipeline.start()
    _join([pipeline for _, pipeline in sent_now], SENT_SECONDS)
    for length in LENGTHS:  # one after the other, on new sessions
        pipeline = Pipeline(lb.port, length, has_backend=False)
        pipeline.start()
        pipeline.join(SENT_SECONDS)
        sent_now.append((f"new {length}", pipeline))
    down = sampler.first(lambda states: all(state == "down" for state in states))
    report.say(f"all down after {down - frozen:.2f} s" if down else "never all down")
    report.bound(down is not None, "a frozen backend is not down")
    # A backend that a read blamed is not up either; that checks have failed is sure once it is down.
    for pipeline in before:
        _judge_pipeline(report, f"before {pipeline.length}", pipeline, down or none_up)
    for name, pipeline in sent_now:
        _judge_pipeline(report, name, pipeline, pipeline.at)
    for server in servers:
        server.signal(signal.SIGCONT)
    thawed = time.monotonic()
    while lb.not_up() and time.monotonic() < thawed + AFTER_SECONDS:
        time.sleep(0.05)
    report.say(f"up again after {time.monotonic() - thawed:.1f} s")
    report.bound(lb.not_up() == 0, "not up again")
    again = Pipeline(lb.port, 1000)
    again.run()
    again.close()
    report.bound(again.values == 1000, f"afterwards {again.errors} errors of 1000")
    sampler.end()
    for _, pipeline in sent_now:
        pipeline.close()
    for pipeline in before:
        pipeline.close()
    stage.afterwards(lb)


def _join(pipelines, seconds):
    deadline = time.monotonic() + seconds
    for pipeline in pipelines:
        pipeline.join(max(0, deadline - time.monotonic()))


def _judge_pipeline(report, name, pipeline, since):
    if pipeline.is_alive():
        report.say(f"{name}: {pipeline.answered()} replies after {time.monotonic() - pipeline.at:.1f} s")
        report.bound(False, f"{name}: only {pipeline.answered()} replies")
        return
    seconds = max(0, pipeline.end_at - since)
    report.say(f"{name}: {seconds:.2f} s")
    report.bound(not pipeline.lost, f"{name}: {pipeline.lost}")
    report.bound(pipeline.answered() == pipeline.length, f"{name}: {pipeline.answered()} replies")
    report.bound(seconds <= ALL_FROZEN_SECONDS, f"{name} took {seconds:.2f} s")
    # Some that were sent before may have been answered before the freeze.
    report.bound(pipeline.errors > 0 or name.startswith("before"), f"{name}: no error")


# --- 4: a read that kills its server ---------------------------------------------------

POISON_MEMBERS, POISON_MEMBER_BYTES = 200, 400
POISON_LIMIT_BYTES = 400 << 20
# What its supervisor waits before it starts a server again.
RESTART_SECONDS = 0.5


@scene("poison", "SRANDMEMBER s -2000000 kills servers that have little memory and are started again")
def _(stage):
    script = f"for i = 1, {POISON_MEMBERS} do redis.call('SADD', 's', string.rep('x', {POISON_MEMBER_BYTES}) .. i) end"
    servers = stage.servers(data_file("poison", [script]), limit_bytes=POISON_LIMIT_BYTES)
    lb = stage.lb(servers)
    sampler = stage.sampler(lb)
    load = stage.load(lb.port, others())
    time.sleep(3)
    slow = stage.slow(lb.port, [[SlowRead("SRANDMEMBER", ("SRANDMEMBER", "s", "-2000000"), None)]], pause=2)
    deaths, end = 0, time.monotonic() + min(stage.seconds, 30)
    again_at = {}
    while time.monotonic() < end:
        for server in servers:
            if server in again_at:
                if time.monotonic() >= again_at[server]:
                    del again_at[server]
                    server.start()
            elif server.process.poll() is not None:
                deaths += 1
                server.kill()
                again_at[server] = time.monotonic() + RESTART_SECONDS
        time.sleep(0.02)
    tries, texts = slow.stop()
    result = load.stop()
    sampler.end()
    stage.report.load(result, STALL_SECONDS)
    count = collections.Counter(one.outcome for one in tries)
    stage.report.say(f"deaths {deaths}, poison: {dict(count)}, most not up {sampler.most_not_up()}")
    stage.report.texts += texts
    stage.report.bound(deaths > 0, "no server died: the scene proves nothing")
    stage.report.bound(deaths <= MAX_DEATHS, f"{deaths} deaths > {MAX_DEATHS}")
    stage.report.bound(count["lost"] + count["gave up"] == 0, "the poisoner got no error that says so")
    stage.afterwards(lb)


# --- 5: keys go ------------------------------------------------------------------------


def play_gone(stage, how, with_replicas, one_away):
    file = data_file("gone", [MORE_KEYS % 20_000])
    servers = stage.servers(file)
    if with_replicas:
        for replica in servers[1:]:
            replica.ask("CONFIG", "SET", "repl-diskless-sync-delay", "0")
            replica.ask("REPLICAOF", "127.0.0.1", servers[0].port)
        servers[0].ask("CONFIG", "SET", "repl-diskless-sync-delay", "0")

        def linked():
            for replica in servers[1:]:
                if b"master_link_status:up" not in replica.ask("INFO", "replication"):
                    raise RuntimeError("a replica has no link")

        machine.wait_until(linked)
    primaries = servers[:1] if with_replicas else servers
    lb = stage.lb(servers)
    sampler = stage.sampler(lb)
    load = stage.load(lb.port, others())
    time.sleep(2)
    if one_away:
        servers[2].kill()
        primaries = [server for server in primaries if server is not servers[2]]
        time.sleep(3)
    away = 1 if one_away else 0
    writers = [Direct(server.port) for server in primaries]
    if how == "expire":
        at = int(time.time() * 1000) + 1500
        for writer in writers:
            writer.ask("EVAL", f"for _, k in ipairs(redis.call('KEYS', '*')) do redis.call('PEXPIREAT', k, {at}) end", 0)
    with load.gone_at.get_lock():
        load.gone_at.value = time.monotonic() - 0.05
    if how == "flush":
        for writer in writers:
            writer.ask("FLUSHALL")
    elif how == "delete":
        for writer in writers:
            writer.ask("EVAL", "for _, k in ipairs(redis.call('KEYS', '*')) do redis.call('DEL', k) end", 0)
    number, end = 0, time.monotonic() + max(5, min(stage.seconds, 12))
    while time.monotonic() < end:
        next_at = time.monotonic() + 0.015
        number += 1
        for writer in writers:
            writer.ask("SET", f"tick:{number}", "x")
        time.sleep(max(0, next_at - time.monotonic()))
    for writer in writers:
        writer.close()
    result = load.stop()
    sampler.end()
    stage.report.load(result, STALL_SECONDS)
    seconds = sampler.seconds_not_up(1 + away)
    stage.report.say(f"most not up {sampler.most_not_up()}, more than {away} for {seconds:.1f} s")
    stage.afterwards(lb)


def add_gone_scenes():
    names = {"flush": "FLUSHALL", "expire": "all keys expire at once", "delete": "all keys are deleted"}
    for how, about in names.items():
        for with_replicas in (True, False):
            for one_away in (False, True):
                kind = "replicas" if with_replicas else "independent"
                name = f"{'flushall' if how == 'flush' else how}-{kind}{'-away' if one_away else ''}"

                def play(stage, how=how, with_replicas=with_replicas, one_away=one_away):
                    play_gone(stage, how, with_replicas, one_away)

                where = "a primary with two replicas" if with_replicas else "three independent servers"
                scene(name, f"{about}, then a SET every 15 ms: {where}{', one away' if one_away else ''}")(play)


add_gone_scenes()


# --- 6: scripts ------------------------------------------------------------------------


@scene("scripts", "three clients with `while true do end`, where scripts are allowed")
def _(stage):
    servers = stage.servers(data_file("small"))
    flags = machine.run([stage.arguments.lb, "--help"], 10)
    lb = stage.lb(servers, ["--allow-scripts"] if "--allow-scripts" in flags else [])
    sampler = stage.sampler(lb)
    load = stage.load(lb.port, others())
    time.sleep(3)
    read = SlowRead("EVAL_RO", ("EVAL_RO", "while true do end", "0"), None)
    slow = stage.slow(lb.port, [[read]] * 3)
    time.sleep(stage.seconds)
    tries, texts = slow.stop()
    result = load.stop()
    stage.report.load(result, STALL_SECONDS)
    count = collections.Counter(one.outcome for one in tries)
    # After --read-timeout (30 s) each script is ended; one may have just begun.
    start = time.monotonic()
    while time.monotonic() < start + 45 and not all(map(_answers, servers)):
        time.sleep(0.2)
    sampler.end()
    busy = sum(not _answers(server) for server in servers)
    stage.report.say(
        f"scripts: {dict(count)}, most not up {sampler.most_not_up()}, all idle after {time.monotonic() - start:.1f} s"
    )
    stage.report.texts += texts
    stage.report.bound(busy == 0, f"{busy} servers busy for ever")
    stage.report.bound(sampler.most_not_up() < 2, f"{sampler.most_not_up()} backends not up")
    stage.afterwards(lb)


def _answers(server):
    with socket.create_connection(("127.0.0.1", server.port), 1) as connection:
        connection.settimeout(0.5)
        try:
            connection.sendall(b"PING\r\n")
            return connection.recv(100) == b"+PONG\r\n"
        except OSError:
            return False


# --- all -------------------------------------------------------------------------------


def play(name, arguments):
    """Whether the scene kept its bounds."""
    stage = Stage(name, arguments)
    signal.alarm(int(arguments.seconds) + SCENE_EXTRA_SECONDS)
    try:
        SCENES[name][0](stage)
    except TooLong:
        stage.report.bound(False, "the scene took too long")
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        where = traceback.extract_tb(error.__traceback__)[1:]
        lines = " > ".join(f"{frame.name}:{frame.lineno}" for frame in where[-4:])
        stage.report.bound(False, f"the scene broke off: {type(error).__name__}: {error} ({lines})")
    finally:
        signal.alarm(0)
        stage.end()
        machine.stop_all()
    print(stage.report.line(), flush=True)
    for text, count in stage.report.texts.most_common(6):
        print(f"    {count} × {text}", flush=True)
    return not stage.report.missed


def chosen(names):
    found = []
    for name in names:
        matching = [known for known in SCENES if known == name] or [known for known in SCENES if known.startswith(name)]
        if not matching:
            sys.exit(f"scenes: there is no {name}; --list names them")
        found += matching
    return found or list(SCENES)


def too_long(*_):
    raise TooLong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", nargs="*", metavar="SCENE", help="all, if none is named")
    parser.add_argument("--lb", default=str(peers.LB), help="the program under test (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="how long the event of a scene lasts (default: 60)")
    parser.add_argument(
        "--give-up",
        type=float,
        default=scene_load.GIVE_UP_SECONDS,
        help="silence after which clients with slow commands ask again (default: %(default)s s, as redis-py 8)",
    )
    parser.add_argument("--peer", choices=["haproxy"], help="also play slow-sort through it, for comparison")
    parser.add_argument("--list", action="store_true", help="name the scenes")
    arguments = parser.parse_args()
    if arguments.list:
        for name, (_, about) in SCENES.items():
            print(f"{name:30} {about}")
        return
    names = chosen(arguments.scenes)
    arguments.lb = str(pathlib.Path(arguments.lb).resolve())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("scenes: ended by a signal"))
    signal.signal(signal.SIGALRM, too_long)
    machine.raise_file_limit()
    machine.RUN.joinpath("run").mkdir(parents=True, exist_ok=True)
    global FOLDER
    FOLDER = machine.RUN / f"scenes-{os.getpid()}"  # two runs at the same time don't meet
    kept = [False]
    try:
        kept = [play(name, arguments) for name in names]
    finally:
        machine.stop_all()
        shutil.rmtree(FOLDER, ignore_errors=True)
        if all(kept):  # else their logs may say why
            for folder in machine.RUN.glob(f"run/scene-{os.getpid()}-*"):
                shutil.rmtree(folder, ignore_errors=True)
    print(f"{sum(kept)} of {len(kept)} scenes kept their bounds")
    sys.exit(0 if all(kept) else 1)


if __name__ == "__main__":
    main()
