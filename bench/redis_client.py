"""A minimal Redis client: commands are words, replies are bytes."""

import socket


def encode(*words):
    words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def read_reply(stream):
    """The bytes of one reply, which may be an error."""
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionResetError("the connection was closed before a reply")
    if line[:1] == b"$" and line[1:2] != b"-":
        return line + stream.read(int(line[1:]) + 2)
    if line[:1] == b"*":
        return line + b"".join(read_reply(stream) for _ in range(int(line[1:])))
    return line


class Connection:
    def __init__(self, port, timeout=10):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self.stream = self.socket.makefile("rb", 1 << 20)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def ask(self, *words):
        return self.pipeline([words])[0]

    def pipeline(self, commands):
        """The replies to all commands; raises `RuntimeError` if one of them is an error."""
        self.socket.sendall(b"".join(encode(*command) for command in commands))
        replies = [read_reply(self.stream) for _ in commands]
        for reply in replies:
            if reply.startswith(b"-"):
                raise RuntimeError(reply.decode(errors="replace").strip())
        return replies

    def close(self):
        try:
            self.socket.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits for a reply
        except OSError:
            pass
        self.socket.close()


def ask(port, *words):
    with Connection(port) as connection:
        return connection.ask(*words)


def number(port, *words):
    return int(ask(port, *words)[1:])
