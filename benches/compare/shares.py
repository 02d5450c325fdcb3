#!/usr/bin/env python3
"""Tells how much of an operation's CPU a program spends in its own code and how much in the kernel, and in which of its functions: see
docs/benchmarks.md.

    python3 benches/compare/shares.py --hawkey target/release/hawkey --tools target/bench/release

`perf` samples the programs, which take short slices in turn. About five minutes.
"""

import argparse
import collections
import contextlib
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import works
from contestants import PATIENCE_SECONDS, Contestant, Tools, kinds

PROGRAMS = (works.FLOOR, works.HAWKEY, "nginx")
GROUPS = {"32-byte echo": "echo:64:32", "16 kB echo": "echo:64:16000", "GET": "get:64:100", "dial": "dial:16:32"}
ROUNDS = 150
SLICE_MS = 100
SAMPLES_A_SECOND = 9000
# What perf needs until it samples.
PERF_SECONDS = 0.25
OWN = "own code"
# Functions that are told of, by how much they differ.
TOLD = 10


@contextlib.contextmanager
def sampled(pids, folder):
    """A counter that has, in the end, in which function of the kernel the processes were found while they ran, or in their own code."""
    data, samples = folder / "perf.data", collections.Counter()
    events = ["-e", "cpu-clock", "-F", str(SAMPLES_A_SECOND), "-p", ",".join(map(str, pids))]
    perf = subprocess.Popen(["perf", "record", "-q", "-o", data, *events], stderr=subprocess.PIPE, text=True)
    try:
        time.sleep(PERF_SECONDS)
        yield samples
    finally:
        perf.send_signal(signal.SIGINT)
        _, why = perf.communicate(timeout=PATIENCE_SECONDS)
    script = ["perf", "script", "-i", data, "-F", "ip,sym"]
    told = subprocess.run(script, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    if not told.stdout:
        raise SystemExit(f"perf tells nothing: {why.strip()} {told.stderr.strip()}")
    for address, *names in filter(None, map(str.split, told.stdout.splitlines())):
        # The kernel has the upper half of all addresses.
        is_kernel = len(address) == 16 and address[0] in "89abcdef"
        samples[names[0].partition("+")[0] if is_kernel and names else OWN] += 1


def measure(contestants, group):
    """For each program, the floor first: how many samples there were, and how many µs of an operation each function takes."""
    costs = {contestant.kind.key: [] for contestant in contestants}
    with contextlib.ExitStack() as stack:
        clients = {one: stack.enter_context(one.clients([group])) for one in contestants}
        for one in contestants:
            clients[one].slice("for 100")
        found = {one.kind.key: stack.enter_context(sampled(one.pids, one.folder)) for one in contestants}
        for index in range(ROUNDS):
            for one in works.shuffled(contestants, index):
                before = one.settle()
                operations = clients[one].slice(f"for {SLICE_MS}")["operations"]
                costs[one.kind.key].append((one.settle() - before) / operations / 1000)
    floor = costs[works.FLOOR]
    for key, samples in found.items():
        total = samples.total()
        cost = statistics.median(floor) * works.median_ratio(costs[key], floor)
        yield key, total, {name: cost * count / total for name, count in samples.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--hawkey", required=True, type=pathlib.Path, help="the program")
    parser.add_argument("--tools", required=True, type=pathlib.Path, help="the folder of load and relay")
    arguments = parser.parse_args()
    # Whatever ends this ends all that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    known = {kind.key: kind for kind in kinds(str(arguments.hawkey), str(arguments.tools / "relay"))}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        contestants = [
            stack.enter_context(Contestant(known[key], Tools(arguments.tools), pathlib.Path(folder) / key))
            for key in PROGRAMS
        ]
        for title, group in GROUPS.items():
            shares = {}
            for key, total, micros in measure(contestants, group):
                shares[key] = micros
                kernel = sum(micros.values()) - micros[OWN]
                told = f"{micros[OWN]:.2f} µs of its own and {kernel:.2f} µs of the kernel"
                print(f"{title}, {key}: {told}, by {total:,} samples", flush=True)
            floor, own = shares[works.FLOOR], shares[works.HAWKEY]
            beyond = {name: own.get(name, 0) - floor.get(name, 0) for name in own.keys() | floor.keys()}
            most = sorted(beyond, key=lambda name: -abs(beyond[name]))
            told = [f"{name} {beyond[name]:+.3f}" for name in most[:TOLD]]
            rest = sum(beyond[name] for name in most[TOLD:])
            print(f"{title}, hawkey beyond the relay: {', '.join(told)}, {len(most[TOLD:])} others {rest:+.3f}", flush=True)


if __name__ == "__main__":
    main()
