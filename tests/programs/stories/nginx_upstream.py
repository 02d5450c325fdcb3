"""nginx behind hawkey, serving files."""

import gzip
import re
import types

from stage import expect, expect_in, free_port, sha256, wait_until

TEXT = "The same sentence, often enough to be worth compressing. " * 2000


def set_stage(stage):
    site = stage.folder / "site"
    site.mkdir()
    file = stage.random_file("site/large", 100)
    (site / "text.txt").write_text(TEXT)
    port = free_port()
    upstream = stage.nginx(
        port,
        f"""
        log_format forwarded '$request $status real=$http_x_real_ip for=$http_x_forwarded_for '
                             'proto=$http_x_forwarded_proto connection=$connection';
        server {{
            listen 127.0.0.1:{port};
            root {site};
            types {{ text/plain txt; }}
            gzip on;
            gzip_types text/plain;
            gzip_proxied any;
            access_log {stage.folder}/access.log forwarded;
        }}
        """,
    )
    url = f"http://{stage.hawkey(f'/={upstream.address}').address}"

    def curl(*arguments):
        return stage.run("curl", ["curl", "--silent", "--show-error", "--max-time", "25", *arguments])

    return types.SimpleNamespace(stage=stage, file=file, url=url, curl=curl, log=stage.folder / "access.log")


def large_file(scene):
    """A file of 100 MB arrives whole."""
    copy = scene.stage.folder / "copy"
    scene.curl("--output", copy, f"{scene.url}/large")
    expect("SHA-256 of what came", sha256(scene.file), sha256(copy))


def compressed(scene):
    """A text that nginx compresses arrives compressed, and is the text."""
    copy = scene.stage.folder / "text.gz"
    head = scene.curl(
        "--header", "Accept-Encoding: gzip", "--dump-header", "-", "--output", copy, f"{scene.url}/text.txt"
    )
    expect_in("the fields", "content-encoding: gzip", head.lower())
    expect("the text", TEXT, gzip.decompress(copy.read_bytes()).decode())


def head(scene):
    """A HEAD brings the length and no body."""
    said = scene.curl("--head", f"{scene.url}/large").lower()
    expect_in("the status line", "http/1.1 200 ok", said)
    expect_in("the fields", f"content-length: {scene.file.stat().st_size}\r\n", said)


def not_modified(scene):
    """A file that the client has already is answered with 304."""
    etag = re.search(
        r"^etag: (.*?)\r$", scene.curl("--head", f"{scene.url}/text.txt"), re.IGNORECASE | re.MULTILINE
    ).group(1)
    shape = "%{http_code} %{size_download}"
    said = scene.curl("--header", f"If-None-Match: {etag}", "--write-out", shape, f"{scene.url}/text.txt")
    expect("status and bytes", "304 0", said)


def part_of_a_file(scene):
    """A range is answered with 206 and exactly those bytes."""
    part = scene.stage.folder / "part"
    shape = "%{http_code}"
    said = scene.curl("--range", "1000000-1999999", "--output", part, "--write-out", shape, f"{scene.url}/large")
    expect("the status", "206", said)
    expect("the bytes", scene.file.read_bytes()[1000000:2000000], part.read_bytes())


def access_log(scene):
    """nginx's own log tells the client's address, not the one that the client claims."""
    shape = r"^GET /log-me HTTP/1\.1 404 (.*) connection=\d+$"
    scene.curl("--header", "X-Real-IP: 203.0.113.9", "--interface", "127.0.0.7", f"{scene.url}/log-me")
    line = wait_until("nginx has written its log", lambda: re.search(shape, scene.log.read_text(), re.MULTILINE))
    expect("what nginx was told", "real=127.0.0.7 for=127.0.0.7 proto=http", line.group(1))


def kept_connection(scene):
    """Requests of two clients, one after the other, come to nginx over one connection."""
    shape = r"^GET /again HTTP/1\.1 404 .* connection=(\d+)$"
    for _ in range(2):
        scene.curl("--output", "/dev/null", f"{scene.url}/again")

    def numbers():
        found = re.findall(shape, scene.log.read_text(), re.MULTILINE)
        return found if len(found) == 2 else None

    first, second = wait_until("nginx has written both lines", numbers)
    expect("the number of the second request's connection", first, second)
