"""The stage: Redis servers, the balancer and the clients of one scene."""

import http.client
import json
import os
import pathlib
import threading
import time
import urllib.request

import machine
import redis_client

from . import data
from .judge import RECOVERY_SECONDS, Report
from .load import Load
from .slow_load import SlowLoad

# Two runs at the same time have different folders.
FOLDER = machine.RUN / f"scenes-{os.getpid()}"
SAMPLE_SECONDS = 0.1
# Time for regular load to reach every kind of read more than 30 times.
WARM_UP_SECONDS = 3
# How long a server may take to load its file on a busy machine.
LOAD_SECONDS = 60

SCENES = {}


def scene(name, description):
    def add(function):
        SCENES[name] = (function, description)
        return function

    return add


def start(name, command):
    return machine.start(f"scene-{os.getpid()}-{name}", command)


class Server:
    """A Redis server in a folder of its own. It loads `file` at its start and saves nothing."""

    def __init__(self, name, file=None, limit_bytes=None):
        self.name, self.file, self.limit_bytes = name, file, limit_bytes
        self.port = machine.free_port()
        self.start()

    def start(self, with_data=True):
        folder = FOLDER / self.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "dump.rdb").unlink(missing_ok=True)
        if self.file and with_data:
            os.link(self.file, folder / "dump.rdb")  # Redis replaces this file and never writes into it
        command = ["redis-server", "--port", self.port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        if self.limit_bytes:
            command = ["prlimit", f"--as={self.limit_bytes}", "--core=0", *command]
        self.process = start(self.name, [*command, "--dir", folder])

    def wait(self):
        """Waits until the server has loaded its file."""
        machine.wait_until(lambda: self.ask("PING"), self.process, LOAD_SECONDS)
        return self

    def ask(self, *words):
        return redis_client.ask(self.port, *words)

    def is_idle(self):
        try:
            with redis_client.Connection(self.port, 0.5) as connection:
                return connection.ask("PING") == b"+PONG\r\n"
        except (OSError, RuntimeError):
            return False

    def signal(self, number):
        os.kill(self.process.pid, number)

    def kill(self):
        machine.kill(self.process)


def data_file(name, scripts=()):
    """A file with the small data and what the scripts make; it is kept for other scenes of this run."""
    file = FOLDER / f"{name}.rdb"
    if not file.exists():
        maker = Server("maker").wait()
        try:
            with redis_client.Connection(maker.port, timeout=120) as connection:
                connection.pipeline(data.small_data())
                for script in scripts:
                    connection.ask("EVAL", script, 0)
                connection.ask("SAVE")
            os.replace(FOLDER / "maker/dump.rdb", file)
        finally:
            maker.kill()
    return file


class Lb:
    """The balancer under test."""

    def __init__(self, path, servers, options=(), name="lb"):
        self.port = machine.free_port()
        command = [path, "--quiet", "--listen", f"127.0.0.1:{self.port}", "--max-clients", 2000, *options]
        for server in servers:
            command += ["--backend", f"127.0.0.1:{server.port}"]
        self.process = start(name, command)
        machine.wait_until(self._require_all_up, self.process)
        self.threads, self.files = self.resources()

    def _require_all_up(self):
        if self.not_up() > 0:
            raise RuntimeError("a backend is not up")

    def backends(self):
        """The backends as the status page shows them; `since` leaves out the history."""
        url = f"http://127.0.0.1:{self.port}/-/status.json?since=4000000000"
        try:
            with urllib.request.urlopen(url, timeout=2) as response:
                return json.load(response)["backends"]
        except (ValueError, http.client.HTTPException) as error:
            raise RuntimeError(f"no status: {error}") from None

    def states(self):
        return [backend["state"] for backend in self.backends()]

    def not_up(self):
        return sum(state != "up" for state in self.states())

    def resources(self):
        """How many threads and open files the process has."""
        folder = pathlib.Path(f"/proc/{self.process.pid}")
        if not folder.exists():
            return 0, 0
        return len(list((folder / "task").iterdir())), len(list((folder / "fd").iterdir()))

    def kill(self):
        machine.kill(self.process)


class Sampler(threading.Thread):
    """Records the states of all backends at regular times."""

    def __init__(self, lb, interval=SAMPLE_SECONDS):
        super().__init__(daemon=True)
        self.lb, self.interval = lb, interval
        self.samples, self.failed, self.is_over = [], 0, threading.Event()
        self.start()

    def run(self):
        while not self.is_over.wait(self.interval):
            at = time.monotonic()
            try:
                self.samples.append((at, self.lb.states()))
            except (OSError, RuntimeError):
                self.failed += 1

    def kill(self):
        self.is_over.set()

    def stop(self):
        self.kill()
        self.join()

    def max_not_up(self):
        return max((sum(state != "up" for state in states) for _, states in self.samples), default=0)

    def seconds_not_up(self, count):
        """For how long in all at least `count` backends were not up."""
        return sum(
            later - at
            for (at, states), (later, _) in zip(self.samples, self.samples[1:])
            if sum(state != "up" for state in states) >= count
        )

    def first(self, condition):
        return next((at for at, states in self.samples if condition(states)), None)


class Stage:
    """The flags and the report of a scene, and all that it started."""

    def __init__(self, name, arguments):
        self.arguments, self.report = arguments, Report(name)
        self.seconds = arguments.seconds
        self.started = []

    def keep(self, thing):
        """Registers what has a `kill`, to be called at the end of the scene."""
        self.started.append(thing)
        return thing

    def start_servers(self, file, **options):
        servers = [self.keep(Server(f"redis{number}", file, **options)) for number in (1, 2, 3)]
        return [server.wait() for server in servers]

    def start_lb(self, servers, options=()):
        """Starts the balancer, and a control: a client that reads from a server of its own without the
        balancer, and so shows the delays that this machine causes."""
        server = self.keep(Server("control", data_file("small")).wait())
        self.control = self.keep(Load(server.port, [[(data.gets(), data.PAUSE_SECONDS)]]))
        self.lb = self.keep(Lb(self.arguments.lb, servers, options))
        return self.lb

    def start_sampler(self, **options):
        self.sampler = self.keep(Sampler(self.lb, **options))
        return self.sampler

    def start_load(self, groups=None):
        """Starts the sampler and the load of regular clients, and warms up."""
        self.start_sampler()
        self.load = self.keep(Load(self.lb.port, groups or data.regular_clients()))
        time.sleep(WARM_UP_SECONDS)
        return self.load

    def stop_load(self, stall):
        result = self.load.stop()
        self.sampler.stop()
        self.report.add_load(result, stall)
        return result

    def start_slow_load(self, clients, **options):
        return self.keep(SlowLoad(self.lb.port, clients, **options))

    def wait_until_up(self, seconds):
        """How long it took until all backends were up, at most `seconds`."""
        start = time.monotonic()
        while self.lb.not_up() and time.monotonic() < start + seconds:
            time.sleep(0.05)
        return time.monotonic() - start

    def check_released(self, seconds=RECOVERY_SECONDS):
        """Requires that the balancer has returned all leases; reports its threads, files and the control."""
        control = self.control.stop()
        self.report.add(
            f"without lb: longest {control.longest() * 1000:.0f} ms, p99 {control.quantile(0.99) * 1000:.2f} ms"
        )
        deadline = time.monotonic() + seconds
        while (leases := self._leases()) != 0 and time.monotonic() < deadline:
            time.sleep(0.1)
        threads, files = self.lb.resources()
        counts = f"threads {self.lb.threads}→{threads}, files {self.lb.files}→{files}"
        self.report.add(f"left: leases {leases}, {counts}")
        self.report.require(leases == 0, f"{leases} leases left after {seconds} s")
        self.report.require(self.lb.process.poll() is None, "lb has ended")

    def _leases(self):
        try:
            return sum(backend["leases"] for backend in self.lb.backends())
        except (OSError, RuntimeError):
            return "unknown"

    def end(self):
        for thing in reversed(self.started):
            thing.kill()
