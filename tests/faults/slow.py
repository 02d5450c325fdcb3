#!/usr/bin/env python3
"""Thousands of slow clients (slowhttptest), then more clients than descriptors, while good clients are served.

Told are the good client's times in quiet and beside the others, and hawkey's memory. The last line is `N passed, N failed`.
"""

import argparse
import contextlib
import os
import pathlib
import re
import resource
import signal
import statistics
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "programs"))

from client import RIGHT, Client, Watch
from soak import Scene, origins_elsewhere
from stage import Failure, Stage, end_well, wait_until

SLOW_CLIENTS = 2000
# So many of them at once tell enough.
ENOUGH_CLIENTS = 1000
HEAD_SECONDS, IDLE_SECONDS = 8, 8
# What the origin works in much more than a second when nobody asks it for anything.
ORIGIN_TICKS = 20
# How many seconds the slow clients take to come, all at the rate that slowhttptest is told.
COMING_SECONDS = 4
# How long it may take from their time's end until all are shed: they came, or moved something, one after the other.
SHEDDING_SECONDS = 6
# How long readers may go on to take too little for the origin's ticks to tell of it, on a busy machine.
TRICKLING_SECONDS = 6
# How late a slow client may be shed, on a machine that is busy with all of this.
LATE_MS_MAX = 300
# The good client may wait so many times as long as in quiet, or as without hawkey at the same time, or so long at all.
P99_RATIO_MAX, P99_MS_MAX = 10, 20
# The slow clients and their upstream stand back behind hawkey and the good client, which are to wait for each other and not for a core.
NICENESS = 10

CONFIGURATION = """
listen = ["127.0.0.1:0"]
route = [
    {{ match = "/", to = "{tcp}" }},
    {{ match = "/good", to = "{good}" }},
]
[timeouts]
head = "%ds"
idle = "%ds"
""" % (HEAD_SECONDS, IDLE_SECONDS)

FULL = """
listen = ["127.0.0.1:0"]
route = [ {{ match = "/", to = "{tcp}" }} ]
[timeouts]
head = "60s"
[limits]
connections = {connections}
"""

# How slowhttptest is slow, how many seconds hawkey may let it be, and how many KiB of hawkey's memory each may take.
SLOW = {
    "heads": (["-H", "-i", "1"], "/bytes/1", HEAD_SECONDS, 2),
    "bodies": (["-B", "-i", "30", "-s", "8192", "-t", "POST"], "/echo", IDLE_SECONDS, 2),
    "readers": (["-X", "-n", "30", "-w", "512", "-y", "1024", "-z", "32"], "/bytes/3000000", IDLE_SECONDS, 128),
}


class Verdicts:
    """What held and what did not."""

    def __init__(self):
        self.passed = self.failed = 0

    def expect(self, what, holds):
        print(f"  {'ok    ' if holds else 'FAILED'}  {what}", flush=True)
        self.passed += bool(holds)
        self.failed += not holds


def times_of_a_good_client(address, origin, until):
    """The milliseconds that its GETs took until then, one after another: those through hawkey, and those that went to the
    origin directly, which tell how busy the machine is. Every answer was right."""
    clients = (Client(address), Client(origin))
    took = ([], [])
    while not until():
        for client, times in zip(clients, took):
            begin = time.monotonic()
            if (outcome := client.get("/good/bytes/1000", 1000)) != RIGHT:
                raise Failure(f"the good client's answer: {outcome}")
            times.append((time.monotonic() - begin) * 1000)
            time.sleep(0.002)
    for client in clients:
        client.close()
    return took


def tell_times(what, took):
    """Prints the median and the 99th percentile, with those of the direct way; the two 99th percentiles."""
    p50s, p99s = zip(*((statistics.median(times), statistics.quantiles(times, n=100)[98]) for times in took))
    print(f"  {what:20} p50 {p50s[0]:5.2f} ms, p99 {p99s[0]:6.2f} ms; without hawkey {p50s[1]:5.2f} and {p99s[1]:6.2f} ms")
    return p99s


