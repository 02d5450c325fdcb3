"""Runs Autobahn's fuzzing client against a `ws` server without and through hawkey, and compares the two case by case.

The server is the same process both times, so whatever differs comes of hawkey. Its own mistakes are none of ours: they must only be
the same. Compared are the verdicts, the close code and reason, and every frame that the server's side sent, by opcode. The last
line is `N passed, N failed`; the reports stay where `--reports` says, with a page for each case.
"""

import argparse
import collections
import json
import pathlib
import shutil
import signal
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "programs"))

from stage import Failure, Stage, wait_until  # noqa: E402

SECONDS_MAX = 3600
WAYS = ("directly", "through-hawkey")
COMPARED = ("behavior", "behaviorClose", "remoteCloseCode", "remoteCloseReason", "rxFrameStats", "wasClean")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, what in (
        ("--python", "CPython 2.7 with autobahntestsuite"),
        ("--hawkey", "the binary"),
        ("--modules", "what npm installed"),
        ("--reports", "where the reports go"),
    ):
        parser.add_argument(name, required=True, type=lambda text: pathlib.Path(text).absolute(), help=what)
    parser.add_argument("case", nargs="*", help="only these cases; without any, all")
    tools = parser.parse_args()

    # A runner that is told to end must still end what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    shutil.rmtree(tools.reports, ignore_errors=True)
    stage = Stage(tools)
    with stage.endings:
        try:
            fuzz(stage, tools)
        except Failure as failure:
            print(failure, *stage.last_words(), sep="\n", file=sys.stderr)
            return 1
    passed, failed = compare(tools.reports)
    print(f"\n{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


def fuzz(stage, tools):
    """Lets two fuzzing clients talk to the server at the same time, each in its way; their reports are in `tools.reports` then."""
    server = stage.node(HERE / "echo_server.js")
    hawkey = stage.hawkey(f"/={server.address}")
    clients = []
    for way, program in zip(WAYS, (server, hawkey)):
        specification = stage.folder / f"{way}.json"
        specification.write_text(
            json.dumps(
                {
                    "outdir": str(tools.reports / way),
                    "servers": [{"agent": way, "url": f"ws://{program.address}"}],
                    "cases": tools.case or ["*"],
                    "exclude-cases": [],
                    "exclude-agent-cases": {},
                }
            )
        )
        command = [tools.python, "-m", "autobahntestsuite.wstest", "-m", "fuzzingclient", "-s", specification]
        clients.append(stage.start(f"autobahn-{way}", command))
    for client in clients:
        wait_until(f"{client.name} is done", client.ended, SECONDS_MAX)
        code = client.end()
        if code != 0:
            raise Failure(f"{client.name} ended with {code}: {client.said('err')[-500:]}")
    if server.ended() or hawkey.ended():
        raise Failure("the server or hawkey ended before the last case")


def compare(reports):
    """Prints each case that did not go the same way twice; how many did and how many did not."""
    directly, through = (outcomes(reports / way, way) for way in WAYS)
    passed = failed = 0
    verdicts = collections.Counter()
    for case in sorted(directly.keys() | through.keys(), key=lambda case: [int(part) for part in case.split(".")]):
        expected, came = directly.get(case, {}), through.get(case, {})
        if came == expected:
            passed += 1
            verdicts[came["behavior"]] += 1
        else:
            failed += 1
            differing = (
                f"{name} {came.get(name)!r} and not {expected.get(name)!r}"
                for name in COMPARED
                if came.get(name) != expected.get(name)
            )
            print(f"  FAILED  {case} through hawkey: {', '.join(differing)}")
    print("The server's verdicts, both ways: " + ", ".join(f"{count} {name}" for name, count in verdicts.most_common()))
    return passed, failed


def outcomes(folder, way):
    """What each case came to, as far as it is compared."""
    index = json.loads((folder / "index.json").read_text()).get(way, {})
    reports = {
        case: json.loads((folder / result["reportfile"]).with_suffix(".json").read_text())
        for case, result in index.items()
    }
    return {case: {name: report[name] for name in COMPARED} for case, report in reports.items()}


if __name__ == "__main__":
    sys.exit(main())
