"""The endpoint of the demo: a process in its own network namespace that sends numbered UDP datagrams.

Commands come on standard input, one a line; each is answered by one line:

    stream SOURCE PORT RATE     send RATE datagrams a second until the next command      -> ok
    burst SOURCE PORT COUNT     send COUNT datagrams                                     -> sent COUNT
    stop                                                                                 -> sent N (of the stream)

It ends with standard input, so it never outlives the demo. A datagram is its number, 8 bytes, from 0 for each command.
"""

from __future__ import annotations

import select
import socket
import sys
import time

HOST = "10.0.0.1"
TICK = 0.002  # seconds between the handfuls of a stream


class Stream:
    """A running stream: how many datagrams were sent and how many are due."""

    def __init__(self, sock: socket.socket, rate: int) -> None:
        self.sock = sock
        self.rate = rate
        self.began = time.monotonic()
        self.sent = 0

    def catch_up(self) -> None:
        due = int((time.monotonic() - self.began) * self.rate)
        while self.sent < due:
            self.sock.send(self.sent.to_bytes(8, "big"))
            self.sent += 1


def open_socket(source: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((source, 0))
    sock.connect((HOST, port))
    return sock


def answer(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    stream: Stream | None = None
    while True:
        if not select.select([0], [], [], TICK if stream else None)[0]:
            assert stream is not None
            stream.catch_up()
            continue
        words = sys.stdin.readline().split()
        if not words:
            return
        if words[0] == "stop":
            answer(f"sent {stream.sent if stream else 0}")
            stream = None
            continue
        verb, source, port, number = words
        sock = open_socket(source, int(port))
        if verb == "stream":
            stream = Stream(sock, int(number))
            answer("ok")
        else:
            for count in range(int(number)):
                sock.send(count.to_bytes(8, "big"))
            answer(f"sent {number}")


if __name__ == "__main__":
    main()
