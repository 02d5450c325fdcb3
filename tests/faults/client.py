"""A client that checks every byte of what it gets, and tells a cut answer from a whole one."""

import base64
import contextlib
import http.client
import os
import socket

from origin import accept_of, body_of, reset_on_close, shrink
from stage import Failure

# What became of an exchange. Wrong bytes are no outcome but a Failure.
RIGHT, FAULT, CUT, LATE = "right", "fault", "cut", "late"


class Client:
    """One client of hawkey, on one connection as long as that lasts.

    `address` is `HOST:PORT` or `unix:PATH`. Nothing is waited for longer than `patience` seconds.
    """

    def __init__(self, address, patience=4.0, small_buffers=False):
        self.address = address
        self.patience = patience
        self.small_buffers = small_buffers
        self.connection = None

    def connect(self):
        """A new connection to hawkey."""
        host, _, port = self.address.rpartition(":")
        is_unix = host == "unix"
        sock = socket.socket(socket.AF_UNIX if is_unix else socket.AF_INET)
        sock.settimeout(self.patience)
        if self.small_buffers:
            shrink(sock)
        sock.connect(port if is_unix else (host, int(port)))
        if not is_unix:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def close(self):
        """Leaves."""
        if self.connection:
            self.connection.close()
            self.connection = None

    def attempt(self, action):
        """The outcome of `action`, after which a broken connection is left behind."""
        try:
            outcome = action()
        except TimeoutError:
            outcome = LATE
        except (ConnectionError, http.client.RemoteDisconnected, http.client.IncompleteRead):
            outcome = CUT
        if outcome != RIGHT:
            self.close()
        return outcome

    def get(self, target, size, method="GET", rate=None):
        """Fetches a target whose body has `size` bytes; with a `rate`, not faster than so many bytes a second."""
        return self.attempt(lambda: self.exchange(method, target, None, body_of(target, size), rate))

    def post(self, body, chunked=False):
        """Posts a body and gets it back."""
        parts = [body[start : start + 7000] for start in range(0, len(body), 7000)]
        return self.attempt(lambda: self.exchange("POST", "/echo", parts if chunked else body, body))

    def exchange(self, method, target, body, expected, rate=None):
        if self.connection is None:
            self.connection = http.client.HTTPConnection("hawkey.test")
            self.connection.sock = self.connect()
        self.connection.request(method, target, body, encode_chunked=isinstance(body, list),
                                headers={"transfer-encoding": "chunked"} if isinstance(body, list) else {})
        response = self.connection.getresponse()
        if method == "HEAD":
            expected, length = b"", len(expected)
        else:
            length = None
        found = response.read()
        what = f"{method} {target} of {len(expected)} bytes"
        if response.status in (500, 503, 504):
            if found:
                raise Failure(f"{what}: {response.status} came with {len(found)} bytes")
            return FAULT
        if response.status != 200 or found != expected:
            raise Failure(f"{what}: {response.status} with {len(found)} bytes, right up to {agreeing(found, expected)}")
        if length is not None and response.getheader("content-length") != str(length):
            raise Failure(f"{what}: content-length {response.getheader('content-length')!r}, not {length}")
        return RIGHT
