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
    to_best = ratio(runs, "rate", peer)
    return f"{to_best:.2f} of {peer}'s, {to_haproxy:.2f} of haproxy's", to_best > 1 and to_haproxy >= 1.2


def rate_pipelined(results):
    runs = resp(results, HASH, 50, 16)
    peer, to_direct = best_peer(runs, "rate", max), ratio(runs, "rate", "direct")
    to_best = ratio(runs, "rate", peer)
    return f"{to_best:.2f} of {peer}'s, {to_direct:.2f} of direct", to_best > 1 and to_direct >= 0.8


def latency_alone(results):
    runs = resp(results, HASH, 1, 1)
    peer = best_peer(runs, "p50", min)
    ours, theirs = median(runs[OURS], "p50"), median(runs[peer], "p50")
    return f"{ours:.3f} ms; {peer} {theirs:.3f} ms", ours <= theirs


def rate_500(results):
    return at_least(ratio(resp(results, HASH, 500, 1), "rate", "haproxy"), 1.1)


def cpu(results):
    return at_most(ratio(resp(results, HASH, 50, 1), "cpu", "haproxy"), 0.75)


def rate_long(results):
    return at_least(ratio(resp(results, LONG, 50, 1), "rate", "haproxy"), 1)


def half_load(results):
    runs = results["half"]["targets"]
    ours, theirs = median(runs[OURS], "p99"), median(runs["haproxy"], "p99")
    return f"{ours:.2f} ms; haproxy {theirs:.2f} ms", ours <= theirs


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


GOALS = [
    ("RESP, 50 clients: throughput", "above every peer's, ≥ 1.2 of HAProxy's", rate_50),
    ("RESP, 50 clients, pipeline 16: throughput", "above every peer's, ≥ 0.8 of direct", rate_pipelined),
    ("RESP, 1 client: p50", "at most every peer's", latency_alone),
    ("RESP, 500 clients: throughput", "≥ 1.1 of HAProxy's", rate_500),
    ("RESP, 50 clients: CPU a request", "≤ 0.75 of HAProxy's", cpu),
    ("GET of 64 KiB, 50 clients: throughput", "≥ HAProxy's", rate_long),
    ("half load: p99", "at most HAProxy's", half_load),
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
