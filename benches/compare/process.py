"""What Linux tells about a process and all its children, and how a process is ended."""

import contextlib
import os
import pathlib
import signal
import subprocess
import time

PATIENCE_SECONDS = 5

PROC = pathlib.Path("/proc")


def tree(pid):
    """The process and its descendants."""
    parents = {}
    for folder in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            parents.setdefault(int(fields[1]), []).append(int(folder.name))
    found = [pid]
    for known in found:
        found.extend(parents.get(known, []))
    return found


def cpu_ns(pids):
    """Nanoseconds that all their threads have run."""
    return sum(int(text.split()[0]) for text in _of_tasks(pids, "schedstat"))


def sleeps(pids):
    """How often their threads have gone to sleep and so were woken."""
    return sum(int(_field(text, "voluntary_ctxt_switches")) for text in _of_tasks(pids, "status"))


def wants_core(pids):
    """Whether one of their threads runs, or would if it had a core."""
    return any(text.rpartition(")")[2].split()[0] == "R" for text in _of_tasks(pids, "stat"))


def anonymous_bytes(pids):
    """Memory that is their own."""
    return sum(_status_bytes(pid, "RssAnon") for pid in pids)


def resident_bytes(pids):
    """Memory that is their own, and the largest part of files that one of them has: they share those."""
    files = max(_status_bytes(pid, "RssFile") + _status_bytes(pid, "RssShmem") for pid in pids)
    return anonymous_bytes(pids) + files


def libraries_bytes(pid):
    """The size of all shared libraries that the process has mapped."""
    lines = (PROC / str(pid) / "maps").read_text().splitlines()
    mapped = {line.split(maxsplit=5)[5] for line in lines if line.count("/") > 0}
    return sum(os.path.getsize(path) for path in mapped if ".so" in path and os.path.exists(path))


def end(child):
    """Asks a child and its process group to end, and makes them."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(PATIENCE_SECONDS)
            # A worker may outlive the process that began the group by a moment.
            begun = time.monotonic()
            while time.monotonic() - begun < PATIENCE_SECONDS:
                try:
                    os.killpg(child.pid, 0)
                except ProcessLookupError:
                    return
                time.sleep(0.005)


def _of_tasks(pids, name):
    for pid in pids:
        for task in (PROC / str(pid) / "task").iterdir():
            yield (task / name).read_text()


def _field(status, name):
    return status.partition(f"\n{name}:")[2].split(maxsplit=1)[0]


def _status_bytes(pid, name):
    return int(_field((PROC / str(pid) / "status").read_text(), name)) * 1024
