"""A stage: the programs of one story, started on loopback and ended when it is over, however it ends.

Every program runs in a process group of its own, so that what it starts ends with it, and writes into the folder of its stage,
so that a failure can show what it said.
"""

import contextlib
import hashlib
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
DOCS = HERE.parent.parent / "docs"
PATIENCE_SECONDS = 30
# Debian keeps nginx where only root looks.
PATH = f"{os.environ['PATH']}:/usr/sbin"


class Failure(Exception):
    """What was expected of a program did not happen."""


class Program:
    """A process, where it answers, and the files that hold what it says on standard output and standard error."""

    def __init__(self, name, process, out, err):
        self.name = name
        self.process = process
        self.out = out
        self.err = err
        self.address = None  # `127.0.0.1:PORT`, of a server that answers

    def ended(self):
        """Whether it has ended. Its id stays its own until `end`, so that no signal can reach a stranger."""
        if self.process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def said(self, stream="out"):
        """What it said until now, line ends as they came."""
        return getattr(self, stream).read_bytes().decode(errors="replace")

    def says(self, pattern, stream="out"):
        """Waits until a line matches `pattern`; the match."""

        def look():
            # Asked before the file is read, or the last words could be missed.
            ended = self.ended()
            found = re.search(pattern, self.said(stream), re.MULTILINE)
            if ended and not found:
                raise Failure(f"{self.name} ended with {self.end()} before it said {pattern!r}")
            return found

        return wait_until(f"{self.name} says {pattern!r}", look)

    def end(self):
        """Asks the program to end and insists after a while, also on what it has started; its exit code."""
        if self.process.returncode is None:
            if not self.ended():
                os.kill(self.process.pid, signal.SIGTERM)
            with contextlib.suppress(Failure):
                wait_until(f"{self.name} ends", self.ended, seconds=10)
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()


class Stage:
    """The folder and the programs of one story. What is put on the stage last is taken off first.

    `tools` says where the programs are that are not simply on the PATH: run.py's arguments.
    """

    def __init__(self, tools):
        self.tools = tools
        self.programs = []
        self.endings = contextlib.ExitStack()
        self.folder = pathlib.Path(self.endings.enter_context(tempfile.TemporaryDirectory(prefix="hawkey-")))

    def start(self, name, command, log_to=None, **environment):
        """Starts a program that stays. Whoever has it write its standard error to `log_to` brings that into its file `err`."""
        number = len(self.programs)
        out, err = (self.folder / f"{number}-{name}.{stream}" for stream in ("out", "err"))
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr if log_to is None else log_to,
                cwd=self.folder,
                env=os.environ | {"NODE_PATH": str(self.tools.modules), "PATH": PATH} | environment,
                start_new_session=True,
            )
        program = Program(name, process, out, err)
        self.programs.append(program)
        self.endings.callback(program.end)
        return program

    def run(self, name, command):
        """Runs a program to its end, which must be a good one; what it said on standard output."""
        program = self.start(name, command)
        wait_until(f"{name} is done", program.ended)
        code = program.end()
        if code != 0:
            last_words = program.said("err").strip() or program.said().strip()
            raise Failure(f"{name} ended with {code}: {last_words[-1500:]}")
        return program.said()

    def hawkey(self, *routes, configuration=None):
        """Starts hawkey with these routes, or with this configuration, and waits until it listens."""
        if configuration is None:
            command = [self.tools.hawkey, "--control", "off", "127.0.0.1:0", *routes]
        else:
            path = self.folder / f"hawkey-{len(self.programs)}.toml"
            path.write_text(configuration)
            command = [self.tools.hawkey, "--control", "off", "-c", path]
        program = self.start("hawkey", command)
        program.address = program.says(r"\blistening=(127\.0\.0\.1:\d+)", "err").group(1)
        self.endings.callback(end_well, program)
        return program

    def node(self, script, *arguments):
        """Starts a server of `node/`, and waits until it tells its address."""
        program = self.start(f"node-{pathlib.Path(script).stem}", ["node", HERE / "node" / script, *arguments])
        program.address = program.says(r"listening on (127\.0\.0\.1:\d+)").group(1)
        return program

    def nginx(self, port, configuration):
        """Starts nginx with `configuration` inside its `http` block, and waits until it answers on `port`."""
        path = self.folder / f"nginx-{len(self.programs)}.conf"
        own = "\n".join(
            f"{name}_temp_path {self.folder}/nginx-{name};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;" if os.geteuid() == 0 else ""
        path.write_text(
            f"{user} daemon off; worker_processes 1; pid {self.folder}/nginx-{port}.pid; error_log stderr;\n"
            f"events {{}}\nhttp {{\n{own}\naccess_log {self.folder}/nginx-{port}.log;\n{configuration}\n}}\n"
        )
        program = self.start("nginx", ["nginx", "-e", "stderr", "-p", self.folder, "-c", path])
        return answering(program, port)

    def random_file(self, name, megabytes):
        """A file that nothing can compress or guess; its path."""
        path = self.folder / name
        with path.open("wb") as file:
            for _ in range(megabytes):
                file.write(os.urandom(1 << 20))
        return path

    def last_words(self):
        """What the programs said last on standard error, for the one who looks into a failure."""
        for program in self.programs:
            for line in program.said("err").splitlines()[-8:] if program.err.exists() else ():
                yield f"{program.name}: {line[:300]}"


def end_well(program):
    """Ends a program that must have lived until now, must end as asked, and must not have panicked."""
    by_itself = program.ended()
    code = program.end()
    log = program.said("err")
    if by_itself or code != 0 or "panicked" in log:
        raise Failure(f"{program.name} ended {'by itself' if by_itself else 'as asked'} with {code}: {log[-1500:]}")


def free_port():
    """A port that is free, and that the kernel gives to no client meanwhile, for programs that cannot be given port 0."""
    first, last = map(int, pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = [*range(1024, first), *range(last + 1, 1 << 16)]
    for port in random.sample(ports, len(ports)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise Failure("every port is taken, or the kernel's own")


def wait_until(what, condition, seconds=PATIENCE_SECONDS):
    """Waits until `condition()` is true; its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise Failure(f"waited {seconds} s in vain until {what}")
        time.sleep(0.01)
    return value


def answering(program, port):
    """The program, once something accepts on its `port`."""

    def look():
        if program.ended():
            raise Failure(f"{program.name} ended with {program.end()} before it answered: {program.said('err')[-500:]}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(f"{program.name} answers on port {port}", look)
    program.address = f"127.0.0.1:{port}"
    return program


def sha256(path):
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def expect(what, expected, found):
    """Fails unless what was found is what was expected."""
    if expected != found:
        raise Failure(f"{what}: expected {expected!r}, found {found!r}")


def expect_in(what, part, whole):
    """Fails unless `part` is in `whole`."""
    if part not in whole:
        raise Failure(f"{what}: expected {part!r} in {whole!r}")


def from_docs(page, language, replacements):
    """The first block of `language` on a page of docs/, so that what is told there is what is tested here.

    Only addresses and paths may differ: each key of `replacements` must stand in the block, and becomes its value.
    """
    found = re.search(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    if not found:
        raise Failure(f"docs/{page} has no block of {language}")
    block = found.group(1)
    for text, other in replacements.items():
        expect_in(f"docs/{page}", text, block)
        block = block.replace(text, str(other))
    return block
