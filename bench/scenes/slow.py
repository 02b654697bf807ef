"""Slow reads beside regular clients."""

import http.client
import statistics
import time

import machine
import peers
import redis_client

from . import judge
from .data import BIG_HASH, BIG_LIST, BIG_SET, BIG_SORTED_SET, MANY_STRINGS, regular_clients
from .load import Load
from .slow_load import SlowCommand, SlowLoad, SlowRequest
from .stage import Lb, data_file, scene
from .workers import Workers, burn_cpu

NUMBERS = 1_500_000
FIELDS = 2_000_000
MEMBERS = 400_000
MANY_KEYS = 300_000
WATCHED_KEYS = 100_000
# How often a slow read is timed alone.
TIMED_RUNS = 3


def timed(ask):
    """The last result of several runs, and their median time in seconds."""
    times = []
    for _ in range(TIMED_RUNS):
        start = time.monotonic()
        result = ask()
        times.append(time.monotonic() - start)
    return result, statistics.median(times)


def ask_raw(connection, words):
    """The reply, read in large pieces. The reply to a PING shows where it ends."""
    connection.socket.sendall(redis_client.encode(*words) + redis_client.encode("PING"))
    pong, reply = b"+PONG\r\n", bytearray()
    while not reply.endswith(pong):
        chunk = connection.socket.recv(1 << 20)
        if not chunk:
            raise ConnectionResetError("the connection was closed")
        reply += chunk
    return bytes(reply[: -len(pong)])


def base_p99(stage, groups):
    """p99 of regular clients without slow reads, while another process burns one core."""
    burner = stage.keep(Workers(burn_cpu, [()]))
    load = stage.keep(Load(stage.lb.port, groups))
    time.sleep(max(5, stage.seconds / 8))
    result = load.stop()
    burner.kill()
    return result.quantile(0.99)


def play_slow(stage, servers, clients, alone, groups, **options):
    """Regular load, with slow clients after the warm-up. `alone`: the time of each kind of slow read alone."""
    report = stage.report
    lb = stage.start_lb(servers)
    base = base_p99(stage, groups)
    stage.start_load(groups)
    begin = time.monotonic()
    slow = stage.start_slow_load(clients, **{"timeout": stage.arguments.give_up, **options})
    time.sleep(stage.seconds)
    attempts, messages = slow.stop()
    time.sleep(1)
    result = stage.stop_load(judge.STALL_SECONDS)
    # The base is measured before and after, because others may use the machine too; but not while a slow
    # read still runs.
    deadline = time.monotonic() + judge.RECOVERY_SECONDS
    while time.monotonic() < deadline and (lb.not_up() or not all(server.is_idle() for server in servers)):
        time.sleep(0.1)
    if time.monotonic() < deadline:
        base = max(base, base_p99(stage, groups))
    # Until the first reply of a kind the balancer does not know that the kind is slow.
    ends = [[attempt.at + attempt.seconds for attempt in attempts if attempt.kind == kind] for kind in alone]
    known = max(min(some, default=begin) for some in ends)
    p99, bound = result.quantile(0.99, known), judge.P99_FACTOR * base + judge.P99_EXTRA_SECONDS
    report.add(f"p99 once known {p99 * 1000:.2f} ms (base {base * 1000:.2f}, bound {bound * 1000:.2f})")
    report.require(p99 <= bound, f"p99 {p99 * 1000:.2f} ms > {bound * 1000:.2f}")
    judge.judge_slow_reads(report, attempts, alone)
    report.messages += messages
    report.add_states(stage.sampler, allowed=1)
    report.add(f"status failed {stage.sampler.failed}")
    stage.check_released(judge.RECOVERY_SECONDS + min(60, 3 * max(alone.values())))


def play_peer(stage, servers, clients, groups):
    """The same load through another proxy, for comparison and without bounds."""
    targets = [peers.Target("direct", server.port, server.process) for server in servers]
    peer = peers.start(stage.arguments.peer, targets)
    load = stage.keep(Load(peer.port, groups))
    slow = stage.keep(SlowLoad(peer.port, clients))
    time.sleep(stage.seconds)
    attempts, messages = slow.stop()
    result = load.stop()
    machine.stop(peer.process)
    report = judge.Report(f"{stage.report.name} by {stage.arguments.peer}")
    report.add_load(result, float("inf"), float("inf"))
    longest = max((attempt.seconds for attempt in attempts), default=0)
    report.add(f"slow: {dict(judge.count_outcomes(attempts))}, longest {longest:.2f} s")
    print(report.line().rpartition(" – ")[0], flush=True)


