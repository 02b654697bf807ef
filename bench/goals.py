"""The performance goals, and whether the results reach them."""

import statistics

import peers

HASH, LONG = " ".join(peers.HASH), " ".join(peers.LONG)
PEERS = [name for name in peers.RESP if name not in ("direct", "redis-lb")]
OURS = "redis-lb"


def median(runs, key):
    return statistics.median(run[key] for run in runs)


def resp(results, command, connections, pipeline):
    """The runs of one case, by target."""
    for case in results["resp"]["cases"]:
        if (case["command"], case["connections"], case["pipeline"]) == (command, connections, pipeline):
            return {name: runs for name, runs in case["targets"].items() if runs}
    raise KeyError(command)


def ratio(runs, key, other):
    return median(runs[OURS], key) / median(runs[other], key)


def best_peer(runs, key, best):
    return best((name for name in PEERS if name in runs), key=lambda name: median(runs[name], key))


def rate_50(results):
    runs = resp(results, HASH, 50, 1)
    peer, to_haproxy = best_peer(runs, "rate", max), ratio(runs, "rate", "haproxy")
    return f"{ratio(runs, 'rate', peer):.2f} of {peer}'s, {to_haproxy:.2f} of haproxy's", to_haproxy >= 1.25


def rate_pipelined(results):
    runs = resp(results, HASH, 50, 16)
    peer = best_peer(runs, "rate", max)
    to_best = ratio(runs, "rate", peer)
    return f"{to_best:.2f} of {peer}'s, {ratio(runs, 'rate', 'direct'):.2f} of direct", to_best >= 1.1


def p99_pipelined(results):
    runs = resp(results, HASH, 50, 16)
    peer = best_peer(runs, "rate", max)
    return f"{ratio(runs, 'p99', peer):.2f} of {peer}'s", ratio(runs, "p99", peer) <= 1


def to_haproxy(key, wanted):
    return lambda results: at_most(ratio(resp(results, HASH, 50, 1), key, "haproxy"), wanted)


def latency_alone(results):
    runs = resp(results, HASH, 1, 1)
    peer = best_peer(runs, "p50", min)
    ours, theirs = median(runs[OURS], "p50"), median(runs[peer], "p50")
    return f"{ours:.3f} ms; {peer} {theirs:.3f} ms", ours <= theirs


def rate_500(results):
    return at_least(ratio(resp(results, HASH, 500, 1), "rate", "haproxy"), 1.1)


def rate_long(results):
    return at_least(ratio(resp(results, LONG, 50, 1), "rate", "haproxy"), 1)


def half_load(key):
    def measure(results):
        runs = results["open"]["loads"]["50"]
        ours, theirs = median(runs[OURS], key), median(runs["haproxy"], key)
        return f"{ours:.2f} ms; haproxy {theirs:.2f} ms", ours <= theirs

    return measure


def cached(case, key="rate"):
    """The runs of a case of the near cache; the ratio of its median to that of another target."""
    def of(results, other):
        runs = results["cache"]["cases"][case]
        return median(runs[peers.CACHED], key) / median(runs[other], key)

    return of


def best_uncached(results, case):
    runs = results["cache"]["cases"][case]
    return best_peer({name: runs[name] for name in runs if runs[name]}, "rate", max)


def cached_rate(case, of_peer, of_direct):
    def measure(results):
        peer = best_uncached(results, case)
        to_peer, to_direct = cached(case)(results, peer), cached(case)(results, "direct")
        return f"{to_peer:.2f} of {peer}'s, {to_direct:.2f} of direct", to_peer >= of_peer and to_direct >= of_direct

    return measure


def cached_cpu(results):
    return at_most(cached("`HGETALL`, 50 clients", "total_cpu")(results, "haproxy"), 0.6)


def cached_http(case, wanted):
    return lambda results: at_least(cached(case)(results, "webdis"), wanted)


def no_hits(results):
    return at_least(cached("no hits, 50 clients")(results, OURS), 0.97)


def hot_key(results):
    return at_least(1 / cached("one hot key, 500 clients")(results, "slow"), 0.95)


