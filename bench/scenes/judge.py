"""The judge: the bounds that a scene must keep, and the line that reports it."""

import collections

# Longest wait of a regular client, beside hostile clients and when servers freeze or die.
STALL_SECONDS = 1.3
FAILOVER_SECONDS = 1.2
ALL_FROZEN_SECONDS = 1.2
# p99 of regular clients, against a run in which another process burns one core.
P99_FACTOR, P99_EXTRA_SECONDS = 2, 0.005
# Time of a slow read, against its own time alone plus that of the reads before it.
SLOW_FACTOR, SLOW_EXTRA_SECONDS = 1.3, 1
MAX_DEATHS = 2
# Time until leases are returned after the load, and until servers are up after a scene's event.
RECOVERY_SECONDS = 10


class Report:
    """The figures of a scene, and the bounds that it missed."""

    def __init__(self, name):
        self.name, self.figures, self.missed, self.messages = name, [], [], collections.Counter()

    def add(self, figure):
        self.figures.append(figure)

    def require(self, is_kept, failure):
        if not is_kept:
            self.missed.append(failure)

    def add_load(self, result, stall, max_errors=0):
        longest = result.longest() * 1000
        self.figures += [
            f"replies {result.replies()}",
            f"wrong {result.wrong()}",
            f"errors {result.errors()}",
            f"longest {longest:.0f} ms",
            f"p50 {result.quantile(0.5) * 1000:.2f} ms",
            f"p99 {result.quantile(0.99) * 1000:.2f} ms",
        ]
        self.require(result.replies() > 100, "hardly any reply")
        self.require(result.wrong() == 0, f"{result.wrong()} wrong")
        self.require(result.errors() <= max_errors, f"{result.errors()} errors > {max_errors}")
        self.require(longest < stall * 1000, f"stall of {longest:.0f} ms > {stall * 1000:.0f}")
        self.messages += result.messages

    def add_states(self, sampler, allowed=None):
        """`allowed`: how many backends may be not up at the same time."""
        most = sampler.max_not_up()
        self.add(f"at most {most} not up, two for {sampler.seconds_not_up(2):.1f} s")
        self.require(allowed is None or most <= allowed, f"{most} backends not up")

    def line(self):
        verdict = "MISSED: " + "; ".join(self.missed) if self.missed else "ok"
        return f"{self.name}: {', '.join(self.figures)} – {verdict}"


def count_outcomes(attempts):
    return collections.Counter(attempt.outcome for attempt in attempts)


def judge_slow_reads(report, attempts, alone):
    """Compares each slow read with its time `alone` plus that of the reads before it."""
    report.add("alone " + ", ".join(f"{kind} {seconds:.2f} s" for kind, seconds in alone.items()))
    timed = [attempt for attempt in attempts if attempt.outcome in ("ok", "gave up")]
    bounds = [(attempt.seconds, _slow_bound(attempt, attempts, alone)) for attempt in timed]
    late = sum(seconds > bound for seconds, bound in bounds)
    worst = max(bounds, key=lambda pair: pair[0] - pair[1], default=(0, 0))
    reads = collections.defaultdict(list)
    for attempt in attempts:
        reads[attempt.kind, attempt.first].append(attempt)
    longest = max((some[-1].at + some[-1].seconds - some[0].first for some in reads.values()), default=0)
    count = count_outcomes(attempts)
    report.add(
        f"slow: {count['ok']} answered, worst {worst[0]:.2f} s (bound {worst[1]:.2f}), {count['gave up']} given up, "
        f"{count['lost']} lost, {count['error']} errors, longest with retries {longest:.1f} s"
    )
    report.require(count["ok"] > 0, "no slow read was answered")
    report.require(late == 0, f"{late} slow reads late (worst {worst[0]:.2f} s > {worst[1]:.2f})")
    bad = count["error"] + count["lost"] + count["wrong"]
    report.require(bad == 0, f"{bad} slow reads failed")


def _slow_bound(attempt, attempts, alone):
    before = sum(alone[other.kind] for other in attempts if other.at < attempt.at < other.at + other.seconds)
    # A read that its client gave up may still have been running.
    given_up = [
        alone[other.kind]
        for other in attempts
        if other.outcome in ("gave up", "lost") and 0 <= attempt.at - (other.at + other.seconds) < 2 * alone[other.kind]
    ]
    return SLOW_FACTOR * (alone[attempt.kind] + before + max(given_up, default=0)) + SLOW_EXTRA_SECONDS
