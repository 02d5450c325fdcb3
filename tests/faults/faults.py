#!/usr/bin/env python3
"""Fails each system call that hawkey makes, with each errno that it can give, at several times, and tells what came of it.

A real hawkey runs under strace, which makes one call fail. Then must hold: no crash and no hang, no wrong byte, no descriptor
leaked, at most one client troubled, and the next one served. Beside that, every read and write is made short, and the clock that
hawkey sees is set forward and back. The last line is `N passed, N failed`.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import ctypes
import dataclasses
import datetime
import itertools
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "programs"))

from client import FAULT, LATE, RIGHT, Client, Watch, read_head
from origin import Origin
from stage import Failure, Stage, expect, free_port, wait_until

# Errnos are those of each call's manual page, and of tcp(7), ip(7) and unix(7) for sockets, without those that only a wrong call
# gets (EBADF, EFAULT, EINVAL, ENOTSOCK and their like): a wrong call is a bug, and no fault of the system.

# What the network between two sockets may report to each call that uses one.
NETWORK = ("ECONNREFUSED", "ECONNRESET", "EHOSTUNREACH", "ENETUNREACH", "ENETDOWN", "EPROTO", "ETIMEDOUT")

# What a running hawkey may be told by each call, and how many exchanges may suffer from it. An interrupted call and whatever
# concerns the log must trouble nobody; the other errnos end one exchange at most.
RUNNING = {
    "epoll_wait": {"EINTR": 0},
    "epoll_ctl": dict.fromkeys(("ENOMEM", "ENOSPC", "EPERM"), 1),
    "accept4": {
        **dict.fromkeys(("EINTR", "EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "ECONNABORTED", "EPROTO", "EPERM"), 0),
        **dict.fromkeys(("ENETDOWN", "EHOSTDOWN", "ENONET", "EHOSTUNREACH", "ENETUNREACH", "ENOPROTOOPT"), 0),
        **dict.fromkeys(("EOPNOTSUPP", "ENOSR", "ESOCKTNOSUPPORT", "EPROTONOSUPPORT", "ETIMEDOUT"), 0),
        # The kernel says so only where nobody waits. Here somebody does, and is told of with the next one.
        "EAGAIN": 1,
    },
    "recvfrom": {
        "EINTR": 0,
        **dict.fromkeys((*NETWORK, "ENOTCONN", "EPIPE", "ENOMEM", "EIO"), 1),
        # The kernel says so only where nothing waits, and tells when something comes. Here something waits.
        "EAGAIN": 1,
    },
    "sendto": {
        "EINTR": 0,
        **dict.fromkeys((*NETWORK, "EPIPE", "ENOTCONN", "ENOBUFS", "ENOMEM", "EACCES", "EPERM", "EMSGSIZE"), 1),
        "EAGAIN": 1,
    },
    "socket": dict.fromkeys(("EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EACCES", "EAFNOSUPPORT", "EPROTONOSUPPORT"), 1),
    "connect": {
        **dict.fromkeys((*NETWORK, "EADDRINUSE", "EADDRNOTAVAIL", "EACCES", "EPERM", "ENOBUFS", "ENOMEM"), 1),
        **dict.fromkeys(("ENOENT", "ENOTDIR", "ELOOP", "EPROTOTYPE", "EAGAIN", "EALREADY", "EINPROGRESS", "EINTR"), 1),
    },
    "setsockopt": dict.fromkeys(("ENOPROTOOPT", "EINVAL", "ENOMEM", "ENOBUFS"), 1),
    "getsockopt": dict.fromkeys(("ENOPROTOOPT", "ENOBUFS", "ENOMEM"), 1),
    "shutdown": dict.fromkeys(("ENOTCONN", "ENOBUFS"), 1),
    "close": dict.fromkeys(("EIO", "EINTR", "ENOSPC", "EDQUOT"), 1),
    "write": dict.fromkeys(("EAGAIN", "EINTR", "EIO", "ENOSPC", "EPIPE", "EDQUOT", "EFBIG", "EPERM", "EBADF"), 0),
    "brk": {"ENOMEM": 0},
    # Of what saturates a session.
    "splice": {
        "EINTR": 0,
        **dict.fromkeys((*NETWORK, "EPIPE", "ENOTCONN", "ENOBUFS", "ENOMEM", "EINVAL", "ESPIPE"), 1),
        "EAGAIN": 1,
    },
    # A reload: what cannot be read leaves all as it was. What could not leave a pipe is read too.
    "openat": dict.fromkeys(("EACCES", "EINTR", "EIO", "EISDIR", "ELOOP", "EMFILE", "ENFILE", "ENOENT", "ENOMEM", "ENOTDIR"), 0),
    "statx": dict.fromkeys(("EACCES", "ENOENT", "ENOMEM"), 0),
    "read": {"EINTR": 0, **dict.fromkeys(("EIO", "EAGAIN", "EISDIR"), 1)},
}
# At its start, hawkey either does without what failed or says in one sentence why it cannot run.
STARTING = {
    "openat": ("EACCES", "EINTR", "EIO", "EISDIR", "ELOOP", "EMFILE", "ENAMETOOLONG", "ENFILE", "ENOENT", "ENOMEM", "ENOTDIR"),
    "statx": ("EACCES", "ENOENT", "ENOMEM"),
    "read": ("EAGAIN", "EINTR", "EIO", "EISDIR"),
    "socket": ("EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EACCES", "EAFNOSUPPORT", "EPROTONOSUPPORT"),
    "setsockopt": ("ENOPROTOOPT", "ENOMEM", "ENOBUFS"),
    "bind": ("EADDRINUSE", "EADDRNOTAVAIL", "EACCES", "ELOOP", "ENAMETOOLONG", "ENOENT", "ENOMEM", "ENOTDIR", "EROFS"),
    "listen": ("EADDRINUSE", "EOPNOTSUPP"),
    # The mode of the control socket.
    "fchmod": ("EACCES", "EIO", "ELOOP", "ENOMEM", "EPERM", "EROFS"),
    "getsockname": ("ENOBUFS",),
    # Whether anybody listens behind a Unix socket's file.
    "connect": ("EACCES", "EAGAIN", "ECONNREFUSED", "EINTR", "ENOENT", "ENOMEM", "EPERM", "EPROTOTYPE"),
    "unlink": ("EACCES", "EBUSY", "EIO", "EISDIR", "ELOOP", "ENOENT", "ENOMEM", "ENOTDIR", "EPERM", "EROFS"),
    "epoll_create1": ("EMFILE", "ENFILE", "ENOMEM"),
    "eventfd2": ("EMFILE", "ENFILE", "ENODEV", "ENOMEM"),
    "timerfd_create": ("EMFILE", "ENFILE", "ENODEV", "ENOMEM"),
    "epoll_ctl": ("ENOMEM", "ENOSPC", "EPERM"),
    "socketpair": ("EAFNOSUPPORT", "EMFILE", "ENFILE", "ENOMEM", "EOPNOTSUPP"),
    "ioctl": ("ENOTTY",),
    "fcntl": ("EMFILE", "EINVAL", "EPERM", "EBUSY", "ENOMEM"),
    "pipe2": ("EMFILE", "ENFILE", "ENOMEM"),
    "sendto": ("ENOTSOCK", "ENOBUFS"),
    "close": ("EIO", "EINTR"),
    "prlimit64": ("EPERM",),
    "mmap": ("ENOMEM", "EAGAIN"),
    "fstat": ("ENOMEM", "EOVERFLOW"),
    "write": ("EAGAIN", "EINTR"),
    "epoll_wait": ("EINTR",),
}
# Between a signal and the end.
STOPPING = {
    "sendto": ("EAGAIN", "EINTR", "ENOBUFS", "ENOMEM", "EPIPE", "ECONNRESET"),
    "recvfrom": ("EAGAIN", "EINTR", "ENOMEM", "ECONNRESET"),
    "epoll_wait": ("EINTR",),
    "accept4": ("EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "ECONNABORTED", "EINTR", "EPERM"),
    "close": ("EIO", "EINTR"),
    "write": ("EIO", "EAGAIN", "ENOSPC", "EPIPE"),
    "unlink": ("ENOENT", "EACCES", "EBUSY", "EIO", "EPERM", "EROFS"),
    "munmap": ("ENOMEM",),
}
# Where the log goes, if not to a file, and what else hawkey may be told then. Nobody may be troubled.
LOG = {
    "socket": {
        "ppoll": ("EINTR", "ENOMEM"),
        "write": ("EAGAIN", "EINTR", "EPIPE", "ECONNRESET", "ENOBUFS", "ENOMEM"),
    },
    "pipe": {
        "open": ("EACCES", "EINTR", "ELOOP", "EMFILE", "ENFILE", "ENOENT", "ENOMEM", "ENXIO", "EPERM"),
        "write": ("EAGAIN", "EINTR", "EPIPE"),
    },
    # A pipe that is full: lines wait, in memory that grows.
    "unread": {
        "write": ("EAGAIN", "EINTR"),
        "mmap": ("ENOMEM", "EAGAIN"),
        "mremap": ("ENOMEM", "EAGAIN"),
        "munmap": ("ENOMEM",),
        "brk": ("ENOMEM",),
    },
}
# After a write with one of these a line may come late; after others it may be lost.
LATE_LINES = ("EAGAIN", "EINTR")
# What the manual pages know no errors for that could happen here.
NEVER_FAIL = {"getpid", "rt_sigaction", "rt_sigreturn", "exit_group", "sigaltstack", "restart_syscall", "timerfd_settime"}

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
    """A hawkey under strace between its upstreams. `injected` is strace's `-e inject`, or `None`; without anything `traced` there is
    no strace either. The file of its Unix socket was left by a process that had no time to remove it."""

    def __init__(self, stage, binary, injected=None, traced="all", small_buffers=False, log_to=None, **environment):
        self.stage = stage
        self.trace = stage.folder / "trace"
        self.origins = (Origin(small_buffers=small_buffers), Origin(stage.folder / "origin.sock", small_buffers))
        for origin in self.origins:
            stage.endings.callback(origin.close)
        configuration = stage.folder / "hawkey.toml"
        tcp, unix = (origin.address for origin in self.origins)
        configuration.write_text(CONFIGURATION.format(folder=stage.folder, tcp=tcp, unix=unix, refused=free_port()))
        with socket.socket(socket.AF_UNIX) as left_over:
            left_over.bind(f"{stage.folder}/hawkey.sock")
        strace = ["strace", "-D", *self.tracing(traced, injected)] if traced else []
        self.hawkey = stage.start("hawkey", [*strace, binary, "--control", f"{stage.folder}/control.sock", "-c", configuration], log_to, **environment)

    def tracing(self, traced, injected=None):
        """The options of an strace of these calls."""
        injecting = ["-e", f"inject={injected}"] if injected else []
        return ["-f", "-qq", "-e", "signal=none", "-o", self.trace, "-e", f"trace={traced}", *injecting]

    def listens(self):
        """Waits until hawkey listens."""
        self.address = self.hawkey.says(r"\blistening=(127\.0\.0\.1:\d+)", "err").group(1)
        self.hawkey.says(r"\blistening=unix:", "err")
        self.unix_address = f"unix:{self.stage.folder}/hawkey.sock"
        self.descriptors_at_start = self.descriptors()

    def rests(self):
        """Waits until nothing is left to do but an exchange whose upstream holds its answer; who releases it and tells the outcome."""
        self.listens()
        self.settles()
        outcomes = []
        thread = threading.Thread(target=lambda: outcomes.append(Client(self.address).get("/held/0", 0)))
        thread.start()
        wait_until("the exchange has come to its upstream", self.origins[0].server.holds.is_set)

        def release():
            self.origins[0].server.released.set()
            thread.join()
            return outcomes[0]

        return release

    def attach(self, traced, injected=None):
        """Has an strace look from now on at a hawkey that rests: whatever was called until then differs from run to run."""
        self.stage.start("strace", ["strace", *self.tracing(f"{traced},epoll_wait,rt_sigreturn", injected), "-p", self.hawkey.process.pid])
        wait_until("hawkey sleeps under strace", lambda: self.sleeps_after(""))

    def sleeps_after(self, call):
        """Whether the last call that was traced, behind this one, is one that waits."""
        return self.trace.exists() and re.search(rf"(?s){call}.*epoll_wait\([^\n]*\Z", self.trace.read_text())

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.hawkey.process.pid}/fd"))

    def calls(self, until=None):
        """How many calls of each name the trace tells of, until a line matches."""
        trace = self.trace.read_text()
        if until:
            trace = trace[: re.search(until, trace, re.MULTILINE).start()]
        return collections.Counter(re.findall(r"^\d+ +(\w+)\(", trace, re.MULTILINE))

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
        os.kill(self.hawkey.process.pid, signal.SIGHUP)
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
        stalled = Client(self.address, small_buffers=True)
        yield "reset behind a stalled reader", stalled.stall(lambda: self.origins[0].end_connections(by_reset=True))
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

    def stops(self, release=None):
        """SIGTERM ends hawkey with 0, and it has never panicked. What is under way is released once hawkey waits for that alone;
        its outcome."""
        os.kill(self.hawkey.process.pid, signal.SIGTERM)
        if release:
            wait_until("hawkey waits for what is under way", lambda: self.sleeps_after("rt_sigreturn"))
        outcome = release() if release else None
        wait_until("hawkey ends as asked", self.hawkey.ended, seconds=8)
        self.ended_well(0)
        return outcome

    def ended_well(self, *codes):
        code, said = self.hawkey.end(), self.hawkey.said("err")
        if code not in codes or "panicked" in said:
            raise Failure(f"hawkey ended with {code}: {said[-800:]}")
        return code


class NotReached(Exception):
    """The call did not happen that often."""


class Journal:
    """Reads a log from a socket or a pipe into the file where its stage looks for it, unless it is told to pause."""

    def __init__(self, stage, kind):
        self.ours, self.theirs = (end.detach() for end in socket.socketpair()) if kind == "socket" else os.pipe()
        self.reads = threading.Event()
        self.reads.set()
        stage.endings.callback(self.reads.set)

    def of(self, program):
        """Begins to read: it is this program's log, to which `theirs` has been given."""
        os.close(self.theirs)
        threading.Thread(target=self.read, args=(program,), daemon=True).start()

    def read(self, program):
        with os.fdopen(self.ours, "rb", buffering=0) as ours, program.err.open("ab", buffering=0) as file:
            while self.reads.wait() and (data := ours.read(1 << 16)):
                file.write(data)


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
        scene.listens()
        for name, outcome in scene.traffic(large=100_000):
            expect(name, RIGHT, outcome)
        scene.settles()
        return scene.stops()
    # A configuration that cannot be read is wrong usage.
    scene.ended_well(2 if case.call in ("openat", "read") else 1)
    said = [line for line in scene.hawkey.said("err").splitlines() if not line.startswith("time=")]
    if len(said) != 1 or not re.fullmatch(r"hawkey: [a-z].{15,250}", said[0]):
        raise Failure(f"one clear sentence was expected, not {said}")


