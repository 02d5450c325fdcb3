"""The programs that are compared: how each is configured and started in front of an upstream of its own.

All of them forward the client's address and scheme, none writes a log of requests, and each may hold as many connections as the
descriptors last for.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import resource
import select
import shutil
import socket
import subprocess
import sys
import time

import process

PROXY_CORE, LOAD_CORE = 0, 1
PATIENCE_SECONDS = 30
# What every program is configured for, if the limit of descriptors allows it. A client and its upstream take a descriptor each.
DESCRIPTORS_MAX = min(25_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
CONNECTIONS_MAX = min(10_000, (DESCRIPTORS_MAX - 100) // 2)


class Failure(Exception):
    """A sentence about what could not be done."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """A program, or the same one with other settings."""

    key: str
    title: str
    # Its file; a relay and hawkey are built, the others are Debian's.
    program: str
    # What tells its version, and where in the answer.
    version: tuple
    # From the ports and a folder of its own to the arguments.
    arguments: object
    # Whether it is a process of its own without a parent that watches it, as callgrind needs it.
    single: tuple = ()
    # It is another setting of this one, only measured where that makes a difference.
    variant_of: str | None = None
    # Which part of the descriptors it uses before it accepts no more.
    descriptors_used: float = 1.0


HAWKEY = """listen = "127.0.0.1:{port}"
control = "{folder}/control.sock"

[[route]]
match = "/"
to = "127.0.0.1:{upstream}"

[timeouts]
head = "60s"
"""

NGINX = """worker_processes 1;
worker_rlimit_nofile {descriptors};
pid {folder}/pid;
error_log {folder}/error.log crit;
daemon off;
events {{ worker_connections {descriptors}; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000000;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    upstream application {{
        server 127.0.0.1:{upstream};
        keepalive 256;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://application;
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_read_timeout 1h;
            {buffers}
        }}
    }}
}}
"""

NGINX_64K = "proxy_buffer_size 64k; proxy_buffers 8 64k; proxy_busy_buffers_size 128k; proxy_max_temp_file_size 0;"

HAPROXY = """global
    nbthread 1
    maxconn {connections}

defaults
    mode http
    timeout connect 5s
    timeout http-request 60s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h
    http-reuse always
    option forwardfor
    {options}

frontend clients
    bind 127.0.0.1:{port}
    http-request set-header X-Forwarded-Proto http
    default_backend application

backend application
    server one 127.0.0.1:{upstream}
