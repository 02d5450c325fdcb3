"""curl in front of hawkey, a Node server behind it."""

import json
import os
import types

from stage import expect, expect_in, sha256


def set_stage(stage):
    file = stage.random_file("file", 50)
    origin = stage.node("origin.js", file)
    proxy = stage.hawkey(f"/={origin.address}")
    # A second hawkey that knows only one path, for the request that no route is for.
    narrow = stage.hawkey(f"/only={origin.address}")

    def curl(*arguments):
        return stage.run("curl", ["curl", "--silent", "--show-error", "--max-time", "25", *arguments])

    url, narrow_url = f"http://{proxy.address}", f"http://{narrow.address}"
    return types.SimpleNamespace(stage=stage, file=file, url=url, narrow=narrow_url, curl=curl)


def get(scene):
    """A GET of 50 MB brings every byte."""
    copy = scene.stage.folder / "copy"
    scene.curl("--output", copy, f"{scene.url}/file")
    expect("SHA-256 of what curl got", sha256(scene.file), sha256(copy))


def head(scene):
    """A HEAD brings the fields, no body, and leaves the connection in order."""
    said = scene.curl("--head", f"{scene.url}/file")
    expect_in("the answer to HEAD", f"content-length: {scene.file.stat().st_size}\r\n", said.lower())
    expect("what the upstream saw", {"method": "HEAD", "target": "/file"}, json.loads(scene.curl(f"{scene.url}/last")))


def upload_after_100(scene):
    """A POST of 50 MB with Expect: 100-continue waits for the 100 and arrives whole."""
    words = scene.stage.folder / "words"
    said = scene.curl(
        "--verbose",
        *("--stderr", words),
        *("--expect100-timeout", "20"),
        *("--header", "Expect: 100-continue"),
        *("--data-binary", f"@{scene.file}"),
        f"{scene.url}/upload?name=a%20b",
    )
    seen = json.loads(said)
    expect("the target", "/upload?name=a%20b", seen["target"])
    expect("SHA-256 of what the upstream got", sha256(scene.file), seen["sha256"])
    expect("content-length", str(scene.file.stat().st_size), seen["fields"].get("content-length"))
    expect_in(
        "what curl was told before it sent the body", "< HTTP/1.1 100 Continue", words.read_text(errors="replace")
    )


def upload_as_a_form(scene):
    """A form with a file of 50 MB arrives whole."""
    seen = json.loads(scene.curl("--form", f"file=@{scene.file}", f"{scene.url}/form"))
    expect("the bytes of the body", int(seen["fields"]["content-length"]), seen["bytes"])
    expect_in("content-type", "multipart/form-data; boundary=", seen["fields"]["content-type"])


def upload_chunked(scene):
    """A chunked upload of 50 MB from standard input arrives whole, and stays chunked."""
    said = scene.stage.run(
        "curl",
        ["sh", "-c", 'curl --silent --show-error --max-time 25 -T - "$1" <"$2"', "sh", f"{scene.url}/put", scene.file],
    )
    seen = json.loads(said)
    expect("the method", "PUT", seen["method"])
    expect("transfer-encoding", "chunked", seen["fields"].get("transfer-encoding"))
    expect("SHA-256 of what the upstream got", sha256(scene.file), seen["sha256"])


def fields(scene):
    """The upstream sees the client's fields, and what hawkey adds; a forged X-Forwarded-For is gone."""
    seen = json.loads(
        scene.curl(
            *("--range", "100-199"),
            *("--cookie", "a=1; b=2"),
            *("--header", "X-Forwarded-For: 203.0.113.9"),
            *("--header", "Connection: X-Private"),
            *("--header", "X-Private: for the next hop only"),
            f"{scene.url}/fields",
        )
    )["fields"]
    expect("range", "bytes=100-199", seen.get("range"))
    expect("cookie", "a=1; b=2", seen.get("cookie"))
    expect("host", scene.url.removeprefix("http://"), seen.get("host"))
    expect("x-real-ip", "127.0.0.1", seen.get("x-real-ip"))
    expect("x-forwarded-for", "127.0.0.1", seen.get("x-forwarded-for"))
    expect("x-forwarded-proto", "http", seen.get("x-forwarded-proto"))
    expect("x-forwarded-host", scene.url.removeprefix("http://"), seen.get("x-forwarded-host"))
    expect("a field that Connection names", None, seen.get("x-private"))


def kept_connection(scene):
    """Two URLs are fetched over one connection."""
    outputs = ("--output", os.devnull, "--output", os.devnull)
    said = scene.curl(*outputs, "--write-out", "%{num_connects} ", f"{scene.url}/a", f"{scene.url}/b")
    expect("the connections that curl made for the first URL and for the second", ["1", "0"], said.split())


def no_route(scene):
    """A path that no route is for gets 404 without a body, and the connection is kept."""
    shape = "%{http_code} %{size_download} %{content_type} %{num_connects}\\n"
    said = scene.curl("--write-out", shape, f"{scene.narrow}/", f"{scene.narrow}/onlyx")
    one = "404 0 text/html; charset=utf-8"
    expect("the two answers", [f"{one} 1", f"{one} 0"], said.splitlines())


def version_1_0(scene):
    """A request of HTTP/1.0 gets 500 Not Supported, and the connection is closed."""
    said = scene.curl("--http1.0", "--include", f"{scene.url}/")
    head, _, body = said.partition("\r\n\r\n")
    expect_in("the status line", " 500 ", head.splitlines()[0])
    expect_in("the fields", "connection: close", head.lower())
    expect("the body", "<h4>Not Supported</h4>", body)
