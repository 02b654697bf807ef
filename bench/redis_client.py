"""One command, one reply, as bytes."""

import socket


def ask(port, *words):
    words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    request = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as replies:
            reply = _read(replies)
    if reply.startswith(b"-"):
        raise RuntimeError(reply.decode(errors="replace").strip())
    return reply


def number(port, *words):
    return int(ask(port, *words)[1:])


def _read(replies):
    line = replies.readline()
    if not line.endswith(b"\r\n"):
        raise RuntimeError("the connection was closed before a reply")
    if line[:1] == b"$" and line[1:2] != b"-":
        return line + replies.read(int(line[1:]) + 2)
    if line[:1] == b"*":
        return line + b"".join(_read(replies) for _ in range(int(line[1:])))
    return line
