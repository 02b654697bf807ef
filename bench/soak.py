"""Runs the soak test through redis-lb and three Redis servers, with SOAK_TLS=1 over TLS both ways. See `make soak`."""

import os

import certificates
import machine
import peers
import redis_client
import soak_run


def soak():
    tls = os.environ.get("SOAK_TLS", "") not in ("", "0")
    if tls:
        certificates.make()
    servers = [peers.start_redis(f"soak-redis{number}", tls) for number in (1, 2, 3)]
    ports = [server.port for server in servers]
    options, addresses = peers.tls_backends(servers) if tls else ([], ports)
    lb = peers.start_lb(addresses, options=[*options, *peers.LB_TLS] if tls else [])
    # Plain text is served beside TLS.
    machine.wait_until(lambda: redis_client.ask(lb.port, "EXISTS", "any"))
    backends = [word for port in ports for word in ("--backend", f"127.0.0.1:{port}")]
    limits = ["--replies", os.environ.get("SOAK_REPLIES", "100000000")]
    limits += ["--seconds", os.environ.get("SOAK_SECONDS", "3600")]
    if tls:
        limits += ["--tls-ca", certificates.CERTIFICATE]
    return soak_run.load("soak", lb, ports, ["soak", "--lb", f"127.0.0.1:{lb.port}", *backends, *limits])


soak_run.main("soak", soak)
