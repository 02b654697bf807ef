"""The ratios of each whole run, kept in bench/results, so that a claim can name the range over all runs."""

import json
import pathlib

import goals

FOLDER = pathlib.Path(__file__).parent / "results"


def ratios(results):
    """Our medians over HAProxy's of that run, for what was measured."""
    found = {}
    for name, pipeline in (("50 clients", 1), ("pipeline 16", 16)):
        for key, what in (("rate", "throughput"), ("cpu", "CPU a request"), ("total_cpu", "CPU with Redis"), ("p99", "p99")):
            note(found, f"{name}: {what}", lambda: goals.ratio(goals.resp(results, goals.HASH, 50, pipeline), key, "haproxy"))
    for share in ("30", "50", "70", "90"):
        for key in ("p99", "p99.9"):
            note(found, f"{share} % load: {key}", lambda: goals.ratio(results["open"]["loads"][share], key, "haproxy"))
    for case in (goals.ONE, goals.MANY):
        for key, what in (("rate", "throughput"), ("total_cpu", "CPU with Redis"), ("p99", "p99")):
            note(found, f"cached, {case}: {what}", lambda: goals.cached(case, key)(results, "haproxy"))
    return found


def note(found, name, measure):
    try:
        found[name] = round(measure(), 3)
    except (KeyError, ValueError):
        pass  # it was not measured


def save(results, names):
    """Keeps the ratios of the parts that were measured now."""
    measured = {name: results[name] for name in names if name in results}
    found = ratios(measured)
    if not found:
        return
    FOLDER.mkdir(exist_ok=True)
    at = max(part["measured"] for part in measured.values())
    run = {"measured": at, "machine": f"{results['machine']['cores']} cores", "version": results["versions"]["redis-lb"]}
    run["idle"] = round(min(part["idle"] for part in measured.values()), 2)
    file = FOLDER / (at.replace(" UTC", "").replace(" ", "-").replace(":", "") + ".json")
    file.write_text(json.dumps({**run, "ratios": found}, indent=1, ensure_ascii=False) + "\n")


def section(table):
    """The range of each ratio over all runs that are kept."""
    runs = [json.loads(file.read_text()) for file in sorted(FOLDER.glob("*.json"))]
    names = dict.fromkeys(name for run in runs for name in run["ratios"])
    rows = []
    for name in names:
        values = [run["ratios"][name] for run in runs if name in run["ratios"]]
        rows.append([name, f"{min(values):.2f}–{max(values):.2f}", str(len(values))])
    text = "## Whole runs\n\nOur median over HAProxy's, in each of the runs that [bench/results](../bench/results) keeps.\n\n"
    return text + table(["", "range", "runs"], rows, "lrr") if rows else ""
