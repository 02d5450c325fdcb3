#!/usr/bin/env python3
"""Breaks the handover of an upgrade at every step, on both of its sides, and tells what came of it.

The new process is killed at each of its system calls until it serves, its calls fail, and so do those of the old one; impostors take its
place. Each time `hawkey upgrade` must say why it failed, and tunnels, waiting clients and new ones must go on in the old process, or it
must have succeeded. Then 5,000 tunnels move, and what their clients notice of it is measured. The last line is `N passed, N failed`.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import itertools
import json
import multiprocessing
import os
import pathlib
import random
import re
import select
import selectors
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "programs"))

from client import RIGHT, Client, Watch, expect_bytes, read_head
from origin import FLOOD_BYTES, Origin, accept_of, body_of
from stage import Failure, Stage, expect, expect_in, wait_until

TUNNELS = 5
NOBODY = 65534
# As in src/server/handover.rs: a message is its kind, the number of its descriptors, and the length of its body.
HEAD_BYTES = 6
SESSIONS, ALL, ACKNOWLEDGED, TAKEN, REFUSED = 4, 5, 6, 7, 8
VERSION = 1
# What a trace shows of the word after which everything is the new process's, as soon as the old one has heard it.
SAYS_TAKEN = r'^sendmsg\(.*iov_base="\\7\\0\\0\\0\\0\\0"'
# What the new process needs to take over, and how that may fail.
ERRNOS = ("EMFILE", "ENOMEM", "ECONNRESET", "EPIPE")
NEW_CALLS = ("socket", "connect", "sendmsg", "recvmsg", "epoll_ctl", "fcntl")
# The same of the old one, beside what starts a process.
OLD_CALLS = ("sendmsg", "recvmsg", "epoll_ctl")
STARTING = {"clone": ("EAGAIN", "ENOMEM"), "clone3": ("EAGAIN", "ENOMEM"), "vfork": ("EAGAIN", "ENOMEM"), "execve": ("EACCES", "ENOMEM", "ETXTBSY")}

PAUSED_TUNNELS = 5000
PAUSE_MAX_MS = 50
# On a machine that is slower, or busy with others: how many times as long as it takes to pass as many descriptors by hand.
PASSING_RATIO_MAX = 1.5
PASSED_AT_ONCE = 250
UPGRADES = 5
# Others may use the machine: one of so many tries must be good.
TRIES = 3


SCENES = itertools.count()


class Scene:
    """A hawkey with tunnels, one of which nobody reads, and a client that waits."""

    def __init__(self, stage, binary, listeners=("127.0.0.1:0",)):
        self.stage, self.binary = stage, binary
        # Of its own: the processes of a scene before it may still be there.
        self.control = stage.folder / f"control-{next(SCENES)}.sock"
        self.origin = Origin()
        stage.endings.callback(self.origin.close)
        self.configuration = stage.folder / "hawkey.toml"
        self.listens(*listeners)
        self.first = stage.start("hawkey", [binary, "--control", self.control, "-c", self.configuration])
        self.address = self.first.says(r"\blistening=(127\.0\.0\.1:\d+)", "err").group(1)
        self.scripts = itertools.count()
        self.opens()

    def listens(self, *listeners):
        """Writes its configuration, which it reads at an upgrade."""
        self.configuration.write_text(f'listen = {json.dumps(listeners)}\nroute = [{{ match = "/", to = "{self.origin.address}" }}]\n')

    def opens(self):
        """Opens the tunnels, and has the client ask for something."""
        self.tunnels = [Client(self.address).open_tunnel()[0] for _ in range(TUNNELS)]
        self.stalled = Client(self.address).open_tunnel("/flood")[0]
        self.waiting = Client(self.address)
        self.messages = itertools.count()
        self.goes_on()

    def goes_on(self):
        """Every tunnel echoes, the client that waits is served, and so is a new one."""
        for tunnel in self.tunnels:
            message = b"message %d\n" % next(self.messages)
            tunnel.sendall(message)
            found = b""
            while len(found) < len(message):
                if not (part := tunnel.recv(100)):
                    raise Failure("a tunnel has ended")
                found += part
            expect("an echo", message, found)
        for client in (self.waiting, Client(self.address)):
            expect("a GET", RIGHT, client.get(f"/bytes/100?{next(self.messages)}", 100))
        # What waits until the upgrade is what can be moved.
        wait_until("all is at rest", lambda: self.status()["sessions"]["exchange"] == 0)

    def ends(self):
        """All that the stalled tunnel held is there, in order."""
        found = bytearray()
        while len(found) < FLOOD_BYTES:
            if not (part := self.stalled.recv(1 << 20)):
                break
            found += part
        expect_bytes("the flood", body_of("/flood", FLOOD_BYTES), found)

    def ask(self, *words):
        """The exit code of a command, and what it says."""
        ran = subprocess.run([self.binary, *words, "--control", self.control], capture_output=True, text=True, timeout=30)
        return ran.returncode, ran.stdout + ran.stderr

    def status(self):
        return json.loads(self.ask("status", "--json")[1])

    def upgrade(self, line=None):
        """Asks for an upgrade, to a program of sh if it has a line; the exit code and what is said."""
        words = []
        if line:
            script = self.stage.folder / f"script-{next(self.scripts)}"
            script.write_text(f"#!/bin/sh\n{line}\n")
            script.chmod(0o755)
            words = ["--binary", script]
        return self.ask("upgrade", *words)

    def succeeds(self, line=None):
        """An upgrade that must succeed."""
        code, said = self.upgrade(line)
        if code != 0:
            raise Failure(f"an upgrade that nothing hinders: {said}")
        self.goes_on()

    def fails(self, line, *parts):
        """An upgrade that must fail with these words."""
        code, said = self.upgrade(line)
        expect(f"the exit code of an upgrade that says {said}", 1, code)
        for part in ("not upgraded: ", *parts):
            expect_in("why it failed", part, said)
        self.goes_on()

    def comes_to_something(self, line=None, behind=lambda: None):
        """An upgrade that may succeed or fail, with a reason, and what is to be done `behind` it: all must go on. Whether it succeeded."""
        code, said = self.upgrade(line)
        behind()
        # Who asks may be the one who is not heard.
        if code != 0 and not re.fullmatch(r"hawkey: .{15,300}\n", said, re.DOTALL):
            raise Failure(f"an upgrade ended with {code} and said {said!r}")
        self.goes_on()
        return code == 0

    def traced(self, trace, *options):
        """A line that starts the new process under strace, which keeps its process id and follows no later one."""
        return f'exec strace -D -qq -o {trace} {" ".join(options)} {self.binary} "$@"'


def rehearsal(stage, binary):
    """How often each call is made by the new process until it has all, and what is called next; and by the old one, of some."""
    scene = Scene(stage, binary)
    new, old = stage.folder / "new", stage.folder / "old"
    tracer = stage.start("strace", ["strace", "-qq", "-o", old, "-e", f"trace={','.join(OLD_CALLS)}", "-p", scene.first.process.pid])
    wait_until("the old process is traced", lambda: is_traced(scene.first.process.pid))
    scene.succeeds(scene.traced(new))
    text = new.read_text()
    taken = re.search(SAYS_TAKEN, text, re.MULTILINE)
    if not taken:
        raise Failure("the new process never said that it has taken over")
    calls = collections.Counter(re.findall(r"^(\w+)\(", text[: taken.end()], re.MULTILINE))
    # The first call is strace's own: what is traced begins behind it. How often memory is asked for differs from run to run.
    for call in ("execve", "brk", "mmap", "munmap", "mremap"):
        calls.pop(call, None)
    behind = re.findall(r"^(\w+)\(", text[taken.end() :], re.MULTILINE)[:3]
    tracer.end()
    return calls, behind, collections.Counter(re.findall(r"^(\w+)\(", old.read_text(), re.MULTILINE))


def is_traced(pid):
    return not re.search(r"^TracerPid:\t0$", pathlib.Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)


def has_said_taken(trace):
    """Whether the new process came so far: how many messages one call brings differs, and so the call that was meant may come later."""
    return re.search(SAYS_TAKEN, trace.read_text(), re.MULTILINE)


def killed_before_it_serves(stage, binary, calls):
    """kill -9 of the new process at each of its calls, until and with the one that says that it has all. The old one stays the same."""
    scene = Scene(stage, binary)
    held = lambda: len(os.listdir(f"/proc/{scene.first.process.pid}/fd"))
    before = held()
    trace = stage.folder / "trace"
    for call, count in calls.items():
        for n in range(1, count + 1):
            line = scene.traced(trace, "-e", f"trace={call},sendmsg", "-e", f"inject={call}:signal=KILL:when={n}")
            try:
                scene.fails(line)
            except (Failure, OSError) as problem:
                if has_said_taken(trace):
                    scene, before = Scene(stage, binary), 0
                    continue
                raise Failure(f"killed at {call} {n}: {problem!r}") from problem
    expect("the process", scene.first.process.pid, scene.status()["pid"])
    wait_until("the old process holds no more than before", lambda: not before or held() <= before)
    scene.succeeds()
    scene.ends()
    print(f"killed at {sum(calls.values())} calls: {', '.join(f'{name} ({n})' for name, n in calls.most_common())}", flush=True)


def killed_at_the_border(stage, binary, calls, behind):
    """Behind its word, the new process serves as soon as the old one has heard that and let go: then what it had is lost with it, as with
    any process that is killed. Which of the two it was, the command tells, and never is a byte wrong."""
    for place, call in enumerate(behind):
        scene = Scene(stage, binary)
        n = calls[call] + behind[: place + 1].count(call)
        code, said = scene.upgrade(scene.traced(stage.folder / f"trace-{place}", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={n}"))
        if code == 1 or scene.ask("status")[0] == 0:
            scene.goes_on()
            scene.ends()
        else:
            expect(f"the exit code of an upgrade that says {said}", 0, code)
            for tunnel in scene.tunnels:
                with contextlib.suppress(ConnectionError):
                    expect("what comes over a tunnel whose process was killed", b"", tunnel.recv(100))
        print(f"killed at {call} behind its word: an upgrade that {'failed' if code else 'had succeeded'}", flush=True)


def new_calls_fail(stage, binary, calls):
    """A call of the new process fails."""
    scene = Scene(stage, binary)
    outcomes = collections.Counter()
    for call, errno in itertools.product(NEW_CALLS, ERRNOS):
        for n in range(1, calls[call] + 1):
            trace = stage.folder / "trace"
            line = scene.traced(trace, "-e", f"trace={call},sendmsg", "-e", f"inject={call}:error={errno}:when={n}")
            try:
                succeeded = scene.comes_to_something(line)
            except (Failure, OSError) as problem:
                if has_said_taken(trace):
                    scene = Scene(stage, binary)
                    continue
                raise Failure(f"{call} {n} failed with {errno}: {problem!r}") from problem
            outcomes[succeeded] += 1
            if succeeded:
                if "(INJECTED" in trace.read_text():
                    # Without a tracer again.
                    scene.succeeds()
                else:
                    # It made fewer of these calls than the last time: the fault still waits in it.
                    scene = Scene(stage, binary)
    scene.succeeds()
    scene.ends()
    print(f"calls of the new process failed: {outcomes[False]} upgrades failed, {outcomes[True]} succeeded all the same", flush=True)


def old_calls_fail(stage, binary, calls):
    """A call of the old process fails."""
    scene = Scene(stage, binary)
    outcomes = collections.Counter()
    cases = [(call, errno, n) for call in OLD_CALLS for errno in ERRNOS for n in range(1, calls[call] + 1)]
    cases += [(call, errno, 1) for call, errnos in STARTING.items() for errno in errnos]
    for call, errno, n in cases:
        pid = scene.status()["pid"]
        # The call that starts a program is made by the child already.
        follow = ["-f"] if call == "execve" else []
        inject = ["-e", f"trace={call}", "-e", f"inject={call}:error={errno}:when={n}"]
        tracer = stage.start("strace", ["strace", *follow, "-qq", "-o", stage.folder / "trace", *inject, "-p", pid])
        wait_until("the old process is traced", lambda: is_traced(pid))
        try:
            succeeded = scene.comes_to_something(behind=tracer.end)
        except (Failure, OSError) as problem:
            raise Failure(f"{call} {n} failed with {errno}: {problem!r}") from problem
        if call == "execve" and succeeded:
            raise Failure(f"{errno} of execve was no hindrance")
        outcomes[succeeded] += 1
    scene.succeeds()
    scene.ends()
    print(f"calls of the old process failed: {outcomes[False]} upgrades failed, {outcomes[True]} succeeded all the same", flush=True)


# Impostors: what they do, and what is said of them.

IMPOSTORS = {
    "older": "this hawkey hands over by version 1, and the new one takes over by version 0",
    "newer": "this hawkey hands over by version 1, and the new one takes over by version 2",
    "nonsense": "it says what no message begins with",
    "long": "a message is longer than any",
    "twice": "the new process said Acknowledged when nothing like that was expected",
    "early": "the new process said Taken when nothing like that was expected",
    "unacknowledged": "the new process said Taken when nothing like that was expected",
    "giver": "the new process said Sessions when nothing like that was expected",
    "closes": "it has closed the connection",
    "refuses": "it has its reasons",
    "gives-up": "it has other reasons",
    "another": "the new process has ended",
    "mute": "the new process said nothing for 5 s",
    "falters": "the new process said nothing for 5 s",
}


def impostor(role, path):
    """Plays a new process."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    say = lambda kind, length=0, body=b"": connection.sendall(bytes([kind, 0]) + length.to_bytes(4, "little") + body)
    ask = lambda **more: connection.sendall(json.dumps({"protocol": 1, **more}).encode() + b"\n")
    if role == "another":
        # A child of the one that was started is another process.
        if child := os.fork():
            os.waitpid(child, 0)
            return
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(path)
        ask(ask="take-over", handover=VERSION)
        expect_in("what a child of the new process is told", "only a process that an upgrade has started", connection.recv(4096).decode())
        os._exit(0)
    if role == "gives-up":
        ask(ask="give-up", why="it has other reasons")
        return connection.recv(4096)
    ask(ask="take-over", handover={"older": VERSION - 1, "newer": VERSION + 1}.get(role, VERSION))
    if role == "nonsense":
        say(0xFF)
    elif role == "long":
        say(ACKNOWLEDGED, 0xFFFFFFFF)
    elif role == "early":
        say(TAKEN)
    elif role == "giver":
        say(SESSIONS)
    elif role not in ("older", "newer", "mute"):
        for kind in messages(connection):
            if kind == SESSIONS and role == "closes":
                return
            if kind == SESSIONS and role != "unacknowledged":
                say(ACKNOWLEDGED)
            if kind == SESSIONS and role == "falters":
                connection.sendall(bytes([TAKEN, 0]))
                falters(path).touch()
                break
            if kind == SESSIONS and role == "twice":
                say(ACKNOWLEDGED)
            if kind == ALL:
                say(TAKEN) if role == "unacknowledged" else say(REFUSED, 18, b"it has its reasons")
    signal.pause()


