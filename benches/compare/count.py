#!/usr/bin/env python3
"""User instructions and system calls of each program for a message, a GET and a handshake: see docs/benchmarks.md.

A program is run twice, with few and with many operations on one connection at a time; the difference, divided by the difference of the
operations, is what one costs. It depends on nothing else that the machine does.
"""

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import re
import signal
import sys
import tempfile

import report
import works
from contestants import Contestant, Failure, Tools, find, kinds, version

FEW, MANY = 200, 1200

@dataclasses.dataclass(frozen=True)
class Operation:
    """What is done, and how many instructions and system calls hawkey may take for it."""

    key: str
    title: str
    group: str
    instructions_most: int | None = None
    calls_most: int | None = None


OPERATIONS = [
    Operation("echo", "a message and its echo", "echo:1:32", instructions_most=2 * 450, calls_most=6),
    Operation("get", "a GET", "get:1:100", instructions_most=6000, calls_most=6),
    Operation("get_browser", "a GET with a browser's head", "get:1:100:browser"),
    Operation("handshake", "dial, upgrade, close", "dial:1:0", instructions_most=8000),
    Operation("handshake_browser", "the same with a browser's head", "dial:1:0:browser"),
]


class Count:
    """A run."""

    def __init__(self, tools, folder):
        self.tools, self.folder, self.runs = tools, folder, 0

    def instructions(self, kind, group):
        """User instructions for one operation."""
        one = [self.instructions_of_run(kind, group, times) for times in (FEW, MANY)]
        return (one[1] - one[0]) / (MANY - FEW)

    def instructions_of_run(self, kind, group, times):
        text = self.run(kind, group, times, ["valgrind", "--tool=callgrind", "--callgrind-out-file=OUT"])
        return int(re.search(r"^(?:summary|totals): (\d+)", text, re.MULTILINE)[1])

    def calls(self, kind, group):
        """System calls by name for one operation, without those that are rarer than one in ten operations."""
        few, many = (self.calls_of_run(kind, group, times) for times in (FEW, MANY))
        each = {name: (number - few.get(name, 0)) / (MANY - FEW) for name, number in many.items()}
        return {name: number for name, number in sorted(each.items()) if number >= 0.1}

    def calls_of_run(self, kind, group, times):
        text = self.run(kind, group, times, ["strace", "-f", "-c", "-U", "name,calls", "-o", "OUT"])
        # The total is there with the calls.
        return {name: int(number) for name, number in re.findall(r"^ *(\w+) +(\d+)$", text, re.MULTILINE) if name != "total"}

    def run(self, kind, group, times, before):
        """What the tool wrote about a run with so many operations."""
        self.runs += 1
        folder = self.folder / str(self.runs)
        out = folder / "out"
        before = [find(before[0]), *(word.replace("OUT", str(out)) for word in before[1:])]
        with Contestant(kind, self.tools, folder, before) as contestant:
            with contestant.clients([group]) as load:
                load.slice(f"times {times}")
            # nginx in a single process overlooks a signal that comes while it is busy.
            contestant.settle()
        if not out.exists() or not out.stat().st_size:
            raise Failure(f"{before[0]} wrote nothing about {kind.title}")
        return out.read_text()


def rows(figures):
    """The rows of the table."""
    made = []
    for operation in OPERATIONS:
        each = figures["instructions"][operation.key]
        made.append(_row(f"user instructions: {operation.title}", each, "{:,.0f}".format, operation.instructions_most))
    for operation in OPERATIONS:
        each = {name: sum(calls.values()) for name, calls in figures["calls"][operation.key].items()}
        made.append(_row(f"system calls: {operation.title}", each, "{:.1f}".format, operation.calls_most))
    return made


def _row(title, each, show, most):
    own = each["hawkey"]
    targets = [] if most is None else [(f"≤ {most:,}", show(own), round(own, 1) <= most)]
    return works.Row(title, {name: show(number) for name, number in each.items()}, targets)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--publish", action="store_true", help="write the table of docs/benchmarks.md")
    parser.add_argument("--hawkey", required=True, type=pathlib.Path, help="the program")
    parser.add_argument("--tools", required=True, type=pathlib.Path, help="where load, upstream and relay are")
    parser.add_argument("--json", required=True, type=pathlib.Path, help="where the figures go")
    parser.add_argument("--docs", type=pathlib.Path, default=pathlib.Path("docs"), help="where --publish writes")
    return parser.parse_args()


def main():
    arguments = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    chosen = [kind for kind in kinds(str(arguments.hawkey), str(arguments.tools / "relay")) if not kind.variant_of]
    figures = {"instructions": {}, "calls": {}}
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        count = Count(Tools(arguments.tools), pathlib.Path(folder))
        for operation in OPERATIONS:
            for kind in chosen:
                instructions = count.instructions(kind, operation.group)
                calls = count.calls(kind, operation.group)
                figures["instructions"].setdefault(operation.key, {})[kind.key] = instructions
                figures["calls"].setdefault(operation.key, {})[kind.key] = calls
                names = ", ".join(f"{name} {number:.1f}" for name, number in calls.items())
                print(f"{operation.title}, {kind.title}: {instructions:,.0f} instructions; {names}", flush=True)
    told = {
        "date": datetime.date.today().isoformat(),
        "versions": {kind.title: version(kind) for kind in chosen if kind.version},
        "figures": figures,
    }
    table = rows(figures)
    arguments.json.write_text(json.dumps(told, indent=1) + "\n")
    print(f"\n{report.text(chosen, table)}\n\n{report.verdict(table)}; every figure is in {arguments.json}")
    if arguments.publish:
        report.publish_count(arguments.docs, told, chosen, table)


if __name__ == "__main__":
    try:
        main()
    except (Failure, KeyboardInterrupt) as failure:
        sys.exit(f"count: {failure or 'interrupted'}")
