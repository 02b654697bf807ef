"""Load processes: each group of clients has a process of its own, so that one does not delay another."""

import collections
import multiprocessing
import re

# How long a load process may wait for outstanding replies after it is told to stop.
GRACE_SECONDS = 20
# Distinct messages that are kept, each with its count.
MAX_MESSAGES = 20
MESSAGE_LENGTH = 120

context = multiprocessing.get_context("fork")


class Workers:
    """Processes that run `function(pipe, *arguments)` until the pipe says "stop", then send a result."""

    def __init__(self, function, argument_lists):
        self.workers = []
        for arguments in argument_lists:
            ours, theirs = context.Pipe()
            process = context.Process(target=function, args=(theirs, *arguments), daemon=True)
            process.start()
            theirs.close()
            self.workers.append((process, ours))

    def stop(self):
        """Ends all processes; returns their results, with None for each that failed."""
        for _, pipe in self.workers:
            pipe.send("stop")
        results = []
        for process, pipe in self.workers:
            try:
                results.append(pipe.recv() if pipe.poll(GRACE_SECONDS + 40) else None)
            except EOFError:
                results.append(None)
            process.join(5)
        self.kill()
        return results

    def kill(self):
        for process, _ in self.workers:
            process.kill()


def burn_cpu(_pipe):
    while True:
        pass


class MessageCounter(collections.Counter):
    """Counts messages; those that differ only in numbers count as one."""

    def note(self, message):
        message = re.sub(r"\d+", "N", str(message))[:MESSAGE_LENGTH]
        if message in self or len(self) < MAX_MESSAGES:
            self[message] += 1
