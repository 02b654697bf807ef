"""Clients whose commands kill servers or never end."""

import time

import machine

from . import judge
from .slow_load import SlowCommand
from .stage import data_file, scene

MEMBERS, MEMBER_BYTES = 200, 400
MEMORY_LIMIT_BYTES = 400 << 20
# How long a supervisor waits before it restarts a server.
RESTART_SECONDS = 0.5
# The default --read-timeout (30 s), after which the balancer ends a script, and one more script's start.
SCRIPTS_END_SECONDS = 45


@scene("poison", "SRANDMEMBER s -2000000 kills servers with little memory, which then restart")
def _(stage):
    script = f"for i = 1, {MEMBERS} do redis.call('SADD', 's', string.rep('x', {MEMBER_BYTES}) .. i) end"
    servers = stage.start_servers(data_file("poison", [script]), limit_bytes=MEMORY_LIMIT_BYTES)
    stage.start_lb(servers)
    stage.start_load()
    poison = SlowCommand("SRANDMEMBER", ("SRANDMEMBER", "s", "-2000000"), None)
    slow = stage.start_slow_load([[poison]], pause=2)
    deaths, restart_at = 0, {}
    end = time.monotonic() + min(stage.seconds, 30)
    while time.monotonic() < end:
        for server in servers:
            if server in restart_at:
                if time.monotonic() >= restart_at[server]:
                    del restart_at[server]
                    server.start()
            elif server.process.poll() is not None:
                deaths += 1
                server.kill()
                restart_at[server] = time.monotonic() + RESTART_SECONDS
        time.sleep(0.02)
    attempts, messages = slow.stop()
    stage.stop_load(judge.STALL_SECONDS)
    count = judge.count_outcomes(attempts)
    report = stage.report
    report.add(f"deaths {deaths}, poison: {dict(count)}")
    report.add_states(stage.sampler)
    report.messages += messages
    report.require(deaths > 0, "no server died: the scene proves nothing")
    report.require(deaths <= judge.MAX_DEATHS, f"{deaths} deaths > {judge.MAX_DEATHS}")
    report.require(count["lost"] + count["gave up"] == 0, "the hostile client got no error reply")
    stage.check_released()


@scene("scripts", "three clients with `while true do end`, where scripts are allowed")
def _(stage):
    servers = stage.start_servers(data_file("small"))
    usage = machine.run([stage.arguments.lb, "--help"], 10)
    stage.start_lb(servers, ["--allow-scripts"] if "--allow-scripts" in usage else [])
    stage.start_load()
    endless = SlowCommand("EVAL_RO", ("EVAL_RO", "while true do end", "0"), None)
    slow = stage.start_slow_load([[endless]] * 3)
    time.sleep(stage.seconds)
    attempts, messages = slow.stop()
    stage.report.add_load(stage.load.stop(), judge.STALL_SECONDS)
    start = time.monotonic()
    while time.monotonic() < start + SCRIPTS_END_SECONDS and not all(server.is_idle() for server in servers):
        time.sleep(0.2)
    stage.sampler.stop()
    busy = sum(not server.is_idle() for server in servers)
    stage.report.add(
        f"scripts: {dict(judge.count_outcomes(attempts))}, all idle after {time.monotonic() - start:.1f} s"
    )
    stage.report.messages += messages
    stage.report.require(busy == 0, f"{busy} servers busy for ever")
    stage.report.add_states(stage.sampler, allowed=1)
    stage.check_released()
