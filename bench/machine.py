"""This machine: its processes, what they take, and what it is."""

import json
import os
import pathlib
import platform
import random
import resource
import socket
import subprocess
import time

HOME = pathlib.Path(__file__).resolve().parent.parent
RUN = HOME / "target/bench"
LOAD = RUN / "load/release/load"
CORES = os.cpu_count()
TICKS = os.sysconf("SC_CLK_TCK")
START_SECONDS = 15

_running = []


def raise_file_limit():
    """As far as is allowed, for all that is started from here; returns the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def free_port():
    """Below the ports that the kernel gives to clients, of which there will be thousands."""
    for _ in range(100):
        port = random.randrange(20000, 32000)
        with socket.socket() as trial:
            try:
                trial.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass
    raise RuntimeError("no free port")


def start(name, command, **options):
    """Starts a program in a folder of its own, where its log is; it ends with us at the latest."""
    folder = RUN / "run" / name
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log", "w") as log:
        options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "cwd": folder, **options}
        process = subprocess.Popen([str(word) for word in command], **options)
    _running.append(process)
    return process


def stop(process):
    if process.stdin:
        process.stdin.close()
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout:
        process.stdout.close()
    if process in _running:
        _running.remove(process)


def stop_all(but=()):
    for process in reversed(_running[:]):
        if process not in but:
            stop(process)


def run(command, seconds, **options):
    """Runs a program to its end, `seconds` at most; returns what it printed."""
    command = [str(word) for word in command]
    try:
        done = subprocess.run(
            command, timeout=seconds, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{command[0]} took more than {seconds:.0f} s") from None
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


def load(*arguments, seconds):
    """Runs our own load program, which prints JSON."""
    return json.loads(run([LOAD, *arguments], seconds))


def holding_load(*arguments):
    """Starts our own load program and waits for "ready"; it ends when it is stopped."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = start("load-" + arguments[0], [LOAD, *arguments], text=True, **pipes)
    if process.stdout.readline() != "ready\n":
        stop(process)
        raise RuntimeError((RUN / "run" / ("load-" + arguments[0]) / "log").read_text().strip())
    return process


def wait_until(question):
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return question()
        except (OSError, RuntimeError):
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


# --- what processes take ---------------------------------------------------------


def _stat(pid):
    """Fields of /proc/PID/stat behind the name, which may contain anything; the first is 3 in proc(5)."""
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def tree(pid):
    """The process and all below it: nginx works in children."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parents[int(entry)] = int(_stat(entry)[1])
            except OSError:  # it has ended meanwhile
                pass
    found = [pid]
    for one in found:
        found.extend(child for child, parent in parents.items() if parent == one)
    return found


def cpu_seconds(pid):
    """User and system time, of all threads, also those that have ended."""
    return sum(int(time) for one in tree(pid) for time in _stat(one)[11:13]) / TICKS


def resident_kib(pid):
    lines = [line for one in tree(pid) for line in pathlib.Path(f"/proc/{one}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def kernel_stacks_kib():
    lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("KernelStack:"))


# --- what the machine is ---------------------------------------------------------


def idle_share():
    """How much of the cores nobody takes at this moment."""
    before, start = _idle_ticks(), time.monotonic()
    time.sleep(2)
    return (_idle_ticks() - before) / TICKS / CORES / (time.monotonic() - start)


def _idle_ticks():
    return int(pathlib.Path("/proc/stat").read_text().split()[4])


def describe():
    cpu = [line for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    release = dict(line.split("=", 1) for line in pathlib.Path("/etc/os-release").read_text().splitlines() if "=" in line)
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "CPU": cpu[0].partition(":")[2].strip() if cpu else platform.machine(),
        "cores": str(CORES),
        "memory": f"{gib:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "system": release.get("PRETTY_NAME", "").strip('"'),
        "open files": f"{resource.getrlimit(resource.RLIMIT_NOFILE)[1]} a process at most",
    }


def package_version(package):
    try:
        return run(["dpkg-query", "-W", "-f", "${Version}", package], 10)
    except (OSError, RuntimeError):
        return "unknown"
