"""A terminal with a screen, for programs that draw: steps come as lines of JSON, and each gets its answer as one.

Usage: screen.py COLUMNS ROWS PROGRAM ARGUMENTS…

["screen"]              the lines that are shown
["type", "q"]           types text
["resize", [40, 10]]    changes the size of the window
["signal", 15]          sends a signal
["stopped"]             waits until the program is stopped: whether the terminal is as it was before
["hangup"]              closes the terminal, and waits for the end: the exit code, or minus the signal
["forget"]              shows nothing, as if another program had wiped the screen
["wait"]                waits for the end: the exit code, or minus the signal; whether the terminal is as it was before;
                        and all that was written
"""

import codecs
import fcntl
import json
import os
import pty
import re
import resource
import select
import struct
import sys
import termios
import time

# A control sequence, a character set, or one character.
TOKEN = re.compile(r"\x1b\[[?<=>]?([\d;]*)([@-~])|\x1b[()].|\x1b.|[\s\S]")
# The beginning of a control sequence at the end of what has come.
UNFINISHED = re.compile(r"\x1b(\[[?<=>]?[\d;]*|[()])?$")
TIMEOUT = 10


class Screen:
    """What the sequences make that crossterm sends."""

    def __init__(self, columns, rows):
        self.row = self.column = 0
        self.rest = ""
        self.resize(columns, rows)

    def resize(self, columns, rows):
        self.columns, self.rows = columns, rows
        self.cells = [[" "] * columns for _ in range(rows)]

    def feed(self, text):
        text = self.rest + text
        end = UNFINISHED.search(text)
        text, self.rest = (text[: end.start()], end.group()) if end else (text, "")
        for token in TOKEN.finditer(text):
            numbers, end = token.group(1), token.group(2)
            if end == "H":
                row, column = (int(number or 1) for number in (numbers or "1;1").split(";"))
                self.row, self.column = row - 1, column - 1
            elif end == "J":
                self.resize(self.columns, self.rows)
            elif token.group() >= " ":
                if self.row < self.rows and self.column < self.columns:
                    self.cells[self.row][self.column] = token.group()
                self.column += 1

    def lines(self):
        return ["".join(row).rstrip() for row in self.cells]


class Terminal:
    def __init__(self, columns, rows, arguments):
        self.screen = Screen(columns, rows)
        self.written = ""
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.pid, self.file = pty.fork()
        if self.pid == 0:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            os.execv(arguments[0], arguments)
        self.before = termios.tcgetattr(self.file)

    def read(self, seconds):
        """Takes what comes; returns whether there may be more."""
        if not select.select([self.file], [], [], seconds)[0]:
            return True
        try:
            piece = os.read(self.file, 65536)
        except OSError:
            return False
        text = self.decoder.decode(piece)
        self.written += text
        self.screen.feed(text)
        return piece != b""

    def do(self, step, argument=None):
        if step == "screen":
            self.read(0.05)
            return self.screen.lines()
        if step == "type":
            os.write(self.file, argument.encode())
        elif step == "resize":
            self.screen.resize(*argument)
            columns, rows = argument
            fcntl.ioctl(self.file, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        elif step == "signal":
            os.kill(self.pid, argument)
        elif step == "stopped":
            return self.stopped()
        elif step == "hangup":
            return self.hangup()
        elif step == "forget":
            self.screen.resize(self.screen.columns, self.screen.rows)
        elif step == "wait":
            return self.wait()
        return None

    def stopped(self):
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            self.read(0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
            if pid:
                return os.WIFSTOPPED(status) and termios.tcgetattr(self.file) == self.before
        return False

    def hangup(self):
        os.close(self.file)
        self.file = os.pipe()[0]
        deadline = time.monotonic() + TIMEOUT
        ended, status = 0, 0
        while not ended and time.monotonic() < deadline:
            time.sleep(0.05)
            ended, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if ended else None

    def wait(self):
        deadline = time.monotonic() + TIMEOUT
        ended, status = 0, 0
        while not ended and time.monotonic() < deadline:
            self.read(0.05)
            ended, status = os.waitpid(self.pid, os.WNOHANG)
        while self.read(0.05) and time.monotonic() < deadline and select.select([self.file], [], [], 0)[0]:
            pass
        after = termios.tcgetattr(self.file)
        return {
            "code": os.waitstatus_to_exitcode(status) if ended else None,
            "is_restored": after == self.before,
            "written": self.written,
        }


def main():
    columns, rows = map(int, sys.argv[1:3])
    terminal = Terminal(columns, rows, sys.argv[3:])
    while True:
        ready = select.select([sys.stdin, terminal.file], [], [])[0]
        if terminal.file in ready and not terminal.read(0) and sys.stdin not in ready:
            # The program has ended; the next step is awaited without reading again and again.
            select.select([sys.stdin], [], [])
            ready = [sys.stdin]
        if sys.stdin in ready:
            line = sys.stdin.readline()
            if not line:
                os.kill(terminal.pid, 9)
                return
            print(json.dumps(terminal.do(*json.loads(line))), flush=True)


try:
    main()
except ProcessLookupError:
    pass
