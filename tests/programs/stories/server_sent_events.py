"""Server-sent events of Node to curl: the server and the configuration of docs/server-sent-events.md, and one that waits."""

import time
import types

from stage import answering, expect, free_port, from_docs, wait_until

SILENCE_SECONDS = 2.5


def set_stage(stage):
    port = free_port()
    script = stage.folder / "server.js"
    script.write_text(from_docs("server-sent-events.md", "js", {"3000": str(port)}))
    server = answering(stage.start("events", ["node", script]), port)
    replacements = {":8080": "127.0.0.1:0", "127.0.0.1:3000": server.address}
    ticking = stage.hawkey(configuration=from_docs("server-sent-events.md", "toml", replacements))

    waiting = stage.node("event_server.js")
    # A body may be silent for one second here, an event stream for as long as a tunnel.
    short = f'listen = ["127.0.0.1:0"]\n[[route]]\nmatch = "/"\nto = "{waiting.address}"\n[timeouts]\nidle = "1s"\n'
    proxy = stage.hawkey(configuration=short)
    return types.SimpleNamespace(
        stage=stage,
        server=waiting,
        ticking=f"http://{ticking.address}/events",
        url=f"http://{proxy.address}/events",
    )


def _listen(scene, url, *arguments):
    return scene.stage.start("curl", ["curl", "--silent", "--no-buffer", "--max-time", "60", *arguments, url])


def _send(scene, event):
    return scene.stage.run("curl", ["curl", "--silent", "--show-error", "--data", event, scene.url])


def one_by_one(scene):
    """Each event arrives before the next one exists."""
    curl = _listen(scene, scene.url)
    curl.says(r"^retry: 1000$")
    for number in range(20):
        expect("what the server did", "sent to 1\n", _send(scene, f"event {number}"))
        curl.says(rf"^data: event {number}$")
    expect("whether the response is still open", False, curl.ended())
    curl.end()
    scene.server.says(r"^stream closed, 0 open$")


def after_a_silence(scene):
    """An event that comes after a silence longer than timeouts.idle arrives."""
    curl = _listen(scene, scene.url)
    curl.says(r"^retry: 1000$")
    time.sleep(SILENCE_SECONDS)
    expect("whether the response is still open", False, curl.ended())
    _send(scene, "at last")
    curl.says(r"^data: at last$")
    curl.end()


def many_listeners(scene):
    """An event reaches 20 listeners."""
    wait_until("the streams of other checks are gone", lambda: _send(scene, "anyone?") == "sent to 0\n")
    curls = [_listen(scene, scene.url) for _ in range(20)]
    for curl in curls:
        curl.says(r"^retry: 1000$")
    expect("what the server did", "sent to 20\n", _send(scene, "for all"))
    for curl in curls:
        curl.says(r"^data: for all$")
    for curl in curls:
        curl.end()


def as_documented(scene):
    """The server of the documentation ticks: the first tick is here long before the third."""
    curl = _listen(scene, scene.ticking, "--include")
    curl.says(r"^HTTP/1\.1 200 OK\r$")
    curl.says(r"^data: tick 1$")
    expect("whether tick 3 came together with tick 1", False, "data: tick 3" in curl.said())
    curl.says(r"^data: tick 3$")
    curl.end()