"""

LIGHTTPD = """server.modules = ("mod_proxy")
server.document-root = "{folder}"
server.bind = "127.0.0.1"
server.port = {port}
server.errorlog = "{folder}/error.log"
server.upload-dirs = ("{folder}")
server.max-fds = {descriptors}
server.max-connections = {connections}
server.max-keep-alive-requests = 65535
server.max-keep-alive-idle = 3600
server.max-read-idle = 3600
server.stream-request-body = 2
server.stream-response-body = 2
proxy.server = ("" => (("host" => "127.0.0.1", "port" => {upstream})))
proxy.header = ("upgrade" => "enable")
"""


def _with_file(template, name, arguments, **settings):
    """Arguments that name a file, which is written from the template."""

    def write(port, upstream, folder):
        path = folder / name
        path.write_text(
            template.format(
                port=port,
                upstream=upstream,
                folder=folder,
                descriptors=DESCRIPTORS_MAX,
                **{"connections": CONNECTIONS_MAX, **settings},
            )
        )
        return [argument.replace("FILE", str(path)) for argument in arguments]

    return write


def kinds(hawkey, relay):
    """All programs; the first is the floor."""
    nginx = ["-c", "FILE"]
    single = ("-g", "master_process off;")
    return [
        Kind("relay", "relay", relay, (), lambda port, upstream, folder: [f"127.0.0.1:{upstream}"]),
        Kind(
            "hawkey",
            "hawkey",
            hawkey,
            ("--version",),
            _with_file(HAWKEY, "hawkey.toml", ["--log", "off", "-c", "FILE"]),
        ),
        Kind("nginx", "nginx", "nginx", ("-v",), _with_file(NGINX, "nginx.conf", nginx, buffers=""), single),
        Kind(
            "nginx_64k",
            "nginx 64k",
            "nginx",
            ("-v",),
            _with_file(NGINX, "nginx.conf", nginx, buffers=NGINX_64K),
            single,
            variant_of="nginx",
        ),
        Kind(
            "haproxy",
            "HAProxy",
            "haproxy",
            ("-v",),
            _with_file(HAPROXY, "haproxy.cfg", ["-db", "-f", "FILE"], options=""),
        ),
        Kind(
            "haproxy_splice",
            "HAProxy splice",
            "haproxy",
            ("-v",),
            # A pipe for each connection takes descriptors as well.
            _with_file(
                HAPROXY,
                "haproxy.cfg",
                ["-db", "-f", "FILE"],
                options="option splice-request\n    option splice-response",
                connections=CONNECTIONS_MAX // 2,
            ),
            variant_of="haproxy",
        ),
        Kind(
            "lighttpd",
            "lighttpd",
            "lighttpd",
            ("-v",),
            _with_file(LIGHTTPD, "lighttpd.conf", ["-D", "-f", "FILE"]),
            descriptors_used=0.9,
        ),
    ]


def version(kind):
    """What the program says of its version."""
    if not kind.version:
        return ""
    told = subprocess.run([find(kind.program), *kind.version], capture_output=True, text=True, timeout=10)
    found = re.search(r"\d+(\.\d+)+", told.stdout + told.stderr)
    return found[0] if found else "?"


def find(program):
    """Where a program is; Debian keeps some where only root looks."""
    path = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if not path:
        raise Failure(f"there is no {program}")
    return os.path.realpath(path)


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _spawn(core, words, **settings):
    return subprocess.Popen(["taskset", "-c", str(core), *map(str, words)], process_group=0, **settings)


def _line(child, what):
    """The next line that a child says, as soon as it does."""
    if not select.select([child.stdout], [], [], PATIENCE_SECONDS)[0]:
        raise Failure(f"{what} says nothing for {PATIENCE_SECONDS} s")
    line = child.stdout.readline()
    if not line:
        child.wait(PATIENCE_SECONDS)
        raise Failure(f"{what} ended: {child.stderr.read().strip() if child.stderr else child.returncode}")
    return line.strip()


class Tools:
    """The programs of this folder that are not compared."""

    def __init__(self, folder):
        self.load, self.start = folder / "load", folder / "start"


class Contestant:
    """A program in front of its upstream. A context: both end with it."""

    def __init__(self, kind, tools, folder, before=()):
        self.kind, self.tools, self.folder = kind, tools, pathlib.Path(folder)
        # A program that runs it, as valgrind does.
        self.before = list(before)
        self.children = []

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for child in reversed(self.children):
            process.end(child)
            if child.stdout:
                child.stdout.close()
        self.children = []

    def command(self):
        """The port and the words that start the program, in front of the upstream that runs."""
        self.folder.mkdir(parents=True, exist_ok=True)
        port = _free_port()
        words = [find(self.kind.program), *self.kind.arguments(port, self.upstream_port, self.folder)]
        return port, words

    def start_load(self):
        """Starts the upstream, which is also where clients come from."""
        self.load = Load(self.tools, self.kind.title)
        self.children.append(self.load.child)
        self.upstream_port = self.load.upstream_port

    def _start(self):
        self.start_load()
        port, words = self.command()
        if self.before:
            words = [*self.before, *words, *self.kind.single]
        tells_port = self.kind.key == "relay"
        errors = open(self.folder / "stderr", "w+")
        out = subprocess.PIPE if tells_port else errors
        self.child = _spawn(PROXY_CORE, words, stdout=out, stderr=errors, stdin=subprocess.DEVNULL, text=True)
        self.children.append(self.child)
        if tells_port:
            port = int(_line(self.child, self.kind.title).rpartition(":")[2])
        self.address = f"127.0.0.1:{port}"
        begun = time.monotonic()
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError as error:
                if self.child.poll() is not None or time.monotonic() - begun > PATIENCE_SECONDS:
                    errors.seek(0)
                    raise Failure(f"{self.kind.title} does not listen: {errors.read().strip()}") from error
                time.sleep(0.002)
        errors.close()
        # nginx accepts before its worker is there.
        time.sleep(0.05)
        self.pids = process.tree(self.child.pid)

    def cpu_ns(self):
        return process.cpu_ns(self.pids)

    def can_hold(self, tunnels):
        """Whether it has descriptors for so many, and some for itself."""
        return 2 * tunnels + 50 <= DESCRIPTORS_MAX * self.kind.descriptors_used

    def settle(self):
        """Waits until the program has nothing left to do, and tells its CPU time."""
        begun = since = time.monotonic()
        last = self.cpu_ns()
        while time.monotonic() - since < 0.02 and time.monotonic() - begun < PATIENCE_SECONDS:
            time.sleep(0.002)
            now = self.cpu_ns()
            # One that waits for a core is not done, and a wake-up that only looks at a clock is no work.
            if process.wants_core(self.pids) or now - last > 100_000:
                last, since = now, time.monotonic()
        return self.cpu_ns()


    def clients(self, groups):
        """Clients of its own load. A context: they leave with it."""
        return Clients(self.load, self.address, groups)

    def quiet_clients(self, group):
        """Clients of a load of their own, which leaves its descriptors to the other. A context as well."""
        return Clients(Load(self.tools, self.kind.title), self.address, [group], is_own=True)


class Direct:
    """A load with nothing in front of its upstream: what it can do at most."""

    def __init__(self, tools):
        self.contestant = Contestant(Kind("direct", "no proxy", "", (), None), tools, ".")
        self.kind = self.contestant.kind

    def __enter__(self):
        self.contestant.start_load()
        self.contestant.address = f"127.0.0.1:{self.contestant.upstream_port}"
        self.clients = self.contestant.clients
        return self

    def __exit__(self, *_):
        self.contestant.__exit__()


class Load:
    """A process that is an upstream and clients; see src/bin/load."""

    def __init__(self, tools, title):
        self.what = f"the load for {title}"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.child = _spawn(LOAD_CORE, [tools.load], text=True, **pipes)
        self.pids = [self.child.pid]
        self.upstream_port = int(_line(self.child, self.what).rpartition(":")[2])

    def ask(self, line):
        """What it answers."""
        # If it has gone, its last words are told below.
        with contextlib.suppress(BrokenPipeError):
            self.child.stdin.write(f"{line}\n")
            self.child.stdin.flush()
        return _line(self.child, f"{self.what}, {line},")

    def end(self):
        """Ends the process."""
        process.end(self.child)


class Clients:
    """Clients of one contestant."""

    def __init__(self, load, address, groups, is_own=False):
        self.load, self.address, self.groups, self.is_own = load, address, groups, is_own

    def __enter__(self):
        try:
            self.load.ask(f"connect {self.address} {' '.join(self.groups)}")
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def slice(self, limit):
        """`for MS` or `times OPERATIONS`."""
        return json.loads(self.load.ask(limit))

    def __exit__(self, kind, *_):
        if self.is_own:
            self.load.end()
        elif kind is None:
            self.load.ask("leave")
