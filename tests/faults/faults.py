#!/usr/bin/env python3
"""Fails each system call that hawkey makes, with each errno that it can give, at several times, and tells what came of it.

A real hawkey runs under strace, which makes one call fail. Then must hold: no crash and no hang, no wrong byte, no descriptor
leaked, at most one client troubled, and the next one served. The last line is `N passed, N failed`.
"""

import argparse
import collections
import concurrent.futures
import dataclasses
import itertools
import os
import pathlib
import re
import signal
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "programs"))

from client import FAULT, LATE, RIGHT, Client
from origin import Origin
from stage import Failure, Stage, expect, free_port, wait_until

TIMES = (1, 2, 5)

# What a running hawkey may be told by each call (its manual page), and how many exchanges may suffer from it. An interrupted
# call and whatever concerns the log must trouble nobody; the other errnos end one exchange at most.
RUNNING = {
    "epoll_wait": {"EINTR": 0},
    "epoll_ctl": {"ENOMEM": 1, "ENOSPC": 1, "EPERM": 1},
    "accept4": {
        **dict.fromkeys(("EINTR", "EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "ECONNABORTED", "EPROTO"), 0),
        **dict.fromkeys(("ENETDOWN", "EHOSTUNREACH", "ENETUNREACH", "ENOPROTOOPT", "EOPNOTSUPP", "EPERM"), 0),
    },
    "recvfrom": {
        "EINTR": 0,
        **dict.fromkeys(("ECONNRESET", "ECONNREFUSED", "ENOTCONN", "ETIMEDOUT", "EHOSTUNREACH", "ENOMEM", "EIO"), 1),
        # The kernel says so only where nothing waits, and tells when something comes. Here something waits.
        "EAGAIN": 1,
    },
    "sendto": {
        "EINTR": 0,
        **dict.fromkeys(("ECONNRESET", "EPIPE", "ENOTCONN", "ETIMEDOUT", "EHOSTUNREACH", "ENOBUFS", "ENOMEM"), 1),
        "EAGAIN": 1,
    },
    "socket": dict.fromkeys(("EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EACCES", "EAFNOSUPPORT"), 1),
    "connect": {
        **dict.fromkeys(("ECONNREFUSED", "EADDRNOTAVAIL", "ENETUNREACH", "ETIMEDOUT", "EACCES", "EPERM", "ENOENT"), 1),
        **dict.fromkeys(("EAGAIN", "EINPROGRESS", "EINTR"), 1),
    },
    "setsockopt": dict.fromkeys(("ENOPROTOOPT", "EINVAL", "ENOMEM"), 1),
    "getsockopt": {"ENOBUFS": 1, "EINVAL": 1},
    "shutdown": {"ENOTCONN": 1},
    "close": {"EIO": 1, "EINTR": 1},
    "write": dict.fromkeys(("EAGAIN", "EINTR", "EIO", "ENOSPC", "EPIPE", "EDQUOT", "EFBIG"), 0),
    "mmap": {"ENOMEM": 0},
    "mremap": {"ENOMEM": 0},
    "munmap": {"ENOMEM": 0},
    "brk": {"ENOMEM": 0},
}

# At its start, hawkey either does without what failed or says why it cannot run. These it cannot do without.
STARTING = {
    "socket": ("EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EACCES"),
    "bind": ("EADDRINUSE", "EADDRNOTAVAIL", "EACCES"),
    "listen": ("EADDRINUSE",),
    "epoll_create1": ("EMFILE", "ENFILE", "ENOMEM"),
    "eventfd2": ("EMFILE", "ENFILE", "ENODEV", "ENOMEM"),
    "epoll_ctl": ("ENOMEM", "ENOSPC"),
    "socketpair": ("EMFILE", "ENFILE"),
    "getsockname": ("ENOBUFS",),
}
OPTIONAL = {
    "setsockopt": ("ENOPROTOOPT", "ENOMEM"),
    "prlimit64": ("EPERM",),
    "fcntl": ("EMFILE", "EINVAL"),
    "ioctl": ("ENOTTY",),
    "sendto": ("ENOTSOCK",),
    "fstat": ("ENOMEM",),
}
# What the manual pages know no errors for that could happen here.
NEVER_FAIL = {"rt_sigreturn", "exit_group", "sigaltstack", "fstat", "fcntl", "restart_syscall"}
# Between a signal and the end.
STOPPING = {
    "sendto": ("EAGAIN", "ENOBUFS", "ENOMEM"),
    "recvfrom": ("EAGAIN", "EINTR"),
    "epoll_wait": ("EINTR",),
    "accept4": ("EMFILE", "ECONNABORTED", "EINTR", "EPERM"),
    "close": ("EIO",),
    "write": ("EIO", "EAGAIN"),
    "unlink": ("ENOENT", "EACCES"),
}

CONFIGURATION = """
listen = ["127.0.0.1:0", "unix:{folder}/hawkey.sock"]
route = [
    {{ match = "/", to = "{tcp}" }},
    {{ match = "/unix", to = "{unix}" }},
    {{ match = "/refused", to = "127.0.0.1:{refused}" }},
]
[timeouts]
head = "2s"
keep_alive = "3s"
connect = "2s"
upgrade = "2s"
response = "2s"
idle = "2s"
tunnel = "2s"
linger = "1s"
drain = "2s"
"""


class Scene:
    """A hawkey under strace between its upstreams. `injected` is strace's `-e inject`, or `None`."""

    def __init__(self, stage, binary, injected=None, traced="all", small_buffers=False):
        self.stage = stage
        self.trace = stage.folder / "trace"
        self.origins = (Origin(small_buffers=small_buffers), Origin(stage.folder / "origin.sock", small_buffers))
        for origin in self.origins:
            stage.endings.callback(origin.close)
        configuration = stage.folder / "hawkey.toml"
        tcp, unix = (origin.address for origin in self.origins)
        configuration.write_text(CONFIGURATION.format(folder=stage.folder, tcp=tcp, unix=unix, refused=free_port()))
        strace = ["strace", "-D", "-f", "-qq", "-e", "signal=none", "-o", self.trace, "-e", f"trace={traced}"]
        if injected:
            strace += ["-e", f"inject={injected}"]
        self.hawkey = stage.start("hawkey", [*strace, binary, "-c", configuration])

    def listens(self):
        """Waits until hawkey listens."""
        self.address = self.hawkey.says(r"\blistening=(127\.0\.0\.1:\d+)", "err").group(1)
        self.hawkey.says(r"\blistening=unix:", "err")
        self.unix_address = f"unix:{self.stage.folder}/hawkey.sock"
        self.descriptors_at_start = self.descriptors()

    def rests(self):
        """Waits until hawkey has served a client and nothing is left to do."""
        self.listens()
        self.settles()
        time.sleep(0.05)

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.hawkey.process.pid}/fd"))

    def calls(self):
        """How many calls of each name the trace tells of."""
        return collections.Counter(re.findall(r"^\d+ +(\w+)\(", self.trace.read_text(), re.MULTILINE))

    def was_injected(self):
        return "(INJECTED" in self.trace.read_text()

    def traffic(self, large=1 << 20, small_buffers=False):
        """One exchange of each kind; yields the name of each and its outcome."""
        kept = Client(self.address, small_buffers=small_buffers)
        yield "GET", kept.get("/bytes/3000", 3000)
        yield "GET again", kept.get("/bytes/3001", 3001)
        yield "HEAD", kept.get("/bytes/77", 77, "HEAD")
        yield "POST with a length", kept.post(os.urandom(200_000))
        yield "POST in chunks", kept.post(os.urandom(200_000), chunked=True)
        yield "chunked answer", kept.get("/chunked/100000", 100_000)
        yield "large answer, read slowly", kept.get(f"/bytes/{large}", large, pause=0.005)
        refused = kept.get("/refused", 0)
        yield "refused upstream", RIGHT if refused == FAULT else refused
        kept.close()
        local = Client(self.unix_address, small_buffers=small_buffers)
        yield "GET over Unix sockets", local.get("/unix/bytes/5000", 5000)
        local.close()
        yield "pipeline", kept.pipeline([f"/bytes/10?{n}" for n in range(5)], 10)
        yield "tunnel", kept.tunnel(os.urandom(large // 2))
        yield "tunnel over Unix sockets", local.tunnel(os.urandom(100_000))
        yield "client that leaves", kept.leave_early(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n\r\nabc")
        yield "client that resets", kept.leave_early(b"GET /bytes/1000000 HTTP/1.1\r\nHost: a\r\n\r\n", by_reset=True)

    def settles(self, leaked=0):
        """The next client is served, and then every descriptor is given back. A close that strace made fail was none at all."""
        client = Client(self.address)
        expect("the next client's GET", RIGHT, client.get("/bytes/12345", 12345))
        client.close()
        for origin in self.origins:
            origin.end_connections()
        most = self.descriptors_at_start + leaked
        wait_until(
            f"hawkey holds no more than {most} descriptors again", lambda: self.descriptors() <= most, seconds=8
        )

    def stops(self):
        """SIGTERM ends hawkey with 0, and it has never panicked."""
        os.kill(self.hawkey.process.pid, signal.SIGTERM)
        wait_until("hawkey ends as asked", self.hawkey.ended, seconds=8)
        self.ended_well(0)

    def ended_well(self, *codes):
        code, said = self.hawkey.end(), self.hawkey.said("err")
        if code not in codes or "panicked" in said:
            raise Failure(f"hawkey ended with {code}: {said[-800:]}")
        return code


class NotReached(Exception):
    """The call did not happen that often."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One fault: the phase, the call that fails and its errno, and which of the phase's calls of that name it is."""

    phase: str
    call: str
    errno: str
    time: int


def injection(case, before):
    """The case in strace's words; `before` is how many calls of each name came before its phase."""
    # brk(2) has no errno of its own: the kernel answers another address than was asked for.
    result = "retval=0" if case.call == "brk" else f"error={case.errno}"
    return f"{case.call}:{result}:when={before[case.call] + case.time}"


def running(stage, binary, case, before):
    """A call fails while all kinds of traffic go on."""
    scene = Scene(stage, binary, injection(case, before), case.call)
    scene.listens()
    troubled = []
    for name, outcome in scene.traffic():
        if outcome == LATE and not is_silent(case):
            raise Failure(f"{name}: no answer")
        if outcome != RIGHT:
            troubled.append(f"{name}: {outcome}")
    if not scene.was_injected():
        raise NotReached
    if len(troubled) > RUNNING[case.call][case.errno]:
        raise Failure(f"more was troubled than may be: {', '.join(troubled)}")
    scene.settles(leaked=case.call == "close")
    scene.stops()


def is_silent(case):
    """Whether the call is left undone by strace where the kernel would have done it, or would have told more later."""
    return case.call in ("close", "shutdown") or case.errno == "EAGAIN"


def starting(stage, binary, case, before):
    """A call fails before hawkey listens: it does without, or says in one sentence why it cannot run."""
    scene = Scene(stage, binary, injection(case, before), case.call)
    said_or_ended = lambda: scene.hawkey.ended() or "listening=unix:" in scene.hawkey.said("err")
    wait_until("hawkey listens or ends", said_or_ended, seconds=8)
    time.sleep(0.05)
    if not scene.hawkey.ended():
        if not scene.was_injected():
            raise NotReached
        if case.errno in STARTING.get(case.call, ()):
            raise Failure("hawkey runs without what it cannot do without")
        scene.listens()
        for name, outcome in scene.traffic(large=100_000):
            expect(name, RIGHT, outcome)
        scene.settles()
        return scene.stops()
    scene.ended_well(1)
    said = [line for line in scene.hawkey.said("err").splitlines() if not line.startswith("time=")]
    if len(said) != 1 or not re.fullmatch(r"hawkey: [a-z].{15,200}", said[0]):
        raise Failure(f"one clear sentence was expected, not {said}")


def stopping(stage, binary, case, before):
    """A call fails between the signal and the end."""
    scene = Scene(stage, binary, injection(case, before), case.call)
    scene.rests()
    scene.stops()
    if not scene.was_injected():
        raise NotReached


PHASES = {"starting": starting, "running": running, "stopping": stopping}


def cases():
    """Every case there is."""
    for phase, table in (("starting", STARTING | OPTIONAL), ("running", RUNNING), ("stopping", STOPPING)):
        times = range(1, 7) if phase == "starting" else TIMES
        for call, errnos in table.items():
            for errno, n in itertools.product(errnos, times):
                yield Case(phase, call, errno, n)


def small_buffers(stage, binary):
    """Short reads and writes everywhere, because both ends have very small buffers. Nothing may be troubled."""
    scene = Scene(stage, binary, traced="sendto,recvfrom", small_buffers=True)
    scene.listens()
    for name, outcome in scene.traffic(large=8 << 20, small_buffers=True):
        expect(name, RIGHT, outcome)
    scene.settles()
    scene.stops()
    writes = re.findall(r"sendto\(.*, (\d+), \w+, NULL, 0\) = (\d+)$", scene.trace.read_text(), re.MULTILINE)
    short = sum(int(written) < int(asked) for asked, written in writes)
    if not short:
        raise Failure(f"none of {len(writes)} writes was short")


def rehearsal(binary, tools):
    """How many calls of each name hawkey makes before each phase, and which it makes as it runs and stops."""
    with (stage := Stage(tools)).endings:
        scene = Scene(stage, binary)
        scene.rests()
        rested = scene.calls()
        scene.stops()
    with (stage := Stage(tools)).endings:
        scene = Scene(stage, binary)
        scene.listens()
        wait_until("hawkey sleeps", lambda: "epoll_wait(" in scene.trace.read_text())
        time.sleep(0.1)
        listening = scene.calls()
        for name, outcome in scene.traffic():
            expect(f"{name}, when nothing fails", RIGHT, outcome)
        scene.settles()
        scene.stops()
        return {"starting": collections.Counter(), "running": listening, "stopping": rested}, scene.calls() - listening


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hawkey", type=pathlib.Path, required=True, help="the binary")
    parser.add_argument("case", nargs="*", help="only these, such as recvfrom or running/recvfrom/EINTR/1")
    tools = parser.parse_args()
    tools.modules = ""
    binary = tools.hawkey.absolute()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    before, during = rehearsal(binary, tools)
    print("A running hawkey calls", ", ".join(f"{name} ({n})" for name, n in during.most_common()), flush=True)
    unknown = set(during) - set(RUNNING) - set(STOPPING) - NEVER_FAIL
    results = {}
    if unknown:
        results["every call is in the tables"] = Failure(f"not in any table: {sorted(unknown)}")

    def play(case):
        stage = Stage(tools)
        with stage.endings:
            if case == "small buffers":
                return small_buffers(stage, binary)
            return PHASES[case.phase](stage, binary, case, before[case.phase])

    chosen = [case for case in ["small buffers", *cases()] if is_chosen(case, tools.case)]
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count() + 1) as workers:
        futures = {workers.submit(play, case): case for case in chosen}
        for future in concurrent.futures.as_completed(futures):
            results[futures[future]] = future.exception()
    return tell(results)


def name_of(case):
    """`PHASE/CALL/ERRNO/TIME`."""
    return case if isinstance(case, str) else "/".join(map(str, dataclasses.astuple(case)))


def is_chosen(case, wanted):
    """Whether the case is one of those that were asked for."""
    return not wanted or any(f"/{part}/" in f"/{name_of(case)}/" for part in wanted)


def tell(results):
    """Prints what failed, the table, and the count; the exit code."""
    failed = {case: problem for case, problem in results.items() if problem and not isinstance(problem, NotReached)}
    for case, problem in failed.items():
        print(f"FAILED  {name_of(case)}: {type(problem).__name__}: {problem}")
    rows = collections.defaultdict(lambda: collections.defaultdict(dict))
    for case in results:
        if isinstance(case, Case):
            mark = "FAILED" if case in failed else "-" if results[case] else "ok"
            rows[case.phase, case.call][case.errno][case.time] = mark
    for (phase, call), errnos in sorted(rows.items()):
        print(f"\n{call}, {phase}")
        for errno, times in errnos.items():
            print(f"  {errno:16}", *(f"{n}: {mark:7}" for n, mark in sorted(times.items())))
    passed = sum(problem is None for problem in results.values())
    unreached = len(results) - passed - len(failed)
    print(f"\nNumbers say which call of that name failed; - means that there were not so many ({unreached} times).")
    print(f"{passed} passed, {len(failed)} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
