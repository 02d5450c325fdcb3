"""websockets of Python in front of hawkey, ws of Node and websockets behind it."""

import json
import threading
import time
import types

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import serve

from stage import Failure, expect, expect_in

# The messages of this story are up to 1 MiB in fragments of 64 KiB.
FRAGMENT = 64 << 10
FRAGMENTS = 16


def set_stage(stage):
    node = stage.node("ws_server.js")
    echo = serve(_echo, "127.0.0.1", 0, max_size=None)
    threading.Thread(target=echo.serve_forever, daemon=True).start()
    stage.endings.callback(echo.shutdown)
    port = echo.socket.getsockname()[1]
    proxy = stage.hawkey(f"/node={node.address}", f"/python=127.0.0.1:{port}").address
    return types.SimpleNamespace(node=f"ws://{proxy}/node", python=f"ws://{proxy}/python")


def _echo(socket):
    """Sends back what comes, a message in fragments as these fragments."""
    if socket.request.path.endswith("/fields"):
        socket.send(json.dumps(dict(socket.request.headers.raw_items())))
    try:
        while True:
            socket.send(list(socket.recv_streaming()))
    except ConnectionClosed:
        pass


def _open(url, **options):
    return connect(url, proxy=None, max_size=None, **options)


def ws_server(scene):
    """A client of websockets talks with a server of ws."""
    with _open(scene.node) as socket:
        expect_in(
            "the extensions agreed on",
            "permessage-deflate",
            socket.response.headers.get("Sec-WebSocket-Extensions", ""),
        )
        for message in ("hello", "Grüße, 世界", b"\x00\xff" * 100_000):
            socket.send(message)
            expect("what came back", message, socket.recv(timeout=10))


def websockets_server(scene):
    """A client of websockets talks with a server of websockets, without compression."""
    with _open(scene.python, compression=None) as socket:
        for message in ("hello", "Grüße, 世界", bytes(range(256)) * 4096):
            socket.send(message)
            expect("what came back", message, socket.recv(timeout=10))


def fragments(scene):
    """A message in 16 fragments comes back in 16 fragments, each as it was."""
    sent = [bytes([number]) * FRAGMENT for number in range(FRAGMENTS)]
    with _open(scene.python, compression=None) as socket:
        socket.send(iter(sent))
        # The library of the other side ends a streamed message with an empty fragment.
        came = [fragment for fragment in socket.recv_streaming() if fragment]
        expect(
            "the lengths of the fragments", [len(fragment) for fragment in sent], [len(fragment) for fragment in came]
        )
        expect("the fragments", sent, came)


def pings_between_fragments(scene):
    """A ping between two fragments of a message is answered, and the message is whole."""
    with _open(scene.node, compression=None) as socket:

        def parts():
            yield "first "
            if not socket.ping().wait(timeout=10):
                raise Failure("no pong came between the fragments")
            yield "second"

        socket.send(parts())
        expect("the message", "first second", socket.recv(timeout=10))


def keepalive(scene):
    """Pings every 50 ms keep a silent tunnel open and tell its round trip."""
    with _open(scene.python, ping_interval=0.05, ping_timeout=5) as socket:
        deadline = time.monotonic() + 10
        pongs = set()
        while len(pongs) < 5:
            if time.monotonic() > deadline:
                raise Failure(f"{len(pongs)} pongs came in 10 s")
            if socket.latency:
                pongs.add(socket.latency)
            time.sleep(0.02)
        socket.send("still here")
        expect("what came back", "still here", socket.recv(timeout=10))


def close_codes(scene):
    """The close code 4001 and its reason come from the server."""
    with _open(scene.node) as socket:
        socket.send("close 4001 enough")
        try:
            socket.recv(timeout=10)
        except ConnectionClosed as closed:
            expect("the close", (4001, "enough"), (closed.rcvd.code, closed.rcvd.reason))
        else:
            raise Failure("a message came where a close was expected")


def fields(scene):
    """The handshake's fields reach the server as the client wrote them, with what hawkey adds."""
    with _open(f"{scene.python}/fields", origin="http://example.com", additional_headers={"X-Mine": "yes"}) as socket:
        seen = {name.lower(): value for name, value in json.loads(socket.recv(timeout=10)).items()}
    expected = {
        "origin": "http://example.com",
        "x-mine": "yes",
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-proto": "http",
    }
    expect("the fields", expected, {name: seen.get(name) for name in expected})
    expect("connection", "upgrade", seen.get("connection", "").lower())
    expect("upgrade", "websocket", seen.get("upgrade", "").lower())