def falters(path):
    """The file by which that impostor tells that it has all that moves."""
    return pathlib.Path(f"{path}.falters")


def messages(connection):
    """The kinds of the messages that come, whose descriptors are taken and closed."""
    came = b""
    while True:
        part, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, 253)
        for descriptor in descriptors:
            os.close(descriptor)
        came += part
        while len(came) >= HEAD_BYTES and len(came) >= (end := HEAD_BYTES + int.from_bytes(came[2:6], "little")):
            yield came[0]
            came = came[end:]


def meets_impostor(stage, binary, role):
    """An impostor takes the place of the new process."""
    scene = Scene(stage, binary)
    watch = Watch()
    scene.fails(line_of(role), IMPOSTORS[role])
    took, late = watch.stop()
    is_waited_for = role in ("mute", "falters")
    if not (took > 4.9 if is_waited_for else took <= 4.9 + late):
        raise Failure(f"an impostor that is {'' if is_waited_for else 'not '}waited for took {took:.1f} s; a busy machine may have cost {late:.1f} s")
    scene.succeeds()
    scene.ends()


def line_of(role):
    return f'exec {sys.executable} {__file__} --hawkey - --impostor {role} "$HAWKEY_TAKE_OVER"'


def holds_still(stage, binary):
    """What is on its way to the new process is not touched, however long that takes, and goes on when it is taken back. Ends that come
    meanwhile are heard then."""
    scene = Scene(stage, binary)
    ends = Client(scene.address).open_tunnel()[0]
    upgrade = threading.Thread(target=scene.upgrade, args=(line_of("falters"),))
    upgrade.start()
    wait_until("all is on its way", falters(scene.control).exists)
    message = b"said while nothing moves"
    scene.tunnels[0].sendall(message)
    ends.sendall(message)
    ends.shutdown(socket.SHUT_WR)
    scene.tunnels[0].settimeout(1)
    with contextlib.suppress(TimeoutError):
        raise Failure(f"a tunnel that is on its way brought {scene.tunnels[0].recv(100)!r}")
    upgrade.join()
    scene.tunnels[0].settimeout(4)
    expect("what was said meanwhile", message, scene.tunnels[0].recv(100))
    expect("what was said before an end", (message, b""), (ends.recv(100), ends.recv(100)))
    scene.goes_on()
    scene.succeeds()
    scene.ends()


