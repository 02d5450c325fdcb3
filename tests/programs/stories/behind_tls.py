"""nginx ends TLS in front of hawkey, as docs/behind-tls.md has it."""

import json
import socket
import ssl
import types

from websockets.sync.client import connect

from stage import expect, expect_in, free_port, from_docs, sha256

# Clients come from another address than nginx does, so that the two can be told apart.
CLIENT = "127.0.0.5"


def set_stage(stage):
    certificate, key = stage.folder / "example.com.pem", stage.folder / "example.com.key"
    stage.run(
        "openssl",
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "2",
            ),
            *("-subj", "/CN=example.com", "-addext", "subjectAltName=DNS:example.com"),
            *("-keyout", key, "-out", certificate),
        ],
    )
    upstream = stage.node("ws_server.js")
    file = stage.random_file("file", 10)
    origin = stage.node("origin.js", file)
    # The WebSocket server takes the place of the documentation's upstream; the others stand beside it.
    documented = {"127.0.0.1:8080": "127.0.0.1:0", "127.0.0.1:3000": upstream.address}
    others = f'[[route]]\nmatch = "/origin"\nstrip = true\nto = "{origin.address}"\n'
    proxy = stage.hawkey(configuration=from_docs("behind-tls.md", "toml", documented) + others).address
    port = free_port()
    documented = {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "127.0.0.1:8080": proxy,
        "/etc/ssl/example.com.pem": certificate,
        "/etc/ssl/example.com.key": key,
    }
    stage.nginx(port, from_docs("behind-tls.md", "nginx", documented))

    def curl(*arguments):
        options = ["--silent", "--show-error", "--max-time", "25", "--interface", CLIENT, "--cacert", certificate]
        # One name, one place: `example.com` is never looked up.
        options += ["--connect-to", f"example.com:443:127.0.0.1:{port}"]
        *these, path = arguments
        return stage.run("curl", ["curl", *options, *these, f"https://example.com/origin{path}"])

    return types.SimpleNamespace(stage=stage, file=file, certificate=certificate, port=port, proxy=proxy, curl=curl)


def fields(scene):
    """The upstream is told of HTTPS, of the client's address and of nginx's, and of nothing that the client claims."""
    seen = json.loads(
        scene.curl(
            *("--header", "X-Forwarded-For: 203.0.113.9"),
            *("--header", "X-Real-IP: 203.0.113.9"),
            *("--header", "X-Forwarded-Proto: ws"),
            "/fields",
        )
    )["fields"]
    expected = {
        "host": "example.com",
        "x-real-ip": CLIENT,
        "x-forwarded-for": f"{CLIENT}, 127.0.0.1",
        "x-forwarded-proto": "https",
        "x-forwarded-host": "example.com",
    }
    expect("the fields", expected, {name: seen.get(name) for name in expected})


def websocket(scene):
    """A WebSocket over TLS works, and its handshake tells the same of the client."""
    trust = ssl.create_default_context(cafile=scene.certificate)
    plain = socket.create_connection(("127.0.0.1", scene.port), timeout=10, source_address=(CLIENT, 0))
    with connect("wss://example.com/chat", sock=plain, ssl=trust, server_hostname="example.com", proxy=None) as tunnel:
        for message in ("hello", "Grüße", b"\x00\xff" * 50_000):
            tunnel.send(message)
            expect("what came back", message, tunnel.recv(timeout=10))
        tunnel.send("fields")
        seen = json.loads(tunnel.recv(timeout=10))
    expected = {"host": "example.com", "x-forwarded-for": f"{CLIENT}, 127.0.0.1", "x-forwarded-proto": "https"}
    expect("the fields", expected, {name: seen.get(name) for name in expected})


def upload_and_download(scene):
    """A file of 10 MB arrives whole in both directions."""
    copy = scene.stage.folder / "copy"
    scene.curl("--output", copy, "/file")
    expect("SHA-256 of what came", sha256(scene.file), sha256(copy))
    seen = json.loads(scene.curl("--data-binary", f"@{scene.file}", "/upload"))
    expect("SHA-256 of what the upstream got", sha256(scene.file), seen["sha256"])


def longer_chain(scene):
    """What a trusted machine says of a longer chain is kept, and its own address is appended."""
    chain = ("--header", "X-Forwarded-For: 203.0.113.9, 198.51.100.7", "--header", "X-Forwarded-Proto: https")
    said = scene.stage.run("curl", ["curl", "--silent", *chain, f"http://{scene.proxy}/origin/fields"])
    seen = json.loads(said)["fields"]
    expect("x-forwarded-for", "203.0.113.9, 198.51.100.7, 127.0.0.1", seen.get("x-forwarded-for"))
    expect("x-forwarded-proto", "https", seen.get("x-forwarded-proto"))


def not_trusted(scene):
    """What a machine that is not trusted says is replaced."""
    claims = ("--header", "X-Forwarded-For: 203.0.113.9", "--header", "X-Forwarded-Proto: https")
    said = scene.stage.run(
        "curl", ["curl", "--silent", "--interface", CLIENT, *claims, f"http://{scene.proxy}/origin/fields"]
    )
    seen = json.loads(said)["fields"]
    expect("x-forwarded-for", CLIENT, seen.get("x-forwarded-for"))
    expect("x-forwarded-proto", "http", seen.get("x-forwarded-proto"))


def version_1_0(scene):
    """nginx with `proxy_http_version 1.0` gets 500 Not Supported, as the page says."""
    port, to = free_port(), f"http://{scene.proxy}"
    scene.stage.nginx(
        port, f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {to}; proxy_http_version 1.0; }} }}"
    )
    said = scene.stage.run("curl", ["curl", "--silent", "--include", f"http://127.0.0.1:{port}/"])
    expect_in("the status line", " 500 ", said.splitlines()[0])
    expect_in("the body", "<h4>Not Supported</h4>", said)