def stopping(stage, binary, case, before):
    """A call fails between a signal and the end, while an exchange is under way."""
    scene = Scene(stage, binary, traced=None)
    late = scene.rests()
    scene.attach(case.call, injection(case, before))
    outcome = scene.stops(late)
    if not scene.was_injected():
        raise NotReached
    if outcome != RIGHT and not RUNNING.get(case.call, {}).get(case.errno):
        raise Failure(f"the exchange under way: {outcome}")


def logging(stage, binary, case, before):
    """A call fails while the log goes to a socket or a pipe. Nobody is troubled, and only whole lines come."""
    kind = case.phase.removeprefix("log to ")
    scene, journal = logging_scene(stage, binary, kind, injection(case, before), case.call)
    exchanges = log_much(scene, journal, kind)
    others = read_on(scene, journal)
    scene.settles()
    scene.stops()
    if not scene.was_injected():
        raise NotReached
    wait_until("the whole log has come", lambda: "stopped sessions=" in scene.hawkey.said("err"), seconds=4)
    log = scene.hawkey.said("err")
    if torn := [line for line in log.splitlines() if not re.match(r"(time=\S+ )?level=\w+ \S", line) or line.count("level=") > 1]:
        raise Failure(f"torn lines: {torn[:3]}")
    told = len(re.findall(r"target=.?/bytes/7\?\d+", log))
    lost = sum(int(n) for n in re.findall(r"lost_lines=(\d+)", log))
    may_lose = case.call == "write" and case.errno not in LATE_LINES
    if not exchanges * (not may_lose) <= told + lost <= exchanges + others:
        raise Failure(f"{told} lines and {lost} told as lost, of {exchanges} exchanges")