def meets_strangers(stage, binary):
    """Who was not started by an upgrade may not take over, and another user may ask nothing at all."""
    scene = Scene(stage, binary)
    request = b'{"protocol":1,"ask":"take-over","handover":%d}\n' % VERSION
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(scene.control))
        stranger.sendall(request)
        expect_in("what a stranger is told", "only a process that an upgrade has started may take over", stranger.recv(4096).decode())
    scene.goes_on()
    if os.geteuid() != 0:
        raise Failure("only root can be another user: run this as root")
    binary = shutil.copy(binary, stage.folder / "hawkey")
    for path, mode in ((stage.folder, 0o777), (binary, 0o755), (scene.control, 0o666)):
        os.chmod(path, mode)
    for word in ("upgrade", "status", "stop"):
        ran = subprocess.run([binary, word, "--control", scene.control], user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, text=True)
        expect_in(f"{word}, asked by another user", "only root and the user that hawkey runs as may ask here", ran.stderr)
    # What a new process does, done by one of another user.
    environment = {"HAWKEY_TAKE_OVER": str(scene.control)}
    ran = subprocess.run([binary, "127.0.0.1:0", "/=127.0.0.1:1"], env=environment, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, text=True)
    expect_in("take-over, asked by another user", "only root and the user that hawkey runs as may ask here", ran.stderr)
    scene.succeeds()
    scene.ends()


