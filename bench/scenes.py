"""Plays scenes in which a client or an event could take service away from other clients.

    python3 bench/scenes.py [--lb PATH] [--seconds N] [--peer haproxy] [SCENE...]
    python3 bench/scenes.py --list

Each scene starts Redis servers and an `lb` of its own on free ports of loopback, and clients that compare
every reply. It then prints a line with its figures and the bounds that it missed. A name that is the start
of several scenes' names plays all of them. The exit code is 1 if any bound was missed. See `make scenes`.
"""

import argparse
import pathlib
import shutil
import signal
import subprocess
import sys
import traceback

import machine
import peers
from scenes.slow_load import READ_TIMEOUT_SECONDS
from scenes.stage import FOLDER, SCENES, Stage

# More than any scene needs beyond its --seconds.
EXTRA_SECONDS = 240


class TooLong(Exception):
    pass


def raise_too_long(*_):
    raise TooLong


def play(name, arguments):
    """Whether the scene kept its bounds."""
    stage = Stage(name, arguments)
    signal.alarm(int(arguments.seconds) + EXTRA_SECONDS)
    try:
        SCENES[name][0](stage)
    except TooLong:
        stage.report.require(False, "the scene took too long")
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        frames = traceback.extract_tb(error.__traceback__)[-4:]
        where = " > ".join(f"{frame.name}:{frame.lineno}" for frame in frames)
        stage.report.require(False, f"the scene failed: {type(error).__name__}: {error} ({where})")
    finally:
        signal.alarm(0)
        stage.end()
        machine.stop_all()
    print(stage.report.line(), flush=True)
    for message, count in stage.report.messages.most_common(6):
        print(f"    {count} × {message}", flush=True)
    return not stage.report.missed


def chosen(names):
    found = []
    for name in names:
        matching = [name] if name in SCENES else [known for known in SCENES if known.startswith(name)]
        if not matching:
            sys.exit(f"scenes: there is no scene {name}; see --list")
        found += matching
    return found or list(SCENES)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", nargs="*", metavar="SCENE", help="scenes to play (default: all)")
    parser.add_argument("--lb", default=str(peers.LB), help="the program under test (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="how long a scene's event lasts (default: 60)")
    parser.add_argument(
        "--give-up",
        type=float,
        default=READ_TIMEOUT_SECONDS,
        help="read timeout of clients with slow commands in seconds (default: %(default)s, as redis-py 8)",
    )
    parser.add_argument("--peer", choices=["haproxy"], help="also play slow-sort through this proxy, for comparison")
    parser.add_argument("--list", action="store_true", help="list the scenes")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    if arguments.list:
        for name, (_, description) in SCENES.items():
            print(f"{name:30} {description}")
        return
    names = chosen(arguments.scenes)
    arguments.lb = str(pathlib.Path(arguments.lb).resolve())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("scenes: ended by a signal"))
    signal.signal(signal.SIGALRM, raise_too_long)
    machine.raise_file_limit()
    FOLDER.mkdir(parents=True, exist_ok=True)
    kept = [False]
    try:
        kept = [play(name, arguments) for name in names]
    finally:
        machine.stop_all()
        shutil.rmtree(FOLDER, ignore_errors=True)
        if all(kept):  # the logs may explain a failure
            for folder in machine.RUN.glob(f"run/scene-{FOLDER.name.rpartition('-')[2]}-*"):
                shutil.rmtree(folder, ignore_errors=True)
    print(f"{sum(kept)} of {len(kept)} scenes kept their bounds")
    sys.exit(0 if all(kept) else 1)


if __name__ == "__main__":
    main()