def slow_sort(stage, keys, clients):
    scripts = [BIG_LIST % (NUMBERS, key, shift) for shift, key in enumerate(keys)]
    servers = stage.start_servers(data_file(f"sort{len(keys)}", scripts))
    reads, alone = [], 0
    with redis_client.Connection(servers[0].port, timeout=120) as connection:
        for key in keys:
            command = ("SORT_RO", key, "ALPHA", "LIMIT", 0, 1)
            reply, seconds = timed(lambda: ask_raw(connection, command))
            reads.append(SlowCommand("SORT_RO", command, reply))
            alone = max(alone, seconds)
    slow_clients = [[reads[number % len(reads)]] for number in range(clients)]
    if stage.arguments.peer:
        play_peer(stage, servers, slow_clients, regular_clients())
    play_slow(stage, servers, slow_clients, {"SORT_RO": alone}, regular_clients())


@scene("slow-sort", "one client with SORT_RO of 1.5 million numbers beside eight regular clients")
def _(stage):
    slow_sort(stage, ["big"], 1)


@scene("slow-sort-3", "three clients with SORT_RO of one key")
def _(stage):
    slow_sort(stage, ["big"], 3)


@scene("slow-sort-keys", "three clients with SORT_RO of a key each")
def _(stage):
    slow_sort(stage, ["big1", "big2", "big3"], 3)


def slow_http(stage, clients):
    servers = stage.start_servers(data_file("hash", [BIG_HASH % (FIELDS, "bighash")]))
    lb = stage.keep(Lb(stage.arguments.lb, servers, name="lb-alone"))

    def ask():
        connection = http.client.HTTPConnection("127.0.0.1", lb.port, 60)
        connection.request("GET", "/bighash")
        with connection.getresponse() as response:
            return response.status, response.read()

    (status, body), alone = timed(ask)
    if status != 200 or len(body) < FIELDS * 10:
        raise RuntimeError(f"alone, the hash was answered with {status} and {len(body)} bytes")
    lb.kill()
    read = SlowRequest("HTTP", "/bighash", body)
    # HTTP clients such as curl have no short timeout.
    play_slow(stage, servers, [[read]] * clients, {"HTTP": alone}, regular_clients(http=3), timeout=60)


@scene("slow-http", "a client with a hash of 2 million fields over HTTP beside clients of both protocols")
def _(stage):
    slow_http(stage, 1)


@scene("slow-http-3", "three clients with a hash of 2 million fields over HTTP")
def _(stage):
    slow_http(stage, 3)


@scene("slow-mix", "two clients with SUNION, ZUNION, LRANGE, HGETALL, MGET and WATCH of large data")
def _(stage):
    scripts = [BIG_LIST % (NUMBERS, "biglist", 0), BIG_HASH % (FIELDS // 2, "bighash"), MANY_STRINGS % MANY_KEYS]
    for number in (1, 2):
        scripts.append(BIG_SET % (MEMBERS, f"bigset{number}", number * MEMBERS // 2))
        scripts.append(BIG_SORTED_SET % (MEMBERS // 2, f"bigzset{number}", number * MEMBERS // 4))
    servers = stage.start_servers(data_file("mix", scripts))
    commands = [
        (("SUNION", "bigset1", "bigset2"), False),
        (("ZUNION", "2", "bigzset1", "bigzset2"), True),
        (("LRANGE", "biglist", "0", "-1"), True),
        (("HGETALL", "bighash"), False),
        (("MGET", *(f"many:{n}" for n in range(1, MANY_KEYS + 1))), True),
    ]
    reads, alone = [], {}
    with redis_client.Connection(servers[0].port, timeout=120) as connection:
        for command, in_order in commands:
            reply, alone[command[0]] = timed(lambda: ask_raw(connection, command))
            reads.append(SlowCommand(command[0], command, reply, in_order))
        # WATCH of all keys takes Redis half a minute, because it compares each key with all before it. Here a
        # tenth of the keys is timed, which takes a hundredth.
        watch = ("WATCH", *(f"many:{n}" for n in range(1, WATCHED_KEYS + 1)))
        start = time.monotonic()
        reply = connection.ask(*watch[: WATCHED_KEYS // 10 + 1])
        alone["WATCH"] = (time.monotonic() - start) * 100
    reads.append(SlowCommand("WATCH", watch, reply, may_be_refused=True))
    play_slow(stage, servers, [reads, reads[3:] + reads[:3]], alone, regular_clients())