def cannot_take_a_straggler(stage, binary):
    """Who follows later and cannot be taken is refused as a whole: it ends in the old process, and nothing of it is left in the new one."""
    scene = Scene(stage, binary)
    outcomes = []
    client = Client(scene.address)
    exchange = threading.Thread(target=lambda: outcomes.append(client.get("/held/0", 0)))
    exchange.start()
    wait_until("the exchange has come to its upstream", scene.origin.server.holds.is_set)
    expect_in("what stays", "its last 1 sessions", scene.upgrade()[1])
    pid = scene.status()["pid"]
    held = lambda: len(os.listdir(f"/proc/{pid}/fd"))
    before = held()
    inject = ["-e", "trace=epoll_ctl", "-e", "inject=epoll_ctl:error=ENOMEM:when=1"]
    tracer = stage.start("strace", ["strace", "-qq", "-o", stage.folder / "trace", *inject, "-p", pid])
    wait_until("the new process is traced", lambda: is_traced(pid))
    scene.origin.server.released.set()
    exchange.join()
    expect("the exchange under way", [RIGHT], outcomes)
    scene.first.says("event=successor-lost why=.*Cannot allocate memory", "err")
    tracer.end()
    wait_until("the old process has ended", scene.first.ended)
    wait_until("the new process holds no more than before", lambda: held() <= before)
    scene.goes_on()
    scene.ends()


