#!/usr/bin/env python3
"""Mixes all kinds of traffic for as long as it is told to, lets many connections come and go, and tells what is left of it.

No byte may be wrong; descriptors and memory must be back where they were, and no line of the log may be lost. The last line is
`N passed, N failed`.
"""

import argparse
import collections
import multiprocessing
import os
import pathlib
import random
import re
import signal
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "programs"))

from client import RIGHT, Client, read_head
from origin import Origin, reset_on_close
from stage import Failure, Stage, expect, wait_until

WORKERS = 4
# What the allocator may hold on to once everything has ended.
GROWTH_BYTES_MAX = 1 << 20
TORN = 1 / 100

CONFIGURATION = """
listen = ["127.0.0.1:0", "unix:{folder}/hawkey.sock"]
route = [
    {{ match = "/", to = "{tcp}" }},
    {{ match = "/unix", to = "{unix}" }},
]
"""


class Scene:
    """A hawkey between its upstreams, which live in a process of their own."""

    def __init__(self, stage, configuration=CONFIGURATION, niceness=0):
        self.origins, (tcp, unix), self.origin_pid = origins_elsewhere(stage, stage.folder / "origin.sock", niceness)
        self.hawkey = stage.hawkey(configuration=configuration.format(folder=stage.folder, tcp=tcp, unix=unix))
        self.address = self.hawkey.address
        self.pid = self.hawkey.process.pid
        self.unix_address = f"unix:{stage.folder}/hawkey.sock"

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def memory(self):
        """RssAnon, in bytes."""
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE).group(1)) << 10

    def processor_seconds(self):
        return int(pathlib.Path(f"/proc/{self.pid}/schedstat").read_text().split()[0]) / 1e9

    def rests_with(self, descriptors):
        """Ends the idle upstream connections and waits until hawkey holds no more than so many descriptors."""

        def look():
            self.origins.send("end connections")
            self.origins.recv()
            return self.descriptors() <= descriptors

        wait_until(f"hawkey holds {descriptors} descriptors again", look, seconds=20)


