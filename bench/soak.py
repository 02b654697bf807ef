"""Runs the soak test through redis-lb and three Redis servers, with SOAK_TLS=1 over TLS both ways. See `make soak`."""

import os
import signal
import subprocess
import sys

import certificates
import machine
import peers
import redis_client


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
    print(f"redis-lb on port {lb.port}, Redis on {', '.join(map(str, ports))}", flush=True)
    load = subprocess.Popen([machine.LOAD, "soak", "--lb", f"127.0.0.1:{lb.port}", *backends, *limits])
    try:
        code = load.wait()
    finally:
        load.kill()
        load.wait()
    if lb.process.poll() is not None:
        sys.exit(f"soak: redis-lb has ended with code {lb.process.returncode}")
    memory = machine.resident_kib(lb.process.pid) // 1024
    print(f"redis-lb used {lb.cpu_seconds():.1f} s of CPU and {memory} MiB of memory")
    return code


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("soak: ended by a signal"))
    machine.raise_file_limit()
    try:
        code = soak()
    finally:
        machine.stop_all()
    sys.exit(code)


main()