def answers_who_waits(stage, binary):
    """Nobody is accepted while the new process takes over. Who comes then waits and is answered, at a listener that is no more as well."""
    web = f"unix:{stage.folder}/web.sock"
    scene = Scene(stage, binary, ("127.0.0.1:0", web))
    scene.listens("127.0.0.1:0")
    trace = stage.folder / "trace"
    slow = scene.traced(trace, "-e", "trace=sendmsg", "-e", "inject=sendmsg:delay_enter=2500000:when=1")
    with concurrent.futures.ThreadPoolExecutor() as workers:
        upgrade = workers.submit(scene.succeeds, slow)
        wait_until("the new process takes over", lambda: trace.exists() and "sendmsg(" in trace.read_text())
        begun = time.monotonic()
        for waiting in [workers.submit(Client(address).get, "/bytes/99", 99) for address in (scene.address, web)]:
            expect("a GET of one who waited", RIGHT, waiting.result())
        expect("whether they had to wait", True, time.monotonic() - begun > 0.3)
        upgrade.result()
    expect("the file of a listener that is no more", False, os.path.exists(f"{stage.folder}/web.sock"))


def refuses_as_process_1(stage, binary):
    """With process 1 of a container, the kernel ends all that it has started. Who is outside cannot be told from a stranger."""
    control = stage.folder / "control.sock"
    hawkey = stage.start("hawkey", ["unshare", "--pid", "--fork", binary, "--control", control, "127.0.0.1:0", "/=127.0.0.1:1"])
    hawkey.says(r"\blistening=", "err")
    ran = subprocess.run([binary, "upgrade", "--control", control], capture_output=True, text=True)
    expect_in("what is said from outside", "who asks is outside of the container that hawkey runs in", ran.stderr)
    pid = hawkey.process.pid
    inside = int(pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text())
    os.kill(inside, signal.SIGUSR2)
    hawkey.says("event=upgrade-failed .*hawkey is process 1 here", "err")