def logging_scene(stage, binary, kind, injected=None, traced="all"):
    """A hawkey whose log goes to a journal."""
    journal = Journal(stage, kind)
    scene = Scene(stage, binary, injected, traced, log_to=journal.theirs)
    journal.of(scene.hawkey)
    scene.listens()
    return scene, journal


def log_much(scene, journal, kind):
    """Exchanges whose lines fill every buffer if nobody reads them, and are few if somebody does; how many."""
    count, length = (20, 10) if kind != "unread" else (400, 1500)
    if kind == "unread":
        journal.reads.clear()
    client = Client(scene.address)
    for n in range(count):
        expect("an exchange that is logged", RIGHT, client.get(f"/bytes/7?{n:0{length}}", 7))
    client.close()
    return count


def read_on(scene, journal):
    """Reads the log again, and waits until what waited has come, with a line behind it; of how many exchanges one was that."""
    journal.reads.set()
    exchanges = 0

    def look():
        nonlocal exchanges
        exchanges += 1
        client = Client(scene.address)
        client.get("/bytes/9", 9)
        client.close()
        time.sleep(0.1)
        return re.search(r"target=.?/bytes/9\b", scene.hawkey.said("err"))

    wait_until("lines come again", look, seconds=8)
    return exchanges


PHASES = {"starting": starting, "running": running, "stopping": stopping} | {f"log to {kind}": logging for kind in LOG}


