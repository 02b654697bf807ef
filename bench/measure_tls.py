"""Throughput, latency and CPU over TLS, with redis-benchmark: each program ends the clients' TLS."""

import certificates
import machine
import measure_resp
import peers

# The last of each is whether each request has a connection of its own, that is a handshake.
CASES = [
    (peers.SHORT, 50, 1, False),
    (peers.SHORT, 50, 16, False),
    (peers.HASH, 50, 1, False),
    (peers.LONG, 50, 1, False),
    (peers.SHORT, 50, 1, True),
]
ROUNDS = 5
OPTIONS = ["--tls", "--cacert", certificates.CERTIFICATE]

# Plain text towards Redis, but for the last two.
TARGETS = ["direct", "redis-lb", "haproxy-tls", "envoy-tls", "redis-lb-both", "haproxy-both"]


def run(_plain_servers, seconds, say):
    certificates.make()
    servers = peers.start_servers(tls=True)
    failures = {}
    targets = [target for target in (start(name, servers, failures) for name in TARGETS) if target]
    cases = [
        {
            "command": " ".join(command),
            "connections": connections,
            "pipeline": pipeline,
            "reconnects": reconnects,
            "targets": {},
        }
        for command, connections, pipeline, reconnects in CASES
    ]
    for turn in range(ROUNDS):
        for case, (command, connections, pipeline, reconnects) in zip(cases, CASES):
            say(f"TLS, round {turn + 1} of {ROUNDS}: {case['command']}, pipeline {pipeline}, reconnects: {reconnects}")
            options = OPTIONS + ["-k", "0"] * reconnects
            for target in peers.in_turn(targets, turn, failures):
                runs = case["targets"].setdefault(target.name, [])
                try:
                    rate = runs[-1]["rate"] if runs else measure(target, command, connections, pipeline, 2000, options)["rate"]
                    requests = int(max(rate * seconds * 0.6, connections * pipeline * 4))
                    runs.append(measure(target, command, connections, pipeline, requests, options))
                except RuntimeError as error:
                    failures[target.name] = f"{case['command']}, {pipeline}, {reconnects}: {error}"
    peers.stop_each(targets)
    return {"cases": cases, "failures": failures, "rounds": ROUNDS}


def measure(target, command, connections, pipeline, requests, options):
    return measure_resp.measure(target, command, connections, pipeline, requests, options)


def start(name, servers, failures):
    """Starts a target and waits until it answers over TLS; `None` if it does not."""
    try:
        if name == "direct":
            return peers.Target(name, servers[0].tls_port, servers[0].process)
        if name.startswith("redis-lb"):
            options, addresses = peers.tls_backends(servers) if name.endswith("both") else ([], [s.port for s in servers])
            target = peers.start_lb(addresses, folder=name, options=[*options, *peers.LB_TLS])
            target.name = name
        else:
            ports = [server.tls_port if name.endswith("both") else server.port for server in servers]
            target = peers.start_peer(name, ports)
        ask = ["redis-cli", "-p", target.port, *OPTIONS, "GET", "string:64"]
        machine.wait_until(lambda: "xxx" in machine.run(ask, 10))
        return target
    except (OSError, RuntimeError) as error:
        failures[name] = str(error)
        return None
