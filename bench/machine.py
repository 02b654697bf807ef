"""This machine: its processes, their use of CPU and memory, and its description."""

import ctypes
import json
import os
import pathlib
import platform
import random
import resource
import signal
import socket
import subprocess
import sys
import time

HOME = pathlib.Path(__file__).resolve().parent.parent
RUN = HOME / "target/bench"
LOAD = RUN / "load/release/load"
CORES = os.cpu_count()
TICKS = os.sysconf("SC_CLK_TCK")
START_SECONDS = 15

_running = []


def say(text):
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def raise_file_limit():
    """Raises the limit of open files to the hard limit, also for child processes; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def free_port():
    """A free port below the range from which the kernel assigns ports to clients."""
    for _ in range(100):
        port = random.randrange(20000, 32000)
        with socket.socket() as trial:
            try:
                trial.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass
    raise RuntimeError("no free port")


def die_with_parent():
    """Makes a child process end with us, even if we are killed (Linux: PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def start(name, command, **options):
    """Starts a program in a folder of its own, which holds its log; the program ends no later than we do."""
    folder = RUN / "run" / name
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log", "w") as log:
        options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "cwd": folder, **options}
        process = subprocess.Popen([str(word) for word in command], preexec_fn=die_with_parent, **options)
    _running.append(process)
    return process


def stop(process):
    if process.stdin:
        process.stdin.close()
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        pass
    kill(process)


def kill(process):
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
    """Runs a program for `seconds` at most and returns its standard output."""
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
    """Runs the load generator (bench/load) and returns the JSON that it prints."""
    return json.loads(run([LOAD, *arguments], seconds))


def holding_load(*arguments):
    """Starts the load generator and waits for its "ready"; `stop` ends it."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = start("load-" + arguments[0], [LOAD, *arguments], text=True, **pipes)
    if process.stdout.readline() != "ready\n":
        stop(process)
        raise RuntimeError((RUN / "run" / ("load-" + arguments[0]) / "log").read_text().strip())
    return process


def wait_until(question, process=None, seconds=START_SECONDS):
    """Repeats the question until it raises nothing, the process has ended, or the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return question()
        except (OSError, RuntimeError):
            if time.monotonic() > deadline or (process and process.poll() is not None):
                raise
        time.sleep(0.05)


# --- what processes use ----------------------------------------------------------


def _stat(pid):
    """Fields of /proc/PID/stat after the name, which may contain spaces; the first is field 3 in proc(5)."""
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def tree(pid):
    """The process and its descendants, because nginx works in child processes."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parents[int(entry)] = int(_stat(entry)[1])
            except OSError:  # it has just ended
                pass
    found = [pid]
    for one in found:
        found.extend(child for child, parent in parents.items() if parent == one)
    return found


def cpu_seconds(pid):
    """User and system time of all threads, including those that have ended."""
    return sum(int(time) for one in tree(pid) for time in _stat(one)[11:13]) / TICKS


def resident_kib(pid):
    lines = [line for one in tree(pid) for line in pathlib.Path(f"/proc/{one}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def kernel_stacks_kib():
    lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("KernelStack:"))


# --- the machine itself ----------------------------------------------------------


def idle_share(part):
    """Idle share of all cores, measured for two seconds. Warns if other programs are busy."""
    before, start = _idle_ticks(), time.monotonic()
    time.sleep(2)
    idle = (_idle_ticks() - before) / TICKS / CORES / (time.monotonic() - start)
    if idle < 0.9:
        say(f"{part}: other programs use {1 - idle:.0%} of this machine, so the figures are not reliable")
    return idle


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
        "open files": f"at most {resource.getrlimit(resource.RLIMIT_NOFILE)[1]} a process",
    }


def package_version(package):
    try:
        return run(["dpkg-query", "-W", "-f", "${Version}", package], 10)
    except (OSError, RuntimeError):
        return "unknown"