def origins_elsewhere(stage, path, niceness=0):
    """Starts two origins in a process of their own, which stands so far back behind others; the pipe to it, their addresses, and its id."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=serve, args=(theirs, path, niceness), daemon=True)
    process.start()
    stage.endings.callback(process.kill)
    return ours, ours.recv(), process.pid


def serve(pipe, path, niceness):
    """The process of the origins."""
    os.nice(niceness)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    origins = (Origin(), Origin(path))
    pipe.send([origin.address for origin in origins])
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        for origin in origins:
            origin.end_connections()
        pipe.send("done")


# Kinds of traffic: how often, and what.


def gets(client, draw, fresh):
    size = draw.choice((0, 1, 100, 5_000, 70_000))
    kind = draw.choice(("bytes", "chunked", "unix/bytes"))
    return client.get(f"/{kind}/{size}?{fresh()}", size)


def heads(client, draw, fresh):
    return client.get(f"/bytes/4321?{fresh()}", 4321, "HEAD")


def posts(client, draw, fresh):
    return client.post(draw.randbytes(draw.choice((0, 10, 40_000, 300_000))))


def posts_in_chunks(client, draw, fresh):
    return client.post(draw.randbytes(draw.choice((10, 40_000, 300_000))), chunked=True)


def pipelines(client, draw, fresh):
    return client.pipeline([f"/bytes/200?{fresh()}" for _ in range(draw.randrange(2, 12))], 200)


def tunnels(client, draw, fresh):
    return client.tunnel(draw.randbytes(draw.choice((1, 1_000, 200_000))))


def slow_readers(client, draw, fresh):
    return client.get(f"/bytes/2000000?{fresh()}", 2_000_000, pause=0.01)


def leavers(client, draw, fresh):
    head = draw.choice((b"", b"GET / HT", b"GET /bytes/900000 HTTP/1.1\r\nHost: a\r\n\r\n", HALF_A_POST))
    return client.leave_early(head, by_reset=draw.random() < 0.5)


def torn(client, draw, fresh):
    """The upstream resets. What the client has seen of it must not look whole."""
    outcome = client.get(f"/torn/50000?{fresh()}", 50_000)
    if outcome == RIGHT:
        raise Failure("half an answer looked whole")
    return RIGHT


def nonsense(client, draw, fresh):
    sock = client.connect()
    with sock, sock.makefile("rb") as reader:
        sock.sendall(b"NONSENSE\r\n\r\n")
        status, _ = read_head(reader)
        expect("the status of nonsense", 400, status)
    return RIGHT


HALF_A_POST = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9000\r\n\r\nhalf"
KINDS = {gets: 40, heads: 5, posts: 12, posts_in_chunks: 12, pipelines: 8, tunnels: 10, slow_readers: 1, leavers: 8, nonsense: 2}


def mix(seed, addresses, until, told):
    """Traffic of one process, until then. What came of it goes to `told`."""
    draw, outcomes = random.Random(seed), collections.Counter()
    numbers = iter(range(1 << 60))
    fresh = lambda: f"{seed}-{next(numbers)}"
    clients = [Client(address, patience=20) for address in addresses for _ in range(3)]
    while time.monotonic() < until:
        client = draw.choice(clients)
        kind = torn if draw.random() < TORN else draw.choices(list(KINDS), KINDS.values())[0]
        try:
            outcome = kind(client, draw, fresh)
            # An upstream that resets in the middle troubles nobody else.
            outcomes[kind.__name__, outcome] += 1
        except Exception as problem:
            client.close()
            outcomes[kind.__name__, f"{type(problem).__name__}: {problem}"] += 1
        if draw.random() < 0.05:
            client.close()
    told.put(outcomes)


def come_and_go(seed, addresses, connections, told):
    """Connections that come and go in every way there is."""
    draw, outcomes = random.Random(seed), collections.Counter()
    whole = b"GET /bytes/20 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    for number in range(connections):
        # Ports of one address run out: each is held for a while by the kernel.
        client = Client(addresses[number % 8 == 0], patience=20, source=f"127.0.{seed}.{number % 250 + 1}")
        try:
            with client.connect() as sock:
                way = number % 4
                if way == 0:
                    sock.sendall(whole)
                    answer = b""
                    while part := sock.recv(4096):
                        answer += part
                    expect("the status line", b"HTTP/1.1 200 OK", answer.split(b"\r\n")[0])
                elif way == 1:
                    sock.sendall(b"nonsense\r\n\r\n")
                    expect("the status line", b"HTTP/1.1 400 Bad Request", sock.recv(4096).split(b"\r\n")[0])
                elif way == 2:
                    sock.sendall(whole[: draw.randrange(len(whole))])
                    reset_on_close(sock)
                outcomes["connection", RIGHT] += 1
        except Exception as problem:
            outcomes["connection", f"{type(problem).__name__}: {problem}"] += 1
    told.put(outcomes)


def at_once(target, addresses, amounts, seed=0):
    """Runs `target` in several processes; the sum of what they tell."""
    told = multiprocessing.Queue()
    workers = [
        multiprocessing.Process(target=target, args=(seed + n, addresses, amount, told), daemon=True)
        for n, amount in enumerate(amounts, 1)
    ]
    for worker in workers:
        worker.start()
    outcomes = sum((told.get() for _ in workers), collections.Counter())
    for worker in workers:
        worker.join()
    return outcomes


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hawkey", type=pathlib.Path, required=True, help="the binary")
    parser.add_argument("seconds", type=int, help="how long all kinds of traffic are mixed")
    parser.add_argument("connections", type=int, help="how many connections come and go then")
    tools = parser.parse_args()
    tools.modules, tools.hawkey = "", tools.hawkey.absolute()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    problems = []
    passed = 0
    with (stage := Stage(tools)).endings:
        scene = Scene(stage)
        addresses = (scene.address, scene.unix_address)
        held = scene.descriptors()

        def phase(name, run):
            """Runs it between two looks at the process; tells and judges the differences."""
            nonlocal passed
            memory, begin = scene.memory(), time.monotonic()
            outcomes = run()
            seconds = time.monotonic() - begin
            scene.rests_with(held)
            grown = scene.memory() - memory
            wrong = {what: n for what, n in outcomes.items() if what[1] != RIGHT}
            print(f"\n{name}, {seconds:.0f} s")
            for (kind, outcome), n in sorted(outcomes.items(), key=str):
                print(f"  {kind:16} {n:8}  {outcome}")
            print(f"  descriptors      {held} at the start, {scene.descriptors()} at the end")
            print(f"  RssAnon          {memory >> 10} KiB at the start, {(memory + grown) >> 10} KiB at the end", flush=True)
            verdicts = {
                "nothing was wrong": not wrong,
                "descriptors are back where they were": scene.descriptors() <= held,
                "memory is back where it was": grown <= GROWTH_BYTES_MAX,
            }
            passed += sum(verdicts.values())
            problems.extend(f"{name}: not so: {what}" for what, holds in verdicts.items() if not holds)

        mixed = lambda seconds, seed: at_once(mix, addresses, [time.monotonic() + seconds] * WORKERS, seed)
        # What grows once grows here.
        mixed(3, 100)
        scene.rests_with(held)
        if tools.seconds:
            phase("All kinds of traffic", lambda: mixed(tools.seconds, 0))
        if tools.connections:
            share = [tools.connections // WORKERS] * WORKERS
            phase(f"{tools.connections} connections that come and go", lambda: at_once(come_and_go, addresses, share))
        log = scene.hawkey.said("err")
        lost = sum(int(n) for n in re.findall(r"lost_lines=(\d+)", log))
        print(f"\nlog lines lost: {lost} of {len(log.splitlines()):,}")
        expect("log lines lost", 0, lost)
        passed += 1
    for problem in problems:
        print(f"FAILED  {problem}")
    print(f"{passed} passed, {len(problems)} failed", flush=True)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
