"""A client that checks every byte of what it gets, and tells a cut answer from a whole one."""

import base64
import http.client
import os
import socket
import threading
import time

from origin import FLOOD_BYTES, accept_of, body_of, reset_on_close, shrink
from stage import Failure

# What became of an exchange. Wrong bytes are no outcome but a Failure.
RIGHT, FAULT, CUT, LATE = "right", "fault", "cut", "late"
READ_BYTES = 1 << 16


class Watch:
    """A clock, and beside it a thread that only sleeps, over and over. By how much that comes too late tells how busy the machine is,
    and hawkey and both of its sides come as late."""

    NAP = 0.005
    # What a nap takes longer on a machine that has nothing else to do, and more.
    NAP_LATE = 0.001

    def __init__(self):
        # Of each late nap, when it should have ended and when it did.
        self.late = []
        self.over = threading.Event()
        self.sleeper = threading.Thread(target=self.sleep, daemon=True)
        self.sleeper.start()
        self.begun = time.monotonic()

    def sleep(self):
        while not self.over.is_set():
            due = time.monotonic() + self.NAP + self.NAP_LATE
            time.sleep(self.NAP)
            if (woken := time.monotonic()) > due:
                self.late.append((due, woken))

    def stop(self):
        """How many seconds it has run, and how many of them the machine may have cost: hawkey and the test are woken by turns, so that
        each of them may have come too late."""
        took = time.monotonic() - self.begun
        self.over.set()
        self.sleeper.join()
        return took, 3 * self.lost(self.begun, time.monotonic())

    def lost(self, begin, end):
        """For how many seconds between these nobody who wanted to wake up did."""
        return sum(max(0.0, min(end, woken) - max(begin, due)) for due, woken in self.late)


class Refused(Exception):
    """A handshake was answered with something else than 101."""


