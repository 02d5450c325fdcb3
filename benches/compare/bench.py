#!/usr/bin/env python3
"""Compares hawkey with other proxies and a bare relay: see docs/benchmarks.md for the method, scripts/bench for how it is started.

All programs are up at once, on core 0, each in front of an upstream of its own on core 1, where the load is as well. What costs CPU is
measured in short slices in turn; a program's CPU time is read from the kernel before and after each.
"""

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import process
import report
import works
from contestants import LOAD_CORE, PROXY_CORE, Contestant, Direct, Failure, Tools, find, kinds, version
from works import BULK_DOWNLOAD, BULK_TUNNEL, CROWD, DIAL, FLOOR, GROWTH, HALF_HEAD_BYTES

# What else a machine does comes and goes within a second, so that many rounds of short slices say more than few of long ones.
FULL = {
    "rounds": 48,
    "slice_ms": 100,
    "direct_rounds": 12,
    "wake_seconds": 10,
    "starts": 20,
    "growth": GROWTH,
}
FEWER = {"rounds": 12, "direct_rounds": 2}
QUICK = FULL | FEWER | {"wake_seconds": 3, "starts": 5, "growth": ()}
# Longer than the timeouts for connecting and upgrading in every configuration.
CALM_SECONDS = 6


class Bench:
    """A run."""

    def __init__(self, all_kinds, tools, folder, settings, only):
        self.kinds, self.tools, self.folder, self.settings, self.only = all_kinds, tools, folder, settings, only
        self.figures = {"works": {}, "load": {}}
        self.ups = 0
        self.begun = time.monotonic()

    def say(self, what):
        print(f"{time.monotonic() - self.begun:6.0f} s  {what}", flush=True)

    def main_kinds(self):
        return [kind for kind in self.kinds if not kind.variant_of]

    def work_kinds(self, work):
        """Splicing only matters for bulk; larger buffers for all that is larger than a buffer."""
        is_bulk = work.key in (BULK_TUNNEL, BULK_DOWNLOAD)
        return [kind for kind in self.kinds if is_bulk or kind.key != "haproxy_splice"]

    def is_wanted(self, name):
        return not self.only or name in self.only

    def up(self, stack, chosen):
        """All these programs, fresh."""
        self.ups += 1
        own = self.folder / str(self.ups)
        return [stack.enter_context(Contestant(kind, self.tools, own / kind.key)) for kind in chosen]

    def run(self):
        """Everything that is wanted."""
        self.all_works()
        for name in ["crowd", "memory", "start", "growth"]:
            if self.is_wanted(name):
                getattr(self, name)()
        return self.figures

    def all_works(self):
        """What costs CPU, one work after the other."""
        wanted = [work for work in works.WORKS if self.is_wanted(work.key)]
        with contextlib.ExitStack() as stack:
            started = {one.kind.key: one for one in self.up(stack, self.kinds if wanted else [])}
            direct = stack.enter_context(Direct(self.tools))
            for work in wanted:
                chosen = [started[kind.key] for kind in self.work_kinds(work)]
                self.figures["works"][work.key] = self.work(work, chosen, direct)

    def work(self, work, chosen, direct):
        """The slices of one work, round by round."""
        told = {one.kind.key: [] for one in [direct, *chosen]}
        with contextlib.ExitStack() as stack:
            loads = {one.kind.key: stack.enter_context(one.clients(work.groups)) for one in [direct, *chosen]}
            for load in loads.values():
                load.slice("for 50")
            for index in range(self.settings["rounds"]):
                if index < self.settings["direct_rounds"]:
                    told["direct"].append(loads["direct"].slice(f"for {self.settings['slice_ms']}"))
                for one in works.shuffled(chosen, index):
                    told[one.kind.key].append(self.slice(one, loads[one.kind.key], work))
        rates = told.pop("direct")
        self.tell(work, told, rates)
        return told

    def slice(self, contestant, load, work):
        """One slice, with what the program and its load spent."""
        own = contestant.load.pids
        before, own_before = contestant.cpu_ns(), process.cpu_ns(own)
        told = load.slice(f"for {self.settings['slice_ms']}")
        # What was begun has come back, but for tunnels there is still something to close.
        after = contestant.settle() if work.key == DIAL else contestant.cpu_ns()
        told["cpu_ns"] = after - before
        told["load_cpu_ns"] = process.cpu_ns(own) - own_before
        done = told["bytes"] if work.per_byte else told["operations"]
        if not done:
            raise Failure(f"{contestant.kind.title} did nothing: {work.title}")
        told["cost_ns"] = told["cpu_ns"] / done
        return told

    def tell(self, work, told, direct):
        """The medians, and whether the load was faster than what it measured."""
        titles = {kind.key: kind.title for kind in self.kinds}
        for row in works.rows({"works": {work.key: told}}):
            self.say(f"{row.title}: " + " · ".join(f"{titles[key]} {cell}" for key, cell in row.cells.items()))
        done = "bytes" if work.per_byte else "operations"

        def rate(rounds):
            return statistics.median(one[done] / one["seconds"] for one in rounds)

        fastest = max(told.keys() - {FLOOR}, key=lambda name: rate(told[name]))
        self.figures["load"][work.key] = {
            "direct_rate": rate(direct),
            "fastest": fastest,
            "fastest_rate": rate(told[fastest]),
            "proxy_busy": statistics.median(one["cpu_ns"] / 1e9 / one["seconds"] for one in told[fastest]),
            "load_busy": statistics.median(one["load_cpu_ns"] / 1e9 / one["seconds"] for one in told[fastest]),
        }

    def crowd(self):
        """Each program twice, once with idle tunnels beside the busy ones, one right after the other. They change roles half way."""
        told = {}
        work = works.WORKS[0]
        with contextlib.ExitStack() as stack:
            twins = [self.up(stack, self.main_kinds()) for _ in range(2)]
            loads = {one: stack.enter_context(one.clients(work.groups)) for one in twins[0] + twins[1]}
            for load in loads.values():
                load.slice("for 50")
            for alone, beside in [twins, reversed(twins)]:
                with contextlib.ExitStack() as crowd:
                    idle = [crowd.enter_context(one.quiet_clients(f"idle:{CROWD}:32")) for one in beside]
                    for one in beside:
                        one.settle()
                    for index in range(self.settings["rounds"] // 2):
                        for pair in works.shuffled(list(zip(alone, beside)), index):
                            for role, one in works.shuffled(list(zip(["alone", "beside"], pair)), index):
                                costs = told.setdefault(one.kind.key, {"alone": [], "beside": []})[role]
                                costs.append(self.slice(one, loads[one], work)["cost_ns"])
                    for load in idle:
                        load.slice("for 0")
                for one in beside:
                    one.settle()
        self.figures["crowd"] = told
        self.say(f"64 tunnels beside {CROWD:,} idle and without them: done")

    def memory(self):
        """Memory for each of many quiet clients, and wake-ups of programs that have none or many."""
        memory = self.figures["memory"] = {}
        for key, group in [
            ("idle", f"idle:{CROWD}:32"),
            ("kept", f"kept:{CROWD}:10"),
            ("half", f"half:{CROWD}:{HALF_HEAD_BYTES}:browser"),
        ]:
            with contextlib.ExitStack() as stack:
                chosen = self.up(stack, self.kinds_with_memory())
                if key == "idle":
                    self.figures["start"] = {one.kind.key: self.at_start(one) for one in chosen}
                # What is set up with the first client is no client's. Beside tunnels there is no request, whose connection to the upstream
                # would be kept for a while, and then be something that happens.
                first = ["echo:1:32"] if key == "idle" else ["get:1:10", "echo:1:32"]
                for one in chosen:
                    with one.clients(first) as load:
                        load.slice("times 100")
                    one.settle()
                before = {one.kind.key: process.anonymous_bytes(one.pids) for one in chosen}
                if key == "idle":
                    self.figures["sleeps_quiet"] = self.sleeps(chosen)
                with contextlib.ExitStack() as crowd:
                    loads = []
                    for one in chosen:
                        loads.append(crowd.enter_context(one.quiet_clients(group)))
                        one.settle()
                        grown = process.anonymous_bytes(one.pids) - before[one.kind.key]
                        memory.setdefault(key, {})[one.kind.key] = {"each_bytes": grown / CROWD}
                    if key == "idle":
                        self.figures["sleeps_crowded"] = self.sleeps(chosen)
                    for load in loads:
                        load.slice("for 0")
                # Some programs give memory back a little later.
                time.sleep(1)
                for one in chosen:
                    one.settle()
                    left = process.anonymous_bytes(one.pids) - before[one.kind.key]
                    memory[key][one.kind.key]["left_bytes"] = left
                told = " · ".join(f"{one.kind.title} {memory[key][one.kind.key]['each_bytes']:,.0f} B" for one in chosen)
                self.say(f"memory, {group}: {told}")

    def kinds_with_memory(self):
        return [kind for kind in self.kinds if kind.key != "haproxy_splice"]

    def sleeps(self, chosen):
        """How often each is woken a second while nothing happens."""
        seconds = self.settings["wake_seconds"]
        # By then deadlines that nobody waits for any more have woken the programs that keep them.
        time.sleep(CALM_SECONDS)
        before = {one.kind.key: process.sleeps(one.pids) for one in chosen}
        time.sleep(seconds)
        return {one.kind.key: (process.sleeps(one.pids) - before[one.kind.key]) / seconds for one in chosen}

    def at_start(self, contestant):
        """A program that has had nothing to do yet, but for one connection that tried whether it accepts."""
        return {
            "resident_bytes": process.resident_bytes(contestant.pids),
            "anonymous_bytes": process.anonymous_bytes(contestant.pids),
            "program_bytes": os.path.getsize(find(contestant.kind.program)),
            "libraries_bytes": process.libraries_bytes(contestant.pids[0]),
        }

    def start(self):
        """From the start of a program until it accepts."""
        for kind in self.main_kinds():
            if kind.key == FLOOR:
                continue
            contestant = Contestant(kind, self.tools, self.folder / f"start-{kind.key}")
            try:
                contestant.start_load()
                port, words = contestant.command()
                where = [f"127.0.0.1:{port}", self.settings["starts"], PROXY_CORE, LOAD_CORE]
                told = subprocess.run(
                    [self.tools.start, *map(str, where), *words], capture_output=True, text=True, check=True, timeout=120
                ).stdout
            finally:
                contestant.__exit__()
            ready = [float(line) for line in told.split()]
            self.figures.setdefault("start", {}).setdefault(kind.key, {})["ready_ms"] = statistics.median(ready)
            self.say(f"ready to accept: {kind.title} {statistics.median(ready):.1f} ms")

    def growth(self):
        """What a message costs beside ever more idle tunnels."""
        growth = self.figures["growth"] = {}
        if not self.settings["growth"]:
            return
        work = works.WORKS[0]
        with contextlib.ExitStack() as stack:
            chosen = self.up(stack, self.main_kinds())
            loads = {one.kind.key: stack.enter_context(one.clients(["echo:64:32"])) for one in chosen}
            tunnels = 64
            for wanted in self.settings["growth"]:
                chosen = [one for one in chosen if one.can_hold(wanted)]
                for one in chosen:
                    stack.enter_context(one.quiet_clients(f"idle:{wanted - tunnels}:32"))
                    one.settle()
                tunnels = wanted
                for index in range(self.settings["rounds"]):
                    for one in works.shuffled(chosen, index):
                        cost = self.slice(one, loads[one.kind.key], work)["cost_ns"]
                        growth.setdefault(one.kind.key, {}).setdefault(wanted, []).append(cost)
                told = " · ".join(
                    f"{one.kind.title} {statistics.median(growth[one.kind.key][wanted]) / 1000:.1f} µs" for one in chosen
                )
                self.say(f"32-byte echo among {wanted:,} tunnels: {told}")


def versions(all_kinds):
    """What is compared, by version."""
    return {kind.title: version(kind) for kind in all_kinds if kind.version and not kind.variant_of}


def parse():
    names = [*[work.key for work in works.WORKS], "crowd", "memory", "start", "growth"]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer slices, no growth: less than three minutes")
    parser.add_argument("--publish", action="store_true", help="write docs/benchmarks.svg and the tables of docs/benchmarks.md")
    parser.add_argument("--only", nargs="+", choices=names, default=[], metavar="PART", help=f"of {', '.join(names)}")
    parser.add_argument("--hawkey", required=True, type=pathlib.Path, help="the program")
    parser.add_argument("--tools", required=True, type=pathlib.Path, help="where load, relay and start are")
    parser.add_argument("--json", required=True, type=pathlib.Path, help="where the figures go")
    parser.add_argument("--docs", type=pathlib.Path, default=pathlib.Path("docs"), help="where --publish writes")
    return parser.parse_args()


def main():
    arguments = parse()
    # Whatever ends this ends all that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if os.cpu_count() < 2:
        raise Failure("two cores are needed, one for the proxies and one for the load")
    settings = QUICK if arguments.quick else FULL
    if arguments.publish and (arguments.quick or arguments.only):
        raise Failure("only a full run is worth publishing")
    all_kinds = kinds(str(arguments.hawkey), str(arguments.tools / "relay"))
    report_of = {
        "date": datetime.date.today().isoformat(),
        "machine": report.machine(),
        "versions": versions(all_kinds),
        "settings": {**settings, "descriptors": resource.getrlimit(resource.RLIMIT_NOFILE)[1]},
    }
    print(report_of["machine"])
    print(", ".join(f"{title} {number}" for title, number in report_of["versions"].items()))
    with tempfile.TemporaryDirectory() as folder:
        # nginx's worker is not root.
        os.chmod(folder, 0o755)
        bench = Bench(all_kinds, Tools(arguments.tools), pathlib.Path(folder), settings, set(arguments.only))
        report_of["figures"] = bench.run()
    rows = works.rows(report_of["figures"])
    report_of["rows"] = [dataclasses.asdict(row) for row in rows]
    # Some of it must not take the place of a whole run.
    path = arguments.json.with_stem(f"{arguments.json.stem}-only") if arguments.only else arguments.json
    path.write_text(json.dumps(report_of, indent=1) + "\n")
    load = list(report.load_lines(report_of["figures"]["load"], all_kinds, works.WORKS))
    if load:
        print(f"\n{report.aligned(report.LOAD_HEADS, load)}")
    if report_of["figures"].get("growth"):
        print(f"\n{report.aligned(*report.growth_lines(report_of['figures']['growth'], all_kinds))}")
    if rows:
        print(f"\n{report.text(all_kinds, rows)}\n\n{report.verdict(rows)}")
    print(f"\nEvery figure is in {path}")
    if arguments.publish:
        report.publish_bench(arguments.docs, report_of, all_kinds, works.WORKS, rows)


if __name__ == "__main__":
    try:
        main()
    except (Failure, KeyboardInterrupt) as failure:
        sys.exit(f"bench: {failure or 'interrupted'}")
