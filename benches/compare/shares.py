#!/usr/bin/env python3
"""Tells how much of an operation's CPU a program spends in its own code and how much in the kernel: see docs/benchmarks.md.

    python3 benches/compare/shares.py --hawkey target/release/hawkey --tools target/bench/release

The kernel counts a process's ticks in both, and its nanoseconds as a whole; the programs take short slices in turn. About four minutes.
"""

import argparse
import contextlib
import pathlib
import tempfile

from contestants import Contestant, Tools, kinds

PROGRAMS = ("relay", "hawkey", "nginx")
GROUPS = {"32-byte echo": "echo:64:32", "16 kB echo": "echo:64:16000", "GET": "get:64:100", "dial": "dial:16:32"}
ROUNDS = 8
SLICE_MS = 1500


def ticks(pids):
    """Ticks in user code and in the kernel, of all of a program's processes: fields 14 and 15 of proc(5)'s stat."""
    stats = [pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return [sum(int(stat[field]) for stat in stats) for field in (11, 12)]


def measure(contestants, group):
    """For each program: nanoseconds of an operation, and the part of its ticks that was user code's."""
    spent = {contestant.kind.key: [0, 0, 0, 0] for contestant in contestants}
    for _ in range(ROUNDS):
        for contestant in contestants:
            with contestant.clients([group]) as clients:
                clients.slice("for 100")
                ns, before = contestant.settle(), ticks(contestant.pids)
                told = clients.slice(f"for {SLICE_MS}")
                after = ticks(contestant.pids)
                figures = (*(b - a for a, b in zip(before, after)), contestant.settle() - ns, told["operations"])
                spent[contestant.kind.key] = [a + b for a, b in zip(spent[contestant.kind.key], figures)]
    return {key: (ns / operations, user / (user + kernel)) for key, (user, kernel, ns, operations) in spent.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hawkey", required=True, type=pathlib.Path, help="the program")
    parser.add_argument("--tools", required=True, type=pathlib.Path, help="the folder of load and relay")
    arguments = parser.parse_args()
    known = {kind.key: kind for kind in kinds(str(arguments.hawkey), str(arguments.tools / "relay"))}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        contestants = [
            stack.enter_context(Contestant(known[key], Tools(arguments.tools), pathlib.Path(folder) / key))
            for key in PROGRAMS
        ]
        for title, group in GROUPS.items():
            for key, (ns, user) in measure(contestants, group).items():
                told = f"{ns * user / 1000:.2f} µs of its own and {ns * (1 - user) / 1000:.2f} µs of the kernel"
                print(f"{title}, {key}: {told}", flush=True)


if __name__ == "__main__":
    main()
