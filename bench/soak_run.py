"""What all soak tests do: run a load beside redis-lb, report what that has used, and stop all at the end."""

import signal
import subprocess
import sys

import machine


def load(name, lb, ports, words):
    """Runs the load program to its end, and returns its exit code."""
    print(f"redis-lb on port {lb.port}, Redis on {', '.join(map(str, ports))}", flush=True)
    process = subprocess.Popen([str(word) for word in [machine.LOAD, *words]])
    try:
        code = process.wait()
    finally:
        process.kill()
        process.wait()
    if lb.process.poll() is not None:
        sys.exit(f"{name}: redis-lb has ended with code {lb.process.returncode}")
    memory = machine.resident_kib(lb.process.pid) // 1024
    print(f"redis-lb used {lb.cpu_seconds():.1f} s of CPU and {memory} MiB of memory")
    return code


def main(name, soak):
    """Ends the process with what `soak` returns."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(f"{name}: ended by a signal"))
    machine.raise_file_limit()
    try:
        code = soak()
    finally:
        machine.stop_all()
    sys.exit(code)
