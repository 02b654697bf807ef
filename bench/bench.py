"""Measures redis-lb and other proxies on this machine and writes docs/BENCHMARKS.md. See `make bench`."""

import datetime
import json
import os
import shutil
import signal
import sys
import time

import machine
import measure_cache
import measure_growth
import measure_http
import measure_idle
import measure_open
import measure_resp
import measure_scaling
import measure_seed
import measure_start
import measure_tls
import peers
import report
import runs
from machine import HOME, RUN, say

PARTS = {
    "resp": measure_resp,
    "http": measure_http,
    "open": measure_open,
    "cache": measure_cache,
    "growth": measure_growth,
    "idle": measure_idle,
    "seed": measure_seed,
    "scaling": measure_scaling,
    "start": measure_start,
    "tls": measure_tls,
}
RESULTS = RUN / "results.json"


def wanted_parts():
    names = [name for name in os.environ.get("BENCH_ONLY", "").split(",") if name] or list(PARTS)
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        sys.exit(f"BENCH_ONLY: unknown part {', '.join(unknown)}; the parts are {', '.join(PARTS)}")
    return names


def measure(names, seconds):
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    shutil.rmtree(RUN / "run", ignore_errors=True)
    servers = peers.start_servers()
    for name in names:
        idle = machine.idle_share(name)
        start = time.monotonic()
        try:
            results[name] = PARTS[name].run(servers, seconds, say)
        except (OSError, RuntimeError) as error:
            results.pop(name, None)  # an older result would hide the failure
            say(f"{name}: failed: {error}")
            continue
        finally:
            machine.stop_all(but=[server.process for server in servers])
        results[name]["took"] = time.monotonic() - start
        results[name]["seconds"], results[name]["idle"] = seconds, idle
        results[name]["measured"] = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        results["machine"], results["versions"] = machine.describe(), peers.versions()
        RESULTS.write_text(json.dumps(results, indent=1))
        for target, reason in results[name]["failures"].items():
            say(f"{name}: {target} failed: {reason}")
    return results


def main():
    names = wanted_parts()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: ended by a signal"))
    machine.raise_file_limit()
    try:
        results = measure(names, float(os.environ.get("BENCH_SECONDS", "1.6")))
    finally:
        machine.stop_all()
    runs.save(results, names)
    report.write(results, HOME / "docs")
    say("written: docs/BENCHMARKS.md")


main()