def slow(name, stage, verdicts):
    """2,000 slow clients beside a good one."""
    options, target, seconds, kib = SLOW[name]
    _, (good, _), _ = origins_elsewhere(stage, stage.folder / "good.sock")
    scene = Scene(stage, CONFIGURATION.replace("{good}", good), NICENESS)
    quiet_end = time.monotonic() + 2
    quiet = times_of_a_good_client(scene.address, good, lambda: time.monotonic() > quiet_end)
    held, memory = scene.descriptors(), scene.memory()
    test = stage.start(
        "slowhttptest",
        ["nice", "-n", NICENESS, "slowhttptest", *options, "-c", SLOW_CLIENTS, "-r", SLOW_CLIENTS // COMING_SECONDS, "-l", 300, "-v", "1",
         "-u", f"http://{scene.address}{target}"],
    )
    most, highest, came_by, moved_by, shed_by = held, memory, 0, 0, None
    patience = seconds + SHEDDING_SECONDS + (TRICKLING_SECONDS if name == "readers" else 0)
    begin, origin_worked = time.monotonic(), ticks_of(scene.origin_pid)

    def over():
        nonlocal most, highest, came_by, moved_by, shed_by, origin_worked
        now, memory, passed = scene.descriptors(), scene.memory(), time.monotonic() - begin
        if now > most:
            most, came_by = now, passed
        # What readers are sent until their buffers are full is the origin's work, which takes a busy machine long.
        if (ticks := ticks_of(scene.origin_pid)) > origin_worked + ORIGIN_TICKS:
            origin_worked, moved_by = ticks, passed
        highest = max(highest, memory)
        if shed_by is None and most > ENOUGH_CLIENTS and now < held + 20:
            shed_by = passed
        return shed_by or test.ended() or passed > max(came_by, moved_by, COMING_SECONDS) + patience

    worked = -scene.processor_seconds()
    during = times_of_a_good_client(scene.address, good, over)
    worked += scene.processor_seconds()
    # The longest that the good client waited without hawkey: so late the machine makes anybody.
    max_direct = max(during[1])
    test.end()
    p99_quiet, (p99, p99_direct) = tell_times("in quiet", quiet)[0], tell_times(f"beside slow {name}", during)
    scene.rests_with(held)
    print(f"  hawkey worked for {worked:.2f} of {time.monotonic() - begin:.1f} s")
    print(f"  RssAnon: {memory >> 10} KiB before, {highest >> 10} KiB at most, {scene.memory() >> 10} KiB afterwards")
    # On a slow machine the first ones are shed before the last ones come.
    there = SLOW_CLIENTS if came_by < seconds else ENOUGH_CLIENTS
    verdicts.expect(f"{there} were there: {most} descriptors at most, after {came_by:.1f} s", most >= there)
    verdicts.expect(f"all were shed {shed_by or -1:.1f} s after the first came, each after {seconds} s", shed_by)
    if name != "readers":
        late = late_by(scene.hawkey.said("err"), seconds)
        late_max = LATE_MS_MAX + 3 * max_direct
        verdicts.expect(f"{len(late)} of them told as late, the last {max(late, default=0)} ms too late, at most {late_max:.0f}",
                        len(late) > SLOW_CLIENTS * 0.9 and max(late) <= late_max)
    p99_max = max(P99_RATIO_MAX * max(p99_quiet, p99_direct), P99_MS_MAX)
    verdicts.expect("the good client was served as before", p99 <= p99_max)
    each = (highest - memory) / min(most, SLOW_CLIENTS) / 1024
    verdicts.expect(f"{each:.1f} KiB each at most", each <= kib)


def ticks_of(pid):
    """The hundredths of a second that all threads of a process have worked."""
    return sum(map(int, pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))


def late_by(log, seconds):
    """How many milliseconds after its time was over each slow client was shed. None can be shed before."""
    return [int(ms) - seconds * 1000 for ms in re.findall(r' ms=(\d+) end=\w+ by=\w+ why="[^"]* in time"', log)]