# What clients notice.


def echo(pipe):
    """An upstream of many tunnels, in a process of its own."""
    listener, selector = socket.socket(), selectors.DefaultSelector()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    pipe.send("127.0.0.1:%d" % listener.getsockname()[1])
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(connection, selectors.EVENT_READ)
                continue
            data = key.fileobj.recv(1 << 16)
            if not data:
                selector.unregister(key.fileobj)
                key.fileobj.close()
            elif found := re.search(rb"(?i)sec-websocket-key: *(\S+)", data):
                accept = accept_of(found[1].decode())
                key.fileobj.sendall(
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                    b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept.encode()
                )
            else:
                key.fileobj.sendall(data)


def pause(stage, binary):
    """The longest that an echo takes while 5,000 tunnels move: of several upgrades the median."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=echo, args=(theirs,), daemon=True)
    process.start()
    stage.endings.callback(process.kill)
    control = stage.folder / "control.sock"
    hawkey = stage.start("hawkey", [binary, "--control", control, "127.0.0.1:0", f"/={ours.recv()}"])
    client = Client(hawkey.says(r"\blistening=(127\.0\.0\.1:\d+)", "err").group(1))
    tunnels = [client.open_tunnel()[0] for _ in range(PAUSED_TUNNELS)]
    ours, theirs = socket.socketpair()
    ours.settimeout(30)
    taker = multiprocessing.get_context("spawn").Process(target=take, args=(theirs,), daemon=True)
    taker.start()
    stage.endings.callback(taker.kill)
    for attempt in range(TRIES):
        longest, passing = zip(*((longest_echo(tunnels, binary, control), passed(tunnels, ours)) for _ in range(UPGRADES)))
        median, by_hand = statistics.median(longest), statistics.median(passing)
        listed = lambda times: ", ".join(f"{ms:.1f}" for ms in times)
        print(f"{PAUSED_TUNNELS} tunnels move: an echo takes at most {listed(longest)} ms, the median is {median:.1f} ms", flush=True)
        print(f"  passed by hand they take {listed(passing)} ms, the median is {by_hand:.1f} ms: {median / by_hand:.2f}", flush=True)
        if median <= PAUSE_MAX_MS or median <= PASSING_RATIO_MAX * by_hand:
            return
    raise Failure(f"a pause of {median:.1f} ms, at most {PAUSE_MAX_MS} ms were promised; by hand {by_hand:.1f} ms on this machine")


def take(connection):
    """Takes descriptors as a new process does, in a process of its own: each is registered, and all of a message are acknowledged."""
    poll = select.epoll()
    while True:
        data, descriptors, _, _ = socket.recv_fds(connection, 1, PASSED_AT_ONCE)
        if not data:
            return
        for descriptor in descriptors:
            poll.register(descriptor, select.EPOLLIN | select.EPOLLET)
        for descriptor in descriptors:
            poll.unregister(descriptor)
            os.close(descriptor)
        connection.sendall(b"k")


def passed(tunnels, taker):
    """How many milliseconds it takes to pass two descriptors for each of the tunnels, as an upgrade does."""
    descriptors = [tunnel.fileno() for tunnel in tunnels for _ in range(2)]
    begun = time.monotonic()
    for start in range(0, len(descriptors), PASSED_AT_ONCE):
        socket.send_fds(taker, [b"s"], descriptors[start : start + PASSED_AT_ONCE])
        expect("what the taker says", b"k", taker.recv(1))
    return 1000 * (time.monotonic() - begun)


def longest_echo(tunnels, binary, control):
    """In milliseconds, over any of the tunnels, from before an upgrade until behind it; less what the machine was not there for anybody."""
    over, took, watch = threading.Event(), [], Watch()

    def converse():
        while not over.is_set():
            tunnel, begun = random.choice(tunnels), time.monotonic()
            tunnel.sendall(b"message")
            expect("an echo", b"message", tunnel.recv(100))
            took.append((begun, time.monotonic()))

    speaker = threading.Thread(target=converse)
    speaker.start()
    time.sleep(0.1)
    ran = subprocess.run([binary, "upgrade", "--control", control], capture_output=True, text=True)
    time.sleep(0.1)
    over.set()
    speaker.join()
    watch.stop()
    expect_in("an upgrade", f"{len(tunnels)} tunnels", ran.stdout + ran.stderr)
    for tunnel in random.sample(tunnels, 100):
        tunnel.sendall(b"again")
        expect("an echo", b"again", tunnel.recv(100))
    return max(1000 * (end - begin - watch.lost(begin, end)) for begin, end in took)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hawkey", type=pathlib.Path, required=True, help="the binary")
    parser.add_argument("--impostor", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("case", nargs="*", help="only these, such as killed_before_it_serves, impostor-twice or pause")
    tools = parser.parse_args()
    if tools.impostor:
        return impostor(*tools.impostor)
    tools.modules = ""
    binary = tools.hawkey.absolute()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    def play(story, *arguments):
        with (stage := Stage(tools)).endings:
            return story(stage, binary, *arguments)

    calls, behind, old_calls = play(rehearsal)
    cases = {
        "killed_before_it_serves": (killed_before_it_serves, calls),
        "new_calls_fail": (new_calls_fail, calls),
        "old_calls_fail": (old_calls_fail, old_calls),
        "killed_at_the_border": (killed_at_the_border, calls, behind),
        "strangers": (meets_strangers,),
        "holds_still": (holds_still,),
        "straggler": (cannot_take_a_straggler,),
        "answers_who_waits": (answers_who_waits,),
        "process_1": (refuses_as_process_1,),
        **{f"impostor-{role}": (meets_impostor, role) for role in IMPOSTORS},
    }
    results = {}

    def note(case, future):
        results[case] = future.exception()
        print(f"FAILED  {case}: {results[case]!r}" if results[case] else f"ok  {case}", flush=True)

    is_chosen = lambda case: not tools.case or case in tools.case
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count() + 1) as workers:
        futures = {workers.submit(play, *story): case for case, story in cases.items() if is_chosen(case)}
        for future in concurrent.futures.as_completed(futures):
            note(futures[future], future)
        # Alone, for it is measured.
        if is_chosen("pause"):
            future = workers.submit(play, pause)
            concurrent.futures.wait([future])
            note("pause", future)
    failed = sum(problem is not None for problem in results.values())
    print(f"{len(results) - failed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
