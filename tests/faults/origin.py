"""An origin whose every answer can be foretold, over TCP and over Unix sockets.

`GET /bytes/N` and `GET /chunked/N` answer N bytes that the whole target determines, `POST /echo` answers what it got,
`GET /torn/N` breaks off by a reset after half of its N bytes, `GET /late/N` is answered after N tenths of a second, `GET /held/0`
when the origin is told to release it. A WebSocket handshake opens a tunnel that echoes raw bytes, behind many of its own if its
target is `/flood`.
"""

import base64
import contextlib
import functools
import hashlib
import http.server
import socket
import socketserver
import struct
import threading
import time

# More than the buffers between an upstream and a client that does not read take.
FLOOD_BYTES = 1 << 24
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


@functools.lru_cache
def body_of(target, size):
    """The body that the origin answers for this target."""
    return hashlib.shake_128(target.encode()).digest(size)


def accept_of(key):
    """The Sec-WebSocket-Accept that answers this key (RFC 6455, 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key.encode() + GUID).digest()).decode()


def reset_on_close(connection):
    """Makes the close that follows a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Exchanges(http.server.BaseHTTPRequestHandler):
    """The exchanges of one connection."""

    protocol_version = "HTTP/1.1"
    # A head and its body leave in one piece, unless the body is long.
    wbufsize = 1 << 16

    def do_GET(self):
        if self.headers.get("upgrade", "").lower() == "websocket":
            return self.tunnel()
        *_, kind, size = self.path.partition("?")[0].split("/")
        if kind == "chunked":
            self.answer_in_chunks(body_of(self.path, int(size)))
        elif kind == "torn":
            self.answer_torn(body_of(self.path, int(size)))
        elif kind == "late":
            time.sleep(int(size) / 10)
            self.answer(b"")
        elif kind == "held":
            self.server.holds.set()
            self.server.released.wait()
            self.answer(b"")
        else:
            self.answer(body_of(self.path, int(size)))

    do_HEAD = do_GET

    def do_POST(self):
        if "chunked" in self.headers.get("transfer-encoding", ""):
            self.answer(b"".join(self.chunks()))
        else:
            self.answer(self.exactly(int(self.headers["content-length"])))

    def chunks(self):
        while size := int(self.rfile.readline(), 16):
            yield self.exactly(size)
            self.rfile.readline()
        self.rfile.readline()

    def exactly(self, size):
        body = self.rfile.read(size)
        if len(body) != size:
            raise ConnectionResetError("the body ended early")
        return body

    def answer(self, body):
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_in_chunks(self, body):
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for start in range(0, len(body), 5000):
            part = body[start : start + 5000]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    def answer_torn(self, body):
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        reset_on_close(self.connection)
        self.connection.close()
        raise ConnectionAbortedError("as asked")

    def tunnel(self):
        self.send_response(101)
        self.send_header("connection", "Upgrade")
        self.send_header("upgrade", "websocket")
        self.send_header("sec-websocket-accept", accept_of(self.headers["sec-websocket-key"]))
        self.end_headers()
        self.wfile.flush()
        if self.path == "/flood":
            self.connection.sendall(body_of(self.path, FLOOD_BYTES))
        while data := self.rfile.read1(1 << 16):
            self.connection.sendall(data)
        self.connection.shutdown(socket.SHUT_WR)
        self.close_connection = True

    def finish(self):
        # What the other side does not want to hear any more is no error of ours.
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def log_message(self, *_):
        pass


class Connections(socketserver.ThreadingMixIn):
    """Keeps the connections of a server, so that they can be ended."""

    daemon_threads = True
    block_on_close = False
    # More than there are slow clients: behind a full queue the kernel waits for seconds.
    request_queue_size = 4096

    def __init__(self, *arguments):
        self.open = set()
        self.holds, self.released = threading.Event(), threading.Event()
        super().__init__(*arguments)

    def process_request(self, request, client_address):
        if request.family != socket.AF_UNIX:
            request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self.open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, *_):
        """Whatever breaks a connection is seen at its other end."""

    def end_connections(self, by_reset=False):
        for request in list(self.open):
            with contextlib.suppress(OSError):
                if by_reset:
                    reset_on_close(request)
                request.shutdown(socket.SHUT_RDWR)


class TcpServer(Connections, socketserver.TCPServer):
    """Over TCP."""

    allow_reuse_address = True


class UnixServer(Connections, socketserver.UnixStreamServer):
    """Over a Unix socket."""


class Origin:
    """A running origin. `address` is what a route of hawkey leads to."""

    def __init__(self, path=None, small_buffers=False):
        self.server = UnixServer(str(path), Exchanges) if path else TcpServer(("127.0.0.1", 0), Exchanges)
        if small_buffers:
            shrink(self.server.socket)
        self.address = f"unix:{path}" if path else "127.0.0.1:%d" % self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def end_connections(self, by_reset=False):
        """Ends every connection, the idle ones too."""
        self.server.end_connections(by_reset)

    def close(self):
        """Ends the origin and its connections."""
        self.server.released.set()
        self.server.shutdown()
        self.server.server_close()
        self.end_connections()


def shrink(connection):
    """Gives a connection that is yet to be made, or the listener that it will be accepted from, very small buffers."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        connection.setsockopt(socket.SOL_SOCKET, option, 4096)
    if connection.family != socket.AF_UNIX:
        # Segments larger than the window would wait for timers.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 500)
