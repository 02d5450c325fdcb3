"""Runs Autobahn's fuzzing client against a `ws` server without and through hawkey, and compares the two case by case.

The server is the same program both times, so whatever differs comes of hawkey. Its own mistakes are none of ours: they must only
be the same. Compared are the verdicts, the close code and reason, and how many frames of each opcode the server's side sent. A case
that Autobahn gave up waiting for, or that was not over when all ended, did not finish, and is never called identical. The last line
is `N identical, N different, N did not finish`; the reports stay where `--reports` says, with a page for each case.
"""

import argparse
import collections
import itertools
import json
import pathlib
import shutil
import signal
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "programs"))

from stage import Failure, Stage  # noqa: E402

WAYS = ("directly", "through-hawkey")
COMPARED = ("behavior", "behaviorClose", "remoteCloseCode", "remoteCloseReason", "rxFrameStats", "wasClean")
IDENTICAL, DIFFERENT, UNFINISHED = "identical", "different", "did not finish"
GAVE_UP = ("Case did not finish within", "Did not receive message within")
# Autobahn waits 1 s for a close frame and for the end of the connection; a busy machine may take longer.
OPTIONS = {"openHandshakeTimeout": 30, "closeHandshakeTimeout": 10, "serverConnectionDropTimeout": 10}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, what in (
        ("--python", "CPython 2.7 with autobahntestsuite"),
        ("--hawkey", "the binary"),
        ("--modules", "what npm installed"),
        ("--reports", "where the reports go"),
    ):
        parser.add_argument(name, required=True, type=lambda text: pathlib.Path(text).absolute(), help=what)
    parser.add_argument("--seconds", type=int, default=3600, help="what is not over by then did not finish (3600)")
    parser.add_argument("case", nargs="*", help="only these cases; without any, all")
    tools = parser.parse_args()

    # A runner that is told to end must still end what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    shutil.rmtree(tools.reports, ignore_errors=True)
    stage = Stage(tools)
    tally = None
    succeeded = False
    try:
        with stage.endings:
            try:
                command = [tools.python, HERE / "client.py", "cases", *(tools.case or ["*"])]
                tally = Tally(stage.run("autobahn-cases", command).split())
                fuzz(stage, tools, tally)
                succeeded = True
            except Failure as failure:
                print(failure, *stage.last_words(), sep="\n", file=sys.stderr)
    except Failure as failure:
        # A program did not end as it should.
        print(failure, file=sys.stderr)
        succeeded = False
    if tally:
        succeeded = tally.conclude() and succeeded
    return 0 if succeeded else 1


def fuzz(stage, tools, tally):
    """Lets two fuzzing clients talk to the server at the same time, each in its way, and tells `tally` what they find."""
    # Each way has a process of the server to itself, or the two would wait for the one thread in which it reads its frames.
    servers = [stage.node(HERE / "echo_server.js") for _ in WAYS]
    hawkey = stage.hawkey(f"/={servers[1].address}")
    clients = []
    for way, program in zip(WAYS, (servers[0], hawkey)):
        reports = tools.reports / way
        reports.mkdir(parents=True)
        specification = stage.folder / f"{way}.json"
        peer = {"agent": way, "url": f"ws://{program.address}"}
        specification.write_text(
            json.dumps({"outdir": str(reports), "servers": [peer], "cases": tally.cases, "options": OPTIONS})
        )
        clients.append(stage.start(f"autobahn-{way}", [tools.python, HERE / "client.py", "fuzz", specification]))
    deadline = time.monotonic() + tools.seconds
    running = True
    while running:
        if time.monotonic() > deadline:
            raise Failure(f"the {tools.seconds} s were over before the last case")
        time.sleep(0.5)
        # Asked before their words are read, or the last ones could be missed.
        running = not all([client.ended() for client in clients])
        for way, client in zip(WAYS, clients):
            tally.hear(way, client.said())
        for program in (*servers, hawkey):
            if program.ended():
                raise Failure(f"{program.name} ended before the last case")
    for client in clients:
        code = client.end()
        if code != 0:
            raise Failure(f"{client.name} ended with {code}: {client.said('err')[-500:]}")


class Tally:
    """What each case came to, as far as it is known."""

    def __init__(self, cases):
        self.cases = cases
        self.begun = time.monotonic()
        self.outcomes = {way: {} for way in WAYS}
        self.parts_told = set()

    def hear(self, way, words):
        """Takes all that a client has said until now, and tells of each part of the suite that is over both ways."""
        # The suite prints words of its own as well, and the last line may not be whole.
        for line in words.split("\n")[:-1]:
            if line.startswith("{"):
                outcome = json.loads(line)
                self.outcomes[way][outcome["id"]] = outcome
        over = set.intersection(*(set(outcomes) for outcomes in self.outcomes.values()))
        for name, cases in itertools.groupby(self.cases, part):
            cases = list(cases)
            if name not in self.parts_told and over.issuperset(cases):
                self.parts_told.add(name)
                identical = sum(self.verdict(case) == IDENTICAL for case in cases)
                seconds = round(time.monotonic() - self.begun)
                print(
                    f"  {name + '.*':6} {identical} of {len(cases)} identical;"
                    f" {len(over)} of {len(self.cases)} cases are over after {seconds} s",
                    flush=True,
                )

    def verdict(self, case):
        """One of the words of the last line."""
        directly, through = (self.outcomes[way].get(case) for way in WAYS)
        if not directly or not through or any(one["result"].startswith(GAVE_UP) for one in (directly, through)):
            return UNFINISHED
        return IDENTICAL if all(directly[name] == through[name] for name in COMPARED) else DIFFERENT

    def conclude(self):
        """Prints each case that is not identical, and how many are what; whether all are identical."""
        behaviors = collections.Counter()
        count = collections.Counter()
        for case in self.cases:
            directly, through = (self.outcomes[way].get(case) for way in WAYS)
            verdict = self.verdict(case)
            count[verdict] += 1
            if verdict == IDENTICAL:
                behaviors[directly["behavior"]] += 1
            elif verdict == DIFFERENT:
                differing = (
                    f"{name} {through[name]!r} and not {directly[name]!r}"
                    for name in COMPARED
                    if through[name] != directly[name]
                )
                print(f"  FAILED  {case} through hawkey: {', '.join(differing)}")
            else:
                ends = (one["result"] if one else "Not over." for one in (directly, through))
                print(f"  FAILED  {case} " + "; ".join(f"{way}: {end}" for way, end in zip(WAYS, ends)))
        found = ", ".join(f"{cases} {behavior}" for behavior, cases in behaviors.most_common())
        print(f"Autobahn's verdicts on the server where they are the same both ways: {found or 'none'}")
        print("\n" + ", ".join(f"{count[verdict]} {verdict}" for verdict in (IDENTICAL, DIFFERENT, UNFINISHED)))
        return count[IDENTICAL] == len(self.cases)


def part(case):
    """What progress is told by: the section, and of the sections that compress, which take minutes, the subsection."""
    section, subsection, *_ = case.split(".")
    return f"{section}.{subsection}" if section in ("12", "13") else section


if __name__ == "__main__":
    sys.exit(main())