class Client:
    """One client of hawkey, on one connection as long as that lasts.

    `address` is `HOST:PORT` or `unix:PATH`. Nothing is waited for longer than `patience` seconds.
    """

    def __init__(self, address, patience=4.0, small_buffers=False, source=None):
        self.address = address
        self.patience = patience
        self.small_buffers = small_buffers
        self.source = source
        self.connection = None

    def connect(self):
        """A new connection to hawkey, by itself."""
        host, _, port = self.address.rpartition(":")
        is_unix = host == "unix"
        sock = socket.socket(socket.AF_UNIX if is_unix else socket.AF_INET)
        sock.settimeout(self.patience)
        if self.small_buffers:
            shrink(sock)
        if not is_unix:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.source:
                sock.bind((self.source, 0))
        sock.connect(port if is_unix else (host, int(port)))
        return sock

    def close(self):
        """Leaves."""
        if self.connection:
            self.connection.close()
            self.connection = None

    def attempt(self, action):
        """The outcome of `action`, after which a connection that disappointed is left behind."""
        try:
            outcome = action()
        except TimeoutError:
            outcome = LATE
        except (ConnectionError, http.client.IncompleteRead):
            outcome = CUT
        except Refused:
            outcome = FAULT
        if outcome != RIGHT:
            self.close()
        return outcome

    def get(self, target, size, method="GET", pause=0.0):
        """Fetches a target whose body has `size` bytes, with a pause after every 64 KiB."""
        return self.attempt(lambda: self.exchange(method, target, None, body_of(target, size), pause))

    def post(self, body, chunked=False):
        """Posts a body, by its length or in chunks of 7,000 bytes, and gets it back."""
        sent = [body[start : start + 7000] for start in range(0, len(body), 7000)] if chunked else body
        return self.attempt(lambda: self.exchange("POST", "/echo", sent, body))

    def exchange(self, method, target, body, expected, pause=0.0):
        if self.connection is None:
            self.connection = http.client.HTTPConnection("hawkey.test")
            self.connection.sock = self.connect()
        self.connection.request(method, target, body)
        response = self.connection.getresponse()
        what = f"{method} {target}"
        if response.status in (500, 503, 504):
            expect_bytes(f"{what}, {response.status}", b"", response.read())
            return FAULT
        if response.status == 408:
            return LATE
        if response.status != 200:
            raise Failure(f"{what}: status {response.status}")
        if method == "HEAD":
            if response.getheader("content-length") != str(len(expected)):
                raise Failure(f"{what}: content-length {response.getheader('content-length')!r}, not {len(expected)}")
            expected = b""
        found = bytearray()
        while part := response.read(READ_BYTES):
            found += part
            time.sleep(pause)
        # A read by parts does not tell of a body that is shorter than it was said to be.
        if response.length:
            raise http.client.IncompleteRead(bytes(found), response.length)
        expect_bytes(what, expected, found)
        return RIGHT

    def pipeline(self, targets, size):
        """Asks for all targets at once, and gets the answers in order."""

        def action():
            sock = self.connect()
            with sock, sock.makefile("rb") as reader:
                sock.sendall(b"".join(b"GET %b HTTP/1.1\r\nHost: hawkey.test\r\n\r\n" % t.encode() for t in targets))
                for target in targets:
                    status, fields = read_head(reader)
                    if status != 200:
                        return FAULT
                    found = reader.read(int(fields["content-length"]))
                    if len(found) < size:
                        return CUT
                    expect_bytes(f"pipelined GET {target}", body_of(target, size), found)
            return RIGHT

        return self.attempt(action)

    def tunnel(self, data):
        """Opens a WebSocket tunnel, has `data` echoed through it, ends its own direction and waits for the other's end."""

        def action():
            sock, reader = self.open_tunnel()
            with sock, reader:
                sender = threading.Thread(target=send_all_and_end, args=(sock, data))
                sender.start()
                try:
                    found = reader.readall()
                except ConnectionError:
                    return CUT
                finally:
                    sender.join()
                if len(found) < len(data) and data.startswith(found):
                    return CUT
                expect_bytes("the echo", data, found)
            return RIGHT

        return self.attempt(action)

    def stall(self, upstream_resets):
        """Opens a tunnel that the upstream fills and reads nothing until the upstream has reset: that must come as a reset."""

        def action():
            sock, reader = self.open_tunnel("/flood")
            with sock, reader:
                time.sleep(0.2)
                upstream_resets()
                time.sleep(0.05)
                found, data = bytearray(), body_of("/flood", FLOOD_BYTES)
                try:
                    while part := sock.recv(READ_BYTES):
                        found += part
                except ConnectionResetError:
                    expect_bytes("the flood until the reset", data[: len(found)], found)
                    return RIGHT
                if len(found) == len(data):
                    raise Failure("nothing of a flood had to wait although nobody read")
            return CUT

        return self.attempt(action)

    def open_tunnel(self, target="/tunnel"):
        """A WebSocket past its handshake, if the upstream agrees: the socket, and what reads from it."""
        sock = self.connect()
        reader = sock.makefile("rb", buffering=0)
        key = base64.b64encode(os.urandom(16)).decode()
        sock.sendall(
            f"GET {target} HTTP/1.1\r\nHost: hawkey.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        status, fields = read_head(reader)
        if status != 101:
            raise Refused
        if fields.get("sec-websocket-accept") != accept_of(key):
            raise Failure(f"the handshake's answer was {fields}")
        return sock, reader

    def leave_early(self, head, by_reset=False):
        """Sends something and leaves, without waiting for an answer."""

        def action():
            with self.connect() as sock:
                sock.sendall(head)
                if by_reset:
                    reset_on_close(sock)
            return RIGHT

        return self.attempt(action)


def send_all_and_end(sock, data):
    """Sends from a second thread, so that what comes back is read meanwhile."""
    try:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        # The reader of the same socket is told too.
        pass


def read_head(reader):
    """The status and the fields of a response."""
    line = reader.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionResetError("the answer ended within its head")
    fields = http.client.parse_headers(reader)
    return int(line.split()[1]), {name.lower(): value for name, value in fields.items()}


def expect_bytes(what, expected, found):
    """Fails unless every byte is right, and tells where the first wrong one is."""
    if expected != found:
        same = next((i for i, (a, b) in enumerate(zip(expected, found)) if a != b), min(len(expected), len(found)))
        raise Failure(f"{what}: {len(found)} bytes instead of {len(expected)}, the first wrong one at {same}")
