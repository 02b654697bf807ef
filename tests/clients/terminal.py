"""Features that redis-cli has only at a terminal: completion and hints from COMMAND DOCS, and --stat.

Usage: terminal.py PORT
"""

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time

TIMEOUT = 10


class Terminal:
    def __init__(self, *arguments):
        pid, self.file = pty.fork()
        if pid == 0:
            # Rows and columns, for which redis-cli would otherwise ask the terminal.
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
            os.environ.update(TERM="xterm", HOME="/nonexistent")
            os.execvp("redis-cli", ["redis-cli", *arguments])
        self.shown = ""

    def wait_for(self, what, pattern):
        """Waits until the output matches, and discards it up to the end of the match."""
        deadline = time.monotonic() + TIMEOUT
        while not (found := re.search(pattern, self.shown)):
            if not select.select([self.file], [], [], max(0, deadline - time.monotonic()))[0]:
                sys.exit(f"redis-cli, {what}: no {pattern!r} in {self.shown!r}")
            try:
                self.shown += os.read(self.file, 65536).decode(errors="replace")
            except OSError:
                sys.exit(f"redis-cli ended, {what}: no {pattern!r} in {self.shown!r}")
        self.shown = self.shown[found.end() :]

    def type(self, text):
        os.write(self.file, text.encode())

    def close(self):
        # redis-cli gets SIGHUP.
        os.close(self.file)
        os.wait()


def main():
    port = sys.argv[1]
    terminal = Terminal("-p", port)

    def enter(text, prompt=rf"127\.0\.0\.1:{port}(\[3\])?> "):
        # redis-cli discards input before its prompt.
        terminal.wait_for("prompt", prompt)
        terminal.type(text)

    enter("hgeta\t")
    terminal.wait_for("completion", "HGETALL")
    terminal.type(" ")
    terminal.wait_for("hint", "key")
    terminal.type("hash\r")
    terminal.wait_for("reply", '"Ada"')
    enter("help hget\r")
    terminal.wait_for("help", "summary:.* value of a.* field")
    enter("select 3\r")
    terminal.wait_for("reply", "OK")
    enter("set greeting bye\r", r"\[3\]> ")
    terminal.wait_for("refusal", "READONLY")
    enter("get greeting\r")
    terminal.wait_for("reply of database 3", "hello from 3")
    enter("subscribe news\r")
    terminal.wait_for("subscription", '"subscribe"')
    terminal.close()

    terminal = Terminal("-p", port, "-i", "0.1", "--stat")
    terminal.wait_for("--stat", "keys +mem +clients")
    for _ in range(3):
        terminal.wait_for("a line of --stat", r"\d+ +\d[\d.]*[KMG]? +\d+ +\d+ +\d+ \(\+\d+\)")
    terminal.close()


main()