def cases(before, during):
    """Every case there is: of few calls each one fails, of many the first ones and some on the way."""
    tables = {"starting": STARTING, "running": RUNNING, "stopping": STOPPING}
    tables |= {f"log to {kind}": table for kind, table in LOG.items()}
    for phase, table in tables.items():
        for call, errnos in table.items():
            count = during[phase][call]
            times = range(1, count + 1) if count <= 6 else {1, 2, 5, *(count * part // 4 for part in (1, 2, 3))}
            for errno, n in itertools.product(errnos, sorted(times) or [1]):
                yield Case(phase, call, errno, n)


def small_buffers(stage, binary):
    """Short reads and writes everywhere: every socket has very small buffers, also those of hawkey. Nothing may be troubled."""
    scene = Scene(stage, binary, traced="sendto,recvfrom", small_buffers=True)
    scene.listens()
    over = threading.Event()
    shrinking = threading.Thread(target=shrink_all, args=(scene.hawkey.process.pid, over))
    shrinking.start()
    try:
        for name, outcome in scene.traffic(large=2 << 20, small_buffers=True):
            expect(name, RIGHT, outcome)
    finally:
        over.set()
        shrinking.join()
    scene.settles()
    scene.stops()
    trace = scene.trace.read_text()
    # Most writes are as short as the reads before them, and how many are short lies with the readers' speed: 53 to 250 were seen,
    # and 5 to 7 where no buffer is small.
    for call, pattern, least in (
        ("sendto", r"sendto\(.*, (\d+), \w+, NULL, 0\) = (\d+)$", 20),
        ("recvfrom", r"recvfrom\(.*, (\d+), 0, NULL, NULL\) = (\d+)$", 500),
    ):
        sizes = [(int(asked), int(done)) for asked, done in re.findall(pattern, trace, re.MULTILINE)]
        short = sum(done < asked for asked, done in sizes)
        print(f"small buffers: {short} of {len(sizes)} calls of {call} were short", flush=True)
        if short < least:
            raise Failure(f"only {short} of {len(sizes)} calls of {call} were short, and {least} at least were expected")


def shrink_all(pid, over):
    """Gives every socket of a process very small buffers, those that come later too. It is not asked: its descriptors are taken."""
    seen, libc, process = set(), ctypes.CDLL(None, use_errno=True), os.pidfd_open(pid)
    while not over.wait(0.001):
        for name in os.listdir(f"/proc/{pid}/fd"):
            # What is gone meanwhile is no concern of ours.
            with contextlib.suppress(OSError):
                what = os.readlink(f"/proc/{pid}/fd/{name}")
                if not what.startswith("socket:") or what in seen:
                    continue
                if (taken := libc.syscall(PIDFD_GETFD, process, int(name), 0)) < 0:
                    raise OSError(ctypes.get_errno(), "a descriptor cannot be taken")
                with socket.socket(fileno=taken) as sock:
                    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                        sock.setsockopt(socket.SOL_SOCKET, option, 4096)
                seen.add(what)
    os.close(process)


# pidfd_getfd(2) has the same number on every architecture.
PIDFD_GETFD = 438


def moved_clock(seconds):
    """A case: the machine's clock is moved so far, as hawkey sees it, while it waits. No deadline moves."""

    def play(stage, binary):
        library = subprocess.run(["faketime", "-f", "+0", "printenv", "LD_PRELOAD"], stdout=subprocess.PIPE, check=True, text=True)
        clock = stage.folder / "clock"
        clock.write_text("+0")
        scene = Scene(
            stage, binary, traced=None, LD_PRELOAD=library.stdout.strip(), FAKETIME_TIMESTAMP_FILE=str(clock), FAKETIME_NO_CACHE="1",
            DONT_FAKE_MONOTONIC="1",
        )
        scene.listens()
        begin, watch = time.monotonic(), Watch()
        with concurrent.futures.ThreadPoolExecutor() as workers:
            waits = {name: workers.submit(wait, Client(scene.address, patience=20), begin) for name, (wait, _) in WAITS.items()}
            time.sleep(0.7)
            # By another name first, or half of it may be read.
            (stage.folder / "new-clock").write_text(f"{seconds:+}")
            (stage.folder / "new-clock").rename(clock)
            client = Client(scene.address)
            expect("an exchange behind it", RIGHT, client.get("/bytes/50", 50))
            client.close()
            ended = {name: future.result() for name, future in waits.items()}
        _, late = watch.stop()
        scene.settles()
        for name, took in ended.items():
            _, limit = WAITS[name]
            print(f"clock moved by {seconds:+} s: {name} ended after {took:.3f} s", flush=True)
            if not limit - 0.01 <= took <= limit + 0.3 + late:
                raise Failure(f"{name} ended after {took:.3f} s instead of {limit}, and a busy machine may have cost {late:.3f} s")
        told = re.findall(r"^time=(\S+)Z ", scene.hawkey.said("err"), re.MULTILINE)
        moved = datetime.datetime.fromisoformat(told[-1]) - datetime.datetime.fromisoformat(told[0])
        if abs(moved.total_seconds() - seconds) > 60:
            raise Failure(f"hawkey's clock was to move by {seconds} s, and its log moved by {moved}")
        # And the drain limit, with a tunnel that stays.
        sock, _ = open_tunnel(Client(scene.address))
        with sock:
            watch = Watch()
            os.kill(scene.hawkey.process.pid, signal.SIGTERM)
            time.sleep(0.2)
            clock.write_text("+0")
            wait_until("hawkey ends as asked", scene.hawkey.ended, seconds=8)
            took, late = watch.stop()
        if not 1.99 <= took <= 2.3 + late:
            raise Failure(f"draining ended after {took:.3f} s instead of 2, and a busy machine may have cost {late:.3f} s")
        scene.ended_well(0)

    return play


def late_head(client, begin):
    """Until half a head is answered with 408."""
    with client.connect() as sock:
        sock.sendall(b"GET / HT")
        expect("the status line", b"HTTP/1.1 408 ", sock.recv(4096)[:13])
        return time.monotonic() - begin


def late_answer(client, begin):
    """Until a request that is not answered is answered with 504."""
    with client.connect() as sock:
        sock.sendall(b"GET /late/50 HTTP/1.1\r\nHost: a\r\n\r\n")
        expect("the status line", b"HTTP/1.1 504 ", sock.recv(4096)[:13])
        return time.monotonic() - begin


def idle_client(client, begin):
    """Until a client that asks for nothing more is closed."""
    with client.connect() as sock:
        sock.sendall(b"OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n")
        expect("the status line", b"HTTP/1.1 200 ", sock.recv(4096)[:13])
        expect("what comes then", b"", sock.recv(4096))
        return time.monotonic() - begin


def silent_tunnel(client, begin):
    """Until a tunnel in which nobody says anything is ended."""
    sock, reader = open_tunnel(client)
    with sock, contextlib.suppress(ConnectionResetError):
        expect("what comes through a tunnel", b"", reader.read(1))
    return time.monotonic() - begin


def open_tunnel(client):
    """A tunnel past its handshake: the socket, and what reads from it."""
    sock = client.connect()
    sock.sendall(
        b"GET /tunnel HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    reader = sock.makefile("rb")
    expect("the status of a handshake", 101, read_head(reader)[0])
    return sock, reader


# What waits while the clock is moved, and the seconds of its limit in the configuration.
WAITS = {
    "a late head": (late_head, 2),
    "a late answer": (late_answer, 2),
    "an idle client": (idle_client, 3),
    "a silent tunnel": (silent_tunnel, 2),
}
DAY = 86400
OTHERS = {"small buffers": small_buffers, "clock set forward": moved_clock(DAY), "clock set back": moved_clock(-DAY)}


def rehearsal(binary, tools):
    """How many calls of each name hawkey makes before each phase, and within it."""
    before, during = {}, {}
    with (stage := Stage(tools)).endings:
        scene = Scene(stage, binary, traced=None)
        late = scene.rests()
        scene.attach("all")
        before["stopping"] = scene.calls()
        expect("an exchange that is under way at a stop", RIGHT, scene.stops(late))
        during["stopping"] = scene.calls() - before["stopping"]
    with (stage := Stage(tools)).endings:
        scene = Scene(stage, binary)
        scene.listens()
        wait_until("hawkey sleeps", lambda: "epoll_wait(" in scene.trace.read_text())
        time.sleep(0.1)
        # What comes before is the loader's and the Rust runtime's.
        before["starting"] = scene.calls(until=CONFIGURATION_READ)
        before["running"] = scene.calls()
        during["starting"] = before["running"] - before["starting"]
        for name, outcome in scene.traffic():
            expect(f"{name}, when nothing fails", RIGHT, outcome)
        scene.settles()
        during["running"] = scene.calls() - before["running"]
        scene.stops()
    for kind in LOG:
        phase = f"log to {kind}"
        with (stage := Stage(tools)).endings:
            scene, journal = logging_scene(stage, binary, kind)
            wait_until("hawkey sleeps", lambda: "epoll_wait(" in scene.trace.read_text())
            # The lines that say where hawkey listens must come. What is opened for the log is opened for the first of them.
            before[phase] = scene.calls()
            before[phase]["open"] = scene.calls(until=CONFIGURATION_READ)["open"]
            log_much(scene, journal, kind)
            read_on(scene, journal)
            scene.settles()
            during[phase] = scene.calls() - before[phase]
            scene.stops()
    return before, during


CONFIGURATION_READ = r"^\d+ +openat\(.*hawkey\.toml"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hawkey", type=pathlib.Path, required=True, help="the binary")
    parser.add_argument("case", nargs="*", help="only these, such as recvfrom or running/recvfrom/EINTR/1")
    tools = parser.parse_args()
    tools.modules = ""
    binary = tools.hawkey.absolute()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    before, during = rehearsal(binary, tools)
    for phase, calls in during.items():
        print(f"{phase}:", ", ".join(f"{name} ({n})" for name, n in calls.most_common()), flush=True)
    known = {call for table in (STARTING, RUNNING, STOPPING, *LOG.values()) for call in table} | NEVER_FAIL
    results = {}
    if unknown := {call for calls in during.values() for call in calls} - known:
        results["every call is in the tables"] = Failure(f"not in any table: {sorted(unknown)}")

    def play(case):
        stage = Stage(tools)
        with stage.endings:
            if case in OTHERS:
                return OTHERS[case](stage, binary)
            return PHASES[case.phase](stage, binary, case, before[case.phase])

    chosen = [case for case in [*OTHERS, *cases(before, during)] if is_chosen(case, tools.case)]
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count() + 1) as workers:
        futures = {workers.submit(play, case): case for case in chosen}
        for future in concurrent.futures.as_completed(futures):
            case, problem = futures[future], future.exception()
            if isinstance(problem, NotReached) and case.time == 1:
                problem = Failure("it is never called here")
            results[case] = problem
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