def http(case):
    return lambda results: at_least(ratio(results["http"]["cases"][case], "rate", "webdis"), 1.5)


def idle(results):
    one = results["idle"]["targets"][OURS]
    return f"{one['resident']:.1f} KiB with {one['clients']:,} held", one["resident"] <= 12 and one["clients"] >= 10_000


def scaling(results):
    runs = results["scaling"]["targets"]
    return at_least(median(runs["3"], "rate") / median(runs["1"], "rate"), 2.9)


def seed(results):
    runs = results["seed"]["targets"]
    return at_least(median(runs["redis-cli --pipe"], "write") / median(runs["seed"], "write"), 0.8)


def start(results):
    took = statistics.median(results["start"]["milliseconds"])
    return f"{took:.0f} ms", took < 50


def at_least(measured, wanted):
    return f"{measured:.2f}", measured >= wanted


def at_most(measured, wanted):
    return f"{measured:.2f}", measured <= wanted


ONE, MANY = "`HGETALL`, 50 clients", "`HGETALL`, 50 clients, pipeline 16"
GOALS = [
    ("RESP, 50 clients: throughput", "≥ 1.25 of HAProxy's", rate_50),
    ("RESP, 50 clients: CPU a request", "≤ 0.8 of HAProxy's", to_haproxy("cpu", 0.8)),
    ("RESP, 50 clients: CPU a request, with Redis", "at most HAProxy's", to_haproxy("total_cpu", 1)),
    ("RESP, 50 clients: p99", "at most HAProxy's", to_haproxy("p99", 1)),
    ("RESP, 50 clients, pipeline 16: throughput", "≥ 1.1 of the best peer's", rate_pipelined),
    ("RESP, 50 clients, pipeline 16: p99", "at most that peer's", p99_pipelined),
    ("RESP, 1 client: p50", "at most every peer's", latency_alone),
    ("RESP, 500 clients: throughput", "≥ 1.1 of HAProxy's", rate_500),
    ("GET of 64 KiB, 50 clients: throughput", "≥ HAProxy's", rate_long),
    ("half load: p99", "at most HAProxy's", half_load("p99")),
    ("half load: p99.9", "at most HAProxy's", half_load("p99.9")),
    ("cached, 50 clients: throughput", "≥ 1.5 of the best peer's, ≥ 0.9 of direct", cached_rate(ONE, 1.5, 0.9)),
    ("cached, 50 clients, pipeline 16: throughput", "≥ 2 of the best peer's, ≥ 1.3 of direct", cached_rate(MANY, 2, 1.3)),
    ("cached, 50 clients: CPU a request, with Redis", "≤ 0.6 of HAProxy's", cached_cpu),
    ("cached, HTTP, keep-alive: throughput", "≥ 1.5 of Webdis's", cached_http("HTTP", 1.5)),
    ("cached, HTTP, If-None-Match: throughput", "≥ 2 of Webdis's", cached_http("HTTP, If-None-Match", 2)),
    ("one hot key, 500 clients, slow backends: throughput", "that with fast backends (≥ 0.95)", hot_key),
    ("the cache on, no hits: throughput", "≥ 0.97 of off", no_hits),
    ("HTTP, keep-alive: throughput", "≥ 1.5 of Webdis's", http("keep-alive")),
    ("HTTP, new connections: throughput", "≥ 1.5 of Webdis's", http("new connection")),
    ("idle client: resident memory", "≤ 12 KiB with 10,000 held", idle),
    ("slow backends, 3 against 1: throughput", "≥ 2.9", scaling),
    ("`seed`: speed of writing", "≥ 0.8 of `redis-cli --pipe`'s", seed),
    ("start to first response", "< 50 ms", start),
]


def judge(results):
    """Rows of the table: goal, wanted, measured, reached."""
    rows = []
    for name, wanted, measure in GOALS:
        try:
            measured, reached = measure(results)
            rows.append([name, wanted, measured, "yes" if reached else "**no**"])
        except (KeyError, ValueError, statistics.StatisticsError):  # a part or a peer was not measured
            rows.append([name, wanted, "not measured", "?"])
    return rows