def full(connections, stage, verdicts):
    """1,000 clients where 256 descriptors are. With 1,000 connections allowed, accept fails; else it is not even called."""
    origins, (tcp, _), _ = origins_elsewhere(stage, stage.folder / "origin.sock")
    configuration = stage.folder / "full.toml"
    configuration.write_text(FULL.format(tcp=tcp, connections=connections))
    program = stage.start("hawkey", ["prlimit", "--nofile=256:256", stage.tools.hawkey, "--control", "off", "-c", configuration])
    address = program.says(r"\blistening=(127\.0\.0\.1:\d+)", "err").group(1)
    stage.endings.callback(end_well, program)
    process = pathlib.Path(f"/proc/{program.process.pid}")
    descriptors = lambda: len(os.listdir(process / "fd"))
    processor_seconds = lambda: int((process / "schedstat").read_text().split()[0]) / 1e9
    held = descriptors()

    established = [Client(address) for _ in range(20)]
    served = lambda: [client.get("/bytes/500", 500) for client in established] == [RIGHT] * len(established)
    verdicts.expect("20 established clients are served", served())
    with contextlib.ExitStack() as crowd:
        for _ in range(1000):
            crowd.enter_context(Client(address).connect())
        wait_until("hawkey is full", lambda: descriptors() > min(250, held + connections - 5))
        begin, used = time.monotonic(), processor_seconds()
        time.sleep(3)
        share = (processor_seconds() - used) / (time.monotonic() - begin)
        verdicts.expect(f"full, with nothing to do, it takes {share:.2%} of a core", share < 0.05)
        verdicts.expect("the established clients are served while it is full", served())
        waiting = Client(address).connect()
        waiting.sendall(b"GET /bytes/9 HTTP/1.1\r\nHost: a\r\n\r\n")
    watch = Watch()
    answer = waiting.recv(4096)
    took, late = (1000 * seconds for seconds in watch.stop())
    waiting.close()
    verdicts.expect("who waited behind all others is served", answer.startswith(b"HTTP/1.1 200 OK\r\n"))
    verdicts.expect(f"{took:.0f} ms after descriptors came free, at most 100, and {late:.0f} that a busy machine may have cost", took <= 100 + late)
    verdicts.expect("the established clients are served afterwards", served())
    for client in established:
        client.close()

    def rests():
        origins.send("end connections")
        origins.recv()
        return descriptors() <= held

    wait_until(f"hawkey holds {held} descriptors again", rests)
    verdicts.expect("every descriptor is given back", True)


def main():
    parts = [*SLOW, "descriptors"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hawkey", type=pathlib.Path, required=True, help="the binary")
    parser.add_argument("part", nargs="*", help=f"only these of {', '.join(parts)}")
    tools = parser.parse_args()
    tools.modules, tools.hawkey = "", tools.hawkey.absolute()
    if unknown := set(tools.part) - set(parts):
        parser.error(f"there is no part {', '.join(unknown)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    verdicts = Verdicts()
    for part in tools.part or parts:
        if part != "descriptors":
            play(f"{SLOW_CLIENTS} slow {part}", lambda stage: slow(part, stage, verdicts), tools, verdicts)
            continue
        for connections in (112, 1000):
            what = f"1000 clients, 256 descriptors, {connections} connections allowed"
            play(what, lambda stage: full(connections, stage, verdicts), tools, verdicts)
    print(f"\n{verdicts.passed} passed, {verdicts.failed} failed", flush=True)
    return 1 if verdicts.failed else 0


def play(what, part, tools, verdicts):
    """Plays a part on a stage of its own."""
    print(f"\n{what}", flush=True)
    stage = Stage(tools)
    try:
        with stage.endings:
            part(stage)
    except Failure as failure:
        verdicts.expect(f"{failure}", False)


if __name__ == "__main__":
    sys.exit(main())
